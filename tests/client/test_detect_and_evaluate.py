"""``lavq detect`` with a calibration, and ``lavq evaluate`` of any predictions: what they write, say and refuse."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from client.commands import detect, evaluate
from lavq_core.config import compose, save_config
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import LavqError
from lavq_core.models.calibration import Calibration, at_temperature, detector_digest
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import RunFolder
from server.app import initial_model

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"
RECORD = SAMPLE / "records100" / "00000" / "00059_lr"
SMALL = ["detector.width=8", "detector.blocks=1", "separator.width=16", "separator.blocks=1", "codebook.size=6"]
MISSING = 0.5, 0.25, None, 0.5, 0.75
Command = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with an untrained detector, not calibrated."""
    run = RunFolder(tmp_path_factory.mktemp("run"))
    config = compose(SMALL)
    save_config(config, run.config)
    save_artefact(run.model, initial_model(config).parts(), {"classes": list(SUPERCLASSES)})
    return run


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    digest = detector_digest(initial_model(compose(SMALL)).detector)
    return Calibration((2.0, 0.5, None, 1.0, 3.0), (0.0, 1.0, None, 0.5, 0.5), MISSING, 0.9, 9, 300, "site-0", digest)


def called(module: object, *arguments: object) -> None:
    parser = argparse.ArgumentParser()
    module.configure(parser)  # type: ignore[attr-defined]
    assert module.execute(parser.parse_args([str(a) for a in arguments])) == 0  # type: ignore[attr-defined]


# --- detect ----------------------------------------------------------------------------------------------------------


def test_without_a_calibration_the_probabilities_are_the_detectors(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called(detect, RECORD, "--run", run.root, "--out", tmp_path / "p.csv")
    assert list(pd.read_csv(tmp_path / "p.csv").columns) == ["record", *SUPERCLASSES]
    assert "no calibration" in capsys.readouterr().err


def test_a_calibration_changes_probabilities_and_says_which_thresholds_are_reached(
    run: RunFolder, calibration: Calibration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called(detect, RECORD, "--run", run.root, "--out", tmp_path / "raw.csv")
    calibration.save(tmp_path / "site.json")
    called(detect, RECORD, "--run", run.root, "--calibration", tmp_path / "site.json", "--out", tmp_path / "p.csv")
    raw, table = pd.read_csv(tmp_path / "raw.csv").iloc[0], pd.read_csv(tmp_path / "p.csv")
    row = table.iloc[0]
    for name, temperature in zip(SUPERCLASSES, calibration.temperatures, strict=True):
        expected = raw[name] if temperature is None else at_temperature(np.array(raw[name]), temperature)
        assert row[name] == pytest.approx(expected, abs=2e-6)
    assert list(table.columns[6:]) == ["NORM_reached", "MI_reached", "CD_reached", "HYP_reached"]  # STTC has none
    assert (row["NORM_reached"], row["MI_reached"]) == (1, 0)
    assert "fold 9 of site-0 (300 records)" in capsys.readouterr().err


def test_a_calibration_of_another_detector_is_refused(run: RunFolder, calibration: Calibration, tmp_path: Path) -> None:
    other = Calibration(**{**calibration.__dict__, "detector": "0" * 64})
    other.save(tmp_path / "other.json")
    with pytest.raises(LavqError, match="another detector"):
        called(detect, RECORD, "--run", run.root, "--calibration", tmp_path / "other.json", "--out", tmp_path / "p.csv")


# --- evaluate --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictions(sample_database: Database) -> pd.DataFrame:
    """Scores of folds 9 and 10 that know something."""
    database = sample_database
    rows = database.in_folds(9, 10)
    logits = 2.0 * database.labels[rows] - 1.5 + np.random.default_rng(0).normal(size=(len(rows), 5))
    table = pd.DataFrame({"ecg_id": database.table.index[rows], "fold": database.table["strat_fold"].iloc[rows]})
    for c, name in enumerate(SUPERCLASSES):
        table[name], table[f"true_{name}"] = 1 / (1 + np.exp(-logits[:, c])), database.labels[rows, c]
    return table


@pytest.fixture
def judge(predictions: pd.DataFrame, tmp_path: Path) -> Callable[..., dict]:
    """Evaluate a file; what the JSON says."""

    def judged(table: pd.DataFrame = predictions, *more: object) -> dict:
        table.to_csv(tmp_path / "p.csv", index=False)
        out = tmp_path / "e.json"
        called(evaluate, tmp_path / "p.csv", "--database", SAMPLE, "--out", out, *more)
        return dict(json.loads(out.read_text()))

    return judged


def test_it_scores_the_test_fold_alone_and_as_scikit_learn_does(
    judge: Callable[..., dict], predictions: pd.DataFrame
) -> None:
    found, test = judge(), predictions[predictions["fold"] == 10]
    expected = roc_auc_score(test[[f"true_{name}" for name in SUPERCLASSES]], test[list(SUPERCLASSES)])
    assert found["figures"]["macro_auc.pooled"]["value"] == pytest.approx(expected, abs=1e-6)
    assert found["records"] == len(test)
    assert found["records_not_scored"] == 0


def test_the_validation_fold_of_the_same_file_gives_thresholds(
    judge: Callable[..., dict], predictions: pd.DataFrame
) -> None:
    found = judge(predictions, "--sensitivity", 0.8)
    validation = predictions[predictions["fold"] == 9]
    assert found["calibration"]["n"] == len(validation)
    for name, threshold in zip(SUPERCLASSES, found["calibration"]["thresholds"], strict=True):
        temperature = found["calibration"]["temperatures"][SUPERCLASSES.index(name)]
        positives = validation.loc[validation[f"true_{name}"] == 1, name].to_numpy()
        share = (at_temperature(positives, temperature) >= threshold - 1e-9).mean()
        assert 0.8 <= share < 0.8 + 2 / len(positives)
        assert f"sensitivity.{name}" in found["figures"]


def test_without_a_validation_fold_it_says_so(
    judge: Callable[..., dict], predictions: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    found = judge(predictions[predictions["fold"] == 10].iloc[3:])
    assert found["calibration"] is None
    assert not any("sensitivity" in name for name in found["figures"])
    said = capsys.readouterr().err
    assert "no rows of fold 9" in said
    assert "3 records of fold 10 were not scored" in said


def test_a_fold_that_nobody_scored_or_that_chose_the_thresholds_is_refused(
    judge: Callable[..., dict], predictions: pd.DataFrame
) -> None:
    with pytest.raises(LavqError, match="scores no record of fold 3"):
        judge(predictions, "--fold", 3)
    with pytest.raises(LavqError, match="must differ"):
        judge(predictions, "--fold", 9)
