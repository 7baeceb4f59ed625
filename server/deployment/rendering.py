"""Units, compose files and guides out of the list of programs, for the folder where a role lies now."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lavq_core.runs.layout import write_atomic
from server.deployment.folders import ServerFolder, SiteNodeFolder, SiteSettings
from server.deployment.processes import Program, inference_program, server_programs, site_programs

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), undefined=StrictUndefined, keep_trailing_newline=True
)
_IN_CONTAINER = "/deployment"
_DATA_IN_CONTAINER = "/data"


def render(template: str, **values: object) -> str:
    """Fill in a template of this package; a value that is missing is an error."""
    return _TEMPLATES.get_template(template).render(**values)


def write_units(folder: ServerFolder | SiteNodeFolder, days: float) -> None:
    """Write systemd units, compose file and guide.

    Args:
        folder: of the server or of a site, where it lies now.
        days: that certificates live, for the guide.
    """
    settings = folder.settings()
    if isinstance(folder, ServerFolder):
        programs, title = server_programs(folder), "LAVQ server"
        guide = render("guide_server.md.j2", days=f"{days:g}", **vars(settings))
    else:
        programs, title = [*site_programs(folder), inference_program(folder)], f"LAVQ site {folder.settings().name}"
        guide = render("guide_site.md.j2", days=f"{days:g}", **vars(settings))
    for program in programs:
        unit = f"lavq-{program.name}.service"
        earlier = [f"lavq-{other.name}.service" for other in programs[: programs.index(program)]]
        text = render(
            "unit.service.j2",
            title=f"{title}: {program.name}",
            folder=folder.root,
            unit=unit,
            user=folder.root.owner(),
            after=earlier,
            work=program.folder,
            environment=program.environment,
            command=" ".join(_quoted(word) for word in program.command),
            pause=f"{program.pause:g}",
        )
        write_atomic(folder.root / "units" / unit, text)
    write_atomic(folder.root / "compose.yaml", _compose(folder, title, programs))
    write_atomic(folder.root / "Dockerfile", render("Dockerfile.j2", version=version("lavq")))
    write_atomic(folder.root / "OPERATING.md", guide)


def _compose(folder: ServerFolder | SiteNodeFolder, title: str, programs: Sequence[Program]) -> str:
    """The first container has the port that is open to the machine, as the others share its network."""
    settings, data = folder.settings(), ""
    inside = {str(folder.root): _IN_CONTAINER, str(Path(sys.executable).parent): "/usr/local/bin"}
    if isinstance(settings, SiteSettings):
        host, _, port = settings.inference.rpartition(":")
        published, data = f"{host}:{port}:{port}", settings.data_dir
        programs = [*programs[:-1], _listening_everywhere(programs[-1], port)]
    else:
        published = f"{settings.port}:{settings.port}"
    if data:
        inside[data] = _DATA_IN_CONTAINER
    outward = [program for program in programs if program.name == "gateway"] or list(programs[:1])
    ordered = [*outward, *[program for program in programs if program not in outward]]

    def moved(text: str) -> str:
        for outside, there in inside.items():
            text = text.replace(outside, there)
        return text

    return render(
        "compose.yaml.j2",
        title=title,
        version=version("lavq"),
        home=_IN_CONTAINER,
        data_dir=data,
        home_data=_DATA_IN_CONTAINER,
        published=published,
        programs=[
            {
                "name": program.name,
                "command": [moved(word) for word in program.command],
                "environment": {key: moved(value) for key, value in program.environment.items()},
                "work": moved(str(program.folder)),
            }
            for program in ordered
        ],
    )


def _listening_everywhere(inference: Program, port: str) -> Program:
    """In its container; who reaches the container is said by the port that is published."""
    return replace(inference, command=(*inference.command, "--listen", f"0.0.0.0:{port}"))


def _quoted(word: str) -> str:
    """Quote as systemd reads it."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or " " in word else word
