"""The audit of a run folder, and of a detector whose run is not at hand; and that both can be trusted both ways."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lavq_core.cli.main import main
from lavq_core.config import compose, save_config
from lavq_core.data.database import Database
from lavq_core.errors import DataError, RunError
from lavq_core.models.detector import build_detector
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import RunFolder
from lavq_core.settings import Config
from lavq_core.training.detector_training import train_detector
from simulations.audit.attacks.scores import attack
from simulations.audit.cohort import Cohort
from simulations.audit.evidence import gather
from simulations.audit.finding import Metrics
from simulations.audit.foreign import audit_model
from simulations.audit.lists import listed_cohort
from simulations.audit.measure import attack_auc, operating_point
from simulations.audit.plan import ceiling
from simulations.audit.run import audit_run
from simulations.audit.shadows.central import CentralRecipe
from simulations.audit.shadows.training import train_shadows
from simulations.audit.verdict import LEAK, NO_POWER, names_members
from tests.simulations.audit_cases import QUIET, SAMPLE, small_cohort

AUGMENTATIONS = ("noise", "amplitude", "shift", "wander", "lead_dropout", "crop")


@pytest.fixture
def tiny(packs: Path) -> Config:
    """A federation whose shadows take a moment each."""
    where = (f"data.dir='{SAMPLE}'", f"data.cache_dir='{packs}'", "run.device=cpu", "audit.shadows=6")
    small = ("detector.width=8", "detector.blocks=1", "detector_training.epochs=1", "federation.rounds=1")
    alone = ("separator_training.steps=0", "twins.per_record=0", "federation.share=[]")
    return compose([*where, *small, *alone])


def finished_run(folder: Path, config: Config) -> RunFolder:
    """A run folder as far as the audit reads it: a final detector, never trained."""
    run = RunFolder(folder)
    model = build_detector(config.detector, config.data.sampling_rate, seed=99)
    about = {"classes": ["NORM", "MI", "STTC", "CD", "HYP"]}
    save_artefact(run.model, {"detector": model.state_dict(), "codebook": {"codes": torch.zeros(1)}}, about)
    save_config(config, run.config)
    return run


# The run


@pytest.mark.parametrize("train_folds", [list(range(3, 11)), [4, 5]], ids=["all but two", "two"])
def test_members_are_the_patients_of_the_training_folds(sample_database: Database, train_folds: list[int]) -> None:
    """Patients of folds that nothing was trained on are non-members, whether or not the folds were scored."""
    folds = f"data.train_folds={train_folds}".replace(" ", "")
    cohort = Cohort.of_run(sample_database, compose(["data.validation_fold=1", "data.test_fold=2", folds]))
    table = sample_database.table
    trained_on = set(table.loc[table["strat_fold"].isin(train_folds), "patient_id"])
    assert set(cohort.patients[cohort.member]) == trained_on
    assert set(cohort.patients) == set(table["patient_id"])
    assert len(cohort.owner) == len(table)


def test_a_patient_on_both_sides_is_a_member_scored_by_what_was_trained_on(sample_database: Database) -> None:
    table = sample_database.table.copy()
    several = table["patient_id"].value_counts().index[0]
    rows = np.flatnonzero(table["patient_id"] == several)
    folds = table["strat_fold"].to_numpy().copy()
    folds[rows], folds[rows[0]] = 10, 1
    table["strat_fold"] = folds
    cohort = Cohort.of_run(replace(sample_database, table=table), compose())
    place = int(np.flatnonzero(cohort.patients == several)[0])
    assert cohort.member[place]
    assert cohort.records()[place] == 1


@pytest.mark.slow
def test_a_run_is_audited_and_an_audit_that_was_broken_off_goes_on(
    sample_database: Database, tiny: Config, tmp_path: Path
) -> None:
    run = finished_run(tmp_path, tiny)
    metrics = audit_run(run, tiny, sample_database, workers=1, console=QUIET)
    for name in ("detector.lira", "detector.rmia", "detector.lira.replicas", "updates.site.replicas"):
        low, found, high = (_number(metrics, f"{name}.tpr_at_1pct_fpr{end}") for end in (".low", "", ".high"))
        assert low <= found <= high
        assert _number(metrics, f"{name}.fpr_reached") <= 0.01
    assert _number(metrics, "detector.lira.auc.low") < 0.5 < _number(metrics, "detector.lira.auc.high")  # never trained
    assert (metrics["audit.members"], metrics["audit.non_members"], metrics["audit.shadows"]) == (258, 161, 6)
    assert metrics["audit.verdict"] == NO_POWER
    assert _number(metrics, "control.auc.low") < 0.5 < _number(metrics, "control.auc.high")

    written = json.loads((run.audit / "audit.json").read_text(encoding="utf-8"))
    assert written["metrics"] == metrics
    assert {one["target"] for one in written["findings"]} == {"run", "replicas"}
    assert {"threat_model", "seed", "seconds", "data"} <= set(written)
    rows = list(csv.DictReader((run.audit / "scores.csv").open(encoding="utf-8")))
    assert len(rows) == 419
    assert sum(int(row["member"]) for row in rows) == 258
    assert sum(int(row["records"]) for row in rows) == len(sample_database)

    first = next((run.audit / "shadows").rglob("shadow-003.safetensors"))
    first.unlink()
    assert audit_run(run, tiny, sample_database, workers=1, console=QUIET) == metrics
    assert json.loads((run.audit / "audit.json").read_text(encoding="utf-8"))["shadows_trained"] == 1


def test_ten_patients_have_no_power(sample_database: Database, tiny: Config, tmp_path: Path) -> None:
    run = finished_run(tmp_path, tiny)
    chosen = sample_database.table["patient_id"].isin(sample_database.table["patient_id"].unique()[:10]).to_numpy()
    few = replace(
        sample_database,
        table=sample_database.table[chosen],
        labels=sample_database.labels[chosen],
        packed=sample_database.packed[chosen],
    )
    metrics = audit_run(run, tiny, few, console=QUIET)
    assert metrics["audit.verdict"] == NO_POWER
    assert metrics["audit.shadows"] == 0
    assert "audit.detector.lira.auc" not in metrics  # nothing was measured, so nothing is reported
    assert json.loads((run.audit / "audit.json").read_text(encoding="utf-8"))["metrics"] == metrics
    assert not (run.audit / "scores.csv").exists()


def test_a_run_without_a_final_detector_says_so(sample_database: Database, tiny: Config, tmp_path: Path) -> None:
    save_config(tiny, RunFolder(tmp_path).config)
    with pytest.raises(RunError, match="no model"):
        audit_run(RunFolder(tmp_path), tiny, sample_database)


def test_a_broken_detector_says_so(sample_database: Database, tiny: Config, tmp_path: Path) -> None:
    run = finished_run(tmp_path, tiny)
    state = build_detector(tiny.detector, 100, seed=0).state_dict()
    state["head.bias"].fill_(float("nan"))
    save_artefact(run.model, {"detector": state, "codebook": {"codes": torch.zeros(1)}}, {"classes": []})
    with pytest.raises(RunError, match="not finite"):
        audit_run(run, tiny, sample_database, workers=1, console=QUIET)


# What could be shown


def test_more_people_can_show_more_and_noise_shows_less_than_nothing_hidden() -> None:
    few, many = ceiling(100, 1e-5), ceiling(1_000, 1e-5)
    assert few.perfect < many.perfect
    for claim, shown in many.gaussian.items():
        assert few.gaussian[claim] <= shown <= claim  # a sound training is never expected to pass its claim


def test_thirty_people_cannot_contradict_an_epsilon_of_eight() -> None:
    assert ceiling(30, 1e-5).perfect < 8.0


def test_a_plan_is_shown_without_training_anything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--plan"]) == 0
    assert "perfect" in capsys.readouterr().out


def test_an_audit_of_nothing_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit"]) == 2
    assert "--run RUN" in capsys.readouterr().err


# A foreign detector


def lists(folder: Path, database: Database, members: int, others: int) -> tuple[Path, Path]:
    table = database.table.reset_index().drop_duplicates("patient_id")
    first, second = folder / "in.csv", folder / "out.csv"
    table[["ecg_id"]].iloc[:members].to_csv(first, index=False)
    table[["ecg_id"]].iloc[members : members + others].to_csv(second, index=False)
    return first, second


def test_a_detector_is_audited_from_two_lists(sample_database: Database, tiny: Config, tmp_path: Path) -> None:
    members, others = lists(tmp_path, sample_database, 40, 35)
    cohort = listed_cohort(members, others, sample_database, 100)
    assert (int(cohort.member.sum()), len(cohort)) == (40, 75)
    model = finished_run(tmp_path / "model", tiny)
    metrics = audit_model(model, cohort, tmp_path / "out", workers=1, console=QUIET)
    assert {"audit.detector.lira.auc", "audit.detector.rmia.auc"} <= set(metrics)
    assert "audit.detector.loss.auc" not in metrics  # it reads who is easy
    assert metrics["audit.verdict"] in (LEAK, NO_POWER)
    assert json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))["metrics"] == metrics


def test_lists_of_files_are_the_same_people_as_lists_of_numbers(sample_database: Database, tmp_path: Path) -> None:
    by_number = listed_cohort(*lists(tmp_path, sample_database, 3, 3), sample_database, 100)
    table = sample_database.table.reset_index().drop_duplicates("patient_id")
    for name, rows in (("files_in.csv", table.iloc[:3]), ("files_out.csv", table.iloc[3:6])):
        listing = rows[["patient_id", "NORM", "MI", "STTC", "CD", "HYP"]].assign(
            file=[str(SAMPLE / file) for file in rows["file"]]
        )
        listing.to_csv(tmp_path / name, index=False)
    by_file = listed_cohort(tmp_path / "files_in.csv", tmp_path / "files_out.csv", None, 100)
    np.testing.assert_array_equal(by_file.signals, by_number.signals)
    np.testing.assert_array_equal(by_file.y, by_number.y)
    assert by_file.patients[by_file.member].tolist() == by_number.patients[by_number.member].tolist()


def test_somebody_in_both_lists_is_refused(sample_database: Database, tmp_path: Path) -> None:
    members, _ = lists(tmp_path, sample_database, 3, 3)
    with pytest.raises(DataError, match="3 patients are in"):
        listed_cohort(members, members, sample_database, 100)


@pytest.mark.parametrize(
    ("content", "said"),
    [("file,patient_id\na,1\n", "lacks the column NORM"), ("ecg_id\n", "lists nobody"), ("", "cannot be read")],
)
def test_a_list_that_cannot_be_used_says_why(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text(content)
    with pytest.raises(DataError, match=said):
        listed_cohort(file, file, None, 100)


def test_a_label_other_than_0_and_1_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    pd.DataFrame([{"file": "a", "patient_id": 1, "NORM": 2, "MI": 0, "STTC": 0, "CD": 0, "HYP": 0}]).to_csv(file)
    with pytest.raises(DataError, match="take 0 and 1"):
        listed_cohort(file, file, None, 100)


# It can be trusted both ways


@pytest.mark.slow
def test_an_overfit_detector_is_convicted_and_an_innocent_one_is_not(sample_database: Database, tmp_path: Path) -> None:
    unaugmented = [f"detector_training.{name}=0" for name in AUGMENTATIONS]
    config = compose(
        ["detector.blocks=4", "detector.dropout=0", "detector.width=8", "detector_training.epochs=12",
         "federation.rounds=1", "audit.shadows=6", *unaugmented]
    )  # fmt: skip
    overfit = CentralRecipe.of_model(config, torch.device("cpu"))
    cohort = small_cohort(sample_database, 200, 100)
    shadows = train_shadows(cohort, overfit, tmp_path, workers=2, console=QUIET)
    alone = overfit.train(cohort, shadows.included[2], 2, tmp_path)["logits"]
    np.testing.assert_array_equal(shadows.answers["logits"][2], alone)  # two at a time train the same models

    guilty = build_detector(overfit.detector, overfit.sampling_rate, seed=123)
    generator = torch.Generator().manual_seed(123)
    train_detector(guilty, cohort.training_data(cohort.member), overfit.training, 100, overfit.epochs, generator)
    evidence = gather({"logits": cohort.logits(guilty)}, shadows, cohort)
    lira, rmia, loss = (
        next(one for one in evidence.findings if (one.attack, one.target) == (name, "run"))
        for name in ("lira", "rmia", "loss")
    )
    assert lira.auc.value > 0.8
    assert lira.points["tpr_at_1pct_fpr"].true_positives.value > 0.1
    assert names_members(lira.points["tpr_at_1pct_fpr"], 4)
    assert lira.points["tpr_at_1pct_fpr"].true_positives.value > loss.points["tpr_at_1pct_fpr"].true_positives.value
    assert rmia.auc.value > 0.8
    replicas = next(one for one in evidence.findings if (one.attack, one.target) == ("lira", "replicas"))
    assert replicas.auc.low > 0.5
    assert evidence.control is not None
    assert evidence.control.auc.low < 0.5 < evidence.control.auc.high  # members against members

    innocent = build_detector(overfit.detector, overfit.sampling_rate, seed=7)
    scores = attack({"logits": cohort.logits(innocent)}, shadows, cohort)[0].values
    assert attack_auc(scores, cohort.member).low < 0.5 < attack_auc(scores, cohort.member).high
    assert not names_members(operating_point(scores, cohort.member))


def _number(metrics: Metrics, key: str) -> float:
    return float(metrics[f"audit.{key}"])
