"""A studio that was started, what is asked of it, and what is uploaded, for tests."""

from __future__ import annotations

import base64
import http.client
import json
from dataclasses import dataclass
from typing import Any

from simulations import sample

RECORD = sample.FOLDER / "records100" / "00000" / "00059_lr"
KEY = "records100/00000/00059_lr"
WFDB = [str(RECORD.with_suffix(suffix)) for suffix in (".hea", ".dat")]


def upload(*names_and_contents: tuple[str, bytes]) -> list[dict[str, str]]:
    return [{"name": name, "data": base64.b64encode(content).decode()} for name, content in names_and_contents]


def record_files(name: str = RECORD.name) -> list[tuple[str, bytes]]:
    return [(f"{name}{suffix}", RECORD.with_suffix(suffix).read_bytes()) for suffix in (".hea", ".dat")]


@dataclass
class Started:
    """A studio that runs."""

    address: str
    port: int
    token: str

    def post(self, path: str, body: bytes = b"{}", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"x-lavq-token": self.token, "content-type": "application/json"}
        connection.request("POST", path, body, given | {name.replace("_", "-"): v for name, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def ask(self, name: str, **body: Any) -> tuple[int, Any]:
        status, _, content = self.post(f"/api/{name}", json.dumps(body).encode())
        return status, json.loads(content)
