"""A network trained on public ECGs: bounded, named, frozen, never sent, and one sensitivity with it and without."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lavq_core.config import compose, save_config
from lavq_core.data import description_cache
from lavq_core.data.database import Database
from lavq_core.errors import ConfigError, RunError
from lavq_core.models.detector import build_detector
from lavq_core.models.feature_detector import NORM, FeatureDetector
from lavq_core.models.pretrained import keep_pretrained, pretrained_network, weights_sha256
from lavq_core.models.stored import load_shared_model
from lavq_core.privacy.statement import privacy_statement
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config, DetectorConfig, DetectorTrainingConfig
from lavq_core.signals.description import SIZE
from lavq_core.training.detector_training import predict
from lavq_core.training.head_training import PatientItems, released_centre, train_head
from server.app import initial_model

C = 0.5


def network_run(folder: Path, *more: str) -> RunFolder:
    """A run of a small network, as training leaves it; its weights come from the seed."""
    config, run = (
        compose(["detector.width=8", "detector.blocks=1", "data.dir=/somebodys/folder", *more]),
        RunFolder(folder),
    )
    save_artefact(run.model, initial_model(config).parts(), {"classes": []})
    save_config(config, run.config)
    return run


def settings(run: RunFolder, *more: str) -> Config:
    return compose([
        "privacy=eps8", f"detector.pretrained='{run.root}'", f"detector.pretrained_sha256={weights_sha256(run)}", *more
    ])  # fmt: skip


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return network_run(tmp_path_factory.mktemp("public") / "run")


@pytest.fixture(scope="module")
def detector(public: RunFolder) -> FeatureDetector:
    made = build_detector(settings(public).detector, 100, 0)
    assert isinstance(made, FeatureDetector)
    return made


@pytest.fixture(scope="module")
def ecgs(sample_database: Database) -> torch.Tensor:
    return sample_database.signals(np.arange(12))


# --- what it adds ----------------------------------------------------------------------------------------------------


def test_its_logits_are_bounded_whatever_the_ecg(detector: FeatureDetector, ecgs: torch.Tensor) -> None:
    network = detector.network
    assert network is not None
    for scale in (1.0, 1e4):
        described = network.describe((scale * ecgs).numpy())
        assert described.shape == (12, network.size)
        assert (np.linalg.norm(described, axis=1) <= 1 + 1e-6).all()


def test_a_description_is_of_one_ecg_alone(detector: FeatureDetector, ecgs: torch.Tensor) -> None:
    network = detector.network
    assert network is not None
    together = network.describe(ecgs.numpy())
    for row in (0, 11):
        np.testing.assert_allclose(network.describe(ecgs[row : row + 1].numpy())[0], together[row], atol=1e-6)


def test_it_changes_what_the_head_reads_and_nothing_else_is_read(
    detector: FeatureDetector, ecgs: torch.Tensor, sample_database: Database
) -> None:
    """Records that were described beforehand score as the ECGs themselves do."""
    model = copy.deepcopy(detector)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    described = sample_database.described(np.arange(12), model.network)
    torch.testing.assert_close(described[:, :SIZE], sample_database.described(np.arange(12)))
    torch.testing.assert_close(model.scores(described), predict(model, ecgs), atol=1e-5, rtol=1e-4)


# --- privacy ---------------------------------------------------------------------------------------------------------


def items(size: int, owners: list[int], scale: float) -> PatientItems:
    generator = torch.Generator().manual_seed(1)
    x = scale * torch.randn(len(owners), size, generator=generator) / math.sqrt(size)
    return PatientItems.of(x, (torch.rand(len(owners), 5, generator=generator) > 0.6).float(), np.array(owners))


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e4])
def test_one_patient_changes_a_step_by_c_at_most_with_the_network_too(detector: FeatureDetector, scale: float) -> None:
    size = len(detector.centre)
    assert size > SIZE
    whole = items(size, [0, 0, 0, 1, 2], scale)
    rows = whole.owner != 0
    left = PatientItems.of(whole.x[rows], whole.y[rows], whole.owner[rows].numpy())
    config = settings_of_one_step()
    steps = []
    for data in (whole, left):
        model = copy.deepcopy(detector)
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(2))
        before = model.head.weight.detach().double().clone()
        assert float(model.standard(data.x)[:, :-1].norm(dim=1).max()) <= NORM * (1 + 1e-6)
        train_head(model, data, config, C, 0.0, 1.0)
        steps.append(before - model.head.weight.detach().double())
    assert float((steps[0] - steps[1]).norm()) <= C * (1 + 1e-5)
    centres = [released_centre(data, 1.0, 0.0) for data in (whole, left)]
    assert float((centres[0] - centres[1]).norm()) <= NORM * (1 + 1e-5)


def settings_of_one_step() -> DetectorTrainingConfig:
    return replace(compose(["privacy=eps8"]).detector_training, epochs=1, steps=1, lr=1.0, momentum=0.0, averaging=0.0)


def test_it_is_no_part_of_what_travels_or_is_trained(detector: FeatureDetector) -> None:
    assert set(detector.state_dict()) == {"centre", "head.weight"}
    assert [name for name, _ in detector.named_parameters()] == ["head.weight"]


def test_the_statement_says_whom_it_does_not_cover(public: RunFolder) -> None:
    said = privacy_statement(settings(public))
    assert weights_sha256(public)[:16] in said
    assert "none of their patients may be a site's patient" in said
    assert "pre-trained" not in privacy_statement(compose(["privacy=eps8"]))


# --- which network ---------------------------------------------------------------------------------------------------


def test_other_weights_have_another_name_and_another_place_in_the_cache(
    public: RunFolder, sample_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = np.asarray(sample_database.packed[:4])
    networks = [
        pretrained_network(settings(run).detector, 100) for run in (public, network_run(tmp_path / "b", "run.seed=1"))
    ]
    tables = [description_cache.open_network_descriptions(tmp_path / "pack", packed, one) for one in networks if one]
    assert not np.allclose(tables[0], tables[1])
    monkeypatch.setattr(type(networks[0]), "describe", lambda *_: pytest.fail("described again"))
    assert networks[0] is not None
    again = description_cache.open_network_descriptions(tmp_path / "pack", packed, networks[0])
    np.testing.assert_array_equal(again, tables[0])


def test_another_network_than_the_settings_name_is_refused(public: RunFolder, tmp_path: Path) -> None:
    other = network_run(tmp_path / "other", "run.seed=1")
    with pytest.raises(RunError, match="get the one that this run was started with"):
        build_detector(replace(settings(public).detector, pretrained=str(other.root)), 100, 0)


@pytest.mark.parametrize(
    ("folder", "sha256", "message"),
    [("nowhere", "0" * 64, "no run folder"), ("public", "", "detector.pretrained_sha256"), ("rate", "own", "500 Hz"),
     ("kind", "own", "takes a resnet"), ("empty", "0" * 64, "no model")],
)  # fmt: skip
def test_a_network_that_cannot_serve_is_refused_in_words(
    public: RunFolder, tmp_path: Path, folder: str, sha256: str, message: str
) -> None:
    run = public if folder == "public" else RunFolder(tmp_path / folder)
    if folder == "rate":
        network_run(run.root, "data.sampling_rate=500", "separator.stride=20")
    if folder == "kind":
        network_run(run.root, "privacy=eps8")
    if folder == "empty":
        save_config(Config(), run.config)
    given = weights_sha256(run) if sha256 == "own" else sha256
    with pytest.raises((ConfigError, RunError), match=message):
        build_detector(DetectorConfig(kind="features", pretrained=str(run.root), pretrained_sha256=given), 100, 0)


def test_a_resnet_takes_none(public: RunFolder) -> None:
    with pytest.raises(ConfigError, match="whose head uses them"):
        compose([f"detector.pretrained='{public.root}'"])


# --- at rest ---------------------------------------------------------------------------------------------------------


def test_a_run_is_whole_without_the_folder_that_the_network_came_from(tmp_path: Path, ecgs: torch.Tensor) -> None:
    public = network_run(tmp_path / "public")
    config, run = settings(public), RunFolder(tmp_path / "run")
    config.detector.pretrained = keep_pretrained(config, run)
    save_config(config, run.config)
    detector = build_detector(config.detector, 100, 0)
    torch.nn.init.normal_(detector.last_layers()[0])
    expected = predict(detector, ecgs)
    model = initial_model(config)
    save_artefact(run.model, {**model.parts(), "detector": detector.state_dict()}, {"classes": []})
    public.root.rename(tmp_path / "gone")
    moved = run.root.rename(tmp_path / "moved")
    torch.testing.assert_close(predict(load_shared_model(RunFolder(moved)).detector, ecgs), expected)
    assert "/somebodys/folder" not in RunFolder(moved).pretrained.config.read_text()
