"""Looks for patients in bytes: what a hospital's table says of them, and stretches of their ECGs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from lavq_core.data.database import Database
from lavq_core.data.ptbxl import TABLE

_RUN = 16  # bytes: four float32 in a row, eight int16, two float64
_FREE = rb"(?im)^(?:content-length|host|date): [^\r\n]*\r\n"  # numbers of HTTP's own
_TEXTS = ("report", "device", "recording_date", "filename_lr", "filename_hr")
_SHORTEST = 6  # letters of a text that says something


def texts_of(folder: Path) -> set[bytes]:
    """What stands in a hospital's table as words: reports, dates, devices, file names, and where it all lies."""
    table = pd.read_csv(folder / TABLE, low_memory=False)
    words = {str(value) for column in _TEXTS for value in table[column].dropna()}
    words |= {Path(name).name for name in table["filename_lr"]} | {str(folder)}
    return {word.encode() for word in words if len(word) >= _SHORTEST}


def named(data: bytes, folder: Path) -> set[bytes]:
    """Words and numbers of a hospital's table that stand in the data, numbers with what stands around them.

    Ids of patients and records are looked for as numbers of five digits or more that stand alone; shorter ones stand
    in any text.
    """
    table = pd.read_csv(folder / TABLE, low_memory=False)
    numbers = {str(int(value)).encode() for column in ("patient_id", "ecg_id") for value in table[column]}
    read = re.sub(_FREE, b"", data)
    alone = re.finditer(rb"(?<![\w.+/=-])(\d{5,6})(?:\.0)?(?![\w.+/=-])", read)
    around = {read[max(0, one.start() - 40) : one.end() + 40] for one in alone if one[1] in numbers}
    return standing(data, texts_of(folder)) | around


def standing(data: bytes, texts: set[bytes]) -> set[bytes]:
    """Which of the texts stand in the data; only those are looked for whose beginning is there at all."""
    letters = np.frombuffer(data, np.uint8).astype(np.uint64)
    begins = {text[:_SHORTEST] for text in texts}
    known = np.zeros(2**16, dtype=bool)
    known[[int.from_bytes(begin[:2], "little") for begin in begins]] = True
    at = np.flatnonzero(known[letters[: 1 - _SHORTEST] | letters[1 : 2 - _SHORTEST] << np.uint64(8)])
    there = {data[place : place + _SHORTEST] for place in at.tolist()}
    return {text for text in texts if text[:_SHORTEST] in there and text in data}


def stretches(data: bytes, folder: Path, cache: Path) -> int:
    """Count stretches of a hospital's ECGs that stand in the data.

    As the models see them (float32 in mV), in float64, in the uV of a site's cache and in the raw values of its files.
    Any stretch of twice ``_RUN`` bytes is found, wherever it begins. Flat ones count for nothing: zeros are everywhere.
    """
    database = Database.open(folder, cache_dir=cache, progress=False)
    signals = database.signals(np.arange(len(database))).numpy()
    files = pd.read_csv(folder / TABLE, low_memory=False)["filename_lr"]
    raw = np.stack([np.fromfile(f"{folder / name}.dat", dtype="<i2").reshape(-1, 12) for name in files])
    places = np.sort(_keys(np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), _RUN)))
    kinds = [signals, signals.astype(np.float64), np.asarray(database.packed), raw, raw.transpose(0, 2, 1)]
    return sum(_count(places, kind) for kind in kinds)


def _count(places: np.ndarray, values: np.ndarray) -> int:
    """Count blocks of ``_RUN`` bytes of an array, one after the other, that are among the sorted keys."""
    width = _RUN // values.itemsize
    blocks = np.ascontiguousarray(values).reshape(-1, width)
    keys = _keys(blocks[(blocks != blocks[:, :1]).sum(axis=1) >= min(2, width - 1)])
    return int((places[np.searchsorted(places, keys).clip(max=len(places) - 1)] == keys).sum())


def _keys(rows: np.ndarray) -> np.ndarray:
    """One number for every ``_RUN`` bytes; two of them are the same by chance once in 2^64."""
    low, high = np.ascontiguousarray(rows).view(np.uint64).reshape(-1, 2).T
    return low * np.uint64(0x9E3779B97F4A7C15) + (high ^ (high >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
