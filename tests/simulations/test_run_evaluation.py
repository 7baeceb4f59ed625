"""What a finished run's report tells beyond its headline, checked against counts made by hand on the bundled ECGs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lavq_core.config import compose, save_config
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements, public_statements, superclass_of
from lavq_core.metrics.auc import class_aucs, macro_auc
from lavq_core.metrics.classification import weighted_ece
from lavq_core.models.calibration import Calibration
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import RunFolder
from server.app import initial_model
from simulations import sample
from simulations.calibrate import calibrate
from simulations.finish import evaluate_run
from simulations.partitions import partition
from simulations.run_evaluation import _DETAIL
from simulations.summary import Metrics

WITHHELD = "site-0:HYP"
SMALL = ["detector.width=8", "detector.blocks=1", "separator.width=16", "separator.blocks=1", "codebook.size=6"]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return Database.open(sample.FOLDER, 100, tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture(scope="module")
def shares(database: Database) -> dict[str, np.ndarray]:
    return partition(database.table, "site", 4, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, database: Database, shares: dict[str, np.ndarray]) -> RunFolder:
    """A run of four hospitals whose detector is right more often than not; the federation has seen two statements."""
    found = RunFolder(tmp_path_factory.mktemp("runs") / "first")
    config = compose([*SMALL, f"partition.withhold=['{WITHHELD}']"])
    save_config(config, found.config)
    model = initial_model(config)
    for disease, code in (("MI", "IMI"), ("MI", "ASMI"), ("CD", "CLBBB")):
        model.codebook["requests"][SUPERCLASSES.index(disease), diagnostic_statements().index(code)] = 2.0
    save_artefact(found.model, model.parts(), {"classes": list(SUPERCLASSES)})
    rng = np.random.default_rng(0)
    for name, positions in shares.items():
        folds = database.table["strat_fold"].to_numpy()[positions]
        held_out = positions[folds >= 9]
        labels = database.labels[held_out]
        scores = 1 / (1 + np.exp(-(2.0 * labels - 1.5 + rng.normal(size=labels.shape))))
        rows = database.table.iloc[held_out]
        frame = pd.DataFrame({"ecg_id": rows.index, "patient_id": rows["patient_id"].to_numpy(), "site": name})
        frame["fold"] = rows["strat_fold"].to_numpy()
        frame[list(SUPERCLASSES)] = scores
        frame[[f"true_{c}" for c in SUPERCLASSES]] = labels.astype(int)
        found.site(name).root.mkdir(parents=True)
        frame.to_csv(found.site(name).predictions, index=False, float_format="%.6f")
    calibrate(found, config)
    return found


@pytest.fixture(scope="module")
def metrics(run: RunFolder, database: Database) -> Metrics:
    from lavq_core.config import load_config

    return evaluate_run(run, load_config(run.config), database)


@pytest.fixture(scope="module")
def tested(run: RunFolder) -> pd.DataFrame:
    table = pd.concat([pd.read_csv(site.predictions) for site in run.sites()])
    return table[table["fold"] == 10]


def truth_and_scores(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return rows[[f"true_{c}" for c in SUPERCLASSES]].to_numpy(dtype=float), rows[list(SUPERCLASSES)].to_numpy()


def test_each_hospitals_own_records_and_statements_of_a_disease_are_counted(
    metrics: Metrics, database: Database, shares: dict[str, np.ndarray]
) -> None:
    classes = superclass_of(public_statements())
    for name, positions in shares.items():
        rows = database.table.iloc[positions]
        rows = rows[rows["strat_fold"] <= 8]
        if name == "site-0":  # what it may not train on
            rows = rows[rows["HYP"] == 0]
        assert metrics[f"data.site.{name}.train"] == len(rows)
        for disease in SUPERCLASSES[1:]:
            assert metrics[f"transfer.site.{name}.{disease}.records"] == int(rows[disease].sum())
            own = {code for codes in rows["statements"] for code in codes if classes.get(code) == disease}
            assert metrics[f"transfer.site.{name}.{disease}.statements"] == len(own)
    assert metrics["transfer.site.site-0.HYP.records"] == 0


def test_what_the_federation_lends_is_what_any_hospital_has_had(metrics: Metrics) -> None:
    lent = {disease: metrics[f"transfer.federation.{disease}.statements"] for disease in SUPERCLASSES[1:]}
    assert lent == {"MI": 2, "STTC": 0, "CD": 1, "HYP": 0}


def test_the_detector_is_scored_for_each_disease_at_each_hospital(metrics: Metrics, tested: pd.DataFrame) -> None:
    for name, rows in tested.groupby("site"):
        for disease, value in zip(SUPERCLASSES, class_aucs(*truth_and_scores(rows)), strict=True):
            assert metrics.get(f"auc.{disease}.site.{name}", float("nan")) == pytest.approx(value, nan_ok=True)


def test_subgroups_are_those_of_fifty_test_records(metrics: Metrics, tested: pd.DataFrame, database: Database) -> None:
    sex = database.table.loc[tested["ecg_id"], "sex"].to_numpy()
    for code in (0, 1):
        rows = tested[sex == code]
        key = f"macro_auc.sex.{code}"
        if len(rows) >= 50:
            assert metrics[key] == pytest.approx(macro_auc(*truth_and_scores(rows)))
            assert metrics[f"{key}.n"] == len(rows)
            assert metrics[f"{key}.low"] <= metrics[key] <= metrics[f"{key}.high"]  # type: ignore[operator]
        else:
            assert key not in metrics
    assert any(key.startswith("macro_auc.sex.") for key in metrics)
    assert not [key for key in metrics if key.startswith(("macro_auc.site.", "macro_auc.pooled"))]  # the summary's own


def test_thresholds_and_calibration_are_the_files_and_what_they_do_is_measured_on_other_records(
    metrics: Metrics, run: RunFolder, tested: pd.DataFrame
) -> None:
    calibration = Calibration.load(run.calibration)
    labels, raw = truth_and_scores(tested)
    calibrated = calibration.apply(raw)
    for c, name in enumerate(SUPERCLASSES):
        threshold = calibration.thresholds[c]
        assert metrics[f"calibration.{name}.temperature"] == calibration.temperatures[c]
        assert metrics[f"calibration.{name}.threshold"] == threshold
        assert threshold is not None
        reached = calibrated[:, c] >= threshold
        assert metrics[f"sensitivity.{name}"] == pytest.approx(reached[labels[:, c] == 1].mean())
        assert metrics[f"specificity.{name}"] == pytest.approx(1 - reached[labels[:, c] == 0].mean())
        assert metrics[f"brier.{name}"] == pytest.approx(np.mean((calibrated[:, c] - labels[:, c]) ** 2))
    assert metrics["calibration.records"] == calibration.n


def test_flagged_records_are_counted_at_their_hospital_and_by_reason(metrics: Metrics, database: Database) -> None:
    flagged = (database.quality["verdict"] == "flag").sum()
    assert sum(int(value) for key, value in metrics.items() if key.endswith(".flagged")) == flagged > 0
    assert metrics["data.reason.amplitude"] == database.quality["reasons"].str.contains("amplitude").sum()


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("amplitude 6.2 mV", "amplitude"),
        ("flat lead V2, V3", "flat lead"),
        ("missing lead I", "missing lead"),
        ("NaN in aVF", "NaN in"),
        ("constant for 2 s: V1", "constant for"),
        ("limb leads break Einthoven's law by 71 uV", "limb leads break Einthoven's law"),
        ("no plausible R peaks", "no plausible R peaks"),
        ("sampled at 500 Hz, expected 100 Hz", "sampled at"),
        ("patient_id is missing in ptbxl_database.csv", "patient_id is missing in ptbxl_database.csv"),
    ],
)
def test_reasons_are_counted_without_their_leads_and_numbers(reason: str, kind: str) -> None:
    assert _DETAIL.sub("", reason) == kind


def test_a_run_whose_predictions_lie_elsewhere_tells_its_data_alone(
    run: RunFolder, database: Database, tmp_path: Path
) -> None:
    other = RunFolder(tmp_path)
    config = compose(SMALL)
    save_config(config, other.config)
    model = initial_model(config)
    model.codebook["requests"] = torch.zeros_like(model.codebook["requests"])
    save_artefact(other.model, model.parts(), {"classes": list(SUPERCLASSES)})
    keys = set(evaluate_run(other, config, database))
    assert {key.split(".")[0] for key in keys} == {"data", "transfer"}


def test_calibration_is_told_for_every_hospital_with_the_runs_and_with_its_own(
    run: RunFolder, database: Database, tested: pd.DataFrame
) -> None:
    from lavq_core.config import load_config

    own = Calibration((3.0,) * 5, (None,) * 5, (None,) * 5, 0.9, 9, 20, "site-0", "")
    own.save(run.site("site-0").calibration)
    metrics = evaluate_run(run, load_config(run.config), database)
    run.site("site-0").calibration.unlink()
    for site, rows in tested.groupby("site"):
        assert metrics[f"ece.site.{site}.n"] == len(rows)
        assert (f"ece_own.site.{site}" in metrics) == (site == "site-0")
        bins = [key for key in metrics if key.startswith(f"reliability.site.{site}.bin.") and key.endswith(".n")]
        assert sum(int(metrics[key]) for key in bins) == 5 * len(rows)
    rows = tested[tested["site"] == "site-0"]
    labels, given = rows[[f"true_{c}" for c in SUPERCLASSES]].to_numpy(float), rows[list(SUPERCLASSES)].to_numpy(float)
    for key, calibration in (("ece", Calibration.load(run.calibration)), ("ece_own", own)):
        expected = weighted_ece(labels.ravel(), calibration.apply(given).ravel(), np.ones((1, labels.size)))[0]
        assert metrics[f"{key}.site.site-0"] == pytest.approx(expected)
