"""A judge without a gradient: trees on the shape of the median beat.

Extremely randomised trees (Geurts, Ernst and Wehenkel 2006) are piecewise constant, so no editor can have followed
them, and they see one averaged beat a lead where a network sees the whole record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier

from lavq_core.signals.beats import BEFORE

_FROM, _TO = 0.28, 0.44  # s before and after the R peak: P to the end of T at 100 beats a minute
_LEVEL = 0.08  # s, start of the window taken for its baseline
_POINTS = 100  # a second, at any sampling rate
_TREES, _LEAF, _FEATURES = 300, 3, 60


def beat_shapes(median_beats: np.ndarray, rate: int) -> np.ndarray:
    """Describe median beats by their samples from P to the end of T.

    Args:
        median_beats: ``(n, 8, W)`` mV, R peak at sample ``round(.32 rate)``.
        rate: Hz, a multiple of 100; every ``rate / 100`` neighbouring samples are averaged.

    Returns:
        ``(n, 8 * 72)`` mV, baseline of each lead removed.
    """
    start, stop = round((BEFORE - _FROM) * rate), round((BEFORE + _TO) * rate)
    step = rate // _POINTS
    cut = median_beats[:, :, start:stop]  # (n, 8, 72 step)
    coarse = cut.reshape(*cut.shape[:2], -1, step).mean(axis=-1)  # (n, 8, 72)
    level = coarse[:, :, : round(_LEVEL * _POINTS)].mean(axis=-1, keepdims=True)
    return np.asarray((coarse - level).reshape(len(coarse), -1))


@dataclass(frozen=True)
class TreesJudge:
    """300 extremely randomised trees, all labels together."""

    forest: ExtraTreesClassifier
    rate: int  # Hz

    @classmethod
    def fit(cls, median_beats: np.ndarray, labels: np.ndarray, rate: int, seed: int) -> TreesJudge:
        """Fit to real records.

        Args:
            median_beats: ``(n, 8, W)`` mV.
            labels: ``(n, C)`` of 0 and 1: superclasses, or statements.
            rate: Hz.
            seed: of the forest.

        Raises:
            ValueError: a label that all records have, or none.
        """
        if not ((labels > 0.5).any(axis=0) & (labels < 0.5).any(axis=0)).all():
            raise ValueError("every label needs records with it and without it")
        forest = ExtraTreesClassifier(_TREES, min_samples_leaf=_LEAF, max_features=_FEATURES, random_state=seed)
        target = labels.astype(np.int64)
        return cls(forest.fit(beat_shapes(median_beats, rate), target[:, 0] if target.shape[1] == 1 else target), rate)

    def scores(self, median_beats: np.ndarray) -> np.ndarray:
        """Judge median beats ``(n, 8, W)``: shares of votes ``(n, C)`` float64, in the order of the labels."""
        found = self.forest.predict_proba(beat_shapes(median_beats, self.rate))
        each = found if isinstance(found, list) else [found]  # one label alone comes without a list
        return np.stack([votes[:, 1] for votes in each], axis=1)
