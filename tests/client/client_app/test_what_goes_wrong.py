"""A hospital's errors: their text stays on site, and the site goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import client.app
import client.site
from lavq_core.runs.events import read_events
from lavq_core.runs.layout import SiteFolder
from tests.client.client_app.replies import PATIENT, Make, bytes_of
from tests.packed import opened


@pytest.mark.parametrize(("kind", "where"), [("train", "train_round"), ("evaluate", "evaluate_round")])
def test_an_exceptions_text_stays_on_site(
    hospital: Make, folder: SiteFolder, monkeypatch: pytest.MonkeyPatch, kind: str, where: str
) -> None:
    def fail(*_: object) -> None:
        raise LookupError(PATIENT)

    monkeypatch.setattr(client.app, where, fail)
    reply = getattr(hospital(), kind)()
    assert reply.has_error()
    assert reply.error.reason == "LookupError"
    assert not reply.has_content()
    for word in (PATIENT, "Jane", "4711", "Traceback"):
        assert word.encode() not in bytes_of(reply)
    (event,) = [row for row in read_events(folder.events) if row["event"] == "failed"]
    assert event["error"] == "LookupError"
    assert PATIENT in event["traceback"]


def test_a_site_that_cannot_be_opened_says_only_which_kind_of_error(
    hospital: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reply = hospital(0, f"data.dir='{tmp_path / PATIENT}'").hello()
    assert reply.error.reason == "DataError"
    assert b"Jane" not in bytes_of(reply)
    assert "DataError" in caplog.text
    assert "Jane" not in caplog.text  # a simulation's log holds every site's


@pytest.mark.parametrize("part", ["detector", "codebook", "networks", "round"])
def test_a_message_that_lacks_a_part_is_answered_by_an_error(hospital: Make, part: str) -> None:
    """No part is made up: the site would train something else than the federation."""
    site = hospital()
    content = site.content(1, 2)
    with opened(content) as parts:
        del (content if part == "round" else parts)[part]
    assert site.ask("train", content).error.reason == "KeyError"


@pytest.mark.parametrize("part", ["detector", "networks"])
@pytest.mark.parametrize("damage", ["another architecture", "a renamed weight"])
def test_a_message_that_cannot_be_used_is_answered_by_an_error(hospital: Make, part: str, damage: str) -> None:
    site = hospital()
    content = site.content(1, 2)
    state = dict(site.shared.parts()[part])
    name = next(iter(state))
    value = state.pop(name)
    state[name if damage == "another architecture" else "other"] = torch.cat([value, value])
    with opened(content) as parts:
        parts[part] = state
    reply = site.ask("train", content)
    assert reply.has_error()
    assert reply.error.reason.isidentifier()


def test_after_an_error_the_site_goes_on(hospital: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    site = hospital()
    with monkeypatch.context() as patch:
        patch.setattr(client.app, "train_round", lambda *_: 1 / 0)
        assert site.train().has_error()
    assert site.train().has_content()
