"""Whom personalised detectors are measured on, and what may therefore never be trained on.

*People* have a NORM-only record and an abnormal one (an abnormal superclass, no NORM). Each one's **reference** is the
earliest NORM-only record: twins are made of it, it is fine-tuned on, and it is never scored.

- **Eligible** people have an abnormal record after their reference: what a personal detector is for.
- The **paper's cohort** (Hu et al., IJCAI 2024, as its numbers can be reproduced) has a NORM-only record and one with
  exactly one abnormal superclass, in any order; its records are those and no others.

All records of all people leave every training set: one training serves everybody. That is at least as strict as a
cross-fit over eligible people, where the others' records would still be trained on, and ``check_withheld`` refuses to
train otherwise.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lavq_core.data.database import Database, chronological
from lavq_core.errors import DataError


def follow_up(table: pd.DataFrame, labels: np.ndarray) -> pd.DataFrame:
    """Return every record of people, but for their references, in order of recording.

    Args:
        table: columns patient_id and recording_date, indexed by ecg_id.
        labels: ``(n, 5)`` of 0 and 1, of its rows.

    Returns:
        Indexed by ecg_id: ``patient_id``, ``reference`` (an ecg_id), ``later`` (than the reference), ``norm`` (NORM
        alone), ``abnormal``, ``single`` (NORM alone, or one abnormal superclass alone), and of the
        person: ``eligible``, ``cohort`` (the paper's), ``norm_first`` (no single-label record before the reference).
    """
    diseases = labels[:, 1:].sum(axis=1)
    rows = table[["patient_id", "recording_date"]].assign(
        norm=(labels[:, 0] == 1) & (diseases == 0),
        abnormal=(labels[:, 0] == 0) & (diseases > 0),
        single=labels.sum(axis=1) == 1,
    )
    rows = in_time(rows).drop(columns="recording_date")
    rows["place"] = np.arange(len(rows))
    first = rows[rows["norm"]].drop_duplicates("patient_id")  # the references
    rows["reference"] = rows["patient_id"].map(pd.Series(first.index, index=first["patient_id"]))
    rows["later"] = rows["place"] > rows["patient_id"].map(first.set_index("patient_id")["place"])

    def has(what: pd.Series) -> pd.Series:
        return what.groupby(rows["patient_id"]).transform("any")

    rows["eligible"] = has(rows["abnormal"] & rows["later"])
    rows["cohort"] = has(rows["abnormal"] & rows["single"])
    rows["norm_first"] = ~has(rows["single"] & ~rows["later"] & (rows.index != rows["reference"]))
    people = rows[rows["reference"].notna() & has(rows["abnormal"])].drop(columns="place")
    return people[people.index != people["reference"]].astype({"reference": "int64"})


def in_time(table: pd.DataFrame) -> pd.DataFrame:
    """Sort records by time of recording.

    PTB-XL numbers its records in that order, so ``ecg_id`` places those without a date as well. In a database whose
    dates contradict its numbers, records without a date cannot be placed and are left out.
    """
    numbered = table.sort_index()
    if numbered["recording_date"].dropna().is_monotonic_increasing:
        return numbered
    return chronological(table[table["recording_date"].notna()])


def without(database: Database, patients: np.ndarray) -> np.ndarray:
    """Return the positions of all records of everybody else."""
    return np.flatnonzero(~database.table["patient_id"].isin(patients).to_numpy())


def check_withheld(database: Database, positions: np.ndarray, patients: np.ndarray, used_for: str) -> None:
    """Guard: nobody who is scored may be among the records at these positions.

    Raises:
        DataError: some are; nothing may be trained then, for every figure would be too good.
    """
    rows = database.table.iloc[positions]
    leaked = rows[rows["patient_id"].isin(patients)]
    if len(leaked):
        raise DataError(
            f"{len(leaked)} records of {leaked['patient_id'].nunique()} people whose detectors are evaluated are in "
            f"{used_for} (ecg_id {leaked.index[0]} for one): take all their records away first"
        )
