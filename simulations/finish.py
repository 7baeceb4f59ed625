"""After a simulated run: figures, judge, audit, report."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from lavq_core.config import load_config
from lavq_core.data.database import Database
from lavq_core.report import build_report
from lavq_core.runs.layout import RunFolder
from simulations.audit.run import audit_run
from simulations.calibrate import calibrate
from simulations.run_evaluation import evaluate_run
from simulations.summary import summarise, write_metrics
from simulations.twin_judge import judge_twins


def finish_run(run: RunFolder) -> Path:
    """Write ``metrics.json`` and ``report.html`` of a run that has ended; returns the report's path.

    Raises:
        LavqError: the run did not finish, or its data is gone.
    """
    console = Console(stderr=True)
    config = load_config(run.config)
    metrics = summarise(run)
    calibrate(run, config)
    database = Database.configured(config.data)
    metrics["data.records"], metrics["data.patients"] = len(database), int(database.table["patient_id"].nunique())
    metrics["data.rejected"] = int((database.quality["verdict"] == "reject").sum())
    console.print("for whom the detector works, and what its numbers mean")
    metrics |= evaluate_run(run, config, database)
    console.print("judging the twins with a model that never trained them")
    metrics |= judge_twins(run, config, database)
    if config.audit.enabled:
        console.print("auditing the run: who was in the training data?")
        metrics |= audit_run(run, config, database)
    write_metrics(run, metrics)
    console.print("writing the report")
    return build_report(run)
