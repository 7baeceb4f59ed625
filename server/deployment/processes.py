"""The programs of a server and of a site: what each is started with, and when it is started again.

Units, compose files and the supervisor of ``lavq deploy up`` are all made from these lists; a site's inference service
has a unit and a container alone, as trying out a federation does not need it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from server.deployment.folders import POLICY, SITE_DIR, ServerFolder, SiteNodeFolder
from server.flower_environment import OFFLINE, program

CONNECTION = "deployment"
"""Name of the SuperLink in the server's ``FLWR_HOME/config.toml``."""

_REFUSED = 10.0  # s between two starts of a SuperNode
_LOOK = 0.5  # s between two questions of a SuperExec for tasks; Flower's own second is added to every message


@dataclass(frozen=True)
class Program:
    """One long-lived program.

    Attributes:
        name: of its unit, container and log.
        command: program and arguments.
        environment: what it needs beyond the machine's own.
        folder: in which it runs.
        pause: s before it is started again after it ended.
        longest_pause: s; the pause doubles up to here while it keeps ending.
        health: URL that answers 200 while it is well, with the PEM file to trust; a program that does not answer for
            long is killed and started again.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()
    pause: float = 1.0
    longest_pause: float = 15.0
    health: tuple[str, Path] | None = None


def server_programs(folder: ServerFolder) -> list[Program]:
    """Programs of the server, in the order of starting."""
    settings = folder.settings()
    certificate, key = map(str, folder.certificate("loopback"))
    address, secret = f"127.0.0.1:{settings.superlink_port}", str(folder.superexec_secret)
    environment = _environment(folder.flower_home)
    superlink = [sys.executable, "-m", "server.deployment.superlink"]
    superlink += ["--host", "127.0.0.1", "--port", str(settings.superlink_port)]
    superlink += ["--ssl-certfile", certificate, "--ssl-keyfile", key, "--ssl-ca-certfile", certificate]
    superlink += ["--isolation", "process", "--superexec-auth-secret-file", secret, "--enable-supernode-auth"]
    superlink += ["--database", str(folder.database), "--disable-runtime-dependency-installation"]
    superexec = [program("flower-superexec"), "--runtime-api-address", address, "--root-certificates", certificate]
    superexec += ["--superexec-auth-secret-file", secret]
    gateway = [sys.executable, "-m", "server.deployment.gateway", str(folder.root)]
    well = (f"https://{address}/health", folder.certificate("loopback")[0])
    return [
        Program("superlink", tuple(superlink), environment, folder.work, health=well),
        Program("superexec", tuple(superexec), environment, folder.work),
        Program("gateway", tuple(gateway), environment, folder.work),
    ]


def site_programs(folder: SiteNodeFolder) -> list[Program]:
    """Programs of a site, in the order of starting.

    A SuperNode that was killed is refused for about a minute, until the SuperLink takes it for gone: it is started
    again every ten seconds, for ever.
    """
    settings = folder.settings()
    certificate = str(folder.certificate("loopback")[0])
    runtime, secret = f"127.0.0.1:{settings.runtime_port}", str(folder.superexec_secret)
    environment = _environment(folder.flower_home)
    values = {"site": settings.name, "data-dir": settings.data_dir}
    values |= {"site-dir": str(folder.state), "policy": str(folder.policy)}
    supernode = [program("flower-supernode"), "--superlink", f"127.0.0.1:{settings.sidecar_port}"]
    supernode += ["--root-certificates", certificate, "--auth-supernode-private-key", str(folder.node_key)]
    supernode += ["--isolation", "process", "--superexec-auth-secret-file", secret]
    supernode += ["--host", "127.0.0.1", "--port", str(settings.runtime_port)]
    supernode += ["--node-config", " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())]
    superexec = [sys.executable, "-m", "client.superexec", "--runtime-api-address", runtime, "--insecure"]
    superexec += ["--superexec-auth-secret-file", secret]
    permitted = {POLICY: str(folder.policy), SITE_DIR: str(folder.state)}
    sidecar = [sys.executable, "-m", "client.sidecar", str(folder.root)]
    return [
        Program(f"sidecar-{settings.name}", tuple(sidecar), environment, folder.work),
        Program(f"supernode-{settings.name}", tuple(supernode), environment, folder.work, _REFUSED, _REFUSED),
        Program(f"superexec-{settings.name}", tuple(superexec), environment | permitted, folder.work),
    ]


def inference_program(folder: SiteNodeFolder) -> Program:
    """The site's inference service; it needs nothing of the others but the models that they bring."""
    command = (program("lavq"), "serve", "--site", str(folder.root), "--wait")
    return Program(f"inference-{folder.settings().name}", command, _environment(folder.flower_home), folder.work)


def _environment(home: Path) -> dict[str, str]:
    """Return what Flower's programs must find."""
    scripts = [str(Path(program("flwr")).parent), os.defpath]
    return {
        **OFFLINE,
        "FLWR_HOME": str(home),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": f"{_LOOK:g}",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "PATH": os.pathsep.join(scripts),
        "NO_PROXY": "127.0.0.1,localhost",
    }
