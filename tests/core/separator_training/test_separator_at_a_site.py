"""A site's steps: what is drawn, told, and the same for the same generator."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.settings import Config
from lavq_core.training.guided import NORM, GuidedBeats
from lavq_core.training.separator_training import SeparatorTrainer
from tests.core.separator_training.trainers import equal, judge_of, take, trainer_of, weights


def test_the_same_generator_gives_the_same_bits(tiny: Config, records: GuidedBeats) -> None:
    runs = []
    for global_seed, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        trainer = trainer_of(tiny, judge_of(tiny), seed)
        measured = trainer.run(records, 3)
        assert torch.equal(torch.get_rng_state(), before)  # nobody else's random numbers are used up
        runs.append((measured, weights(trainer), trainer.statistics(records)))
    assert runs[0][0] == runs[1][0]
    assert equal(runs[0][1], runs[1][1])
    assert equal(runs[0][2], runs[1][2])
    assert not equal(runs[0][1], runs[2][1])


def batches_of(trainer: SeparatorTrainer, records: GuidedBeats, steps: int) -> list[tuple[GuidedBeats, GuidedBeats]]:
    """The batches of a run, without the steps."""
    drawn = []

    def spy(sick: GuidedBeats, healthy: GuidedBeats) -> dict[str, float]:
        drawn.append((sick, healthy))
        return {"separator_loss": float(len(drawn))}

    trainer.step = spy  # type: ignore[method-assign]
    assert trainer.run(records, steps)
    return drawn


def test_a_batch_is_half_abnormal_and_half_norm_paired_by_heart_rate(tiny: Config, records: GuidedBeats) -> None:
    for sick, healthy in batches_of(trainer_of(tiny), records, 20):
        assert len(sick) == len(healthy) == tiny.separator_training.batch
        assert len(sick.abnormal()) == len(sick)
        assert len(healthy.norm_only()) == len(healthy)
        for half in (sick, healthy):
            assert bool((half.covariates[:, 0].diff() >= 0).all())


def test_rare_superclasses_are_drawn_more_often_than_they_are(tiny: Config, records: GuidedBeats) -> None:
    tiny.separator_training.batch = 100
    names = np.array(SUPERCLASSES)[1:]
    single = torch.eye(5)[1 + torch.arange(len(records)) % 4]
    single[records.norm_only()] = torch.eye(5)[NORM]
    data = replace(records, y=single)
    there = Counter(names[i] for i in single[data.abnormal()].argmax(1).numpy() - 1)
    drawn = Counter(
        names[i] for sick, _ in batches_of(trainer_of(tiny), data, 30) for i in sick.y.argmax(1).numpy() - 1
    )
    often = {name: drawn[name] / there[name] for name in names}
    assert often["HYP"] > 1.3 * often["MI"]
    assert often["CD"] > 1.1 * often["STTC"]


def test_what_is_told_of_a_run_is_the_mean_of_its_last_quarter(tiny: Config, records: GuidedBeats) -> None:
    trainer = trainer_of(tiny)
    numbers = iter(range(1, 100))
    trainer.step = lambda sick, healthy: {"separator_loss": float(next(numbers))}  # type: ignore[method-assign]
    assert trainer.run(records, 8) == {"separator_loss": 7.5}
    assert trainer.run(records, 1) == {"separator_loss": 9.0}


def test_a_few_healthy_patients_can_fill_a_batch(tiny: Config, records: GuidedBeats) -> None:
    rows = torch.cat([records.abnormal(), records.norm_only()[:1]])
    assert trainer_of(tiny).run(take(records, rows), 1)


def test_after_training_the_networks_are_ready_for_use(tiny: Config, records: GuidedBeats) -> None:
    trainer = trainer_of(tiny)
    trainer.run(records, 1)
    assert not any(module.training for module in trainer.networks.modules())


@pytest.mark.parametrize("missing", ["abnormal", "norm_only"])
def test_a_site_without_one_kind_trains_nothing(tiny: Config, records: GuidedBeats, missing: str) -> None:
    kept = records.norm_only() if missing == "abnormal" else records.abnormal()
    trainer = trainer_of(tiny)
    before = weights(trainer)
    assert trainer.run(take(records, kept), 3) == {}
    assert equal(weights(trainer), before)
