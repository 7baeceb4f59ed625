"""A features detector's part of one round at one site, with the site's ledger where training is private.

Round 1 gives the number of patients and the centre of their descriptions, the others train the head. What a round
released is in the ledger, on the disk, before anything of it is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lavq_core.errors import ConfigError, DataError
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.privacy.guard import Parts, digests
from lavq_core.privacy.ledger import Entry, Ledger
from lavq_core.privacy.plan import Plan, make_plan
from lavq_core.settings import Config
from lavq_core.training.head_training import PatientItems, Watch, released_centre, released_size, train_head
from lavq_core.training.local_steps import Round


@dataclass(frozen=True)
class FeatureUpdate:
    """What a round gives."""

    detector: Mapping[str, Tensor]  # leaves
    size: float  # the released number of patients
    loss: float  # stays on site; NaN in round 1

    @property
    def examples(self) -> int:
        """The weight of the average, which leaves."""
        return examples_of(self.size)


Further = Callable[[Plan, float], Parts]
"""Whatever else a private round releases: by plan and released size, what leaves."""

Pay = Callable[[Entry, "FeatureUpdate"], None]
"""Puts a round's entry into the ledger, with the update beside it."""


def feature_round(
    model: FeatureDetector,
    items: PatientItems,
    config: Config,
    place: Round,
    ledger: Ledger | None,
    further: Further | None = None,
    watch: Watch | None = None,
    pay: Pay | None = None,
) -> FeatureUpdate:
    """Train one round in place.

    Args:
        model: with the broadcast weights, on the CPU.
        items: the site's training patients.
        config: ``detector_training`` and ``privacy``.
        place: which round and site.
        ledger: the site's; None where training is not private.
        further: releases whose mechanisms the plan has for this round; they are in the same entry.
        watch: an auditor's, see ``train_head``.
        pay: writes the entry; ``ledger.write`` by itself where it is left out.

    Raises:
        ConfigError: training is private and there is no ledger.
        DataError: more patients than ``privacy.delta`` suits.
        BudgetSpent: the round would pass the site's budget; nothing was computed.
    """
    if ledger is None:
        if config.privacy.epsilon > 0:
            raise ConfigError("privacy.epsilon is above 0 and this site keeps no ledger: nothing can be released")
        size = float(items.patients)
        return _released(model, items, config, place, size, 0.0, watch)
    require_delta(items.patients, config.privacy.delta)
    plan, run = make_plan(config, place.rounds), Path(config.run.dir).name
    sizes = released_sizes(ledger, run)
    mechanisms = plan.of_round(place.number, sized=bool(sizes))
    ledger.require(mechanisms)
    size = sizes[0] if sizes else released_size(items, plan.size.noise_multiplier)
    noise = (plan.centre if place.number == 1 else plan.detector).noise_multiplier
    others = further(plan, size) if further else {}
    update = _released(model, items, config, place, size, noise, watch)
    # Of the detector only what this round's mechanism made: the guard lets the rest pass if it is as it came.
    made = "centre" if place.number == 1 else "head.weight"
    outputs = digests({"detector": {made: update.detector[made]}, **others})
    entry = Entry(run, place.number, mechanisms, outputs, {} if sizes else {"size": size})
    if pay is None:
        ledger.write(entry)
    else:
        pay(entry, update)
    return update


def released_sizes(ledger: Ledger, run: str) -> list[float]:
    """Return the number of patients that a run has released at this site: one, or none yet."""
    return [entry.public["size"] for entry in ledger.entries if entry.run == run and "size" in entry.public]


def examples_of(size: float) -> int:
    """Whole patients of a released number; at least one, as noise may leave none."""
    return max(1, round(size))


def require_delta(patients: int, delta: float) -> None:
    """Refuse a delta with which one patient in ten sites' worth could be published outright.

    Raises:
        DataError: it is above one over ten times the patients.
    """
    if patients * 10 * delta > 1:
        raise DataError(
            f"privacy.delta={delta:g} is too large for this site's number of training patients: it must be at most one "
            "over ten times that number"
        )


def _released(
    model: FeatureDetector,
    items: PatientItems,
    config: Config,
    place: Round,
    size: float,
    noise: float,
    watch: Watch | None,
) -> FeatureUpdate:
    if place.number == 1:
        model.centre.copy_(released_centre(items, size, noise))
        loss = float("nan")
    else:
        clip = config.privacy.clipping_norm
        loss = train_head(model, items, config.detector_training, clip, noise, size, watch)
    return FeatureUpdate({name: value.clone() for name, value in model.state_dict().items()}, size, loss)
