"""The data card's reckoning of a privacy budget is that of the presets, and its noise is what a run would add."""

from __future__ import annotations

import pytest
import torch

from client.privacy_budget import budget_section
from lavq_core.config import compose
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.privacy.clipping import release
from lavq_core.privacy.plan import make_plan
from lavq_core.signals.description import SIZE

PATIENTS = 2_000


@pytest.mark.parametrize(("preset", "limit"), [("eps8", 8.0), ("eps3", 3.0), ("eps1", 1.0)])
def test_shares_of_noise_are_those_of_the_sums_that_a_run_releases(preset: str, limit: float) -> None:
    (row,) = [row for row in budget_section(PATIENTS).rows if row[0] == preset]
    epsilon, number, *shares = row[1:]
    config = compose([f"privacy={preset}"])
    plan, norm = make_plan(config, config.federation.rounds), config.privacy.clipping_norm
    assert 0.98 * limit < float(epsilon) <= limit
    assert number == f"\u00b1 {1.96 * plan.size.noise_multiplier:.0f}"
    description, step, every = (float(share.removesuffix(" %")) / 100 for share in shares)
    for told, mechanism, shape in (
        (description, plan.centre, (SIZE,)),
        (step, plan.detector, (len(SUPERCLASSES), SIZE + 1)),
    ):
        noise = release(torch.zeros(shape, dtype=torch.float64), norm, mechanism.noise_multiplier)
        assert told == pytest.approx(float(noise.norm()) / (norm * PATIENTS), rel=0.1)
    steps = plan.detector.steps * (config.federation.rounds - 1)
    assert step / every == pytest.approx(steps**0.5, rel=0.05)


def test_twice_the_patients_have_half_the_noise() -> None:
    small, large = (budget_section(n).rows for n in (PATIENTS, 2 * PATIENTS))
    for one, other in zip(small, large, strict=True):
        for a, b in zip(one[3:], other[3:], strict=True):
            assert float(b[:-2]) == pytest.approx(float(a[:-2]) / 2, abs=0.1)


def test_a_site_of_many_patients_is_told_the_delta_that_it_needs() -> None:
    assert "privacy.delta=1e-06" in budget_section(20_000).note
    assert "privacy.delta" not in budget_section(10_000).note


def test_without_patients_there_is_nothing_to_reckon() -> None:
    assert budget_section(0).rows == []
