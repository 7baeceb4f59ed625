"""The population evaluation: every figure is what scikit-learn says of the same records, and says nothing of noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, recall_score, roc_auc_score

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.metrics.auc import auc_intervals
from lavq_core.metrics.population import Scored, evaluate
from lavq_core.models.calibration import Calibration


def people(n: int = 600, seed: int = 0) -> tuple[Scored, pd.DataFrame]:
    """Records of n / 2 patients at three sites and a tail, with labels and scores that know something."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 5)) < 0.35).astype(float)
    p = 1 / (1 + np.exp(-(2.0 * labels - 1.2 + rng.normal(size=labels.shape))))
    table = pd.DataFrame(
        {
            "patient_id": np.arange(n) // 2,
            "site": rng.choice([0, 1, 2, 7, 8, -1], size=n, p=[0.3, 0.3, 0.25, 0.05, 0.05, 0.05]),
            "sex": rng.choice([0, 1, -1], size=n, p=[0.5, 0.45, 0.05]),
            "age": np.where(rng.random(n) < 0.05, np.nan, rng.integers(20, 91, size=n)),
            "device": rng.choice(["CS-12   E", "AT-6 C", "rare"], size=n, p=[0.5, 0.48, 0.02]),
        }
    )
    return Scored.of(labels, p, table), table


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    other, _ = people(seed=9)
    return Calibration.fit(other.labels, other.probabilities, 0.9, 9, "other patients")


def test_every_figure_is_scikit_learns(calibration: Calibration) -> None:
    scored, table = people()
    figures = evaluate(scored, calibration, bootstraps=20)
    y, p, q = scored.labels, scored.probabilities, calibration.apply(scored.probabilities)
    assert figures["macro_auc.pooled"].value == pytest.approx(roc_auc_score(y, p))
    assert figures["macro_auprc"].value == pytest.approx(average_precision_score(y, p))
    for c, name in enumerate(SUPERCLASSES):
        flagged = q[:, c] >= float(calibration.thresholds[c] or 0)
        expected = {
            "auc": roc_auc_score(y[:, c], p[:, c]),
            "auprc": average_precision_score(y[:, c], p[:, c]),
            "brier": brier_score_loss(y[:, c], q[:, c]),
            "sensitivity": recall_score(y[:, c], flagged),
            "specificity": recall_score(1 - y[:, c], ~flagged),
        }
        for metric, value in expected.items():
            assert figures[f"{metric}.{name}"].value == pytest.approx(value), metric
    for kind, name, rows in (
        ("site", "1", table["site"] == 1),
        ("site", "rest", ~table["site"].isin([0, 1, 2])),
        ("sex", "1", table["sex"] == 1),
        ("age", "<50", table["age"] < 50),
        ("age", "65-74", table["age"].between(65, 74)),
        ("device", "CS-12 E", table["device"] == "CS-12   E"),
    ):
        found = figures[f"macro_auc.{kind}.{name}"]
        assert found.value == pytest.approx(roc_auc_score(y[rows], p[rows])), name
        assert found.n == int(rows.sum())


def test_sites_are_summed_up_by_their_mean_and_their_worst() -> None:
    figures = evaluate(people()[0], None, bootstraps=20)
    sites = {name: figures[f"macro_auc.site.{name}"] for name in ("0", "1", "2", "rest")}
    values = [found.value for found in sites.values()]
    assert figures["macro_auc.site_macro"].value == pytest.approx(np.mean(values))
    assert figures["macro_auc.worst_site"] == min(sites.values(), key=lambda found: found.value)


def test_small_and_unknown_groups_get_no_figure() -> None:
    names = evaluate(people()[0], None, bootstraps=5).keys()
    assert {"macro_auc.device.AT-6 C", "macro_auc.sex.0"} <= names
    assert not {"macro_auc.device.rare", "macro_auc.sex.-1", "macro_auc.site.7", "macro_auc.site.-1"} & names
    assert not any(name.endswith(".") for name in names)


def test_intervals_draw_patients_as_those_of_the_auc_do() -> None:
    scored, _ = people()
    macro, classes = auc_intervals(scored.labels, scored.probabilities, scored.patients, seed=3, bootstraps=100)
    figures = evaluate(scored, None, seed=3, bootstraps=100)
    assert figures["macro_auc.pooled"] == pytest.approx(macro)
    assert figures["auc.MI"] == classes[1]


def test_every_interval_holds_its_figure(calibration: Calibration) -> None:
    for name, found in evaluate(people()[0], calibration, bootstraps=200).items():
        assert found.low <= found.value <= found.high, name


def test_permuted_labels_read_as_chance(calibration: Calibration) -> None:
    scored, table = people(1600, seed=4)
    order = np.random.default_rng(0).permutation(1600)
    figures = evaluate(Scored.of(scored.labels[order], scored.probabilities, table), calibration, bootstraps=60)
    aucs = {name: found for name, found in figures.items() if "auc" in name}
    outside = [name for name, found in aucs.items() if not found.low - 0.02 <= 0.5 <= found.high + 0.02]
    assert outside == []
    for c, name in enumerate(SUPERCLASSES):
        assert figures[f"auprc.{name}"].value == pytest.approx(scored.labels[:, c].mean(), abs=0.04)
        caught = figures[f"sensitivity.{name}"].value + figures[f"specificity.{name}"].value
        assert caught == pytest.approx(1.0, abs=0.06)


def test_without_a_calibration_nothing_is_said_of_thresholds() -> None:
    names = {name.split(".")[0] for name in evaluate(people()[0], None, bootstraps=5)}
    assert names == {"auc", "auprc", "macro_auc", "macro_auprc", "ece_raw"}


def test_a_class_without_positives_is_left_out_of_means() -> None:
    scored, table = people()
    scored.labels[:, 3] = 0.0
    figures = evaluate(Scored.of(scored.labels, scored.probabilities, table), None, bootstraps=5)
    assert "auc.CD" not in figures
    kept = [0, 1, 2, 4]
    assert figures["macro_auc.pooled"].value == pytest.approx(
        roc_auc_score(scored.labels[:, kept], scored.probabilities[:, kept])
    )
