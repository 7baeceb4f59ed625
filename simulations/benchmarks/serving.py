"""The inference service, asked over TLS by a client on the same core: what a caller waits for, wire included."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np

from client.serving import inference_pb2 as pb
from client.serving.inference_pb2_grpc import InferenceStub
from client.serving.model import ServedModel
from client.serving.server import InferenceServer, Listening
from lavq_core.config import save_config
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.signals.leads import INDEPENDENT_LEADS
from server.app import initial_model
from server.deployment.certificates import write_loopback
from simulations.benchmarks.setting import Setting

_BATCH, _SINGLE = 64, 200  # ECGs of a large request, and small requests of one round


def detections(setting: Setting, rounds: int) -> tuple[list[float], list[float]]:
    """Ask for detections: of many ECGs at a time, and of one at a time.

    Returns:
        ECGs a second of each large request, and of each round the 99th percentile of s that a small one takes.
    """
    rate = setting.config().data.sampling_rate
    ecgs = [
        pb.Ecg(sampling_rate=rate, unit="mV", leads=INDEPENDENT_LEADS, samples=signal.ravel())
        for signal in setting.ecgs(setting.many(_BATCH)).numpy()
    ]
    many, one = pb.DetectRequest(ecgs=ecgs), pb.DetectRequest(ecgs=ecgs[:1])
    with _one_core(), _served(setting) as stub:
        for request in (many, one):
            stub.Detect(request)  # warms up
        rates = [len(ecgs) / _seconds(stub, many) for _ in range(rounds)]
        waits = [[_seconds(stub, one) for _ in range(setting.many(_SINGLE))] for _ in range(rounds)]
    return rates, np.percentile(waits, 99, axis=1).tolist()


def _seconds(stub: InferenceStub, request: pb.DetectRequest) -> float:
    began = time.perf_counter()
    stub.Detect(request)
    return time.perf_counter() - began


@contextmanager
def _served(setting: Setting) -> Iterator[InferenceStub]:
    """Serve an untrained model, which takes as long as a trained one."""
    config, run = setting.config(), RunFolder(setting.fresh("served"))
    save_config(config, run.config)
    save_artefact(run.model, initial_model(config).parts(), {"round": 0, "classes": list(SUPERCLASSES)})
    tls = (run.root / "loopback.crt", run.root / "loopback.key")
    write_loopback(tls)
    server = InferenceServer(ServedModel(run), Listening("127.0.0.1:0", *tls))
    trust = grpc.ssl_channel_credentials(tls[0].read_bytes())
    with grpc.secure_channel(f"localhost:{server.port}", trust) as channel:
        yield InferenceStub(channel)
    server.close(0.0)


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep this process on one core, where the system can: service and client then share it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
