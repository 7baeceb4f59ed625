"""What a site's policy forbids does not happen, whoever asks."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from safetensors.torch import save

import client.app
from client import flower_adapter as adapter
from client import launcher
from client.flower_adapter import without_text
from client.launcher import checked
from client.policy import APP_HASH, SitePolicy, parts_of
from lavq_core.errors import ConfigError, PolicyError
from lavq_core.models.stored import load_calibration, load_shared_model
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import SiteFolder
from server.packing import PARTS, pack
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


def test_a_site_with_a_limit_of_epsilon_opens_no_data_for_open_training_and_notes_why(
    site: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = site(epsilon_max="8.0", log="{measures = false, tracebacks = false}")
    monkeypatch.setattr("client.site.Database.open", lambda *_, **__: pytest.fail("the database was opened"))
    assert hospital.hello().error.reason == hospital.train().error.reason == "PolicyError"
    assert "private training only" in events(tmp_path)[0]["reason"]


def with_a_text() -> ArrayRecord:
    """A detector in whose header stands more than its tensors."""
    data = save({"detector/head.bias": torch.zeros(1)}, {"patient": "Jane Doe"})
    return ArrayRecord({"safetensors": Array("uint8", (len(data),), "safetensors", data)})


def test_a_reply_is_looked_at_whatever_made_it(site: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital = site("federation.share=[]", outgoing='["detector", "codebook"]')
    records = [
        RecordDict({PARTS: pack({"networks": {"editor.weight": torch.zeros(1)}})}),
        RecordDict({PARTS: pack({"moments": {"first.bias": torch.zeros(1)}})}),
        RecordDict({"detector": ArrayRecord({"head.bias": torch.zeros(1)})}),  # type: ignore[arg-type]
        RecordDict({PARTS: with_a_text()}),
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
            PARTS: pack(
                {"detector": {"head.bias": one}, "networks": {"prior.a": one, "prior.b": one, "editor.a": one}}
            ),
            "more": ArrayRecord({"head.bias": one}),  # type: ignore[arg-type]
            "metrics": MetricRecord({"num-examples": 1, "loss": 0.5}),
            "empty": ConfigRecord({}),
        }
    )
    assert parts_of(reply) == {"detector", "prior", "editor", "more.head.bias", "metrics.loss", "empty"}


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


# --- the launcher in front of Flower's program -----------------------------------------------------------------------
@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Flower's ClientApp process, reduced to the order of its steps: install, load, run, report."""
    steps: list[str] = []

    def install(content: bytes, install_dir: Path, **_: Any) -> Path:
        steps.append("installed")
        made = install_dir / "apps" / f"an.app.{hashlib.sha256(content).hexdigest()[:8]}"
        made.mkdir(parents=True)
        return made

    def load(**_: Any) -> Callable[..., Any]:
        def find(*_: Any) -> Callable[..., Any]:
            steps.append("imported")

            def run(message: str, context: str) -> None:
                raise LookupError(f"{message} of Jane Doe")

            return run

        return find

    def process(insecure: bool) -> int:
        try:
            adapter.run_clientapp.install_from_fab(b"bundle", skip_prompt=True)
            adapter.run_clientapp.get_load_client_app_fn()("id", "1", "hash")(message="record", context="")
        except Exception as error:
            steps.append(adapter.run_clientapp.Error(code=2, reason=f"{type(error)}:<'{error}'>").reason)
        return 0

    for name, value in (("install_from_fab", install), ("get_load_client_app_fn", load), ("Error", Error)):
        monkeypatch.setattr(adapter.run_clientapp, name, value)
    monkeypatch.setattr(adapter.run_clientapp, "run_clientapp", process)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    monkeypatch.setattr(adapter, "_PACKAGES", {"an_app"})  # this process goes on to use ours
    monkeypatch.setitem(sys.modules, "an_app.client", adapter)
    return steps


def test_a_bundle_is_checked_before_it_is_unpacked(flower: list[str]) -> None:
    seen: list[str] = []

    def refuse(digest: str) -> None:
        seen.append(digest)
        raise PolicyError("this site's policy does not list the app of Jane Doe")

    adapter.run_client_app({}, refuse)
    assert flower == ["PolicyError"]
    assert seen == [hashlib.sha256(b"bundle").hexdigest()]


def test_an_app_that_is_listed_runs_and_what_it_raises_is_told_by_class(flower: list[str]) -> None:
    adapter.run_client_app({}, lambda digest: None)
    assert flower == ["installed", "imported", "LookupError"]
    assert "an_app.client" not in sys.modules  # the bundle's own is imported, not what was there under its name


def test_a_bundle_is_unpacked_once_and_as_a_whole(
    flower: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = adapter.run_clientapp.install_from_fab

    def killed(content: bytes, install_dir: Path, **more: Any) -> Path:
        whole(content, install_dir, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(adapter.run_clientapp, "install_from_fab", killed)
    with pytest.raises(KeyboardInterrupt):
        adapter.run_client_app({}, lambda digest: None)
    assert not list((tmp_path / "flwr" / "apps").glob("an.app.*"))
    monkeypatch.setattr(adapter.run_clientapp, "install_from_fab", whole)
    flower.clear()
    adapter.run_client_app({}, lambda digest: None)
    monkeypatch.setattr(adapter.run_clientapp, "install_from_fab", whole)
    adapter.run_client_app({}, lambda digest: None)
    assert flower == ["installed", *2 * ["imported", "LookupError"]]


def test_no_app_runs_without_a_policy(
    flower: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(launcher.POLICY, raising=False)
    assert launcher.launch({}) == 2
    monkeypatch.setenv(launcher.POLICY, str(tmp_path / "none"))
    monkeypatch.setenv(launcher.SITE_DIR, str(tmp_path))
    assert launcher.launch({}) == 2
    assert "LAVQ_SITE_POLICY is not set" in capsys.readouterr().err
    assert flower == []


def test_the_launcher_takes_policy_and_folder_from_its_environment(
    flower: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(launcher.POLICY, str(write_policy(tmp_path / "p")))
    monkeypatch.setenv(launcher.SITE_DIR, str(tmp_path / "own"))
    assert launcher.launch({}) == 0
    assert flower == ["PolicyError"]
    assert hashlib.sha256(b"bundle").hexdigest() in events(tmp_path)[0]["reason"]


# --- what a deployed site keeps for itself ---------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "number", "accepted_round"), [("train", 2, 1), ("evaluate", 3, 3)])
def test_a_deployed_site_keeps_a_rounds_model_as_soon_as_it_has_it_whole(
    site: Make, tmp_path: Path, kind: str, number: int, accepted_round: int
) -> None:
    hospital = site()
    accepted = SiteFolder(tmp_path / "own").accepted
    assert getattr(hospital, kind)(1, 3).has_content(), events(tmp_path)
    assert not accepted.model.exists()  # the run's beginning is no round's model, nor is the detector alone
    assert getattr(hospital, kind)(number, 3).has_content(), events(tmp_path)
    assert load_artefact(accepted.model)[1]["round"] == accepted_round
    model = load_shared_model(accepted)
    assert all(torch.equal(value, hospital.shared.detector[key]) for key, value in model.detector.state_dict().items())
    calibration = load_calibration(accepted, model, None)
    assert calibration is not None
    assert calibration.source == "st-mary"
