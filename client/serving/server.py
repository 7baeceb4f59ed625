"""The gRPC server around the service: TLS, limits, health, reflection."""

from __future__ import annotations

import ipaddress
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from client.serving import inference_pb2 as pb
from client.serving.inference_pb2_grpc import add_InferenceServicer_to_server
from client.serving.model import ServedModel
from client.serving.service import Inference
from lavq_core.errors import ConfigError

NAME = pb.DESCRIPTOR.services_by_name["Inference"].full_name
_MIB = 2**20
_WAITING = 4  # requests that may wait for each one that is worked on


@dataclass(frozen=True)
class Listening:
    """Where and how the service listens.

    Attributes:
        address: ``HOST:PORT``; port 0 takes a free one.
        certificate: PEM of the server's certificate; None only on the loopback interface, without TLS.
        key: PEM of its key.
        client_ca: PEM of the CA whose certificates clients must show; None: none is asked for.
        workers: requests that are worked on at the same time.
        max_message_mib: larger messages are refused.
    """

    address: str
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    workers: int = 2
    max_message_mib: int = 32


class InferenceServer:
    """A running inference service."""

    def __init__(self, model: ServedModel, listening: Listening) -> None:
        """Start to listen.

        Raises:
            ConfigError: no TLS beyond the loopback interface, certificates that cannot be read, or a port in use.
        """
        limit = listening.max_message_mib * _MIB
        self._server = grpc.server(
            ThreadPoolExecutor(listening.workers, thread_name_prefix="inference"),
            maximum_concurrent_rpcs=listening.workers * (1 + _WAITING),
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                ("grpc.so_reuseport", 0),
            ],
        )
        self._model, self._health = model, health.HealthServicer()
        add_InferenceServicer_to_server(Inference(model), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        try:
            self.port = _bind(self._server, listening)
        except RuntimeError:
            raise ConfigError(f"{listening.address} cannot be listened on: choose another --listen HOST:PORT") from None
        for name in ("", NAME):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server.start()
        model.watch()

    def wait(self) -> None:
        """Wait until it is closed."""
        self._server.wait_for_termination()

    def close(self, grace: float = 5.0) -> None:
        """Say that it is going, let requests end, and end."""
        self._health.enter_graceful_shutdown()
        self._model.close()
        self._server.stop(grace).wait()


def _bind(server: grpc.Server, listening: Listening) -> int:
    if listening.certificate is None or listening.key is None:
        host = listening.address.rpartition(":")[0].strip("[]")
        if not (host == "localhost" or _is_loopback(host)):
            raise ConfigError("without TLS the service listens on 127.0.0.1 alone: give --certificate and --key")
        return server.add_insecure_port(listening.address)
    try:
        pair = (listening.key.read_bytes(), listening.certificate.read_bytes())
        clients = listening.client_ca.read_bytes() if listening.client_ca else None
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read ({error.strerror})") from None
    credentials = grpc.ssl_server_credentials([pair], clients, require_client_auth=clients is not None)
    return server.add_secure_port(listening.address, credentials)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
