"""The codebook is what its summed statistics say, whoever summed them: what the server makes of the sites."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lavq_core.models.codebook import (
    STATISTICS,
    merge_statistics,
)
from tests.core.codebooks import SEEDS, K, add_up, assert_equal_states, first_state, records


@settings(max_examples=30, deadline=None)
@given(
    seed=SEEDS,
    owners=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    order=st.permutations(range(4)),
    decay=st.floats(0.0, 1.0),
)
def test_any_split_over_sites_in_any_order_gives_the_codebook_of_the_pooled_data(
    seed: int, owners: list[int], order: list[int], decay: float
) -> None:
    running = merge_statistics(first_state(), [add_up(records(seed ^ 1, 3))])
    patients = records(seed, len(owners))
    sites = [add_up([part for part, owner in zip(patients, owners, strict=True) if owner == site]) for site in order]
    pooled = merge_statistics(running, [add_up(patients)], decay)
    assert_equal_states(merge_statistics(running, sites, decay), pooled, 0.0)  # bit for bit


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, rounds=st.integers(1, 4), sites=st.integers(1, 3))
def test_codes_stay_unit_vectors_and_counts_stay_finite_and_positive(seed: int, rounds: int, sites: int) -> None:
    state = first_state()
    for number in range(rounds):
        state = merge_statistics(state, [add_up(records(seed + 10 * number + site, 2)) for site in range(sites)])
        torch.testing.assert_close(state["codes"].norm(dim=-1), torch.ones(K), rtol=1e-6, atol=1e-6)
        assert all(torch.isfinite(value).all() and value.dtype == torch.float32 for value in state.values())
        assert bool((state["counts"] >= 0).all())
        assert bool((state["prior"] >= 0).all())


def test_a_used_code_is_the_direction_of_its_latents() -> None:
    fresh = add_up(records(5, 40))
    merged = merge_statistics(first_state(), [fresh])
    assert bool((fresh["counts"] > 0).all())
    torch.testing.assert_close(merged["codes"], F.normalize(fresh["sums"], dim=-1))
    torch.testing.assert_close(merged["sums"], fresh["sums"])


def test_running_statistics_decay() -> None:
    fresh = add_up(records(5, 40))
    state = merge_statistics(first_state(), [fresh])
    for number in range(1, 4):
        state = merge_statistics(state, [fresh], decay=0.25)
        kept = sum(0.25**i for i in range(number + 1))
        for name in STATISTICS:
            torch.testing.assert_close(state[name], kept * fresh[name])


def test_a_silent_round_keeps_every_direction() -> None:
    first = first_state()
    assert_equal_states(merge_statistics(first, [add_up([])]), first)
    used = merge_statistics(first, [add_up(records(5, 40))])
    assert_equal_states({"codes": merge_statistics(used, [add_up([])])["codes"]}, {"codes": used["codes"]})


def test_a_site_without_statistics_changes_nothing() -> None:
    state, fresh = first_state(), add_up(records(5, 3))
    assert_equal_states(merge_statistics(state, [fresh, add_up([])]), merge_statistics(state, [fresh]), 0.0)


def test_merging_leaves_its_arguments_alone() -> None:
    state, fresh = merge_statistics(first_state(), [add_up(records(1, 2))]), add_up(records(2, 1))
    before = {name: value.clone() for name, value in {**state, **{f"fresh {k}": v for k, v in fresh.items()}}.items()}
    merge_statistics(state, [fresh])
    for name, value in {**state, **{f"fresh {k}": v for k, v in fresh.items()}}.items():
        assert torch.equal(value, before[name]), name


def test_latents_that_cancel_leave_their_code_where_it_was() -> None:
    state, fresh = first_state(), add_up([])
    fresh["counts"] += 2.0  # two opposite latents each: the sums are 0
    assert_equal_states({"codes": merge_statistics(state, [fresh])["codes"]}, {"codes": state["codes"]})
