"""A whole federation under differential privacy: budgets end, servers are killed, and the sum is always right."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import client.app
from client.policy import SitePolicy
from lavq_core.privacy.ledger import Ledger
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder
from server import round_loop
from simulations.inprocess import run_in_process
from simulations.summary import summarise

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"
ROUNDS = 4
Federate = Callable[..., RunFolder]


@pytest.fixture
def federate(tmp_path: Path, packs: Path) -> Federate:
    """Run a private federation of the sample's four hospitals."""

    def run(name: str = "run", *more: str) -> RunFolder:
        overrides = [
            f"run.dir='{tmp_path / name}'", f"data.dir='{SAMPLE}'", f"data.cache_dir='{packs}'", "run.device=cpu",
            "privacy=eps8", "detector_training.steps=4", "detector_training.epochs=4", f"federation.rounds={ROUNDS}",
            "federation.retries=0", "twins.gallery=0", *more,
        ]  # fmt: skip
        run_in_process(overrides, 4)
        return RunFolder(tmp_path / name)

    return run


def replies(run: RunFolder, site: str) -> list[dict[str, object]]:
    return [e for e in read_events(run.events) if e["event"] == "site-replied" and e["site"] == site and e["round"]]


def ledger_of(run: RunFolder, site: str, data: str = "") -> Ledger:
    import json

    path = run.site(site).ledger
    return Ledger(path, data or json.loads(path.read_text().splitlines()[0])["data"], 8.0, 1e-5)


def test_every_site_pays_every_round_and_what_it_pays_is_in_the_log(federate: Federate) -> None:
    run = federate()
    for site in run.sites():
        spent = [float(str(reply["epsilon"])) for reply in replies(run, site.root.name)]
        assert spent == sorted(spent)
        assert len(spent) == ROUNDS
        ledger = ledger_of(run, site.root.name)
        assert spent[-1] == pytest.approx(ledger.epsilon(), abs=1e-5)
        assert 7.5 < spent[-1] <= 8.0
        assert [entry.round for entry in ledger.entries] == [1, 2, 3, 4]
    assert "(7.9" in load_artefact(run.model)[1]["privacy"]
    metrics = summarise(run)
    assert metrics["privacy.epsilon.site.site-0"] == pytest.approx(spent[-1], abs=0.01)
    assert "add or remove one patient" in str(metrics["privacy.statement"])


def test_the_same_run_twice_draws_other_noise_and_costs_the_same(federate: Federate) -> None:
    first, second = federate("a"), federate("b")
    ours, theirs = (load_artefact(run.model)[0]["detector"]["head.weight"] for run in (first, second))
    assert not bool((ours == theirs).all())
    assert ledger_of(first, "site-0").epsilon() == pytest.approx(ledger_of(second, "site-0").epsilon())


def test_a_spent_site_stays_out_and_the_others_go_on(federate: Federate, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = client.app.open_site

    def limited(context):
        site = opened(context)
        return replace(site, policy=SitePolicy(epsilon_max=6.0)) if site.name == "site-1" else site

    monkeypatch.setattr(client.app, "open_site", limited)
    run = federate()
    statuses = [str(reply["status"]) for reply in replies(run, "site-1")]
    assert statuses == ["ok", "ok", "failed: BudgetSpent", "failed: BudgetSpent"]
    assert [str(reply["status"]) for reply in replies(run, "site-0")] == ["ok"] * ROUNDS
    assert read_events(run.events)[-1]["event"] == "run-finished"
    assert ledger_of(run, "site-1").epsilon() <= 6.0


@pytest.mark.parametrize("kept", [True, False])
def test_a_killed_server_goes_on_and_ledgers_compose(
    federate: Federate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """What a site released in a round that the server lost is sent again; where that is gone, it is paid again."""
    save = round_loop.Checkpoints.save_round

    def killed(self, checkpoint):
        if checkpoint.round == 3:
            raise KeyboardInterrupt
        save(self, checkpoint)

    monkeypatch.setattr(round_loop.Checkpoints, "save_round", killed)
    with pytest.raises(KeyboardInterrupt):
        federate("run", "privacy.epsilon_max=20")
    monkeypatch.undo()
    if not kept:
        for site in RunFolder(tmp_path / "run").sites():
            shutil.rmtree(site.ledger.parent / "kept_reply")
    run = federate("run", "privacy.epsilon_max=20", "run.resume=true")
    ledger = ledger_of(run, "site-0")
    assert [entry.round for entry in ledger.entries] == ([1, 2, 3, 4] if kept else [1, 2, 3, 3, 4])
    assert (ledger.epsilon() <= 8.0) == kept
    assert replies(run, "site-0")[-1]["epsilon"] == pytest.approx(ledger.epsilon(), abs=1e-5)
    heads = load_artefact(run.checkpoint(ROUNDS))[1]["history"][-1]["heads"]
    assert heads["site-0"] == ledger.head


def test_the_server_echoes_the_heads_it_has_heard_of(federate: Federate, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    opening = client.app.open_ledger

    def watched(site, acknowledged):
        if site.name == "site-2":
            asked.append(acknowledged)
        return opening(site, acknowledged)

    monkeypatch.setattr(client.app, "open_ledger", watched)
    run = federate()
    import hashlib

    lines = run.site("site-2").ledger.read_text().splitlines()
    assert asked == ["", *(hashlib.sha256(line.encode()).hexdigest() for line in lines[1:ROUNDS])]
