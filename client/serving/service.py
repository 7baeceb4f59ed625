"""The answers of the inference service. Nothing of a request is kept, and nothing of it is logged."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import torch

from client.serving import inference_pb2 as pb
from client.serving.ecgs import Received, receive, send
from client.serving.inference_pb2_grpc import InferenceServicer
from client.serving.model import Served, ServedModel
from lavq_core.data.labels import public_statements
from lavq_core.data.requests import Request, parse_request, statements_of
from lavq_core.errors import ConfigError
from lavq_core.models.twins import Patients, request_twins
from lavq_core.training.detector_training import predict

MOST_ECGS = 256
"""ECGs in one request."""

MOST_TWINS = 64
"""Twins of one request."""

_AT_ONCE = 8  # twins that are made together, so that the first ones are sent before the last ones are made
_SEX = {pb.MALE: 0.0, pb.FEMALE: 1.0}


class Inference(InferenceServicer):
    """``lavq.v1.Inference``."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model

    @torch.no_grad()
    def Detect(self, request: pb.DetectRequest, context: grpc.ServicerContext) -> pb.DetectResponse:  # noqa: N802
        """Score ECGs."""
        served = self._model.now()
        if not 0 < len(request.ecgs) <= MOST_ECGS:
            _refuse(context, f"give 1 to {MOST_ECGS} ECGs, not {len(request.ecgs)}")
        received = receive(request.ecgs, served.shared.config.data.sampling_rate)
        usable = [i for i, one in enumerate(received) if one.signal is not None]
        if not usable:
            _refuse(context, received[0].problem)
        scores = dict(zip(usable, _score(served, torch.stack([_signal(received[i]) for i in usable])), strict=True))
        detections = [
            pb.Detection(
                id=request.ecgs[i].id,
                scores=_class_scores(served, scores[i]) if i in scores else [],
                problem=one.problem,
                remarks=one.remarks,
            )
            for i, one in enumerate(received)
        ]
        return pb.DetectResponse(model=_about(served), detections=detections)

    @torch.no_grad()
    def MakeTwins(self, request: pb.MakeTwinsRequest, context: grpc.ServicerContext) -> Iterator[pb.Twin]:  # noqa: N802
        """Make twins of one ECG."""
        served = self._model.now()
        if served.networks is None:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, "this federation shares no editor: no twins are made here"
            )
            return
        patient, asked = self._patient(request, served, context), _asked(request, context)
        codebook, rate = served.shared.codebook, served.shared.config.data.sampling_rate
        strength = request.strength if request.HasField("strength") else 1.0
        generator = torch.Generator().manual_seed(request.seed & (2**63 - 1))
        wanted = statements_of(asked, codebook["requests"], request.count, generator)
        original = _class_scores(served, _score(served, patient.signal)[0])
        for first in range(0, request.count, _AT_ONCE):
            part = wanted[first : first + _AT_ONCE]
            rows = patient.take(torch.zeros(len(part), dtype=torch.int64))
            twins = request_twins(
                served.networks, codebook["codes"], rows, part, served.shared.config, strength, generator
            )
            for place, scores in enumerate(_score(served, twins.signal)):
                if not context.is_active():
                    return
                yield pb.Twin(
                    number=first + place,
                    ecg=send(twins.signal[place], f"SYNTHETIC {request.ecg.id}".strip(), rate),
                    statements=part[place],
                    original=original,
                    twin=_class_scores(served, scores),
                    model=_about(served),
                )

    def _patient(self, request: pb.MakeTwinsRequest, served: Served, context: grpc.ServicerContext) -> Patients:
        """Check the ECG and bring it into the beat frame."""
        if not 0 < request.count <= MOST_TWINS:
            _refuse(context, f"count must be 1 to {MOST_TWINS}, not {request.count}")
        if request.HasField("strength") and not 0.0 <= request.strength <= 1.0:
            _refuse(context, "strength must lie between 0 and 1")
        config = served.shared.config
        (received,) = receive([request.ecg], config.data.sampling_rate)
        if received.signal is None:
            _refuse(context, received.problem)
        age = np.array([request.age if request.HasField("age") else np.nan])
        sex = np.array([_SEX.get(request.sex, np.nan)])
        signal = _signal(received).unsqueeze(0)
        patient = Patients.of(signal, age, sex, config.separator.stride, config.data.sampling_rate)
        if not patient.beats.found()[0]:
            _refuse(context, "the ECG has fewer than three beats of one shape: a twin needs a regular ECG")
        return patient


def _asked(request: pb.MakeTwinsRequest, context: grpc.ServicerContext) -> Request:
    try:
        return parse_request(request.disease, public_statements())
    except ConfigError as error:
        _refuse(context, str(error))
        raise


def _refuse(context: grpc.ServicerContext, why: str) -> None:
    """End the request (``abort`` raises) with what its sender can put right."""
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)


def _signal(received: Received) -> torch.Tensor:
    assert received.signal is not None
    return received.signal


def _score(served: Served, signals: torch.Tensor) -> np.ndarray:
    """Probabilities ``(n, 5)`` of ECGs ``(n, 8, T)``, calibrated where there is a calibration."""
    scores = predict(served.shared.detector, signals).numpy()
    return scores if served.calibration is None else served.calibration.apply(scores)


def _class_scores(served: Served, scores: np.ndarray) -> list[pb.ClassScore]:
    """Name the scores of one ECG ``(5,)``; a class without a threshold has none."""
    thresholds = served.calibration.thresholds if served.calibration else (None,) * len(scores)
    named = []
    for name, score, threshold in zip(served.shared.classes, scores.tolist(), thresholds, strict=True):
        one = pb.ClassScore(name=name, probability=score)
        if threshold is not None:
            one.threshold, one.reached = threshold, score >= threshold
        named.append(one)
    return named


def _about(served: Served) -> pb.Model:
    calibration = served.calibration
    basis = f"fold {calibration.fold} of {calibration.source}, {calibration.n} records" if calibration else ""
    return pb.Model(id=served.digest, round=served.round, calibrated=calibration is not None, calibration=basis)
