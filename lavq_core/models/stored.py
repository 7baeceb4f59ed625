"""Models on disk: the shared model that hospitals take home, and the networks that a site keeps."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lavq_core.config import load_config
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.data.records import Ecg
from lavq_core.errors import DataError, RunError
from lavq_core.formats.reading import most_blank_leads
from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.models.codebook import CodebookState
from lavq_core.models.detector import Detector, build_detector
from lavq_core.models.networks import Networks, make_networks
from lavq_core.runs.artefact import MANIFEST, load_artefact, save_artefact
from lavq_core.runs.layout import RunFolder, of_round, rounds_in
from lavq_core.settings import Config
from lavq_core.signals.leads import to_independent

StateDict = dict[str, Tensor]
_KEPT = 3  # rounds: the newest, what it started from, and one more for a server whose newest checkpoint is damaged


@dataclass(frozen=True)
class SharedModel:
    """Detector and codebook of a run, with its configuration."""

    detector: Detector  # eval mode, CPU
    codebook: CodebookState
    config: Config
    classes: tuple[str, ...]  # order of the detector's outputs

    @property
    def most_blank(self) -> int:
        """Leads that may be missing in an ECG that the detector scores: as many as its training has blanked."""
        learned = self.config.detector.kind != "features"  # a fixed description knows no blank leads
        return most_blank_leads(self.config.detector_training.lead_dropout) if learned else 0

    def signal(self, ecg: Ecg) -> Tensor:
        """Take the 8 independent leads of an ECG at the models' rate: ``(8, T)`` float32 mV.

        Raises:
            DataError: it has another rate.
        """
        rate = self.config.data.sampling_rate
        if ecg.sampling_rate != rate:
            raise DataError(
                f"record {ecg.name} has {ecg.sampling_rate:g} Hz and this run {rate} Hz: read it with run.read"
            )
        return torch.from_numpy(to_independent(ecg.signal).copy())


def load_shared_model(run: RunFolder) -> SharedModel:
    """Load the final model of a run.

    Raises:
        RunError: the run has no final model (it was broken off), or a file was changed.
    """
    config = load_config(run.config)
    if config.detector.pretrained:
        config.detector.pretrained = str(run.pretrained.root)
    parts, about = load_artefact(run.model)
    detector = shared_detector(config, parts["detector"])
    return SharedModel(detector, parts["codebook"], config, tuple(about["classes"]))


def load_calibration(run: RunFolder, model: SharedModel, file: str | None) -> Calibration | None:
    """Load a named calibration, else the run's own; None where the run has none.

    Raises:
        RunError: the named file is missing, or a file is damaged or of another detector.
    """
    if file is None and not run.calibration.is_file():
        return None
    path = run.calibration if file is None else Path(file)
    calibration = Calibration.load(path)
    if calibration.detector != detector_digest(model.detector.state_dict()):
        raise RunError(f"{path} belongs to another detector than the one in {run.root}: make it again")
    return calibration


def load_personal(folder: Path, model: SharedModel) -> SharedModel:
    """Put a patient's detector (``lavq personalize``) in the place of its run's.

    Raises:
        RunError: no such model, a changed file, or one that was made from another run's detector.
    """
    parts, about = load_artefact(folder)
    if about.get("population") != detector_digest(model.detector.state_dict()):
        raise RunError(f"{folder} was not made from this run's detector: give the run that it was made from")
    return replace(model, detector=shared_detector(model.config, parts["detector"]))


def save_personal(folder: Path, detector: Detector, about: Mapping[str, object]) -> None:
    """Write a patient's detector with what it was made from."""
    save_artefact(folder, {"detector": detector.state_dict()}, {**about, "classes": list(SUPERCLASSES)})


def load_networks(run: RunFolder, site: str) -> tuple[Networks, str]:
    """Load the networks as one hospital of the run holds them: its own, and the shared ones of the final round.

    Args:
        run: the run folder.
        site: the hospital's name; empty: the only one, or the first by name of several. Where every network is
            shared, all hospitals have the same, and none needs to be here.

    Returns:
        The networks in eval mode, and whose they are in words.

    Raises:
        RunError: no such hospital here, it has trained no editor, or its networks do not fit the configuration.
    """
    config, (parts, _) = load_config(run.config), load_artefact(run.model)
    shared = parts.get("networks", {})
    by_name = {f.root.name: f for f in run.sites() if rounds_in(f.private_model)}
    if site and site not in by_name:
        raise RunError(f"unknown site {site!r}: choose one of {', '.join(by_name) or 'none, as no site is here'}")
    networks = make_networks(config, config.run.seed)
    if shared.keys() == networks.state_dict().keys():
        networks.take_over(shared)
        return networks.eval(), "the federation"
    if not by_name:
        raise RunError(f"no hospital in {run.root} has trained an editor: twins are made where one was trained")
    name = site or next(iter(by_name))
    networks = load_private(config, run.site(name).private_model)
    networks.take_over(shared)
    return networks, name


def shared_detector(config: Config, state: StateDict) -> Detector:
    """Build the detector and load shared weights into it, in eval mode on the CPU."""
    model = build_detector(config.detector, config.data.sampling_rate, config.run.seed)
    model.load_state_dict(state)
    return model.eval()


def load_private(config: Config, folder: Path, before: int | None = None) -> Networks:
    """Load the site's networks as ``load_start`` does, without what their training goes on from."""
    return load_start(config, folder, before)[0]


def load_start(config: Config, folder: Path, before: int | None) -> tuple[Networks, StateDict]:
    """Load the site's networks in eval mode, and what their training goes on from.

    Before its first round these are the networks that every site starts from, and nothing.

    A round may be trained twice: a server asks again, or goes back to its last checkpoint. Both times it has to start
    from what the site had before that round, which is why a site keeps its last rounds.

    Args:
        config: the run's.
        folder: ``SiteFolder.private_model``.
        before: a round, to get what it starts from; None for the newest networks.

    Raises:
        RunError: the folder holds networks of another version or of other sizes, or none that are old enough.
    """
    networks = make_networks(config, config.run.seed).eval()
    number = _start(folder, before)
    if not number:
        return networks, {}
    parts, _ = load_artefact(of_round(folder, number))
    try:
        networks.load_state_dict(parts["networks"])
    except (KeyError, RuntimeError):
        raise _other_version(folder) from None
    return networks, parts.get("training", {})


def save_private(folder: Path, networks: Networks, number: int, kept: StateDict | None = None) -> None:
    """Keep the site's networks of a round on its disk, atomically, and what their training goes on from.

    What the round has replaced is forgotten.
    """
    about = {"round": number, "start": _start(folder, number), "classes": list(SUPERCLASSES)}
    parts = {"networks": networks.state_dict(), "training": kept or {}}
    save_artefact(of_round(folder, number), {name: part for name, part in parts.items() if part}, about)
    there = rounds_in(folder)
    for other in {*(n for n in there if n > number), *[n for n in there if n < number][: 1 - _KEPT]}:
        shutil.rmtree(there[other], ignore_errors=True)


def _other_version(folder: Path) -> RunError:
    return RunError(
        f"{folder} holds networks of another version or size: move it away, or go back to its configuration"
    )


def _start(folder: Path, before: int | None) -> int:
    """Which kept round another one starts from; 0 for what every site starts from."""
    if (folder / MANIFEST).is_file():  # as versions before this one kept them
        raise _other_version(folder)
    kept = rounds_in(folder)
    earlier = [number for number in kept if before is None or number < before]
    if earlier or not kept or before == 1:
        return max(earlier, default=0)
    if int(load_artefact(kept[min(kept)])[1]["start"]) > 0:
        raise RunError(
            f"{folder} has no networks from before round {before}: the federation went back further than this site can"
        )
    return 0
