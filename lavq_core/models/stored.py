"""Models on disk: the shared model that hospitals take home, and the networks that a site keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lavq_core.config import Config, load_config
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import RunError
from lavq_core.models.codebook import CodebookState
from lavq_core.models.detector import Detector, build_detector
from lavq_core.models.networks import Networks, make_networks
from lavq_core.runs.artefact import load_artefact, save_artefact
from lavq_core.runs.layout import RunFolder, SiteFolder

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class SharedModel:
    """Detector and codebook of a run, with its configuration."""

    detector: Detector  # eval mode, CPU
    codebook: CodebookState
    config: Config
    classes: tuple[str, ...]  # order of the detector's outputs


def load_shared_model(run: RunFolder) -> SharedModel:
    """Load the final model of a run.

    Raises:
        RunError: the run has no final model (it was broken off), or a file was changed.
    """
    config = load_config(run.config)
    parts, about = load_artefact(run.model)
    detector = shared_detector(config, parts["detector"])
    return SharedModel(detector, parts["codebook"], config, tuple(about["classes"]))


def load_networks(run: RunFolder, site: str) -> tuple[Networks, SiteFolder]:
    """Load the networks as one hospital of the run holds them: its own, and the shared ones of the final round.

    Args:
        run: the run folder.
        site: the hospital's name; empty: the only one, or the first by name of several.

    Raises:
        RunError: no such hospital here, or it has trained no editor.
    """
    here = [folder for folder in run.sites() if (folder.private_model / "manifest.json").is_file()]
    if not here:
        raise RunError(f"no hospital in {run.root} has trained an editor: twins are made where one was trained")
    by_name = {folder.root.name: folder for folder in here}
    if site and site not in by_name:
        raise RunError(f"unknown site {site!r}: choose one of {', '.join(by_name)}")
    folder = by_name[site] if site else here[0]
    networks = load_private(load_config(run.config), folder.private_model)
    parts, _ = load_artefact(run.model)
    networks.take_over(parts.get("networks", {}))
    return networks, folder


def shared_detector(config: Config, state: StateDict) -> Detector:
    """Build the detector and load shared weights into it, in eval mode on the CPU."""
    model = build_detector(config.detector, config.data.sampling_rate, config.run.seed)
    model.load_state_dict(state)
    return model.eval()


def load_private(config: Config, folder: Path) -> Networks:
    """Load the site's networks in eval mode; before its first round, those that every site starts from."""
    networks = make_networks(config, config.run.seed)
    if (folder / "manifest.json").is_file():
        parts, _ = load_artefact(folder)
        networks.load_state_dict(parts["networks"])
    return networks.eval()


def save_private(folder: Path, networks: Networks, number: int) -> None:
    """Keep the site's networks on its disk, atomically."""
    about = {"round": number, "classes": list(SUPERCLASSES), "leaves_the_site": False}
    save_artefact(folder, {"networks": networks.state_dict()}, about)
