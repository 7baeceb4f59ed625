"""How the inference service is started and closed to strangers, and how it takes over a newer model."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.commands import serve
from client.serving import inference_pb2 as pb
from client.serving.inference_pb2_grpc import InferenceStub
from client.serving.model import ServedModel, model_folder
from client.serving.server import InferenceServer, Listening
from lavq_core.errors import ConfigError, RunError
from lavq_core.runs.layout import RunFolder, SiteFolder
from lavq_core.settings import Config
from server.deployment.certificates import Authority, write_loopback
from server.deployment.folders import SiteNodeFolder, SiteSettings, write_settings
from server.flower_environment import free_port
from tests.client.serving.asking import ROOT, detect, ecg, refused, save_model


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
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()  # if it is still there; or leaving the block would wait for ever


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


def test_a_sites_service_begins_when_its_first_model_is_there_and_listens_where_the_site_says(
    tmp_path: Path, config_of: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    node = SiteNodeFolder(tmp_path)
    write_loopback(node.certificate("loopback"))
    port = free_port()
    write_settings(node.settings_file, SiteSettings("st-mary", "localhost:1", "", 1, 2, f"127.0.0.1:{port}"))
    parser = argparse.ArgumentParser()
    serve.configure(parser)
    before = handlers()
    with pytest.raises(RunError, match="has accepted no model yet"):
        serve.execute(parser.parse_args(["--site", str(tmp_path)]))
    assert handlers() == before

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

    with ThreadPoolExecutor(1) as other:
        answered = other.submit(operator)
        assert serve.execute(parser.parse_args(["--site", str(tmp_path), "--wait"])) == 0
    assert answered.result()[1]
    assert handlers() == before  # else whoever goes on in this process could not be ended any more
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
