"""What the figures say of twins whose answer is known: unedited originals, real records, and spoilt ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score

from lavq_core.data.database import Database
from lavq_core.errors import DataError
from lavq_core.metrics.twins import score_gap, unrequested_rate
from simulations.experiments.results_file import Row
from simulations.judges.bench import Bench, TwinSet, set_up
from simulations.judges.evaluate import evaluate, evaluate_real
from simulations.judges.intervals import auc, interval, jackknife, kolmogorov_smirnov, mean, patient_weights
from simulations.judges.jury import CRITERION, JUDGES
from simulations.judges.likeness import realism_figures
from simulations.judges.plan import make_plan

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"
ELSEWHERE = (1, 2, 3, 4, 5)
DISEASES = ("MI", "STTC", "CD", "HYP")


@pytest.fixture(scope="module")
def bench(sample_database: Database) -> Bench:
    return set_up(sample_database, sample_database.beats, 0, judge_folds=ELSEWHERE, held_out=(9, 10), epochs=2)


@pytest.fixture(scope="module")
def unedited(bench: Bench) -> dict[str, Row]:
    return by_metric(evaluate("unedited", bench.unedited(), bench, probe_epochs=0))


@pytest.fixture(scope="module")
def copied(bench: Bench) -> dict[str, Row]:
    """Twins that are the real records themselves: perfect in disease, and nothing of the patient left."""
    real = bench.signals(bench.plan.real)
    twins = TwinSet(real, np.ones_like(real[:, 0]), bench.beats.median[bench.plan.real])
    return by_metric(evaluate("copied", twins, bench, probe_epochs=0))


@pytest.fixture(scope="module")
def real(bench: Bench) -> dict[str, Row]:
    return by_metric(evaluate_real(bench, ELSEWHERE, (9, 10), probe_epochs=3))


def by_metric(rows: list[Row]) -> dict[str, Row]:
    found = {row.metric: row for row in rows}
    assert len(found) == len(rows)  # every metric once
    return found


def values(rows: dict[str, Row], prefix: str) -> np.ndarray:
    found = [row.value for metric, row in rows.items() if metric.split(".")[0] == prefix]
    assert found
    return np.array(found)


# Intervals


def test_a_draw_of_patients_weighs_all_their_records_in_every_group() -> None:
    twins, reals = np.array([1, 1, 2, 3]), np.array([3, 4, 4])
    first, second = patient_weights(twins, reals, seed=0, bootstraps=200)
    assert (first[0] == 1).all()
    assert (second[0] == 1).all()
    assert np.array_equal(first[:, 0], first[:, 1])
    assert np.array_equal(first[:, 3], second[:, 0])
    assert (first[1:, 0] + first[1:, 2] + first[1:, 3] + second[1:, 1] == 4).all()  # four patients a draw


def test_weighted_figures_without_weights_are_the_known_ones() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.4, 1, 70).round(1), rng.normal(0, 1, 50).round(1)  # with ties
    ones = np.ones((1, 70)), np.ones((1, 50))
    assert kolmogorov_smirnov(a, b, *ones)[0] == pytest.approx(ks_2samp(a, b).statistic)
    assert kolmogorov_smirnov(a, b, *ones)[0] == pytest.approx(score_gap(a, b).ks)
    assert auc(a, b, *ones)[0] == pytest.approx(roc_auc_score(np.r_[np.ones(70), np.zeros(50)], np.r_[a, b]))
    a[3] = np.nan
    assert mean(a, ones[0])[0] == pytest.approx(np.nanmean(a))


def test_a_record_drawn_twice_is_there_twice() -> None:
    rng = np.random.default_rng(0)
    a, b, times = rng.normal(size=30), rng.normal(size=20), rng.integers(0, 3, 30)
    drawn, one = times[None], np.ones((1, 20))
    again = np.repeat(a, times)
    assert kolmogorov_smirnov(a, b, drawn, one)[0] == pytest.approx(score_gap(again, b).ks)
    assert mean(a, drawn)[0] == pytest.approx(again.mean())


def test_a_centred_interval_lies_around_its_value() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=60), rng.normal(size=60)
    weights = patient_weights(np.arange(60), np.arange(60, 120))
    plain, centred = (interval(kolmogorov_smirnov(a, b, *weights), 60, centred=way) for way in (False, True))
    assert plain.value == centred.value
    assert centred.low < centred.value < centred.high
    assert plain.low > centred.low


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    found = jackknife(lambda keep: np.array([x[keep[0]].mean()]), [np.arange(4000)])[0]
    assert found.value == pytest.approx(x.mean())
    assert 0.3 < (found.high - found.low) / (2 * 2.26 / np.sqrt(4000)) < 2


# Unedited originals


def test_originals_score_as_themselves(unedited: dict[str, Row]) -> None:
    assert values(unedited, "judge_auc") == pytest.approx(0.5)
    assert values(unedited, "statement_auc") == pytest.approx(0.5)
    assert values(unedited, "average_treatment_effect") == pytest.approx(0)
    assert len(values(unedited, "judge_auc")) == len(DISEASES) * len(JUDGES)


def test_originals_are_their_patients_untouched(unedited: dict[str, Row]) -> None:
    assert values(unedited, "identity_top1") == pytest.approx(1)
    assert len(values(unedited, "identity_top1")) == len(DISEASES)
    assert unedited["heart_rate_within_3bpm"].value == 1
    assert unedited["outside_change_uV"].value == 0
    assert unedited["changed_share"].value == 0
    assert unedited["dtw"].value == pytest.approx(0, abs=1e-6)


def test_originals_lack_what_real_records_have(unedited: dict[str, Row], bench: Bench) -> None:
    gap = [unedited[f"judge_auc_gap.{name}.trees"] for name in DISEASES]
    assert np.mean([row.value for row in gap]) < -0.2
    assert sum(row.high < 0 for row in gap) >= 3
    assert (values(unedited, "score_ks") > 0.1).all()
    assert len({row.metric.split(".")[1] for row in unedited.values() if row.metric.startswith("statement_auc.")}) >= 6


def test_intervals_hold_their_values(unedited: dict[str, Row], copied: dict[str, Row], real: dict[str, Row]) -> None:
    for row in [*unedited.values(), *copied.values(), *real.values()]:
        assert row.low - 1e-9 <= row.value <= row.high + 1e-9, row
        assert row.seeds == 1
        assert row.n > 0


# Real records


def test_copies_of_the_real_records_reach_them_exactly(copied: dict[str, Row], real: dict[str, Row]) -> None:
    for metric in ("judge_auc_gap", "statement_auc_gap", "score_gap", "score_ks", "unrequested_excess"):
        assert values(copied, metric) == pytest.approx(0, abs=1e-9)
    for metric, row in real.items():
        if metric.split(".")[0] in ("judge_auc", "statement_auc", "unrequested"):
            assert copied[metric].value == pytest.approx(row.value)


def test_the_interval_of_a_gap_knows_whose_records_are_compared(copied: dict[str, Row]) -> None:
    """Twins are their patients' and come with these, real records with other patients: the difference varies."""
    for name in DISEASES:
        row = copied[f"judge_auc_gap.{name}.trees"]
        assert row.low < 0 < row.high


def test_copies_of_the_real_records_are_not_the_patients(copied: dict[str, Row]) -> None:
    assert values(copied, "identity_top1").max() < 0.2
    assert copied["heart_rate_within_3bpm"].value < 0.9
    assert copied["changed_share"].value == 1
    assert "outside_change_uV" not in copied  # nothing is outside
    assert copied["dtw"].value > 0.05


def test_unrequested_classes_are_those_of_the_metric(bench: Bench, real: dict[str, Row]) -> None:
    for judge in JUDGES:
        rows = bench.plan.labels[:, 1] == 1
        scores = bench.real.classes[judge][rows]
        rate = unrequested_rate(scores, bench.plan.labels[rows], bench.thresholds[judge])
        assert real[f"unrequested.MI.{judge}"].value == pytest.approx(rate)


def test_one_original_in_twenty_has_more_than_the_threshold(bench: Bench) -> None:
    _, first = np.unique(bench.plan.patient, return_index=True)
    for judge in JUDGES:
        above = bench.original.classes[judge][first] > bench.thresholds[judge]
        assert (np.abs(above.mean(axis=0) - 0.05) <= 1 / len(first)).all()


def test_what_the_textbook_cannot_find_is_no_sign_of_a_statement(bench: Bench) -> None:
    signal, median = np.zeros((2, 8, 1000), np.float32), np.zeros((2, 8, 96), np.float32)
    found = bench.jury.judge(signal, median).statements[CRITERION]
    assert {"LVH", "1AVB"} <= set(found)
    assert all((scores == -np.inf).all() for scores in found.values())


def test_real_records_elsewhere_look_real(real: dict[str, Row]) -> None:
    assert abs(real["probe_auc"].value - 0.5) < 0.15
    assert real["probe_auc"].low < 0.5 < real["probe_auc"].high
    assert {f"probe_auc.{name}" for name in DISEASES} <= set(real)


def test_another_record_of_a_patient_is_the_measure_of_identity(real: dict[str, Row]) -> None:
    assert 0.2 < real["identity_top1"].value < 1
    assert "judge_auc_gap.MI.trees" not in real  # the arm is what gaps are measured from


def test_folds_without_records_are_refused(bench: Bench) -> None:
    with pytest.raises(DataError, match="name more folds"):
        evaluate_real(bench, (), (9, 10))


# Spoilt twins


def test_a_change_outside_the_envelope_is_seen(bench: Bench) -> None:
    twins = bench.unedited()
    signal, envelope = twins.signal.copy(), twins.envelope.copy()
    signal[5, 2, 300] += 0.25
    signal[7, 3, 400] += 2.0
    envelope[7, 390:410] = 1.0
    found = by_metric(evaluate("leak", TwinSet(signal, envelope, twins.median), bench, probe_epochs=0))
    assert found["outside_change_uV"].value == pytest.approx(250, rel=1e-4)
    assert found["changed_share"].value == pytest.approx(20 / 1000 / len(bench.plan))


def test_a_changed_heart_rate_and_lost_beats_are_seen(bench: Bench) -> None:
    signal = bench.unedited().signal.copy()
    half = len(signal) // 2
    signal[:half] = signal[:half, :, np.arange(1000) * 8 // 10]  # slower by a fifth
    signal[-1] = 0.0
    twins = TwinSet.measured(signal, np.ones_like(signal[:, 0]), 100)
    found = by_metric(evaluate("slow", twins, bench, probe_epochs=0))
    assert found["heart_rate_within_3bpm"].value == pytest.approx((len(signal) - half - 1) / len(signal), abs=0.03)
    assert not twins.median[-1].any()


def test_the_probe_of_an_arm_finds_ringing(bench: Bench) -> None:
    real = bench.signals(bench.plan.real)
    ringing = real + 0.4 * np.sin(np.arange(1000) * np.pi / 2).astype(np.float32)  # mV, 25 Hz
    figures = dict(realism_figures(ringing, bench.patients(bench.plan.real), bench, probe_epochs=10))
    assert figures["probe_auc"].value > 0.9
    assert "frechet" not in figures  # fewer ECGs than features


def test_distances_of_sets_know_their_own(bench: Bench) -> None:
    """All folds bring enough records for a Gaussian of the features."""
    database = bench.database
    whole = replace(bench, plan=make_plan(database, bench.beats, 0, range(1, 11)))
    real, patients = whole.signals(whole.plan.real), whole.patients(whole.plan.real)
    same = dict(realism_figures(real, patients, whole, probe_epochs=0))
    one = real[:1] + 0.01 * np.random.default_rng(0).standard_normal(real.shape).astype(np.float32)
    collapsed = dict(realism_figures(one, patients, whole, probe_epochs=0))
    assert "probe_auc" not in same
    assert same["frechet"].value == pytest.approx(0, abs=1e-6)
    assert same["knn_precision"].value == same["knn_recall"].value == 1
    assert collapsed["frechet"].low > 0
    assert collapsed["knn_precision"].value == 1  # it looks real
    assert collapsed["knn_recall"].value < 0.05  # and is always the same
    assert collapsed["knn_precision"].low >= 0
    assert collapsed["knn_precision"].high == 1


def test_every_request_needs_its_twin(bench: Bench) -> None:
    twins = bench.unedited()
    with pytest.raises(ValueError, match="do not answer"):
        evaluate("short", TwinSet(twins.signal[:-1], twins.envelope[:-1], twins.median[:-1]), bench)
