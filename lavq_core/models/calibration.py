"""What a detector's numbers mean: a temperature and thresholds per class, chosen on the validation fold.

A temperature divides a class's logit (Guo et al., ICML 2017, one scalar a class as befits labels that are not
exclusive); it keeps the order of scores, so no AUC changes. Thresholds are of calibrated probabilities. The one that is
used answers a cardiologist's question, "what must I look at so as to miss no more than one in ten?": the largest
threshold that reaches the stated sensitivity, .90 by default. Youden's, which weighs both errors alike, stands beside.

A calibration is made where the predictions are. A hospital makes its own from its own validation fold, and it stays on
its disk; a simulation, which holds every hospital, makes one from all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from torch import Tensor

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import RunError
from lavq_core.metrics.classification import sensitivity_threshold, youden_threshold
from lavq_core.runs.layout import write_atomic

FEWEST = 10  # positives, and negatives, below which a class is not calibrated
_TINY = 1e-6  # probabilities are kept this far from 0 and 1 before their logit is taken
_RANGE = (0.05, 20.0)  # of a temperature


@dataclass(frozen=True)
class Calibration:
    """Temperatures and thresholds in the order of ``SUPERCLASSES``; None where a class had too few records."""

    temperatures: tuple[float | None, ...]
    thresholds: tuple[float | None, ...]  # reach ``sensitivity``
    youden: tuple[float | None, ...]
    sensitivity: float
    fold: int
    n: int  # records
    source: str  # whose, in words
    detector: str  # ``detector_digest`` of the weights it belongs to; empty: of a predictions file

    @classmethod
    def fit(
        cls,
        labels: np.ndarray,
        probabilities: np.ndarray,
        sensitivity: float,
        fold: int,
        source: str,
        detector: str = "",
    ) -> Calibration:
        """Choose temperatures by least cross-entropy, and thresholds, on ``(n, 5)`` labels and raw probabilities."""
        found = [_fit_class(labels[:, c], probabilities[:, c], sensitivity) for c in range(len(SUPERCLASSES))]
        temperatures, thresholds, youden = zip(*found, strict=True)
        return cls(temperatures, thresholds, youden, sensitivity, fold, len(labels), source, detector)

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrate probabilities ``(n, 5)``; a class without temperature stays as it is."""
        columns = [
            p if temperature is None else at_temperature(p, temperature)
            for p, temperature in zip(np.asarray(probabilities, dtype=float).T, self.temperatures, strict=True)
        ]
        return np.stack(columns, axis=1)

    def save(self, path: Path) -> None:
        """Write as JSON, classes by name."""
        content = asdict(self)
        for key in ("temperatures", "thresholds", "youden"):
            content[key] = dict(zip(SUPERCLASSES, content[key], strict=True))
        write_atomic(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what ``save`` wrote.

        Raises:
            RunError: there is no such file, or it is damaged.
        """
        if not path.is_file():
            raise RunError(f"no calibration at {path}: give the calibration.json of a run or of a site")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            for key in ("temperatures", "thresholds", "youden"):
                content[key] = tuple(content[key][name] for name in SUPERCLASSES)
            return cls(**content)
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{path} is no calibration of this version: make it again with `lavq report RUN`") from None


def at_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the logits of probabilities by a temperature; any shape."""
    p = np.clip(probabilities, _TINY, 1.0 - _TINY)
    return 1.0 / (1.0 + np.exp(-(np.log(p) - np.log1p(-p)) / temperature))


def basis_of(calibration: Calibration | None) -> str:
    """Say what probabilities rest on, for whoever reads them."""
    if calibration is None:
        return "Probabilities as the detector gives them: it has no calibration (lavq report RUN makes that of a run)."
    return (
        f"Calibrated on fold {calibration.fold} of {calibration.source} ({calibration.n} records). "
        f"*: at or above the threshold that reached a sensitivity of {calibration.sensitivity:g} there."
    )


def detector_digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of a detector's weights, by name: a calibration of other weights means nothing."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _fit_class(y: np.ndarray, p: np.ndarray, sensitivity: float) -> tuple[float | None, float | None, float | None]:
    if min((y > 0.5).sum(), (y <= 0.5).sum()) < FEWEST:
        return None, None, None

    def cross_entropy(log_temperature: float) -> float:
        q = np.clip(at_temperature(p, float(np.exp(log_temperature))), 1e-12, 1.0 - 1e-12)
        return -float(np.mean(y * np.log(q) + (1.0 - y) * np.log1p(-q)))

    best = minimize_scalar(cross_entropy, bounds=tuple(np.log(_RANGE)), method="bounded", options={"xatol": 1e-5})
    temperature = float(np.exp(best.x))
    calibrated = at_temperature(p, temperature)
    return temperature, sensitivity_threshold(y, calibrated, sensitivity), youden_threshold(y, calibrated)
