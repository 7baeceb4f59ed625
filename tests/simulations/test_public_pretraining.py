"""The arms of the experiment ``privacy`` in which one hospital's ECGs are public: who takes part, what is compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lavq_core.config import compose, load_config
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import ConfigError
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.models.stored import load_shared_model
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.signals.description import SIZE
from simulations.experiments.jobs import Job
from simulations.experiments.privacy_public import ALONE, _train, _train_public, public_site
from simulations.experiments.readme_tables import LAYOUTS
from simulations.experiments.results_file import Row
from simulations.experiments.scores import gains
from simulations.launch import SAMPLE, prepare

QUICK = (
    "detector.width=8", "detector.blocks=1", "detector_training.steps=2", "detector_training.epochs=2",
    "federation.rounds=2", "separator_training.steps=0", "twins.per_record=0", "twins.gallery=0", "run.device=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def overrides(packs: Path) -> tuple[str, ...]:
    return (f"data.dir='{SAMPLE}'", f"data.cache_dir='{packs}'", *QUICK)


@pytest.fixture(scope="module")
def work(overrides: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the public hospital's records."""
    folder = tmp_path_factory.mktemp("work")
    _train_public(overrides, folder, 0)
    return folder


def test_the_public_hospital_alone_trains_what_is_public(work: Path, overrides: tuple[str, ...]) -> None:
    public = public_site(overrides)
    for kind in ("network", "head"):
        run = RunFolder(work / f"public-{kind}" / "seed-0")
        assert [site.root.name for site in run.sites()] == [public]
        assert load_config(run.config).privacy.epsilon == 0


def test_arms_are_scored_on_the_same_records_and_none_is_the_public_hospitals(
    work: Path, overrides: tuple[str, ...], packs: Path
) -> None:
    public, tables = public_site(overrides), {}
    for arm in (ALONE, "pretrained/eps8", "without/eps8"):
        job = Job(arm, 0, overrides, work / arm.replace("/", "-") / "seed-0")
        tables[arm] = _train(job, work)
        assert public not in set(tables[arm]["site"])
        assert set(tables[arm]["fold"]) == {10}
        assert len(set(tables[arm]["site"])) == 3
    assert len({tuple(sorted(table["ecg_id"])) for table in tables.values()}) == 1
    with_it = load_shared_model(RunFolder(work / "pretrained-eps8" / "seed-0")).detector
    assert isinstance(with_it, FeatureDetector)
    assert with_it.network is not None
    assert len(with_it.centre) == SIZE + 5
    spent = load_config(work / "pretrained-eps8" / "seed-0" / "config.yaml").privacy.epsilon
    assert spent == 8


def test_private_training_starts_from_the_public_head_and_nothing_of_the_network_is_sent(work: Path) -> None:
    """In round 1 the head is as the server sent it."""
    first = load_artefact(RunFolder(work / "pretrained-eps8" / "seed-0").checkpoint(1))[0]["detector"]
    public = load_artefact(RunFolder(work / "public-head" / "seed-0").model)[0]["detector"]["head.weight"]
    assert set(first) == {"centre", "head.weight"}
    torch.testing.assert_close(first["head.weight"][:, :SIZE], public[:, :SIZE])
    torch.testing.assert_close(first["head.weight"][:, -1], public[:, -1])
    assert not first["head.weight"][:, SIZE:-1].any()


def test_the_control_is_the_same_network_untrained(work: Path) -> None:
    trained, untrained = (
        load_artefact(RunFolder(work / f"public-{kind}" / "seed-0").model)[0]["detector"]
        for kind in ("network", "untrained")
    )
    assert {name: value.shape for name, value in trained.items()} == {n: v.shape for n, v in untrained.items()}
    assert not torch.equal(trained["resnet.head.weight"], untrained["resnet.head.weight"])


def test_a_gain_is_a_paired_difference() -> None:
    rng, parts = np.random.default_rng(0), []
    truth, noise = rng.integers(0, 2, size=(150, 5)), rng.random((150, 5))
    for arm, knows in (("a", 0.6), ("b", 0.3), ("c", 0.3)):
        table = pd.DataFrame({"arm": arm, "seed": 0, "ecg_id": range(150), "patient_id": np.arange(150) // 2})
        for c, name in enumerate(SUPERCLASSES):
            table[f"true_{name}"], table[name] = truth[:, c], knows * truth[:, c] + noise[:, c]
        parts.append(table)
    predictions = pd.concat(parts)
    better, equal = gains(predictions, [("a", "b"), ("c", "b")])
    assert (equal.value, equal.low, equal.high) == (0, 0, 0)  # paired: unpaired intervals would be wide
    assert 0 < better.low < better.value < better.high
    assert better.metric == "macro_auc_gain.b"
    with pytest.raises(ValueError, match="other records"):
        gains(predictions[(predictions["arm"] != "a") | (predictions["ecg_id"] < 100)], [("a", "b")])


def test_one_hospital_cannot_be_public_to_itself(overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"federation\.sites"):
        public_site([*overrides, "federation.sites=1", "federation.min_sites=1"])


def test_its_arms_have_tables_of_their_own() -> None:
    rows = [Row(arm, "macro_auc.pooled", 0.9, 0.8, 1.0, 50, 3) for arm in ("eps8", "without/eps8", ALONE)]
    rows.append(Row("pretrained/eps8", "macro_auc_gain.without/eps8", 0.02, 0.01, 0.03, 50, 3))
    text = "\n".join(LAYOUTS["privacy"](rows))
    first, second, *_, last = text.split("\n\n")
    assert "| eps8 |" in first
    assert "without/eps8" not in first
    assert ALONE in second
    assert "| pretrained/eps8 | .020 [.010, .030] |" in last


def test_a_run_names_its_network_by_folder_and_hash(work: Path, overrides: tuple[str, ...], tmp_path: Path) -> None:
    network = work / "public-network" / "seed-0"
    complete, config = prepare(
        [*overrides, "privacy=eps8", f"detector.pretrained={network}"], None, str(tmp_path / "run"), "run"
    )
    assert len(config.detector.pretrained_sha256) == 64
    assert compose(complete).detector == config.detector
