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

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import ConfigError, DataError
from lavq_core.models.codebook import CodebookState, no_statistics, perplexity
from lavq_core.models.detector import Detector
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.models.networks import Networks, beat_tokens
from lavq_core.models.prior import available_diseases, draw_statements
from lavq_core.models.stored import StateDict, load_start, save_private, shared_detector
from lavq_core.models.twins import request_twins
from lavq_core.privacy.guard import Parts
from lavq_core.privacy.ledger import Ledger
from lavq_core.privacy.plan import Plan
from lavq_core.text.statements import named
from lavq_core.training.detector_training import LabelledEcgs
from lavq_core.training.device import pick_device
from lavq_core.training.feature_round import feature_round
from lavq_core.training.local_steps import Round, rounds_before, train_in_round
from lavq_core.training.private_round import SeparatorRelease, separator_round
from lavq_core.training.separator_training import SeparatorTrainer
from lavq_core.training.site_data import SiteData


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
    generator = torch.Generator().manual_seed(site_seed(config.run.seed, site.name, number))
    networks, kept = load_start(config, private_model, before=number)
    networks.to(device).take_over(shared.networks)
    model = shared_detector(config, shared.detector).to(device)
    if config.privacy.epsilon > 0:
        place = Round(site.name, number, rounds)
        return _private_round(site, private_model, shared, networks, kept, model, place, ledger)
    judge = copy.deepcopy(model).eval().requires_grad_(False) if number > 1 else None  # round 1 starts from noise

    steps, before = config.separator_training.steps, rounds_before(config.separator_training.after, rounds)
    total, done = (rounds - before) * steps, (number - 1 - before) * steps
    trainer = SeparatorTrainer(
        networks,
        shared.codebook,
        judge,
        config,
        generator,
        total=total,
        done=max(0, done),
        kept=kept,
    )
    measured = trainer.run(site.beats, steps if done >= 0 else 0)
    if measured:
        statistics = trainer.statistics(site.beats)
        measured["perplexity"] = perplexity(statistics["counts"])
    else:  # too early, or no abnormal or no NORM record: nothing was trained, so there is nothing to say
        statistics = no_statistics(config.codebook, beat_tokens(config))
    save_private(private_model, networks, number, trainer.keep())

    known = {"requests": statistics["requests"] + shared.codebook["requests"]}
    can_edit = bool(measured) or "editor" in config.federation.share  # else nobody trained this editor
    twins = None
    if can_edit and steps > 0 and number > rounds_before(config.twins.after, rounds):
        twins = training_twins(site, networks, trainer.codes.cpu(), known["requests"], generator)
    measured["twins"] = float(len(twins)) if twins is not None else 0.0
    leaving, place = networks.shared(config.federation.share), Round(site.name, number, rounds)
    if isinstance(model, FeatureDetector):
        update = feature_round(model.cpu(), site.described, config, place, ledger)
        measured["detector_loss"] = update.loss
        return SiteUpdate(dict(update.detector), leaving, {}, statistics, max(1, round(update.size)), measured)
    real = site.ecgs
    everything = real if twins is None else real + twins
    loss, moments = train_in_round(model, everything, config, place, shared.moments, generator)
    measured["detector_loss"] = loss
    return SiteUpdate(_on_cpu(model.state_dict()), leaving, moments, statistics, len(real), measured)


def _private_round(
    site: SiteData,
    private_model: Path,
    shared: SharedState,
    networks: Networks,
    kept: StateDict,
    model: Detector,
    place: Round,
    ledger: Ledger | None,
) -> SiteUpdate:
    """Train one round privately: separator, codebook and detector, in one entry of the ledger.

    Twins are not trained on: a detector of fixed features sees records alone.
    """
    if not isinstance(model, FeatureDetector):
        raise ConfigError("privacy.epsilon needs detector.kind=features")
    networks, model, judge = networks.cpu(), model.cpu(), copy.deepcopy(model).cpu()
    released: list[SeparatorRelease] = []

    def separator(plan: Plan, size: float) -> Parts:
        released.append(separator_round(site, networks, shared.codebook, judge, plan, size, place, kept))
        # What no mechanism made is not entered: the guard then lets it pass only where everybody knows it.
        return released[0].parts() if plan.separator_in(place.number) else {}

    update = feature_round(model, site.described, site.config, place, ledger, separator)
    done = released[0]
    save_private(private_model, networks, place.number, done.kept)
    measured = {"detector_loss": update.loss, "twins": 0.0}
    examples = max(1, round(update.size))
    return SiteUpdate(dict(update.detector), dict(done.networks), {}, done.statistics, examples, measured)


def training_twins(
    site: SiteData, networks: Networks, codes: torch.Tensor, known: torch.Tensor, generator: torch.Generator
) -> LabelledEcgs | None:
    """Twins of the site's NORM-only training records, diseases in equal shares; None when there is nothing to make.

    Args:
        site: whose patients.
        networks: in eval mode.
        codes: ``(K, D)``.
        known: ``(C, S)`` counts of statements: the diseases that the federation has seen, this site or not.
        generator: CPU generator.
    """
    config, patients = site.config, site.healthy
    diseases = available_diseases(known)
    if len(patients) * config.twins.per_record == 0 or len(diseases) == 0:
        return None
    rows = torch.arange(len(patients)).repeat(config.twins.per_record)
    classes = diseases[torch.randperm(len(rows), generator=generator) % len(diseases)]
    wanted = named(draw_statements(known, classes, generator))
    made = request_twins(networks, codes, patients.take(rows), wanted, config, config.twins.strength, generator)
    y = torch.nn.functional.one_hot(classes, len(SUPERCLASSES)).float()
    return LabelledEcgs(made.signal, y, torch.full((len(rows),), config.twins.weight))


def site_seed(seed: int, site: str, number: int) -> int:
    """Another stream for every site and round, the same in every process (Python's own hash is salted)."""
    return zlib.crc32(f"{seed}/{site}/{number}".encode())


def _on_cpu(state: StateDict) -> StateDict:
    return {name: value.detach().cpu() for name, value in state.items()}
