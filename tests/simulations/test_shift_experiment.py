"""The experiment ``shift``: nobody of the scored hospital was trained on, and figures follow from predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import ConfigError
from lavq_core.training.site_data import SiteData
from simulations.experiments.jobs import Job
from simulations.experiments.readme_tables import LAYOUTS
from simulations.experiments.results_file import Row
from simulations.experiments.shift import ARMS, run_shift, score, train_without
from simulations.launch import SAMPLE
from simulations.partitions import partition

TRUE = [f"true_{name}" for name in SUPERCLASSES]
TINY = ("detector.width=8", "detector.blocks=1", "detector_training.epochs=1", "detector_training.batch=64",
        "federation.rounds=1")  # fmt: skip


@pytest.fixture(scope="module")
def predictions() -> pd.DataFrame:
    """Two seeds at two hospitals: ``tada`` knows more than ``standard`` at the large one, as much at the small one."""
    rng, parts = np.random.default_rng(0), []
    for site, size in (("site-0", 300), ("rest", 120)):
        truth, ids = rng.integers(0, 2, size=(size, 5)), np.arange(size) + (1000 if site == "rest" else 0)
        for seed in (0, 1):
            noise = rng.normal(size=truth.shape)
            for arm in ("standard", "tada"):
                knows = 1.0 if (arm, site) == ("tada", "site-0") else 0.5
                table = pd.DataFrame({"arm": arm, "seed": seed, "site": site, "ecg_id": ids, "patient_id": ids // 2})
                table[TRUE], table[list(SUPERCLASSES)] = truth, knows * truth + noise
                parts.append(table)
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def rows(predictions: pd.DataFrame) -> dict[tuple[str, str], Row]:
    return {(row.arm, row.metric): row for row in score(predictions)}


def test_a_hospital_has_the_mean_over_seeds_of_sklearns_macro_auc(
    predictions: pd.DataFrame, rows: dict[tuple[str, str], Row]
) -> None:
    for site, count in (("site-0", 300), ("rest", 120)):
        part = predictions[(predictions["arm"] == "tada") & (predictions["site"] == site)]
        expected = np.mean([roc_auc_score(t[TRUE], t[list(SUPERCLASSES)]) for _, t in part.groupby("seed")])
        row = rows["tada", f"macro_auc.site.{site}"]
        assert row.value == pytest.approx(expected)
        assert (row.n, row.seeds) == (count, 2)


def test_the_worst_hospital_is_worst_in_the_mean_over_seeds_and_the_mean_counts_hospitals_alike(
    rows: dict[tuple[str, str], Row],
) -> None:
    for arm in ("standard", "tada"):
        each = [rows[arm, f"macro_auc.site.{site}"].value for site in ("site-0", "rest")]
        assert rows[arm, "macro_auc.worst_site"].value == pytest.approx(min(each))
        assert rows[arm, "macro_auc.site_macro"].value == pytest.approx(np.mean(each))


def test_a_gain_is_paired_and_there_is_none_over_itself(rows: dict[tuple[str, str], Row]) -> None:
    gain, same = rows["tada", "gain.site.site-0"], rows["tada", "gain.site.rest"]
    assert gain.value == pytest.approx(
        rows["tada", "macro_auc.site.site-0"].value - rows["standard", "macro_auc.site.site-0"].value
    )
    assert gain.low > 0.0
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0), "the same predictions in the same draws"
    assert not [metric for arm, metric in rows if arm == "standard" and metric.startswith("gain.")]


def test_an_arm_that_does_not_exist_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no arm 'tadda': choose of none, standard"):
        run_shift([f"data.dir='{SAMPLE}'"], 1, tmp_path, 1, ["standard", "tadda"])


def test_arms_differ_in_what_they_say_they_do() -> None:
    training = {arm: compose(["preset=ptbxl", *given]).detector_training for arm, given in ARMS.items()}
    plain = training["none"]
    assert plain.noise == plain.amplitude == plain.shift == plain.wander == plain.lead_dropout == plain.tada == 0.0
    assert training["tada"].tada > 0.0 == training["standard"].tada
    assert {compose(["preset=ptbxl", *ARMS[arm]]).twins.per_record for arm in ("none", "standard", "tada")} == {0}
    assert {compose(["preset=ptbxl", *ARMS[arm]]).twins.per_record for arm in ("twins", "twins-tada")} == {1}


@pytest.mark.slow
def test_the_hospital_that_is_scored_is_scored_whole_and_nobody_there_is_trained_on(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_database: Database
) -> None:
    seen = []
    ecgs = SiteData.ecgs.func

    def watched(site: SiteData) -> object:
        seen.append(site.train_positions)
        return ecgs(site)

    monkeypatch.setattr(SiteData, "ecgs", property(watched))
    overrides = (f"data.dir='{SAMPLE}'", f"data.cache_dir='{packs}'", *TINY)
    table = train_without(Job("tada", 0, (*overrides, *ARMS["tada"]), tmp_path), "site-2")
    shares = partition(sample_database.table, "site", 4, 0)
    assert sorted(table["ecg_id"]) == sorted(sample_database.table.index[shares["site-2"]])
    patients = set(table["patient_id"])
    trained = sample_database.table.iloc[np.unique(np.concatenate(seen))]
    assert not patients & set(trained["patient_id"])
    assert set(trained["strat_fold"]) == set(range(1, 9))
    assert len(trained) == (
        sample_database.table["strat_fold"].le(8).sum()
        - sample_database.table.iloc[shares["site-2"]]["strat_fold"].le(8).sum()
    )
    assert np.array_equal(table[TRUE], sample_database.labels[shares["site-2"]])


def test_the_readme_shows_hospitals_and_then_what_is_gained() -> None:
    lines = LAYOUTS["shift"](
        [
            Row("standard", "macro_auc.site.site-0", 0.8, 0.7, 0.9, 10, 2),
            Row("standard", "macro_auc.worst_site", 0.8, 0.7, 0.9, 10, 2),
            Row("tada", "macro_auc.site.site-0", 0.85, 0.8, 0.9, 10, 2),
            Row("tada", "gain.site.site-0", 0.05, 0.01, 0.09, 10, 2),
        ]
    )
    assert lines == [
        "| left out: macro AUC | site-0 | worst site |",
        "|---|---|---|",
        "| standard | .800 [.700, .900] | .800 [.700, .900] |",
        "| tada | .850 [.800, .900] |  |",
        "",
        "| ... less standard augmentation | site-0 |",
        "|---|---|",
        "| tada | .050 [.010, .090] |",
    ]
