"""The experiment ``noise``: remarks are read right and never trained on, and figures follow from the scores."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lavq_core.data.database import Database
from simulations.experiments.noise import ARMS, REMARKS, measure, remarks, score_seed, within
from simulations.experiments.noise_clusters import Clusters
from simulations.experiments.readme_tables import LAYOUTS
from simulations.experiments.results_file import Row
from simulations.launch import SAMPLE


@pytest.fixture(scope="module")
def scores(sample_database: Database) -> pd.DataFrame:
    """Made scores of folds 9 and 10, two seeds: ``learned`` knows what was remarked, ``random`` nothing."""
    rng, parts = np.random.default_rng(0), []
    rows = sample_database.in_folds(9, 10)
    noisy = remarks(sample_database).iloc[rows].any(axis=1).to_numpy()
    for seed in (0, 1):
        table = pd.DataFrame({"ecg_id": sample_database.table.index[rows], "seed": seed})
        for arm in ARMS:
            table[arm] = rng.normal(size=len(rows))
        table["learned"] += 2.0 * noisy
        table["rules"] = (rng.random(len(rows)) < np.where(noisy, 0.4, 0.1)).astype(float)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def rows(scores: pd.DataFrame, sample_database: Database) -> dict[tuple[str, str], Row]:
    return {(row.arm, row.metric): row for row in measure(scores, remarks(sample_database), sample_database)}


def test_a_remark_is_any_text_in_its_own_column(sample_database: Database) -> None:
    raw = pd.read_csv(SAMPLE / "ptbxl_database.csv", index_col="ecg_id").loc[sample_database.table.index]
    found = remarks(sample_database)
    assert list(found.columns) == list(REMARKS)
    for name in REMARKS:
        assert np.array_equal(found[name], raw[name].notna()), name
    assert 40 < found["static_noise"].sum() < 70


def test_within_a_group_is_the_share_of_its_own_pairs_in_the_right_order() -> None:
    labels = np.array([1, 0, 0, 1, 0, 1])
    scores = np.array([5.0, 1.0, 6.0, 0.0, -1.0, 9.0])
    groups = np.array(["a", "a", "a", "b", "b", "c"])  # c has no negative: it has no pair
    assert within(labels, scores, np.ones((1, 6)), groups)[0] == pytest.approx((1 + 0 + 1) / 3)
    drawn = within(labels, scores, np.array([[2.0, 1.0, 0.0, 1.0, 1.0, 1.0]]), groups)
    assert drawn[0] == pytest.approx(1.0)
    assert np.isnan(within(labels[5:], scores[5:], np.ones((1, 1)), groups[5:])[0])


def test_one_group_gives_sklearns_auc(scores: pd.DataFrame) -> None:
    y, said = np.random.default_rng(1).integers(0, 2, 80), scores["learned"].to_numpy()[:80]
    assert within(y, said, np.ones((1, 80)), np.zeros(80))[0] == pytest.approx(roc_auc_score(y, said))


def test_what_knows_stands_out_and_what_does_not_is_at_chance(rows: dict[tuple[str, str], Row]) -> None:
    assert rows["learned", "auc.any"].low > 0.7
    assert rows["random", "auc.any"].low < 0.5 < rows["random", "auc.any"].high
    assert rows["learned", "auc.abnormal"].low < 0.5 < rows["learned", "auc.abnormal"].high
    assert ("learned", "auc.burst_noise") not in rows, "nobody remarked one on these folds: there is no figure"
    assert rows["learned", "auc.any"].seeds == 2


def test_arms_are_compared_at_the_gates_own_rate_of_alarms(
    scores: pd.DataFrame, rows: dict[tuple[str, str], Row], sample_database: Database
) -> None:
    noisy = remarks(sample_database).any(axis=1).loc[scores["ecg_id"][scores["seed"] == 0]].to_numpy()
    shares = [float((part["rules"].to_numpy() > 0)[noisy].mean()) for _, part in scores.groupby("seed")]
    assert rows["rules", "sensitivity.any"].value == pytest.approx(np.mean(shares))
    assert rows["rules", "sensitivity.any"].n == noisy.sum()
    assert rows["learned", "sensitivity.any"].value > rows["random", "sensitivity.any"].value


def test_far_from_every_cluster_scores_high() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0, 0.0], [8.0, 8.0, 8.0]])
    known = centres[rng.integers(0, 2, size=(200, 8))] + rng.normal(size=(200, 8, 3))
    clusters = Clusters.fit(known, seed=0)
    asked = np.stack([np.full((8, 3), value) for value in (0.0, 8.0, 4.0, 20.0)])
    near, also_near, between, far = clusters.distances(asked).mean(axis=1)
    assert max(near, also_near) < between < far


@pytest.mark.slow
def test_a_seed_learns_from_the_training_folds_alone_and_without_remarks(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_database: Database
) -> None:
    from lavq_core.training.noise_score import NoiseScore

    seen = []
    fit = NoiseScore.fit

    def watched(signals: np.ndarray, rate: int, seed: int) -> NoiseScore:
        seen.append(signals)
        return fit(signals, rate, seed, steps=5)

    monkeypatch.setattr(NoiseScore, "fit", watched)
    monkeypatch.setattr("simulations.experiments.noise_clusters.CLUSTERS", (1, 2))
    overrides = (f"data.dir='{SAMPLE}'", f"data.cache_dir='{packs}'")
    table = score_seed(overrides, 0, tmp_path)
    training = sample_database.signals(sample_database.in_folds(*range(1, 9))).numpy()
    assert np.array_equal(seen[0], training)
    assert list(table["ecg_id"]) == list(sample_database.table.index[sample_database.in_folds(9, 10)])
    assert list(table.columns) == ["ecg_id", *ARMS, "seed"]
    assert "remark" not in inspect.getsource(score_seed)
    pd.testing.assert_frame_equal(score_seed(overrides, 0, tmp_path), table)
    assert len(seen) == 1, "a finished seed is not repeated"


def test_the_readme_says_how_many_were_remarked() -> None:
    lines = LAYOUTS["noise"](
        [
            Row("learned", "auc.static_noise", 0.7, 0.6, 0.8, 100, 2),
            Row("rules", "auc.static_noise", 0.5, 0.4, 0.6, 100, 2),
            Row("remarked", "records.static_noise", 12.0, 12.0, 12.0, 100, 1),
        ]
    )
    assert lines[0] == "| AUC (records) | static noise (12) |"
    assert lines[2:] == ["| learned | .700 [.600, .800] |", "| rules | .500 [.400, .600] |"]
