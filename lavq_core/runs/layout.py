"""Where everything in a run folder lies.

The server writes what is left of ``sites/``; each hospital writes its own ``sites/NAME``. In a simulation both lie in
one folder; in a deployment ``sites/NAME`` is the hospital's own disk and never leaves it.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lavq_core.errors import RunError


@dataclass(frozen=True)
class SiteFolder:
    """What one hospital keeps: ``RUN/sites/NAME``."""

    root: Path

    @property
    def events(self) -> Path:
        """JSONL, one line an event: the site's losses and scores, which do not cross the wire."""
        return self.root / "events.jsonl"

    @property
    def data_report(self) -> Path:
        """JSON: counts, and every record that was rejected or flagged, by name and reason."""
        return self.root / "data_report.json"

    @property
    def private_model(self) -> Path:
        """Folder of separator, editor and prior network, which stay on site: one artefact each of the last rounds."""
        return self.root / "private_model"

    @property
    def ledger(self) -> Path:
        """JSONL: every private release from the site's data, and what it cost; see ``lavq_core.privacy.ledger``."""
        return self.root / "privacy" / "ledger.jsonl"

    @property
    def pretrained(self) -> RunFolder:
        """In a deployment: the site's own copy of the network that ``detector.pretrained`` asks for."""
        return RunFolder(self.root / "pretrained")

    @property
    def accepted(self) -> RunFolder:
        """In a deployment: the last shared model that the site evaluated, as a run folder, for its own use."""
        return RunFolder(self.root / "accepted")

    @property
    def twins(self) -> Path:
        """Folder of the digital twins made for the report's gallery."""
        return self.root / "twins"

    @property
    def predictions(self) -> Path:
        """CSV: the final detector's probabilities on the site's own validation and test folds."""
        return self.root / "predictions.csv"

    @property
    def calibration(self) -> Path:
        """JSON: the final detector's temperatures and thresholds from the site's own validation fold."""
        return self.root / "calibration.json"


@dataclass(frozen=True)
class RunFolder:
    """One run: ``RUN``."""

    root: Path

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run.

        Raises:
            RunError: the folder is missing or holds no ``config.yaml``.
        """
        run = cls(Path(path).expanduser().resolve())
        if not run.root.is_dir():
            raise RunError(f"no run folder at {run.root}: give the folder that `lavq run` or `make demo` printed")
        if not run.config.is_file():
            raise RunError(f"{run.root} is not a run folder (it has no config.yaml): give the folder of a run")
        return run

    @property
    def config(self) -> Path:
        """YAML: the configuration as resolved."""
        return self.root / "config.yaml"

    @property
    def events(self) -> Path:
        """JSONL, one line an event of the server."""
        return self.root / "events.jsonl"

    @property
    def lock(self) -> Path:
        """Empty file, locked while a server works in this folder."""
        return self.root / ".lock"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's files, with ``run.tensorboard``."""
        return self.root / "tensorboard"

    @property
    def metrics(self) -> Path:
        """JSON of flat keys: every number that the report shows."""
        return self.root / "metrics.json"

    @property
    def report(self) -> Path:
        """The self-contained HTML report."""
        return self.root / "report.html"

    @property
    def figures(self) -> Path:
        """Folder of figures."""
        return self.root / "figures"

    @property
    def audit(self) -> Path:
        """Folder of the membership-inference audit: ``audit.json`` and scores."""
        return self.root / "audit"

    @property
    def model(self) -> Path:
        """Artefact folder of the final shared model."""
        return self.root / "model"

    @property
    def pretrained(self) -> RunFolder:
        """Run folder of the network whose logits the detector reads (``detector.pretrained``), its model alone."""
        return RunFolder(self.root / "pretrained")

    @property
    def calibration(self) -> Path:
        """JSON: the same from all sites' validation folds together; only a simulation can make it."""
        return self.root / "calibration.json"

    def checkpoint(self, round_number: int) -> Path:
        """Artefact folder of the shared model after a round."""
        return of_round(self.root / "checkpoints", round_number)

    def checkpoints(self) -> dict[int, Path]:
        """The rounds whose checkpoints are here, whole or not, in order."""
        return rounds_in(self.root / "checkpoints")

    def site(self, name: str) -> SiteFolder:
        """The folder of one hospital."""
        return SiteFolder(self.root / "sites" / name)

    def sites(self) -> list[SiteFolder]:
        """The hospitals' folders that are here, by name."""
        return [SiteFolder(path) for path in sorted((self.root / "sites").glob("*")) if path.is_dir()]


def of_round(folder: Path, number: int) -> Path:
    """Where a folder keeps what belongs to a round."""
    return folder / f"round-{number:03d}"


def rounds_in(folder: Path) -> dict[int, Path]:
    """What a folder keeps of rounds, by number, in order."""
    found = {int(path.name[6:]): path for path in folder.glob("round-*") if path.name[6:].isdigit()}
    return dict(sorted(found.items()))


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file, text in UTF-8, so that a reader sees the old content or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp's 0600 would hide a report from its readers
        Path(temporary).replace(path)
        _sync(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync(folder: Path) -> None:
    """Write a folder's own list of files to the disk: until then a power cut would bring a replaced file back."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
