"""A gateway before a SuperLink that only echoes, with real TLS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from server.deployment import gateway
from server.deployment.folders import Deployment, write_settings
from server.deployment.init import Plan, write_deployment
from tests.server.gateway.door import Running, client_of, echo, free_base


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    plan = Plan(["st-mary", "st-john", "left"], ["localhost"], free_base(), minimum_patients=1, apps=["d" * 64])
    made = write_deployment(tmp_path_factory.mktemp("d") / "d", plan)
    settings = replace(
        made.server.settings(),
        host="127.0.0.1",
        sites=["st-mary", "st-john"],
        max_body_mib=1,
        requests_per_second=0.5,
        burst=100,
    )
    write_settings(made.server.settings_file, settings)
    return made


@pytest.fixture(scope="module")
def door(deployment: Deployment) -> Iterator[str]:
    """A gateway before a SuperLink."""
    certificate, key = map(str, deployment.server.certificate("loopback"))
    methods = ["GET", "POST"]
    superlink = Starlette(routes=[Route("/{path:path}", echo, methods=methods)])
    port = deployment.server.settings().superlink_port
    back = Running(uvicorn.Config(superlink, port=port, ssl_certfile=certificate, ssl_keyfile=key, log_level="error"))
    front = Running(gateway.configuration(deployment.server))
    yield f"https://localhost:{deployment.server.settings().port}"
    front.stop()
    back.stop()


@pytest.fixture
def st_mary(deployment: Deployment) -> Iterator[httpx.Client]:
    with client_of(deployment.site("st-mary"), deployment) as client:
        yield client
