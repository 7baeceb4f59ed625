"""The experiment ``personal``: who is scored, who is trained on, and figures that follow from the predictions."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import DataError
from lavq_core.models.codebook import initial_codebook
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import beat_tokens, make_networks
from lavq_core.training.detector_training import predict
from lavq_core.training.site_data import SiteData
from simulations.experiments.generators import ONE_SITE, Generator
from simulations.experiments.personal import personal_predictions, predict_seed, train_population
from simulations.experiments.readme_tables import LAYOUTS
from simulations.experiments.results_file import FOLDER, Row, read_results
from simulations.personal.arms import ARMS, OTHER, OWN, Arms, Others, match_others, noisy_copies
from simulations.personal.cohort import check_withheld, follow_up, in_time, without
from simulations.personal.figures import against_all_norms, on_the_disease, score, within_people

NORM, MI, STTC, BOTH, NORM_AND_MI, NOTHING = (
    np.array(row, dtype=np.float32)
    for row in ("10000", "01000", "00100", "01100", "11000", "00000")
    for row in [list(map(float, row))]
)

FULL = os.environ.get("LAVQ_PTBXL", "")


def listed(*rows: tuple[int, str | None, np.ndarray]) -> tuple[pd.DataFrame, np.ndarray]:
    """Records numbered from 1: patient, day, labels."""
    table = pd.DataFrame({"patient_id": [p for p, _, _ in rows], "recording_date": [d for _, d, _ in rows]})
    table["recording_date"] = pd.to_datetime(table["recording_date"])
    return table.set_index(pd.Index(range(1, len(rows) + 1), name="ecg_id")), np.stack([y for _, _, y in rows])


def test_people_have_a_norm_only_record_and_an_abnormal_one_and_eligible_ones_in_that_order() -> None:
    records = follow_up(
        *listed(
            (1, "1990-01-01", NORM),
            (1, "1991-01-01", MI),  # eligible
            (2, "1991-02-01", STTC),
            (2, "1991-03-01", NORM),  # the other way round
            (3, "1991-04-01", NORM),
            (3, "1991-05-01", NORM),  # never ill
            (4, "1991-06-01", MI),
            (4, "1991-07-01", STTC),  # never well
            (5, "1991-08-01", NORM),
            (5, "1991-09-01", NORM_AND_MI),  # never without NORM
            (6, "1991-10-01", NORM),
            (6, "1991-11-01", BOTH),  # eligible, but of no single class
            (7, "1991-12-01", NORM),
            (7, "1991-12-02", NOTHING),  # nobody said what it is
        )
    )
    by_person = records.groupby("patient_id")[["eligible", "cohort", "norm_first"]].first()
    assert by_person.loc[1].tolist() == [True, True, True]
    assert by_person.loc[2].tolist() == [False, True, False]
    assert by_person.loc[6].tolist() == [True, False, True]
    assert by_person.index.tolist() == [1, 2, 6]


def test_the_reference_is_the_earliest_norm_only_record_and_never_scored() -> None:
    table, labels = listed(
        (1, "1990-01-01", BOTH), (1, "1990-02-01", NORM_AND_MI), (1, "1990-03-01", NORM),
        (1, "1990-04-01", NORM), (1, "1990-05-01", MI),
    )  # fmt: skip
    records = follow_up(table, labels)
    assert records["reference"].unique().tolist() == [3]
    assert records.index.tolist() == [1, 2, 4, 5]
    assert records["later"].tolist() == [False, False, True, True]
    assert records["norm_first"].all(), "what came before it is of no single class"


def test_a_record_without_date_stands_where_its_number_puts_it() -> None:
    undated = listed((1, "1990-01-01", MI), (1, None, NORM), (1, "1992-01-01", MI))
    assert follow_up(*undated)["later"].tolist() == [False, True]


def test_where_dates_contradict_the_numbers_they_decide_and_undated_records_are_left_out() -> None:
    table, labels = listed((1, "1993-01-01", MI), (1, None, NORM), (1, "1992-01-01", NORM), (1, "1994-01-01", NORM))
    assert in_time(table).index.tolist() == [3, 1, 4]
    records = follow_up(table, labels)
    assert records.index.tolist() == [1, 4]
    assert records["eligible"].all()


@pytest.fixture(scope="module")
def database(sample_database: Database) -> Database:
    return sample_database


@pytest.fixture(scope="module")
def records(database: Database) -> pd.DataFrame:
    return follow_up(database.table, database.labels)


def test_no_record_of_anybody_scored_is_left_to_train_on(database: Database, records: pd.DataFrame) -> None:
    left = without(database, records["patient_id"].unique())
    kept, gone = (set(database.table["patient_id"].iloc[rows]) for rows in (left, np.setdiff1d(range(520), left)))
    assert gone == set(records["patient_id"])
    assert not kept & gone
    check_withheld(database, left, records["patient_id"].unique(), "the training set")


def test_a_planted_leak_stops_the_training(database: Database, records: pd.DataFrame, tmp_path: Path) -> None:
    """One later record of one eligible person is enough."""
    people = records["patient_id"].unique()
    leak = database.positions_of(records[records["eligible"] & records["later"]].index[-1:].to_numpy())
    site = SiteData("everybody", database, np.append(without(database, people), leak), compose())
    with pytest.raises(DataError, match="1 records of 1 people whose detectors are evaluated are in the training set"):
        train_population(site, people, tmp_path)
    assert not any(tmp_path.iterdir()), "nothing was trained"


def test_others_are_neither_people_nor_trained_on(database: Database, records: pd.DataFrame) -> None:
    people = records["patient_id"].unique()
    others = Others.of(database, people, (9, 10))
    chosen = np.concatenate([others.healthy, *others.diseased.values()])
    rows = database.table.iloc[chosen]
    assert rows["strat_fold"].isin((9, 10)).all()
    assert not rows["patient_id"].isin(people).any()
    assert database.norm_only()[others.healthy].all()
    for c, positions in others.diseased.items():
        assert (database.labels[positions] == np.eye(5)[c]).all()
    with pytest.raises(DataError, match="lack other people"):
        Others.of(database, database.table["patient_id"].unique(), (9, 10))


def test_a_matched_other_is_like_the_person_and_never_the_person(database: Database) -> None:
    references = database.healthy_references()[:60]
    pool = database.healthy_references()  # everybody's own record is in it, and would suit best
    table = database.table
    chosen = match_others(database, references, pool, seed=0)
    assert np.isin(chosen, pool).all()
    assert (table["patient_id"].to_numpy()[chosen] != table["patient_id"].to_numpy()[references]).all()
    sex, site, age = (table[name].to_numpy() for name in ("sex", "site", "age"))
    known = table["age"].notna().to_numpy()[pool]
    for own, other in zip(references, chosen, strict=True):
        alike = pool[(sex[pool] == sex[own]) & (site[pool] == site[own]) & (pool != own) & known]
        if len(alike) and not np.isnan(age[own]):
            assert (sex[other], site[other]) == (sex[own], site[own])
            assert abs(age[other] - age[own]) == np.abs(age[alike] - age[own]).min()
    with pytest.raises(DataError, match="nobody"):
        match_others(database, references[:1], references[:1], seed=0)


@pytest.fixture(scope="module")
def generator() -> Generator:
    """An untrained generator, tiny."""
    sizes = ["codebook.size=8", "separator.width=16", "separator.blocks=1", "separator.heads=2", "detector.width=8"]
    config = compose([*sizes, "detector.blocks=1", "personal.twins=2", "personal.steps=1", "personal.lr=.01"])
    codebook = initial_codebook(config.codebook, beat_tokens(config), 0)
    codebook["requests"][1:] = 1.0
    networks = make_networks(config, 0).eval()
    with torch.no_grad():
        networks.editor.paint.weight.mul_(100.0)  # else its edits are too small to tell arms apart
    return Generator(networks, codebook, config)


@pytest.fixture(scope="module")
def few(records: pd.DataFrame) -> pd.DataFrame:
    """Three people's records."""
    return records[records["patient_id"].isin(records["patient_id"].unique()[:3])]


@pytest.fixture(scope="module")
def others(database: Database, records: pd.DataFrame) -> Others:
    return Others.of(database, records["patient_id"].unique(), (9, 10))


def test_arms_differ_in_their_ecgs_and_in_nothing_else(
    database: Database, generator: Generator, few: pd.DataFrame, others: Others
) -> None:
    references = database.positions_of(few["reference"].unique())
    arms = Arms(generator, database, references, others, seed=0)
    examples = list(arms)
    assert len(examples) == len(references)
    for row, of_person in enumerate(examples):
        assert list(of_person) == [arm for arm in ARMS if arm != "population"]
        own, healthy = of_person[OWN], database.signals(references[[row]])[0]
        k = len(own) // 2
        for arm, data in of_person.items():
            assert torch.equal(data.y, own.y)
            assert torch.equal(data.weight, own.weight)
            norm = database.signals(arms.matched[[row]])[0] if arm == OTHER else healthy
            assert torch.equal(data.x[k:], norm.expand(k, -1, -1))
            assert arm == OWN or not torch.equal(data.x[:k], own.x[:k])
        real = {tuple(x.flatten()[:50].tolist()) for x in of_person["real-others"].x[:k]}
        for c in range(1, 5):
            pool = {tuple(x.flatten()[:50].tolist()) for x in database.signals(others.diseased[c])}
            assert len(real & pool) == generator.config.personal.twins


def test_noisy_copies_are_as_far_from_the_reference_as_the_twins() -> None:
    draws = torch.Generator().manual_seed(0)
    reference = torch.randn(8, 4000, generator=draws)
    twins = reference + torch.tensor([0.5, 2.0]).reshape(2, 1, 1) * torch.randn(2, 8, 4000, generator=draws)
    away = (noisy_copies(reference, twins, draws) - reference).square().mean(dim=-1).sqrt()  # (2, 8)
    torch.testing.assert_close(away, torch.tensor([[0.5] * 8, [2.0] * 8]), rtol=0.08, atol=0.0)


def test_every_arm_scores_every_record_but_the_reference_and_population_is_the_detector_itself(
    database: Database, generator: Generator, few: pd.DataFrame, others: Others
) -> None:
    population = build_detector(generator.config.detector, 100, 0)
    table = personal_predictions(population, generator, few, others, database)
    assert set(table["arm"]) == set(ARMS)
    for _, part in table.groupby("arm"):
        assert part["ecg_id"].tolist() == [i for _, rows in few.groupby("reference", sort=False) for i in rows.index]
    assert not table["ecg_id"].isin(few["reference"]).any()
    alone = table[table["arm"] == "population"]
    expected = predict(population, database.signals(database.positions_of(alone["ecg_id"].to_numpy())))
    np.testing.assert_allclose(alone[list(SUPERCLASSES)], expected, atol=1e-6)
    said = {arm: part[list(SUPERCLASSES)].to_numpy() for arm, part in table.groupby("arm")}
    for first, second in itertools.combinations(ARMS, 2):
        assert not np.array_equal(said[first], said[second])


@pytest.mark.slow
def test_a_seed_is_trained_personalised_and_not_repeated(
    database: Database, records: pd.DataFrame, packs: Path, tmp_path: Path
) -> None:
    tiny = "detector.width=8 detector.blocks=1 detector_training.crop=2.5 separator.width=16 separator.blocks=1"
    short = "federation.rounds=1 separator_training.after=0 separator_training.steps=2 separator_training.batch=4"
    where = f"data.dir='{database.folder}' data.cache_dir='{packs}' detector_training.epochs=1 twins.per_record=0"
    overrides = (*f"{tiny} {short} {where} personal.steps=1 personal.twins=1".split(), *ONE_SITE)
    table = predict_seed(overrides, 0, tmp_path)
    assert set(table["ecg_id"]) <= set(records.index)
    assert table.groupby("arm")["ecg_id"].nunique().tolist() == [table["ecg_id"].nunique()] * len(ARMS)
    (tmp_path / "seed-0" / "model" / "manifest.json").unlink()  # nothing of the seed is opened again
    pd.testing.assert_frame_equal(predict_seed(overrides, 0, tmp_path), table)


def predictions_of(records: pd.DataFrame, labels: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """All arms, two seeds: ``own`` knows something, the others nothing."""
    rng, parts = np.random.default_rng(seed), []
    truth = labels.loc[records.index, list(SUPERCLASSES)].to_numpy()
    for arm, number in itertools.product(ARMS, (0, 1)):
        logits = (3.0 * truth if arm == OWN else 0.0) - 1.0 + rng.normal(size=truth.shape)
        table = pd.DataFrame(1.0 / (1.0 + np.exp(-logits)), columns=list(SUPERCLASSES)).round(2)  # with ties
        parts.append(table.assign(ecg_id=records.index, arm=arm, seed=number))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def made_up() -> tuple[pd.DataFrame, pd.DataFrame]:
    """60 people with one to seven records after a first NORM, and 15 whose abnormal record came first."""
    rng, kinds, rows = np.random.default_rng(0), (NORM, MI, STTC, BOTH, np.eye(5)[3], np.eye(5)[4]), []
    for person in range(75):
        rows += [(person, None, NORM if person < 60 else MI)]
        rows += [(person, None, kinds[k]) for k in rng.integers(0, len(kinds), rng.integers(1, 8))]
    table, labels = listed(*rows)
    return follow_up(table, labels), pd.DataFrame(labels, index=table.index, columns=list(SUPERCLASSES))


def test_concordances_are_counts_over_pairs(made_up: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    records, labels = made_up
    said = predictions_of(records, labels).query("arm == 'own' and seed == 0").set_index("ecg_id")
    table = said[list(SUPERCLASSES)].join(records).join(labels.add_prefix("true_"))
    later = table[table["eligible"] & table["later"]]
    all_norms = later[later["norm"]]
    within, disease, everybody = {}, {}, {}

    def wins(a: float, b: float) -> float:
        return 1.0 if a > b else 0.5 if a == b else 0.0

    for person in later["patient_id"].unique():
        ill = later[(later["patient_id"] == person) & later["abnormal"]]
        well = later[(later["patient_id"] == person) & later["norm"]]
        everybody[person] = np.mean([wins(b, a) for a in ill["NORM"] for b in all_norms["NORM"]])
        if len(well):
            within[person] = np.mean([wins(b, a) for a in ill["NORM"] for b in well["NORM"]])
            disease[person] = np.mean(
                [
                    np.mean([np.mean([wins(a[c], b) for b in well[c]]) for c in SUPERCLASSES if a[f"true_{c}"]])
                    for _, a in ill.iterrows()
                ]
            )
    assert 0 < len(within) < len(everybody)
    for found, expected in (
        (within_people(table), within),
        (on_the_disease(table), disease),
        (against_all_norms(table), everybody),
    ):
        pd.testing.assert_series_equal(found, pd.Series(expected), check_names=False, check_index_type=False)


@pytest.fixture(scope="module")
def scored(made_up: tuple[pd.DataFrame, pd.DataFrame]) -> list[Row]:
    return score(predictions_of(*made_up), *made_up)


def test_rows_are_scikit_learns_figures_and_own_wins_where_it_knows_more(
    made_up: tuple[pd.DataFrame, pd.DataFrame], scored: list[Row]
) -> None:
    records, labels = made_up
    predictions = predictions_of(records, labels)
    rows = {(row.arm, row.metric): row for row in scored}
    cohort = records[records["cohort"] & records["single"]]
    own = predictions[predictions["arm"] == OWN]
    truth = labels.loc[cohort.index]
    figures = []
    for _, part in own.groupby("seed"):
        said = part.set_index("ecg_id").loc[cohort.index, list(SUPERCLASSES)]
        a, b = truth.to_numpy().argmax(axis=1), said.to_numpy().argmax(axis=1)
        right = pd.Series(a == b, index=cohort["patient_id"])
        by_person = right.groupby(level=0).all().mean()
        figures.append((right.mean(), by_person, roc_auc_score(truth, said), f1_score(a, b, average="macro")))
    names = ("ecg_accuracy", "patient_accuracy", "macro_auc", "macro_f1")
    for name, expected in zip(names, np.mean(figures, axis=0), strict=True):
        row = rows[OWN, f"paper.{name}"]
        assert row.value == pytest.approx(expected)
        assert row.low < row.value < row.high
        assert row.seeds == 2
    assert rows[OWN, "paper.ecg_accuracy"].n == len(cohort)
    assert rows["always-norm", "paper.ecg_accuracy"].value == pytest.approx(cohort["norm"].mean())
    assert rows["always-norm", "paper.macro_auc"].value == 0.5
    assert rows["cohort", "people.eligible"].value == records[records["eligible"]]["patient_id"].nunique()
    first = rows["cohort", "people.paper_norm_first"]
    assert first.value < rows["cohort", "people.paper"].value == cohort["patient_id"].nunique()
    gain = rows[OWN, "concordance_gain.matched-other"]
    assert gain.value == pytest.approx(rows[OWN, "concordance"].value - rows[OTHER, "concordance"].value)
    assert gain.low > 0.1
    assert rows[OWN, "concordance_p.matched-other"].value < 0.001
    assert gain.n == rows[OWN, "concordance_p.matched-other"].n < rows[OWN, "concordance.all_norms"].n


@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="LAVQ_PTBXL IS NOT SET: no personal figure was scored again")
def test_the_committed_figures_follow_from_the_committed_predictions(full_database: Database) -> None:
    content = read_results("personal")
    if content["data"]["fingerprint"] != full_database.fingerprint:
        pytest.skip("the committed figures are of other records")
    kept = pd.read_csv(FOLDER / "predictions" / "personal.csv.gz")
    records = follow_up(full_database.table, full_database.labels)
    assert not kept["ecg_id"].isin(records["reference"]).any()
    again = {(row.arm, row.metric): row for row in score(kept, records, full_database.table)}
    assert len(again) == len(content["rows"])
    for row in content["rows"]:
        assert again[row.arm, row.metric].value == pytest.approx(row.value, abs=1e-3 if "_p." in row.metric else 1e-5)


def test_the_readme_shows_arms_tests_and_both_cohorts(scored: list[Row]) -> None:
    text, found = "\n".join(LAYOUTS["personal"](scored)), {(row.arm, row.metric): row for row in scored}
    people = found[OWN, "concordance"].n
    assert f"| abnormal above | own later NORM ({people} people) |" in text
    assert found[OWN, "concordance_p.matched-other"].value < 0.001
    assert re.search(r"\| matched-other \| \.\d+ \[\.\d+, \.\d+\] \| < \.001 \|", text)
    size = found["cohort", "people.paper_norm_first"]
    assert f"| ... NORM first: {size.value:.0f} people, {size.n} records | ECG-wise accuracy |" in text
    assert text.count("| always-norm |") == 2


def test_the_same_detector_under_two_names_has_no_gain(made_up: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    records, labels = made_up
    one = predictions_of(records, labels).query("arm == 'own' and seed == 0")
    rows = score(pd.concat([one.assign(arm=arm) for arm in ARMS], ignore_index=True), records, labels)
    gains = {row.metric: row.value for row in rows if "_gain." in row.metric or "_p." in row.metric}
    assert {round(value, 9) for name, value in gains.items() if "_gain." in name} == {0.0}
    assert {value for name, value in gains.items() if "_p." in name} == {1.0}
