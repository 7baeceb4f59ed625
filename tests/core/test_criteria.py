"""Textbook criteria on drawn beats of known width, intervals and voltages, and on PTB-XL where there is one."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavq_core.data.database import Database
from lavq_core.errors import ConfigError
from lavq_core.metrics.auc import weighted_auc
from lavq_core.signals.beats import BEFORE, find_beats, frame_length
from lavq_core.signals.criteria import (
    CRITERIA,
    criterion_score,
    frontal_axis,
    initial_voltage,
    net_share,
    pr_interval,
    q_waves,
    qrs_duration,
    r_peak_time,
    sokolow_lyon,
    st_level,
    t_amplitude,
    terminal_voltage,
)
from lavq_core.signals.delineation import delineate
from lavq_core.signals.leads import INDEPENDENT_LEADS, LEADS

FULL = os.environ.get("LAVQ_PTBXL", "")
HEALTHY = {"I": 0.8, "II": 1.2, "V1": -1.0, "V2": -1.2, "V3": -0.5, "V4": 0.9, "V5": 1.3, "V6": 1.0}

Wave = tuple[float, float, float]  # from, to (s around the R peak), mV


def hump(time: np.ndarray, start: float, stop: float, height: float) -> np.ndarray:
    """One period of a raised cosine: smooth, of known beginning, end and height."""
    phase = np.clip((time - start) / (stop - start), 0, 1)
    return height * (1 - np.cos(2 * np.pi * phase)) / 2


def draw(waves: dict[str, list[Wave]], rate: int = 100) -> np.ndarray:
    """One beat ``(1, 8, W)`` mV: per lead the sum of its waves; "all" for every lead, as P or T."""
    time = np.arange(frame_length(rate)) / rate - BEFORE
    rows = [
        sum((hump(time, *w) for w in waves.get(lead, []) + waves.get("all", [])), 0 * time)
        for lead in INDEPENDENT_LEADS
    ]
    return np.stack(rows)[None]


def healthy(width: float = 0.09, pr: float = 0.16, t: float = 0.3, rate: int = 100, **voltage: float) -> np.ndarray:
    """A beat of one-hump QRS complexes, with P before and T after it."""
    onset = -width / 2
    waves: dict[str, list[Wave]] = {lead: [(onset, -onset, v)] for lead, v in (HEALTHY | voltage).items()}
    return draw(waves | {"all": [(onset - pr, onset - pr + 0.1, 0.12), (0.18, 0.38, t)]}, rate)


def column(values: np.ndarray, lead: str) -> float:
    return float(values[0, LEADS.index(lead)])


@settings(max_examples=25, deadline=None)
@given(width=st.floats(0.07, 0.18), rate=st.sampled_from([100, 500]), size=st.floats(0.3, 3.0))
def test_qrs_is_as_wide_as_it_was_drawn(width: float, rate: int, size: float) -> None:
    """Velocity is taken over 20 ms, so a narrow QRS gains some ms and none is lost."""
    measured = qrs_duration(delineate(size * healthy(width, rate=rate), rate))
    assert -2 <= measured[0] - 1000 * width <= 14


def test_a_notch_or_a_late_r_belongs_to_the_same_qrs() -> None:
    notched = draw({"I": [(-0.08, 0.02, 0.9), (-0.01, 0.09, 0.8)], "V1": [(-0.08, 0.09, -1.0)]})
    assert qrs_duration(delineate(notched, 100))[0] == pytest.approx(170, abs=15)
    late = draw({"I": [(-0.04, 0.04, 1.0)], "V1": [(0.04, 0.10, 0.4)]})
    assert qrs_duration(delineate(late, 100))[0] == pytest.approx(140, abs=15)


@settings(max_examples=25, deadline=None)
@given(pr=st.floats(0.12, 0.26), rate=st.sampled_from([100, 500]))
def test_pr_runs_from_p_to_qrs(pr: float, rate: int) -> None:
    """The tangent cuts the foot of a raised cosine, 10 to 20 ms; the QRS onset does not."""
    measured = pr_interval(delineate(healthy(pr=pr, rate=rate), rate))
    assert 1000 * pr - 25 < measured[0] < 1000 * pr + 8


def test_longer_pr_measures_longer_by_as_much() -> None:
    beats = np.concatenate([healthy(pr=pr) for pr in (0.14, 0.18, 0.22, 0.26)])
    np.testing.assert_allclose(np.diff(pr_interval(delineate(beats, 100))), 40, atol=8)


def test_no_p_no_interval() -> None:
    lone = delineate(draw({lead: [(-0.05, 0.05, v)] for lead, v in HEALTHY.items()}), 100)
    assert np.isnan(pr_interval(lone)).all()
    assert np.isfinite(qrs_duration(lone)).all()


@settings(max_examples=15, deadline=None)
@given(s=st.floats(0.2, 2.5), r5=st.floats(0.2, 2.5), r6=st.floats(0.2, 2.5))
def test_sokolow_lyon_adds_s_of_v1_and_the_taller_r(s: float, r5: float, r6: float) -> None:
    beat = healthy(width=0.1, V1=-s, V5=r5, V6=r6)
    assert sokolow_lyon(delineate(beat, 100))[0] == pytest.approx(s + max(r5, r6), rel=0.03)


def test_q_waves_have_a_width_and_a_depth() -> None:
    """Q of 40 ms and 0.3 mV in II alone gives III the same and aVF too, since I has none."""
    waves: dict[str, list[Wave]] = {lead: [(-0.03, 0.05, abs(v))] for lead, v in HEALTHY.items()}
    waves["II"] = [(-0.07, -0.03, -0.3), *waves["II"]]
    waves["V2"] = [(-0.07, 0.05, -1.0)]
    duration, depth = q_waves(delineate(draw(waves), 100))
    np.testing.assert_allclose(depth[0], 0.3, atol=0.03)
    np.testing.assert_allclose(duration[0], 35, atol=10)


def test_an_r_before_it_makes_an_s_of_a_q() -> None:
    waves: dict[str, list[Wave]] = {lead: [(-0.05, 0.0, 0.3), (0.0, 0.06, -1.0)] for lead in ("II", "V1")}
    duration, depth = q_waves(delineate(draw(waves), 100))
    assert duration[0, 0] <= 4
    assert depth[0, 0] < 0.02


def test_a_complex_without_r_is_all_q() -> None:
    marks = delineate(healthy(width=0.1, II=-1.0, I=0.5), 100)
    duration, depth = q_waves(marks)
    assert depth[0, 0] == pytest.approx(1.0, rel=0.03)
    assert 60 < duration[0, 0] <= qrs_duration(marks)[0]
    assert criterion_score("IMI", healthy(II=-1.0), 100)[0] > 30 > criterion_score("IMI", healthy(), 100)[0]


@settings(max_examples=25, deadline=None)
@given(angle=st.floats(-175, 175))
def test_the_axis_is_the_heart_vectors(angle: float) -> None:
    """A dipole at this angle gives I its cosine and II its cosine 60 degrees away."""
    beat = healthy(I=float(np.cos(np.radians(angle))), II=float(np.cos(np.radians(angle - 60))))
    assert frontal_axis(delineate(beat, 100))[0] == pytest.approx(angle, abs=2)


def test_t_and_st_are_measured_over_the_pr_segment() -> None:
    waves: dict[str, list[Wave]] = {lead: [(-0.05, 0.05, v)] for lead, v in HEALTHY.items()}
    waves |= {"V5": [*waves["V5"], (0.2, 0.4, -0.25)], "V2": [*waves["V2"], (0.2, 0.4, 0.6)]}
    waves |= {"I": [*waves["I"], (-0.05, 0.27, -0.2)]}  # ST 0.2 mV down, deepest at 60 ms after J
    marks = delineate(draw(waves) + 0.7, 100)  # an offset of the record
    t, level = t_amplitude(marks), st_level(marks)
    assert column(t, "V5") == pytest.approx(-0.25, abs=0.02)
    assert column(t, "V2") == pytest.approx(0.6, abs=0.02)
    assert column(level, "V5") == pytest.approx(0.0, abs=0.02)
    assert column(level, "I") == pytest.approx(-0.2, abs=0.03)
    assert column(level, "aVR") == pytest.approx(0.1, abs=0.03)  # half of I's, the other way


LEFT_BUNDLE: dict[str, list[Wave]] = {
    "I": [(-0.07, 0.09, 0.9)],
    "II": [(-0.07, 0.09, 0.4)],
    "V1": [(-0.07, 0.09, -1.2)],
    "V2": [(-0.07, 0.09, -1.5)],
    "V5": [(-0.07, 0.09, 1.0)],
    "V6": [(-0.07, 0.03, 0.8), (-0.01, 0.09, 0.8)],
}
RIGHT_BUNDLE: dict[str, list[Wave]] = {
    "I": [(-0.05, 0.03, 1.0), (0.03, 0.1, -0.3)],
    "II": [(-0.05, 0.03, 1.0)],
    "V1": [(-0.05, -0.01, 0.2), (-0.02, 0.02, -0.3), (0.0, 0.1, 1.0)],
    "V6": [(-0.05, 0.03, 1.2), (0.03, 0.1, -0.4)],
}


def test_the_shape_of_v1_tells_the_bundle_branches_apart() -> None:
    """Wide alone is neither: each block scores above 0 on its own criterion only, a healthy beat on none."""
    beats = np.concatenate([draw(LEFT_BUNDLE), draw(RIGHT_BUNDLE), healthy()])
    assert (criterion_score("CLBBB", beats, 100) > 0).tolist() == [True, False, False]
    assert (criterion_score("CRBBB", beats, 100) > 0).tolist() == [False, True, False]
    marks = delineate(beats, 100)
    end = terminal_voltage(marks)[:, [LEADS.index("V1"), LEADS.index("I")]]
    assert (end[1] * [1, -1] > 0.1).all()
    assert net_share(marks)[0, LEADS.index("V1")] == pytest.approx(-1, abs=0.02)
    assert r_peak_time(marks)[0, LEADS.index("I")] == pytest.approx(80, abs=10)


def test_the_first_20_ms_miss_the_septal_r_of_an_infarction() -> None:
    r_first: dict[str, list[Wave]] = {lead: [(-0.06, -0.02, 0.4), (-0.03, 0.05, -1.0)] for lead in ("V1", "V2", "V3")}
    q_first: dict[str, list[Wave]] = {lead: [(-0.06, 0.05, -1.0)] for lead in ("V1", "V2", "V3")}
    kept, lost = delineate(draw(r_first), 100), delineate(draw(q_first), 100)
    assert column(initial_voltage(kept), "V2") > 0.05 > 0 > column(initial_voltage(lost), "V2")


@pytest.mark.parametrize(
    ("statement", "more", "less"),
    [
        ("LVH", healthy(V1=-2.0, V5=2.5), healthy()),
        ("LAFB", healthy(I=0.8, II=-0.6), healthy()),
        ("1AVB", healthy(pr=0.24), healthy(pr=0.15)),
        ("NDT", healthy(t=0.03), healthy(t=0.3)),
        ("NDT", healthy(t=0.03), healthy(t=-0.5)),
        ("ISC_", healthy(t=-0.3), healthy(t=0.3)),
    ],
)
def test_more_of_it_scores_higher(statement: str, more: np.ndarray, less: np.ndarray) -> None:
    high, low = criterion_score(statement, np.concatenate([more, less]), 100)
    assert high > low


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.floats(0.3, 3.0), offset=st.floats(-1, 1))
def test_gain_and_offset_change_no_interval(seed: int, size: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    beat = healthy(**{lead: v * rng.uniform(0.5, 1.5) for lead, v in HEALTHY.items()})
    plain, other = delineate(beat, 100), delineate(size * beat + offset, 100)
    np.testing.assert_allclose(qrs_duration(other), qrs_duration(plain))
    np.testing.assert_allclose(frontal_axis(other), frontal_axis(plain), atol=1e-6)
    np.testing.assert_allclose(t_amplitude(other), size * t_amplitude(plain), atol=1e-9)
    np.testing.assert_allclose(sokolow_lyon(other), size * sokolow_lyon(plain))


def test_a_batch_is_its_beats_and_what_is_no_beat_scores_nan() -> None:
    damaged = healthy()
    damaged[0, 3, 7] = np.nan
    beats = np.concatenate([healthy(), np.zeros_like(damaged), damaged, healthy(width=0.15, pr=0.2)])
    for statement in CRITERIA:
        together = criterion_score(statement, beats, 100)
        assert together.shape == (4,)
        assert np.isnan(together).tolist() == [False, True, True, False]
        alone = [criterion_score(statement, beats[row : row + 1], 100)[0] for row in (0, 3)]
        np.testing.assert_allclose(together[[0, 3]], alone)
    assert criterion_score("LVH", beats[:0], 100).shape == (0,)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ConfigError, match="'AFIB': choose one of CLBBB"):
        criterion_score("AFIB", healthy(), 100)
    with pytest.raises(ValueError, match=r"\(n, 8, 96\) at 100 Hz"):
        delineate(healthy()[..., :-1], 100)


def test_criteria_are_of_statements_that_exist_and_real_beats_can_be_measured(sample_database: Database) -> None:
    assert set(CRITERIA) <= set(sample_database.statements.index)
    beats = find_beats(sample_database.signals(np.arange(100)).numpy(), 100)
    marks = delineate(beats.median[beats.found()], 100)
    assert 70 < np.median(qrs_duration(marks)) < 120
    assert 120 < np.nanmedian(pr_interval(marks)) < 200
    assert np.isnan(pr_interval(marks)).mean() < 0.15


@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="LAVQ_PTBXL IS NOT SET: no criterion was tested on the full PTB-XL")
def test_every_criterion_tells_its_statement_from_normal_records(full_database: Database) -> None:
    database = full_database
    rng = np.random.default_rng(0)

    def beats_of(mask: np.ndarray) -> np.ndarray:
        beats = database.beats.take(rng.permutation(np.flatnonzero(mask))[:150])
        return beats.median[beats.found()]

    normal = beats_of(database.norm_only())
    for statement in CRITERIA:
        abnormal = beats_of(np.array([statement in codes for codes in database.table["statements"]]))
        scores = np.concatenate([criterion_score(statement, beats, 100) for beats in (abnormal, normal)])
        labels, known = np.r_[np.ones(len(abnormal)), np.zeros(len(normal))], ~np.isnan(scores)
        auc = weighted_auc(labels[known], scores[known], np.ones((1, known.sum())))[0]
        assert auc > 0.82, (statement, auc)
