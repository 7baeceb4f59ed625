"""The model that is served, exchanged for a newer one while requests go on."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from lavq_core.errors import LavqError, RunError
from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.models.networks import Networks
from lavq_core.models.stored import SharedModel, load_calibration, load_networks, load_shared_model
from lavq_core.runs.artefact import MANIFEST, load_artefact
from lavq_core.runs.layout import RunFolder, SiteFolder

_LOOK = 1.0  # s between two looks for a newer model
_log = logging.getLogger("lavq.serve")


@dataclass(frozen=True)
class Served:
    """One model, complete: nothing of it changes while a request uses it."""

    shared: SharedModel
    calibration: Calibration | None
    networks: Networks | None  # None where none can make twins
    digest: str  # sha256 of the detector's weights
    round: int


class ServedModel:
    """The newest model of a run folder.

    A model appears as a whole (``save_artefact``). One that cannot be loaded is named in the log and leaves the present
    one in its place.
    """

    def __init__(self, run: RunFolder, calibration: str | None = None) -> None:
        """Load the model that is there now.

        Raises:
            RunError: there is none, or it is damaged.
        """
        self._run, self._calibration = run, calibration
        self._seen = self._stamp()
        self._now = self._load()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="model-watch")

    def now(self) -> Served:
        """Return the model to answer a request with, from its beginning to its end."""
        return self._now

    def watch(self) -> None:
        """Begin to look for newer models."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._ending.set()

    def refresh(self) -> bool:
        """Take over a newer model, if there is one; tells whether it did."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        try:
            self._now = self._load()
        except (LavqError, OSError, KeyError, ValueError, RuntimeError) as error:
            _log.warning("a newer model cannot be used, the present one stays: %s", error)
            return False
        self._seen = stamp
        _log.info("model of round %d taken over (%s)", self._now.round, self._now.digest[:12])
        return True

    def _watch(self) -> None:
        while not self._ending.wait(_LOOK):
            self.refresh()

    def _stamp(self) -> tuple[int, int]:
        try:
            found = (self._run.model / MANIFEST).stat()
        except OSError:
            return (0, 0)
        return found.st_ino, found.st_mtime_ns

    def _load(self) -> Served:
        shared = load_shared_model(self._run)
        about = load_artefact(self._run.model)[1]
        digest = detector_digest(shared.detector.state_dict())
        calibration = load_calibration(self._run, shared, self._calibration)
        return Served(shared, calibration, _networks(self._run), digest, int(about.get("round", 0)))


def _networks(run: RunFolder) -> Networks | None:
    try:
        return load_networks(run, "")[0]
    except RunError:  # no editor was shared: detections only
        return None


def model_folder(run: str | None, site: str | None) -> RunFolder:
    """Find the run folder to serve: one that is named, or the model that a deployed site has accepted.

    Raises:
        RunError: it is not there.
    """
    if run:
        return RunFolder.open(run)
    if not has_model(str(site)):
        raise RunError(f"{site} has accepted no model yet: the first comes with the second round, or at a run's end")
    return RunFolder.open(_accepted(str(site)).root)


def has_model(site: str) -> bool:
    """Tell whether a deployed site has accepted a model."""
    return (_accepted(site).model / MANIFEST).is_file()


def _accepted(site: str) -> RunFolder:
    return SiteFolder(Path(site).expanduser().resolve() / "state").accepted
