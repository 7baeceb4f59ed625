"""``flwr run`` is driven to a verdict, with the code of its own checkout, and leaves nothing behind."""

import io
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from flwr.cli.build import build_fab_from_disk
from rich.console import Console

from lavq_core.errors import ConfigError, RunError
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.events import EventLog, read_events
from lavq_core.runs.layout import RunFolder
from server.flower_environment import flower_environment, last_words, program
from simulations.flower_runtime import Machine, _failure, run_app, run_federation
from simulations.progress import RunProgress
from simulations.superlink import CHECKOUT, end_abandoned, flower_home, start_superlink

TOY = Path(__file__).parent / "toy_app"
TWO = Machine(clients=2, workers=2, gpus=0.0)


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[[str], Path]:
    """Make a checkout of a toy app whose sites know which version of the code they are."""

    def make(version: str) -> Path:
        folder = tmp_path / version
        shutil.copytree(TOY, folder, ignore=shutil.ignore_patterns("__pycache__"))
        for package in ("lavq_core", "server"):
            shutil.copytree(CHECKOUT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "client" / "version.py").write_text(f"VERSION = {version!r}\n")
        return folder

    return make


def processes_of(folder: Path) -> list[str]:
    """Living processes whose Flower home lies in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLWR_HOME", "").startswith(str(folder)):
                found.append(process.name())
        except psutil.Error:
            continue
    return found


def assert_nothing_is_left(folder: Path) -> None:
    assert processes_of(folder) == []
    assert list((folder / ".lavq" / "flwr").iterdir()) == []


@pytest.mark.slow
def test_a_second_checkout_runs_its_own_code(
    checkout: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, own = checkout("other"), checkout("own")
    monkeypatch.chdir(other)
    run = RunFolder(tmp_path / "a run")
    run_app(own, [f"run.dir={run.root}"], TWO, run)
    for partition in (0, 1):
        version, file, folder, threads = (run.root / f"site-{partition}.txt").read_text().splitlines()
        assert version == "own"
        assert file.startswith(str(own / ".lavq"))
        assert str(own / ".lavq") in folder
        assert threads == os.environ.get("OMP_NUM_THREADS", "1")
    assert read_events(run.events)[-1]["event"] == "run-finished"
    parts, _ = load_artefact(run.model)
    assert parts["detector"]["weight"].tolist() == [1.75] * 7  # 1 + (1 * 0 + 3 * 1) / 4
    assert parts["networks"]["prior.weight"].tolist() == [1.75] * 2
    assert "Successfully started run" in (run.root / "flower.log").read_text()
    assert_nothing_is_left(own)


@pytest.mark.slow
def test_a_run_that_fails_is_an_error_although_flwr_exits_with_0(
    checkout: Callable[[str], Path], tmp_path: Path
) -> None:
    app, run = checkout("broken"), RunFolder(tmp_path / "run")
    with pytest.raises(RunError, match=r"the federation failed: .*it's \"odd\".*flower\.log") as caught:
        run_app(app, [f"run.dir={run.root}", 'crash=it\'s "odd"'], TWO, run)
    assert "\n" not in str(caught.value)
    assert "--- SuperLink ---" in (run.root / "flower.log").read_text()
    assert_nothing_is_left(app)


@pytest.mark.slow
def test_an_app_that_flwr_refuses_is_an_error(checkout: Callable[[str], Path], tmp_path: Path) -> None:
    app, run = checkout("refused"), RunFolder(tmp_path / "run")
    (app / "pyproject.toml").write_text((app / "pyproject.toml").read_text().replace("client.app:app", "client.app:no"))
    with pytest.raises(RunError, match=r"flwr run did not take the app: .*client\.app"):
        run_app(app, [f"run.dir={run.root}"], TWO, run)


@pytest.mark.slow
def test_a_superlink_whose_owner_died_is_ended_by_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    homes = flower_home(tmp_path)
    script = (
        "import os, pathlib, simulations.superlink as s\n"
        f"s.start_superlink(pathlib.Path({str(homes / 'run-1')!r}), os.getpid())\n"
        "os._exit(9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    mine = start_superlink(homes / "run-2", owner=os.getpid())
    try:
        end_abandoned(homes)
        assert [path.name for path in homes.iterdir()] == ["run-2"]
        assert mine.processes()
    finally:
        mine.stop()
    assert_nothing_is_left(tmp_path)
    assert not Path(mine.scratch).exists()


def test_a_folder_that_holds_a_run_is_refused_before_anything_starts(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    EventLog(run.events).write("run-finished")
    started = time.monotonic()
    with pytest.raises(RunError, match=r"holds a run already: give another run\.dir"):
        run_app(tmp_path, [], TWO, run)
    assert time.monotonic() - started < 1.0


def test_an_installed_package_is_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a checkout of the repository: clone it"):
        run_app(tmp_path, [], TWO, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("overrides", [[], ["run.dir=relative", "data.dir=/data"], ["run.dir=/tmp/x"]])
def test_folders_must_be_absolute(overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match="must be an absolute folder"):
        run_federation(overrides, 4)


def test_a_misspelt_setting_stops_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"did you mean federation\.rounds"):
        run_federation(["federation.round=3"], 4)


@pytest.mark.parametrize(
    ("status", "events", "reason"),
    [
        ("finished:completed", ["run-started", "run-finished"], None),
        ("finished:failed", ["run-started", "run-finished"], "Flower says finished:failed (two lines)"),
        ("finished:completed", ["run-started"], "Flower says that it completed, but the server's event log does not"),
        ("finished:completed", [], "Flower says that it completed, but the server's event log does not"),
        ("finished:failed", ["run-started", "run-failed"], "no quorum"),
        ("finished:stopped", [], "Flower says finished:stopped (two lines)"),
        ("unknown", ["run-finished"], "Flower says unknown (two lines)"),
    ],
)
def test_a_run_is_good_only_if_flower_and_the_server_say_so(
    tmp_path: Path, status: str, events: list[str], reason: str | None
) -> None:
    run = RunFolder(tmp_path)
    for event in events:
        fields: dict[str, Any] = {"reason": "no quorum"} if event == "run-failed" else {}
        EventLog(run.events).write(event, **fields)
    assert _failure({"status": status, "status-details": "two\nlines"}, run) == reason


def test_a_simulation_takes_no_more_cores_than_sites() -> None:
    cores = len(os.sched_getaffinity(0))
    assert Machine.share(1, "cpu") == Machine(1, 1, 0.0)
    assert Machine.share(1000, "cpu") == Machine(1000, min(1000, cores), 0.0)
    assert Machine(4, 2, 0.5).federation_config().split() == [
        "num-supernodes=4",
        "init-args-num-cpus=2",
        "client-resources-num-cpus=1",
        "client-resources-num-gpus=0.500",
    ]


def test_flowers_environment_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("FLWR_HOME", "/somewhere/else")
    monkeypatch.setenv("FLWR_LOCAL_SUPERLINK_HTTP_API_PORT", "1")
    environment = flower_environment(tmp_path, "/tmp/x", {"MARK": "1"})
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert not {"RAY_ADDRESS", "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"} & set(environment)
    assert environment["FLWR_TELEMETRY_ENABLED"] == environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(program("flwr")).parent)


def test_a_program_that_is_not_installed_is_one_clear_line() -> None:
    with pytest.raises(RunError, match=r"no-such-flower is not installed beside .*: install this package"):
        program("no-such-flower")


def test_a_programs_last_words_are_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == "it wrote nothing"
    log.write_text("first\nlast \n\n")
    assert last_words(log) == "last"
    log.write_text("first\n╭─ Error ──╮\n│ the reason │\n│ goes on    │\n╰──────────╯\n\n")
    assert last_words(log) == "the reason goes on"


def test_progress_is_a_line_a_round_and_names_who_was_left_out() -> None:
    console = Console(record=True, width=200, force_terminal=False)
    answer = {"site": "site-1", "round": 1, "status": "ok"}
    log = [
        {"event": "run-started", "rounds": 2, "sites": 2},
        {"event": "site-joined", "site": "site-0"},
        {"event": "site-joined", "site": "site-1"},
        {"event": "round-started", "round": 1},
        {"event": "site-replied", **answer, "site": "site-0"},
        {"event": "site-replied", **answer, "status": "rejected: [b]detector[/b] is odd"},
        {"event": "site-evaluated", **answer},
        {"event": "round-finished", "round": 1, "seconds": 3.25, "sites": 1},
    ]
    with RunProgress(console) as progress:
        for end in range(len(log) + 1):
            progress.show(log[:end])
    assert console.export_text().splitlines() == [
        "starting Flower (about 20 s)",
        "sites: site-0, site-1",
        "round 1: left out site-1: rejected: [b]detector[/b] is odd",
        "round 1 of 2: 1 sites, 3.2 s",
    ]


def test_progress_of_a_resumed_run_begins_where_it_goes_on() -> None:
    console = Console(record=True, width=200, force_terminal=False)
    log = [
        {"event": "run-started", "rounds": 3, "sites": 1},
        {"event": "site-joined", "site": "site-0"},
        {"event": "round-started", "round": 1},
        {"event": "checkpoint-rejected", "round": 2, "reason": "it is damaged"},
        {"event": "run-resumed", "round": 1, "rounds": 3, "sites": 1},
        {"event": "site-joined", "site": "site-0"},
        {"event": "round-started", "round": 2},
        {"event": "site-asked-again", "round": 2, "site": "site-0", "status": "failed: OSError"},
        {"event": "site-left", "site": "site-0"},
    ]
    with RunProgress(console, skip=3) as progress:
        progress.show(log)
    assert console.export_text().splitlines()[1:] == [
        "the checkpoint of round 2 cannot be used: it is damaged",
        "going on after round 1",
        "sites: site-0",
        "round 2: asking site-0 again: failed: OSError",
        "site-0 has left",
    ]


def test_the_bundle_holds_our_code_and_nothing_else() -> None:
    """``flwr run`` ships the checkout in a bundle that drops ``test_*.py`` and ``*_test.py`` without a word."""
    bundle = build_fab_from_disk(CHECKOUT)
    names = set(zipfile.ZipFile(io.BytesIO(bundle)).namelist())
    ours = {
        path.relative_to(CHECKOUT).as_posix()
        for package in ("lavq_core", "client", "server", "simulations", "configs")
        for path in (CHECKOUT / package).rglob("*")
        if path.suffix in (".py", ".yaml", ".json") and "__pycache__" not in path.parts
    }
    data = {name for name in ours if name.startswith(("simulations/sample/", "simulations/results/"))}
    assert ours - data <= names
    assert names <= ours | {"pyproject.toml", "README.md", "LICENSE", ".info/CONTENT"}
    assert "lavq_core/data/statements.json" in names  # sites cannot read a request without it
    assert len(bundle) < 10 * 1024 * 1024
