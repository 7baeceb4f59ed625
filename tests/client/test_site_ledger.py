"""A hospital whose data change: its ledger stays closed until the operator declares the new data, and then adds up."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flwr.app import ConfigRecord

from client.site import _deployed, _open
from client.site_ledger import fingerprint, open_data
from lavq_core.cli.main import main
from lavq_core.privacy.ledger import Ledger
from lavq_core.runs.layout import SiteFolder
from server.app import initial_model
from server.deployment.folders import SiteNodeFolder, SiteSettings, write_settings
from tests.client.policies import write_policy
from tests.conftest import SAMPLE

Make = Callable[..., Any]
PRIVATE = (
    "privacy=eps8", "separator_training.steps=0", "detector_training.steps=2", "detector_training.epochs=2",
    "federation.rounds=3",
)  # fmt: skip
BEFORE, AFTER = 40, 48  # records


@pytest.fixture
def node(tmp_path: Path) -> SiteNodeFolder:
    """A deployed site's own folder, and its data."""
    ward, node = tmp_path / "ward", SiteNodeFolder(tmp_path / "st-mary")
    ward.mkdir()
    shutil.copy(SAMPLE / "scp_statements.csv", ward)
    (ward / "records100").symlink_to(SAMPLE / "records100")
    give(ward, BEFORE)
    write_settings(node.settings_file, SiteSettings("st-mary", "localhost:1", str(ward), 1, 2, "localhost:3"))
    write_policy(node.policy)
    return node


@pytest.fixture
def site(deployed: Make, config_of: Make, node: SiteNodeFolder) -> Make:
    """Make the site in a run of more settings; its process has just begun."""

    def make(*more: str) -> Any:
        _deployed.cache_clear()
        _open.cache_clear()
        data_dir = node.settings().data_dir
        about = {"site": "st-mary", "data-dir": data_dir, "site-dir": str(node.state), "policy": str(node.policy)}
        made = deployed(about, *PRIVATE, *more)
        made.shared = initial_model(config_of(*PRIVATE, *more))
        return made

    return make


def give(ward: Path, records: int) -> None:
    pd.read_csv(SAMPLE / "ptbxl_database.csv").head(records).to_csv(ward / "ptbxl_database.csv", index=False)


def grow(node: SiteNodeFolder) -> str:
    """Add patients' records; the fingerprint before."""
    former = fingerprint(open_data(node, 100))
    give(Path(node.settings().data_dir), AFTER)
    return former


def ledger_of(node: SiteNodeFolder) -> Ledger:
    return Ledger(SiteFolder(node.state).ledger, fingerprint(open_data(node, 100)), 8.0, 1e-5)


def test_changed_data_are_refused_until_the_operator_declares_them(
    site: Make, node: SiteNodeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site().train(1, 3).has_content()
    before = ledger_of(node).epsilon()
    former = grow(node)
    reply = site().train(2, 3)
    assert reply.error.reason == "LedgerError"
    assert main(["site", "ledger", str(node.root)]) != 0
    said = capsys.readouterr().err
    assert f"--successor-of {former}" in said.replace("\n", " ")

    assert main(["site", "ledger", str(node.root), "--successor-of", former]) == 0
    assert "counts for every patient from now on" in capsys.readouterr().out
    assert site().train(2, 3).has_content()
    ledger = ledger_of(node)
    assert [entry.round for entry in ledger.entries] == [1, 2]
    assert ledger.epsilon() > before > 0
    assert main(["site", "ledger", str(node.root)]) == 0
    assert "2 releases in 1 run(s); epsilon " in capsys.readouterr().out


def test_no_message_of_a_server_declares_anything(site: Make, node: SiteNodeFolder) -> None:
    """Nor does a later run, another name, or words in the message that a command would take."""
    assert site().train(1, 3).has_content()
    former = grow(node)
    path = SiteFolder(node.state).ledger
    closed = path.read_bytes()
    for asked in (site(), site("run.dir=/another", "federation.rounds=5"), site("privacy=eps1", "run.resume=true")):
        content = asked.content(2, 3)
        content["successor"] = ConfigRecord({"of": former, "successor-of": former})
        assert asked.ask("train", content).error.reason == "LedgerError"
        asked.hello()
        asked.evaluate(1, 3)
        assert path.read_bytes() == closed


def test_a_fingerprint_that_the_ledger_does_not_know_is_no_way_in(
    site: Make, node: SiteNodeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site().train(1, 3).has_content()
    grow(node)
    assert main(["site", "ledger", str(node.root), "--successor-of", "f" * 64]) != 0
    assert "belongs to other data" in capsys.readouterr().err
