"""A site's data card: what its database holds, what of it cannot be used, and what it can be used for.

It names records, so it stays at the site. Nothing in it is sent anywhere.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from client.data_card import Section
from client.privacy_budget import budget_section
from lavq_core.data.database import Database, chronological
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.data.ptbxl import UNKNOWN_SITE
from lavq_core.signals.quality import LARGE
from lavq_core.text.language import language_of

INTRO = "Written by lavq site report. It names records: it belongs to the site and stays there. Research use only."
_AGES = (0, 18, 40, 65, 80)  # years, where bands begin
_SEX = {0: "male", 1: "female", -1: "sex unknown"}
_LISTED = 50  # records named in a table; the others are counted
_MOST = 12  # devices and languages in a table
# Where a reason stops saying what is wrong and starts saying how much, or in which lead.
_DETAIL = re.compile(r"\s*(?:[\d(:]|\bby\b|\bV\d|\bI{1,3}\b|\baV[RLF]\b).*", re.DOTALL)


def site_report(database: Database) -> list[Section]:
    """Collect the card of a whole database; its first section is the summary."""
    same = identical_signals(database)
    return [
        _summary(database, same),
        _superclasses(database),
        _people(database),
        _origins(database),
        _quality(database),
        *_named(database),
        _duplicates(database, same),
        _healthy(database),
        budget_section(_training_patients(database)),
    ]


def identical_signals(database: Database) -> list[np.ndarray]:
    """Find records whose signals are the same to the last bit: groups of two or more positions."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for position, signal in enumerate(database.packed):
        groups[hashlib.blake2b(np.ascontiguousarray(signal).tobytes(), digest_size=16).digest()].append(position)
    return [np.array(positions) for positions in groups.values() if len(positions) > 1]


def followed(database: Database) -> int:
    """Count patients whose first healthy record is followed by one that is not healthy."""
    references = database.healthy_references()
    reference_of = dict(zip(database.table["patient_id"].iloc[references], references, strict=True))
    abnormal = (database.labels[:, 1:].sum(axis=1) > 0).astype(bool)
    later = set()
    order = chronological(database.table.assign(_position=np.arange(len(database))))
    seen: set[int] = set()
    for patient, position in zip(order["patient_id"], order["_position"], strict=True):
        if position == reference_of.get(patient):
            seen.add(patient)
        elif patient in seen and abnormal[position]:
            later.add(patient)
    return len(later)


def _summary(database: Database, same: list[np.ndarray]) -> Section:
    table, verdicts = database.table, database.quality["verdict"]
    per_patient = table.groupby("patient_id").size()
    dates = table["recording_date"].dropna()
    rows = {
        "records listed": len(database.quality),
        "usable": len(table),
        "of them flagged": int((verdicts == "flag").sum()),
        "rejected": int((verdicts == "reject").sum()),
        "duplicates (the same signal again)": sum(len(group) - 1 for group in same),
        "patients": len(per_patient),
        "with more than one record": int((per_patient > 1).sum()),
        "most records of one patient": int(per_patient.max()),
        "patients with a healthy record": len(database.healthy_references()),
    }
    facts = [(label, f"{value:,}") for label, value in rows.items()]
    if len(dates):
        facts.append(("recorded", f"{dates.min():%Y-%m-%d} to {dates.max():%Y-%m-%d}"))
    facts += [("sampling rate", f"{database.sampling_rate} Hz"), ("data fingerprint", database.fingerprint[:16])]
    return Section("Summary", "", ("", database.folder.name), facts)


def _superclasses(database: Database) -> Section:
    patients = database.table["patient_id"].to_numpy()
    rows = []
    for column, name in enumerate(SUPERCLASSES):
        has = database.labels[:, column] == 1
        alone = has & (database.labels.sum(axis=1) == 1)
        rows.append(
            (name, f"{has.sum():,}", _share(has.sum(), len(has)), f"{alone.sum():,}", _people_in(patients[has]))
        )
    none = database.labels.sum(axis=1) == 0
    rows.append(("none of them", f"{none.sum():,}", _share(none.sum(), len(none)), "", _people_in(patients[none])))
    note = "Diagnostic superclasses of the SCP statements; a record can have several."
    return Section("Superclasses", note, ("class", "records", "share", "alone", "patients"), rows)


def _people(database: Database) -> Section:
    first = chronological(database.table).drop_duplicates("patient_id")
    age = first["age"]
    rows = []
    for low, high in zip(_AGES, (*_AGES[1:], np.inf), strict=True):
        count = int(((age >= low) & (age < high)).sum())
        rows.append((f"{low} to {high - 1:g} years" if np.isfinite(high) else f"{low} years and more", count))
    rows.append(("age unknown", int(age.isna().sum())))
    rows += [(_SEX[key], int((first["sex"] == key).sum())) for key in _SEX]
    cells = [(label, f"{count:,}", _share(count, len(first))) for label, count in rows]
    return Section("Patients", "Age and sex at the first record.", ("", "patients", "share"), cells)


def _origins(database: Database) -> Section:
    table = database.table
    languages = Counter(language_of(report) for report in table["report"])
    devices = Counter(device.strip() or "unknown" for device in table["device"])
    sites = Counter("unknown" if site == UNKNOWN_SITE else str(site) for site in table["site"])
    rows = [
        (what, name, f"{count:,}", _share(count, len(table)))
        for what, counts in (("device", devices), ("recording site", sites), ("language of reports", languages))
        for name, count in _most(counts)
    ]
    return Section("Devices, recording sites, languages", "", ("", "name", "records", "share"), rows)


def _quality(database: Database) -> Section:
    counts: Counter[tuple[str, str]] = Counter()
    for _, row in database.quality[database.quality["verdict"] != "accept"].iterrows():
        told = str(row["reasons"]).replace(f"{database.folder}/{row['file']}", "the record")
        for reason in {_kind(reason) for reason in told.split("; ")}:
            counts[row["verdict"], reason] += 1
    rows = [(verdict, reason, f"{n:,}") for (verdict, reason), n in sorted(counts.items(), key=lambda item: -item[1])]
    note = "Rejected records are never used; flagged ones are. A record can have several reasons."
    return Section(
        "Quality gate", note if rows else "Every record was accepted.", ("verdict", "reason", "records"), rows
    )


def _named(database: Database) -> Iterable[Section]:
    """List the rejected records by name."""
    rejected = database.quality[database.quality["verdict"] == "reject"]
    if len(rejected):
        rows = [(str(i), str(row["file"]), str(row["reasons"])) for i, row in rejected.head(_LISTED).iterrows()]
        more = f"The first {_LISTED} of {len(rejected)}." if len(rejected) > _LISTED else ""
        yield Section("Rejected records", more, ("ecg_id", "file", "reasons"), rows)


def _duplicates(database: Database, same: list[np.ndarray]) -> Section:
    ids, patients = database.table.index, database.table["patient_id"].to_numpy()
    rows = [
        (", ".join(str(ids[i]) for i in group), "two patients" if len(set(patients[group])) > 1 else "one patient")
        for group in sorted(same, key=lambda group: len(set(patients[group])), reverse=True)
    ]
    note = (
        "Records with exactly the same signal. One that stands under two patients can be trained on and tested on: put "
        "it right." if rows else "No two records have the same signal."
    )  # fmt: skip
    return Section("Duplicates", note, ("ecg_id", "listed under"), rows[:_LISTED])


def _healthy(database: Database) -> Section:
    references = database.healthy_references()
    folds = database.table["strat_fold"].iloc[references]
    rows = {
        "with a record that is NORM and nothing else": len(references),
        "... in the folds that are trained on (1 to 8)": int(folds.between(1, 8).sum()),
        "... with enough beats of one shape for a twin": int(database.beats.found()[references].sum()),
        "... followed by a record that is not healthy": followed(database),
    }
    note = "Twins are made of a patient's first healthy record; the last line is whom personalisation can be tested on."
    cells = [(label, f"{count:,}") for label, count in rows.items()]
    return Section("Healthy patients", note, ("patients", "count"), cells)


def _training_patients(database: Database) -> int:
    return int(database.table.loc[database.table["strat_fold"].between(1, 8), "patient_id"].nunique())


def _kind(reason: str) -> str:
    """What is wrong, without how much and where."""
    kind = _DETAIL.sub("", reason).strip() or reason
    return f"amplitude above {LARGE:g} mV" if kind == "amplitude" else kind


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent, and the rest together."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = ordered[_MOST:]
    return ordered[:_MOST] + ([(f"{len(rest)} others", sum(n for _, n in rest))] if rest else [])


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %" if total else ""


def _people_in(patients: np.ndarray) -> str:
    return f"{pd.unique(patients).size:,}"
