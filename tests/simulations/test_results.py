"""Results files and the README's tables."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import RunError
from simulations.experiments.readme import README, render, update_readme
from simulations.experiments.results_file import FOLDER, Row, read_results, write_results
from simulations.experiments.scores import score


@pytest.fixture
def predictions() -> pd.DataFrame:
    """Two seeds of one arm, 60 patients with two records each, at two sites."""
    rng = np.random.default_rng(0)
    parts = []
    truth = rng.integers(0, 2, size=(120, 5))
    for seed in (0, 1):
        table = pd.DataFrame({"arm": "fedavg/site", "seed": seed, "ecg_id": range(120)})
        table["patient_id"], table["site"] = table["ecg_id"] // 2, np.where(table["ecg_id"] < 80, "site-0", "rest")
        for c, name in enumerate(SUPERCLASSES):
            table[f"true_{name}"] = truth[:, c]
            table[name] = truth[:, c] * 0.3 + rng.random(120)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def test_a_row_is_the_mean_over_seeds_of_sklearns_macro_auc(predictions):
    rows = {row.metric: row for row in score(predictions)}
    sites = {"macro_auc.site.site-0", "macro_auc.site.rest"}
    assert set(rows) == {"macro_auc.pooled", *sites, "macro_auc.site_macro", "macro_auc.worst_site"}
    for metric, part in (("pooled", predictions), ("site.rest", predictions[predictions["site"] == "rest"])):
        expected = [
            roc_auc_score(table[[f"true_{n}" for n in SUPERCLASSES]], table[list(SUPERCLASSES)])
            for _, table in part.groupby("seed")
        ]
        row = rows[f"macro_auc.{metric}"]
        assert row.value == pytest.approx(np.mean(expected))
        assert row.low < row.value < row.high
        assert row.seeds == 2
        assert row.n == part["ecg_id"].nunique()
    per_site = [rows["macro_auc.site.site-0"].value, rows["macro_auc.site.rest"].value]
    assert rows["macro_auc.worst_site"].value == min(per_site)
    assert rows["macro_auc.site_macro"].value == pytest.approx(np.mean(per_site))
    left_out = predictions[predictions["site"] == "rest"].assign(arm="leave-out/rest")
    assert {row.metric for row in score(left_out)} == {"macro_auc.site.rest"}


def test_labels_that_say_nothing_read_as_chance(predictions):
    shuffled = predictions.copy()
    for name in SUPERCLASSES:
        shuffled[name] = np.random.default_rng(1).random(len(shuffled))
    pooled = next(row for row in score(shuffled) if row.metric == "macro_auc.pooled")
    assert pooled.low < 0.5 < pooled.high


def test_a_results_file_comes_back_as_it_was_written(tmp_path):
    row = Row("fedavg/site", "macro_auc.pooled", 0.9, 0.89, 0.91, 100, 3)
    write_results("federation", "lavq experiment federation", {"records": 5}, 12.3, [row], tmp_path)
    content = read_results("federation", tmp_path)
    assert content["rows"] == [row]
    assert set(content) == {"command", "commit", "data", "machine", "seconds", "rows"}
    with pytest.raises(RunError, match="lavq experiment absent"):
        read_results("absent", tmp_path)


def test_the_readme_shows_what_the_results_files_say(tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text(README.read_text(encoding="utf-8"), encoding="utf-8")
    assert not update_readme(copy), "the README differs from simulations/results: run `lavq results`"
    copy.write_text(
        copy.read_text(encoding="utf-8").replace("centralised/site |", "centralised/site | .999", 1), encoding="utf-8"
    )
    assert update_readme(copy), "a figure written by hand must be found"


def test_the_committed_figures_follow_from_the_committed_predictions():
    kept = FOLDER / "predictions" / "federation.csv.gz"
    table = pd.read_csv(io.BytesIO(gzip.decompress(kept.read_bytes())))
    again = {(row.arm, row.metric): row for row in score(table)}
    scored = [row for row in read_results("federation")["rows"] if row.metric.startswith("macro_auc.")]
    assert {(row.arm, row.metric) for row in scored} == set(again)  # what it cost beside them comes from elsewhere
    for row in scored:
        assert again[row.arm, row.metric].value == pytest.approx(row.value, abs=1e-3)  # three decimals are kept


def test_a_table_names_its_command_and_its_sizes():
    text = render("federation")
    content = read_results("federation")
    assert content["command"] in text
    assert str(content["data"]["test_records"]) in text


def test_a_figure_of_a_microsecond_is_not_kept_as_nothing(tmp_path: Path) -> None:
    row = Row("codebook", "codebook.seconds", 8.5823e-07, 0.123456789, 123456.789, 5, 1)
    write_results("bench", "lavq bench", {}, 1.0, [row], tmp_path)
    kept = read_results("bench", tmp_path)["rows"][0]
    assert (kept.value, kept.low, kept.high) == (8.582e-07, 0.12346, 123456.789)
