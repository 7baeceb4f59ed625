"""Following a run of a deployment: until it ends, fails, or nothing says any more how it stands. Every wait ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lavq_core.errors import RunError
from lavq_core.runs.events import EventLog
from lavq_core.runs.layout import RunFolder
from server.deployment import submission
from server.deployment.folders import ServerFolder, ServerSettings, read_nodes, write_settings
from server.deployment.submission import connected_nodes, follow, prepared, register_nodes, run_row, submit


@pytest.fixture
def server(tmp_path: Path) -> ServerFolder:
    return ServerFolder(tmp_path / "server")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let Flower say how the run stands, one answer after the other and the last one for good; each a look apart."""
    monkeypatch.setattr(submission, "_LOOK", 0.01)
    monkeypatch.setattr(submission, "_ASK_FLOWER", 0.02)

    def says(*answers: str | Callable[[], str]) -> None:
        left = list(answers)

        def row(*_: object) -> dict[str, Any]:
            answer = left.pop(0) if len(left) > 1 else left[0]
            return {"status": answer if isinstance(answer, str) else answer()}

        monkeypatch.setattr(submission, "run_row", row)

    return says


def test_a_run_is_followed_until_flower_says_too_that_it_is_done(
    server: ServerFolder, run: RunFolder, flower: Callable[..., None]
) -> None:
    log, shown = EventLog(run.events), []
    log.write("run-failed", reason="of an earlier try")

    def finishing() -> str:
        log.write("round-finished", round=1)
        log.write("run-finished")
        return "running"

    flower("starting", finishing, "unknown", "running", "finished:completed")
    follow(server, "1", run, lambda event: shown.append(event["event"]))
    assert shown == ["round-finished", "run-finished"]


@pytest.mark.parametrize(
    ("event", "status", "reason"),
    [
        ({"event": "run-failed", "reason": "too few sites"}, "finished:completed", "too few sites"),
        ({"event": "round-started"}, "finished:failed", "finished:failed"),
    ],
)
def test_a_run_that_failed_is_an_error_with_its_own_reason(
    server: ServerFolder, run: RunFolder, flower: Callable[..., None], event: dict[str, str], status: str, reason: str
) -> None:
    EventLog(run.events).write(**event)
    flower(status)
    with pytest.raises(RunError, match=f"the run failed: {reason}"):
        follow(server, "1", run, lambda _: None)


def test_a_superlink_that_never_answers_is_waited_for_no_longer_than_that(
    server: ServerFolder, run: RunFolder, flower: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_SILENCE", 0.1)
    flower("unknown")
    with pytest.raises(RunError, match=r"the SuperLink has not answered for 0\.1 s"):
        follow(server, "1", run, lambda _: None)


def test_a_run_that_outlasts_ones_patience_goes_on_unwatched(
    server: ServerFolder, run: RunFolder, flower: Callable[..., None]
) -> None:
    flower("running")
    with pytest.raises(RunError, match=r"has not ended within 0\.1 s and goes on"):
        follow(server, "1", run, lambda _: None, patience=0.1)


def test_a_process_that_outlives_its_run_is_told(
    server: ServerFolder, run: RunFolder, flower: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_CLOSING", 0.1)

    def finishing() -> str:
        EventLog(run.events).write("run-finished")
        return "running"

    flower(finishing, "running")
    with pytest.raises(RunError, match="says that it has ended, but its process has not"):
        follow(server, "1", run, lambda _: None)


def test_a_command_of_flower_that_hangs_is_ended(
    server: ServerFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = tmp_path / "flwr"
    late = '{"nodes": [{"status": "online"}], "runs": [{"status": "running"}], "run-id": 1}'
    hanging.write_text(f"#!{sys.executable}\nimport sys, time\nsys.stdin.read()\ntime.sleep(60)\nprint({late!r})\n")
    hanging.chmod(0o700)
    server.work.mkdir(parents=True)
    server.flower_home.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(submission, "program", lambda _: str(hanging))
    monkeypatch.setattr(submission, "server_programs", lambda _: [SimpleNamespace(environment={})])
    monkeypatch.setattr(submission, "_ANSWER", 0.3)
    assert connected_nodes(server) == 0
    assert run_row(server, "1") == {"status": "unknown"}
    with pytest.raises(RunError, match=r"no answer within 0\.3 s: is the SuperLink up"):
        submit(server, ["run.seed=1"])


def test_which_node_the_superlink_made_of_a_key_is_kept_for_every_run(
    server: ServerFolder, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SuperLink says it once; a key that has come in another one's place has a node of its own."""
    write_settings(server.settings_file, ServerSettings("localhost", 1, ["localhost"], 2, True, ["city", "st-mary"]))
    for site in ("city", "st-mary"):
        server.public_key(site).parent.mkdir(exist_ok=True)
        server.public_key(site).write_text("key")
    ids = iter([2**63 + 5, 11, None, 12])

    def flwr(*_: object, check: bool = True) -> SimpleNamespace:
        node = next(ids)
        if node is None:
            return SimpleNamespace(returncode=1, stdout="", stderr="the public key is already in use")
        return SimpleNamespace(returncode=0, stdout=json.dumps({"success": True, "node-id": node}, indent=1), stderr="")

    monkeypatch.setattr(submission, "_flwr", flwr)
    assert not any("federation.nodes" in override for override in prepared(server, [], run, False))
    assert register_nodes(server) == {"city": "registered", "st-mary": "registered"}
    assert read_nodes(str(server.nodes)) == {2**63 + 5: "city", 11: "st-mary"}
    assert register_nodes(server) == {"city": "was registered before", "st-mary": "registered"}
    assert read_nodes(str(server.nodes)) == {2**63 + 5: "city", 12: "st-mary"}
    assert f"federation.nodes='{server.nodes}'" in prepared(server, [], run, False)
