"""The realism probe: can a fresh network be trained to tell twins from real records of the same diseases?

A classifier two-sample test (Lopez-Paz and Oquab, *Revisiting Classifier Two-Sample Tests*, 2017). The network is the
detector's architecture with one output. Patients are dealt into two halves; each half is scored by a network trained
on the other, so that nobody is scored by a network that saw any ECG of theirs, real or twin.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lavq_core.metrics.auc import weighted_auc
from lavq_core.models.resnet import ResNet
from lavq_core.settings import DetectorConfig, DetectorTrainingConfig
from lavq_core.training.detector_training import LabelledEcgs, predict, train_detector

EPOCHS = 12


def probe_settings() -> tuple[DetectorConfig, DetectorTrainingConfig]:
    """Architecture and training; nothing is augmented, since noise or gain might hide what gives a twin away."""
    training = DetectorTrainingConfig(batch=32, crop=4.0, lr=3e-3, weight_decay=0.02)
    untouched = replace(training, noise=0.0, amplitude=0.0, shift=0.0, wander=0.0, lead_dropout=0.0)
    return DetectorConfig(width=24, blocks=4, dropout=0.2), untouched


@dataclass(frozen=True)
class Probed:
    """Out-of-half scores: how much each ECG looks like a twin."""

    twins: np.ndarray  # (n,) float64 logits
    reals: np.ndarray  # (m,) float64 logits
    twins_half: np.ndarray  # (n,) 0 or 1, half of the patients
    reals_half: np.ndarray  # (m,) 0 or 1

    def auc(
        self,
        twins: np.ndarray | None = None,
        reals: np.ndarray | None = None,
        weights: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Chance that a twin scores above a real record of the same half, ties counting half.

        Scores of the two halves come from two networks and are not compared.

        Args:
            twins, reals: bool masks ``(n,)``, ``(m,)``; all when left out.
            weights: of twins ``(b, n)`` and reals ``(b, m)``, for example bootstrap draws; 1 when left out.

        Returns:
            ``(b,)``; NaN where no half has weight of both.
        """
        keep = np.r_[
            np.ones(len(self.twins), bool) if twins is None else twins,
            np.ones(len(self.reals), bool) if reals is None else reals,
        ]
        weight = np.ones((1, len(keep))) if weights is None else np.concatenate(weights, axis=1).astype(float)
        labels = np.r_[np.ones(len(self.twins)), np.zeros(len(self.reals))]
        scores, half = np.r_[self.twins, self.reals], np.r_[self.twins_half, self.reals_half]
        wins, pairs = np.zeros(len(weight)), np.zeros(len(weight))
        for each in (0, 1):
            rows = keep & (half == each)
            w, y = weight[:, rows], labels[rows]
            count = (w * y).sum(axis=1) * (w * (1 - y)).sum(axis=1)
            wins += np.nan_to_num(weighted_auc(y, scores[rows], w)) * count
            pairs += count
        return np.divide(wins, pairs, out=np.full(len(weight), np.nan), where=pairs > 0)


def patient_half(patients: np.ndarray, seed: int) -> np.ndarray:
    """Deal patients into two halves by a hash of their number: (n,) int64 of 0 and 1.

    The hash is a cryptographic one: a checksum's bits for two seeds differ by a constant, and its halves hardly at all.
    """
    unique, owner = np.unique(patients, return_inverse=True)
    names = [f"{seed}/judges/half/{int(number)}".encode() for number in unique]
    return np.array([hashlib.sha256(name).digest()[0] & 1 for name in names], dtype=np.int64)[owner]


def probe(
    twins: Tensor,
    reals: Tensor,
    twin_patients: np.ndarray,
    real_patients: np.ndarray,
    rate: int,
    seed: int,
    epochs: int = EPOCHS,
) -> Probed:
    """Train on each half of the patients and score the other.

    Args:
        twins: ``(n, 8, T)`` mV.
        reals: ``(m, 8, T)`` mV, of the classes and hospitals of the twins' requests.
        twin_patients: ``(n,)`` whose twins they are.
        real_patients: ``(m,)`` identifiers from the same set; a patient may bring both.
        rate: Hz.
        seed: of halves, weights and training.
        epochs: passes over a half.

    Raises:
        ValueError: a half lacks twins or real records.
    """
    x = torch.cat([twins, reals])
    y = torch.cat([torch.ones(len(twins), 1), torch.zeros(len(reals), 1)])
    half = patient_half(np.r_[twin_patients, real_patients], seed)
    scores = np.zeros(len(x))
    for each in (0, 1):
        learn, score = np.flatnonzero(half != each), np.flatnonzero(half == each)
        if len(np.unique(y[learn])) < 2:
            raise ValueError("each half of the patients needs twins and real records: give more patients")
        model = _train(LabelledEcgs(x[learn], y[learn], torch.ones(len(learn))), rate, f"{seed}/{each}", epochs)
        scores[score] = torch.logit(predict(model, x[score]).double(), eps=1e-12)[:, 0].numpy()
    n = len(twins)
    return Probed(scores[:n], scores[n:], half[:n], half[n:])


def _train(data: LabelledEcgs, rate: int, name: str, epochs: int) -> ResNet:
    architecture, training = probe_settings()
    seed = zlib.crc32(f"{name}/judges/probe".encode())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResNet(architecture, rate)
        model.head = nn.Linear(model.head.in_features, 1)
    train_detector(model, data, training, rate, epochs, torch.Generator().manual_seed(seed))
    return model
