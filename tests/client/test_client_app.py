"""What a hospital answers, to the last key and byte, and what it keeps."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto

import client.app
import client.site
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements
from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.models.codebook import STATISTICS
from lavq_core.report.gallery import stored_twins
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder, SiteFolder, of_round, rounds_in
from lavq_core.settings import SHAREABLE
from server.flower_adapter import payload_bytes
from server.validation import ReplyChecker, read_evaluation, read_site_name
from simulations.partitions import partition

Make = Callable[..., Any]
PATIENT = "Jane Doe, born 1950-01-01, record 04711_lr"


@pytest.fixture(scope="session")
def database(sample_database: Database) -> Database:
    return sample_database


@pytest.fixture
def folder(tmp_path: Path) -> SiteFolder:
    """The folder of simulated hospital 0."""
    return RunFolder(tmp_path / "run").site("client-0")


def share_of(database: Database, number: int = 0) -> np.ndarray:
    return partition(database.table, "iid", 24, 0)[f"client-{number}"]


def in_folds(database: Database, positions: np.ndarray, *folds: int) -> np.ndarray:
    return positions[np.isin(database.table["strat_fold"].to_numpy()[positions], folds)]


def has_seen(site: Any, **statements: str) -> None:
    """Let the federation have seen one record of some superclasses, each with one statement."""
    for disease, code in statements.items():
        row, column = SUPERCLASSES.index(disease), diagnostic_statements().index(code)
        site.shared.codebook["requests"][row, column] = 1.0


def newest_networks(folder: SiteFolder) -> dict[str, torch.Tensor]:
    kept = rounds_in(folder.private_model)
    return load_artefact(kept[max(kept)])[0]["networks"]


def bytes_of(message: Message) -> bytes:
    return message_to_proto(message).SerializeToString()


# --- what leaves -----------------------------------------------------------------------------------------------------


def test_hello_is_answered_by_the_pseudonym_and_nothing_else(hospital: Make) -> None:
    for number in (0, 23):
        content = hospital(number).hello().content
        assert read_site_name(content) == f"client-{number}"
        assert {name: dict(record) for name, record in content.items()} == {"site": {"name": f"client-{number}"}}


def test_a_training_reply_is_the_weights_the_statistics_and_a_number(hospital: Make, database: Database) -> None:
    """Not one tensor more, and each as the server sent it."""
    site = hospital()
    content = site.train().content
    sent = site.shared.parts() | {"codebook": {name: site.shared.codebook[name] for name in STATISTICS}}
    assert set(content) == {"detector", "codebook", "networks", "metrics"}
    for part, state in sent.items():
        arrays = {name: (value.shape, "float32") for name, value in state.items()}
        record = content[part]
        assert isinstance(record, ArrayRecord)
        assert {name: (torch.Size(array.shape), array.dtype) for name, array in record.items()} == arrays
        assert all(np.isfinite(array.numpy()).all() for array in record.values())
    metrics = content["metrics"]
    assert isinstance(metrics, MetricRecord)
    share = share_of(database)
    assert dict(metrics) == {"num-examples": len(in_folds(database, share, *range(1, 9)))}
    ReplyChecker(site.shared).update(content)  # the server takes it


def test_moments_leave_where_they_are_averaged_two_numbers_a_weight_and_nowhere_else(hospital: Make) -> None:
    site = hospital(0, "federation.average_moments=true", "detector_training.steps=2")
    content = site.train().content
    names = [f"{kind}.{name}" for kind in ("first", "second") for name in site.shared.detector]
    assert set(content) == {"detector", "codebook", "networks", "moments", "metrics"}
    sizes = {name: array.shape for name, array in content["moments"].items()}
    assert sizes == {name: tuple(site.shared.detector[name.split(".", 1)[1]].shape) for name in names}
    read = ReplyChecker(site.shared).update(content)  # the server takes it
    assert any(value.any() for value in read.moments.values())
    without = site.content(1, 2)
    del without["moments"]
    assert site.ask("train", without).error.reason == "KeyError"
    assert not site.ask("evaluate", without).has_error()


@pytest.mark.parametrize("share", [[], ["prior"], ["editor", "separator"]], ids=["none", "prior", "two"])
def test_only_the_networks_that_are_shared_leave(hospital: Make, folder: SiteFolder, share: list[str]) -> None:
    site = hospital(0, f"federation.share=[{','.join(share)}]")
    assert ("networks" in site.shared.records()) == bool(share)
    content = site.train().content
    left = content.array_records["networks"].to_torch_state_dict() if "networks" in content else {}
    assert {name.split(".")[0] for name in left} == set(share)
    kept = newest_networks(folder)
    assert {name.split(".")[0] for name in kept} == set(SHAREABLE)
    assert all(torch.equal(value, kept[name]) for name, value in left.items())
    ReplyChecker(site.shared).update(content)


def test_what_is_shared_replaces_the_sites_own_and_the_rest_is_kept(hospital: Make, folder: SiteFolder) -> None:
    """With a separator that is trained for no step, what goes in is what stays."""
    site = hospital(0, "federation.share=[prior]", "separator_training.steps=0")
    site.train(1)
    before = newest_networks(folder)
    for value in site.shared.networks.values():
        value += 1.0
    site.train(2)
    after = newest_networks(folder)
    for name, value in after.items():
        assert torch.equal(value, site.shared.networks[name] if name.startswith("prior.") else before[name])


def test_a_training_reply_has_the_bytes_of_its_tensors(hospital: Make) -> None:
    """Headers aside: no room in which something else could travel."""
    site = hospital()
    content = site.train().content
    weights = [*site.shared.detector.values(), *site.shared.networks.values()]
    tensors = [*weights, *(site.shared.codebook[name] for name in STATISTICS)]
    payload = sum(4 * value.numel() for value in tensors)
    assert payload < payload_bytes(content) < payload + 300 * (len(tensors) + 1)


def test_every_reply_has_the_same_size_whatever_was_measured(hospital: Make) -> None:
    sizes = {payload_bytes(hospital(number).train().content) for number in (0, 1)}
    assert len(sizes) == 1


def test_an_evaluation_reply_is_a_number(hospital: Make, database: Database) -> None:
    validation = len(in_folds(database, share_of(database), 9))
    for number in (1, 2):  # the last one too, in which predictions and twins are written
        content = hospital().evaluate(number).content
        assert {name: dict(record) for name, record in content.items()} == {"metrics": {"num-examples": validation}}
        assert read_evaluation(content) == validation


def test_flowers_own_state_stays_empty(hospital: Make) -> None:
    """It is memory only, and a SuperNode's."""
    site = hospital()
    site.train()
    site.evaluate()
    assert dict(site.context.state) == {}


def test_the_same_message_gives_the_same_bits(hospital: Make, tmp_path: Path) -> None:
    first = hospital().train().content
    shutil.rmtree(tmp_path / "run")
    torch.manual_seed(12345)
    again = hospital().train().content
    assert first == again


def test_hospitals_answer_differently(hospital: Make) -> None:
    first, second = (hospital(number).train().content for number in (0, 1))
    assert first["detector"] != second["detector"]
    assert first["codebook"] != second["codebook"]


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "where"), [("train", "train_round"), ("evaluate", "evaluate_round")])
def test_an_exceptions_text_stays_on_site(
    hospital: Make, folder: SiteFolder, monkeypatch: pytest.MonkeyPatch, kind: str, where: str
) -> None:
    def fail(*_: object) -> None:
        raise LookupError(PATIENT)

    monkeypatch.setattr(client.app, where, fail)
    reply = getattr(hospital(), kind)()
    assert reply.has_error()
    assert reply.error.reason == "LookupError"
    assert not reply.has_content()
    for word in (PATIENT, "Jane", "4711", "Traceback"):
        assert word.encode() not in bytes_of(reply)
    (event,) = [row for row in read_events(folder.events) if row["event"] == "failed"]
    assert event["error"] == "LookupError"
    assert PATIENT in event["traceback"]


def test_a_site_that_cannot_be_opened_says_only_which_kind_of_error(
    hospital: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reply = hospital(0, f"data.dir='{tmp_path / PATIENT}'").hello()
    assert reply.error.reason == "DataError"
    assert b"Jane" not in bytes_of(reply)
    assert "DataError" in caplog.text
    assert "Jane" not in caplog.text  # a simulation's log holds every site's


@pytest.mark.parametrize("part", ["detector", "codebook", "networks", "round"])
def test_a_message_that_lacks_a_part_is_answered_by_an_error(hospital: Make, part: str) -> None:
    """No part is made up: the site would train something else than the federation."""
    site = hospital()
    content = site.content(1, 2)
    del content[part]
    assert site.ask("train", content).error.reason == "KeyError"


@pytest.mark.parametrize("part", ["detector", "networks"])
@pytest.mark.parametrize("damage", ["another architecture", "a renamed weight"])
def test_a_message_that_cannot_be_used_is_answered_by_an_error(hospital: Make, part: str, damage: str) -> None:
    site = hospital()
    content = site.content(1, 2)
    state = dict(site.shared.parts()[part])
    name = next(iter(state))
    value = state.pop(name)
    state[name if damage == "another architecture" else "other"] = torch.cat([value, value])
    content[part] = ArrayRecord(torch_state_dict=state)
    reply = site.ask("train", content)
    assert reply.has_error()
    assert reply.error.reason.isidentifier()


def test_after_an_error_the_site_goes_on(hospital: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    site = hospital()
    with monkeypatch.context() as patch:
        patch.setattr(client.app, "train_round", lambda *_: 1 / 0)
        assert site.train().has_error()
    assert site.train().has_content()


# --- what stays ------------------------------------------------------------------------------------------------------


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


# --- a deployed site -------------------------------------------------------------------------------------------------


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A hospital's own database: a part of the sample."""
    sample = Path(__file__).resolve().parents[2] / "simulations" / "sample"
    folder = tmp_path / "ward data"
    folder.mkdir()
    table = pd.read_csv(sample / "ptbxl_database.csv").iloc[:40]
    table.to_csv(folder / "ptbxl_database.csv", index=False)
    shutil.copy(sample / "scp_statements.csv", folder)
    (folder / "records100").symlink_to(sample / "records100")
    return folder


def test_a_deployed_site_owns_all_of_its_database_and_its_name(deployed: Make, ward: Path, tmp_path: Path) -> None:
    """Whatever folders the server's overrides name, the site reads its own and writes to its own."""
    own = tmp_path / "own disk"
    node = {"site": "st-mary", "data-dir": str(ward), "site-dir": str(own)}
    site = deployed(node, "data.dir=/etc", "run.dir=/nowhere", "data.cache_dir=/nowhere")
    assert read_site_name(site.hello().content) == "st-mary"
    content = site.train().content
    folds = pd.read_csv(ward / "ptbxl_database.csv")["strat_fold"]
    assert dict(content["metrics"]) == {"num-examples": int((folds <= 8).sum())}
    ReplyChecker(site.shared).update(content)
    report = json.loads(SiteFolder(own).data_report.read_text(encoding="utf-8"))
    assert not Path("/nowhere").exists()
    assert list((own / "cache").iterdir())
    assert report["records"] == 40
    assert report["database"] == ward.name


def test_a_site_without_held_out_records_has_nothing_to_score(deployed: Make, ward: Path, tmp_path: Path) -> None:
    table = pd.read_csv(ward / "ptbxl_database.csv")
    table[table["strat_fold"] <= 8].to_csv(ward / "ptbxl_database.csv", index=False)
    own = tmp_path / "own"
    site = deployed({"site": "st-mary", "data-dir": str(ward), "site-dir": str(own)})
    assert dict(site.evaluate(2).content["metrics"]) == {"num-examples": 0}
    predictions = pd.read_csv(SiteFolder(own).predictions)
    assert len(predictions) == 0
    assert len(predictions.columns) == 14


@pytest.mark.parametrize("node_config", [{}, {"site": "st-mary"}, {"site": "st-mary", "data-dir": "/data"}])
def test_a_node_that_does_not_know_itself_answers_with_an_error(deployed: Make, node_config: dict[str, str]) -> None:
    assert deployed(node_config).hello().error.reason == "ConfigError"


def test_a_wrong_override_is_an_error_of_the_configuration(deployed: Make, ward: Path, tmp_path: Path) -> None:
    site = deployed({"site": "st-mary", "data-dir": str(ward), "site-dir": str(tmp_path / "own")})
    site.context.run_config["overrides"] = "federation.roundz=3"
    assert site.hello().error.reason == "ConfigError"
    del site.context.run_config["overrides"]
    assert site.hello().error.reason == "KeyError"


def test_an_unknown_question_reaches_no_data(hospital: Make) -> None:
    with pytest.raises(Exception, match="query"):
        hospital().ask("query.everything", RecordDict())
