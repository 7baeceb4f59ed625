"""Codes that nobody uses split a popular one, and never become a patient's latent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lavq_core.models.codebook import (
    CodebookState,
    code_statistics,
    merge_statistics,
    quantise,
    revive_dead_codes,
)
from tests.core.codebooks import SEEDS, C, D, K, N, S, assert_equal_states, first_state, rng, unit


def state_with(counts: list[float], seed: int = 0) -> CodebookState:
    """A state whose counts are given and whose sums and prior fit them."""
    generator, size = rng(seed), len(counts)
    codes = unit(size, D, seed=seed)
    shares = torch.rand(C, N, size, generator=generator)
    prior = torch.cat([shares * torch.tensor(counts), torch.rand(C, N, 1, generator=generator)], dim=-1)
    return {
        "codes": codes,
        "counts": torch.tensor(counts),
        "sums": 0.9 * codes * torch.tensor(counts)[:, None],
        "prior": prior,
        "requests": torch.rand(C, S, generator=generator),
    }


COUNTS = st.lists(st.sampled_from([0.0, 0.5, 1.0, 300.0, 5000.0]), min_size=2, max_size=12)


@settings(max_examples=40, deadline=None)
@given(counts=COUNTS, seed=SEEDS)
def test_splitting_conserves_totals(counts: list[float], seed: int) -> None:
    state = state_with(counts, seed)
    total, per_place = state["counts"].sum().clone(), state["prior"].sum(-1)
    normal = state["prior"][..., -1].clone()
    revive_dead_codes(state)
    torch.testing.assert_close(state["counts"].sum(), total)
    torch.testing.assert_close(state["prior"].sum(-1), per_place)
    assert torch.equal(state["prior"][..., -1], normal)  # tokens left normal are nobody's codes


@pytest.mark.parametrize("without", [("requests",), ("prior", "requests")])
def test_splitting_concerns_codes_alone(without: tuple[str, ...]) -> None:
    """What was asked for stays; a site's moving average, which has neither prior nor requests, is split alike."""
    whole, part = state_with([9.0, 0.0, 0.0, 3.0]), state_with([9.0, 0.0, 0.0, 3.0])
    requests = whole["requests"].clone()
    for name in without:
        del part[name]
    for state in (whole, part):
        revive_dead_codes(state)
    assert torch.equal(whole["requests"], requests)
    assert_equal_states({name: whole[name] for name in part}, part, 0.0)


@settings(max_examples=40, deadline=None)
@given(counts=COUNTS, seed=SEEDS)
def test_after_splitting_every_code_lives_and_is_a_direction_of_its_own(counts: list[float], seed: int) -> None:
    state = state_with(counts, seed)
    revive_dead_codes(state)
    torch.testing.assert_close(state["codes"].norm(dim=-1), torch.ones(len(counts)))
    if sum(counts) == 0:
        return
    assert float(state["counts"].min()) >= 0.01 * float(state["counts"].mean())
    assert float(torch.pdist(state["codes"]).min()) > 1e-3
    again = {name: value.clone() for name, value in state.items()}
    revive_dead_codes(again)
    assert_equal_states(again, state, 0.0)


def test_codes_that_live_are_left_alone() -> None:
    state = state_with([100.0, 0.0, 50.0, 40.0])
    before = {name: value.clone() for name, value in state.items()}
    revive_dead_codes(state)
    for name, axis in (("codes", 0), ("counts", 0), ("sums", 0), ("prior", 2)):
        for living in (2, 3):
            assert torch.equal(state[name].select(axis, living), before[name].select(axis, living)), name
    assert torch.equal(state["codes"][0], before["codes"][0])  # the popular code shares its counts and stays in place
    assert state["counts"].tolist() == [50.0, 50.0, 50.0, 40.0]


def test_an_unused_codebook_has_nothing_to_split() -> None:
    state = first_state()
    revive_dead_codes(state)
    assert_equal_states(state, first_state(), 0.0)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, patients=st.integers(1, 4))
def test_a_revived_code_is_nobodys_latent(seed: int, patients: int) -> None:
    """Copying a latent into a dead code, as is usual, publishes a patient."""
    generator, codes = rng(seed), first_state()["codes"]
    latents = codes[0] + 0.3 * torch.randn(patients, 6, D, generator=generator)  # all near one code: most others die
    _, indices = quantise(latents, codes)
    gate = torch.ones(patients, 6, dtype=torch.bool)
    fresh = {
        **code_statistics(latents, indices, gate, K),
        "prior": torch.zeros(C, N, K + 1),
        "requests": torch.zeros(C, S),
    }
    merged = merge_statistics(first_state(), [fresh])
    dead = (fresh["counts"] < 0.01 * fresh["counts"].mean()).nonzero().flatten()
    assert len(dead) > 0
    distances = torch.cdist(merged["codes"][dead], F.normalize(latents, dim=-1).reshape(-1, D))
    assert float(distances.min()) > 1e-4


def test_where_a_code_is_revived_depends_on_the_statistics_alone() -> None:
    """Two sets of patients with the same statistics give the same bits, whatever the global generator's state."""
    first, second = state_with([9.0, 0.0, 0.0, 3.0]), state_with([9.0, 0.0, 0.0, 3.0])
    torch.manual_seed(1)
    revive_dead_codes(first)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    revive_dead_codes(second)
    assert_equal_states(first, second, 0.0)
    assert torch.equal(torch.get_rng_state(), before)
