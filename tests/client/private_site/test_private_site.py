"""A hospital under differential privacy: what it answers, what its ledger makes it refuse, what the door keeps in."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message, RecordDict

import client.app
from client.site import open_site
from lavq_core.privacy.ledger import Ledger
from lavq_core.runs import layout
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import RunFolder, SiteFolder
from lavq_core.training import feature_round, private_round
from server.validation import ReplyChecker, read_evaluation
from tests.client.private_site.asked import PRIVATE, Make, entries
from tests.packed import held, states


def refusal(reply: Message) -> str:
    assert not reply.has_content()
    return str(reply.error.reason)


def taken_over(site: Any, content: RecordDict) -> None:
    """Send the site's own detector back, as an average of one."""
    update = ReplyChecker(site.shared, private=True).update(content)
    site.shared = replace(site.shared, detector=update.detector)


def test_a_reply_is_noised_constant_or_public_and_names_its_ledger(site: Any, folder: SiteFolder) -> None:
    content = site.train().content
    assert held(content) == {"detector", "codebook", "metrics", "ledger"}
    assert set(content["ledger"]) == {"head", "epsilon", "delta"}
    assert not any(value.any() for value in states(content)["codebook"].values())
    update = ReplyChecker(site.shared, private=True).update(content)
    assert update.ledger is not None
    assert update.ledger.head == Ledger(folder.ledger, open_site(site.context).data.fingerprint, 8.0, 1e-5).head
    assert update.detector["centre"].abs().sum() > 0
    assert not update.detector["head.weight"].any()


@pytest.mark.parametrize(("full_for", "paid"), [("ledger", 1), ("its head", 2)])
def test_a_disk_that_is_full_when_the_ledger_is_written_lets_nothing_out_and_spoils_nothing(
    site: Any, folder: SiteFolder, monkeypatch: pytest.MonkeyPatch, full_for: str, paid: int
) -> None:
    """In the ledger's place stands the kernel's own full device: what is written there fails as on a full disk."""
    site.train(1, 3)
    file = folder.ledger.name if full_for == "ledger" else f"{folder.ledger.name}.head"
    made = tempfile.mkstemp

    def on_a_full_disk(dir: Path, prefix: str) -> tuple[int, str]:
        handle, name = made(dir=dir, prefix=prefix)
        if prefix == f".{file}.":
            os.close(handle)
            handle = os.open("/dev/full", os.O_WRONLY)
        return handle, name

    monkeypatch.setattr(layout.tempfile, "mkstemp", on_a_full_disk)
    assert refusal(site.train(2, 3)) == "OSError"
    monkeypatch.undo()
    assert len(entries(folder)) == paid  # killed between the two it has paid for nothing; never the reverse
    assert site.train(2, 3).has_content()
    assert len(entries(folder)) == 2  # what was paid for and never sent is sent now
    assert {path.name for path in folder.ledger.parent.glob(".*")} == set()  # no half-written file is left


def test_the_same_run_of_another_name_draws_other_noise(hospital: Make, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("first", "second")]
    sites = [hospital(0, *PRIVATE, f"run.dir='{run}'") for run in runs]
    first, second = (states(site.train().content)["detector"]["centre"] for site in sites)
    assert not (first == second).all()
    costs = [[entry["mechanisms"] for entry in entries(RunFolder(run).site("client-0"))] for run in runs]
    assert costs[0] == costs[1]


def test_the_number_of_patients_is_noised_once_and_kept(site: Any, folder: SiteFolder) -> None:
    sizes = []
    for number in (1, 2, 3):
        content = site.train(number, 3).content
        sizes.append(content["metrics"]["num-examples"])
        taken_over(site, content)
    assert len(set(sizes)) == 1
    released = [entry["public"] for entry in entries(folder)]
    assert [set(public) for public in released] == [{"size"}, set(), set()]
    assert sizes[0] == max(1, round(released[0]["size"]))


def test_an_evaluation_says_no_number(site: Any) -> None:
    assert read_evaluation(site.evaluate().content) == 0


def test_when_the_budget_is_spent_the_site_says_so_and_trains_nothing(
    hospital: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = hospital(0, *PRIVATE, "privacy.epsilon_max=3")
    answers = []
    for number in (1, 2, 3):
        reply = site.train(number, 3)
        if not reply.has_content():
            answers.append(refusal(reply))
            monkeypatch.setattr(feature_round, "train_head", lambda *_: pytest.fail("trained"))
    assert answers
    assert set(answers) == {"BudgetSpent"}


def test_a_ledger_edited_by_one_byte_closes_the_site(site: Any, folder: SiteFolder) -> None:
    site.train()
    content = bytearray(folder.ledger.read_bytes())
    content[len(content) // 2] ^= 1
    folder.ledger.write_bytes(bytes(content))
    assert refusal(site.train(2)) == "LedgerError"


def test_an_older_ledger_is_unmasked_by_the_head_that_the_server_echoes(site: Any, folder: SiteFolder) -> None:
    kept: dict[Path, bytes] = {}
    for number in (1, 2):
        content = site.train(number, 3).content
        kept = kept or {path: path.read_bytes() for path in folder.ledger.parent.glob("ledger.jsonl*")}
        taken_over(site, content)
    head = str(content["ledger"]["head"])
    for path, old in kept.items():
        path.write_bytes(old)
    assert refusal(site.train(3, 3, heads={"client-0": head})) == "LedgerError"
    assert site.train(3, 3).has_content()  # without the echo nothing shows: that is what it is for


def test_a_private_site_takes_no_part_in_open_training(hospital: Make) -> None:
    site = hospital(0, "privacy.epsilon_max=4")
    assert refusal(site.train()) == refusal(site.evaluate()) == "PolicyError"


def test_a_delta_too_large_for_the_number_of_patients_is_refused(hospital: Make) -> None:
    assert refusal(hospital(0, *PRIVATE, "privacy.delta=0.01").train()) == "DataError"


@pytest.mark.parametrize("part", ["counts", "sums", "prior", "requests"])
def test_a_statistic_that_somebody_forgot_is_kept_in(
    site: Any, folder: SiteFolder, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    real = private_round.no_statistics

    def leaky(*args: Any) -> dict[str, torch.Tensor]:
        found = real(*args)
        found[part].flatten()[0] = 1.0
        return found

    monkeypatch.setattr(private_round, "no_statistics", leaky)
    assert refusal(site.train()) == "LeavingRefused"
    failures = [event for event in read_events(folder.events) if event["event"] == "failed"]
    assert f"codebook/{part}" in failures[-1]["traceback"]


def test_weights_changed_after_they_were_entered_are_kept_in(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = client.app.train_round

    def touched(*args: Any) -> Any:
        update = real(*args)
        return replace(update, detector={name: value + 1e-6 for name, value in update.detector.items()})

    monkeypatch.setattr(client.app, "train_round", touched)
    assert refusal(site.train()) == "LeavingRefused"


def test_the_true_number_of_patients_is_kept_in(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = client.app.train_round
    monkeypatch.setattr(client.app, "train_round", lambda *args: replace(real(*args), examples=10**6))
    assert refusal(site.train()) == "LeavingRefused"


def test_a_buffer_of_the_detector_that_data_have_fed_is_kept_in(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As BatchNorm's: it is in the state dict that is sent, and no mechanism made it."""
    real = feature_round._released

    def fed(model: Any, items: Any, *more: Any) -> Any:
        update = real(model, items, *more)
        return replace(update, detector={**update.detector, "running_mean": items.x.mean(dim=0)})

    monkeypatch.setattr(feature_round, "_released", fed)
    assert refusal(site.train()) == "LeavingRefused"


@pytest.mark.parametrize("name", ["loss", "macro_auc", "class_counts"])
def test_a_measure_in_the_clear_is_kept_in(site: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = client.app.MetricRecord
    monkeypatch.setattr(client.app, "MetricRecord", lambda given: real({**given, name: 0.31}))
    assert refusal(site.train()) == "PolicyError"
    assert refusal(site.evaluate()) == "PolicyError"
