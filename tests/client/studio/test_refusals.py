"""What the studio's server refuses: who has no key, other pages, other machines, wrong questions."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

import pytest

from lavq_core.cli.main import main
from tests.client.studio.started import KEY, Started, upload


def test_without_the_key_nothing_is_told(studio: Started) -> None:
    for token in ("", "wrong", "ünrecht"):
        status, _, content = studio.post("/api/about", x_lavq_token=token.encode("latin-1"))  # type: ignore[arg-type]
        assert status == 403
        assert json.loads(content) == {
            "error": "this address lacks the key of the running command: open the one that it printed"
        }


def test_another_host_name_is_refused(studio: Started) -> None:
    assert studio.post("/api/about", host="evil.example")[0] == 403
    assert studio.post("/api/about", host=f"localhost:{studio.port}")[0] == 200


def test_another_page_cannot_ask_and_this_one_loads_nothing_from_elsewhere(studio: Started) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=60)
    asks = {"origin": "https://evil.example", "access-control-request-headers": "x-lavq-token"}
    connection.request("OPTIONS", "/api/twin", headers=asks | {"access-control-request-method": "POST"})
    answer = connection.getresponse()
    answer.read()
    assert answer.status >= 400
    assert not [name for name, _ in answer.getheaders() if name.lower().startswith("access-control")]
    connection.request("GET", "/")
    page = connection.getresponse()
    assert "default-src 'none'" in str(page.getheader("content-security-policy"))
    assert "://" not in page.read().decode().replace("data:,", "")


def test_it_listens_on_this_machine_only(studio: Started) -> None:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [local for _, local, _, state, *_ in rows if state == "0A" and local.endswith(f":{studio.port:04X}")]
    assert listening == [f"0100007F:{studio.port:04X}"]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"disease": "AFIB"}, "AFIB (atrial fibrillation) is a rhythm"),
        ({"disease": "HYP"}, "this federation has seen no record with HYP"),
        ({"strength": 2}, "strength must lie between 0 and 1"),
        ({"strength": "much"}, "strength must be a number"),
        ({"seed": float("inf")}, "seed must be a number"),
        ({"sex": "both"}, "sex must be one of"),
        ({"layout": "9x9"}, "layout must be one of"),
        ({"layout": ["3x4+II"]}, "layout must be one of"),
        ({"record": "../../README.md"}, "this ECG is not in the list"),
        ({"record": ["x"]}, "this ECG is not in the list"),
        ({"source": "disk"}, "choose an ECG"),
        ({"source": "upload"}, "choose a file"),
        ({"source": "upload", "files": upload(("a.dcm", b"%PDF-1.7 ..."))}, "a.dcm is a PDF document, not an ECG"),
        ({"source": "upload", "files": upload(("a.csv", b"I,II\n1,2\n"))}, 'give it in the field "Sampling rate"'),
        ({"source": "upload", "files": upload(("a.csv", b"1,2\n")), "leads": 3}, "unit and leads must be text"),
    ],
)
def test_a_wrong_question_gets_one_clear_line(studio: Started, asked: dict[str, Any], reason: str) -> None:
    status, answer = studio.ask("twin", **({"source": "bundled", "record": KEY, "disease": "MI"} | asked))
    assert status == 400
    assert reason in answer["error"]
    assert "\n" not in answer["error"]
    assert "/tmp" not in answer["error"]


def test_what_is_not_json_or_too_long_is_refused(studio: Started) -> None:
    assert "load it again" in json.loads(studio.post("/api/twin", b"[" * 100_000)[2])["error"]
    status, _, content = studio.post("/api/about", b'"' + b"x" * 2_000 + b'"')
    assert status == 400
    assert "were sent" in json.loads(content)["error"]


def test_a_port_that_is_taken_is_told(studio: Started, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["studio", str(run), "--port", str(studio.port), "--no-browser"]) == 2
    assert f"port {studio.port} cannot be used on 127.0.0.1: choose another one with --port" in capsys.readouterr().err
