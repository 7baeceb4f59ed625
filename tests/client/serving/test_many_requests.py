"""The inference service under load and garbage: limits, health, memory, and nothing kept."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from client.serving import inference_pb2 as pb
from client.serving.inference_pb2_grpc import InferenceStub
from client.serving.model import ServedModel
from client.serving.server import NAME, InferenceServer, Listening
from lavq_core.runs.layout import RunFolder
from tests.client.serving.asking import EXHAUSTED, NAMES, detect, ecg, refused


def test_health_and_reflection_are_the_standard_ones(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", NAME):
        assert (
            health.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING
        )
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
    assert {service.name for service in answer.list_services_response.service} >= {NAME, "grpc.health.v1.Health"}


def test_bytes_that_are_no_request_harm_nobody(channel: grpc.Channel, stub: Any) -> None:
    for garbage in (b"\xff" * 64, os.urandom(4096), b"\x0a\xff\xff\xff\xff\x0f"):
        raw = channel.unary_unary(f"/{NAME}/Detect", lambda data: data, lambda data: data)
        assert refused(lambda raw=raw, garbage=garbage: raw(garbage, timeout=10))[0] != grpc.StatusCode.OK  # type: ignore[misc]
    assert len(detect(stub, ecg()).detections) == 1


def test_a_message_that_is_too_large_is_refused(channel: grpc.Channel, stub: Any) -> None:
    raw = channel.unary_unary(f"/{NAME}/Detect", lambda data: data, lambda data: data)
    assert refused(lambda: raw(bytes(21 * 2**20), timeout=30))[0] == EXHAUSTED
    assert len(detect(stub, ecg()).detections) == 1


def test_eight_clients_at_once_get_their_own_answers(stub: Any) -> None:
    alone = {name: detect(stub, ecg(name)).detections[0] for name in NAMES}

    def ask(number: int) -> bool:
        name = NAMES[number % len(NAMES)]
        return bool(detect(stub, ecg(name)).detections[0] == alone[name])

    with ThreadPoolExecutor(8) as clients:
        assert all(clients.map(ask, range(40)))


def test_more_requests_than_may_wait_are_refused_and_the_rest_answered(run: RunFolder) -> None:
    server = InferenceServer(ServedModel(run), Listening("127.0.0.1:0", workers=1))
    request = pb.DetectRequest(ecgs=[ecg()] * 100)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", [("grpc.max_send_message_length", -1)]) as opened:
            calls = [InferenceStub(opened).Detect.future(request, timeout=60) for _ in range(12)]
            codes = [call.code() for call in calls]
    finally:
        server.close(0.0)
    assert codes.count(grpc.StatusCode.OK) >= 1
    assert EXHAUSTED in codes
    assert set(codes) == {grpc.StatusCode.OK, EXHAUSTED}


def test_nothing_of_a_request_is_stored_or_logged(stub: Any, run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    with caplog.at_level(0):
        detect(stub, ecg(id="Jane Doe"))
        list(stub.MakeTwins(pb.MakeTwinsRequest(ecg=ecg(id="Jane Doe"), disease="IMI", count=1)))
        refused(lambda: detect(stub, ecg(id="Jane Doe", unit="x")))
    assert "Jane" not in caplog.text
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before


@pytest.mark.parametrize(
    ("requests", "ecgs"),
    [(40, 32), pytest.param(10_000, 1, marks=pytest.mark.slow)],
    ids=["40 of 32 ECGs", "10,000 of one"],
)
def test_memory_does_not_grow_with_requests(stub: Any, requests: int, ecgs: int) -> None:
    """Half of them are refused. An ECG is 48 kB: those of either half, if they were kept, would exceed the bound."""
    process, good = psutil.Process(), pb.DetectRequest(ecgs=[ecg()] * ecgs)
    bad = pb.DetectRequest(ecgs=[ecg(unit="x")] * ecgs)

    def ask(times: int) -> None:
        for number in range(times):
            if number % 2:
                refused(lambda: stub.Detect(bad, timeout=30))
            else:
                stub.Detect(good, timeout=30)

    ask(max(8, requests // 20))
    before = process.memory_info().rss
    ask(requests)
    assert process.memory_info().rss - before < 24 * 2**20
