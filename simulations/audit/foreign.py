"""The audit of a detector whose run is not at hand: its files, and lists of who was trained on and who was not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from lavq_core.errors import RunError
from lavq_core.models.stored import load_shared_model
from lavq_core.runs.layout import RunFolder, write_atomic
from lavq_core.settings_check import check
from lavq_core.training.device import pick_device
from simulations.audit.attacks.scores import attack
from simulations.audit.claim import unclaimed
from simulations.audit.cohort import Cohort
from simulations.audit.finding import Metrics, measure
from simulations.audit.shadows.central import CentralRecipe
from simulations.audit.shadows.training import train_shadows
from simulations.audit.verdict import NO_POWER, worth_trying

THREAT_MODEL = (
    "The attacker has the detector and its settings, holds all ECGs of a person with their superclass labels, and "
    "asks whether that person was trained on. Shadow detectors are trained centrally, by the same steps, on random "
    "halves of the people listed, members and non-members alike; nothing is known of hospitals, rounds or twins. "
    "Whoever copies the training more closely may find more: what is found is the least that leaks."
)


def audit_model(
    model: RunFolder,
    cohort: Cohort,
    out: Path,
    shadows: int | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> Metrics:
    """Attack a detector with LiRA, RMIA and a loss threshold; writes ``OUT/audit.json``.

    Nothing is known of a claim, so the answer is that a leak was found, or that nothing could be shown.

    Args:
        model: an exported model or a run; only its configuration and its detector are read.
        cohort: of ``listed_cohort``.
        out: folder of the answer and the shadows.
        shadows: default: ``audit.shadows`` of the model's configuration.
        workers, console: see ``train_shadows``.

    Raises:
        RunError: there is no model, or it answers with values that are not finite.
        ConfigError: it is a features detector.
    """
    started = time.monotonic()
    shared = load_shared_model(model)
    shared.config.audit.shadows = shadows or shared.config.audit.shadows
    check(shared.config)
    members = int(cohort.member.sum())
    metrics: Metrics = {"audit.members": members, "audit.non_members": len(cohort) - members}
    curves = []
    if not worth_trying(members, len(cohort) - members):
        metrics |= {"audit.shadows": 0, "audit.verdict": NO_POWER}
    else:
        recipe = CentralRecipe.of_model(shared.config, pick_device(shared.config.run.device))
        logits = cohort.logits(shared.detector)
        if not np.isfinite(logits).all():
            raise RunError(f"the detector in {model.root} answers with values that are not finite: its training failed")
        trained = train_shadows(cohort, recipe, out, workers, console)
        scores = attack({"logits": logits}, trained, cohort)
        found = [measure(one.surface, one.attack, one.values, cohort.member) for one in scores if one.calibrated]
        findings = [finding for finding in found if finding is not None]
        for finding in findings:
            metrics |= finding.metrics()
        metrics |= {"audit.shadows": recipe.shadows} | unclaimed(findings).metrics()
        curves = [finding.record() for finding in findings]
    content = {
        "metrics": metrics,
        "findings": curves,
        "threat_model": THREAT_MODEL,
        "seed": shared.config.run.seed,
        "seconds": round(time.monotonic() - started, 2),
    }
    write_atomic(out / "audit.json", json.dumps(content, indent=1) + "\n")
    return metrics
