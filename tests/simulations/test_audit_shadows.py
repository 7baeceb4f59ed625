"""Shadows: who is in which, that they are repeatable, kept and shared out, and what a federated one is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.errors import ConfigError, RunError
from lavq_core.models.stored import load_shared_model
from lavq_core.runs.layout import RunFolder
from simulations.audit.answers import model_answers
from simulations.audit.attacks.people import BeatFrame
from simulations.audit.cohort import Cohort
from simulations.audit.published import PublishedModel
from simulations.audit.shadows import federated
from simulations.audit.shadows.central import CentralRecipe
from simulations.audit.shadows.federated import FederatedRecipe
from simulations.audit.shadows.training import Shadows, fair_halves, train_shadows
from simulations.inprocess import run_in_process
from tests.simulations.audit_cases import QUIET, SAMPLE, small_cohort

TINY = ("detector.width=8", "detector.blocks=1", "detector_training.epochs=1", "federation.rounds=1", "audit.shadows=6")


def recipe(*overrides: str) -> CentralRecipe:
    return CentralRecipe.of_model(compose([*TINY, *overrides]), torch.device("cpu"))


# Who is in which


@given(st.integers(1, 200), st.integers(1, 16), st.integers(0, 2**32 - 1))
def test_every_patient_is_in_one_shadow_of_each_pair(patients: int, pairs: int, seed: int) -> None:
    included = fair_halves(patients, 2 * pairs, seed)
    assert included.shape == (2 * pairs, patients)
    assert (included[0::2] == ~included[1::2]).all()
    np.testing.assert_array_equal(included, fair_halves(patients, 2 * pairs, seed))


def test_memberships_of_one_shadow_are_fair_coins() -> None:
    """As many heads as coins have, with their spread: a shadow of exactly half would not be independent coins."""
    heads = np.array([fair_halves(400, 2, seed)[0].sum() for seed in range(2_000)])
    assert heads.mean() == pytest.approx(200, abs=1)
    assert heads.var() == pytest.approx(100, rel=0.15)


def test_shadow_sets_differ_between_pairs_and_seeds() -> None:
    first, second = fair_halves(100, 4, seed=0), fair_halves(100, 4, seed=1)
    assert not (first[0] == first[2]).all()
    assert not (first[0] == second[0]).all()


def test_a_replica_is_attacked_without_the_shadow_that_tells_who_was_in_it() -> None:
    shadows = Shadows(fair_halves(10, 6, seed=0), {"logits": np.arange(6.0)}, 6)
    rest = shadows.without_pair_of(3)
    np.testing.assert_array_equal(rest.answers["logits"], [0.0, 1.0, 4.0, 5.0])
    np.testing.assert_array_equal(rest.included, shadows.included[[0, 1, 4, 5]])
    assert (rest.included.sum(axis=0) == 2).all()


@pytest.mark.parametrize("shadows", [2, 4, 7])
def test_numbers_that_the_attack_cannot_use_are_named(shadows: int) -> None:
    with pytest.raises(ConfigError, match=r"audit\.shadows"):
        compose([f"audit.shadows={shadows}"])


# Central ones


def test_a_shadow_depends_on_its_number_and_the_seed_alone(sample_database: Database, tmp_path: Path) -> None:
    cohort = small_cohort(sample_database, 12, 6)
    included = fair_halves(12, 6, seed=0)[1]

    def logits(how: CentralRecipe, index: int) -> np.ndarray:
        return how.train(cohort, included, index, tmp_path)["logits"]

    torch.manual_seed(1)
    first = logits(recipe(), 1)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after  # a caller's own random numbers are left alone
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, logits(recipe(), 1))
    assert not np.array_equal(first, logits(recipe(), 3))
    assert not np.array_equal(first, logits(recipe("run.seed=1"), 1))


def test_a_finished_shadow_is_not_trained_again(sample_database: Database, tmp_path: Path) -> None:
    cohort = small_cohort(sample_database, 12, 6)
    before = train_shadows(cohort, recipe(), tmp_path, workers=1, console=QUIET)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert (before.trained, len(files)) == (6, 6)
    times = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:100])  # cut short, as no write of ours leaves it
    after = train_shadows(cohort, recipe(), tmp_path, workers=1, console=QUIET)
    assert after.trained == 2
    kept = [file.stat().st_mtime_ns == time for file, time in zip(files, times, strict=True)]
    assert kept == [True, False, False, True, True, True]
    np.testing.assert_array_equal(before.answers["logits"], after.answers["logits"])
    assert not list(tmp_path.rglob(".*"))


def test_other_settings_or_patients_are_other_shadows(sample_database: Database) -> None:
    cohort = small_cohort(sample_database, 12, 6)
    other_members = replace(cohort, member=~cohort.member)
    other_labels = replace(cohort, y=1.0 - cohort.y)
    key = recipe().key(cohort)
    assert key == recipe().key(other_members) == replace(recipe(), device="cuda").key(cohort)
    changed = (
        "detector_training.epochs=2", "audit.shadows=8", "detector.width=16", "detector_training.noise=0", "run.seed=1"
    )  # fmt: skip
    assert len({key, recipe().key(other_labels), *(recipe(one).key(cohort) for one in changed)}) == 7


def test_a_features_detector_has_no_central_recipe() -> None:
    with pytest.raises(ConfigError, match="--run"):
        CentralRecipe.of_model(compose(["privacy=eps8"]), torch.device("cpu"))


# Federated ones


def federation(packs: Path, *overrides: str) -> list[str]:
    return [
        f"data.dir='{SAMPLE}'", f"data.cache_dir='{packs}'", "run.device=cpu", "detector.width=8", "detector.blocks=1",
        "detector_training.epochs=1", "federation.rounds=2", "separator_training.steps=0", "twins.per_record=0",
        "federation.share=[]", *overrides,
    ]  # fmt: skip


def test_a_shadow_of_everybody_is_the_federation_itself(sample_database: Database, packs: Path, tmp_path: Path) -> None:
    """The same server, sites, rounds and initial weights: with the run's training patients the weights are the same."""
    overrides = [*federation(packs), f"run.dir='{tmp_path / 'run'}'"]
    config = compose(overrides)
    run_in_process(overrides, config.federation.sites)
    cohort = Cohort.of_run(sample_database, config)
    recipe = FederatedRecipe.of_run(config, "cpu")
    answers = recipe.train(cohort, cohort.member, 0, tmp_path)
    own = model_answers(PublishedModel.of_run(RunFolder(tmp_path / "run"), None), cohort)
    np.testing.assert_array_equal(answers["logits"], own["logits"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # of a shadow its answers stay, and nothing else


def test_a_shadow_trains_on_its_patients_alone(sample_database: Database, packs: Path, tmp_path: Path) -> None:
    members = tmp_path / "members"
    everybody = np.unique(sample_database.table["patient_id"])
    chosen = everybody[::2]
    members.write_text("\n".join(map(str, chosen)))
    overrides = [*federation(packs), f"run.dir='{tmp_path / 'run'}'", f"partition.members='{members}'"]
    config = compose(overrides)
    run_in_process(overrides, config.federation.sites)
    from client.site import _simulated

    sites = _simulated(tuple(overrides), config.federation.sites)
    trained = np.concatenate([site.data.rows(site.data.train_positions)["patient_id"] for site in sites])
    assert set(trained) == set(chosen)
    assert load_shared_model(RunFolder(tmp_path / "run")) is not None


def test_updates_are_seen_by_site_and_add_up_to_what_they_changed(
    sample_database: Database, packs: Path, tmp_path: Path
) -> None:
    """With one site the site's update is the aggregate: what it gained in all is the last minus the first."""
    alone = federation(packs, "federation.sites=1", "federation.min_sites=1", "partition.scheme=iid")
    config = compose([*alone, f"run.dir='{tmp_path / 'run'}'"])
    cohort = Cohort.of_run(sample_database, config)
    answers = FederatedRecipe.of_run(config, "cpu").train(cohort, cohort.member, 0, tmp_path)
    from lavq_core.models.detector import build_detector
    from simulations.audit.attacks.lira import label_margin

    initial = cohort.logits(build_detector(config.detector, 100, config.run.seed))
    change = label_margin(answers["logits"], cohort.y) - label_margin(initial, cohort.y)
    np.testing.assert_allclose(answers["updates/site"], cohort.patient_means(change), rtol=1e-4, atol=1e-5)


def test_private_shadows_are_private_trainings(sample_database: Database, packs: Path, tmp_path: Path) -> None:
    """Their noise is the system's: the same shadow twice is not the same, which is why none is asked to be."""
    quick = ("privacy=eps8", "detector_training.steps=4", "detector_training.epochs=4", "federation.rounds=2")
    config = compose([f"data.dir='{SAMPLE}'", f"data.cache_dir='{packs}'", f"run.dir='{tmp_path / 'run'}'", *quick])
    cohort = Cohort.of_run(sample_database, config)
    recipe = FederatedRecipe.of_run(config, "cpu")
    first, second = (recipe.train(cohort, cohort.member, 0, tmp_path)["logits"] for _ in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("epsilon", "failures", "comes_through"), [(8, 1, True), (8, 5, False), (0, 1, False)])
def test_a_private_shadow_that_its_noise_has_broken_is_trained_again_and_no_other(
    sample_database: Database,
    packs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epsilon: int,
    failures: int,
    comes_through: bool,
) -> None:
    quick = ("detector_training.steps=1", "detector_training.epochs=1", "federation.rounds=2", "federation.share=[]")
    private = ("privacy=eps8",) if epsilon else ("separator_training.steps=0", *TINY[:2])
    config = compose([f"data.dir='{SAMPLE}'", f"data.cache_dir='{packs}'", f"run.dir='{tmp_path}'", *private, *quick])
    watchers = []

    def broken_at_first(overrides: list[str], sites: int, client_app: object) -> None:
        watchers.append(client_app)
        if len(watchers) <= failures:
            (tmp_path / "run-000").mkdir()
            raise RunError("only 2 of 4 sites gave a usable update in round 1")
        run_in_process(overrides, sites, client_app=client_app)  # type: ignore[arg-type]

    monkeypatch.setattr(federated, "run_in_process", broken_at_first)
    cohort = Cohort.of_run(sample_database, config)
    if comes_through:
        answers = FederatedRecipe.of_run(config, "cpu").train(cohort, cohort.member, 0, tmp_path)
        assert np.isfinite(answers["logits"]).all()
        assert watchers[0] is not watchers[1]  # what the broken one saw does not count
    else:
        with pytest.raises(RunError, match="only 2 of 4"):
            FederatedRecipe.of_run(config, "cpu").train(cohort, cohort.member, 0, tmp_path)
        assert len(watchers) == failures


@pytest.mark.slow
def test_a_whole_shadow_is_asked_about_codebook_and_twins_and_its_updates_too(
    sample_database: Database, packs: Path, tmp_path: Path
) -> None:
    small = (
        "separator_training.steps=2", "separator_training.batch=4", "separator_training.after=0", "separator.width=16",
        "separator.blocks=1", "separator.heads=2", "codebook.size=16", "twins.after=.5", "twins.per_record=1",
        "federation.share=[separator,editor,prior]", "audit.whole=true",
        "separator.gate_threshold=.05",
    )  # fmt: skip
    config = compose([*federation(packs, *small), f"run.dir='{tmp_path / 'run'}'"])
    cohort = Cohort.of_run(sample_database, config)
    frame = BeatFrame.of_cohort(sample_database, config, cohort)
    answers = FederatedRecipe.of_run(config, "cpu", frame).train(cohort, cohort.member, 0, tmp_path)
    surfaces = {name.split("/")[0] for name in answers}
    assert surfaces == {"logits", "updates", "codebook", "twins"}
    assert all(values.shape == (len(cohort),) for name, values in answers.items() if name != "logits")
    near = answers["updates/nearest_code"]
    assert np.nanmax(near[cohort.member]) > 1 - 1e-4  # a code that one latent alone has chosen is that latent
    assert np.isfinite(answers["twins/density"]).sum() > 400  # whoever has beats of one shape


def test_separators_are_shadowed_when_asked_for_or_when_they_share_the_privacy_budget() -> None:
    assert not FederatedRecipe.of_run(compose(), "cpu").whole
    assert FederatedRecipe.of_run(compose(["audit.whole=true"]), "cpu").whole
    private = ["privacy=eps8", "separator_training.steps=4", "federation.share=[separator,editor,prior]"]
    assert FederatedRecipe.of_run(compose(private), "cpu").whole
    assert not FederatedRecipe.of_run(compose(["privacy=eps8"]), "cpu").whole
