"""``lavq site check`` says in words, and at once, everything that is wrong."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.site_check import OK, WARNING, WRONG, check_site
from client.site_ledger import fingerprint, open_data
from lavq_core.config import compose, save_config
from lavq_core.models.pretrained import weights_sha256
from lavq_core.privacy.accounting import Mechanism
from lavq_core.privacy.ledger import Entry, Ledger
from lavq_core.runs.layout import SiteFolder
from server.deployment.certificates import Authority
from server.deployment.folders import Deployment, SiteNodeFolder, write_settings
from tests.networks_on_disk import network_run, private_with

SAMPLE = Path(__file__).resolve().parents[3] / "simulations" / "sample"


@pytest.fixture
def site(deployment: Deployment, tmp_path: Path) -> SiteNodeFolder:
    """St Mary's folder, to be spoilt; its data are a few records."""
    node = SiteNodeFolder(tmp_path / "st-mary")
    shutil.copytree(deployment.site("st-mary").root, node.root)
    write_settings(node.settings_file, replace(node.settings(), data_dir=str(few_records(tmp_path))))
    return node


def few_records(folder: Path) -> Path:
    import pandas as pd

    out = folder / "ward"
    out.mkdir()
    table = pd.read_csv(SAMPLE / "ptbxl_database.csv").head(6)
    table.to_csv(out / "ptbxl_database.csv", index=False)
    shutil.copy(SAMPLE / "scp_statements.csv", out)
    (out / "records100").symlink_to(SAMPLE / "records100")
    return out


def wrong(site: SiteNodeFolder) -> dict[str, str]:
    return {finding.topic: finding.text for finding in check_site(site) if finding.level == WRONG}


def test_a_sound_site_is_ready(door: str, site: SiteNodeFolder) -> None:
    assert wrong(site) == {}


def test_everything_that_is_wrong_is_said_at_once(door: str, site: SiteNodeFolder, deployment: Deployment) -> None:
    site.node_key.chmod(0o644)
    site.policy.write_text(site.policy.read_text().replace("minimum_patients = 1", "minimum_patients = 1000"))
    Authority.load(*deployment.authority).issue_client(site.certificate("site"), "st-mary", days=-2.0)
    found = wrong(site)
    assert found["secrets"] == "others can read node.key: chmod 600 secrets/*"
    assert "where the policy asks for 1000" in found["data"]
    assert "expired 2.0 days ago: renew it" in found["certificates"]
    assert "does not accept this site's certificate" in found["gateway"]


def test_a_site_without_data_policy_or_gateway_is_told(site: SiteNodeFolder) -> None:
    write_settings(site.settings_file, replace(site.settings(), data_dir="", gateway="localhost:1"))
    site.policy.unlink()
    site.node_key.write_text("no key")
    found = wrong(site)
    assert "data_dir in site.toml is empty" in found["data"]
    assert "cannot be read" in found["policy"]
    assert "no OpenSSH elliptic key" in found["node key"]
    assert "nobody listens there" in found["gateway"]


def test_a_site_that_is_not_on_the_list_is_told(door: str, site: SiteNodeFolder, deployment: Deployment) -> None:
    Authority.load(*deployment.authority).issue_client(site.certificate("site"), "left")
    assert "not on its list" in wrong(site)["gateway"]


@pytest.mark.parametrize(("offset", "side"), [(600.0, "ahead of"), (-600.0, "behind")])
def test_a_clock_that_is_off_by_ten_minutes_is_told(
    door: str, site: SiteNodeFolder, monkeypatch: pytest.MonkeyPatch, offset: float, side: str
) -> None:
    # The site's clock alone: the gateway of this test runs in the same process and tells its own time.
    monkeypatch.setattr(
        "client.site_check.time", SimpleNamespace(time=lambda: time.time() + offset, monotonic=time.monotonic)
    )
    assert f"s {side} the server" in wrong(site)["clock"]


def said(site: SiteNodeFolder, topic: str, network: str = "") -> tuple[str, str]:
    """Level and text of what was said about a topic."""
    (found,) = [finding for finding in check_site(site, network) if finding.topic == topic]
    return found.level, found.text


def test_the_ledger_is_looked_at(site: SiteNodeFolder) -> None:
    assert said(site, "ledger") == (OK, "nothing was released privately yet")
    database = open_data(site, 100)
    ledger = Ledger(SiteFolder(site.state).ledger, fingerprint(database), 8.0, 1e-5)
    ledger.write(Entry("night", 1, [Mechanism("detector", 30.0, steps=40)]))
    level, text = said(site, "ledger")
    assert level == OK
    assert text.startswith(f"1 release in 1 run(s); epsilon {ledger.epsilon():.3f} of every patient")
    table = Path(site.settings().data_dir) / "ptbxl_database.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    level, text = said(site, "ledger")
    assert level == WARNING
    assert f"--successor-of {fingerprint(database)}" in text
    ledger.path.write_text(ledger.path.read_text()[:-9])
    assert said(site, "ledger")[0] == WRONG


def test_the_copy_of_a_pretrained_network_is_looked_at(site: SiteNodeFolder, tmp_path: Path) -> None:
    own, other = SiteFolder(site.state).pretrained.root, "0" * 64
    assert said(site, "pretrained") == (OK, "no network here, and no run so far has asked for one")
    level, text = said(site, "pretrained", other)
    assert (level, text) == (WRONG, f"{own} is not there: put the export of the network with sha256 {other} into it")
    network = network_run(own)
    right = weights_sha256(network)
    for asked in ("", right):
        assert said(site, "pretrained", asked) == (OK, f"a network that reads 100 Hz, sha256 {right}")
    level, text = said(site, "pretrained", other)
    assert (level, text.split(", and ")[1]) == (
        WRONG, f"the run asks for {other}: get that one from the server's operator"
    )  # fmt: skip
    accepted = compose([*private_with(network_run(tmp_path / "another", "run.seed=1"))])
    save_config(accepted, SiteFolder(site.state).accepted.config)
    level, text = said(site, "pretrained")
    assert level == WARNING
    assert text.endswith(f"the last run asked for {accepted.detector.pretrained_sha256}")


@pytest.mark.parametrize("harm", ["damaged", "no weights", "no network", "no settings"])
def test_a_pretrained_network_that_would_not_load_is_told(site: SiteNodeFolder, harm: str) -> None:
    kind = ("privacy=eps8",) if harm == "no network" else ()
    network = network_run(SiteFolder(site.state).pretrained.root, *kind)
    weights = network.model / "detector.safetensors"
    if harm == "damaged":
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    if harm == "no weights":
        weights.unlink()
    if harm == "no settings":
        network.config.write_text("nothing")
    level, text = said(site, "pretrained")
    assert level == WRONG
    word = {"damaged": "was changed", "no weights": "no model in", "no network": "it takes a resnet"}
    assert word.get(harm, "is not a configuration of this version") in text
