"""A deployed hospital: it owns all of its database, and no server tells it where that is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from flwr.app import RecordDict

from lavq_core.runs.layout import SiteFolder
from server.validation import ReplyChecker, read_site_name
from tests.client.client_app.replies import Make


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A hospital's own database: a part of the sample."""
    sample = Path(__file__).resolve().parents[3] / "simulations" / "sample"
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
