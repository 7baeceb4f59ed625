"""A private round that is asked twice: what was paid for leaves again, to the bit, and whatever else is paid anew."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict

import client.app
from lavq_core.privacy import kept_reply, ledger
from lavq_core.privacy.guard import digests
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import SiteFolder
from lavq_core.training import feature_round, site_round
from server.packing import PARTS
from tests.client.private_site.asked import PRIVATE, Make, entries
from tests.packed import states


def kept(folder: SiteFolder) -> list[Path]:
    return sorted((folder.ledger.parent / "kept_reply").iterdir())


def content_of(reply: Any) -> dict[str, dict[str, Any]]:
    """All that a reply says: arrays as bytes, everything else as it is."""
    content: RecordDict = reply.content
    arrays = {name: {key: array.data for key, array in part.items()} for name, part in content.array_records.items()}
    return arrays | {name: dict(content[name]) for name in content if name not in arrays}


def tensors_of(reply: Any) -> dict[str, dict[str, torch.Tensor]]:
    return states(reply.content)


def other_weights(site: Any) -> None:
    """Let the server broadcast another head."""
    detector = {name: value + 0.01 for name, value in site.shared.detector.items()}
    site.shared = replace(site.shared, detector=detector)


def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_file(name: str, write: Callable[..., None]) -> Callable[..., None]:
    return lambda path, content: kill() if path.name == name else write(path, content)


MOMENTS: dict[str, tuple[Any, str, Callable[..., Any], bool]] = {
    "before the reply is kept": (kept_reply, "write_atomic", kill, False),
    "between kept reply and entry": (ledger, "write_atomic", at_file("ledger.jsonl", ledger.write_atomic), False),
    "between entry and its head": (ledger, "write_atomic", at_file("ledger.jsonl.head", ledger.write_atomic), True),
    "between entry and the site's own networks": (site_round, "save_private", kill, True),
    "between entry and guard": (client.app, "check_reply", kill, True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_started_again_the_site_pays_once(
    site: Any, folder: SiteFolder, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Once the entry is written, its reply leaves; before that, nothing was paid and the round is trained."""
    *where, what, paid = MOMENTS[moment]
    monkeypatch.setattr(*where, what)
    process = multiprocessing.get_context("fork").Process(target=site.train)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.undo()
    before = entries(folder)
    assert len(before) == paid
    if paid:
        monkeypatch.setattr(feature_round, "released_centre", lambda *_: pytest.fail("trained again"))
    reply = site.train()
    after = entries(folder)
    assert len(after) == 1
    assert not paid or after == before
    assert after[0]["outputs"] == digests({"detector": {"centre": tensors_of(reply)["detector"]["centre"]}})
    assert content_of(site.train()) == content_of(reply)
    assert entries(folder) == after


def test_the_same_round_asked_twice_is_the_same_message_and_costs_nothing(site: Any, folder: SiteFolder) -> None:
    answers = [content_of(site.train()) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert len(entries(folder)) == 1
    assert [event["event"] for event in read_events(folder.events)] == ["round-trained", *["round-sent-again"] * 2]


def test_a_spent_site_still_sends_what_it_has_paid_for(hospital: Make) -> None:
    site = hospital(0, *PRIVATE, "privacy.epsilon_max=3")
    assert site.train(1, 3).has_content()
    spent = [number for number in (2, 3) if not site.train(number, 3).has_content()]
    assert spent == [2, 3]
    assert site.train(1, 3).has_content()


@pytest.mark.parametrize("other", ["weights", "number of rounds", "round", "settings"])
def test_another_question_is_trained_and_paid(hospital: Make, folder: SiteFolder, other: str) -> None:
    site = hospital(0, *PRIVATE, "privacy.epsilon_max=50")
    first = site.train(2, 3)
    if other == "weights":
        other_weights(site)
    if other == "settings":
        site = hospital(0, *PRIVATE, "privacy.epsilon_max=50", "detector_training.lr=0.1")
    second = site.train(*{"number of rounds": (2, 4), "round": (3, 3)}.get(other, (2, 3)))
    first_paid, second_paid = entries(folder)
    assert first_paid["outputs"] != second_paid["outputs"]
    assert content_of(first)[PARTS] != content_of(second)[PARTS]
    assert [path.stem for path in kept(folder)] == [second_paid["reply"]]  # the newest alone


def test_only_the_newest_reply_can_be_sent_again(hospital: Make, folder: SiteFolder) -> None:
    """A server that goes back further asks for rounds that are gone: they are paid anew."""
    site = hospital(0, *PRIVATE, "privacy.epsilon_max=50")
    for number in (1, 2, 1):
        site.train(number, 3)
    assert [entry["round"] for entry in entries(folder)] == [1, 2, 1]


def test_an_edited_reply_is_not_sent(site: Any, folder: SiteFolder) -> None:
    site.train()
    (file,) = kept(folder)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    reply = site.train()
    assert not reply.has_content()
    assert reply.error.reason == "LedgerError"
    assert "was changed since it was paid for" in read_events(folder.events)[-1]["traceback"]
    assert len(entries(folder)) == 1
    file.unlink()  # as the error says
    assert site.train().has_content()
    assert len(entries(folder)) == 2


def test_a_reply_that_no_entry_names_is_never_sent(site: Any, folder: SiteFolder) -> None:
    """Put where a kept one would lie, and even under its right hash."""
    site.train()
    (file,) = kept(folder)
    elsewhere = file.rename(folder.root / "copy")
    folder.ledger.unlink()
    folder.ledger.with_name("ledger.jsonl.head").unlink()
    elsewhere.rename(file)
    site.train()
    (entry,) = entries(folder)
    assert entry["reply"] != file.stem
    assert [path.stem for path in kept(folder)] == [entry["reply"]]
