"""The codebook is what its summed statistics say, whoever summed them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from torch import Tensor
from torch.nn import functional as F

from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements
from lavq_core.models.codebook import (
    STATISTICS,
    CodebookState,
    code_statistics,
    commitment_loss,
    initial_codebook,
    merge_statistics,
    no_statistics,
    perplexity,
    quantise,
    revive_dead_codes,
    usage_loss,
)
from lavq_core.models.prior import count_codes
from lavq_core.settings import CodebookConfig

K, D, N = 7, 5, 20
C, S = len(SUPERCLASSES), len(diagnostic_statements())
SEEDS = st.integers(0, 2**32 - 1)
CONFIG = CodebookConfig(size=K, dim=D)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=rng(seed)), dim=-1)


def first_state() -> CodebookState:
    return initial_codebook(CONFIG, N, 0)


def records(seed: int, count: int) -> list[dict[str, Tensor]]:
    """The statistics of single records: latents of N tokens, quantised, counted and summed.

    They are rounded to 1 / 4096, so that float32 adds them up without an error.
    """
    generator = rng(seed)
    codes = first_state()["codes"]
    found = []
    for _ in range(count):
        latents = torch.randn(1, N, D, generator=generator)
        gate = torch.rand(1, N, generator=generator) < 0.6
        weights = torch.randint(5, (1, C), generator=generator) / 4
        statements = (torch.rand(1, S, generator=generator) < 0.1).float()
        _, indices = quantise(latents, codes)
        part = {
            **code_statistics(latents, indices, gate, K),
            "prior": count_codes(indices, gate, weights, K),
            "requests": weights.T @ statements,
        }
        found.append({name: (4096 * value).round() / 4096 for name, value in part.items()})
    return found


def add_up(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The sum of some records' statistics in float32, as a site computes it; zeros for no record."""
    empty = first_state()
    total = {name: torch.zeros_like(empty[name]) for name in STATISTICS}
    for part in parts:
        for name in STATISTICS:
            total[name] += part[name]
    return total


def assert_equal_states(first: CodebookState, second: CodebookState, tolerance: float = 1e-5) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=tolerance, atol=tolerance, msg=f"{name} differs")


def test_the_first_codebook_is_directions_without_statistics() -> None:
    state = initial_codebook(CONFIG, N, seed=3)
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "codes": (K, D),
        "counts": (K,),
        "sums": (K, D),
        "prior": (C, N, K + 1),
        "requests": (C, S),
    }
    assert all(value.dtype == torch.float32 for value in state.values())
    torch.testing.assert_close(state["codes"].norm(dim=-1), torch.ones(K))
    assert all(not state[name].any() for name in STATISTICS)


def test_nothing_to_say_is_said_in_zeros() -> None:
    silent, state = no_statistics(CONFIG, N), first_state()
    assert tuple(silent) == STATISTICS
    assert {name: value.shape for name, value in silent.items()} == {name: state[name].shape for name in STATISTICS}
    assert not any(value.any() for value in silent.values())


def test_the_first_codebook_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = initial_codebook(CONFIG, N, seed=3)
    torch.manual_seed(2)
    assert torch.equal(first["codes"], initial_codebook(CONFIG, N, seed=3)["codes"])
    assert not torch.equal(first["codes"], initial_codebook(CONFIG, N, seed=4)["codes"])


# --- quantisation ----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, length=st.floats(1e-3, 1e3))
def test_the_nearest_code_is_the_nearest_whatever_a_latents_length(seed: int, length: float) -> None:
    codes, latents = unit(K, D, seed=seed), torch.randn(2, 3, D, generator=rng(seed + 1))
    quantised, indices = quantise(length * latents, codes)
    for b in range(2):
        for n in range(3):
            direction = latents[b, n].double() / latents[b, n].double().norm()
            distances = [float((direction - code.double()).norm()) for code in codes]
            assert distances[int(indices[b, n])] <= min(distances) + 1e-6
            assert torch.equal(quantised[b, n], codes[indices[b, n]])


def test_the_gradient_passes_straight_through_to_the_unit_latent() -> None:
    codes = unit(K, D).requires_grad_()
    latents = torch.randn(4, 6, D, generator=rng(1), requires_grad=True)
    incoming = torch.randn(4, 6, D, generator=rng(2))
    (quantise(latents, codes)[0] * incoming).sum().backward()
    (expected,) = torch.autograd.grad((F.normalize(latents, dim=-1) * incoming).sum(), latents)
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, expected)
    assert codes.grad is None  # codes move by their statistics, or not at all


# --- losses ----------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_commitment_is_the_weighted_mean_distance_to_the_nearest_code(seed: int) -> None:
    codes, latents = unit(K, D, seed=seed), torch.randn(3, 4, D, generator=rng(seed))
    weight = (torch.rand(3, 4, generator=rng(seed)) < 0.7).float()
    total, open_tokens = 0.0, 0
    for b in range(3):
        for n in range(4):
            if weight[b, n]:
                cosines = [float(F.cosine_similarity(latents[b, n], code, dim=0)) for code in codes]
                total += 1.0 - max(cosines)
                open_tokens += 1
    assert float(commitment_loss(latents, codes, weight)) == pytest.approx(total / max(open_tokens, 1), abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, temperature=st.floats(0.05, 2.0))
def test_usage_is_log_k_minus_the_entropy_of_the_mean_soft_assignment(seed: int, temperature: float) -> None:
    codes, latents = unit(K, D, seed=seed), torch.randn(3, 4, D, generator=rng(seed))
    weight = (torch.rand(3, 4, generator=rng(seed)) < 0.7).float()
    weight[0, 0] = 1.0
    mean = [0.0] * K
    for b in range(3):
        for n in range(4):
            exponents = [math.exp(float(F.cosine_similarity(latents[b, n], c, dim=0)) / temperature) for c in codes]
            for k in range(K):
                mean[k] += float(weight[b, n]) * exponents[k] / sum(exponents) / float(weight.sum())
    expected = math.log(K) - entropy(mean)
    assert float(usage_loss(latents, codes, weight, temperature)) == pytest.approx(expected, abs=1e-5)
    assert expected >= 0.0


def test_usage_is_nothing_when_all_codes_are_used_alike_and_log_k_when_one_is() -> None:
    codes = torch.eye(D)
    everywhere = torch.ones(1, D)
    assert float(usage_loss(torch.eye(D)[None], codes, everywhere, 0.01)) == pytest.approx(0.0, abs=1e-5)
    same = codes[0].expand(1, D, D)
    assert float(usage_loss(same, codes, everywhere, 0.01)) == pytest.approx(math.log(D), abs=1e-5)


@pytest.mark.parametrize("loss", [commitment_loss, usage_loss])
def test_tokens_outside_the_gate_have_no_part_in_a_loss(loss) -> None:
    codes, latents = unit(K, D), torch.randn(2, 6, D, generator=rng(1))
    weight = torch.tensor([[1.0, 0, 1, 0, 0, 1], [0, 0, 0, 1, 0, 0]])
    other = torch.where(weight[..., None] > 0, latents, torch.randn(2, 6, D, generator=rng(2)))
    torch.testing.assert_close(loss(latents, codes, weight), loss(other, codes, weight))
    assert torch.isfinite(loss(latents, codes, torch.zeros(2, 6)))


# --- statistics ------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_statistics_count_and_sum_the_gated_unit_latents(seed: int) -> None:
    codes, latents = unit(K, D, seed=seed), torch.randn(3, 8, D, generator=rng(seed))
    gate = torch.rand(3, 8, generator=rng(seed)) < 0.5
    _, indices = quantise(latents, codes)
    counts, sums = [0] * K, torch.zeros(K, D)
    for b in range(3):
        for n in range(8):
            if gate[b, n]:
                counts[int(indices[b, n])] += 1
                sums[int(indices[b, n])] += latents[b, n] / latents[b, n].norm()
    found = code_statistics(latents, indices, gate, K)
    assert found["counts"].tolist() == counts
    torch.testing.assert_close(found["sums"], sums, rtol=1e-5, atol=1e-5)
    assert found["counts"].dtype == found["sums"].dtype == torch.float32


# --- merging ---------------------------------------------------------------------------------------------------------


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


# --- dead codes ------------------------------------------------------------------------------------------------------


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


# --- perplexity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 64])
def test_uniform_counts_have_perplexity_k(size: int) -> None:
    assert perplexity(torch.full((size,), 3.0)) == pytest.approx(size)


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.floats(0, 1e4), min_size=1, max_size=20))
def test_perplexity_is_the_exponential_of_the_entropy(counts: list[float]) -> None:
    expected = math.exp(entropy(counts)) if sum(counts) > 1e-3 else None
    if expected is not None:
        assert perplexity(torch.tensor(counts, dtype=torch.float64)) == pytest.approx(expected, rel=1e-6)


def test_perplexity_of_nothing_and_of_one_code() -> None:
    assert perplexity(torch.zeros(5)) == 0.0
    assert perplexity(torch.tensor([0.0, 8.0, 0.0])) == pytest.approx(1.0)
