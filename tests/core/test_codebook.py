"""The codebook: where it starts, quantisation, its losses, the statistics of a site, perplexity."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from torch.nn import functional as F

from lavq_core.models.codebook import (
    STATISTICS,
    code_statistics,
    commitment_loss,
    initial_codebook,
    no_statistics,
    perplexity,
    quantise,
    usage_loss,
)
from tests.core.codebooks import CONFIG, SEEDS, C, D, K, N, S, first_state, rng, unit


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
