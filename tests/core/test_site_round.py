"""A round at one hospital: what leaves is what is named, what stays survives, and held-out patients teach nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lavq_core.config import Config
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.errors import DataError
from lavq_core.models.codebook import STATISTICS, CodebookState, initial_codebook
from lavq_core.models.detector import build_detector
from lavq_core.models.prior import PHASES, beat_phases
from lavq_core.models.stored import load_private
from lavq_core.runs.artefact import load_artefact
from lavq_core.signals.rpeaks import find_r_peaks
from lavq_core.training import site_round
from lavq_core.training.guided import NORM
from lavq_core.training.site_data import SiteData, token_phases
from lavq_core.training.site_round import SiteUpdate, train_round, training_twins

POSITIONS = np.arange(0, 520, 12)


@pytest.fixture(scope="module")
def site(sample_database: Database, make_tiny: Callable[[], Config]) -> SiteData:
    """A hospital of 44 records; tests that change its configuration take another one."""
    return SiteData("site-0", sample_database, POSITIONS, make_tiny())


def shared(config: Config) -> tuple[dict[str, Tensor], CodebookState]:
    detector = build_detector(config.detector, config.data.sampling_rate, config.run.seed)
    return dict(detector.state_dict()), initial_codebook(config.codebook, config.run.seed)


def play(site: SiteData, folder: Path, number: int = 1, rounds: int = 4, prior: float = 0.0) -> SiteUpdate:
    detector, codebook = shared(site.config)
    codebook["prior"] += prior
    return train_round(site, folder, detector, codebook, number, rounds)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_what_leaves_has_the_form_of_what_came(site: SiteData, tmp_path: Path) -> None:
    detector, codebook = shared(site.config)
    before = copy.deepcopy((detector, codebook))
    update = train_round(site, tmp_path / "private", detector, codebook, 1, 4)
    assert {name: value.shape for name, value in update.detector.items()} == {n: v.shape for n, v in detector.items()}
    assert {name: value.shape for name, value in update.statistics.items()} == {
        name: codebook[name].shape for name in STATISTICS
    }
    for value in (*update.detector.values(), *update.statistics.values()):
        assert value.dtype == torch.float32
        assert value.device.type == "cpu"
        assert not value.requires_grad
        assert torch.isfinite(value).all()
    assert update.examples == len(site.train_positions)
    assert not equal(update.detector, detector)
    assert equal(detector, before[0])
    assert equal(codebook, before[1])


def test_what_leaves_is_sums_of_this_round_only(site: SiteData, tmp_path: Path) -> None:
    """The broadcast counts are the server's: a site that sent them back would count everybody twice."""
    update = play(site, tmp_path / "private", prior=1000.0)
    tokens = 1000 // site.config.separator.stride
    assert 0 < float(update.statistics["prior"].sum()) <= tokens * len(site.train_positions)
    assert float(update.statistics["counts"].sum()) <= tokens * len(site.train_positions)
    assert not update.statistics["prior"][NORM].any()


def test_the_same_seed_gives_the_same_bits_and_another_site_another_stream(site: SiteData, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = play(site, tmp_path / "a", number=3)
    torch.manual_seed(2)
    again = play(site, tmp_path / "b", number=3)
    assert equal(first.detector, again.detector)
    assert equal(first.statistics, again.statistics)
    assert first.measured == again.measured
    assert load_artefact(tmp_path / "a")[0].keys() == {"separator", "editor"}
    for part, state in load_artefact(tmp_path / "a")[0].items():
        assert equal(state, load_artefact(tmp_path / "b")[0][part])

    other_config = copy.deepcopy(site.config)
    other_config.run.seed = 1
    for other, folder, number in ((replace(site, name="site-1"), "c", 3), (site, "d", 2)):
        assert not equal(first.detector, play(other, tmp_path / folder, number).detector)
        assert not equal(load_artefact(tmp_path / "a")[0]["editor"], load_artefact(tmp_path / folder)[0]["editor"])
    detector, codebook = shared(site.config)
    reseeded = train_round(replace(site, config=other_config), tmp_path / "e", detector, codebook, 3, 4)
    assert not equal(first.detector, reseeded.detector)


def test_nothing_of_the_held_out_folds_enters_training(
    sample_database: Database, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every signal that is read during a round is one of a training fold, and the held-out ones change no bit."""
    site = SiteData("site-0", sample_database, POSITIONS, tiny)
    read: list[int] = []
    signals = Database.signals

    def spy(self: Database, positions: np.ndarray) -> Tensor:
        read.extend(np.asarray(positions).tolist())
        return signals(self, positions)

    monkeypatch.setattr(Database, "signals", spy)
    first = play(site, tmp_path / "a", number=3)
    folds = sample_database.table["strat_fold"].to_numpy()
    assert set(read) == set(site.train_positions.tolist()) == set(POSITIONS[~np.isin(folds[POSITIONS], (9, 10))])
    held_out = set(sample_database.table["patient_id"].iloc[np.setdiff1d(POSITIONS, site.train_positions)])
    assert held_out
    assert not held_out & set(site.rows(site.train_positions)["patient_id"])

    monkeypatch.undo()
    without = play(replace(site, positions=site.train_positions), tmp_path / "b", number=3)
    assert equal(first.detector, without.detector)
    assert equal(first.statistics, without.statistics)


def test_the_folds_are_the_configured_ones(sample_database: Database, tiny: Config) -> None:
    tiny.data.validation_fold, tiny.data.test_fold = 1, 2
    site = SiteData("site-0", sample_database, POSITIONS, tiny)
    folds = sample_database.table["strat_fold"].to_numpy()
    assert set(folds[site.train_positions]) == set(folds[POSITIONS]) - {1, 2} >= {9, 10}
    assert set(folds[site.fold_positions(2)]) == {2}
    together = [site.train_positions, site.fold_positions(1), site.fold_positions(2)]
    assert sorted(np.concatenate(together).tolist()) == POSITIONS.tolist()


# --- the private models ----------------------------------------------------------------------------------------------


def test_separator_and_editor_stay_and_are_trained_on(
    site: SiteData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "private"
    before = [dict(model.state_dict()) for model in load_private(site.config, folder)]
    first = play(site, folder, 1)
    kept, about = load_artefact(folder)
    assert about["round"] == 1
    assert about["leaves_the_site"] is False
    assert not equal(kept["separator"], before[0])

    started_from: list[dict[str, Tensor]] = []
    load = load_private

    def spy(config: Config, place: Path):
        separator, editor = load(config, place)
        started_from.extend({n: v.clone() for n, v in model.state_dict().items()} for model in (separator, editor))
        return separator, editor

    monkeypatch.setattr(site_round, "load_private", spy)
    second = play(site, folder, 2)
    assert equal(started_from[0], kept["separator"])
    assert equal(started_from[1], kept["editor"])
    assert load_artefact(folder)[1]["round"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["private"]
    for update in (first, second):
        assert update.measured.keys() >= {"separator_loss", "perplexity", "detector_loss", "twins"}


def test_two_sites_do_not_mix(site: SiteData, tmp_path: Path) -> None:
    one, other = site, replace(site, name="site-1")
    play(one, tmp_path / "sites" / "one")
    alone = load_artefact(tmp_path / "sites" / "one")[0]
    play(other, tmp_path / "sites" / "other")
    assert equal(load_artefact(tmp_path / "sites" / "one")[0]["editor"], alone["editor"])
    assert not equal(load_artefact(tmp_path / "sites" / "other")[0]["editor"], alone["editor"])


# --- the judge -------------------------------------------------------------------------------------------------------


def test_the_judge_is_the_broadcast_detector_from_round_two(
    site: SiteData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges: list[torch.nn.Module | None] = []
    trainer = site_round.SeparatorTrainer

    def spy(separator, editor, codebook, judge, *rest, **named):
        judges.append(judge)
        return trainer(separator, editor, codebook, judge, *rest, **named)

    monkeypatch.setattr(site_round, "SeparatorTrainer", spy)
    play(site, tmp_path / "private", 1)
    play(site, tmp_path / "private", 2)
    assert judges[0] is None  # weights that nobody trained judge nothing
    assert judges[1] is not None
    assert equal(dict(judges[1].state_dict()), shared(site.config)[0])
    assert not any(parameter.requires_grad for parameter in judges[1].parameters())


# --- twins -----------------------------------------------------------------------------------------------------------


def test_twins_join_the_detectors_training_from_their_round_on(
    sample_database: Database, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.twins.from_round, tiny.twins.per_record, tiny.twins.weight = 2, 2, 0.25
    site = SiteData("site-0", sample_database, POSITIONS, tiny)
    trained_on = []
    train = site_round.train_detector

    def spy(model, data, *rest, **named):
        trained_on.append(data)
        return train(model, data, *rest, **named)

    monkeypatch.setattr(site_round, "train_detector", spy)
    healthy = len(site.train.norm_only())
    first, second = (play(site, tmp_path / "private", number, prior=1.0) for number in (1, 2))
    assert (first.measured["twins"], second.measured["twins"]) == (0.0, 2.0 * healthy)
    assert first.examples == second.examples == len(site.train)  # twins are no examples: they do not weigh the average
    assert len(trained_on[0]) == len(site.train)
    twins = trained_on[1]
    assert len(twins) == len(site.train) + 2 * healthy
    assert torch.equal(twins.x[: len(site.train)], site.train.x)
    assert twins.weight[: len(site.train)].unique().tolist() == [1.0]
    assert twins.weight[len(site.train) :].unique().tolist() == [0.25]


def test_training_twins_are_of_healthy_training_patients_and_carry_one_disease(site: SiteData) -> None:
    _, codebook = shared(site.config)
    codebook["prior"][1:4, 4:] = 1.0  # HYP has never been seen, and nothing is edited before R
    _, editor = load_private(site.config, Path("nowhere"))
    made = training_twins(site, editor, codebook, torch.Generator().manual_seed(0))
    assert made is not None
    healthy = site.train.norm_only()
    assert len(made) == len(healthy)
    assert made.y.sum(1).tolist() == [1.0] * len(made)
    assert not made.y[:, [NORM, SUPERCLASSES.index("HYP")]].any()
    shares = made.y.sum(0)[1:4]
    assert float(shares.max() - shares.min()) <= 1  # diseases in equal shares
    changed = (made.x - site.train.x[healthy]).abs()
    assert bool((changed.amax(dim=(1, 2)) < 2.0).all())  # each is its own patient, little changed
    assert bool((changed == 0).any())


def test_without_a_disease_or_a_healthy_patient_there_are_no_twins(site: SiteData, sample_database: Database) -> None:
    _, codebook = shared(site.config)
    _, editor = load_private(site.config, Path("nowhere"))
    generator = torch.Generator().manual_seed(0)
    assert training_twins(site, editor, codebook, generator) is None
    codebook["prior"] += 1.0
    sick = POSITIONS[sample_database.labels[POSITIONS, NORM] == 0]
    assert training_twins(replace(site, positions=sick), editor, codebook, generator) is None


# --- sites that lack something ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["healthy", "abnormal"])
def test_a_site_that_lacks_one_kind_sends_zero_statistics_and_trains_its_detector(
    site: SiteData, sample_database: Database, tmp_path: Path, missing: str
) -> None:
    norm = sample_database.norm_only()[POSITIONS]
    lacking = replace(site, positions=POSITIONS[norm if missing == "abnormal" else ~norm])
    update = play(lacking, tmp_path / "private", number=3, prior=1.0)
    _, codebook = shared(site.config)
    assert {name: value.shape for name, value in update.statistics.items()} == {
        name: codebook[name].shape for name in STATISTICS
    }
    assert not any(value.any() for value in update.statistics.values())
    assert not (tmp_path / "private").exists()
    assert update.measured["twins"] == 0.0
    assert np.isfinite(update.measured["detector_loss"])
    assert not equal(update.detector, shared(site.config)[0])


def test_a_site_without_training_records_says_so(site: SiteData, sample_database: Database, tmp_path: Path) -> None:
    folds = sample_database.table["strat_fold"].to_numpy()[POSITIONS]
    with pytest.raises(DataError, match="site-0 has no record in the training folds"):
        play(replace(site, positions=POSITIONS[folds == 10]), tmp_path / "private")
    assert not (tmp_path / "private").exists()


# --- the site's data -------------------------------------------------------------------------------------------------


def test_training_data_are_the_databases_rows(site: SiteData, sample_database: Database) -> None:
    train = site.train
    assert torch.equal(train.x, sample_database.signals(site.train_positions))
    np.testing.assert_array_equal(train.y.numpy(), sample_database.labels[site.train_positions])
    assert train.memory.shape[0] == train.mask.shape[0] == len(train)
    assert train.memory.shape[-1] == site.config.text.width
    assert train.phases.shape == (len(train), 1000 // site.config.separator.stride)
    healthy = site.train_positions[site.database.norm_only()[site.train_positions]]
    assert healthy.tolist() == site.train_positions[train.norm_only().numpy()].tolist()


def test_phases_are_those_of_each_records_own_beats(site: SiteData, sample_database: Database) -> None:
    signals = sample_database.signals(POSITIONS[:4])
    found = site.phases(POSITIONS[:4])
    for signal, phases in zip(signals, found, strict=True):
        np.testing.assert_array_equal(phases, beat_phases(find_r_peaks(signal.numpy(), 100), 125, 8, 100))
    assert len(found.unique()) == PHASES
    assert token_phases(signals[:0], 8, 100).shape == (0, 125)


def test_the_report_memory_is_of_diagnostic_statements_by_default(site: SiteData, tiny: Config) -> None:
    """Form and rhythm statements are not guidance, and the free text only where it was asked for."""
    table = site.rows(site.train_positions)
    diagnostic = set(site.database.statements.query("diagnostic == 1").index)
    expected = [sum(code in diagnostic for code in codes) for codes in table["statements"]]
    assert site.train.mask.sum(1).tolist() == expected
    tiny.text.source = "report"
    by_text = replace(site, config=tiny).train
    sentences = [sum(bool(part.strip()) for part in report.split(".")) for report in table["report"]]
    assert by_text.mask.sum(1).tolist() == sentences
