"""The attacks: LiRA's statistic and likelihood ratio by hand, its shadows, and the audit of a run folder."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import norm

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.errors import ConfigError, RunError
from lavq_core.models.detector import build_detector
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from lavq_core.training.detector_training import train_detector
from simulations.audit.cohort import Cohort, cohort_logits
from simulations.audit.lira import Worlds, fit_worlds, label_margin, log_likelihood_ratio, negative_loss
from simulations.audit.measure import LEAK, NO_POWER, attack_auc, operating_point, verdict
from simulations.audit.run import Metrics, attack, audit_detector, measure
from simulations.audit.shadows import ShadowRecipe, balanced_halves, train_shadow, train_shadows

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"
TINY = ("detector.width=8", "detector.blocks=1", "audit.epochs=1", "audit.shadows=4")
QUIET = Console(quiet=True)
AUGMENTATIONS = ("noise", "amplitude", "shift", "wander", "lead_dropout", "crop")


@pytest.fixture(scope="module")
def database(sample_database: Database) -> Database:
    return sample_database


def small_cohort(database: Database, patients: int, members: int) -> Cohort:
    """Some patients of the sample, drawn at random, the first of a second draw being members."""
    everybody = Cohort.of_run(database, compose())
    generator = np.random.default_rng(0)
    chosen = np.sort(generator.permutation(len(everybody))[:patients])
    keep = np.isin(everybody.owner, chosen)
    member = np.zeros(patients, dtype=bool)
    member[generator.permutation(patients)[:members]] = True
    owner = np.searchsorted(chosen, everybody.owner[keep])
    return Cohort(everybody.signals[keep], everybody.y[keep], owner, everybody.patients[chosen], member)


def recipe(*overrides: str) -> ShadowRecipe:
    return ShadowRecipe.of_run(compose([*TINY, *overrides]), torch.device("cpu"))


def finished_run(folder: Path, config: Config) -> RunFolder:
    """A run folder as far as the audit reads it: a final detector, never trained."""
    run = RunFolder(folder)
    model = build_detector(config.detector, config.data.sampling_rate, seed=99)
    save_artefact(run.model, {"detector": model.state_dict()}, {})
    return run


# The statistic


def test_the_statistic_is_the_logit_of_the_true_label_averaged_over_classes() -> None:
    probability = np.array([[0.9, 0.2, 0.5, 0.7, 0.1]])
    y = np.array([[1.0, 0.0, 1.0, 0.0, 1.0]])
    true = np.array([0.9, 0.8, 0.5, 0.3, 0.1])
    logits = np.log(probability / (1.0 - probability))
    assert label_margin(logits, y)[0] == pytest.approx(np.mean(np.log(true) - np.log(1.0 - true)))
    assert negative_loss(logits, y)[0] == pytest.approx(np.mean(np.log(true)))


def test_the_statistic_does_not_saturate() -> None:
    """Probabilities of these logits are all exactly 1 in float32."""
    confident = np.array([[40.0], [50.0]], dtype=np.float32)
    assert label_margin(confident, np.ones((2, 1))).tolist() == [40.0, 50.0]
    assert negative_loss(-confident, np.ones((2, 1))).tolist() == [-40.0, -50.0]


def test_a_patient_counts_by_the_mean_over_the_records() -> None:
    empty = np.zeros((5, 8, 10), dtype=np.int16)
    cohort = Cohort(empty, np.zeros((5, 5)), np.array([0, 2, 0, 1, 0]), np.arange(3), np.zeros(3, dtype=bool))
    values = np.array([[1.0, 5.0, 2.0, 7.0, 6.0], [0.0, 1.0, 0.0, 2.0, 3.0]])
    np.testing.assert_allclose(cohort.patient_means(values), [[3.0, 7.0, 5.0], [1.0, 2.0, 1.0]])
    np.testing.assert_allclose(cohort.patient_means(values[0]), [3.0, 7.0, 5.0])


# The likelihood ratio


def test_the_likelihood_ratio_is_that_of_two_normal_distributions() -> None:
    worlds = Worlds(np.array([2.0, 1.0]), np.array([0.0, -1.0]), variance=4.0)
    target = np.array([2.0, -3.0])
    by_hand = [(2.0**2 - 0.0) / 8.0, ((-2.0) ** 2 - (-4.0) ** 2) / 8.0]
    densities = norm.logpdf(target, worlds.mean_in, 2.0) - norm.logpdf(target, worlds.mean_out, 2.0)
    np.testing.assert_allclose(log_likelihood_ratio(target, worlds), by_hand)
    np.testing.assert_allclose(log_likelihood_ratio(target, worlds), densities)


def test_means_and_variance_by_hand() -> None:
    """Gaps of 4 and 0 about a mean of 2, seen with variance 2 (1/2 + 1/2): half of their spread of 4 is believed."""
    included = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=bool)
    shadows = np.array([[5.0, 2.0], [3.0, 4.0], [1.0, 4.0], [-1.0, 2.0]])
    worlds = fit_worlds(shadows, included)
    assert worlds.variance == pytest.approx((4 * 1.0 + 4 * 1.0) / 4)  # 8 residuals of 1, 2 degrees a patient
    np.testing.assert_allclose(worlds.mean_in - worlds.mean_out, [2.0 + 2.0 * 0.5, 2.0 - 2.0 * 0.5])
    np.testing.assert_allclose((worlds.mean_in + worlds.mean_out) / 2.0, [2.0, 3.0])


def test_many_shadows_leave_the_patients_own_means_alone() -> None:
    generator = np.random.default_rng(0)
    included = balanced_halves(50, 4000, seed=0)
    shadows = np.where(included, generator.normal(0.0, 2.0, 50), -3.0) + generator.normal(size=included.shape)
    worlds = fit_worlds(shadows, included)
    own = np.where(included, shadows, 0.0).sum(0) / 2000
    np.testing.assert_allclose(worlds.mean_in, own, atol=0.005)
    assert worlds.variance == pytest.approx(1.0, abs=0.01)


def test_a_patient_in_every_shadow_is_refused() -> None:
    included = np.array([[1, 1], [1, 0], [1, 1], [1, 0]], dtype=bool)
    with pytest.raises(ValueError, match="balance"):
        fit_worlds(np.random.default_rng(0).normal(size=(4, 2)), included)


def test_lira_reads_the_exact_rate_of_a_planted_leak_that_the_loss_cannot_see() -> None:
    """Patients differ by 5 in difficulty, training moves each by 2 at noise 1: P(Z > z_.99 - 2) are found at 1 %."""
    generator = np.random.default_rng(4)
    patients, moved = 40_000, 2.0
    difficulty = generator.normal(0.0, 5.0, patients)
    included = balanced_halves(patients, 64, seed=1)
    shadows = difficulty + moved * included + generator.normal(size=included.shape)
    member = generator.random(patients) < 0.5
    target = difficulty + moved * member + generator.normal(size=patients)
    found = operating_point(log_likelihood_ratio(target, fit_worlds(shadows, included)), member)
    # The middle of a patient's means, of 64 shadows, is uncertain by 1 / 8 standard deviation.
    exact = norm.sf(norm.isf(0.01) - moved / np.sqrt(1.0 + 1.0 / 64.0))
    assert found.true_positives.value == pytest.approx(exact, abs=0.03)
    assert operating_point(target, member).true_positives.value < 0.05


# Shadows


@given(st.integers(1, 200), st.integers(1, 16), st.integers(0, 2**32 - 1))
def test_every_patient_is_in_half_of_the_shadows_and_every_shadow_has_half(
    patients: int, pairs: int, seed: int
) -> None:
    included = balanced_halves(patients, 2 * pairs, seed)
    assert included.shape == (2 * pairs, patients)
    assert (included.sum(axis=0) == pairs).all()
    assert (abs(2 * included.sum(axis=1) - patients) <= 1).all()
    np.testing.assert_array_equal(included, balanced_halves(patients, 2 * pairs, seed))


def test_shadow_sets_differ_between_pairs_and_seeds() -> None:
    first, second = balanced_halves(100, 4, seed=0), balanced_halves(100, 4, seed=1)
    assert not (first[0] == first[2]).all()
    assert not (first[0] == second[0]).all()


@pytest.mark.parametrize("overrides", [["audit.shadows=2"], ["audit.shadows=7"], ["audit.epochs=0"]])
def test_numbers_that_the_attack_cannot_use_are_named(overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match=overrides[0].split("=")[0]):
        recipe(*overrides)


def test_a_shadow_depends_on_its_number_and_the_seed_alone(database: Database) -> None:
    cohort, included = small_cohort(database, 12, 6), balanced_halves(12, 4, seed=0)
    torch.manual_seed(1)
    first = train_shadow((cohort, included, recipe()), 1)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after  # a caller's own random numbers are left alone
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, train_shadow((cohort, included, recipe()), 1))
    assert not np.array_equal(first, train_shadow((cohort, included, recipe()), 3))
    assert not np.array_equal(first, train_shadow((cohort, included, recipe("run.seed=1")), 1))


def test_a_finished_shadow_is_not_trained_again(database: Database, tmp_path: Path) -> None:
    cohort = small_cohort(database, 12, 6)
    before = train_shadows(cohort, recipe(), tmp_path, workers=1, console=QUIET)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert (before.trained, len(files)) == (4, 4)
    times = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:100])  # cut short, as no write of ours leaves it
    after = train_shadows(cohort, recipe(), tmp_path, workers=1, console=QUIET)
    assert after.trained == 2
    assert [file.stat().st_mtime_ns == time for file, time in zip(files, times, strict=True)] == [
        True,
        False,
        False,
        True,
    ]
    np.testing.assert_array_equal(before.logits, after.logits)
    assert not list(tmp_path.rglob(".*"))


def test_other_settings_or_patients_are_other_shadows(database: Database) -> None:
    cohort = small_cohort(database, 12, 6)
    other_members = replace(cohort, member=~cohort.member)
    other_labels = replace(cohort, y=1.0 - cohort.y)
    key = recipe().key(cohort)
    assert key == recipe().key(other_members) == replace(recipe(), device="cuda").key(cohort)
    changed = ("audit.epochs=2", "audit.shadows=6", "detector.width=16", "detector_training.noise=0", "run.seed=1")
    assert len({key, recipe().key(other_labels), *(recipe(one).key(cohort) for one in changed)}) == 7


# The run


@pytest.mark.parametrize("train_folds", [list(range(3, 11)), [4, 5]], ids=["all but two", "two"])
def test_members_are_the_patients_of_the_training_folds(database: Database, train_folds: list[int]) -> None:
    """Patients of folds that nothing was trained on are non-members, whether or not the folds were scored."""
    folds = f"data.train_folds={train_folds}".replace(" ", "")
    cohort = Cohort.of_run(database, compose(["data.validation_fold=1", "data.test_fold=2", folds]))
    table = database.table
    trained_on = set(table.loc[table["strat_fold"].isin(train_folds), "patient_id"])
    assert set(cohort.patients[cohort.member]) == trained_on
    assert set(cohort.patients) == set(table["patient_id"])
    assert len(cohort.owner) == len(table)


def test_a_patient_on_both_sides_is_a_member_scored_by_what_was_trained_on(database: Database) -> None:
    table = database.table.copy()
    several = table["patient_id"].value_counts().index[0]
    rows = np.flatnonzero(table["patient_id"] == several)
    folds = table["strat_fold"].to_numpy().copy()
    folds[rows], folds[rows[0]] = 10, 1
    table["strat_fold"] = folds
    cohort = Cohort.of_run(replace(database, table=table), compose())
    place = int(np.flatnonzero(cohort.patients == several)[0])
    assert cohort.member[place]
    assert cohort.records()[place] == 1


def test_a_run_is_audited(database: Database, tmp_path: Path) -> None:
    config = compose([*TINY, "run.device=cpu"])
    run = finished_run(tmp_path, config)
    metrics = audit_detector(run, config, database, workers=1, console=QUIET)
    for name in ("lira", "loss"):
        assert _number(metrics, f"{name}.auc.low") < 0.5 < _number(metrics, f"{name}.auc.high")  # nobody trained it
        low, found, high = (_number(metrics, f"{name}.tpr_at_1pct_fpr{end}") for end in (".low", "", ".high"))
        assert low <= found <= high
        assert _number(metrics, f"{name}.fpr_reached") <= 0.01
    assert (metrics["audit.detector.lira.members"], metrics["audit.detector.lira.non_members"]) == (258, 161)
    assert metrics["audit.detector.lira.shadows"] == 4
    assert "leak" in str(metrics["audit.detector.lira.verdict"])
    assert metrics["audit.detector.lira.verdict"] != LEAK

    written = json.loads((run.audit / "audit.json").read_text(encoding="utf-8"))
    assert written["metrics"] == metrics
    assert len(written["lira"]["fpr"]) == len(written["lira"]["tpr"]) > 100
    assert {"loss", "threat_model", "seed", "seconds", "data"} <= set(written)
    rows = list(csv.DictReader((run.audit / "scores.csv").open(encoding="utf-8")))
    assert len(rows) == 419
    assert sum(int(row["member"]) for row in rows) == 258
    assert sum(int(row["records"]) for row in rows) == len(database)
    assert audit_detector(run, config, database, workers=1, console=QUIET) == metrics  # from the shadows on disk


def test_ten_patients_have_no_power(database: Database, tmp_path: Path) -> None:
    config = compose([*TINY, "run.device=cpu"])
    run = finished_run(tmp_path, config)
    chosen = database.table["patient_id"].isin(database.table["patient_id"].unique()[:10]).to_numpy()
    few = replace(
        database, table=database.table[chosen], labels=database.labels[chosen], packed=database.packed[chosen]
    )
    metrics = audit_detector(run, config, few, console=QUIET)
    assert metrics["audit.detector.lira.verdict"] == NO_POWER
    assert metrics["audit.detector.lira.shadows"] == 0
    assert "audit.detector.lira.auc" not in metrics  # nothing was measured, so nothing is reported
    assert json.loads((run.audit / "audit.json").read_text(encoding="utf-8"))["metrics"] == metrics
    assert not (run.audit / "scores.csv").exists()


def test_a_run_without_a_final_detector_says_so(database: Database, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no model"):
        audit_detector(RunFolder(tmp_path), compose([*TINY, "run.device=cpu"]), database)


def test_a_broken_detector_says_so(database: Database, tmp_path: Path) -> None:
    config = compose([*TINY, "run.device=cpu"])
    run = finished_run(tmp_path, config)
    state = build_detector(config.detector, 100, seed=0).state_dict()
    state["head.bias"].fill_(float("nan"))
    save_artefact(run.model, {"detector": state}, {})
    with pytest.raises(RunError, match="not finite"):
        audit_detector(run, config, database, workers=1, console=QUIET)


# It can be trusted both ways


@pytest.mark.slow
def test_an_overfit_detector_is_convicted_and_an_innocent_one_is_not(database: Database, tmp_path: Path) -> None:
    unaugmented = [f"detector_training.{name}=0" for name in AUGMENTATIONS]
    overfit = recipe("detector.blocks=4", "detector.dropout=0", "audit.epochs=14", *unaugmented)
    cohort = small_cohort(database, 200, 100)
    shadows = train_shadows(cohort, overfit, tmp_path, workers=2, console=QUIET)
    np.testing.assert_array_equal(shadows.logits[2], _alone(cohort, shadows.included, overfit, 2))

    guilty = build_detector(overfit.detector, overfit.sampling_rate, seed=123)
    generator = torch.Generator().manual_seed(123)
    train_detector(guilty, cohort.training_data(cohort.member), overfit.training, 100, overfit.epochs, generator)
    logits = cohort_logits(guilty, cohort)
    metrics, _ = measure(cohort, attack(cohort, logits, shadows), overfit.shadows)
    assert metrics["audit.detector.lira.verdict"] == LEAK
    assert _number(metrics, "lira.auc") > 0.8
    assert _number(metrics, "lira.tpr_at_1pct_fpr") > 0.1
    assert _number(metrics, "lira.tpr_at_1pct_fpr") > _number(metrics, "loss.tpr_at_1pct_fpr")

    innocent = build_detector(overfit.detector, overfit.sampling_rate, seed=7)
    scores = attack(cohort, cohort_logits(innocent, cohort), shadows).lira
    assert attack_auc(scores, cohort.member).low < 0.5 < attack_auc(scores, cohort.member).high
    assert verdict(operating_point(scores, cohort.member)) != LEAK

    shuffled = np.random.default_rng(0).permutation(cohort.member)
    scores = attack(cohort, logits, shadows).lira
    assert attack_auc(scores, shuffled).low < 0.5 < attack_auc(scores, shuffled).high
    assert verdict(operating_point(scores, shuffled)) != LEAK


def _alone(cohort: Cohort, included: np.ndarray, how: ShadowRecipe, index: int) -> np.ndarray:
    """The same shadow, trained in this process with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train_shadow((cohort, included, how), index)
    finally:
        torch.set_num_threads(threads)


def _number(metrics: Metrics, key: str) -> float:
    return float(metrics[f"audit.detector.{key}"])
