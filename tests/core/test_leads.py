from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavq_core.signals.leads import (
    INDEPENDENT_INDEX,
    INDEPENDENT_LEADS,
    LEADS,
    canonical_lead,
    complete_limb,
    einthoven_residual,
    known_leads,
    to_independent,
    to_twelve,
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_canonical_order() -> None:
    assert LEADS == ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    assert tuple(LEADS[i] for i in INDEPENDENT_INDEX) == INDEPENDENT_LEADS


@pytest.mark.parametrize(("name", "lead"), [("AVR", "aVR"), (" avf ", "aVF"), ("v3", "V3"), ("ii", "II")])
def test_lead_names_in_any_case(name: str, lead: str) -> None:
    assert canonical_lead(name) == lead


@pytest.mark.parametrize("name", ["MLII", "VX", "", "V7", "-aVR"])
def test_other_names_are_no_leads(name: str) -> None:
    assert canonical_lead(name) is None


@settings(max_examples=25, deadline=None)
@given(batch=st.lists(st.integers(1, 3), max_size=2), samples=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_eight_leads_survive_the_way_to_twelve_and_back(batch: list[int], samples: int, seed: int) -> None:
    eight = noise(*batch, 8, samples, seed=seed)
    twelve = to_twelve(eight)
    assert twelve.shape == (*batch, 12, samples)
    assert twelve.dtype == np.float32
    np.testing.assert_array_equal(to_independent(twelve), eight)
    assert einthoven_residual(twelve).shape == tuple(batch)
    assert np.all(einthoven_residual(twelve) < 1e-6)


def test_derived_leads_follow_einthoven_and_goldberger() -> None:
    one, two, three, r, l, f = to_twelve(noise(8, 50))[:6]  # noqa: E741 (aVR, aVL, aVF)
    np.testing.assert_allclose(one + three, two, atol=1e-6)
    np.testing.assert_allclose(r + l + f, 0.0, atol=1e-6)
    np.testing.assert_allclose(l, (one - three) / 2, atol=1e-6)
    np.testing.assert_allclose(f, (two + three) / 2, atol=1e-6)


def test_torch_and_numpy_agree_and_gradients_flow() -> None:
    eight = torch.from_numpy(noise(2, 8, 30)).requires_grad_()
    twelve = to_twelve(eight)
    np.testing.assert_array_equal(twelve.detach().numpy(), to_twelve(eight.detach().numpy()))
    residual = einthoven_residual(twelve + torch.randn_like(twelve))
    assert residual.shape == (2,)
    to_independent(twelve).sum().backward()
    assert eight.grad is not None
    assert torch.all(eight.grad == 1.0)


def test_residual_measures_a_wrong_lead_in_millivolts() -> None:
    twelve = to_twelve(np.zeros((8, 10), dtype=np.float32))
    twelve[4, 3] = -0.25
    assert einthoven_residual(twelve) == pytest.approx(0.25)


@pytest.mark.parametrize("function", [to_independent, to_twelve, einthoven_residual])
def test_a_wrong_number_of_leads_is_refused(function) -> None:
    with pytest.raises(ValueError, match="shape"):
        function(np.zeros((3, 10), dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        ("AVR", "aVR"), (" v1 ", "V1"), ("Lead II", "II"), ("Lead I (Einthoven)", "I"), ("ECG V6", "V6"),
        ("EKG-aVF", "aVF"), ("MDC_ECG_LEAD_III", "III"),
        ("-aVR", None), ("V7", None), ("VX", None), ("ECG", None), ("", None), ("IIII", None),
    ],
)  # fmt: skip
def test_lead_names_of_many_recorders_are_known(name: str, lead: str | None) -> None:
    assert canonical_lead(name) == lead


def test_two_limb_leads_make_all_six_known_and_one_none_but_itself() -> None:
    for rows in ([0, 1], [2, 5], [3, 4]):
        present = np.zeros(12, dtype=bool)
        present[rows] = True
        assert known_leads(present).tolist() == [True] * 6 + [False] * 6
        present[rows[0]] = False
        assert known_leads(present).sum() == 1
    with pytest.raises(ValueError, match="two limb leads"):
        complete_limb(np.zeros((12, 5)), present)
