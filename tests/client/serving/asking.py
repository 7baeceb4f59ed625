"""Questions to the inference service, and models for it to serve, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from client.serving import inference_pb2 as pb
from lavq_core.config import save_config
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.data.records import read_record
from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from lavq_core.signals.leads import LEADS
from server.app import initial_model

ROOT = Path(__file__).resolve().parents[3]
RECORDS = ROOT / "simulations" / "sample" / "records100"
NAMES = ("00000/00059_lr", "17000/17719_lr", "18000/18171_lr")
INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED


def save_model(run: RunFolder, config: Config, seed: int, number: int, scale: float = 1.0) -> str:
    """Write a model as a round leaves it, and its calibration; returns the detector's digest."""
    config.run.seed = seed
    model = initial_model(config)
    detector = {name: value * scale for name, value in model.detector.items()}
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (60, 5)).astype(float)
    digest = detector_digest(detector)
    calibration = Calibration.fit(labels, generator.uniform(0.1, 0.9, (60, 5)), 0.9, 9, "st-mary", digest)
    save_config(config, run.config)
    calibration.save(run.calibration)
    save_artefact(run.model, {**model.parts(), "detector": detector}, {"round": number, "classes": list(SUPERCLASSES)})
    return digest


def ecg(name: str = NAMES[0], **changed: Any) -> pb.Ecg:
    signal = read_record(RECORDS / name).signal
    message = {"id": name, "sampling_rate": 100, "unit": "mV", "leads": LEADS, "samples": signal.ravel()}
    return pb.Ecg(**{**message, **changed})


def detect(stub: Any, *ecgs: pb.Ecg) -> pb.DetectResponse:
    return stub.Detect(pb.DetectRequest(ecgs=ecgs), timeout=30)


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()  # type: ignore[attr-defined]
