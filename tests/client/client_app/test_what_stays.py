"""What a hospital keeps: logs, networks, predictions, its calibration and its gallery."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import client.app
import client.site
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.report.gallery import stored_twins
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder, SiteFolder, of_round
from tests.client.client_app.replies import Make, has_seen, in_folds, newest_networks, share_of


def test_losses_and_scores_go_to_the_sites_own_log(hospital: Make, folder: SiteFolder, database: Database) -> None:
    site = hospital()
    site.train(2)
    site.evaluate(2)
    trained, evaluated = read_events(folder.events)
    assert trained["event"] == "round-trained"
    wanted = {"detector_loss", "separator_loss", "reconstruction", "gate_abnormal", "gate_norm", "perplexity", "twins"}
    assert wanted | {"round", "seconds"} <= trained.keys()
    assert trained["round"] == 2
    assert all(math.isfinite(trained[name]) for name in wanted)
    assert evaluated["event"] == "round-evaluated"
    validation = in_folds(database, share_of(database), 9)
    assert (evaluated["round"], evaluated["fold"], evaluated["records"]) == (2, 9, len(validation))
    assert evaluated["macro_auc"] is None or 0 <= evaluated["macro_auc"] <= 1


def test_the_data_report_is_of_the_sites_own_records(hospital: Make, folder: SiteFolder, database: Database) -> None:
    hospital().train()
    report = json.loads(folder.data_report.read_text(encoding="utf-8"))
    assert report == json.loads(json.dumps(database.data_report(share_of(database))))


def test_networks_survive_between_messages_and_processes(hospital: Make, folder: SiteFolder) -> None:
    hospital().train(1)
    first, about = load_artefact(of_round(folder.private_model, 1))
    assert about["round"] == 1
    client.site._simulated.cache_clear()  # another process: nothing in memory
    hospital().train(2)
    second, about = load_artefact(of_round(folder.private_model, 2))
    assert about["round"] == 2
    for name in ("separator.gate.weight", "editor.null", "prior.head.weight"):
        assert not torch.equal(first["networks"][name], second["networks"][name])


def test_predictions_are_written_once_at_the_end(hospital: Make, folder: SiteFolder, database: Database) -> None:
    site = hospital()
    site.train(1)
    site.evaluate(1, rounds=2)
    assert not folder.predictions.exists()
    site.evaluate(2, rounds=2)
    table = pd.read_csv(folder.predictions)
    truth = [f"true_{name}" for name in SUPERCLASSES]
    assert list(table.columns) == ["ecg_id", "patient_id", "site", "fold", *SUPERCLASSES, *truth]

    share = share_of(database)
    held_out = np.concatenate([in_folds(database, share, fold) for fold in (9, 10)])
    assert table["ecg_id"].tolist() == database.table.index[held_out].tolist()
    assert table["patient_id"].tolist() == database.table["patient_id"].iloc[held_out].tolist()
    assert table["fold"].tolist() == database.table["strat_fold"].iloc[held_out].tolist()
    assert set(table["site"]) == {"client-0"}
    np.testing.assert_array_equal(table[truth], database.labels[held_out])
    assert table[truth].dtypes.eq("int64").all()
    scores = table[list(SUPERCLASSES)].to_numpy()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_predictions_are_the_broadcast_detectors(hospital: Make, folder: SiteFolder, database: Database) -> None:
    site = hospital()
    site.evaluate(2)
    table = pd.read_csv(folder.predictions)
    detector = client.app.shared_detector(site.config, site.shared.detector)
    with torch.no_grad():
        signals = database.signals(database.positions_of(table["ecg_id"].tolist()))
        expected = torch.sigmoid(detector(signals)).numpy()
    np.testing.assert_allclose(table[list(SUPERCLASSES)], expected, atol=1e-5)


def test_a_site_calibrates_the_final_detector_on_its_own_validation_fold(
    hospital: Make, folder: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lavq_core.models.calibration.FEWEST", 3)  # half of the sample has few of each class
    site = hospital()
    site.context.node_config["num-partitions"] = 2
    site.evaluate(1)
    assert not folder.calibration.exists()
    site.evaluate(2)
    found, table = Calibration.load(folder.calibration), pd.read_csv(folder.predictions)
    validation = table[table["fold"] == 9]
    assert (found.fold, found.n, found.source) == (9, len(validation), "client-0")
    assert found.detector == detector_digest(site.shared.detector)
    calibrated = found.apply(validation[list(SUPERCLASSES)].to_numpy())
    known = 0
    for c, threshold in enumerate(found.thresholds):
        positives = validation[f"true_{SUPERCLASSES[c]}"].to_numpy() == 1
        if threshold is not None:
            known += 1
            assert (calibrated[positives, c] >= threshold - 1e-5).mean() >= 0.9
    assert known > 0


def test_the_gallery_is_of_healthy_patients_nothing_was_trained_on(
    hospital: Make, folder: SiteFolder, database: Database
) -> None:
    site = hospital()
    has_seen(site, MI="IMI", STTC="NDT", CD="CLBBB")  # and no HYP
    site.train(1)
    site.evaluate(2)
    parts, about = load_artefact(folder.twins)
    assert parts.keys() == {"twins"}
    twins = parts["twins"]
    n, stretches = len(about["record"]), 1000 // site.config.separator.stride
    assert 0 < n <= 3
    assert {name: tuple(value.shape) for name, value in twins.items()} == {
        "twin": (n, 8, 1000),
        "reference": (n, 8, 1000),
        "gate": (n, stretches),
        "envelope": (n, 1000),
    }
    for name in ("gate", "envelope"):
        assert 0.0 <= float(twins[name].min()) <= float(twins[name].max()) <= 1.0
    outside = (twins["envelope"] == 0)[:, None].expand_as(twins["twin"])
    assert bool(outside.any())
    assert torch.equal(twins["twin"][outside], twins["reference"][outside])

    assert (about["sampling_rate"], about["site"]) == (100, "client-0")
    positions = database.positions_of([int(record) for record in about["record"]])
    assert torch.equal(twins["reference"], database.signals(positions))
    assert set(positions) <= set(in_folds(database, share_of(database), 9, 10))
    assert database.norm_only()[positions].all()
    assert set(zip(about["disease"], about["statement"], strict=True)) <= {
        ("MI", "IMI"),
        ("STTC", "NDT"),
        ("CD", "CLBBB"),
    }
    assert about["age"] == database.table["age"].iloc[positions].tolist()
    assert about["sex"] == database.table["sex"].iloc[positions].tolist()
    for name in ("disease", "before", "after"):
        assert len(about[name]) == n
    assert all(0 <= value <= 1 for value in [*about["before"], *about["after"]])


def test_the_report_names_the_statement_that_a_twin_was_asked_for(hospital: Make, tmp_path: Path) -> None:
    site = hospital()
    has_seen(site, MI="IMI")
    site.train(1)
    site.evaluate(2)
    twins = stored_twins(RunFolder(tmp_path / "run"))
    assert {(twin.label, twin.disease_name) for twin in twins} == {("IMI (MI)", "inferior myocardial infarction (IMI)")}
    unnamed = replace(twins[0], statement="")  # a run of an earlier version
    assert (unnamed.label, unnamed.disease_name) == ("MI", "myocardial infarction")


@pytest.mark.parametrize("lacking", ["a private model", "a disease", "room"])
def test_without_what_it_takes_there_is_no_gallery(hospital: Make, folder: SiteFolder, lacking: str) -> None:
    site = hospital(0, *(["twins.gallery=0"] if lacking == "room" else []))
    if lacking != "a private model":
        site.train(1)
    if lacking != "a disease":
        has_seen(site, MI="IMI")
    assert site.evaluate(2).has_content()
    assert not folder.twins.exists()


def test_two_hospitals_folders_do_not_mix(hospital: Make, tmp_path: Path, database: Database) -> None:
    for number in (0, 1):
        site = hospital(number)
        site.train(1)
        site.evaluate(2)
    run = RunFolder(tmp_path / "run")
    assert [path.name for path in run.root.iterdir()] == ["sites"]  # a site writes nowhere else
    assert [folder.root.name for folder in run.sites()] == ["client-0", "client-1"]
    for number in (0, 1):
        folder, own = run.site(f"client-{number}"), database.table.index[share_of(database, number)]
        table = pd.read_csv(folder.predictions)
        assert set(table["ecg_id"]) <= set(own)
        assert set(table["site"]) == {f"client-{number}"}
        assert [row["round"] for row in read_events(folder.events)] == [1, 2]
    models = [newest_networks(run.site(f"client-{number}")) for number in (0, 1)]
    assert not torch.equal(models[0]["separator.gate.weight"], models[1]["separator.gate.weight"])
