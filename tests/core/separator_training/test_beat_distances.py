"""Whether a twin is still its patient, and how far two beats are apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lavq_core.training.separator_losses import identity_loss, relative_error
from tests.core.separator_training.passes import rng

# --- who a twin is ---------------------------------------------------------------------------------------------------


def people(count: int, size: float = 0.3, seed: int = 0) -> Tensor:
    return size * torch.randn(count, 8, 96, generator=rng(seed))


def test_a_twin_is_nearer_to_its_own_patient() -> None:
    patients = people(6, 0.05)
    twins = patients + 0.02 * torch.randn(patients.shape, generator=rng(1))
    own, other = identity_loss(twins, patients), identity_loss(twins, patients.roll(1, 0))
    assert float(own) < float(other) - 1.0
    assert float(own) < math.log(6)


def test_identity_is_the_cross_entropy_of_finding_the_patient_by_squared_distance() -> None:
    twins, patients = people(4, 0.05), people(4, 0.05, seed=1)
    wrong = []
    for i in range(4):
        near = [math.exp(-float((twins[i] - patient).square().sum())) for patient in patients]
        wrong.append(-math.log(near[i] / sum(near)))
    assert float(identity_loss(twins, patients)) == pytest.approx(np.mean(wrong), rel=1e-3)


def test_a_large_edit_costs_nothing_while_nobody_else_is_near() -> None:
    patients = people(3, 1.0)
    assert float(identity_loss(patients + 0.3, patients)) == pytest.approx(0.0, abs=1e-4)
    assert float(identity_loss(people(1), people(1, seed=1))) == 0.0
    assert float(identity_loss(patients[:1].expand(3, -1, -1), patients[:1].expand(3, -1, -1))) == pytest.approx(
        math.log(3), abs=1e-3
    )


# --- how far two beats are apart -------------------------------------------------------------------------------------


def test_relative_error_is_energy_over_energy_of_voltage_and_half_of_slope() -> None:
    x, y = people(3, 0.5).double(), people(3, 0.5, seed=1).double()
    expected = 0.0
    for one, other in zip(x.numpy(), y.numpy(), strict=True):
        centred = one - one.mean(axis=1, keepdims=True)
        expected += ((other - one) ** 2).sum() / (centred**2).sum() / 3
        expected += 0.5 * (np.diff(other - one) ** 2).sum() / (np.diff(one) ** 2).sum() / 3
    assert float(relative_error(y, x)) == pytest.approx(expected)
    assert float(relative_error(x, x)) == 0.0


def test_relative_error_knows_no_gain_but_leaves_silence_alone() -> None:
    x, y = people(3, 0.5), people(3, 0.5, seed=1)
    torch.testing.assert_close(relative_error(2.0 * y, 2.0 * x), relative_error(y, x))
    torch.testing.assert_close(relative_error(y + 1.0, x + 1.0), relative_error(y, x))  # nor the level of a lead
    silent = relative_error(1e-3 * y, torch.zeros_like(x))
    assert 0.0 < float(silent) < 0.1
