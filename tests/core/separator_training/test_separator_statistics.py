"""Sums of a site's codes: of abnormal records alone, each under its own class."""

from __future__ import annotations

from dataclasses import replace

import torch

from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements, public_statements, superclass_of
from lavq_core.models.codebook import STATISTICS, code_statistics, quantise
from lavq_core.models.prior import count_codes
from lavq_core.settings import Config
from lavq_core.training.guided import NORM, GuidedBeats, class_weights
from tests.core.separator_training.trainers import N, codebook_of, equal, take, trainer_of, weights


def test_statistics_are_the_sums_over_the_abnormal_records(tiny: Config, records: GuidedBeats) -> None:
    """Record by record, against one pass in batches."""
    trainer = trainer_of(tiny)
    trainer.run(records, 2)
    K = tiny.codebook.size
    expected = {name: torch.zeros_like(value) for name, value in codebook_of(tiny).items() if name in STATISTICS[:3]}
    with torch.no_grad():
        for row in records.abnormal():
            one = take(records, row[None])
            found = trainer.networks.separator(one.x, one.covariates, one.valid, one.memory, one.mask)
            _, indices = quantise(found.latents, trainer.codes)
            gate = found.gate > 0.5
            for name, value in code_statistics(found.latents, indices, gate, K).items():
                expected[name] += value
            expected["prior"] += count_codes(indices, gate, class_weights(one.y), K)
    for batch in (1, 3, 256):
        found = trainer.statistics(records, batch)
        assert tuple(found) == STATISTICS
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-3, msg=f"{name} differs")


def test_statements_are_counted_under_their_own_superclass(tiny: Config, records: GuidedBeats) -> None:
    """A twin that is asked for as MI, and trained on as MI, must not be drawn from a block that came with an MI."""
    order, classes = diagnostic_statements(), superclass_of(public_statements())
    expected = torch.zeros(len(SUPERCLASSES), len(order))
    for row in records.abnormal():
        for column in records.statements[row].nonzero().flatten().tolist():
            own = SUPERCLASSES.index(classes[order[column]])
            expected[own, column] += class_weights(records.y[row, None])[0, own]
    for batch in (1, 256):
        found = trainer_of(tiny).statistics(records, batch)["requests"]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert bool((expected.sum(1)[1:] > 0).all())


def test_statistics_hold_nothing_of_healthy_records(tiny: Config, records: GuidedBeats) -> None:
    trainer = trainer_of(tiny)
    changed = replace(records, x=records.x.clone())
    changed.x[records.norm_only()] *= -2.0
    assert equal(trainer.statistics(records), trainer.statistics(changed))
    assert not trainer.statistics(records)["prior"][NORM].any()
    assert not trainer.statistics(records)["requests"][NORM].any()
    only_healthy = trainer.statistics(take(records, records.norm_only()))
    assert tuple(only_healthy) == STATISTICS
    assert not any(value.any() for value in only_healthy.values())


def test_every_token_of_a_class_is_counted_once(tiny: Config, records: GuidedBeats) -> None:
    found = trainer_of(tiny).statistics(records)
    counted = class_weights(records.y).sum(0)[:, None].expand(-1, N)
    torch.testing.assert_close(found["prior"].sum(-1), counted, rtol=1e-4, atol=1e-3)
    assert bool((found["sums"].norm(dim=-1) <= found["counts"] + 1e-3).all())  # unit latents
    assert not any(value.requires_grad for value in found.values())


def test_counting_twice_gives_the_same_and_changes_nothing(tiny: Config, records: GuidedBeats) -> None:
    trainer = trainer_of(tiny)
    before, codes = weights(trainer), trainer.codes.clone()
    assert equal(trainer.statistics(records), trainer.statistics(records))
    assert equal(weights(trainer), before)
    assert torch.equal(trainer.codes, codes)
