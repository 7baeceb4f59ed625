"""The class prior: what is counted for each token of the beat, and what is drawn from the counts alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavq_core.models.prior import available_diseases, count_codes, draw_from_counts, draw_statements

SEEDS = st.integers(0, 2**32 - 1)
C, N, K, S = 3, 9, 4, 6


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- counting --------------------------------------------------------------------------------------------------------


def batch(seed: int, records: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, gates and weights in the superclasses; the weights add up without rounding."""
    generator = rng(seed)
    return (
        torch.randint(K, (records, N), generator=generator),
        torch.rand(records, N, generator=generator) < 0.5,
        torch.randint(5, (records, C), generator=generator) / 4,
    )


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, records=st.integers(0, 5))
def test_codes_are_counted_by_class_and_place_in_the_beat(seed: int, records: int) -> None:
    indices, gate, classes = batch(seed, records)
    expected = torch.zeros(C, N, K + 1)
    for b in range(records):
        for n in range(N):
            symbol = int(indices[b, n]) if gate[b, n] else K  # the last column: left normal
            expected[:, n, symbol] += classes[b]
    counted = count_codes(indices, gate, classes, K)
    assert counted.dtype == torch.float32
    assert torch.equal(counted, expected)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, records=st.integers(1, 8), cut=st.integers(0, 8))
def test_counts_add_up_over_any_split(seed: int, records: int, cut: int) -> None:
    indices, gate, classes = batch(seed, records)
    halves = [count_codes(indices[rows], gate[rows], classes[rows], K) for rows in (slice(cut), slice(cut, None))]
    together = halves[0] + halves[1]
    assert torch.equal(together, count_codes(indices, gate, classes, K))
    assert torch.equal(together.sum(-1), classes.sum(0)[:, None].expand(C, N))  # a record counts once at every token


# --- drawing codes ---------------------------------------------------------------------------------------------------


def prior_with(seed: int) -> Tensor:
    """Counts of which about half are zero; one token of every class has no code, another nothing at all."""
    generator = rng(seed)
    shape = (C, N, K + 1)
    counts = 100.0 * torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.5)
    counts[:, 0, :K] = 0.0
    counts[:, 1] = 0.0
    return counts


CLASSES = torch.arange(300) % C


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_a_code_never_seen_at_a_place_of_a_class_is_never_drawn_there(seed: int) -> None:
    prior = prior_with(seed)
    drawn = draw_from_counts(prior, CLASSES, rng(seed))
    assert drawn.dtype == torch.int64
    assert drawn.shape == (len(CLASSES), N)
    seen = prior[CLASSES].gather(2, drawn[..., None])[..., 0] > 0
    assert bool((seen | (drawn == K)).all())
    assert bool((drawn[:, :2] == K).all())


def test_symbols_are_drawn_as_often_as_they_were_counted() -> None:
    prior = prior_with(0)
    drawn = draw_from_counts(prior, torch.full((5_000,), 1), rng(0))
    for n in range(2, N):
        shares = torch.bincount(drawn[:, n], minlength=K + 1) / len(drawn)
        torch.testing.assert_close(shares, prior[1, n] / prior[1, n].sum(), rtol=0.0, atol=0.04)


def test_a_disease_without_counts_edits_nothing() -> None:
    prior = prior_with(4)
    prior[1] = 0.0
    drawn = draw_from_counts(prior, CLASSES, rng(4))
    assert bool((drawn[CLASSES == 1] == K).all())
    assert bool((drawn[CLASSES == 0] < K).any())


def test_the_generator_decides_and_the_counts_stay() -> None:
    prior = prior_with(7)
    before = prior.clone()
    torch.manual_seed(1)
    first = draw_from_counts(prior, CLASSES, rng(7))
    torch.manual_seed(2)
    assert torch.equal(draw_from_counts(prior, CLASSES, rng(7)), first)
    assert not torch.equal(draw_from_counts(prior, CLASSES, rng(8)), first)
    assert torch.equal(prior, before)


def test_no_twins_no_symbols() -> None:
    assert draw_from_counts(prior_with(0), CLASSES[:0], rng(0)).shape == (0, N)


# --- drawing statements ----------------------------------------------------------------------------------------------


def test_statements_are_drawn_as_often_as_the_federation_has_seen_them() -> None:
    requests = torch.tensor([[0.0, 0, 0, 0, 0, 0], [6, 0, 3, 1, 0, 0], [0, 0.25, 0, 0, 0, 0]])
    drawn = draw_statements(requests, torch.arange(30_000) % 2 + 1, rng(0))
    assert drawn.dtype == torch.int64
    of_one, of_two = drawn[0::2], drawn[1::2]
    shares = torch.bincount(of_one, minlength=S) / len(of_one)
    torch.testing.assert_close(shares, requests[1] / 10, rtol=0.0, atol=0.02)
    assert of_two.unique().tolist() == [1]


def test_the_generator_decides_which_statement() -> None:
    requests, classes = torch.ones(C, S), torch.ones(50, dtype=torch.int64)
    first = draw_statements(requests, classes, rng(3))
    assert torch.equal(draw_statements(requests, classes, rng(3)), first)
    assert not torch.equal(draw_statements(requests, classes, rng(4)), first)
    assert len(first.unique()) == S


@pytest.mark.parametrize(("seen", "expected"), [([], []), ([3], [3]), ([0, 1, 4], [1, 4]), ([0], [])])
def test_the_diseases_that_can_be_made_are_those_that_were_seen(seen: list[int], expected: list[int]) -> None:
    """Healthy is no disease, whatever was counted for it."""
    requests = torch.zeros(5, S)
    requests[seen, 2] = 0.25
    assert available_diseases(requests).tolist() == expected
