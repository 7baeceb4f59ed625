"""The audit of a run: who was in its training data, and does what it claims hold?"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from lavq_core.data.database import Database
from lavq_core.errors import RunError
from lavq_core.runs.layout import RunFolder, write_atomic
from lavq_core.settings import Config
from lavq_core.training.device import pick_device
from simulations.audit.answers import model_answers, own_nearest_code
from simulations.audit.attacks.people import BeatFrame
from simulations.audit.attacks.scores import Scores
from simulations.audit.attacks.twin_links import twin_links
from simulations.audit.claim import weigh
from simulations.audit.cohort import Cohort
from simulations.audit.evidence import gather
from simulations.audit.finding import Finding, Metrics
from simulations.audit.published import PublishedModel, publishes_networks
from simulations.audit.shadows.federated import FederatedRecipe
from simulations.audit.shadows.training import train_shadows
from simulations.audit.verdict import NO_POWER, worth_trying

THREAT_MODEL = (
    "The attacker holds all ECGs of a person with their superclass labels and asks whether that person was trained "
    "on. The attacker knows the federation's settings, its initial weights and its hospitals, and trains the same "
    "federation again on random halves of its patients (shadows). Attacked are the final detector, the codebook "
    "with the networks that travel beside it, twins, and, as the server sees them, each hospital's updates round by"
    " round. Attacks on the run itself take patients of the training folds as members and those of the other folds "
    "as non-members; folds differ in more than membership, which a control measures. Attacks on replicas (the run "
    "trained again, memberships drawn by fair coins) do not have that flaw, and they alone see updates. Whoever "
    "knows more may find more: what is found is the least that leaks, and a leak that is not found is not ruled "
    "out."
)


def audit_run(
    run: RunFolder, config: Config, database: Database, workers: int | None = None, console: Console | None = None
) -> Metrics:
    """Attack a run on all its surfaces.

    Writes ``RUN/audit/audit.json`` and ``RUN/audit/scores.csv`` (a line a patient: it belongs where the ECGs are), and
    keeps the shadows' answers in ``RUN/audit/shadows``: an audit that was broken off goes on with the next shadow. With
    fewer than 30 members or non-members no attack could show anything: then no shadow is trained, and the answer has
    sizes and a verdict only.

    Args:
        run: a finished run.
        config: its configuration.
        database: all records of the run, of all sites.
        workers, console: see ``train_shadows``.

    Returns:
        Flat metrics ``audit.*``.

    Raises:
        RunError: the run has no final model, or its detector answers with values that are not finite.
    """
    started = time.monotonic()
    cohort = Cohort.of_run(database, config)
    sizes = _sizes(cohort, config)
    if not worth_trying(int(cohort.member.sum()), int((~cohort.member).sum())):
        metrics = sizes | {"audit.shadows": 0, "audit.verdict": NO_POWER}
        (run.audit / "scores.csv").unlink(missing_ok=True)  # of an earlier audit
        _write(run, config, database, metrics, {"shadows_trained": 0}, started)
        return metrics
    frame = BeatFrame.of_cohort(database, config, cohort) if publishes_networks(config) else None
    model = PublishedModel.of_run(run, frame)
    target = model_answers(model, cohort)
    if not np.isfinite(target["logits"]).all():
        raise RunError(f"the detector in {run.model} answers with values that are not finite: its training has failed")
    if model.networks is not None:
        target |= own_nearest_code(model.networks)
    recipe = FederatedRecipe.of_run(config, pick_device(config.run.device).type, frame)
    shadows = train_shadows(cohort, recipe, run.audit, workers, console)
    evidence = gather(target, shadows, cohort)
    metrics = sizes | {"audit.shadows": config.audit.shadows, "audit.shadows_whole": int(recipe.whole)}
    for finding in evidence.findings:
        metrics |= finding.metrics()
    if evidence.control is not None:
        metrics |= {f"audit.control.{end}": value for end, value in _auc(evidence.control).items()}
    if model.networks is not None:
        metrics |= twin_links(model.networks, cohort)
    claim = weigh(run, config, database, evidence)
    metrics |= claim.metrics()
    _write_scores(run, cohort, evidence.own)
    curves = [finding.record() for finding in evidence.findings]
    found = {"findings": curves, "reasons": list(claim.reasons), "shadows_trained": shadows.trained}
    _write(run, config, database, metrics, found, started)
    return metrics


def _sizes(cohort: Cohort, config: Config) -> Metrics:
    members = int(cohort.member.sum())
    sizes: Metrics = {"audit.members": members, "audit.non_members": len(cohort) - members}
    if config.privacy.epsilon > 0:
        sizes["audit.claimed_epsilon"] = config.privacy.epsilon
    return sizes


def _auc(finding: Finding) -> dict[str, float]:
    return {"auc": finding.auc.value, "auc.low": finding.auc.low, "auc.high": finding.auc.high}


def _write(
    run: RunFolder, config: Config, database: Database, metrics: Metrics, found: dict[str, Any], started: float
) -> None:
    """Write ``audit.json``: everything behind the metrics but the patients."""
    content = {
        "metrics": metrics,
        **found,
        "threat_model": THREAT_MODEL,
        "shadows_whole": config.audit.whole,
        "seed": config.run.seed,
        "data": {"fingerprint": database.fingerprint, "records": len(database)},
        "seconds": round(time.monotonic() - started, 2),
    }
    write_atomic(run.audit / "audit.json", json.dumps(content, indent=1) + "\n")


def _write_scores(run: RunFolder, cohort: Cohort, scores: list[Scores]) -> None:
    about = {"patient_id": cohort.patients, "member": cohort.member.astype(int), "records": cohort.records()}
    frame = pd.DataFrame(about | {f"{one.surface}.{one.attack}": one.values for one in scores})
    write_atomic(run.audit / "scores.csv", frame.to_csv(index=False, float_format="%.6f"))
