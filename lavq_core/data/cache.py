"""Read once, pack once: a database's signals in one memory-mapped file of 16-bit microvolts.

A pack is looked up by a cheap key (tables and the record files' sizes and times) and carries a fingerprint of its
content. It is built beside its place and renamed into it, under a file lock (filelock, which torch depends on), so that
processes that open the same database at the same time pack it once and never see half of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.progress import track

from lavq_core.data.plain_records import read_plain
from lavq_core.data.ptbxl import Tables
from lavq_core.data.records import Ecg, read_record
from lavq_core.errors import DataError
from lavq_core.signals.leads import INDEPENDENT_LEADS, to_independent
from lavq_core.signals.quality import DURATION, Quality, Verdict, assess, check_form

FORMAT = 1  # raised whenever packing or the quality gate changes, so that older packs are not found
MICROVOLTS = 1000.0  # per mV
_INDEX, _SIGNALS = "index.json", "signals.i16"
_BATCH = 32  # records read and judged at a time: they stay in the processor's cache
_SHOW = 500  # records; a bar is shown above, as that takes seconds

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packed:
    """A database's usable signals, and what became of every record."""

    signals: np.ndarray  # (n, 8, T) int16 in uV, memory-mapped, read-only
    ecg_ids: np.ndarray  # (n,) int64, of the records in ``signals``, in table order
    quality: dict[int, Quality]  # every row of the table by ecg_id
    fingerprint: str  # sha256 of tables and signals, the same wherever the database lies
    place: Path  # folder of the pack


def default_cache_dir() -> Path:
    """Return the user's cache folder: ``$XDG_CACHE_HOME/lavq`` or ``~/.cache/lavq``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lavq"


def open_pack(folder: Path, tables: Tables, sampling_rate: int, cache_dir: Path, progress: bool = True) -> Packed:
    """Open a database's pack, building it first when it is not there.

    Raises:
        DataError: no record of the database can be used, or the cache folder cannot be written.
    """
    place = cache_dir / _key(folder, tables, sampling_rate)
    found = _load(place)
    if found is not None:
        return found
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            found = _load(place)  # another process may have built it while this one waited
            if found is None:
                _build(place, folder, tables, sampling_rate, progress)
                found = _load(place)
    except OSError as error:
        raise DataError(
            f"cannot write the signal cache in {cache_dir} ({error.strerror}): choose another with data.cache_dir"
        ) from None
    if found is None:
        raise DataError(f"the signal cache {place} changed while it was written: try again")
    return found


def _key(folder: Path, tables: Tables, sampling_rate: int) -> str:
    """Hash what changes when the data change: the tables, and place, size and time of each record's files."""
    digest = hashlib.sha256(f"{FORMAT} {sampling_rate} {tables.digest} {folder.resolve()}".encode())
    for file in tables.listing["file"]:
        for suffix in (".hea", ".dat"):
            try:
                status = os.stat(f"{folder}/{file}{suffix}")  # noqa: PTH116 (a Path each would triple the time)
                digest.update(f"{status.st_size} {status.st_mtime_ns},".encode())
            except OSError:
                digest.update(b"absent,")
    return digest.hexdigest()[:32]


def _load(place: Path) -> Packed | None:
    """Map a pack into memory; None when there is none, or not a whole one."""
    try:
        index = json.loads((place / _INDEX).read_text(encoding="utf-8"))
        shape = (len(index["ecg_id"]), len(INDEPENDENT_LEADS), index["samples"])
        if (place / _SIGNALS).stat().st_size != 2 * int(np.prod(shape)):
            return None
        signals = np.memmap(place / _SIGNALS, dtype="<i2", mode="r", shape=shape)
    except (OSError, ValueError, KeyError):
        return None
    quality = {int(i): Quality(Verdict(verdict), tuple(reasons)) for i, verdict, reasons in index["quality"]}
    return Packed(signals, np.asarray(index["ecg_id"], dtype=np.int64), quality, index["fingerprint"], place)


def _build(place: Path, folder: Path, tables: Tables, sampling_rate: int, progress: bool) -> None:
    for leftover in place.parent.glob(f".{place.name}.*"):  # of a process that was killed: this one holds the lock
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    digest = hashlib.sha256(f"{FORMAT} {sampling_rate} {tables.digest}".encode())
    kept: list[int] = []
    quality = {ecg_id: Quality(Verdict.REJECT, (fault,)) for ecg_id, fault in tables.faults.items()}
    try:
        with (temporary / _SIGNALS).open("wb") as file:
            for ecg_ids, signals, present in _batches(folder, tables, sampling_rate, quality, progress):
                verdicts = assess(signals, sampling_rate, present)
                quality.update(zip(ecg_ids, verdicts, strict=True))
                usable = [i for i, verdict in enumerate(verdicts) if verdict.verdict is not Verdict.REJECT]
                content = np.rint(to_independent(signals)[usable] * MICROVOLTS).astype("<i2").tobytes()
                digest.update(content)
                file.write(content)
                kept += [ecg_ids[i] for i in usable]
        ordered = [(int(i), quality[int(i)]) for i in tables.listing.index]
        _require_some(kept, ordered, folder, tables)
        digest.update(np.asarray(kept, dtype="<i8").tobytes())
        index = {
            "fingerprint": digest.hexdigest(),
            "sampling_rate": sampling_rate,
            "samples": round(DURATION * sampling_rate),
            "ecg_id": kept,
            "quality": [[i, judged.verdict.value, list(judged.reasons)] for i, judged in ordered],
        }
        (temporary / _INDEX).write_text(json.dumps(index), encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)  # a damaged pack
        temporary.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _batches(
    folder: Path, tables: Tables, sampling_rate: int, quality: dict[int, Quality], progress: bool
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Read the records in table order: of each batch ``ecg_id``s, signals and leads present, see ``_read``."""
    rows = [(int(str(label)), file) for label, file in tables.listing["file"].items()]
    rows = [(ecg_id, f"{folder}/{file}") for ecg_id, file in rows if ecg_id not in tables.faults]
    shown = track(
        range(0, len(rows), _BATCH),
        description="Reading ECGs",
        console=Console(stderr=True),
        disable=not progress or len(rows) <= _SHOW,
    )
    for start in shown:
        yield _read(rows[start : start + _BATCH], sampling_rate, quality)


def _read(
    rows: Sequence[tuple[int, str]], sampling_rate: int, quality: dict[int, Quality]
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Read records, ``ecg_id`` and file; those that cannot be read or stacked go into ``quality`` instead.

    Returns:
        ``ecg_id``s, signals ``(m, 12, T)`` in mV, and the leads that are present ``(m, 12)`` bool.
    """
    signals, plain = read_plain([file for _, file in rows], sampling_rate, round(DURATION * sampling_rate))
    present = np.ones(signals.shape[:2], dtype=bool)
    if plain.all():
        return [ecg_id for ecg_id, _ in rows], signals, present
    others: dict[int, Ecg] = {}
    for i in np.flatnonzero(~plain).tolist():
        ecg_id, file = rows[i]
        try:
            ecg = read_record(file)
        except DataError as error:
            quality[ecg_id] = Quality(Verdict.REJECT, (str(error),))
            continue
        form = check_form(ecg.signal.shape[1], ecg.sampling_rate, sampling_rate)
        if form.verdict is Verdict.REJECT:
            quality[ecg_id] = form
        else:
            others[i] = ecg
    places = [*np.flatnonzero(plain).tolist(), *others]
    order = np.argsort(places)
    signals = np.concatenate([signals, *(ecg.signal[None] for ecg in others.values())])[order]
    present = np.concatenate([present, *(ecg.present[None] for ecg in others.values())])[order]
    return [rows[place][0] for place in sorted(places)], signals, present


def _require_some(kept: list[int], ordered: list[tuple[int, Quality]], folder: Path, tables: Tables) -> None:
    """Refuse a database without a usable record; log how many of the others are not."""
    rejected = [(i, judged) for i, judged in ordered if judged.verdict is Verdict.REJECT]
    if not kept:
        first, judged = rejected[0]
        raise DataError(
            f"none of the {len(rejected)} records listed in {folder} can be used; the first, "
            f"{tables.listing.at[first, 'file']}: {'; '.join(judged.reasons)}"
        )
    if rejected:
        _log.warning("%d of %d records rejected; the data report names them", len(rejected), len(ordered))
