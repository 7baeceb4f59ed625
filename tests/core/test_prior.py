"""The class prior: where in the beat a token lies, what is counted there, and what is drawn from the counts."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavq_core.models.prior import AFTER_R, BEFORE_R, BIN, PHASES, beat_phases, count_codes, sample_codes

REST = PHASES - 1  # between beats
SEEDS = st.integers(0, 2**32 - 1)
C, K = 3, 4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- beat phases -----------------------------------------------------------------------------------------------------


def test_the_phases_are_80_ms_bins_and_one_for_the_rest() -> None:
    assert (BEFORE_R, AFTER_R, BIN) == (0.32, 0.64, 0.08)
    assert PHASES == 4 + 8 + 1


@pytest.mark.parametrize("empty", [[], np.empty(0, dtype=np.int64)])
def test_without_beats_everything_is_between_beats(empty: list[int] | np.ndarray) -> None:
    phases = beat_phases(np.asarray(empty), 125, 8, 100)
    assert phases.shape == (125,)
    assert phases.dtype == np.int64
    assert set(phases) == {REST}


def test_one_beat_by_hand() -> None:
    """R at sample 98 of 100 Hz; token n is centred on sample 8 n + 4, so token 12 lies 20 ms behind R."""
    phases = beat_phases(np.array([98]), 30, 8, 100)
    expected = np.full(30, REST)
    expected[8:12] = [0, 1, 2, 3]  # 300, 220, 140 and 60 ms before R
    expected[12:20] = [4, 5, 6, 7, 8, 9, 10, 11]  # 20 to 580 ms behind it
    np.testing.assert_array_equal(phases, expected)


def test_a_token_on_the_peak_and_on_the_borders() -> None:
    """R at sample 100, the centre of token 12. Before includes its borders and R itself, after excludes its end."""
    phases = beat_phases(np.array([100]), 30, 8, 100)
    assert phases[12] == 3
    assert phases[8] == 0  # 320 ms before
    assert phases[7] == REST  # 400 ms before
    assert phases[13] == 5  # 80 ms behind
    assert phases[20] == REST  # 640 ms behind


def test_before_the_first_and_behind_the_last_beat() -> None:
    phases = beat_phases(np.array([500, 600]), 125, 8, 100)
    assert set(phases[: (500 - 32) // 8 - 1]) == {REST}
    assert set(phases[(600 + 64) // 8 + 1 :]) == {REST}
    assert set(phases[58:83]) == set(range(PHASES))


def test_in_a_fast_rhythm_before_wins() -> None:
    """At 200 beats a minute every token lies within 320 ms of the next R peak."""
    phases = beat_phases(np.arange(10, 1000, 30), 125, 8, 100)
    assert set(phases[:120]) == {0, 1, 2, 3}


@settings(max_examples=40, deadline=None)
@given(peaks=st.sets(st.integers(0, 399), max_size=12), stride=st.sampled_from([2, 4, 8, 20]))
def test_phases_follow_their_definition(peaks: set[int], stride: int) -> None:
    """In exact arithmetic: no token changes its phase by rounding."""
    found = beat_phases(np.array(sorted(peaks), dtype=np.int64), 400 // stride, stride, 100)
    for token, phase in enumerate(found):
        centre = Fraction(2 * token + 1, 2) * stride  # samples of 10 ms
        until = min((peak - centre for peak in peaks if peak >= centre), default=None)
        since = min((centre - peak for peak in peaks if peak < centre), default=None)
        if until is not None and until <= 32:
            assert phase == max(0, 3 - until // 8)
        elif since is not None and since < 64:
            assert phase == 4 + since // 8
        else:
            assert phase == REST


@settings(max_examples=20, deadline=None)
@given(peaks=st.sets(st.integers(0, 399), max_size=12), tokens=st.integers(1, 60))
def test_phases_know_time_not_samples(peaks: set[int], tokens: int) -> None:
    """The same heart at 500 Hz has the same phases; a record that starts later has them moved."""
    at_100 = np.array(sorted(peaks), dtype=np.int64)
    np.testing.assert_array_equal(beat_phases(at_100, 50, 8, 100), beat_phases(5 * at_100, 50, 40, 500))
    later = beat_phases(at_100 + 8 * tokens, 50 + tokens, 8, 100)
    np.testing.assert_array_equal(later[tokens:], beat_phases(at_100, 50, 8, 100))


# --- counting --------------------------------------------------------------------------------------------------------


def batch(seed: int, records: int, tokens: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = rng(seed)
    return (
        torch.randint(K, (records, tokens), generator=generator),
        torch.rand(records, tokens, generator=generator) < 0.5,
        torch.randint(PHASES, (records, tokens), generator=generator),
        torch.rand(records, C, generator=generator),
    )


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, records=st.integers(0, 5))
def test_codes_are_counted_by_class_and_phase(seed: int, records: int) -> None:
    indices, gate, phases, classes = batch(seed, records)
    expected = torch.zeros(C, PHASES, K + 1)
    for b in range(records):
        for n in range(indices.shape[1]):
            symbol = int(indices[b, n]) if gate[b, n] else K  # the last column: left normal
            expected[:, phases[b, n], symbol] += classes[b]
    counted = count_codes(indices, gate, phases, classes, K)
    assert counted.dtype == torch.float32
    torch.testing.assert_close(counted, expected)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, records=st.integers(1, 8), cut=st.integers(0, 8))
def test_counts_add_up_over_any_split(seed: int, records: int, cut: int) -> None:
    parts = batch(seed, records)
    indices, gate, phases, classes = parts
    halves = [
        count_codes(indices[rows], gate[rows], phases[rows], classes[rows], K)
        for rows in (slice(cut), slice(cut, None))
    ]
    together = halves[0] + halves[1]
    torch.testing.assert_close(together, count_codes(*parts, K))
    torch.testing.assert_close(together.sum((1, 2)), parts[3].sum(0) * parts[0].shape[1])


# --- drawing ---------------------------------------------------------------------------------------------------------


def prior_with(seed: int, scale: float = 100.0) -> Tensor:
    """Counts of which about half are zero, one phase of every class without any code, one without anything."""
    generator = rng(seed)
    shape = (C, PHASES, K + 1)
    counts = scale * torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.5)
    counts[:, 0, :K] = 0.0
    counts[:, 1] = 0.0
    return counts


EVERY_PHASE = torch.arange(PHASES)


def draw(prior: Tensor, seed: int, strength: float = 1.0, twins: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """Classes in turn, and gate and codes of one token in every phase."""
    classes = torch.arange(twins) % C
    gate, codes = sample_codes(prior, classes, EVERY_PHASE.repeat(twins, 1), strength, rng(seed))
    return classes, gate, codes


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([1e-3, 1.0, 1e6]))
def test_a_code_never_seen_at_a_phase_of_a_class_is_never_drawn_there(seed: int, scale: float) -> None:
    prior = prior_with(seed, scale)
    classes, gate, codes = draw(prior, seed)
    seen = prior[classes[:, None], EVERY_PHASE, codes] > 0  # (twins, P)
    possible = prior[classes][..., :K].sum(-1) > 0  # (twins, P)
    assert bool(seen[possible].all())
    assert bool((gate[~possible] == 0).all())


def test_a_gate_is_shut_or_open_and_a_code_is_a_code() -> None:
    _, gate, codes = draw(prior_with(0), 0)
    assert gate.dtype == torch.float32
    assert codes.dtype == torch.int64
    assert gate.shape == codes.shape == (200, PHASES)
    assert set(gate.unique().tolist()) == {0.0, 1.0}
    assert int(codes.min()) >= 0
    assert int(codes.max()) < K


def test_strength_0_edits_nothing() -> None:
    assert not draw(prior_with(1), 1, strength=0.0)[1].any()


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, strengths=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)))
def test_more_strength_edits_more_and_nothing_else(seed: int, strengths: tuple[float, float]) -> None:
    prior, (weak, strong) = prior_with(seed), sorted(strengths)
    _, less, first = draw(prior, seed, weak)
    _, more, second = draw(prior, seed, strong)
    assert bool((more >= less).all())
    assert torch.equal(first, second)


def test_any_strength_edits_the_phase_that_is_edited_most_often() -> None:
    prior = prior_with(2)
    edited = prior[..., :K].sum(-1) / prior.sum(-1).clamp_min(1e-6)
    classes, gate, _ = draw(prior, 2, strength=0.01)
    assert bool((gate[torch.arange(200), edited.argmax(1)[classes]] == 1).all())


def test_what_is_edited_more_often_is_edited_first() -> None:
    """One threshold a twin: the gates of a class are nested, so that phases open together."""
    prior = prior_with(3)
    edited = prior[..., :K].sum(-1) / prior.sum(-1).clamp_min(1e-6)  # (C, P)
    classes, gate, _ = draw(prior, 3)
    for disease, opened in zip(classes, gate, strict=True):
        share = edited[disease]
        if opened.any() and not opened.all():
            assert float(share[opened == 1].min()) >= float(share[opened == 0].max())
    assert len({tuple(row.tolist()) for row in gate[classes == 0]}) > 1  # ... but not always the same ones


def test_a_disease_without_counts_edits_nothing() -> None:
    prior = prior_with(4)
    prior[1] = 0.0
    classes, gate, _ = draw(prior, 4)
    assert not gate[classes == 1].any()
    assert gate[classes == 0].any()


def test_a_disease_that_left_everything_normal_edits_nothing() -> None:
    prior = torch.zeros(C, PHASES, K + 1)
    prior[..., K] = 5.0
    assert not draw(prior, 5)[1].any()


def test_the_beats_of_a_twin_agree() -> None:
    phases = torch.randint(PHASES, (50, 125), generator=rng(0))
    gate, codes = sample_codes(prior_with(6), torch.arange(50) % C, phases, 1.0, rng(1))
    for twin in range(50):
        for phase in range(PHASES):
            here = phases[twin] == phase
            assert len(gate[twin, here].unique()) <= 1
            assert len(codes[twin, here].unique()) <= 1


def test_the_generator_decides_and_nothing_else() -> None:
    prior = prior_with(7)
    torch.manual_seed(1)
    first = draw(prior, 7)
    torch.manual_seed(2)
    again, other = draw(prior, 7), draw(prior, 8)
    assert torch.equal(first[1], again[1])
    assert torch.equal(first[2], again[2])
    assert not torch.equal(first[2], other[2])


def test_twins_of_one_request_differ() -> None:
    prior = torch.rand(C, PHASES, K + 1, generator=rng(9)) + 0.1
    gate, codes = sample_codes(prior, torch.zeros(40, dtype=torch.int64), EVERY_PHASE.repeat(40, 1), 1.0, rng(9))
    assert len({tuple(row.tolist()) for row in codes}) > 30
    assert len({tuple(row.tolist()) for row in gate}) > 5


def test_drawing_leaves_the_counts_alone() -> None:
    prior = prior_with(10)
    before = prior.clone()
    draw(prior, 10)
    assert torch.equal(prior, before)
