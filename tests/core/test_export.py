"""A run's package: whole, checkable, usable as a run, and with a card that says what the run's files say."""

from __future__ import annotations

import builtins
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from lavq_core.config import compose, load_config, save_config
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import LavqError
from lavq_core.export import onnx_detector
from lavq_core.export.onnx_graphs import graph_of
from lavq_core.export.package import CARD, export_run
from lavq_core.models.calibration import Calibration, detector_digest
from lavq_core.models.detector import build_detector
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.models.networks import make_networks
from lavq_core.models.pretrained import keep_pretrained, weights_sha256
from lavq_core.models.stored import load_networks, load_shared_model
from lavq_core.runs.artefact import MANIFEST, save_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.signals.description import SIZE, VERSION, describe
from lavq_core.training.detector_training import predict
from tests.networks_on_disk import network_run, private_with

ONNX, HEAD = "detector.onnx", "detector_head.onnx"
SMALL = ["detector.width=8", "detector.blocks=2", "separator.width=16", "separator.blocks=1", "codebook.size=6"]
FIGURES: dict[str, Any] = {
    "run.command": "lavq run --data /hospital/mustermann",
    "macro_auc.pooled": 0.8127, "macro_auc.pooled.low": 0.791, "macro_auc.pooled.high": 0.84, "macro_auc.pooled.n": 117,
    "macro_auc.site.ward-3": 0.7215, "auc.MI.pooled": 0.834, "data.records": 596, "twins.judge_auc.MI": 0.713,
    "audit.detector.lira.tpr_at_1pct_fpr": 0.0234, "audit.detector.lira.auc": 0.553,
    "audit.verdict": "leak found",
    "privacy.statement": "No differential privacy: nothing is claimed.",
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with figures and a calibration."""
    config = compose([*SMALL, "run.dir=/home/erika/run", "data.dir=/hospital/data", "data.cache_dir=/hospital/cache"])
    run = RunFolder(tmp_path / "night-run")
    save_config(config, run.config)
    detector = build_detector(config.detector, 100, 0).state_dict()
    codebook = {"codes": torch.zeros(6, 32), "requests": torch.zeros(5, 44)}
    networks = make_networks(config, 0).state_dict()
    save_artefact(
        run.model,
        {"detector": detector, "codebook": codebook, "networks": networks},
        {"classes": list(SUPERCLASSES)},
    )
    values = (0.671, 0.845, None, 0.91, 1.471)
    Calibration(values, values, values, 0.9, 9, 76, "all sites", detector_digest(detector)).save(run.calibration)
    run.metrics.write_text(json.dumps(FIGURES))
    return run


def test_every_file_is_there_with_its_hash_and_the_folder_is_a_run(run: RunFolder, tmp_path: Path) -> None:
    made = export_run(run, tmp_path / "out" / "package")
    manifest = json.loads((made.folder / MANIFEST).read_text())
    found = {
        str(file.relative_to(made.folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in made.folder.rglob("*")
        if file.is_file() and file != made.folder / MANIFEST
    }
    assert manifest["sha256"] == found
    assert {CARD, ONNX, "config.yaml", "metrics.json", "calibration.json", "model/detector.safetensors"} <= set(found)
    original, again = load_shared_model(run), load_shared_model(RunFolder.open(made.folder))
    x = torch.randn(2, 8, 1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(predict(original.detector, x), predict(again.detector, x))
    assert load_networks(RunFolder.open(made.folder), "")[1] == "the federation"
    assert [path.name for path in made.folder.parent.iterdir()] == ["package"]


def test_no_folder_of_the_machine_that_trained_gets_out(run: RunFolder, tmp_path: Path) -> None:
    made = export_run(run, tmp_path / "package", with_onnx=False)
    for file in made.folder.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not any(word in content for word in (b"/hospital", b"/home", b"mustermann", str(tmp_path).encode()))
    assert load_config(made.folder / "config.yaml").detector.width == 8


def test_the_card_has_the_runs_own_figures(run: RunFolder, tmp_path: Path) -> None:
    card = (export_run(run, tmp_path / "package").folder / CARD).read_text()
    for line in (
        "Research use, not a medical device",
        "| macro AUC, all sites | 0.813 | 0.791 to 0.840 | 117 |",
        "| macro AUC, ward-3 | 0.722 |  |  |",
        "| AUC MI | 0.834 |",
        "| records | 596 |",
        "| MI | 0.713 |",
        "| STTC | too few records | too few records |",
        "No differential privacy: nothing is claimed.",
        "membership inference, detector, LiRA, on this run: finds 2.3 % of the members at 1 % false positives",
        "the audit's verdict: leak found",
        "lead dropout 0.1",
    ):
        assert line in card


def test_a_run_without_figures_claims_none(run: RunFolder, tmp_path: Path) -> None:
    run.metrics.unlink()
    run.calibration.unlink()
    made = export_run(run, tmp_path / "package", with_onnx=False)
    card = (made.folder / CARD).read_text()
    assert not made.evaluated
    for line in ("Not evaluated", "Not judged", "claim nothing", "None: probabilities are as the detector gives them"):
        assert line in card
    assert "ONNX" not in card
    assert not (made.folder / ONNX).exists()


def test_onnx_answers_as_the_detector_at_any_length(run: RunFolder, tmp_path: Path) -> None:
    made = export_run(run, tmp_path / "package")
    assert made.onnx_difference is not None
    assert made.onnx_difference < 1e-5
    session = onnxruntime.InferenceSession(made.folder / ONNX)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(SUPERCLASSES)
    x = torch.randn(4, 8, 937, generator=torch.Generator().manual_seed(1))
    answer = session.run(None, {"ecg": x.numpy()})[0]
    np.testing.assert_allclose(answer, predict(load_shared_model(run).detector, x), atol=1e-5)


def test_an_onnx_that_answers_otherwise_is_not_exported(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = graph_of(build_detector(compose(SMALL).detector, 100, 7).eval(), 100)
    convert = onnx_detector._convert
    monkeypatch.setattr(onnx_detector, "_convert", lambda _: convert(other))
    with pytest.raises(LavqError, match="differs from the original by"):
        export_run(run, tmp_path / "package")
    assert [path.name for path in tmp_path.iterdir()] == [run.root.name]


def test_without_the_extra_one_line_says_which_to_install(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any, **options: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *more, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LavqError, match=r"ONNX needs onnxruntime: install it with pip install 'lavq\[export\]'"):
        export_run(run, tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_a_changed_model_and_a_folder_that_is_taken_are_refused(run: RunFolder, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("mine")
    with pytest.raises(LavqError, match="not empty: give a new folder"):
        export_run(run, taken, with_onnx=False)
    weights = run.model / "detector.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(LavqError, match="was changed since it was written"):
        export_run(run, tmp_path / "package", with_onnx=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [run.root.name, "taken"]
    assert [path.name for path in taken.iterdir()] == ["mine"]


def test_a_private_detector_is_exported_and_needs_all_leads(tmp_path: Path) -> None:
    """It was trained without blank leads."""
    run = private_run(tmp_path, "privacy=eps8")
    assert load_shared_model(run).most_blank == 0
    card = (export_run(run, tmp_path / "package", with_onnx=False).folder / CARD).read_text()
    assert "linear head on a fixed description" in card
    assert "no lead dropout: all leads are needed" in card
    assert "none: twins need a site's own" in card


@pytest.mark.parametrize("pretrained", [False, True])
def test_the_onnx_of_a_features_detector_begins_at_the_description(
    tmp_path: Path, sample_database: Database, pretrained: bool
) -> None:
    """R peaks and median beats are found by no graph; the file says which description it takes."""
    network = network_run(tmp_path / "network")
    run = private_run(tmp_path, *(private_with(network) if pretrained else ["privacy=eps8"]))
    made = export_run(run, tmp_path / "package")
    assert made.onnx_difference is not None
    assert made.onnx_difference < 1e-5
    assert HEAD in made.files
    assert ONNX not in made.files
    session = onnxruntime.InferenceSession(made.folder / HEAD)
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["description_version"] == str(VERSION)
    assert facts.get("pretrained_sha256", "") == (weights_sha256(network) if pretrained else "")
    assert json.loads(facts["classes"]) == list(SUPERCLASSES)

    ecgs, detector = sample_database.signals(np.arange(5)), load_shared_model(run).detector
    assert isinstance(detector, FeatureDetector)
    described = describe(ecgs.numpy(), 100)
    if detector.network:
        described = np.concatenate([described, detector.network.describe(ecgs.numpy())], axis=1)
    assert facts["description_size"] == str(described.shape[1])
    answer = session.run(["probability"], {"description": described})[0]
    np.testing.assert_allclose(answer, predict(detector, ecgs), atol=1e-5)
    assert np.ptp(answer) > 0.1
    card = (made.folder / CARD).read_text()
    assert f"`{HEAD}` takes `description`, float32 (n, {described.shape[1]})" in card


def test_the_onnx_of_a_combined_detector_takes_an_ecg_and_its_description(
    run: RunFolder, tmp_path: Path, sample_database: Database
) -> None:
    config = compose([*SMALL, "detector.kind=combined", "detector.hidden=16"])
    detector = build_detector(config.detector, 100, 0).eval()
    codebook = {"codes": torch.zeros(6, 32), "requests": torch.zeros(5, 44)}
    save_config(config, run.config)
    save_artefact(run.model, {"detector": detector.state_dict(), "codebook": codebook}, {"classes": list(SUPERCLASSES)})
    run.calibration.unlink()
    made = export_run(run, tmp_path / "package")
    assert made.onnx_difference is not None
    assert made.onnx_difference < 1e-5
    session = onnxruntime.InferenceSession(made.folder / ONNX)
    assert session.get_modelmeta().custom_metadata_map["description_version"] == str(VERSION)
    ecgs = sample_database.signals(np.arange(5))
    ecgs[3, 6] = 0.0  # a blank lead, which the description does not know
    answer = session.run(None, {"ecg": ecgs.numpy(), "description": describe(ecgs.numpy(), 100)})[0]
    np.testing.assert_allclose(answer, predict(detector, ecgs), atol=1e-5)
    card = (made.folder / CARD).read_text()
    assert f"`{ONNX}` takes `ecg`, float32 (n, 8, T) in mV at 100 Hz and `description`, float32 (n, {SIZE})" in card


def private_run(folder: Path, *overrides: str) -> RunFolder:
    """A finished run of a features detector with weights that tell ECGs apart."""
    config, run = compose([*overrides]), RunFolder(folder / "private")
    detector = build_detector(config.detector, 100, 0)
    assert isinstance(detector, FeatureDetector)
    generator = torch.Generator().manual_seed(0)
    detector.head.weight.data = torch.randn(detector.head.weight.shape, generator=generator)
    detector.centre.copy_(0.02 * torch.randn(detector.centre.shape, generator=generator))
    save_config(config, run.config)
    codebook = {"codes": torch.zeros(6, 32), "requests": torch.zeros(5, 44)}
    parts = {"detector": detector.state_dict(), "codebook": codebook}
    save_artefact(run.model, parts, {"classes": list(SUPERCLASSES)})
    keep_pretrained(config, run)
    return run
