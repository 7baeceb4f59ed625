"""Write a deployment: folders, certificates, keys, secrets, settings, policies, units, compose files, guides."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lavq_core.errors import ConfigError
from lavq_core.runs.layout import write_atomic
from server.deployment.certificates import DAYS, Authority, write_certificate, write_loopback, write_node_key
from server.deployment.folders import (
    NAME,
    Deployment,
    ServerFolder,
    ServerSettings,
    SiteNodeFolder,
    SiteSettings,
    write_secret,
    write_settings,
)
from server.deployment.processes import CONNECTION
from server.deployment.rendering import render, write_units

_SECRET_BYTES = 32


@dataclass(frozen=True)
class Plan:
    """What is to be deployed.

    Attributes:
        sites: their names.
        names: host names and addresses of the gateway; sites connect to the first one.
        port: of the gateway; on one machine the ports after it are used by the others.
        data: folder that holds a folder in PTB-XL's layout for each site, by its name; None: sites fill it in.
        apps: sha256 of the bundles that the policies begin with.
        epsilon_max: that the policies begin with, as TOML.
        minimum_patients: that the policies begin with.
        days: that certificates live.
        authority: PEM files of an institution's CA, certificate and key; None: a CA is made.
    """

    sites: Sequence[str]
    names: Sequence[str]
    port: int
    data: Path | None = None
    apps: Sequence[str] = ()
    epsilon_max: str = "8.0"
    minimum_patients: int = 50
    days: float = DAYS
    authority: tuple[Path, Path] | None = None


def write_deployment(root: Path, plan: Plan) -> Deployment:
    """Write a deployment into a folder that does not exist or is empty.

    Raises:
        ConfigError: impossible names or ports, the folder is in use, or the institution's CA cannot be used.
    """
    _check(root, plan)
    deployment = Deployment(root.expanduser().resolve())
    deployment.root.mkdir(parents=True, exist_ok=True)
    deployment.root.chmod(0o700)
    authority = Authority.load(*plan.authority) if plan.authority else Authority.create("LAVQ federation")
    if plan.authority is None:
        authority.save(*deployment.authority)
    server = deployment.server
    _prepare(server)
    settings = ServerSettings(
        host="0.0.0.0",
        port=plan.port,
        names=list(plan.names),
        superlink_port=plan.port + 1,
        client_certificates=True,
        sites=list(plan.sites),
    )
    write_settings(server.settings_file, settings)
    write_connection(server)
    for place, name in enumerate(plan.sites):
        node = deployment.site(name)
        _prepare(node)
        data = str(plan.data.expanduser().resolve() / name) if plan.data else ""
        sidecar, runtime, inference = range(plan.port + 10 + 3 * place, plan.port + 13 + 3 * place)
        gateway, listening = f"{plan.names[0]}:{plan.port}", f"127.0.0.1:{inference}"
        write_settings(node.settings_file, SiteSettings(name, gateway, data, sidecar, runtime, listening))
        write_node_key(node.node_key, server.public_key(name))
        about = {"apps": plan.apps, "epsilon_max": plan.epsilon_max, "minimum_patients": plan.minimum_patients}
        write_atomic(node.policy, render("policy.toml.j2", **about))
    issue(deployment, authority, plan.days)
    write_units(server, plan.days)
    for node in deployment.sites():
        write_units(node, plan.days)
    return deployment


def issue(deployment: Deployment, authority: Authority, days: float) -> None:
    """Issue, or renew, the certificates of the gateway and of every site whose folder is here."""
    server = deployment.server
    authority.issue_server(server.certificate("gateway"), "lavq gateway", server.settings().names, days)
    for folder in (server, *deployment.sites()):
        write_certificate(folder.ca, [authority.certificate])
    for node in deployment.sites():
        authority.issue_client(node.certificate("site"), node.settings().name, days)


def write_connection(server: ServerFolder) -> None:
    """Write where ``flwr`` finds the SuperLink; the path in it is absolute."""
    address = f"127.0.0.1:{server.settings().superlink_port}"
    lines = ["[superlink]", f'default = "{CONNECTION}"', "", f"[superlink.{CONNECTION}]", f'address = "{address}"']
    lines.append(f'root-certificates = "{server.certificate("loopback")[0]}"')
    write_atomic(server.flower_home / "config.toml", "\n".join(lines) + "\n")


def _prepare(folder: ServerFolder | SiteNodeFolder) -> None:
    """Make what both kinds of folders have."""
    for path in (folder.root, folder.state, folder.work, folder.flower_home):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    write_secret(folder.superexec_secret, secrets.token_bytes(_SECRET_BYTES))
    write_loopback(folder.certificate("loopback"))


def _check(root: Path, plan: Plan) -> None:
    wrong = [name for name in plan.sites if not NAME.fullmatch(name)]
    if wrong:
        raise ConfigError(f"{wrong[0]!r} cannot be a site's name: use small letters, digits and hyphens, 63 at most")
    if not plan.sites or len(set(plan.sites)) < len(plan.sites):
        raise ConfigError("every site needs a name of its own: --sites a,b,c")
    if not plan.names:
        raise ConfigError("the gateway needs a host name: --host NAME")
    if not 0 < plan.port < 65536 - 13 - 3 * len(plan.sites):
        raise ConfigError(f"port {plan.port} leaves no room for the ports after it: choose a smaller one")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConfigError(f"{root} is in use: give a new folder, or lavq deploy renew and units to change this one")
    if plan.data is not None:
        for name in plan.sites:
            if not (plan.data.expanduser() / name).is_dir():
                raise ConfigError(f"{plan.data} holds no folder {name}: give a folder with one for each site")
