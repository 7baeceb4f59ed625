"""The experiment ``scaling``: figures follow from predictions, the validation fold chooses, cost is counted right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lavq_core.config import compose
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import ConfigError
from simulations.experiments.readme_tables import LAYOUTS
from simulations.experiments.results_file import Row
from simulations.experiments.scaling import costs, run_scaling, score, sized
from simulations.experiments.study_tables import worth_their_cost

SIZES = {"d1-w8-k3": (1, 8, 3), "d1-w16-k3": (1, 16, 3), "d2-w8-k3": (2, 8, 3), "d2-w16-k3": (2, 16, 3)}
FOLDS = {"validation": 9, "test": 10}
TRUE = [f"true_{name}" for name in SUPERCLASSES]


@pytest.fixture(scope="module")
def predictions() -> pd.DataFrame:
    """Two seeds of four sizes: the deeper they are the better on fold 9, and on fold 10 the other way round."""
    rng, parts = np.random.default_rng(0), []
    truth = rng.integers(0, 2, size=(400, 5))
    for arm, (depth, width, _) in SIZES.items():
        for seed in (0, 1):
            table = pd.DataFrame({"arm": arm, "seed": seed, "ecg_id": range(400), "patient_id": np.arange(400) // 2})
            table["fold"] = np.where(np.arange(400) < 200, 9, 10)
            knows = np.where(table["fold"] == 9, depth, 3 - depth) + width / 100
            table[TRUE] = truth
            table[list(SUPERCLASSES)] = 0.4 * knows[:, None] * truth + rng.normal(size=truth.shape)
            parts.append(table)
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def rows(predictions: pd.DataFrame) -> dict[tuple[str, str], Row]:
    return {(row.arm, row.metric): row for row in score(predictions, FOLDS, SIZES)}


def sklearns(predictions: pd.DataFrame, arm: str, fold: int) -> float:
    part = predictions[(predictions["arm"] == arm) & (predictions["fold"] == fold)]
    return float(np.mean([roc_auc_score(t[TRUE], t[list(SUPERCLASSES)]) for _, t in part.groupby("seed")]))


def test_an_arm_has_the_mean_over_seeds_of_sklearns_macro_auc(
    predictions: pd.DataFrame, rows: dict[tuple[str, str], Row]
) -> None:
    for arm in SIZES:
        for name, fold in FOLDS.items():
            row = rows[arm, f"macro_auc.{name}"]
            assert row.value == pytest.approx(sklearns(predictions, arm, fold))
            assert row.low < row.value < row.high
            assert (row.n, row.seeds) == (200, 2)


def test_a_size_has_the_mean_of_all_arms_of_it(rows: dict[tuple[str, str], Row]) -> None:
    assert {arm for arm, _ in rows} == {*SIZES, "depth-1", "depth-2", "width-8", "width-16", "kernel-3"}
    deep = [rows[arm, "macro_auc.test"].value for arm in ("d2-w8-k3", "d2-w16-k3")]
    assert rows["depth-2", "macro_auc.test"].value == pytest.approx(np.mean(deep))


def test_the_validation_fold_names_the_best_whatever_the_test_fold_says(rows: dict[tuple[str, str], Row]) -> None:
    best = [arm for arm in SIZES if rows[arm, "behind.validation"].value == 0.0]
    assert len(best) == 1
    assert best[0].startswith("d2-")
    behind = rows[best[0], "behind.validation"]
    assert behind.low == behind.high == 0.0
    assert all(rows[arm, "behind.validation"].value >= 0.0 for arm in SIZES)
    shallow = rows["d1-w16-k3", "behind.test"]
    assert shallow.value < 0.0, "on the test fold the shallow ones are better, and it decides nothing"
    assert shallow.value == pytest.approx(
        rows[best[0], "macro_auc.test"].value - rows["d1-w16-k3", "macro_auc.test"].value
    )


def test_a_difference_of_the_same_draws_is_narrower_than_two_intervals(rows: dict[tuple[str, str], Row]) -> None:
    behind = rows["d1-w8-k3", "behind.validation"]
    single = rows["d1-w8-k3", "macro_auc.validation"]
    assert behind.low > 0.0, "an arm that knows half as much lies behind for certain"
    assert behind.high - behind.low < 1.5 * (single.high - single.low)


@pytest.mark.slow  # torch takes seconds to load its counter
def test_cost_is_counted_as_by_hand() -> None:
    config = compose(["preset=detector", "detector.kind=resnet", *sized(1, 8, 3)])
    found = {row.metric: row.value for row in costs("d1-w8-k3", config)}
    stem = 500 * 8 * 8 * 11  # samples out x channels in x out x kernel
    block = 250 * (8 * 12 * 3 + 12 * 12 * 3 + 8 * 12 * 1)
    assert found["macs"] == stem + block + 24 * 5
    weights = 8 * 8 * 11 + 2 * 8 + 8 * 12 * 3 + 12 * 12 * 3 + 8 * 12 + 4 * 12 + 24 * 5 + 5
    assert (found["parameters"], found["bytes"]) == (weights, 4 * weights)
    assert found["seconds"] > 0.0
    assert found["train_seconds"] > 0.0


def test_a_size_that_no_run_can_have_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"detector\.kernel must be odd"):
        run_scaling(["preset=detector"], 1, tmp_path, 1, [1], [8], [3, 4])
    assert list(tmp_path.iterdir()) == []


def listed(auc: dict[str, float], macs: dict[str, float]) -> list[Row]:
    rows = [Row(arm, f"{kind}.{fold}", v, v - 0.01, v + 0.01, 10, 1)
            for arm, v in auc.items() for kind in ("macro_auc", "behind") for fold in FOLDS]  # fmt: skip
    for arm, value in macs.items():
        costs = {"parameters": 1234.0, "bytes": 4936.0, "macs": value, "seconds": 0.002, "train_seconds": 0.01}
        rows += [Row(arm, name, figure, figure, figure, 0, 1) for name, figure in costs.items()]
    return [*rows, Row("depth-1", "macro_auc.validation", 0.8, 0.7, 0.9, 10, 1)]


def test_the_readme_shows_what_no_cheaper_size_equals() -> None:
    auc = {"d1-w8-k3": 0.80, "d2-w8-k3": 0.79, "d1-w16-k3": 0.85, "d2-w16-k3": 0.85}
    macs = {"d1-w8-k3": 1e6, "d2-w8-k3": 2e6, "d1-w16-k3": 3e6, "d2-w16-k3": 4e6}
    rows = listed(auc, macs)
    assert worth_their_cost(rows) == ["d1-w8-k3", "d1-w16-k3"]
    lines = LAYOUTS["scaling"](rows)
    assert "| depth 1 | .800 [.700, .900] |  |" in lines
    assert any(line.startswith("| d1-w16-k3 | .850 [.840, .860] | ") for line in lines)
    assert not any(line.startswith("| d2-w16-k3") for line in lines)
    assert any(line.endswith("| 1,234 | 5 | 3.0 | 2 ms | 10 ms |") for line in lines)
