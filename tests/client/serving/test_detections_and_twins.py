"""What the inference service answers, and which questions it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from client.serving import inference_pb2 as pb
from client.serving.service import MOST_ECGS, MOST_TWINS
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.data.records import read_record
from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.models.stored import load_shared_model
from lavq_core.runs.layout import RunFolder
from lavq_core.signals.leads import LEADS, to_independent
from lavq_core.training.detector_training import predict
from tests.client.serving.asking import INVALID, NAMES, RECORDS, detect, ecg, refused


def test_an_ecg_gets_the_calibrated_probabilities_of_the_detector(stub: Any, run: RunFolder) -> None:
    answer = detect(stub, *(ecg(name) for name in NAMES))
    model = load_shared_model(run)
    signals = np.stack([to_independent(read_record(RECORDS / name).signal) for name in NAMES])
    calibration = Calibration.load(run.calibration)
    expected = calibration.apply(predict(model.detector, torch.from_numpy(signals)).detach().numpy())
    got = np.array([[score.probability for score in one.scores] for one in answer.detections])
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert [one.id for one in answer.detections] == list(NAMES)
    for one in answer.detections:
        assert [score.name for score in one.scores] == list(SUPERCLASSES)
        assert [score.threshold for score in one.scores] == list(calibration.thresholds)
        assert all(score.reached == (score.probability >= score.threshold) for score in one.scores)
    assert answer.model.id == detector_digest(model.detector.state_dict())
    assert answer.model.round == 3
    assert answer.model.calibration == "fold 9 of st-mary, 60 records"


def test_leads_and_units_are_taken_as_they_are_named(stub: Any) -> None:
    whole = read_record(RECORDS / NAMES[0]).signal
    eight = [LEADS.index(lead) for lead in ("V6", "V5", "V4", "V3", "V2", "V1", "II", "I")]
    other = ecg(unit="uV", leads=[LEADS[i].lower() for i in eight], samples=(1000 * whole[eight]).ravel())
    first, second = detect(stub, ecg(), other).detections
    np.testing.assert_allclose(
        [score.probability for score in first.scores], [score.probability for score in second.scores], atol=1e-4
    )


SAMPLES = read_record(RECORDS / NAMES[0]).signal


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"samples": SAMPLES[:, :500].ravel()}, "5 s long, expected 10 s"),
        ({"sampling_rate": 500}, "sampled at 500 Hz, expected 100 Hz"),
        ({"sampling_rate": float("nan")}, "expected 100 Hz"),
        ({"unit": "volts"}, "in 'volts': give it in mV, uV, nV or V"),
        ({"unit": "V"}, "rejected"),
        ({"leads": LEADS[:11], "samples": SAMPLES[:11].ravel()}, "lacks lead V6"),
        ({"leads": ["I"] * 12}, "two leads named I"),
        ({"leads": []}, "do not divide into 0 leads"),
        ({"leads": ["x"] * 1000}, "do not divide into 1000 leads"),
        ({"samples": SAMPLES.ravel()[:-1]}, "do not divide into 12 leads"),
        ({"samples": []}, "expected 10 s"),
        ({"samples": np.zeros(12000)}, "flat lead"),
        ({"samples": np.full(12000, np.nan)}, "NaN in"),
        ({"samples": np.full(12000, 1e30)}, "rejected"),
    ],
)
def test_an_ecg_that_cannot_be_used_is_refused_in_words(stub: Any, changed: dict[str, Any], said: str) -> None:
    code, words = refused(lambda: detect(stub, ecg(**changed)))
    assert code == INVALID
    assert said in words
    assert NAMES[0] not in words


def test_a_bad_ecg_in_a_batch_does_not_spoil_the_others(stub: Any) -> None:
    first, bad, last = detect(stub, ecg(), ecg(sampling_rate=250), ecg(NAMES[1])).detections
    assert len(first.scores) == len(last.scores) == 5
    assert len(bad.scores) == 0
    assert bad.problem == "sampled at 250 Hz, expected 100 Hz"


@pytest.mark.parametrize("count", [0, MOST_ECGS + 1])
def test_a_request_of_no_or_too_many_ecgs_is_refused(stub: Any, count: int) -> None:
    code, words = refused(lambda: detect(stub, *([pb.Ecg()] * count)))
    assert code == INVALID
    assert f"1 to {MOST_ECGS} ECGs" in words


def test_twins_come_one_by_one_and_are_the_same_for_the_same_seed(stub: Any) -> None:
    asked = pb.MakeTwinsRequest(ecg=ecg(), disease="CLBBB+IMI", count=10, seed=5, age=71, sex=pb.FEMALE)
    first, second = (list(stub.MakeTwins(asked, timeout=60)) for _ in range(2))
    assert [twin.number for twin in first] == list(range(10))
    assert first == second
    for twin in first:
        assert twin.ecg.id == f"SYNTHETIC {NAMES[0]}"
        assert np.array(twin.ecg.samples).reshape(12, 1000).shape == (12, 1000)
        assert set(twin.statements) == {"CLBBB", "IMI"}
        assert len(twin.original) == len(twin.twin) == 5
    (undosed,) = stub.MakeTwins(pb.MakeTwinsRequest(ecg=ecg(), disease="CLBBB", count=1, strength=0.0))
    np.testing.assert_allclose(np.array(undosed.ecg.samples).reshape(12, 1000), SAMPLES, atol=2e-3)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"count": 0}, "count must be 1 to"),
        ({"count": MOST_TWINS + 1}, "count must be 1 to"),
        ({"strength": 1.5}, "strength must lie between 0 and 1"),
        ({"strength": float("nan")}, "strength must lie between 0 and 1"),
        ({"disease": "flu"}, "unknown disease 'flu'"),
        ({"disease": ""}, "disease"),
        ({"ecg": ecg(sampling_rate=50)}, "sampled at 50 Hz"),
    ],
)
def test_impossible_twins_are_refused_in_words(stub: Any, changed: dict[str, Any], said: str) -> None:
    asked = {"ecg": ecg(), "disease": "CLBBB", "count": 1, **changed}
    code, words = refused(lambda: list(stub.MakeTwins(pb.MakeTwinsRequest(**asked))))
    assert code == INVALID
    assert said in words
