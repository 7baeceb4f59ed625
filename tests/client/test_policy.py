"""What a site's policy forbids does not happen, whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

import client.app
from client.flower_adapter import without_text
from client.launcher import checked
from client.policy import APP_HASH, SitePolicy, parts_of
from lavq_core.errors import ConfigError, PolicyError
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import SiteFolder
from tests.client.policies import LAUNCHED, write_policy

Make = Callable[..., Any]
SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"


@pytest.fixture
def site(deployed: Make, tmp_path: Path) -> Make:
    """Make a deployed hospital that holds the whole sample, under a policy that permits all but what is changed."""

    def make(*more: str, **changed: str | None) -> Any:
        policy = write_policy(tmp_path / "own.toml", **changed)
        node = {"site": "st-mary", "data-dir": str(SAMPLE), "site-dir": str(tmp_path / "own"), "policy": str(policy)}
        return deployed(node, *more)

    return make


def events(tmp_path: Path) -> list[dict[str, Any]]:
    return read_events(SiteFolder(tmp_path / "own").events)


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_policy_says_what_it_permits(tmp_path: Path) -> None:
    file = write_policy(tmp_path / "p", epsilon_max="3", outgoing='["detector"]', minimum_patients="40")
    policy = SitePolicy.load(file)
    assert policy.epsilon_max == 3.0
    assert policy.apps == {LAUNCHED}
    assert policy.outgoing == {"detector"}
    assert policy.minimum_patients == 40
    assert SitePolicy.load(write_policy(tmp_path / "p")).epsilon_max is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"epsilon_max": None}, "does not say epsilon_max"),
        ({"log": "{measures = true}"}, r"does not say log\.tracebacks"),
        ({"epsilon": "1"}, "unknown keys: epsilon"),
        ({"epsilon_max": "0"}, "epsilon_max must be above 0"),
        ({"epsilon_max": "true"}, "epsilon_max must be above 0"),
        ({"epsilon_max": "nan"}, "epsilon_max must be above 0"),
        ({"apps": '["*"]'}, "apps must be a list of sha256"),
        ({"apps": '"all"'}, "apps must be a list of sha256"),
        ({"outgoing": '["detektor"]'}, "outgoing must be a list out of detector, codebook"),
        ({"minimum_patients": "true"}, "minimum_patients must be a whole number"),
        ({"log": '"no"'}, "log must be a table"),
        ({"apps": "["}, "is not TOML"),
    ],
)
def test_a_policy_that_is_not_whole_is_none(tmp_path: Path, changed: dict[str, str | None], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SitePolicy.load(write_policy(tmp_path / "p", **changed))


def test_a_site_without_its_policy_file_does_nothing(site: Make, tmp_path: Path) -> None:
    hospital = site()
    (tmp_path / "own.toml").unlink()
    assert hospital.hello().error.reason == "ConfigError"


# --- apps ------------------------------------------------------------------------------------------------------------


def test_the_launcher_lets_in_a_listed_app_and_logs_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(APP_HASH, "of another message")
    check = checked(SitePolicy.load(write_policy(tmp_path / "p")), SiteFolder(tmp_path / "own"))
    check(LAUNCHED)
    SitePolicy.load(tmp_path / "p").require_launched()
    with pytest.raises(PolicyError):
        check("b" * 64)
    assert "b" * 64 in events(tmp_path)[0]["reason"]
    with pytest.raises(PolicyError, match="without a checked bundle"):
        SitePolicy.load(tmp_path / "p").require_launched()


@pytest.mark.parametrize("launched", ["b" * 64, ""])
def test_an_app_that_is_not_listed_opens_no_data(
    site: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: str
) -> None:
    hospital = site()
    monkeypatch.setenv(APP_HASH, launched)
    monkeypatch.setattr("client.site.Database.open", lambda *_, **__: pytest.fail("the database was opened"))
    assert hospital.hello().error.reason == "PolicyError"
    assert hospital.train().error.reason == "PolicyError"
    assert [event["event"] for event in events(tmp_path)] == ["refused", "refused"]


def test_an_exception_outside_the_app_loses_its_text_and_keeps_its_class() -> None:
    def fail() -> None:
        raise LookupError("Jane Doe, born 1950")

    with pytest.raises(Exception, match=r"^$") as caught:
        without_text(fail)
    assert type(caught.value).__name__ == "LookupError"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


# --- what leaves -----------------------------------------------------------------------------------------------------


def test_settings_that_would_send_what_may_not_leave_open_no_data(
    site: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = site(outgoing='["detector", "codebook", "prior"]')
    monkeypatch.setattr("client.site.Database.open", lambda *_, **__: pytest.fail("the database was opened"))
    assert hospital.train().error.reason == "PolicyError"
    assert events(tmp_path)[0]["reason"].endswith("does not let out: editor, separator")


def test_a_reply_is_looked_at_whatever_made_it(site: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital = site("federation.share=[]", outgoing='["detector", "codebook"]')
    records = [
        RecordDict({"networks": ArrayRecord({"editor.weight": torch.zeros(1)})}),  # type: ignore[arg-type]
        RecordDict({"metrics": MetricRecord({"num-examples": 3, "age": 71})}),
        RecordDict({"names": ConfigRecord({"first": "Jane Doe"})}),
    ]
    for record in records:
        monkeypatch.setattr(client.app, "_train", lambda *_, reply=record: reply)
        assert hospital.train().error.reason == "PolicyError"
    assert hospital.hello().content.config_records["site"]["name"] == "st-mary"


def test_every_part_of_a_reply_has_a_name() -> None:
    one = torch.zeros(1)
    reply = RecordDict(
        {
            "detector": ArrayRecord({"head.bias": one}),  # type: ignore[arg-type]
            "networks": ArrayRecord({"prior.a": one, "prior.b": one, "editor.a": one}),  # type: ignore[arg-type]
            "metrics": MetricRecord({"num-examples": 1, "loss": 0.5}),
            "empty": ConfigRecord({}),
        }
    )
    assert parts_of(reply) == {"detector", "prior", "editor", "metrics.loss", "empty"}


def test_a_site_of_too_few_patients_does_not_train(site: Make, tmp_path: Path) -> None:
    assert site(minimum_patients="1000").train().error.reason == "PolicyError"
    assert events(tmp_path)[0]["reason"] == "this site trains with 1000 patients or more"


# --- what is logged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logged", [True, False])
def test_scores_and_tracebacks_are_logged_only_where_allowed(
    site: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: bool
) -> None:
    allowed = str(logged).lower()
    hospital = site(log=f"{{measures = {allowed}, tracebacks = {allowed}}}")
    assert hospital.evaluate().content["metrics"]["num-examples"] > 0
    monkeypatch.setattr(client.app, "_train", lambda *_: 1 / 0)
    assert hospital.train().error.reason == "ZeroDivisionError"
    evaluated, failed = events(tmp_path)
    assert ("macro_auc" in evaluated) == ("traceback" in failed) == logged
    assert evaluated["records"] > 0
    assert failed["error"] == "ZeroDivisionError"
