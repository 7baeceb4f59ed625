"""A run folder: written whole or not at all, read back as it was written, refused when it was touched."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavq_core.errors import RunError
from lavq_core.runs import artefact
from lavq_core.runs.artefact import MANIFEST, load_artefact, save_artefact
from lavq_core.runs.events import EventLog, read_events
from lavq_core.runs.layout import RunFolder, SiteFolder, write_atomic

PARTS = {"detector": {"a.weight": torch.randn(2, 3), "b": torch.zeros(0, 4)}, "codebook": {"codes": torch.ones(2)}}
ABOUT = {"round": 3, "classes": ["NORM", "MI"], "note": "ü"}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same_parts(first: Mapping[str, Mapping[str, Tensor]], second: Mapping[str, Mapping[str, Tensor]]) -> None:
    assert first.keys() == second.keys()
    for part, state in first.items():
        assert state.keys() == second[part].keys()
        for name, value in state.items():
            assert value.dtype == second[part][name].dtype
            assert torch.equal(value, second[part][name])


# --- artefacts -------------------------------------------------------------------------------------------------------


TENSORS = st.builds(
    lambda shape, kind, seed: (10 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(kind),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]),
    st.integers(0, 2**32 - 1),
)
STATES = st.dictionaries(st.text("abc.0_", min_size=1, max_size=6), TENSORS, max_size=3)


@settings(max_examples=15, deadline=None)
@given(
    parts=st.dictionaries(st.sampled_from(["detector", "codebook", "twins"]), STATES, max_size=3),
    about=st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5), max_size=3),
)
def test_an_artefact_comes_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, parts: dict[str, dict[str, Tensor]], about: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("run") / "model"
    save_artefact(folder, parts, about)
    loaded, found = load_artefact(folder)
    assert_same_parts(loaded, parts)
    assert found == about


def test_views_and_shared_weights_are_saved_as_what_they_hold(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {"whole": base, "same": base, "column": base[:, 1], "turned": base.T}
    save_artefact(tmp_path / "model", {"detector": state}, {})
    assert_same_parts(load_artefact(tmp_path / "model")[0], {"detector": state})


def test_weights_rest_as_safetensors_with_a_hashed_manifest_and_nothing_else(tmp_path: Path) -> None:
    save_artefact(tmp_path / "model", PARTS, ABOUT)
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["codebook.safetensors", "detector.safetensors", MANIFEST]
    assert safetensors.torch.load_file(tmp_path / "model" / "codebook.safetensors").keys() == {"codes"}
    assert json.loads((tmp_path / "model" / MANIFEST).read_text(encoding="utf-8")).keys() == {"about", "sha256"}


def test_a_new_artefact_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    save_artefact(tmp_path / "model", PARTS, ABOUT)
    save_artefact(tmp_path / "model", {"other": {"x": torch.ones(1)}}, {})
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == [MANIFEST, "other.safetensors"]


@pytest.mark.parametrize("name", ["detector.safetensors", "codebook.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_file_that_was_touched_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    save_artefact(tmp_path / "model", PARTS, ABOUT)
    file = tmp_path / "model" / name
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        content[-1] ^= 1
        file.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(RunError, match=name):
        load_artefact(tmp_path / "model")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"sha256": {}}', b"\xff"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    save_artefact(tmp_path / "model", PARTS, ABOUT)
    (tmp_path / "model" / MANIFEST).write_bytes(content)
    with pytest.raises(RunError, match=MANIFEST):
        load_artefact(tmp_path / "model")


def test_a_folder_without_an_artefact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no model in"):
        load_artefact(tmp_path / "model")


def test_a_failing_write_leaves_the_old_artefact_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_artefact(tmp_path / "model", PARTS, ABOUT)
    save = artefact.save_file

    def disk_full(state: dict[str, Tensor], file: Path) -> None:
        if file.stem == "codebook":
            raise OSError("no space left")
        save(state, file)

    monkeypatch.setattr(artefact, "save_file", disk_full)
    with pytest.raises(OSError, match="no space"):
        save_artefact(tmp_path / "model", PARTS, {"round": 4})
    assert names(tmp_path) == ["model"]
    parts, about = load_artefact(tmp_path / "model")
    assert_same_parts(parts, PARTS)
    assert about == ABOUT


def test_a_failing_swap_puts_the_old_artefact_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_artefact(tmp_path / "model", PARTS, ABOUT)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise OSError("refused")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="refused"):
        save_artefact(tmp_path / "model", PARTS, {"round": 4})
    assert names(tmp_path) == ["model"]
    assert load_artefact(tmp_path / "model")[1] == ABOUT


# --- events ----------------------------------------------------------------------------------------------------------


FIELDS = st.dictionaries(
    st.sampled_from(["round", "site", "status"]), st.none() | st.integers() | st.floats(allow_nan=False) | st.text()
)


@settings(max_examples=15, deadline=None)
@given(events=st.lists(st.tuples(st.text(min_size=1), FIELDS), max_size=5))
def test_events_come_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, dict[str, Any]]]
) -> None:
    path = tmp_path_factory.mktemp("run") / "deep" / "events.jsonl"
    for event, fields in events:
        EventLog(path).write(event, **fields)
    found = read_events(path)
    assert [(row.pop("event"), row) for row in found for row in [{**row, "time": None}]] == [
        (event, {**fields, "time": None}) for event, fields in events
    ]
    assert all(datetime.fromisoformat(row["time"]).utcoffset() is not None for row in found)
    if events:
        assert len(path.read_text(encoding="utf-8").splitlines()) == len(events)


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(1, 60))
def test_a_line_that_a_crash_cut_short_takes_no_other_with_it(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "events.jsonl"
    log = EventLog(path)
    log.write("first")
    whole = path.read_bytes()
    log.write("second", site="x" * 20)
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    assert [row["event"] for row in read_events(path)] == ["first"]
    log.write("third")
    assert [row["event"] for row in read_events(path)] == ["first", "third"]


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert read_events(tmp_path / "events.jsonl") == []


# --- layout ----------------------------------------------------------------------------------------------------------


def test_every_file_of_a_run_lies_in_the_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    places = [run.config, run.events, run.metrics, run.report, run.figures, run.audit, run.model, run.checkpoint(7)]
    site = run.site("site-0")
    places += [site.events, site.data_report, site.private_model, site.twins, site.predictions]
    assert len(set(places)) == len(places)
    assert all(tmp_path in place.parents for place in places)
    assert run.checkpoint(7) == tmp_path / "checkpoints" / "round-007"
    assert all((tmp_path / "sites" / "site-0") in place.parents for place in places[-5:])


def test_sites_are_listed_by_name(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).sites() == []
    for name in ("site-1", "rest", "site-0"):
        (tmp_path / "sites" / name).mkdir(parents=True)
    (tmp_path / "sites" / "notes.txt").touch()
    assert RunFolder(tmp_path).sites() == [SiteFolder(tmp_path / "sites" / n) for n in ("rest", "site-0", "site-1")]


def test_opening_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"no config\.yaml"):
        RunFolder.open(tmp_path)
    (tmp_path / "config.yaml").touch()
    assert RunFolder.open(tmp_path).root == tmp_path.resolve()


def test_a_text_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "deep" / "metrics.json"
    write_atomic(file, "old ü")
    assert file.read_text(encoding="utf-8") == "old ü"

    def refuse(self: Path, target: Path) -> Path:
        raise OSError("refused")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="refused"):
        write_atomic(file, "new")
    assert file.read_text(encoding="utf-8") == "old ü"
    assert names(file.parent) == ["metrics.json"]


def test_a_text_can_be_read_by_those_who_can_read_other_files(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_atomic(tmp_path / "report.html", "")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "report.html")]
    assert modes[0] == modes[1]
