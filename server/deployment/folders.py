"""The folder of the server and the folder of a site in a deployment: what lies where, and their settings.

Either folder is complete in itself and can be moved to its own machine. Settings are TOML, and hold no secret.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from lavq_core.errors import ConfigError
from lavq_core.runs.layout import write_atomic

T = TypeVar("T")
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""A site's name: it becomes a folder, a label of a host and the common name of a certificate."""

POLICY, SITE_DIR = "LAVQ_SITE_POLICY", "LAVQ_SITE_DIR"
"""Environment variables of a site's SuperExec: the policy file, and the folder of what the site keeps."""


@dataclass(frozen=True)
class ServerSettings:
    """``server.toml``.

    Attributes:
        host: on which the gateway listens; the SuperLink listens on the loopback interface alone.
        port: of the gateway.
        names: host names and addresses by which sites reach the gateway; they stand in its certificate.
        superlink_port: on the loopback interface.
        client_certificates: sites must show a certificate of ours (mTLS).
        sites: who may come in, by the common names of their certificates; take one out and it is locked out.
        max_body_mib: larger bodies are refused.
        requests_per_second: of one site, in the long run.
        burst: requests that a site may make at once beyond that.
    """

    host: str
    port: int
    names: list[str]
    superlink_port: int
    client_certificates: bool
    sites: list[str]
    max_body_mib: int = 64
    requests_per_second: float = 50.0
    burst: int = 2000


@dataclass(frozen=True)
class SiteSettings:
    """``site.toml``.

    Attributes:
        name: the site's pseudonym.
        gateway: ``HOST:PORT`` of the server's gateway.
        data_dir: a folder in PTB-XL's layout.
        sidecar_port: on the loopback interface: where the SuperNode finds the gateway.
        runtime_port: on the loopback interface: where the site's SuperExec finds its SuperNode.
        inference: ``HOST:PORT`` on which ``lavq serve`` listens.
    """

    name: str
    gateway: str
    data_dir: str
    sidecar_port: int
    runtime_port: int
    inference: str


@dataclass(frozen=True)
class Folder:
    """What both folders have."""

    root: Path

    @property
    def ca(self) -> Path:
        """PEM: certificates of the CAs that the other side's certificate may come from."""
        return self.root / "certificates" / "ca.crt"

    @property
    def superexec_secret(self) -> Path:
        """Shared by SuperLink or SuperNode and its SuperExec."""
        return self.root / "secrets" / "superexec"

    @property
    def flower_home(self) -> Path:
        """``FLWR_HOME``: installed bundles, and the server's connection."""
        return self.root / "flwr"

    @property
    def work(self) -> Path:
        """Empty folder in which Flower's programs run: Python imports from the working directory."""
        return self.root / "work"

    @property
    def state(self) -> Path:
        """What must survive, and be backed up."""
        return self.root / "state"

    @property
    def policy(self) -> Path:
        """The site's policy."""
        return self.root / "policy.toml"

    def certificate(self, name: str) -> tuple[Path, Path]:
        """PEM files of a certificate and its key: ``gateway``, ``site``, or ``loopback``, self-signed.

        A site may have one more, ``inference``, by which those who ask it for detections know it.
        """
        return self.root / "certificates" / f"{name}.crt", self.root / "secrets" / f"{name}.key"


@dataclass(frozen=True)
class ServerFolder(Folder):
    """``server/`` of a deployment."""

    @property
    def settings_file(self) -> Path:
        """TOML of ``ServerSettings``."""
        return self.root / "server.toml"

    @property
    def database(self) -> Path:
        """SQLite: the SuperLink's state."""
        return self.state / "superlink.db"

    @property
    def audit(self) -> Path:
        """Folder of the gateway's audit logs, a file a day."""
        return self.state / "audit"

    @property
    def nodes(self) -> Path:
        """JSON: the node id that the SuperLink gave to each site's key, and the site."""
        return self.state / "nodes.json"

    def public_key(self, site: str) -> Path:
        """OpenSSH: the key by which the SuperLink knows a site's node."""
        return self.root / "keys" / f"{site}.pub"

    def settings(self) -> ServerSettings:
        """Read ``server.toml``.

        Raises:
            ConfigError: it is missing, or not of this version.
        """
        return _read(self.settings_file, ServerSettings)


@dataclass(frozen=True)
class SiteNodeFolder(Folder):
    """``sites/NAME/`` of a deployment."""

    @property
    def settings_file(self) -> Path:
        """TOML of ``SiteSettings``."""
        return self.root / "site.toml"

    @property
    def node_key(self) -> Path:
        """OpenSSH private key of the node."""
        return self.root / "secrets" / "node.key"

    def settings(self) -> SiteSettings:
        """Read ``site.toml``.

        Raises:
            ConfigError: it is missing, or not of this version.
        """
        return _read(self.settings_file, SiteSettings)


@dataclass(frozen=True)
class Deployment:
    """A server and its sites as ``lavq deploy init`` wrote them, side by side."""

    root: Path

    @classmethod
    def open(cls, path: str | Path) -> Deployment:
        """Open what ``lavq deploy init`` wrote.

        Raises:
            ConfigError: it is not there.
        """
        deployment = cls(Path(path).expanduser().resolve())
        if not deployment.server.settings_file.is_file():
            raise ConfigError(f"{deployment.root} holds no deployment: make one with lavq deploy init DIR --sites a,b")
        return deployment

    @property
    def authority(self) -> tuple[Path, Path]:
        """PEM files of the deployment's own CA and its key."""
        return self.root / "ca" / "ca.crt", self.root / "ca" / "ca.key"

    @property
    def server(self) -> ServerFolder:
        """The server's folder."""
        return ServerFolder(self.root / "server")

    @property
    def logs(self) -> Path:
        """Folder of the programs' output under ``lavq deploy up``."""
        return self.root / "logs"

    @property
    def supervisor(self) -> Path:
        """JSON: what the supervisor of ``lavq deploy up`` says of its processes."""
        return self.root / "logs" / "supervisor.json"

    def site(self, name: str) -> SiteNodeFolder:
        """A site's folder."""
        return SiteNodeFolder(self.root / "sites" / name)

    def sites(self) -> list[SiteNodeFolder]:
        """The sites' folders that are here, by name."""
        return [SiteNodeFolder(file.parent) for file in sorted((self.root / "sites").glob("*/site.toml"))]


def write_settings(path: Path, settings: ServerSettings | SiteSettings) -> None:
    """Write settings as TOML, each under its meaning."""
    meanings = _meanings(type(settings))
    lines = []
    for key, value in asdict(settings).items():
        lines += [f"# {meanings[key].replace('``', '')}", f"{key} = {json.dumps(value, ensure_ascii=False)}", ""]
    write_atomic(path, "\n".join(lines))


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that nobody but its owner can read at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def _read(path: Path, kind: type[T]) -> T:
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
        known = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
        wrong = [key for key, value in given.items() if not _is(value, known.get(key, ""))]
        if wrong or known.keys() - given.keys():
            wrong = wrong or sorted(known.keys() - given.keys())
            raise ValueError(f"{', '.join(wrong)} is wrong or missing")
        return kind(**given)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): give a folder of a deployment") from None
    except ValueError as error:
        raise ConfigError(f"{path} holds no settings of this version: {error}") from None


def _is(value: object, wanted: str) -> bool:
    if wanted == "list[str]":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if wanted == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value).__name__ == wanted


def _meanings(kind: type) -> dict[str, str]:
    """The lines of a dataclass's ``Attributes`` section, by name."""
    section = (kind.__doc__ or "").split("Attributes:")[1].strip().splitlines()
    return dict(line.strip().split(": ", 1) for line in section)


def read_nodes(file: str) -> dict[int, str]:
    """Read which site's key each node has.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return {int(node): str(site) for node, site in json.loads(Path(file).read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        raise ConfigError(f"{file} does not say which node is which site: put it back from a backup") from None
