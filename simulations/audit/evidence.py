"""All attacks on a run, and the same on its replicas, measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from simulations.audit.attacks.scores import Scores, patient_statistics, score
from simulations.audit.cohort import Cohort
from simulations.audit.finding import Finding, measure, measure_replicas
from simulations.audit.shadows.training import Answers, Shadows


@dataclass(frozen=True)
class Evidence:
    """All that was attacked and how it went."""

    own: list[Scores]  # of the run itself
    own_member: np.ndarray  # (P,) bool, by fold
    findings: list[Finding]
    control: Finding | None  # LiRA on replicas, asked for folds instead of membership: it has to read one half
    replicas: list[list[Scores]]  # of each replica, its attacks in the same order
    shadows: Shadows


def gather(target: Answers, shadows: Shadows, cohort: Cohort) -> Evidence:
    """Attack the run by what it answers, and every shadow, which is then a replica attacked by the others."""
    known = replace(shadows, answers=patient_statistics(shadows.answers, cohort))
    own = score(patient_statistics(target, cohort), known)
    replicas = [score(known.of(index), known.without_pair_of(index)) for index in range(len(known.included))]
    findings = [measure(one.surface, one.attack, one.values, cohort.member, one.votes) for one in own]
    by_attack = list(zip(*replicas, strict=True))  # an attack's scores of each replica
    for one in by_attack:
        values, first = [scores.values for scores in one], one[0]
        findings.append(measure_replicas(first.surface, first.attack, values, list(shadows.included), first.votes))
    lira = [scores.values for scores in by_attack[0]]
    control = measure_replicas("control", "lira", lira, [cohort.member] * len(lira))
    measured = [finding for finding in findings if finding is not None]
    return Evidence(own, cohort.member, measured, control, replicas, shadows)
