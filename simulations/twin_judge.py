"""A judge for twins that never trained them: trees on median-beat shapes.

Extremely randomised trees (Geurts et al. 2006) have no gradient that an editor could follow, see another representation
than the detector (one averaged beat per lead), and are fitted here, after training has ended, on real records only.
Twins are made from held-out patients. The control is the same question asked of twins that were requested with *other*
diseases: where it scores alike, twins look abnormal in general and not like the disease.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.ensemble import ExtraTreesClassifier

from lavq_core.config import Config
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import RunError
from lavq_core.metrics.auc import weighted_auc
from lavq_core.models.stored import load_editor, load_shared_model
from lavq_core.models.twins import available_diseases, make_twins
from lavq_core.runs.layout import RunFolder
from lavq_core.signals.rpeaks import find_r_peaks_batch
from lavq_core.training.site_data import token_phases
from simulations.summary import Metrics

_BEFORE, _AFTER = 0.28, 0.42  # s around the R peak
_TREES = 300
_BOOTSTRAPS = 1000
_FEWEST = 10  # healthy held-out patients below which no figure is given


def median_beats(signals: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Describe ECGs by their median beat, baseline removed.

    Args:
        signals: ``(n, 8, T)`` mV.
        sampling_rate: Hz.

    Returns:
        ``(n, 8 * 70)`` mV at 100 points a second; a record without two whole beats is all 0.
    """
    before, after = round(_BEFORE * sampling_rate), round(_AFTER * sampling_rate)
    step = sampling_rate // 100
    rows = []
    for signal, peaks in zip(signals, find_r_peaks_batch(signals, sampling_rate), strict=True):
        inside = [p for p in peaks if before <= p <= signal.shape[-1] - after]
        if len(inside) < 2:
            rows.append(np.zeros((signal.shape[0], (before + after) // step)))
            continue
        beat = np.median([signal[:, p - before : p + after] for p in inside], axis=0)  # (8, before + after)
        rows.append((beat - beat[:, : before // 3].mean(axis=1, keepdims=True))[:, ::step])
    return np.stack(rows).reshape(len(signals), -1)


def fit_judge(database: Database, config: Config, seed: int = 0) -> ExtraTreesClassifier:
    """Fit the judge on the real training records of all sites."""
    folds = database.table["strat_fold"].to_numpy()
    train = np.flatnonzero(~np.isin(folds, [config.data.validation_fold, config.data.test_fold]))
    features = median_beats(database.signals(train).numpy(), database.sampling_rate)
    trees = ExtraTreesClassifier(_TREES, min_samples_leaf=3, random_state=seed, n_jobs=-1)
    return trees.fit(features, database.labels[train].astype(int))


def judge_twins(run: RunFolder, config: Config, database: Database) -> Metrics:
    """Score twins of held-out healthy patients, made by every site's editor in turn, against their originals.

    Returns:
        Per disease: ``twins.judge_auc.NAME`` (twins of the disease above their originals), its 95 % interval over
        patients, ``twins.judge_auc_shuffled.NAME`` (the same for twins of the other diseases), and
        ``twins.judge_auc_real.NAME`` (real held-out records of the disease above the originals). Empty when no site has
        trained an editor or there are fewer than ten healthy held-out patients.
    """
    shared = load_shared_model(run)
    diseases = available_diseases(shared.codebook["prior"])
    held_out = database.in_folds(config.data.validation_fold, config.data.test_fold)
    healthy = database.healthy_references(held_out)
    try:
        editors = [load_editor(run, site.root.name)[0] for site in run.sites()]
    except RunError:
        return {}
    if len(healthy) < _FEWEST or len(diseases) == 0:
        return {}
    judge = fit_judge(database, config)
    references = database.signals(healthy)
    phases = token_phases(references, config.separator.stride, config.data.sampling_rate)

    def score(signals: torch.Tensor) -> np.ndarray:
        probabilities = judge.predict_proba(median_beats(signals.numpy(), config.data.sampling_rate))
        return np.stack([p[:, -1] for p in probabilities], axis=1)  # (n, 5)

    originals, twins = score(references), {}
    for disease in diseases.tolist():
        parts = []
        for number, editor in enumerate(editors):
            rows = slice(number, None, len(editors))
            classes = torch.full((len(references[rows]),), disease)
            generator = torch.Generator().manual_seed(config.run.seed)
            strength = config.twins.strength
            made = make_twins(editor, shared.codebook, references[rows], phases[rows], classes, strength, generator)
            parts.append((np.arange(len(references))[rows], score(made.signal)))
        order = np.concatenate([where for where, _ in parts])
        twins[disease] = np.concatenate([scores for _, scores in parts])[np.argsort(order)]
    metrics: Metrics = {}
    real_scores, real_labels = score(database.signals(held_out)), database.labels[held_out]
    for disease in diseases.tolist():
        name = SUPERCLASSES[disease]
        value, low, high = _above(twins[disease][:, disease], originals[:, disease])
        others = [twins[other][:, disease] for other in twins if other != disease]
        metrics |= {
            f"twins.judge_auc.{name}": value,
            f"twins.judge_auc.{name}.low": low,
            f"twins.judge_auc.{name}.high": high,
            f"twins.judge_auc.{name}.n": len(healthy),
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
