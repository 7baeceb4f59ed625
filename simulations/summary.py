"""``metrics.json`` of a run: one flat file with every number that the report shows.

In a simulation all hospitals' folders lie in the run, so this can read what each kept for itself. A server of real
hospitals has none of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd

from lavq_core.config import load_config
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import RunError
from lavq_core.metrics.auc import Interval, auc_intervals
from lavq_core.privacy.statement import privacy_statement
from lavq_core.report.gallery import gallery_metrics
from lavq_core.runs.events import read_events, standing_events
from lavq_core.runs.layout import RunFolder, SiteFolder, write_atomic
from lavq_core.runs.status import run_status
from lavq_core.settings import Config
from simulations.wire import byte_counts, wire_metrics

Metrics = dict[str, float | int | str]

_PACKAGES = ("torch", "flwr", "numpy", "scipy", "pandas", "opacus", "safetensors", "wfdb")


def summarise(run: RunFolder) -> Metrics:
    """Collect a finished run's figures; the audit and the twins' judge add theirs to the same file.

    Raises:
        RunError: the run did not finish.
    """
    events = standing_events(read_events(run.events))
    if not any(event["event"] == "run-finished" for event in events):
        raise RunError(f"the run in {run.root} did not finish (its events.jsonl says why): lavq run --resume goes on")
    config = load_config(run.config)
    metrics = _run_facts(run, config, events)
    for site in run.sites():
        metrics |= _site_facts(site)
    metrics |= byte_counts(events) | wire_metrics(run) | gallery_metrics(run)
    metrics |= _scores(run, config)
    metrics["privacy.statement"] = privacy_statement(config)
    metrics |= _privacy(run, config, events)
    return metrics


def _privacy(run: RunFolder, config: Config, events: list[dict]) -> Metrics:
    """What every site's patients have paid, round by round and in all, as the sites' ledgers say.

    Nothing where nothing is private, so that no epsilon is shown then.
    """
    if config.privacy.epsilon == 0:
        return {}
    spent = {name: site.epsilon for name, site in run_status(run).sites.items() if site.epsilon}
    after = {
        f"privacy.ledger.site.{event['site']}.round.{event['round']}": event["epsilon"]
        for event in events
        if event["event"] == "site-replied" and event["round"] and event.get("epsilon")
    }
    paid = {f"privacy.epsilon.site.{name}": epsilon for name, epsilon in spent.items()}
    return {"privacy.delta": config.privacy.delta, **paid, **after}


def write_metrics(run: RunFolder, metrics: Mapping[str, float | int | str]) -> None:
    """Write ``metrics.json``, keys in order; a figure that does not exist (NaN) is left out."""
    known = {
        key: value for key, value in metrics.items() if not (isinstance(value, float) and not math.isfinite(value))
    }
    write_atomic(run.metrics, json.dumps(known, indent=1, sort_keys=True) + "\n")


def update_metrics(run: RunFolder, prefix: str, metrics: Mapping[str, float | int | str]) -> None:
    """Put new figures in the place of those of ``metrics.json`` whose keys begin with a prefix."""
    known = json.loads(run.metrics.read_text(encoding="utf-8"))
    write_metrics(run, {**{key: value for key, value in known.items() if not key.startswith(prefix)}, **metrics})


def interval_metrics(key: str, interval: Interval) -> Metrics:
    """Flat keys of one figure: the value, ``.low`` and ``.high`` of its 95 % interval, ``.n`` records."""
    return {key: interval.value, f"{key}.low": interval.low, f"{key}.high": interval.high, f"{key}.n": interval.n}


def commit_of_checkout() -> str:
    """Return the checkout's commit, with ``+`` when files differ from it; empty outside a checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _run_facts(run: RunFolder, config: Config, events: list[dict]) -> Metrics:
    finished = next(event for event in events if event["event"] == "run-finished")
    try:
        release = version("lavq")
    except PackageNotFoundError:
        release = ""
    return {
        "run.id": run.root.name,
        "run.created": datetime.fromisoformat(events[0]["time"]).astimezone(UTC).isoformat(timespec="seconds"),
        "run.command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "run.seconds": float(finished["seconds"]),
        "run.rounds": config.federation.rounds,
        "run.sites": config.federation.sites,
        "run.seed": config.run.seed,
        "run.version": release,
        "run.commit": commit_of_checkout(),
        "run.config_sha256": hashlib.sha256(run.config.read_bytes()).hexdigest(),
        **_versions(),
        "data.name": Path(config.data.dir).name,
        "partition.scheme": config.partition.scheme,
    }


def _versions() -> Metrics:
    """What this report was made with; a run that was trained elsewhere has its own."""
    found: Metrics = {"version.python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[f"version.{name}"] = version(name)
    return found


def _site_facts(site: SiteFolder) -> Metrics:
    """Data counts, convergence and what the separator learned at one site."""
    name, metrics = site.root.name, Metrics()
    if site.data_report.is_file():
        report = json.loads(site.data_report.read_text(encoding="utf-8"))
        for key in ("records", "patients"):
            metrics[f"data.site.{name}.{key}"] = report[key]
        metrics[f"data.site.{name}.rejected"] = report["rejected_count"]
        metrics["data.fingerprint"] = report["fingerprint"]
    for event in standing_events(read_events(site.events)):
        at = f"convergence.site.{name}.round.{event.get('round')}"
        if event["event"] == "round-evaluated" and event["macro_auc"] is not None:
            metrics[f"{at}.macro_auc"] = event["macro_auc"]
        if event["event"] == "round-trained":
            for key in ("detector_loss", "separator_loss", "reconstruction"):
                if key in event:
                    metrics[f"{at}.{key}"] = event[key]
            for key in ("gate_abnormal", "gate_norm", "perplexity"):
                if key in event:
                    metrics[f"separator.site.{name}.{key}"] = event[key]  # the last round's stays
            metrics[f"twins.site.{name}.count"] = int(event["twins"])
    return metrics


def _scores(run: RunFolder, config: Config) -> Metrics:
    """AUC of the final detector on the test fold: pooled, per class, per site, worst site."""
    table = stored_predictions(run)
    if table.empty:
        return {}
    metrics: Metrics = {}
    for name, rows in table.groupby("site"):
        metrics[f"data.site.{name}.test"] = int((rows["fold"] == config.data.test_fold).sum())
        held_out = rows["fold"].isin([config.data.test_fold, config.data.validation_fold]).sum()
        metrics[f"data.site.{name}.held_out"] = int(held_out)
    test = table[table["fold"] == config.data.test_fold]
    pooled, classes = score_intervals(test)
    metrics |= interval_metrics("macro_auc.pooled", pooled)
    for name, found in zip(SUPERCLASSES, classes, strict=True):
        if found is not None:
            metrics |= interval_metrics(f"auc.{name}.pooled", found)
    by_site = {str(name): score_intervals(rows)[0] for name, rows in test.groupby("site")}
    for name, found in by_site.items():
        metrics |= interval_metrics(f"macro_auc.site.{name}", found)
    known = [found.value for found in by_site.values() if not math.isnan(found.value)]
    if known:
        metrics["macro_auc.worst_site"] = min(known)
    return metrics


def stored_predictions(run: RunFolder) -> pd.DataFrame:
    """Read every hospital's predictions on its validation and test folds; empty where none lie here."""
    files = [site.predictions for site in run.sites() if site.predictions.is_file()]
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True) if files else pd.DataFrame()


def score_intervals(table: pd.DataFrame) -> tuple[Interval, list[Interval | None]]:
    """Macro and per-class AUC of a predictions table, patients drawn in the bootstrap."""
    labels = table[[f"true_{name}" for name in SUPERCLASSES]].to_numpy(dtype=float)
    scores = table[list(SUPERCLASSES)].to_numpy(dtype=float)
    return auc_intervals(labels, scores, np.asarray(table["patient_id"]))
