"""``lavq site check`` says in words, and at once, everything that is wrong."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.site_check import WRONG, check_site
from server.deployment.certificates import Authority
from server.deployment.folders import Deployment, SiteNodeFolder, write_settings

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
