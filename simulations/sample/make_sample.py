"""Choose the bundled sample out of PTB-XL, by rule: ``python -m simulations.sample.make_sample --data DIR --out DIR``.

The rule looks at the tables and at the quality gate's verdicts, never at what a model makes of a signal, and has no
random part: patients come in the order of a hash of their number. README.md beside this file states it in words.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from lavq_core.data.database import Database, chronological
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.data.ptbxl import STATEMENTS, TABLE
from lavq_core.errors import DataError, LavqError
from simulations.partitions import home_sites

SPLITS = ("train", "validation", "test")  # folds 1-8, 9 and 10
RECORDS = {  # most records of a client (recording site; all others but 0, 1 and 2 are "rest") in each split
    "site-0": (104, 20, 28),
    "site-1": (92, 20, 28),
    "site-2": (76, 18, 26),
    "rest": (66, 18, 24),
}
SHARES = {"NORM": 0.30, "MI": 0.28, "STTC": 0.32, "CD": 0.22, "HYP": 0.18}  # of a cell's records; they overlap
RECONSTRUCTED = "reconstructed_rows.csv"  # optional list of rows that are not PTB-XL's own


def candidates(database: Database) -> pd.DataFrame:
    """Return the records of patients who can be chosen, with their client and split.

    Left out are patients with a rejected record, a row that is not PTB-XL's own, or no known recording site.
    """
    unusable = set(database.quality.index[database.quality["verdict"] == "reject"])
    if (database.folder / RECONSTRUCTED).is_file():
        unusable |= set(pd.read_csv(database.folder / RECONSTRUCTED)["ecg_id"])
    patients = pd.read_csv(database.folder / TABLE, usecols=["ecg_id", "patient_id"]).set_index("ecg_id")["patient_id"]
    excluded = set(patients.reindex(list(unusable)).dropna())
    table = database.table.assign(norm_only=database.norm_only())
    table = table[~table["patient_id"].isin(excluded)]
    home = table["patient_id"].map(home_sites(table))
    client = home.map(lambda site: f"site-{site}" if f"site-{site}" in RECORDS else "rest")
    split = table["strat_fold"].map(lambda fold: SPLITS[max(fold - 8, 0)])
    return table.assign(client=client, split=split)[home >= 0]


def norm_then_abnormal(table: pd.DataFrame) -> set[int]:
    """Return the patients with a NORM-only record and a later one with another superclass and without NORM."""
    ordered = chronological(table)
    earlier_norm = ordered.groupby("patient_id")["norm_only"].cummax()
    abnormal = (ordered["NORM"] == 0) & (ordered[list(SUPERCLASSES[1:])].sum(axis=1) > 0)
    return set(ordered.loc[earlier_norm & abnormal, "patient_id"])


def choose(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the sample: in each cell of client and split, NORM-then-abnormal patients, then by deficit."""
    first = norm_then_abnormal(table)
    chosen: list[int] = []
    for client, quotas in RECORDS.items():
        for split, quota in zip(SPLITS, quotas, strict=True):
            cell = table[(table["client"] == client) & (table["split"] == split)]
            chosen += _choose_cell(cell, quota, first)
    return table[table["patient_id"].isin(chosen)]


def _choose_cell(cell: pd.DataFrame, quota: int, first: set[int]) -> list[int]:
    """Choose whole patients of one cell: first those in ``first``, then one of the class that lacks most, and again."""
    by_patient = cell.groupby("patient_id")[list(SUPERCLASSES)].sum().assign(records=cell["patient_id"].value_counts())
    waiting = sorted(by_patient.index, key=lambda patient: (patient not in first, _rank(patient)))
    counts, room, chosen = np.zeros(len(SUPERCLASSES)), quota, []
    wanted = np.asarray([SHARES[name] for name in SUPERCLASSES]) * quota
    while room > 0:
        fitting = [patient for patient in waiting if by_patient.at[patient, "records"] <= room]
        if not fitting:
            break
        patient = fitting[0]
        if patient not in first:
            for name in np.asarray(SUPERCLASSES)[np.argsort(counts / wanted, kind="stable")]:
                of_class = [p for p in fitting if by_patient.at[p, name] > 0]
                if of_class:
                    patient = of_class[0]
                    break
        waiting.remove(patient)
        chosen.append(patient)
        counts += by_patient.loc[patient, list(SUPERCLASSES)].to_numpy(dtype=float)
        room -= int(by_patient.at[patient, "records"])
    return chosen


def _rank(patient: int) -> str:
    """Order patients in a fixed way that has nothing to do with them."""
    return hashlib.sha256(f"lavq sample {patient}".encode()).hexdigest()


def write_sample(database: Database, sample: pd.DataFrame, out: Path) -> None:
    """Write tables, licence and records of the sample to ``out``; what else lies there stays."""
    out.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=out, prefix=".new-"))
    try:
        raw = pd.read_csv(database.folder / TABLE, dtype=str, keep_default_na=False)
        kept = raw[raw["ecg_id"].astype(int).isin(sample.index)]
        kept.to_csv(fresh / TABLE, index=False)
        for name in (STATEMENTS, "LICENSE.txt"):
            shutil.copyfile(database.folder / name, fresh / name)
        for file in sample["file"]:
            for suffix in (".hea", ".dat"):
                target = fresh / f"{file}{suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(database.folder / f"{file}{suffix}", target)
        for item in sorted(fresh.iterdir()):
            if (out / item.name).is_dir():
                shutil.rmtree(out / item.name)
            item.replace(out / item.name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def counts(sample: pd.DataFrame) -> str:
    """Return the counts per client and split as a Markdown table."""
    lines = [f"| client | split | records | patients | {' | '.join(SUPERCLASSES)} |", "|---|---|" + "---|" * 7]
    groups = [(c, s, sample[(sample["client"] == c) & (sample["split"] == s)]) for c in RECORDS for s in SPLITS]
    groups += [("all", split, sample[sample["split"] == split]) for split in SPLITS]
    for client, split, rows in [*groups, ("all", "all", sample)]:
        classes = " | ".join(str(rows[name].sum()) for name in SUPERCLASSES)
        lines.append(f"| {client} | {split} | {len(rows)} | {rows['patient_id'].nunique()} | {classes} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.sample.make_sample",
        description="Choose the bundled sample out of PTB-XL at 100 Hz.",
        epilog="example: python -m simulations.sample.make_sample --data ~/ptb-xl --out simulations/sample",
    )
    parser.add_argument("--data", required=True, type=Path, help="folder in PTB-XL's layout")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    options = parser.parse_args(arguments)
    try:
        if options.out.resolve() == options.data.expanduser().resolve():
            raise DataError("--out is the folder of --data: choose another")
        with tempfile.TemporaryDirectory() as cache:
            database = Database.open(options.data, cache_dir=cache)
            table = candidates(database)
            sample = choose(table)
            write_sample(database, sample, options.out)
    except LavqError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{counts(sample)}\n\nNORM-then-abnormal patients: {len(norm_then_abnormal(sample))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
