"""A judge for a run's twins that never trained them: trees on median-beat shapes (``simulations.judges.trees``).

The judge is fitted here, after training has ended, on real records only. Twins are made from held-out patients. The
control is the same question asked of twins that were requested with *other* diseases: where it scores alike, twins look
abnormal in general and not like the disease.
"""

from __future__ import annotations

import numpy as np
import torch

from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import RunError
from lavq_core.metrics.auc import weighted_auc
from lavq_core.models.codebook import CodebookState
from lavq_core.models.networks import Networks
from lavq_core.models.prior import available_diseases, draw_statements
from lavq_core.models.stored import load_networks, load_shared_model
from lavq_core.models.twins import Patients, request_twins
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from lavq_core.text.statements import named
from lavq_core.training.site_data import SiteData
from simulations.judges.trees import TreesJudge
from simulations.summary import Metrics

_BOOTSTRAPS = 1000
_FEWEST = 10  # healthy held-out patients below which no figure is given


def judge_twins(run: RunFolder, config: Config, database: Database) -> Metrics:
    """Score twins of held-out healthy patients, made by every site's networks in turn, against their originals.

    Returns:
        Per disease: ``twins.judge_auc.NAME`` (twins of the disease above their originals), its 95 % interval over
        patients, ``twins.judge_auc_shuffled.NAME`` (the same for twins of the other diseases), and
        ``twins.judge_auc_real.NAME`` (real held-out records of the disease above the originals). Empty when no site has
        trained an editor or there are fewer than ten healthy held-out patients.
    """
    shared, everybody = load_shared_model(run), np.arange(len(database))
    diseases = available_diseases(shared.codebook["requests"])
    data = SiteData("everybody", database, everybody, config)
    held_out = data.with_beats(database.in_folds(config.data.validation_fold, config.data.test_fold))
    healthy = database.healthy_references(held_out)
    try:
        networks = [load_networks(run, site.root.name)[0] for site in run.sites()]
    except RunError:
        return {}
    if len(healthy) < _FEWEST or len(diseases) == 0:
        return {}
    train = data.with_beats(data.train_positions)
    judge = TreesJudge.fit(database.beats.take(train).median, database.labels[train], database.sampling_rate, seed=0)
    patients = data.patients(healthy)
    originals, twins = judge.scores(patients.input.x.numpy()), {}
    for disease in diseases.tolist():
        scores = np.zeros_like(originals)
        for number, theirs in enumerate(networks):
            rows = torch.arange(number, len(patients), len(networks))
            median = _medians(theirs, shared.codebook, patients.take(rows), disease, config)
            scores[rows.numpy()] = judge.scores(median)
        twins[disease] = scores
    return _compare(twins, originals, judge.scores(database.beats.take(held_out).median), database.labels[held_out])


def _medians(
    networks: Networks, codebook: CodebookState, patients: Patients, disease: int, config: Config
) -> np.ndarray:
    """Median beats ``(m, 8, W)`` of one twin of each patient."""
    generator = torch.Generator().manual_seed(config.run.seed)
    classes = torch.full((len(patients),), disease)
    wanted = named(draw_statements(codebook["requests"], classes, generator))
    made = request_twins(networks, codebook["codes"], patients, wanted, config, config.twins.strength, generator)
    return made.median.numpy()


def _compare(
    twins: dict[int, np.ndarray], originals: np.ndarray, real_scores: np.ndarray, real_labels: np.ndarray
) -> Metrics:
    metrics: Metrics = {}
    for disease, scores in twins.items():
        name = SUPERCLASSES[disease]
        value, low, high = _above(scores[:, disease], originals[:, disease])
        others = [twins[other][:, disease] for other in twins if other != disease]
        metrics |= {
            f"twins.judge_auc.{name}": value,
            f"twins.judge_auc.{name}.low": low,
            f"twins.judge_auc.{name}.high": high,
            f"twins.judge_auc.{name}.n": len(originals),
        }
        if others:
            metrics[f"twins.judge_auc_shuffled.{name}"] = _auc(np.concatenate(others), originals[:, disease])
        real = real_scores[real_labels[:, disease] == 1, disease]
        if len(real):
            metrics[f"twins.judge_auc_real.{name}"] = _auc(real, originals[:, disease])
    return metrics


def _auc(high: np.ndarray, low: np.ndarray) -> float:
    labels = np.r_[np.ones(len(high)), np.zeros(len(low))]
    return float(weighted_auc(labels, np.r_[high, low], np.ones((1, len(labels))))[0])


def _above(twins: np.ndarray, originals: np.ndarray) -> tuple[float, float, float]:
    """AUC of twins over originals, with a bootstrap over patients: a patient brings the twin and its original."""
    n = len(twins)
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_BOOTSTRAPS)  # (b, n)
    labels = np.r_[np.ones(n), np.zeros(n)]
    found = weighted_auc(labels, np.r_[twins, originals], np.concatenate([draws, draws], axis=1))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return _auc(twins, originals), float(low), float(high)
