"""The studio as a user meets it: a run of untrained networks, the command started, its page in a real browser."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.models.stored import load_shared_model
from lavq_core.runs.layout import RunFolder
from tests.client.studio.started import Started, record_files


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory, finished_run: Callable[..., Path]) -> Path:
    """A finished run with a calibration that halves every logit."""
    folder = RunFolder(finished_run(tmp_path_factory.mktemp("run") / "first"))
    digest = detector_digest(load_shared_model(folder).detector.state_dict())
    Calibration((2.0,) * 5, (0.5,) * 5, (0.5,) * 5, 0.9, 9, 76, "four sites", digest).save(folder.calibration)
    return folder.root


@pytest.fixture(scope="package")
def studio(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    own = tmp_path_factory.mktemp("own")
    for name, content in record_files():
        (own / name).write_bytes(content)
    command = [sys.executable, "-c", "import sys; from lavq_core.cli.main import main; sys.exit(main(sys.argv[1:]))"]
    process = subprocess.Popen(
        [*command, "studio", str(run), "--folder", str(own), "--no-browser"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        found = re.search(r"http://127\.0\.0\.1:(\d+)/#(\S+)", line)
        if found:
            yield Started(found[0], int(found[1]), found[2])
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0, "".join(lines)
    assert "Traceback" not in process.stderr.read()


@pytest.fixture
def page(studio: Started, open_page: Callable[..., Page]) -> Page:
    found = open_page(studio.address)
    expect(found.locator("#shown")).to_be_visible()
    return found
