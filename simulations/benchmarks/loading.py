"""Reading: random batches, the first packing of a database, the quality gate, the beat frame, the description."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import wfdb

from lavq_core.data.cache import MICROVOLTS, Packed, open_pack
from lavq_core.data.ptbxl import read_tables
from lavq_core.data.records import read_record
from lavq_core.signals.beats import find_beats
from lavq_core.signals.description import describe
from lavq_core.signals.leads import INDEPENDENT_INDEX, LEADS
from lavq_core.signals.quality import Verdict, assess
from simulations.benchmarks.harness import Pair, Way
from simulations.benchmarks.plain_gate import judge
from simulations.benchmarks.setting import Setting, close, generator

_BATCH = 64
_JUDGED = 32  # records that packing judges at a time


def batches(setting: Setting) -> Pair:
    """One epoch of random batches as float32 in mV, from the pack; the reference reads the same records with wfdb."""
    database = setting.database
    order = torch.randperm(len(database), generator=generator())[: setting.many(len(database), _BATCH)].split(_BATCH)
    few = order[: max(1, setting.many(2, 1))]
    files = [str(database.folder / file) for file in database.table["file"]]

    def ours() -> list[torch.Tensor]:
        first = []
        for number, rows in enumerate(order):
            batch = database.signals(rows)  # (64, 8, T)
            if number < len(few):
                first.append(batch)
        return first

    def wfdb_loop() -> list[torch.Tensor]:
        return [torch.from_numpy(np.stack([_read(files[int(row)]) for row in rows]).astype(np.float32)) for rows in few]

    units = (sum(len(rows) for rows in part) for part in (order, few))
    return Pair(Way(ours, next(units)), Way(wfdb_loop, next(units)), close)


def _read(file: str) -> np.ndarray:
    """Read a record with wfdb and put its leads in order: ``(8, T)`` mV."""
    values, header = wfdb.rdsamp(file)
    names = [name.casefold() for name in header["sig_name"]]
    return values.T[[names.index(LEADS[row].casefold()) for row in INDEPENDENT_INDEX]]


def packing(setting: Setting) -> Pair:
    """A database's first packing with its checks; the reference reads, judges, rounds and writes record by record."""
    rate, database = setting.database.sampling_rate, setting.database
    tables = read_tables(database.folder, rate)
    tables = replace(tables, listing=tables.listing.iloc[: setting.many(400, 8)])
    few = tables.listing["file"].iloc[: setting.many(100, 8)]

    def ours() -> np.ndarray:
        packed: Packed = open_pack(database.folder, tables, rate, setting.fresh("packs"), progress=False)
        return packed.signals

    def wfdb_loop() -> np.ndarray:
        kept = []
        for file in few:
            values, header = wfdb.rdsamp(str(database.folder / file))
            names = [name.casefold() for name in header["sig_name"]]
            signal = values.T[[names.index(lead.casefold()) for lead in LEADS]].astype(np.float32)  # (12, T)
            if judge(signal, header["fs"]).verdict is not Verdict.REJECT:
                kept.append(np.rint(signal[list(INDEPENDENT_INDEX)] * MICROVOLTS).astype("<i2"))
        packed = np.stack(kept)  # (n, 8, T)
        place = setting.fresh("plain")
        place.mkdir(parents=True)
        np.save(place / "signals.npy", packed)
        return packed

    def same(mine: np.ndarray, plain: np.ndarray) -> bool:
        return np.array_equal(mine[: len(plain)], plain)

    return Pair(Way(ours, len(tables.listing)), Way(wfdb_loop, len(few)), same)


def gate(setting: Setting) -> Pair:
    """The quality gate on records in memory, 32 at a time; the reference judges them one by one."""
    signals, rate = _twelve_leads(setting, setting.many(256, 8)), setting.database.sampling_rate
    few = signals[: setting.many(64, 8)]

    def ours() -> list[object]:
        return [
            verdict
            for start in range(0, len(signals), _JUDGED)
            for verdict in assess(signals[start : start + _JUDGED], rate)
        ]

    def loop() -> list[object]:
        return [judge(signal, rate) for signal in few]

    return Pair(Way(ours, len(signals)), Way(loop, len(few)), lambda mine, plain: mine[: len(plain)] == plain)


def beats(setting: Setting) -> Pair:
    """Records brought into the beat frame together; the reference takes one at a time."""
    signals = setting.ecgs(setting.many(256, 4)).numpy()
    few = signals[: setting.many(64, 4)]
    return Pair(
        Way(lambda: find_beats(signals, 100).median, len(signals)),
        Way(lambda: np.concatenate([find_beats(signal[None], 100).median for signal in few]), len(few)),
        lambda mine, plain: close([mine[: len(plain)]], [plain]),
    )


def description(setting: Setting) -> Pair:
    """The fixed description of ECGs, beats and all, together; the reference takes one at a time."""
    signals = setting.ecgs(setting.many(192, 4)).numpy()
    few = signals[: setting.many(48, 4)]
    return Pair(
        Way(lambda: describe(signals, 100), len(signals)),
        Way(lambda: np.concatenate([describe(signal[None], 100) for signal in few]), len(few)),
        lambda mine, plain: close([mine[: len(plain)]], [plain], atol=1e-4),
    )


def _twelve_leads(setting: Setting, count: int) -> np.ndarray:
    """Read usable records: ``(count, 12, T)`` mV, repeated where there are too few."""
    database = setting.database
    files = [Path(database.folder / file) for file in database.table["file"].iloc[:count]]
    signals = np.stack([read_record(file).signal for file in files])
    return signals[np.arange(count) % len(signals)]
