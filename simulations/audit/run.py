"""The audit of a run's final detector: who was in its training data?"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from lavq_core.data.database import Database
from lavq_core.errors import RunError
from lavq_core.models.stored import shared_detector
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.layout import RunFolder, write_atomic
from lavq_core.settings import Config
from lavq_core.training.device import pick_device
from simulations.audit.cohort import Cohort, cohort_logits
from simulations.audit.lira import fit_worlds, label_margin, log_likelihood_ratio, negative_loss
from simulations.audit.measure import NO_POWER, attack_auc, operating_point, roc_curve, verdict, worth_trying
from simulations.audit.shadows import ShadowRecipe, Shadows, train_shadows

Metrics = dict[str, float | str]
PREFIX = "audit.detector."

THREAT_MODEL = (
    "The attacker has the final detector, holds all ECGs of a person with their superclass labels, and asks whether "
    "that person was trained on. To learn what detectors do with people they know, the attacker trains shadow "
    "detectors by the sites' own recipe, each on half of the run's patients; they are trained centrally, without "
    "twins, from other initial weights and for a number of epochs of their own, so they resemble the attacked "
    "detector only in part. Members are patients of the training folds, non-members those of the validation and test "
    "folds, whose mix of recording sites is another: LiRA judges each patient by what the shadows do with that "
    "patient, while the loss threshold also reads this difference. Whoever copies the federation more closely, or "
    "sees the rounds, the codebook or the twins, may find more. What is found here is therefore the least that leaks, "
    "and a leak that is not found here is not ruled out."
)


@dataclass(frozen=True)
class PatientScores:
    """Both attacks' scores of each patient, higher for likelier members."""

    lira: np.ndarray  # (P,) log likelihood ratio
    loss: np.ndarray  # (P,) minus the loss


def audit_detector(
    run: RunFolder, config: Config, database: Database, workers: int | None = None, console: Console | None = None
) -> Metrics:
    """Attack a run's final detector with LiRA and with a loss threshold.

    Writes ``RUN/audit/audit.json`` and ``RUN/audit/scores.csv`` (a line a patient: it belongs where the ECGs are), and
    keeps the shadow detectors' answers in ``RUN/audit/shadows``. With fewer than 30 members or non-members no attack
    could show anything: then no shadow is trained, and the answer has sizes and a verdict only.

    Args:
        run: a finished run.
        config: its configuration.
        database: all records of the run, of all sites.
        workers, console: see ``train_shadows``.

    Returns:
        Flat metrics ``audit.detector.{lira,loss}.*``.

    Raises:
        RunError: the run has no final model, or its detector answers with values that are not finite.
        ConfigError: ``audit.shadows`` or ``audit.epochs`` cannot be used.
    """
    started = time.monotonic()
    device = pick_device(config.run.device)
    recipe = ShadowRecipe.of_run(config, device)
    parts, _ = load_artefact(run.model)
    target = shared_detector(config, parts["detector"]).to(device)
    cohort = Cohort.of_run(database, config)
    if not worth_trying(int(cohort.member.sum()), int((~cohort.member).sum())):
        metrics = _sizes(cohort, shadows=0) | {f"{PREFIX}lira.verdict": NO_POWER}
        (run.audit / "scores.csv").unlink(missing_ok=True)  # of an earlier audit
        _write(run, recipe, database, metrics, {"shadows_trained": 0}, started)
        return metrics
    logits = cohort_logits(target, cohort)  # (n, 5)
    if not np.isfinite(logits).all():
        raise RunError(f"the detector in {run.model} answers with values that are not finite: its training has failed")
    shadows = train_shadows(cohort, recipe, run.audit, workers, console)
    scores = attack(cohort, logits, shadows)
    metrics, curves = measure(cohort, scores, recipe.shadows)
    _write_scores(run, cohort, scores)
    _write(run, recipe, database, metrics, curves | {"shadows_trained": shadows.trained}, started)
    return metrics


def attack(cohort: Cohort, logits: np.ndarray, shadows: Shadows) -> PatientScores:
    """Score every patient from the attacked detector's logits ``(n, 5)`` and the shadows'."""
    target = cohort.patient_means(label_margin(logits, cohort.y))  # (P,)
    known = cohort.patient_means(label_margin(shadows.logits, cohort.y))  # (N, P)
    loss = cohort.patient_means(negative_loss(logits, cohort.y))
    return PatientScores(log_likelihood_ratio(target, fit_worlds(known, shadows.included)), loss)


def measure(cohort: Cohort, scores: PatientScores, shadows: int) -> tuple[Metrics, dict[str, Any]]:
    """Turn scores into flat metrics and ROC curves ``{attack: {"fpr", "tpr"}}``."""
    metrics = _sizes(cohort, shadows)
    curves: dict[str, Any] = {}
    for name, values in (("lira", scores.lira), ("loss", scores.loss)):
        metrics |= {f"{PREFIX}{name}.{key}": value for key, value in _rates(values, cohort.member).items()}
        fpr, tpr = roc_curve(values, cohort.member)
        curves[name] = {"fpr": fpr.tolist(), "tpr": tpr.tolist()}
    # The loss threshold gets no verdict: members and non-members are of other folds, and folds differ in difficulty.
    metrics[f"{PREFIX}lira.verdict"] = verdict(operating_point(scores.lira, cohort.member))
    return metrics, curves


def _rates(scores: np.ndarray, member: np.ndarray) -> dict[str, float]:
    auc, point = attack_auc(scores, member), operating_point(scores, member)
    return {
        "auc": auc.value,
        "auc.low": auc.low,
        "auc.high": auc.high,
        "tpr_at_1pct_fpr": point.true_positives.value,
        "tpr_at_1pct_fpr.low": point.true_positives.low,
        "tpr_at_1pct_fpr.high": point.true_positives.high,
        "fpr_reached": point.false_positives.value,
    }


def _sizes(cohort: Cohort, shadows: int) -> Metrics:
    members = int(cohort.member.sum())
    return {
        f"{PREFIX}lira.members": members,
        f"{PREFIX}lira.non_members": len(cohort) - members,
        f"{PREFIX}lira.shadows": shadows,
    }


def _write(
    run: RunFolder, recipe: ShadowRecipe, database: Database, metrics: Metrics, found: dict[str, Any], started: float
) -> None:
    """Write ``audit.json``: everything behind the metrics but the patients."""
    content = {
        "metrics": metrics,
        **found,
        "threat_model": THREAT_MODEL,
        "shadow_training": {"shadows": recipe.shadows, "epochs": recipe.epochs, "device": recipe.device},
        "seed": recipe.seed,
        "data": {"fingerprint": database.fingerprint, "records": len(database)},
        "seconds": round(time.monotonic() - started, 2),
    }
    write_atomic(run.audit / "audit.json", json.dumps(content, indent=2) + "\n")


def _write_scores(run: RunFolder, cohort: Cohort, scores: PatientScores) -> None:
    frame = pd.DataFrame(
        {
            "patient_id": cohort.patients,
            "member": cohort.member.astype(int),
            "records": cohort.records(),
            "lira": scores.lira,
            "loss": scores.loss,
        }
    )
    write_atomic(run.audit / "scores.csv", frame.to_csv(index=False, float_format="%.6f"))
