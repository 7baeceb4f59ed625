"""The inference service over real gRPC with TLS, and a channel to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from client.serving.inference_pb2_grpc import InferenceStub
from client.serving.model import ServedModel
from client.serving.server import InferenceServer, Listening
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from server.deployment.certificates import write_loopback
from tests.client.serving.asking import save_model


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory, config_of: Callable[..., Config]) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("served") / "accepted")
    save_model(folder, config_of(), 0, 3)
    return folder


@pytest.fixture(scope="package")
def served(run: RunFolder) -> Iterator[InferenceServer]:
    tls = (run.root.parent / "loopback.crt", run.root.parent / "loopback.key")
    write_loopback(tls)
    server = InferenceServer(ServedModel(run), Listening("127.0.0.1:0", *tls, max_message_mib=20))
    yield server
    server.close(0.0)


@pytest.fixture(scope="package")
def channel(served: InferenceServer, run: RunFolder) -> Iterator[grpc.Channel]:
    trust = grpc.ssl_channel_credentials((run.root.parent / "loopback.crt").read_bytes())
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.secure_channel(f"localhost:{served.port}", trust, options) as opened:
        yield opened


@pytest.fixture(scope="package")
def stub(channel: grpc.Channel) -> Any:
    return InferenceStub(channel)
