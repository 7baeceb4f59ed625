"""Every bad input ends in one line that says what to do, status 2, and nothing half-written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from lavq_core.cli.main import main
from lavq_core.config import compose, load_config, save_config

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"
RECORD = next(SAMPLE.glob("records100/*/*.hea")).with_suffix("")


@pytest.fixture
def database(tmp_path) -> Path:
    """Thirty records of the sample in a folder of their own."""
    folder = tmp_path / "database"
    folder.mkdir()
    shutil.copy(SAMPLE / "scp_statements.csv", folder)
    table = pd.read_csv(SAMPLE / "ptbxl_database.csv", dtype=str).head(30)
    table.to_csv(folder / "ptbxl_database.csv", index=False)
    for name in table["filename_lr"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".dat", ".hea"):
            shutil.copy(SAMPLE / f"{name}{suffix}", folder / f"{name}{suffix}")
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run's folder: an untrained model of the smallest size and one site's networks."""
    from lavq_core.models.networks import make_networks
    from lavq_core.models.stored import save_private
    from lavq_core.runs.artefact import save_artefact
    from lavq_core.runs.layout import RunFolder
    from server.app import initial_model

    config = compose(["detector.width=8", "separator.width=16", f"data.cache_dir={tmp_path / 'cache'}"])
    folder = RunFolder(tmp_path / "run")
    save_config(config, folder.config)
    model = initial_model(config)
    about = {"classes": ["NORM", "MI", "STTC", "CD", "HYP"]}
    save_artefact(folder.model, model.parts(), about)
    save_private(folder.site("site-0").private_model, make_networks(config, 0), 1)
    return folder.root


def fails(capsys, *arguments: object) -> str:
    """Run a command that must fail; its one line."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.strip().splitlines() if "━" not in line]  # but for the progress bar
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("lavq: ")
    assert "Traceback" not in captured.err
    return lines[0]


@pytest.mark.parametrize("command", ["run", "demo"])
class TestTraining:
    def fails(self, capsys, tmp_path, command, data, *overrides):
        out = tmp_path / "out"
        cache = f"data.cache_dir={tmp_path / 'cache'}"
        line = fails(capsys, command, "--data", data, "--out", out, cache, *overrides)
        assert not out.exists()
        return line

    def test_missing_folder(self, capsys, tmp_path, command):
        assert "no data folder" in self.fails(capsys, tmp_path, command, tmp_path / "nowhere")

    def test_empty_folder(self, capsys, tmp_path, command):
        (tmp_path / "empty").mkdir()
        assert "is empty" in self.fails(capsys, tmp_path, command, tmp_path / "empty")

    def test_missing_column(self, capsys, tmp_path, command, database):
        table = pd.read_csv(database / "ptbxl_database.csv", dtype=str).drop(columns="strat_fold")
        table.to_csv(database / "ptbxl_database.csv", index=False)
        assert "strat_fold" in self.fails(capsys, tmp_path, command, database)

    def test_every_record_absent(self, capsys, tmp_path, command, database):
        shutil.rmtree(database / "records100")
        self.fails(capsys, tmp_path, command, database)

    def test_unknown_setting(self, capsys, tmp_path, command):
        line = self.fails(capsys, tmp_path, command, SAMPLE, "federation.round=3")
        assert "did you mean federation.rounds?" in line

    def test_unknown_preset_and_wrong_type(self, capsys, tmp_path, command):
        self.fails(capsys, tmp_path, command, SAMPLE, "preset=big")
        assert "federation.rounds" in self.fails(capsys, tmp_path, command, SAMPLE, "federation.rounds=many")

    def test_networks_to_share_that_do_not_exist(self, capsys, tmp_path, command):
        line = self.fails(capsys, tmp_path, command, SAMPLE, "federation.share=[prior,codebook]")
        assert "federation.share takes any of separator, editor, prior" in line
        self.fails(capsys, tmp_path, command, SAMPLE, "federation.share=prior")

    def test_unknown_partition(self, capsys, tmp_path, command):
        assert "partition" in self.fails(capsys, tmp_path, command, SAMPLE, "partition.scheme=alphabet")


class TestDetect:
    def test_not_a_run_folder(self, capsys, tmp_path):
        out = tmp_path / "p.csv"
        assert "no run folder" in fails(capsys, "detect", "--run", tmp_path / "no", RECORD, "--out", out)
        assert "not a run folder" in fails(capsys, "detect", "--run", tmp_path, RECORD, "--out", out)
        assert not out.exists()

    def test_neither_records_nor_database(self, capsys, tmp_path, run):
        assert "either" in fails(capsys, "detect", "--run", run, "--out", tmp_path / "p.csv")

    def test_a_run_that_was_broken_off(self, capsys, tmp_path, run):
        shutil.rmtree(run / "model")
        assert "no model" in fails(capsys, "detect", "--run", run, RECORD, "--out", tmp_path / "p.csv")

    def test_a_changed_model(self, capsys, tmp_path, run):
        weights = run / "model" / "detector.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
        assert "changed" in fails(capsys, "detect", "--run", run, RECORD, "--out", tmp_path / "p.csv")

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            (lambda hea: hea.replace(" 12 100 1000", " 12 50 1000"), "50 Hz"),
            (lambda hea: hea.replace("/mV", "/mmHg"), "mmHg"),
            (lambda hea: hea.replace(" V", " X"), "lacks lead V1, V2, V3, V4, V5, V6"),
        ],
        ids=["rate", "units", "leads"],
    )
    def test_a_header_of_another_kind(self, capsys, tmp_path, run, change, word):
        header = tmp_path / RECORD.with_suffix(".hea").name
        header.write_text(change(RECORD.with_suffix(".hea").read_text()))
        shutil.copy(RECORD.with_suffix(".dat"), tmp_path)
        out = tmp_path / "p.csv"
        assert word in fails(capsys, "detect", "--run", run, header, "--out", out)
        assert not out.exists()

    def test_a_truncated_record(self, capsys, tmp_path, run):
        shutil.copy(RECORD.with_suffix(".hea"), tmp_path)
        (tmp_path / RECORD.with_suffix(".dat").name).write_bytes(RECORD.with_suffix(".dat").read_bytes()[:1000])
        fails(capsys, "detect", "--run", run, tmp_path / RECORD.name, "--out", tmp_path / "p.csv")

    def test_one_bad_record_among_many_is_named_and_counted(self, capsys, tmp_path, run, database):
        victim = sorted(database.glob("records100/*/*.dat"))[3]
        victim.write_bytes(victim.read_bytes()[:1000])
        out = tmp_path / "p.csv"
        assert main(["detect", "--run", str(run), "--database", str(database), "--out", str(out)]) == 0
        assert "1 records left out" in capsys.readouterr().err
        predictions, left_out = pd.read_csv(out), pd.read_csv(tmp_path / "p.left-out.csv")
        assert list(predictions.columns)[:6] == ["ecg_id", "NORM", "MI", "STTC", "CD", "HYP"]
        assert len(predictions) == 29
        assert [int(name) for name in left_out["record"]] == [int(victim.stem.split("_")[0])]

    def test_records_by_name(self, tmp_path, run):
        out = tmp_path / "p.csv"
        assert main(["detect", "--run", str(run), str(RECORD), "--out", str(out)]) == 0
        row = pd.read_csv(out).iloc[0]
        assert row["record"] == RECORD.name
        assert all(0 <= row[name] <= 1 for name in ("NORM", "MI", "STTC", "CD", "HYP"))


class TestRunOfAnotherVersion:
    """Its configuration names settings that are no more, so nothing is guessed from its files."""

    @pytest.fixture
    def old_run(self, run) -> Path:
        config = (run / "config.yaml").read_text()
        assert "\n  loss:\n" in config
        (run / "config.yaml").write_text(config.replace("\n  loss:\n", "\n  loss:\n    roughness: 0.5\n"))
        return run

    @pytest.mark.parametrize("command", ["detect", "twin"])
    def test_it_is_named_and_nothing_is_written(self, capsys, tmp_path, old_run, command):
        arguments = [command, "--run", old_run, RECORD, "--out", tmp_path / "out"]
        line = fails(capsys, *arguments, *(["--disease", "MI"] if command == "twin" else []))
        assert f"{old_run / 'config.yaml'} is not a configuration of this version of lavq" in line
        assert "roughness" in line
        assert not (tmp_path / "out").exists()


def test_report_of_a_run_that_did_not_finish(capsys, run):
    assert "did not finish" in fails(capsys, "report", run)
    assert not (run / "metrics.json").exists()


class TestResume:
    def test_other_settings_beside_resume(self, capsys, run):
        for more in (["run.seed=1"], ["--data", SAMPLE], ["--out", "elsewhere"]):
            assert "leave out KEY=VALUE, --data, --out" in fails(capsys, "run", "--resume", run, *more)

    def test_a_folder_that_is_no_run(self, capsys, tmp_path):
        assert "no run folder" in fails(capsys, "run", "--resume", tmp_path / "nowhere")
        assert "not a run folder" in fails(capsys, "run", "--resume", tmp_path)

    def test_a_finished_run(self, capsys, run):
        from lavq_core.runs.events import EventLog

        EventLog(run / "events.jsonl").write("run-finished", seconds=1.0)
        config = load_config(run / "config.yaml")
        config.data.dir = str(SAMPLE)
        save_config(config, run / "config.yaml")
        assert "has finished: there is nothing to go on with" in fails(capsys, "run", "--resume", run)


def test_a_folder_may_have_spaces_and_quotes_in_its_name(tmp_path, database):
    from simulations.launch import prepare

    odd = database.rename(tmp_path / "St Mary's (ward, 3)")
    overrides = ["federation.sites=2", "federation.min_sites=1", "partition.scheme=iid"]
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    complete, config = prepare([*overrides, cache], str(odd), str(tmp_path / "it's a run"), "run")
    assert Path(config.data.dir) == odd
    assert Path(compose(complete).run.dir) == tmp_path / "it's a run"
