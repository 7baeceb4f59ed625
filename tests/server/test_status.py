"""Where a run stands, read from its log alone: going on, failed, finished, broken off, resumed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from lavq_core.config import compose, save_config
from lavq_core.errors import ConfigError, RunError
from lavq_core.report.evidence import traffic, troubles
from lavq_core.runs import scalars
from lavq_core.runs.events import EventLog, read_events, standing_events
from lavq_core.runs.layout import RunFolder
from lavq_core.runs.lock import held, is_held
from lavq_core.runs.status import run_status
from server.commands import status as command


class Log:
    """Writes what a server would."""

    def __init__(self, root: Path) -> None:
        self.run = RunFolder(root)
        save_config(compose(), self.run.config)
        self.log = EventLog(self.run.events)

    def start(self, rounds: int = 3) -> Log:
        self.log.write("run-started", rounds=rounds, sites=2)
        return self.join()

    def join(self) -> Log:
        for name in ("a", "b"):
            self.log.write("site-joined", site=name)
        return self

    def answer(self, event: str, number: int, site: str, status: str = "ok", **more: Any) -> Log:
        self.log.write(event, round=number, site=site, status=status, bytes_down=100, bytes_up=10, seconds=1.5, **more)
        return self

    def round(self, number: int, b: str = "ok") -> Log:
        self.log.write("round-started", round=number)
        self.answer("site-replied", number, "a").answer("site-replied", number, "b", b)
        self.answer("site-evaluated", number, "a").answer("site-evaluated", number, "b")
        self.log.write("round-finished", round=number, seconds=2.0, sites=2)
        return self


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "run")


def shown(log: Log, capsys: pytest.CaptureFixture[str]) -> str:
    assert command.execute(argparse.Namespace(run=str(log.run.root))) == 0
    return capsys.readouterr().out


def test_a_run_that_goes_on_says_who_is_training(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    log.start().round(1, b="failed: OSError")
    log.log.write("round-started", round=2)
    log.answer("site-replied", 2, "a")
    with held(log.run):
        found, text = run_status(log.run), shown(log, capsys)
    assert (found.state, found.done, found.rounds, found.current) == ("running", 1, 3, 2)
    a, b = found.sites["a"], found.sites["b"]
    assert (a.state, a.rounds, a.failures, a.last) == ("ready", 2, 0, "ok (round 2, training)")
    assert (b.state, b.rounds, b.failures, b.last) == ("training", 0, 1, "ok (round 1, evaluation)")
    assert (a.bytes_down, a.bytes_up, a.seconds) == (300, 30, 4.5)
    assert "running, 1 of 3 rounds done, round 2 going on" in text
    assert "without differential privacy" in text


def test_a_finished_run(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    log.start().round(1).round(2).round(3).log.write("run-finished", seconds=6.0)
    assert "finished, 3 of 3 rounds done" in shown(log, capsys)
    assert {site.state for site in run_status(log.run).sites.values()} == {"took part"}


def test_a_failed_run_says_why_and_how_to_go_on(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    log.start().round(1).log.write("run-failed", reason="only 1 of 2 sites")
    text = shown(log, capsys)
    assert "failed, 1 of 3 rounds done" in text
    assert "reason: only 1 of 2 sites" in text
    assert f"lavq run --resume {log.run.root}" in text


def test_a_run_that_was_killed_is_broken_off(log: Log) -> None:
    with held(log.run):
        log.start().round(1)
        assert run_status(log.run).state == "running"
    assert run_status(log.run).state == "broken off"


def test_a_run_that_has_just_been_made(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    assert "broken off, 0 of 8 rounds done" in shown(log, capsys)


def test_a_resumed_run_counts_each_round_once_and_every_byte(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    log.start().round(1).round(2)
    log.log.write("run-resumed", round=1, rounds=3, sites=2)
    log.join().round(2, b="rejected: it holds a NaN")
    log.answer("site-left-out", 2, "a", "rejected: its norm").log.write("run-finished", seconds=6.0)
    found = run_status(log.run)
    assert (found.done, found.resumed) == (2, 1)
    assert (found.sites["a"].rounds, found.sites["b"].rounds) == (1, 1)
    assert found.sites["b"].bytes_down == 600
    assert "resumed 1 time(s)" in shown(log, capsys)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for folder, named in ((tmp_path / "nowhere", "no run folder"), (tmp_path, "not a run folder")):
        with pytest.raises(RunError, match=named):
            command.execute(argparse.Namespace(run=str(folder)))


# --- what stands -----------------------------------------------------------------------------------------------------


def test_rounds_that_were_undone_are_not_there(log: Log) -> None:
    log.start().round(1).round(2).round(3)
    log.log.write("run-resumed", round=1, rounds=3, sites=2)
    log.join().round(2).answer("site-evaluated", 2, "b", "ok", examples=7)
    standing = standing_events(read_events(log.run.events))
    assert [event["round"] for event in standing if event["event"] == "round-finished"] == [1, 2]
    evaluated = [event for event in standing if event["event"] == "site-evaluated" and event["round"] == 2]
    assert [(event["site"], event.get("examples")) for event in evaluated] == [("a", None), ("b", 7)]
    assert sum(event["event"] == "site-joined" for event in standing) == 4


def test_a_sites_log_knows_no_resume_and_the_last_training_of_a_round_stands(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for number, loss in ((1, 0.9), (2, 0.8), (2, 0.7)):
        log.write("round-trained", round=number, detector_loss=loss)
    log.write("failed", error="OSError")
    kept = [event.get("detector_loss") for event in standing_events(read_events(log.path))]
    assert kept == [0.9, 0.7, None]


def test_the_report_counts_a_round_once_and_says_that_the_run_went_on(log: Log) -> None:
    log.start().round(1).round(2)
    log.log.write("checkpoint-rejected", round=2, reason="damaged")
    log.log.write("run-resumed", round=1, rounds=3, sites=2)
    log.join().round(2).log.write("site-left", site="b")
    rows = {row.site: row for row in traffic(log.run)}
    assert (rows["a"].good, rows["a"].asked, rows["a"].down) == (2, 2, 600)
    said = [row.status for row in troubles(log.run)]
    assert said == ["checkpoint not used: damaged", "resumed after this round; what came later was done again", "left"]


def test_a_folder_has_one_server(log: Log) -> None:
    assert not is_held(log.run)
    with held(log.run):
        assert is_held(log.run)
        with pytest.raises(RunError, match="a run is going on"), held(log.run):
            pass
    assert not is_held(log.run)


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def test_events_become_scalars_and_what_is_done_again_replaces_what_was(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log(tmp_path / "run")
    for resumed in (False, True):
        with scalars.ScalarWriter(log.run.tensorboard) as writer:
            log.log = EventLog(log.run.events, writer)
            if resumed:
                log.log.write("run-resumed", round=1, rounds=3, sites=2)
                log.round(2, b="failed: OSError")
            else:
                log.start().round(1).round(2)
    found = EventAccumulator(str(log.run.tensorboard)).Reload()
    assert {"round/seconds", "round/sites", "train/ok/b", "train/bytes_up/a", "evaluate/seconds/b"} <= set(
        found.Tags()["scalars"]
    )
    assert [(scalar.step, scalar.value) for scalar in found.Scalars("train/ok/b")] == [(1, 1.0), (2, 0.0)]


def test_tensorboard_that_is_not_installed_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"run\.tensorboard needs the package tensorboard: pip install"):
        scalars.ScalarWriter(tmp_path)
