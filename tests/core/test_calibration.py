"""Temperatures and thresholds: what they do, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import RunError
from lavq_core.metrics.auc import class_aucs
from lavq_core.models.calibration import Calibration, at_temperature, detector_digest
from lavq_core.models.detector import build_detector
from lavq_core.settings import DetectorConfig

TRUE = np.array([1.0, 2.0, 0.5, 3.0, 1.5])


def overconfident(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from calibrated probabilities, and the probabilities that a detector off by ``TRUE`` would give."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-0.5, 1.5, size=(n, 5))
    labels = (rng.random((n, 5)) < 1 / (1 + np.exp(-logits))).astype(float)
    return labels, 1 / (1 + np.exp(-logits * TRUE))


def fitted(labels: np.ndarray, p: np.ndarray, sensitivity: float = 0.9) -> Calibration:
    return Calibration.fit(labels, p, sensitivity, 9, "site-0", "abc")


def test_it_finds_the_temperature_that_labels_were_made_with() -> None:
    assert np.array(fitted(*overconfident()).temperatures) == pytest.approx(TRUE, rel=0.12)


def test_the_temperature_is_the_slope_of_a_logistic_regression() -> None:
    labels, p = overconfident(500)
    temperatures = fitted(labels, p).temperatures
    for c in range(5):
        logit = np.log(p[:, c]) - np.log1p(-p[:, c])
        model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8).fit(logit[:, None], labels[:, c])
        assert temperatures[c] == pytest.approx(1 / model.coef_[0, 0], rel=1e-3)


def test_temperature_changes_no_order() -> None:
    labels, p = overconfident(400)
    np.testing.assert_allclose(class_aucs(labels, fitted(labels, p).apply(p)), class_aucs(labels, p))


@pytest.mark.parametrize("wanted", [0.8, 0.9])
def test_the_threshold_reaches_its_sensitivity_where_it_was_chosen_and_nearly_so_elsewhere(wanted: float) -> None:
    labels, p = overconfident(seed=1)
    calibration = fitted(labels, p, wanted)
    for other, tolerance in ((1, 0.0), (2, 0.03)):
        fresh, q = overconfident(seed=other)
        flagged = calibration.apply(q) >= np.array(calibration.thresholds, dtype=float)
        sensitivity = (flagged * fresh).sum(axis=0) / fresh.sum(axis=0)
        assert (sensitivity >= wanted - tolerance).all()
        assert (sensitivity <= wanted + 0.03).all()


def test_a_class_with_too_few_records_is_left_as_it_is() -> None:
    labels, p = overconfident(200)
    labels[:, 4] = 0.0
    labels[:9, 4] = 1.0
    calibration = fitted(labels, p)
    assert (calibration.temperatures[4], calibration.thresholds[4], calibration.youden[4]) == (None, None, None)
    assert None not in calibration.temperatures[:4]
    assert np.array_equal(calibration.apply(p)[:, 4], p[:, 4])


def test_certain_predictions_do_not_break_it() -> None:
    labels, p = overconfident(200)
    calibration = fitted(labels, labels.copy())
    assert np.isfinite(calibration.apply(p)).all()
    assert np.isfinite(at_temperature(np.array([0.0, 1.0]), 2.0)).all()


def test_it_survives_the_disk_with_classes_by_name(tmp_path: Path) -> None:
    labels, p = overconfident(200)
    labels[:, 2] = 0.0
    calibration = fitted(labels, p)
    calibration.save(tmp_path / "deep" / "calibration.json")
    assert Calibration.load(tmp_path / "deep" / "calibration.json") == calibration
    content = json.loads((tmp_path / "deep" / "calibration.json").read_text())
    assert list(content["temperatures"]) == list(SUPERCLASSES)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"temperatures": {"NORM": 1}}', "nonsense"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(content)
    with pytest.raises(RunError, match="no calibration of this version") as caught:
        Calibration.load(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match="no calibration at"):
        Calibration.load(tmp_path / "absent.json")


def test_a_digest_tells_detectors_apart() -> None:
    first, again, other = (
        detector_digest(build_detector(DetectorConfig(width=8, blocks=1), 100, seed).state_dict()) for seed in (0, 0, 1)
    )
    assert first == again != other
