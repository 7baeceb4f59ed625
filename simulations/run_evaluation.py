"""What a finished run's predictions and data tell beyond its headline: for whom the detector works, what its numbers
mean, and what each hospital lends to the others.

Only a simulation can put this together, since it holds every hospital's records. Keys of ``metrics.json``:

=========================================  =============================================================================
``calibration.CLASS.temperature``,         of ``calibration.json``, from the validation fold
``.threshold``
``ece_raw.CLASS``, ``ece.CLASS``, ...      ``lavq_core.metrics.population`` on the test fold, at those thresholds
``ece_raw.pooled``, ``.site.SITE``          calibration error over all classes as given, with the run's calibration,
``ece.pooled``, ``.site.SITE``,            and with the hospital's own
``ece_own.site.SITE``
``reliability.pooled.bin.K``,              diagrams with the run's calibration: mean probability said, and what happened
``.site.SITE.bin.K``
``macro_auc.sex.N``, ``age.BAND``, ...     subgroups of at least 50 test records
``auc.CLASS.site.SITE``                    on the hospital's own test records
``transfer.site.SITE.CLASS.records``       the hospital trained on so many records of the superclass ...
``transfer.site.SITE.CLASS.statements``    ... with so many different SCP statements of it
``transfer.federation.CLASS.statements``   of which every hospital can make twins, since some hospital has had a record
``data.site.SITE.train``, ``.flagged``     records trained on; records used although something was odd
``data.reason.KIND``                       how often a record was rejected or flagged for a reason
=========================================  =============================================================================
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES, statement_classes, statement_matrix
from lavq_core.metrics.population import Scored, evaluate
from lavq_core.metrics.reliability import reliability
from lavq_core.models.calibration import Calibration
from lavq_core.models.stored import load_shared_model
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from lavq_core.training.site_data import SiteData
from simulations.partitions import partition
from simulations.summary import Metrics, interval_metrics, score_intervals, stored_predictions

_POPULATION = ("ece_raw.", "ece.", "brier.", "sensitivity.", "specificity.", "auprc.", "macro_auprc",
               "macro_auc.sex.", "macro_auc.age.", "macro_auc.device.")  # fmt: skip
_DISEASES = tuple(enumerate(SUPERCLASSES))[1:]
_DETAIL = re.compile(r"\s*(?:\b(?:I|II|III|aV[RLF]|V[1-6])\b|[-+]?\d|:|\bby\b).*")  # from the first lead or number on


def evaluate_run(run: RunFolder, config: Config, database: Database) -> Metrics:
    """Measure everything of this module's table; what the run has no files for is left out.

    Args:
        run: finished and calibrated.
        config: the run's.
        database: that it was dealt out of.
    """
    predictions = stored_predictions(run)
    metrics = _data(run, config, database) | _transfer(run, config, database)
    if predictions.empty:
        return metrics
    test = predictions[predictions["fold"] == config.data.test_fold]
    return metrics | _calibrated(run) | _population(run, test, database) | _by_site(test) | _reliability(run, test)


def _calibrated(run: RunFolder) -> Metrics:
    if not run.calibration.is_file():
        return {}
    calibration = Calibration.load(run.calibration)
    metrics: Metrics = {
        "calibration.fold": calibration.fold,
        "calibration.records": calibration.n,
        "calibration.sensitivity": calibration.sensitivity,
    }
    for key, values in (("temperature", calibration.temperatures), ("threshold", calibration.thresholds)):
        found = zip(SUPERCLASSES, values, strict=True)
        metrics |= {f"calibration.{name}.{key}": value for name, value in found if value is not None}
    return metrics


def _population(run: RunFolder, test: pd.DataFrame, database: Database) -> Metrics:
    """Calibration, thresholds and subgroups on the test fold; PTB-XL's recording sites are not the run's hospitals."""
    if test.empty:
        return {}
    rows = database.table.iloc[database.positions_of(test["ecg_id"].tolist())]
    labels = test[[f"true_{name}" for name in SUPERCLASSES]].to_numpy(dtype=float)
    scored = Scored.of(labels, test[list(SUPERCLASSES)].to_numpy(dtype=float), rows)
    calibration = Calibration.load(run.calibration) if run.calibration.is_file() else None
    metrics: Metrics = {}
    for name, interval in evaluate(scored, calibration).items():
        if name.startswith(_POPULATION):
            metrics |= interval_metrics(name, interval)
    return metrics


def _reliability(run: RunFolder, test: pd.DataFrame) -> Metrics:
    """Calibration of the probabilities over all classes, everywhere and at each hospital."""
    if test.empty:
        return {}
    shared = Calibration.load(run.calibration) if run.calibration.is_file() else None
    metrics = _reliable("pooled", test, {"ece_raw": None} | ({"ece": shared} if shared else {}))
    for site, rows in test.groupby("site"):
        own = run.site(str(site)).calibration
        used = {"ece_raw": None} | ({"ece": shared} if shared else {})
        used |= {"ece_own": Calibration.load(own)} if own.is_file() else {}
        metrics |= _reliable(f"site.{site}", rows, used)
    return metrics


def _reliable(where: str, rows: pd.DataFrame, calibrations: Mapping[str, Calibration | None]) -> Metrics:
    """Errors by name of the calibration, and the bins of the run's, without one of the probabilities as given."""
    labels = rows[[f"true_{name}" for name in SUPERCLASSES]].to_numpy(dtype=float)
    given, patients = rows[list(SUPERCLASSES)].to_numpy(dtype=float), rows["patient_id"].to_numpy()
    metrics: Metrics = {}
    for name, calibration in calibrations.items():
        found = reliability(labels, given if calibration is None else calibration.apply(given), patients)
        if found is None:
            continue
        metrics |= interval_metrics(f"{name}.{where}", found.error)
        if name == ("ece" if "ece" in calibrations else "ece_raw"):
            for k, one in enumerate(found.bins):
                at = f"reliability.{where}.bin.{k:02d}"
                metrics |= {f"{at}.said": one.said} | interval_metrics(f"{at}.happened", one.happened)
    return metrics


def _by_site(test: pd.DataFrame) -> Metrics:
    metrics: Metrics = {}
    for site, rows in test.groupby("site"):
        for name, found in zip(SUPERCLASSES, score_intervals(rows)[1], strict=True):
            if found is not None:
                metrics |= interval_metrics(f"auc.{name}.site.{site}", found)
    return metrics


def _transfer(run: RunFolder, config: Config, database: Database) -> Metrics:
    """What each hospital trained on, by superclass, and of what the federation can make twins."""
    of_class = statement_classes() > 0  # (5, 44)
    has = statement_matrix(database.table["statements"]) > 0  # (n, 44)
    metrics: Metrics = {}
    for name, train in _training(run, config, database).items():
        metrics[f"data.site.{name}.train"] = len(train)
        for c, disease in _DISEASES:
            at = f"transfer.site.{name}.{disease}"
            metrics[f"{at}.records"] = int(database.labels[train, c].sum())
            metrics[f"{at}.statements"] = int((has[train].any(axis=0) & of_class[c]).sum())
    seen = load_shared_model(run).codebook["requests"].numpy() > 0  # (5, 44)
    for c, disease in _DISEASES:
        metrics[f"transfer.federation.{disease}.statements"] = int((seen[c] & of_class[c]).sum())
    return metrics


def _training(run: RunFolder, config: Config, database: Database) -> dict[str, np.ndarray]:
    """Positions that each hospital of the run trained on."""
    shares = partition(database.table, config.partition.scheme, config.federation.sites, config.partition.seed)
    there = {site.root.name for site in run.sites()}
    withheld = [item.split(":") for item in config.partition.withhold]
    return {
        name: SiteData(name, database, positions, config, tuple(c for s, c in withheld if s == name)).train_positions
        for name, positions in shares.items()
        if name in there
    }


def _data(run: RunFolder, config: Config, database: Database) -> Metrics:
    """How many records were flagged at each hospital, and why records were rejected or flagged anywhere."""
    shares = partition(database.table, config.partition.scheme, config.federation.sites, config.partition.seed)
    there, odd = {site.root.name for site in run.sites()}, database.quality[database.quality["verdict"] != "accept"]
    metrics: Metrics = {
        f"data.site.{name}.flagged": int((odd["owner"].isin(positions) & (odd["verdict"] == "flag")).sum())
        for name, positions in shares.items()
        if name in there
    }
    kinds = Counter(_DETAIL.sub("", reason) for reasons in odd["reasons"] for reason in str(reasons).split("; "))
    return metrics | {f"data.reason.{kind or 'other'}": count for kind, count in kinds.items()}
