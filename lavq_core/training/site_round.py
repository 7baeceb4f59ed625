"""What one hospital does in one round; no Flower here.

1. Once the detector has had some rounds (``separator_training.after``), train separator, editor and prior network
   around the broadcast codebook, the broadcast detector as frozen judge.
2. Sum the codes of the site's abnormal records.
3. Make twins of the site's healthy training patients.
4. Train the detector on real records and twins.

The detector, the sums and the networks that ``federation.share`` names will leave, and with
``federation.average_moments`` its optimiser's moments; other networks stay on the disk.
"""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lavq_core.config import figure_settings
from lavq_core.errors import DataError
from lavq_core.models.codebook import CodebookState, no_statistics, perplexity
from lavq_core.models.detector import Detector
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.models.networks import Networks, beat_tokens
from lavq_core.models.stored import StateDict, load_start, save_private, shared_detector
from lavq_core.privacy.guard import Parts
from lavq_core.privacy.kept_reply import KeptReply, question
from lavq_core.privacy.ledger import Entry, Ledger
from lavq_core.privacy.plan import Plan
from lavq_core.training.detector_training import LabelledEcgs, descriptions
from lavq_core.training.device import pick_device
from lavq_core.training.feature_round import FeatureUpdate, examples_of, feature_round, released_sizes
from lavq_core.training.local_steps import Round, rounds_before, train_in_round
from lavq_core.training.private_round import SeparatorRelease, separator_round
from lavq_core.training.separator_training import SeparatorTrainer
from lavq_core.training.site_data import SiteData
from lavq_core.training.training_twins import training_twins


@dataclass
class SharedState:
    """What the server sends."""

    detector: StateDict
    codebook: CodebookState
    networks: StateDict  # of the networks that are shared, as ``Networks.shared`` gives them
    moments: StateDict = field(default_factory=dict)  # of the detector's AdamW, see ``local_steps``; empty: start anew


@dataclass
class SiteUpdate:
    """What a round gives."""

    detector: StateDict  # leaves
    networks: StateDict  # leaves: weights of the networks that are shared
    moments: StateDict  # leaves, where moments came
    statistics: StateDict  # leaves: counts, sums, prior, requests
    examples: int  # leaves: training records, or patients of a features detector; the weight of the average
    measured: dict[str, float]  # stays on site
    again: bool = False  # nothing was trained: it is what left before, see ``lavq_core.privacy.kept_reply``


@dataclass(frozen=True)
class _Start:
    """What a site's round starts from; networks and detector are trained in place."""

    place: Round
    shared: SharedState
    networks: Networks  # as broadcast where they are shared, else the site's own
    kept: StateDict  # what the separator's training goes on from
    detector: Detector  # as broadcast


def train_round(
    site: SiteData,
    private_model: Path,
    shared: SharedState,
    number: int,
    rounds: int,
    ledger: Ledger | None = None,
) -> SiteUpdate:
    """Train one round (numbered from 1) at one site, starting from the shared state.

    Raises:
        DataError: the site has no record in the training folds.
        BudgetSpent, LedgerError: training is private and ``ledger`` does not allow the round.
    """
    config = site.config
    if len(site.train_positions) == 0:
        raise DataError(f"site {site.name} has no record in the training folds: leave it out of the federation")
    device = pick_device(config.run.device)
    networks, kept = load_start(config, private_model, before=number)
    networks.to(device).take_over(shared.networks)
    detector = shared_detector(config, shared.detector).to(device)
    start = _Start(Round(site.name, number, rounds), shared, networks, kept, detector)
    if config.privacy.epsilon > 0:
        return _private_round(site, private_model, start, ledger)
    return _open_round(site, private_model, start)


def _open_round(site: SiteData, private_model: Path, start: _Start) -> SiteUpdate:
    """Train one round without noise: separator, then detector."""
    config, place = site.config, start.place
    generator = torch.Generator().manual_seed(site_seed(config.run.seed, place.site, place.number))
    trainer, statistics, measured = _train_separator(site, start, generator)
    if trainer:
        save_private(private_model, start.networks, place.number, trainer.keep())

    trained = bool(measured) or "editor" in config.federation.share  # else nobody trained this editor
    due = place.number > rounds_before(config.twins.after, place.rounds)
    twins = None
    if trainer and trained and due:
        known = statistics["requests"] + start.shared.codebook["requests"]
        twins = training_twins(site, start.networks, trainer.codes.cpu(), known, generator)
    learnt = _train_detector(site, start, twins, generator)

    measured |= {"twins": float(len(twins)) if twins is not None else 0.0, "detector_loss": learnt.loss}
    networks = start.networks.shared(config.federation.share)
    return SiteUpdate(learnt.detector, networks, learnt.moments, statistics, learnt.examples, measured)


def _train_separator(
    site: SiteData, start: _Start, generator: torch.Generator
) -> tuple[SeparatorTrainer | None, StateDict, dict[str, float]]:
    """Train separator, editor and prior network; the trainer, the codes' statistics, and what was measured.

    In a federation that trains none there is no trainer, and the site keeps no networks.
    """
    config, place, steps = site.config, start.place, site.config.separator_training.steps
    nothing = no_statistics(config.codebook, beat_tokens(config))
    if steps == 0:
        return None, nothing, {}
    before = rounds_before(config.separator_training.after, place.rounds)
    done = (place.number - 1 - before) * steps
    # Weights that nobody trained judge nothing.
    judge = copy.deepcopy(start.detector.differentiable).requires_grad_(False) if place.number > 1 else None
    trainer = SeparatorTrainer(
        start.networks,
        start.shared.codebook,
        judge,
        config,
        generator,
        total=(place.rounds - before) * steps,
        done=max(0, done),
        kept=start.kept,
    )
    measured = trainer.run(site.beats, steps if done >= 0 else 0)
    if not measured:  # too early, or no abnormal or no NORM record: nothing was trained, so there is nothing to say
        return trainer, nothing, {}
    statistics = trainer.statistics(site.beats)
    return trainer, statistics, measured | {"perplexity": perplexity(statistics["counts"])}


@dataclass(frozen=True)
class _Learnt:
    """The detector's part of an update."""

    detector: StateDict
    moments: StateDict
    examples: int
    loss: float


def _train_detector(site: SiteData, start: _Start, twins: LabelledEcgs | None, generator: torch.Generator) -> _Learnt:
    """Train the detector on records and twins; one of fixed features sees records alone."""
    model = start.detector
    if isinstance(model, FeatureDetector):
        update = feature_round(model.cpu(), site.described, site.config, start.place, ledger=None)
        return _Learnt(dict(update.detector), {}, update.examples, update.loss)
    if twins is not None:
        twins.described = descriptions(model, twins)
    data = site.ecgs if twins is None else site.ecgs + twins
    loss, moments = train_in_round(model, data, site.config, start.place, start.shared.moments, generator)
    return _Learnt(_on_cpu(model.state_dict()), moments, len(site.ecgs), loss)


def _private_round(site: SiteData, private_model: Path, start: _Start, ledger: Ledger | None) -> SiteUpdate:
    """Train one round privately, on the CPU: separator, codebook and detector, in one entry of the ledger.

    Twins are not trained on: a detector of fixed features sees records alone. A round that was paid for and is asked
    once more, is answered as it was.
    """
    networks, model, place = start.networks.cpu(), start.detector.cpu(), start.place
    assert isinstance(model, FeatureDetector)  # ``settings_check`` refuses any other
    asked = _question(site, start)
    if ledger is not None and (again := _answered_before(site, private_model, start, ledger, asked)):
        return again
    released: list[SeparatorRelease] = []

    def separator(plan: Plan, size: float) -> Parts:
        released.append(separator_round(site, networks, start.shared.codebook, model, plan, size, place, start.kept))
        # What no mechanism made is not entered: the guard then lets it pass only where everybody knows it.
        return released[0].made

    def pay(entry: Entry, update: FeatureUpdate) -> None:
        assert ledger is not None  # else there is no entry
        done = released[0]
        own = {name: value for name, value in networks.state_dict().items() if name not in done.networks}
        parts = {"detector": update.detector, **done.parts(), "own": own, "kept": done.kept}
        KeptReply(ledger).pay(entry, asked, parts)

    update = feature_round(model, site.described, site.config, place, ledger, separator, pay=pay)
    done = released[0]
    save_private(private_model, networks, place.number, done.kept)
    measured = {"detector_loss": update.loss, "twins": 0.0}
    return SiteUpdate(dict(update.detector), dict(done.networks), {}, done.statistics, update.examples, measured)


def _question(site: SiteData, start: _Start) -> str:
    """Hash all that an answer to this round depends on, but for earlier rounds and noise."""
    shared, place, settings = start.shared, start.place, figure_settings(site.config)
    broadcast = {"detector": shared.detector, "codebook": shared.codebook, "networks": shared.networks}
    about = {"round": place.number, "rounds": place.rounds, "data": site.fingerprint, "settings": settings}
    return question(about, broadcast)


def _answered_before(
    site: SiteData, private_model: Path, start: _Start, ledger: Ledger, asked: str
) -> SiteUpdate | None:
    """Return the update of this very round as it was paid for, and put the site where it was then; None without one.

    Raises:
        LedgerError: it was changed since.
    """
    run, number = Path(site.config.run.dir).name, start.place.number
    parts = KeptReply(ledger).find(run, number, asked)
    if parts is None:
        return None
    networks = parts.get("networks", {})
    start.networks.load_state_dict({**parts.get("own", {}), **networks})
    save_private(private_model, start.networks, number, parts.get("kept", {}))
    examples = examples_of(released_sizes(ledger, run)[0])
    return SiteUpdate(parts["detector"], networks, {}, parts["codebook"], examples, {}, again=True)


def site_seed(seed: int, site: str, number: int) -> int:
    """Another stream for every site and round, the same in every process (Python's own hash is salted)."""
    return zlib.crc32(f"{seed}/{site}/{number}".encode())


def _on_cpu(state: StateDict) -> StateDict:
    return {name: value.detach().cpu() for name, value in state.items()}
