"""The beats of a database are found once, and lie beside its pack."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from lavq_core.data import beat_cache, derived
from lavq_core.data.beat_cache import open_beats
from lavq_core.data.database import Database
from lavq_core.errors import DataError
from lavq_core.signals.beats import Beats, find_beats


def assert_same(first: Beats, second: Beats) -> None:
    for item in fields(Beats):
        np.testing.assert_array_equal(getattr(first, item.name), getattr(second, item.name), err_msg=item.name)


@pytest.fixture
def packed(sample_database: Database) -> np.ndarray:
    """Twenty records, one of them without beats."""
    return np.asarray(sample_database.packed[170:190])


@pytest.fixture
def never_again(monkeypatch: pytest.MonkeyPatch):
    """Call it, and from then on finding beats fails."""

    def forbid() -> None:
        def fail(*_: object) -> None:
            raise AssertionError("found again")

        monkeypatch.setattr(beat_cache, "find_beats", fail)

    return forbid


def test_beats_are_found_once_and_then_read(packed: np.ndarray, tmp_path: Path, never_again) -> None:
    first = open_beats(tmp_path / "pack", packed, 100)
    assert_same(first, find_beats(packed.astype(np.float32) / 1000, 100))  # uV to mV
    assert not first.found().all()
    never_again()
    assert_same(open_beats(tmp_path / "pack", packed, 100), first)


def test_they_lie_beside_the_pack_and_nothing_else_is_left(packed: np.ndarray, tmp_path: Path) -> None:
    open_beats(tmp_path / "pack", packed, 100)
    files = {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"}
    assert files == {"pack.beats-1.npz"}


@pytest.mark.parametrize("batch", [1, 7, 20])
def test_records_are_found_batch_by_batch_with_the_same_result(
    packed: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    whole = open_beats(tmp_path / "whole", packed, 100)
    monkeypatch.setattr(derived, "_BATCH", batch)
    parts = open_beats(tmp_path / "parts", packed, 100)
    assert len(parts) == len(whole) == len(packed)
    for item in fields(Beats):
        np.testing.assert_allclose(getattr(parts, item.name), getattr(whole, item.name), atol=1e-5, err_msg=item.name)


def test_another_format_or_another_pack_is_not_mistaken(
    packed: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_beats(tmp_path / "pack", packed, 100)
    assert len(open_beats(tmp_path / "other", packed[:5], 100)) == 5
    monkeypatch.setattr(beat_cache, "_FORMAT", 2)
    assert len(open_beats(tmp_path / "pack", packed[:5], 100)) == 5
    monkeypatch.undo()
    assert_same(open_beats(tmp_path / "pack", packed[:5], 100), first)


def test_what_another_process_found_meanwhile_is_taken(
    packed: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never_again
) -> None:
    first = open_beats(tmp_path / "elsewhere", packed, 100)
    place = tmp_path / "pack.beats-1.npz"
    acquire = FileLock.__enter__

    def others_were_faster(lock: FileLock):
        first.save(place)
        return acquire(lock)

    monkeypatch.setattr(FileLock, "__enter__", others_were_faster)
    never_again()
    assert_same(open_beats(tmp_path / "pack", packed, 100), first)


def test_a_database_has_the_beats_of_its_records(sample_database: Database) -> None:
    beats = sample_database.beats
    assert beats is sample_database.beats
    assert len(beats) == len(sample_database)
    rows = np.array([3, 180, 400])
    one_by_one = find_beats(sample_database.signals(rows).numpy(), 100)
    np.testing.assert_allclose(beats.median[rows], one_by_one.median, atol=1e-4)
    np.testing.assert_array_equal(beats.found()[rows], [True, False, True])


def test_a_database_that_is_opened_again_reads_its_beats(small: Path, tmp_path: Path, never_again) -> None:
    first = Database.open(small, cache_dir=tmp_path / "cache", progress=False).beats
    never_again()
    again = Database.open(small, cache_dir=tmp_path / "cache", minimum_likelihood=50.0, progress=False)
    assert_same(again.beats, first)


def test_records_that_changed_have_their_beats_found_anew(small: Path, tmp_path: Path) -> None:
    first = Database.open(small, cache_dir=tmp_path / "cache", progress=False)
    assert len(first.beats) == 12
    (small / f"{first.table['file'].iloc[4]}.dat").unlink()
    fewer = Database.open(small, cache_dir=tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(fewer.beats.median, np.delete(first.beats.median, 4, axis=0))


def test_a_damaged_file_is_named(packed: np.ndarray, tmp_path: Path) -> None:
    open_beats(tmp_path / "pack", packed[:3], 100)
    place = tmp_path / "pack.beats-1.npz"
    place.write_bytes(place.read_bytes()[:500])
    with pytest.raises(DataError, match=r"pack\.beats-1\.npz is damaged .*: delete it") as caught:
        open_beats(tmp_path / "pack", packed[:3], 100)
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(packed: np.ndarray, tmp_path: Path) -> None:
    """As when a cache folder is shared and not one's own."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data\.cache_dir"):
        open_beats(tmp_path / "file" / "pack", packed[:3], 100)
