"""``lavq twin`` as a user meets it: a run of untrained networks, and the command asked for one twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavq_core.cli.main import main
from lavq_core.data.records import Ecg, read_record, write_record
from tests.client.twin_command.ecgs import RECORD


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, finished_run: Callable[..., Path]) -> Path:
    return finished_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "twins"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would be drawn: pictures take long."""
    pages: list[dict[str, Any]] = []

    def draw(signal: np.ndarray, rate: float, **options: Any) -> None:
        pages.append({"signal": signal, "rate": rate, **options})

    monkeypatch.setattr("lavq_core.plots.draw_ecg", draw)
    monkeypatch.setattr("lavq_core.plots.save_figure", lambda figure, path: path)
    return pages


@pytest.fixture
def ask(run: Path, out: Path, drawn: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Ask for one twin; what the command says."""

    def asked(disease: str, *more: object, record: Path = RECORD, run: Path = run, fails: bool = False) -> str:
        arguments = ["twin", "--run", run, record, "--disease", disease, "--count", 1, "--out", out]
        arguments += ["--name", record.stem, *more]
        status = main([str(argument) for argument in arguments])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        if not fails:
            assert status == 0, said
            return said
        assert status == 2
        lines = [line for line in said.strip().splitlines() if "━" not in line]  # but for the progress bar
        assert len(lines) == 1, said
        assert lines[0].startswith("lavq: ")
        assert not out.exists()
        return lines[0]

    return asked


@pytest.fixture
def altered(tmp_path: Path) -> Callable[..., Path]:
    """Write a changed copy of the record: ``change`` maps its (12, T) mV to others, at ``rate`` Hz."""

    def make(change: Callable[[np.ndarray], np.ndarray], rate: float = 100.0) -> Path:
        ecg = read_record(RECORD)
        return write_record(tmp_path / "given", Ecg("given", change(ecg.signal), rate, ecg.present)).with_suffix("")

    return make
