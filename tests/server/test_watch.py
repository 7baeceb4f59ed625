"""The live view of a run that goes on: in the terminal, and on its page in a real browser."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from lavq_core.cli.main import main
from lavq_core.config import compose, save_config
from lavq_core.runs.events import EventLog
from lavq_core.runs.layout import RunFolder
from lavq_core.runs.lock import held
from lavq_core.runs.site_curves import site_curves
from server.commands import watch as command
from server.watch.app import Watch
from tests.pages import faults_of

SITES = ("site-2", "site-10")


class Federation:
    """Writes what a server and its sites would."""

    def __init__(self, root: Path) -> None:
        self.run = RunFolder(root)
        save_config(compose(), self.run.config)
        self.log = EventLog(self.run.events)
        self.log.write("run-started", rounds=3, sites=2)
        for site in SITES:
            self.log.write("site-joined", site=site)

    def round(self, number: int, status: str = "ok") -> None:
        self.log.write("round-started", round=number)
        for site, answer in zip(SITES, ("ok", status), strict=True):
            own = EventLog(self.run.site(site).events)
            own.write("round-trained", round=number, detector_loss=0.9 / number, twins=4)
            own.write("round-evaluated", round=number, macro_auc=0.6 + 0.05 * number)
            sums = {"bytes_down": 2_000_000, "bytes_up": 1_000_000, "seconds": 1.5}
            self.log.write("site-replied", round=number, site=site, status=answer, **sums)
            self.log.write("site-evaluated", round=number, site=site, status="ok", bytes_down=0, bytes_up=0, seconds=0)
        self.log.write("round-finished", round=number, seconds=2.0, sites=2)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path / "run")


# --- in the terminal ------------------------------------------------------------------------------------------------


def test_it_shows_rounds_sites_losses_bytes_budget_and_failures(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    federation.round(1)
    federation.round(2, status="failed: OSError")
    federation.log.write("run-failed", reason="only 1 of 2 sites")
    assert main(["watch", str(federation.run.root)]) == 0
    said = capsys.readouterr().out
    for words in (
        "failed, 2 of 3 rounds done",
        "reason: only 1 of 2 sites",
        "lavq run --resume",
        "4.00\u00a0MB",
        "0.450",  # detector loss
        "0.700",  # macro AUC
        "without differential privacy",
        "round 2: site-10 training failed: OSError",
    ):
        assert words in said
    assert said.index("site-2") < said.index("site-10")


def test_it_follows_the_run_and_ends_with_it(
    federation: Federation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter([lambda: federation.round(1), lambda: federation.log.write("run-finished", seconds=3.0)])
    monkeypatch.setattr(command.time, "sleep", lambda seconds: next(steps)())
    with held(federation.run):
        assert main(["watch", str(federation.run.root)]) == 0
    assert "finished, 1 of 3 rounds done" in capsys.readouterr().out


def test_where_hospitals_keep_their_losses_it_says_so(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    federation.log.write("run-finished", seconds=1.0)
    assert main(["watch", str(federation.run.root)]) == 0
    assert "losses and scores stay at the hospitals" in capsys.readouterr().out


def test_of_a_round_that_was_done_again_the_last_values_stand(federation: Federation) -> None:
    own = EventLog(federation.run.site("site-2").events)
    for loss in (0.9, 0.8, float("nan")):
        own.write("round-trained", round=1, detector_loss=loss)
    own.write("round-trained", round=2, detector_loss=0.5)
    own.write("round-evaluated", round=2, macro_auc=None)
    assert site_curves(federation.run) == {"detector_loss": {"site-2": [(2.0, 0.5)]}}


# --- on its page ----------------------------------------------------------------------------------------------------


@pytest.fixture
def address(federation: Federation) -> Iterator[str]:
    app = Watch(federation.run, compose()).app("key")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/#key"
    server.should_exit = True
    thread.join(10)


def test_the_page_follows_the_log(federation: Federation, address: str, open_page: Callable[..., Page]) -> None:
    federation.round(1)
    with held(federation.run):
        page = open_page(address, 360, dark=True)
        expect(page.locator("#heading")).to_contain_text("running, 1 of 3 rounds done")
        expect(page.locator("#sites tbody tr")).to_have_count(2)
        expect(page.locator("#sites tbody th").first).to_have_text("site-2")
        expect(page.locator("#curves svg")).to_have_count(2)
        expect(page.locator("#budget")).to_contain_text("without differential privacy")
        expect(page.locator("#no-troubles")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        federation.round(2, status="failed: <b>OSError</b>")
        expect(page.locator("#heading")).to_contain_text("2 of 3 rounds done")
        expect(page.locator("#troubles li")).to_contain_text("round 2 · site-10 · training failed: <b>OSError</b>")
        assert page.evaluate("document.getElementById('progress').value") == 2
        federation.log.write("run-finished", seconds=6.0)
        expect(page.locator("#heading")).to_contain_text("finished")
        assert page.title().startswith("2/3 finished")
        assert faults_of(page) == []


def test_a_page_without_the_key_says_what_to_do(address: str, open_page: Callable[..., Page]) -> None:
    page = open_page(address.replace("#key", "#other"))
    expect(page.locator("#error")).to_contain_text("open the one that it printed")


def test_a_port_that_cannot_be_used_is_told(federation: Federation, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(federation.run.root), "--web", "--no-browser", "--port", "99999"]) == 2
    assert "port 99999 cannot be used" in capsys.readouterr().err
