"""What the audit of a run left behind: its attacks by surface, their curves, what links, and the threat model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lavq_core.plots.curves import RocCurve
from lavq_core.report.evidence import json_object
from lavq_core.report.numbers import Metrics
from lavq_core.runs.layout import RunFolder

ATTACKS = {
    "lira": "LiRA",
    "rmia": "RMIA",
    "loss": "loss threshold",
    "site": "one hospital",
    "aggregate": "aggregates",
    "nearest_code": "codes that are latents",
}
_SURFACES = ("detector", "updates", "codebook", "twins")
_TARGETS = {"": "this run", "replicas.": "replicas"}
_KEY = re.compile(r"audit\.(\w+)\.(\w+)\.(replicas\.)?auc")
_LINK = re.compile(r"audit\.twins\.(\w+_top\d+)")
_LINKS = {
    "source_top1": "Twins that find the very record they were made from among all",
    "linkage_top1": "Twins that find another ECG of their own patient among all patients",
    "record_top1": "... a real record of the patient does so",
    "donor_top1": "Twins that give away the patient whose codes they bear",
}


@dataclass(frozen=True)
class AttackRow:
    """One attack in the report's table."""

    surface: str
    attack: str
    target: str
    key: str  # of its metrics, up to the last dot


@dataclass(frozen=True)
class Link:
    """One figure of how twins lead to people."""

    words: str
    key: str


def attacks(metrics: Metrics) -> list[AttackRow]:
    """List the attacks that were measured, by surface; first on the run, then on its replicas."""
    found = [match for key in metrics.values if (match := _KEY.fullmatch(key)) and match[1] in _SURFACES]
    found.sort(key=lambda match: (_SURFACES.index(match[1]), match[2] == "loss", match[2], match[3] or ""))
    return [
        AttackRow(match[1], ATTACKS.get(match[2], match[2].replace("_", " ")), _TARGETS[match[3] or ""], match[0][:-3])
        for match in found
    ]


def links(metrics: Metrics) -> list[Link]:
    """List how far twins lead to people."""
    found = [match[1] for key in metrics.values if (match := _LINK.fullmatch(key))]
    return [Link(words, f"audit.twins.{name}") for name, words in _LINKS.items() if name in found]


def rocs(run: RunFolder) -> dict[str, dict[str, RocCurve]]:
    """Read the curves of the attacks that vote, ``{figure: {attack: curve}}``.

    Raises:
        RunError: the file is there but cannot be read.
    """
    figures: dict[str, dict[str, RocCurve]] = {}
    for found in json_object(run, run.audit / "audit.json").get("findings", []):
        if found["votes"] and found["fpr"]:
            name = "audit-roc" if found["target"] == "run" else "audit-roc-replicas"
            words = f"{found['surface']}, {ATTACKS.get(found['attack'], found['attack'].replace('_', ' '))}"
            curve = RocCurve(*(tuple(map(float, found[part])) for part in ("fpr", "tpr", "low", "high")))
            figures.setdefault(name, {})[words] = curve
    return figures


def threat_model(run: RunFolder) -> str:
    """Read what the attacker knows, in a paragraph; empty without an audit."""
    return str(json_object(run, run.audit / "audit.json").get("threat_model", ""))
