"""The main job from end to end, small: train, judge, audit, report, detect, twin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lavq_core.cli.main import main
from lavq_core.data.records import read_record
from lavq_core.runs.layout import RunFolder
from lavq_core.signals.leads import einthoven_residual
from lavq_core.twins.made import code_of
from simulations.inprocess import run_in_process
from simulations.launch import prepare

pytestmark = pytest.mark.slow

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"
TINY = [
    "federation.rounds=2",
    "separator.width=16",
    "separator.blocks=1",
    "separator.heads=2",
    "separator_training.after=0",
    "separator_training.steps=3",
    "separator_training.batch=8",
    "codebook.size=16",
    "detector_training.epochs=1",
    "detector.width=8",
    "detector.blocks=1",
    "audit.shadows=6",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, packs) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(["run", "--out", str(folder), f"data.cache_dir={packs}", *TINY]) == 0
    return folder


def test_the_run_folder_is_complete(run):
    folder = RunFolder.open(run)
    sites = [site.root.name for site in folder.sites()]
    assert sites == ["rest", "site-0", "site-1", "site-2"]
    files = [folder.config, folder.events, folder.metrics, folder.report, folder.model / "manifest.json"]
    files += [folder.calibration, folder.checkpoint(2) / "manifest.json", folder.audit / "audit.json"]
    for site in folder.sites():
        files += [site.events, site.data_report, site.predictions, site.twins / "manifest.json"]
    assert [file for file in files if not file.is_file()] == []


def test_metrics_name_the_documented_figures_and_no_epsilon(run):
    metrics = json.loads((run / "metrics.json").read_text())
    for key in ("macro_auc.pooled.low", "macro_auc.site.rest.n", "bytes_per_round.up", "twins.judge_auc.MI"):
        assert key in metrics
    for key in ("detector.lira.tpr_at_1pct_fpr.high", "updates.site.replicas.auc", "twins.source_top1", "verdict"):
        assert f"audit.{key}" in metrics
    assert not any("epsilon" in key for key in metrics)
    assert all(np.isfinite(value) for value in metrics.values() if not isinstance(value, str))


def test_held_out_patients_are_no_training_patients(run):
    predictions = pd.concat([pd.read_csv(file) for file in run.glob("sites/*/predictions.csv")])
    table = pd.read_csv(SAMPLE / "ptbxl_database.csv", index_col="ecg_id")
    trained = set(table.loc[table["strat_fold"] <= 8, "patient_id"].astype(int))
    assert set(predictions["fold"]) == {9, 10}
    assert not trained & set(predictions["patient_id"])
    assert len(predictions) == int((table["strat_fold"] >= 9).sum())


def test_the_report_shows_at_least_eight_twins_and_asks_for_nothing_outside(run):
    html = (run / "report.html").read_text(encoding="utf-8")
    assert html.count("SYNTHETIC") >= 8
    assert "http://" not in html.replace("http://www.w3.org/", "")
    assert "https://" not in html


def test_twins_of_one_record_obey_einthoven_and_keep_what_is_outside_the_gate(run, tmp_path):
    record = next(SAMPLE.glob("records100/*/*.hea")).with_suffix("")
    out = tmp_path / "twins"
    arguments = ["twin", "--run", str(run), str(record), "--disease", "MI", "--count", "2", "--out", str(out)]
    assert main(arguments) == 0
    made = sorted(out.glob("*.hea"))
    called = code_of(read_record(record))  # a file's own name may be a patient's
    assert [file.stem for file in made] == [f"{called}_MI_01", f"{called}_MI_02"]
    assert len(list(out.glob("*.png"))) == 2
    for file in made:
        twin = read_record(file)
        assert np.abs(einthoven_residual(twin.signal)).max() <= 0.002  # mV, rounding to 1 uV of three leads
        assert "SYNTHETIC" in file.read_text()


def test_detect_scores_a_database_in_the_official_order(run, tmp_path):
    out = tmp_path / "p.csv"
    assert main(["detect", "--run", str(run), "--database", str(SAMPLE), "--out", str(out)]) == 0
    table = pd.read_csv(out)
    classes = ["NORM", "MI", "STTC", "CD", "HYP"]
    assert list(table.columns) == ["ecg_id", *classes, *(f"{name}_reached" for name in classes)]
    assert len(table) == 520
    evaluation = tmp_path / "e.json"
    assert main(["evaluate", str(out), "--database", str(SAMPLE), "--out", str(evaluation)]) == 0
    judged, metrics = json.loads(evaluation.read_text()), json.loads((run / "metrics.json").read_text())
    found = judged["figures"]["macro_auc.pooled"]["value"]
    assert found == pytest.approx(metrics["macro_auc.pooled"], abs=1e-3)  # predictions hold six decimals


def test_the_same_seed_gives_the_same_model(run, tmp_path, packs):
    again = tmp_path / "again"
    overrides, config = prepare([f"data.cache_dir={packs}", *TINY], None, str(again), "run")
    run_in_process(overrides, config.federation.sites)
    for name in ("detector", "codebook", "networks"):
        one, two = (folder / "model" / f"{name}.safetensors" for folder in (run, again))
        assert one.read_bytes() == two.read_bytes()


def test_a_run_that_was_broken_off_goes_on_by_command(run, tmp_path):
    broken = RunFolder(tmp_path / "broken off")
    shutil.copytree(run, broken.root)
    lines = broken.events.read_text().splitlines(keepends=True)
    end = next(place for place, line in enumerate(lines) if '"round-finished"' in line)
    broken.events.write_text("".join(lines[: end + 1]))
    shutil.rmtree(broken.checkpoint(2))
    shutil.rmtree(broken.model)
    broken.report.unlink()
    assert main(["run", "--resume", str(broken.root)]) == 0
    for name in ("detector", "codebook", "networks"):
        one, two = (folder / "model" / f"{name}.safetensors" for folder in (run, broken.root))
        assert one.read_bytes() == two.read_bytes()
    assert broken.report.is_file()
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in (run, broken.root)]
    for key in figures[0]:  # rounds that were done twice count once
        if key.startswith(("macro_auc", "convergence", "bytes_per_round", "twins")):
            assert figures[0][key] == figures[1][key]


def test_the_demo_runs_a_real_federation_and_agrees_with_the_one_in_process(run, tmp_path, packs):
    """``flwr run`` with Ray, and the in-process grid: the same apps, the same seeds, the same model."""
    flower = tmp_path / "flower"
    assert main(["demo", "--out", str(flower), f"data.cache_dir={packs}", "audit.enabled=false", *TINY]) == 0
    for name in ("detector", "codebook", "networks"):
        one, two = (load_file(folder / "model" / f"{name}.safetensors") for folder in (run, flower))
        assert one.keys() == two.keys()
        for key in one:
            assert torch.allclose(one[key], two[key], atol=1e-5)
    assert (flower / "report.html").is_file()
