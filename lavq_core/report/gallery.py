"""The twin gallery: which of the sites' stored twins are shown, and their pictures.

The first stored twin of each disease and hospital is shown, then the second, and so on: none is chosen by its looks.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lavq_core.data.labels import SUPERCLASSES, public_statements
from lavq_core.plots import draw_ecg
from lavq_core.report.numbers import natural
from lavq_core.runs.artefact import MANIFEST, load_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.signals.leads import to_twelve

DISEASES = {
    "NORM": "normal ECG",
    "MI": "myocardial infarction",
    "STTC": "ST/T change",
    "CD": "conduction disturbance",
    "HYP": "hypertrophy",
}
AT_LEAST, AT_MOST = 8, 16


@dataclass(frozen=True)
class Twin:
    """One stored twin with the ECG it was made from."""

    site: str
    disease: str
    record: str
    person: str  # "woman, 56", as far as it is known
    before: float  # detector's probability of the disease for the reference
    after: float  # ... and for the twin
    twin: NDArray[np.float32]  # (12, T) mV
    reference: NDArray[np.float32]  # (12, T) mV
    gate: NDArray[np.float32]  # (tokens,)
    envelope: NDArray[np.float32]  # (T,)
    sampling_rate: float  # Hz
    statement: str = ""  # SCP code that the twin was asked for, where the site stored it
    key: str = ""  # of its probabilities in the run's metrics

    @property
    def label(self) -> str:
        """What was asked for, in codes: "IMI (MI)", or "MI" where no statement is known."""
        return f"{self.statement} ({self.disease})" if self.statement else self.disease

    @property
    def disease_name(self) -> str:
        """What was asked for, in words: the statement's where there is one, else the superclass's."""
        table = public_statements()
        if self.statement in table.index:
            return f"{table.at[self.statement, 'description']} ({self.statement})"
        return DISEASES.get(self.disease, self.disease)

    def draw(self) -> Figure:
        """Draw the twin over its reference."""
        return draw_ecg(
            self.twin,
            self.sampling_rate,
            reference=self.reference,
            envelope=self.envelope,
            gate=self.gate,
            title=f"{self.label}   ·   {self.site}, record {self.record}",
            synthetic=True,
        )


def stored_twins(run: RunFolder) -> list[Twin]:
    """Read every twin that the sites of this folder keep, in stored order.

    Raises:
        RunError: a stored file was changed.
    """
    twins: list[Twin] = []
    for site in run.sites():
        if (site.twins / MANIFEST).is_file():
            parts, about = load_artefact(site.twins)
            arrays = {name: tensor.numpy().astype(np.float32) for name, tensor in parts["twins"].items()}
            twins += [_twin(arrays, about, index) for index in range(len(about["disease"]))]
    return twins


def gallery_metrics(run: RunFolder) -> dict[str, float | int | str]:
    """Return the detector's probabilities of every stored twin and its reference, and how many there are."""
    twins = stored_twins(run)
    found: dict[str, float | int | str] = {"gallery.twins": len(twins)} if twins else {}
    for twin in twins:
        found |= {f"{twin.key}.before": twin.before, f"{twin.key}.after": twin.after}
    return found


def choose(twins: Sequence[Twin]) -> list[Twin]:
    """Choose what is shown: one of each disease and hospital, more only while there are fewer than eight."""
    groups: dict[tuple[str, str], list[Twin]] = defaultdict(list)
    for twin in twins:
        groups[twin.disease, twin.site].append(twin)
    chosen: list[Twin] = []
    for turn in range(max(map(len, groups.values()), default=0)):
        if turn and len(chosen) >= AT_LEAST:
            break
        chosen += [group[turn] for group in groups.values() if turn < len(group)]
    return sorted(_spread(chosen), key=lambda twin: (_place(twin.disease), natural(twin.site)))


def file_stem(twin: Twin, number: int) -> str:
    """Name the twin's picture; letters that a file system may not take are left out."""
    return "-".join(re.sub(r"[^A-Za-z0-9_-]+", "_", part) for part in (f"twin-{number:02d}", twin.disease, twin.site))


def _spread(twins: list[Twin]) -> list[Twin]:
    """Keep at most ``AT_MOST``, taken evenly so that no disease is cut off at the end of the list."""
    if len(twins) <= AT_MOST:
        return twins
    ordered = sorted(twins, key=lambda twin: (_place(twin.disease), natural(twin.site)))
    return [ordered[round(i)] for i in np.linspace(0, len(ordered) - 1, AT_MOST)]


def _place(disease: str) -> int:
    return SUPERCLASSES.index(disease) if disease in SUPERCLASSES else len(SUPERCLASSES)


def _twin(arrays: dict[str, NDArray[np.float32]], about: dict[str, Any], index: int) -> Twin:
    return Twin(
        site=str(about["site"]),
        disease=str(about["disease"][index]),
        record=str(about["record"][index]),
        person=_person(about["sex"][index], about["age"][index]),
        before=float(about["before"][index]),
        after=float(about["after"][index]),
        twin=to_twelve(arrays["twin"][index]),
        reference=to_twelve(arrays["reference"][index]),
        gate=arrays["gate"][index],
        envelope=arrays["envelope"][index],
        sampling_rate=float(about["sampling_rate"]),
        statement=str(about["statement"][index]) if "statement" in about else "",
        key=f"gallery.site.{about['site']}.{index:02d}",
    )


def _person(sex: object, age: object) -> str:
    """Say who the reference is of, in PTB-XL's coding (sex 0 male, 1 female; age 300 stands for over 89)."""
    words = ["woman" if sex == 1 else "man" if sex == 0 else sex if isinstance(sex, str) else ""]
    if isinstance(age, (int, float)) and math.isfinite(age):
        words.append("over 89" if age > 89 else f"{age:.0f}")
    return ", ".join(word for word in words if word)
