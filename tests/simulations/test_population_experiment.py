"""The experiment ``population``: two arms, their control, and figures that follow from what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from simulations.experiments.jobs import Job, keep_predictions
from simulations.experiments.population import _train, score, with_permuted_labels
from simulations.experiments.readme_tables import LAYOUTS
from simulations.experiments.results_file import Row
from simulations.launch import SAMPLE

TINY = ("detector.width=8", "detector.blocks=1", "detector_training.epochs=1", "detector_training.batch=64")


@pytest.fixture(scope="module")
def database(sample_database: Database) -> Database:
    return sample_database


@pytest.fixture
def predictions(database: Database) -> pd.DataFrame:
    """Two seeds of both arms: one knows something, one nothing."""
    rng, parts = np.random.default_rng(0), []
    rows = database.in_folds(9, 10)
    for arm, knows in (("centralised", 2.5), ("permuted", 0.0)):
        for seed in (0, 1):
            logits = knows * database.labels[rows] - 1.0 + rng.normal(size=(len(rows), 5))
            table = pd.DataFrame(1 / (1 + np.exp(-logits)), columns=list(SUPERCLASSES)).round(4)
            table["ecg_id"] = database.table.index[rows]
            table["fold"] = database.table["strat_fold"].to_numpy()[rows]
            parts.append(table.assign(arm=arm, seed=seed))
    return pd.concat(parts, ignore_index=True)


def test_a_row_is_the_mean_over_seeds_on_the_test_fold_alone(database: Database, predictions: pd.DataFrame) -> None:
    rows = {(row.arm, row.metric): row for row in score(predictions, database, compose())}
    test = predictions[(predictions["fold"] == 10) & (predictions["arm"] == "centralised")]
    truth = pd.DataFrame(database.labels, index=database.table.index)
    expected = [roc_auc_score(truth.loc[part["ecg_id"]], part[list(SUPERCLASSES)]) for _, part in test.groupby("seed")]
    found = rows["centralised", "macro_auc.pooled"]
    assert found.value == pytest.approx(np.mean(expected))
    assert (found.n, found.seeds) == (len(test) // 2, 2)
    named = {"macro_auprc", "ece.MI", "ece_raw.MI", "brier.HYP", "sensitivity.CD", "specificity.CD", "macro_auc.sex.0"}
    assert named <= {metric for _, metric in rows}
    chance = rows["permuted", "macro_auc.pooled"]
    assert chance.low < 0.5 < chance.high


def test_what_is_kept_is_what_was_scored(predictions: pd.DataFrame, tmp_path: Path) -> None:
    keep_predictions(predictions, "population", tmp_path)
    kept = pd.read_csv(tmp_path / "predictions" / "population.csv.gz")
    pd.testing.assert_frame_equal(kept, predictions, check_dtype=False, rtol=0, atol=1e-12)


def test_permuting_touches_training_labels_alone_and_keeps_their_counts(database: Database) -> None:
    permuted = with_permuted_labels(database, compose().data, seed=0)
    trained, held_out = database.in_folds(*range(1, 9)), database.in_folds(9, 10)
    assert np.array_equal(permuted.labels[held_out], database.labels[held_out])
    assert np.array_equal(permuted.labels[trained].sum(axis=0), database.labels[trained].sum(axis=0))
    changed = (permuted.labels[trained] != database.labels[trained]).any(axis=1)
    assert changed.mean() > 0.5
    assert permuted.labels is not database.labels


@pytest.mark.slow
def test_the_arms_differ_in_their_training_labels_and_in_nothing_else(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the permutation undone, the control is the detector itself."""
    overrides = (f"data.dir='{SAMPLE}'", f"data.cache_dir='{packs}'", *TINY, "federation.rounds=1")
    table = _train(Job("centralised", 0, overrides, tmp_path / "one"))
    assert set(table["fold"]) == {9, 10}
    assert not {"patient_id", "site"} & set(table.columns)
    permuted = _train(Job("permuted", 0, overrides, tmp_path / "two"))
    assert not np.allclose(permuted[list(SUPERCLASSES)], table[list(SUPERCLASSES)])
    monkeypatch.setattr("simulations.experiments.population.with_permuted_labels", lambda database, *_: database)
    same = _train(Job("permuted", 0, overrides, tmp_path / "three"))
    assert np.array_equal(same[list(SUPERCLASSES)], table[list(SUPERCLASSES)])


def test_the_readme_shows_arms_beside_each_other_and_classes_below() -> None:
    rows = [
        Row("centralised", "auc.MI", 0.91, 0.9, 0.92, 10, 3),
        Row("centralised", "macro_auc.site.0", 0.8, 0.7, 0.9, 4, 3),
        Row("centralised", "macro_auc.pooled", 0.9, 0.88, 0.92, 10, 3),
        Row("permuted", "macro_auc.pooled", 0.5, 0.4, 0.6, 10, 3),
    ]
    lines = LAYOUTS["population"](rows)
    assert lines[0] == "| macro AUC | centralised | permuted | records |"
    assert lines[2] == "| pooled | .900 [.880, .920] | .500 [.400, .600] | 10 |"
    assert lines[3] == "| site.0 | .800 [.700, .900] |  | 4 |"
    assert any(line.startswith("| MI | .910 [.900, .920] |  |") for line in lines)
