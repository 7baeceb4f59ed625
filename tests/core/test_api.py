"""The package in Python: what it imports, the lines that documents show, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import lavq_core
from lavq_core.config import compose, save_config
from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements
from lavq_core.data.records import Ecg
from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import make_networks
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.training.detector_training import predict

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "simulations/sample/records100/00000/00059_lr"
SMALL = ["detector.width=8", "detector.blocks=1", "separator.width=16", "separator.blocks=1", "codebook.size=6"]
FENCED = re.compile(r"```python\n(.*?)```", re.DOTALL)


def snippets() -> dict[str, str]:
    """Python that documents show, by where it stands: fenced in Markdown, indented in the package's docstring."""
    indented = str(lavq_core.__doc__).split("::\n")[1].split("\nNames are")[0]
    found = {"lavq_core": textwrap.dedent(indented)}
    documents = [ROOT / "README.md", *(p for d in ("client", "server", "simulations") for p in (ROOT / d).glob("*.md"))]
    for path in documents:
        for number, code in enumerate(FENCED.findall(path.read_text(encoding="utf-8")), start=1):
            found[f"{path.name}-{number}"] = code
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after ``lavq demo``, of untrained networks: ``runs/demo`` and the bundled sample."""
    place = tmp_path_factory.mktemp("checkout")
    (place / "simulations").symlink_to(ROOT / "simulations")
    config = compose(SMALL)
    run = RunFolder(place / "runs" / "demo")
    detector, networks = build_detector(config.detector, 100, 0).state_dict(), make_networks(config, 0).state_dict()
    requests = torch.zeros(len(SUPERCLASSES), len(diagnostic_statements()))
    for disease, code in {"MI": "IMI", "CD": "LAFB"}.items():
        requests[SUPERCLASSES.index(disease), diagnostic_statements().index(code)] = 1.0
    codes = torch.randn(6, config.codebook.dim, generator=torch.Generator().manual_seed(0))
    save_config(config, run.config)
    parts = {"detector": detector, "codebook": {"codes": codes, "requests": requests}, "networks": networks}
    save_artefact(run.model, parts, {"classes": list(SUPERCLASSES)})
    values = (2.0, 0.5, None, 1.0, 3.0)
    Calibration(values, values, values, 0.9, 9, 76, "all", detector_digest(detector)).save(run.calibration)
    return place


@pytest.mark.parametrize("where", snippets())
def test_the_python_in_the_documents_runs(
    where: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("runs", "simulations"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(snippets()[where], where, "exec"), {})
    if where == "lavq_core":
        assert sorted(path.name for path in tmp_path.glob("*.dcm")) == ["twin-1.dcm", "twin-2.dcm"]
        assert "'NORM'" in capsys.readouterr().out


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, lavq_core; assert 'load_run' in dir(lavq_core);"
        "sys.exit(str({'torch', 'numpy', 'pandas', 'scipy', 'pydicom', 'flwr'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_every_name_is_there_and_no_other() -> None:
    for name in lavq_core.__all__:
        assert getattr(lavq_core, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        lavq_core.load_runs  # noqa: B018


@pytest.fixture(scope="module")
def run(place: Path) -> lavq_core.Run:
    return lavq_core.load_run(place / "runs" / "demo")


def test_detect_gives_calibrated_probabilities(run: lavq_core.Run) -> None:
    ecg = run.read(RECORD)
    raw = predict(run.model.detector, torch.from_numpy(ecg.signal[[0, 1, *range(6, 12)]]).unsqueeze(0)).numpy()
    assert run.calibration is not None
    expected = run.calibration.apply(raw)[0]
    assert list(run.detect(ecg)) == list(SUPERCLASSES)
    np.testing.assert_allclose(list(run.detect(ecg).values()), expected, atol=1e-6)


def test_twins_are_ecgs_that_say_synthetic_and_depend_on_the_seed_alone(run: lavq_core.Run) -> None:
    ecg = run.read(RECORD)
    asked = {"count": 2, "age": 60, "sex": "female", "name": "59"}
    first, again = (run.twins(ecg, "mi", seed=1, **asked) for _ in range(2))
    other = run.twins(ecg, "MI", seed=2, **asked)
    assert [twin.name for twin in first] == ["59_MI_01", "59_MI_02"]
    assert first[0].notes == (
        "SYNTHETIC: digital twin of 59 with IMI, strength 1, seed 1",
        "age 60",
        "female",
        "research use, not a medical device",
    )
    assert first[0].signal.shape == (12, 1000)
    assert all(np.array_equal(a.signal, b.signal) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].signal, other[0].signal)
    none = run.twins(ecg, "MI", strength=0.0)[0]
    assert "00059" not in f"{none.name} {none.notes}"  # the name of a file can be a patient's
    np.testing.assert_allclose(none.signal, ecg.signal, atol=0.0025)  # derived leads are rounded in the record
    assert set(run.detect(first[0])) == set(SUPERCLASSES)


def test_what_cannot_be_done_is_said_in_one_line(run: lavq_core.Run, tmp_path: Path) -> None:
    ecg = run.read(RECORD)
    blank = Ecg("x", ecg.signal, 100.0, np.arange(12) != 8)
    for call, match in {
        lambda: lavq_core.load_run(tmp_path): "not a run folder",
        lambda: run.read(tmp_path / "x.dcm"): "no record at",
        lambda: run.detect(Ecg("x", ecg.signal, 500.0, ecg.present)): "x has 500 Hz and this run 100 Hz",
        lambda: run.twins(blank, "MI"): "lacks lead V3",
        lambda: run.twins(ecg, "AFIB"): "is a rhythm",
        lambda: run.twins(ecg, "MI", count=0): "count must be",
        lambda: run.twins(ecg, "MI", strength=2): "strength must",
        lambda: run.twins(ecg, "MI", sex="f"): "sex must be one of",
    }.items():
        with pytest.raises(lavq_core.LavqError, match=match):
            call()
