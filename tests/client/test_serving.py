"""The inference service over real gRPC: answers, refusals, limits, and a model that is exchanged while it runs."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from client.commands import serve
from client.serving import inference_pb2 as pb
from client.serving.inference_pb2_grpc import InferenceStub
from client.serving.model import ServedModel, model_folder
from client.serving.server import NAME, InferenceServer, Listening
from client.serving.service import MOST_ECGS, MOST_TWINS
from lavq_core.config import save_config
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.data.records import read_record
from lavq_core.errors import ConfigError, RunError
from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.models.stored import load_shared_model
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import RunFolder, SiteFolder
from lavq_core.settings import Config
from lavq_core.signals.leads import LEADS, to_independent
from lavq_core.training.detector_training import predict
from server.app import initial_model
from server.deployment.certificates import Authority, write_loopback
from server.deployment.folders import SiteNodeFolder, SiteSettings, write_settings
from server.flower_environment import free_port

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, config_of: Callable[..., Config]) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("served") / "accepted")
    save_model(folder, config_of(), 0, 3)
    return folder


@pytest.fixture(scope="module")
def served(run: RunFolder) -> Iterator[InferenceServer]:
    tls = (run.root.parent / "loopback.crt", run.root.parent / "loopback.key")
    write_loopback(tls)
    server = InferenceServer(ServedModel(run), Listening("127.0.0.1:0", *tls, max_message_mib=20))
    yield server
    server.close(0.0)


@pytest.fixture(scope="module")
def channel(served: InferenceServer, run: RunFolder) -> Iterator[grpc.Channel]:
    trust = grpc.ssl_channel_credentials((run.root.parent / "loopback.crt").read_bytes())
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.secure_channel(f"localhost:{served.port}", trust, options) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return InferenceStub(channel)


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


# --- detections ------------------------------------------------------------------------------------------------------


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


# --- twins -----------------------------------------------------------------------------------------------------------


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


# --- the service -----------------------------------------------------------------------------------------------------


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


def test_a_newer_model_is_taken_over_while_requests_go_on(
    tmp_path: Path, config_of: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path / "accepted")
    before = save_model(folder, config_of(), 0, 1)
    server = InferenceServer(ServedModel(folder), Listening("127.0.0.1:0"))
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as opened:
            stub = InferenceStub(opened)
            assert detect(stub, ecg()).model.id == before
            after = save_model(folder, config_of(), 0, 2, scale=0.5)
            deadline, seen = time.monotonic() + 20, []
            while not seen or seen[-1] != after:
                seen.append(detect(stub, ecg()).model.id)
                assert time.monotonic() < deadline
            assert set(seen) <= {before, after}
            assert detect(stub, ecg()).model.round == 2
            (folder.model / "detector.safetensors").write_bytes(b"damaged")
            os.utime(folder.model / "manifest.json")
            until = time.monotonic() + 20
            while "cannot be used" not in caplog.text:
                assert time.monotonic() < until
                time.sleep(0.05)
            assert detect(stub, ecg()).model.id == after
    finally:
        server.close(0.0)


def test_clients_can_be_asked_for_a_certificate(run: RunFolder, tmp_path: Path) -> None:
    authority, node = Authority.create("ward"), (tmp_path / "c.crt", tmp_path / "c.key")
    authority.save(tmp_path / "ca.crt", tmp_path / "ca.key")
    authority.issue_client(node, "ward-3")
    tls = (tmp_path / "s.crt", tmp_path / "s.key")
    authority.issue_server(tls, "serve", ["localhost"])
    server = InferenceServer(ServedModel(run), Listening("127.0.0.1:0", *tls, client_ca=tmp_path / "ca.crt"))
    ca = (tmp_path / "ca.crt").read_bytes()
    known = grpc.ssl_channel_credentials(ca, node[1].read_bytes(), node[0].read_bytes())
    try:
        with grpc.secure_channel(f"localhost:{server.port}", known) as opened:
            assert len(detect(InferenceStub(opened), ecg()).detections) == 1
        with grpc.secure_channel(f"localhost:{server.port}", grpc.ssl_channel_credentials(ca)) as opened:
            assert refused(lambda: detect(InferenceStub(opened), ecg()))[0] == grpc.StatusCode.UNAVAILABLE
    finally:
        server.close(0.0)


def test_without_tls_the_service_listens_on_the_loopback_interface_alone(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match="without TLS the service listens on 127"):
        InferenceServer(ServedModel(run), Listening("0.0.0.0:0"))


def test_a_site_that_has_accepted_no_model_is_told_when_it_will(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="comes with the second round"):
        model_folder(None, str(tmp_path))


def test_nothing_of_a_request_is_stored_or_logged(stub: Any, run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    with caplog.at_level(0):
        detect(stub, ecg(id="Jane Doe"))
        list(stub.MakeTwins(pb.MakeTwinsRequest(ecg=ecg(id="Jane Doe"), disease="IMI", count=1)))
        refused(lambda: detect(stub, ecg(id="Jane Doe", unit="x")))
    assert "Jane" not in caplog.text
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before


def test_memory_does_not_grow_with_requests(stub: Any) -> None:
    requests = 10_000 if os.environ.get("LAVQ_LONG") else 150
    process = psutil.Process()
    for _ in range(150):
        detect(stub, ecg())
    request, before = pb.DetectRequest(ecgs=[ecg()]), process.memory_info().rss
    for _ in range(requests):
        stub.Detect(request, timeout=30)
    assert process.memory_info().rss - before < 40 * 2**20


def test_the_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed: the generated code is not compared")
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT), *outputs, "client/serving/inference.proto"]
    subprocess.run(command, cwd=ROOT, check=True)
    for made in (tmp_path / "client" / "serving").iterdir():
        assert made.read_text() == (ROOT / "client" / "serving" / made.name).read_text(), made.name


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_end(run: RunFolder) -> None:
    command = [sys.executable, "-c", "import sys; from lavq_core.cli.main import main; sys.exit(main())", "serve"]
    command += ["--run", str(run.root), "--insecure", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if line.startswith("listening"))
        try:
            port = int(said.split()[2].rpartition(":")[2])
            assert "WITHOUT TLS" in said
            with grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
                assert len(detect(InferenceStub(opened), ecg()).detections) == 1
        finally:
            process.terminate()
        assert process.wait(30) == 0


def test_a_sites_service_begins_when_its_first_model_is_there_and_listens_where_the_site_says(
    tmp_path: Path, config_of: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    node = SiteNodeFolder(tmp_path)
    write_loopback(node.certificate("loopback"))
    port = free_port()
    write_settings(node.settings_file, SiteSettings("st-mary", "localhost:1", "", 1, 2, f"127.0.0.1:{port}"))
    parser = argparse.ArgumentParser()
    serve.configure(parser)
    with pytest.raises(RunError, match="has accepted no model yet"):
        serve.execute(parser.parse_args(["--site", str(tmp_path)]))

    def operator() -> tuple[str, bool]:
        time.sleep(0.3)
        digest = save_model(SiteFolder(node.state).accepted, config_of(), 0, 1)
        trust = grpc.ssl_channel_credentials(node.certificate("loopback")[0].read_bytes())
        try:
            with grpc.secure_channel(f"localhost:{port}", trust) as opened:
                asked = pb.DetectRequest(ecgs=[ecg()])
                answer = InferenceStub(opened).Detect(asked, timeout=30, wait_for_ready=True)
            return digest, answer.model.id == digest
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with ThreadPoolExecutor(1) as other:
            answered = other.submit(operator)
            assert serve.execute(parser.parse_args(["--site", str(tmp_path), "--wait"])) == 0
        assert answered.result()[1]
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    said = capsys.readouterr().err
    assert said.index("waiting for the site's first model") < said.index(f"listening on 127.0.0.1:{port} with TLS")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--run", "r", "--insecure", "--wait"], "belongs to --site"),
        (["--run", "r"], "give --certificate and --key, or --insecure"),
        (["--run", "r", "--certificate", "c"], "belong together"),
        (["--run", "r", "--insecure", "--certificate", "c", "--key", "k"], "belong together"),
        (["--run", "r", "--insecure", "--client-ca", "c"], "needs TLS"),
        (["--run", "r", "--insecure", "--workers", "0"], "must be at least 1"),
    ],
)
def test_a_service_is_not_left_open_by_mistake(given: list[str], said: str) -> None:
    parser = argparse.ArgumentParser()
    serve.configure(parser)
    with pytest.raises(ConfigError, match=said):
        serve.execute(parser.parse_args(given))
