"""A private run's own files convict it: changed checkpoints, ledgers and claims; an honest run is left alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lavq_core.data.database import Database
from lavq_core.errors import RunError
from lavq_core.privacy import noise
from lavq_core.runs.artefact import load_artefact, save_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.training.head_training import PatientItems
from simulations import sample
from simulations.audit.privacy.artefacts import audit_artefacts
from simulations.audit.privacy.head_replay import _taking_part
from simulations.inprocess import run_in_process

ROUNDS = 3
Tensors = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, packs: Path) -> RunFolder:
    """A federation at epsilon 8, whose noise is of a fixed seed: what is asked here is then asked of the same run."""
    folder = tmp_path_factory.mktemp("private") / "run"
    streams = np.random.SeedSequence(3)
    settings = [
        f"run.dir='{folder}'", f"data.dir='{sample.FOLDER}'", f"data.cache_dir='{packs}'", "run.device=cpu",
        "privacy=eps8", "detector_training.steps=4", "detector_training.epochs=4", f"federation.rounds={ROUNDS}",
        "federation.sites=2", "federation.min_sites=2", "federation.retries=0", "twins.gallery=0",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        fixed = lambda: np.random.Generator(np.random.Philox(streams.spawn(1)[0]))  # noqa: E731
        patch.setattr(noise, "_generator", fixed)
        run_in_process(settings, 2)
    return RunFolder(folder)


@pytest.fixture
def run(honest: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it, to be broken."""
    shutil.copytree(honest.root, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def change(run: RunFolder, number: int, how: Callable[[Tensors], None]) -> None:
    """Write a round's checkpoint as a server that does something else would have."""
    parts, about = load_artefact(run.checkpoint(number))
    how(parts)
    save_artefact(run.checkpoint(number), parts, about)
    if number == ROUNDS:
        save_artefact(run.model, parts, load_artefact(run.model)[1])


def head(run: RunFolder, number: int) -> torch.Tensor:
    return load_artefact(run.checkpoint(number))[0]["detector"]["head.weight"]


def reasons(run: RunFolder, database: Database) -> str:
    audit = audit_artefacts(run, database)
    assert audit.flagged == bool(audit.reasons)
    return "\n".join(audit.reasons)


def test_an_honest_run_is_left_alone(honest: RunFolder, sample_database: Database) -> None:
    audit = audit_artefacts(honest, sample_database)
    assert audit.reasons == ()
    assert audit.claimed == 8
    assert {"size", "centre scale", "round 2: distance", "round 3: distance", "each feature"} <= {
        f.name for f in audit.findings
    }
    assert all("hides it" in said for said in audit.untested)


def test_a_round_with_less_noise_is_named(run: RunFolder, sample_database: Database) -> None:
    start, end = head(run, 2), head(run, 3)
    change(run, 3, lambda parts: parts["detector"].update({"head.weight": start + 0.7 * (end - start)}))
    said = reasons(run, sample_database)
    assert "round 3: noise has driven the head's weights 0." in said
    assert "round 2" not in said


def test_features_without_noise_are_found_among_those_with(run: RunFolder, sample_database: Database) -> None:
    def quiet(parts: Tensors) -> None:
        parts["detector"]["head.weight"][:, 40:90] = 0.0

    for number in (2, 3):
        change(run, number, quiet)
    assert "noise of feature" in reasons(run, sample_database)


def test_a_centre_without_noise_is_flagged(run: RunFolder, sample_database: Database) -> None:
    training = sample_database.in_folds(*range(1, 9))
    means = [
        sample_database.descriptions[training[rows]].mean(axis=0)
        for rows in _by_patient(sample_database.table["patient_id"].to_numpy()[training])
    ]
    centre = torch.from_numpy(np.mean(means, axis=0))

    def exact(parts: Tensors) -> None:
        parts["detector"]["centre"] = centre

    for number in range(1, ROUNDS + 1):
        change(run, number, exact)
    assert "noise of the centre is 0." in reasons(run, sample_database)


def _by_patient(patients: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(patients == one) for one in np.unique(patients)]


def test_what_nothing_private_trains_must_not_change(run: RunFolder, sample_database: Database) -> None:
    def leak(parts: Tensors) -> None:
        parts["codebook"]["codes"][3] += 0.01
        parts["detector"]["mean"] = torch.zeros(3)

    change(run, 2, leak)
    said = reasons(run, sample_database)
    assert "round 2: codebook/codes has changed, and nothing private trains it" in said
    assert "round 2: detector holds mean, which no mechanism releases" in said


def test_a_smaller_claim_than_was_trained_with_is_flagged(run: RunFolder, sample_database: Database) -> None:
    text = run.config.read_text(encoding="utf-8")
    run.config.write_text(text.replace("epsilon: 8", "epsilon: 2"), encoding="utf-8")
    said = reasons(run, sample_database)
    assert "site-0: the ledger's entries cost epsilon 7.9" in said or "entries cost epsilon 8.0" in said
    assert "noise of the centre is 0.3" in said
    assert "the final model states another privacy" in said


def test_a_changed_ledger_and_another_final_model_are_flagged(run: RunFolder, sample_database: Database) -> None:
    ledger = run.site("rest").ledger
    ledger.write_text(ledger.read_text().replace('"round":2', '"round":4', 1), encoding="utf-8")
    parts, about = load_artefact(run.checkpoint(1))
    save_artefact(run.model, parts, {**load_artefact(run.model)[1], "of": about["round"]})
    said = reasons(run, sample_database)
    assert "rest: the privacy ledger" in said
    assert "rest: the ledger has no entry of round 1, 2, 3" in said
    assert "the final model is not that of the last round" in said


def test_a_run_that_claims_nothing_is_refused(run: RunFolder, sample_database: Database) -> None:
    text = run.config.read_text(encoding="utf-8")
    run.config.write_text(text.replace("epsilon: 8", "epsilon: 0"), encoding="utf-8")
    with pytest.raises(RunError, match="claims no epsilon"):
        audit_artefacts(run, sample_database)


def test_replays_sample_patients_as_a_run_does() -> None:
    owner = np.repeat(np.arange(300), 2)
    items = PatientItems.of(torch.zeros(600, 1), torch.zeros(600, 5), owner)
    generator = np.random.default_rng(0)
    present = _taking_part(17, items, 0.25, generator)
    assert present.shape == (17, 600)
    assert present[0].unique().tolist() == [0.25]  # the round without noise is the expected one
    assert present[1:].unique().tolist() == [0.0, 1.0]
    assert float(present[1:].mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(present[:, ::2], present[:, 1::2])  # a patient's records come together
    assert _taking_part(2, items, 1.0, generator).unique().tolist() == [1.0]
