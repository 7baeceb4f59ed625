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
from lavq_core.models.codebook import STATISTICS, initial_codebook
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import beat_tokens, make_networks
from lavq_core.models.stored import load_private
from lavq_core.runs.artefact import load_artefact
from lavq_core.training import site_round
from lavq_core.training.guided import NORM
from lavq_core.training.site_data import SiteData
from lavq_core.training.site_round import SharedState, SiteUpdate, train_round, training_twins

POSITIONS = np.arange(0, 520, 12)


@pytest.fixture(scope="module")
def site(sample_database: Database, make_tiny: Callable[[], Config]) -> SiteData:
    """A hospital of 44 records; tests that change its configuration take another one."""
    return SiteData("site-0", sample_database, POSITIONS, make_tiny())


def shared(config: Config) -> SharedState:
    """What the server sends in the first round."""
    seed = config.run.seed
    detector = build_detector(config.detector, config.data.sampling_rate, seed)
    codebook = initial_codebook(config.codebook, beat_tokens(config), seed)
    return SharedState(
        dict(detector.state_dict()), codebook, make_networks(config, seed).shared(config.federation.share)
    )


def play(site: SiteData, folder: Path, number: int = 1, rounds: int = 4, seen: float = 0.0) -> SiteUpdate:
    """Play a round; ``seen`` is how often the federation has seen every statement of every superclass."""
    sent = shared(site.config)
    sent.codebook["requests"] += seen
    return train_round(site, folder, sent, number, rounds)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_what_leaves_has_the_form_of_what_came(site: SiteData, tmp_path: Path) -> None:
    sent = shared(site.config)
    before = copy.deepcopy(sent)
    update = train_round(site, tmp_path / "private", sent, 1, 4)
    for leaving, came in (
        (update.detector, sent.detector),
        (update.networks, sent.networks),
        (update.statistics, {name: sent.codebook[name] for name in STATISTICS}),
    ):
        assert {name: value.shape for name, value in leaving.items()} == {name: v.shape for name, v in came.items()}
        for value in leaving.values():
            assert value.dtype == torch.float32
            assert value.device.type == "cpu"
            assert not value.requires_grad
            assert torch.isfinite(value).all()
    assert update.examples == len(site.train_positions)
    assert not equal(update.detector, sent.detector)
    assert not equal(update.networks, sent.networks)
    for name in ("detector", "codebook", "networks"):
        assert equal(getattr(sent, name), getattr(before, name))


@pytest.mark.parametrize("share", [[], ["prior"], ["separator", "editor"]])
def test_only_the_networks_that_are_shared_leave_and_they_are_taken_over(
    sample_database: Database, tiny: Config, tmp_path: Path, share: list[str]
) -> None:
    tiny.federation.share = share
    tiny.separator_training.steps = 0
    site = SiteData("site-0", sample_database, POSITIONS, tiny)
    sent = shared(tiny)
    sent.networks = {name: value + 1.0 for name, value in sent.networks.items()}
    update = train_round(site, tmp_path / "private", sent, 1, 4)
    assert {name.split(".")[0] for name in update.networks} == set(share)
    assert equal(update.networks, sent.networks)  # no step was taken


def test_what_leaves_is_sums_of_this_round_only(site: SiteData, tmp_path: Path) -> None:
    """The broadcast counts are the server's: a site that sent them back would count everybody twice."""
    update = play(site, tmp_path / "private", seen=1000.0)
    tokens = beat_tokens(site.config)
    assert 0 < float(update.statistics["prior"].sum()) <= tokens * len(site.train_positions)
    assert float(update.statistics["counts"].sum()) <= tokens * len(site.train_positions)
    assert 0 < float(update.statistics["requests"].sum()) < 1000.0
    assert not update.statistics["prior"][NORM].any()
    assert not update.statistics["requests"][NORM].any()


def test_the_same_seed_gives_the_same_bits_and_another_site_another_stream(site: SiteData, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = play(site, tmp_path / "a", number=3)
    torch.manual_seed(2)
    again = play(site, tmp_path / "b", number=3)
    assert equal(first.detector, again.detector)
    assert equal(first.statistics, again.statistics)
    assert first.measured == again.measured
    assert equal(first.networks, again.networks)
    assert load_artefact(tmp_path / "a")[0].keys() == {"networks"}
    assert equal(load_artefact(tmp_path / "a")[0]["networks"], load_artefact(tmp_path / "b")[0]["networks"])

    other_config = copy.deepcopy(site.config)
    other_config.run.seed = 1
    for other, folder, number in ((replace(site, name="site-1"), "c", 3), (site, "d", 2)):
        assert not equal(first.detector, play(other, tmp_path / folder, number).detector)
        assert not equal(load_artefact(tmp_path / "a")[0]["networks"], load_artefact(tmp_path / folder)[0]["networks"])
    reseeded = train_round(replace(site, config=other_config), tmp_path / "e", shared(site.config), 3, 4)
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
    tiny.data.validation_fold, tiny.data.test_fold, tiny.data.train_folds = 1, 2, list(range(3, 11))
    site = SiteData("site-0", sample_database, POSITIONS, tiny)
    folds = sample_database.table["strat_fold"].to_numpy()
    assert set(folds[site.train_positions]) == set(folds[POSITIONS]) - {1, 2} >= {9, 10}
    assert set(folds[site.fold_positions(2)]) == {2}
    assert set(folds[site.fold_positions(1, 2)]) == {1, 2}
    together = [site.train_positions, site.fold_positions(1), site.fold_positions(2)]
    assert sorted(np.concatenate(together).tolist()) == POSITIONS.tolist()


# --- the private models ----------------------------------------------------------------------------------------------


def test_networks_that_are_not_shared_stay_and_are_trained_on(
    sample_database: Database, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.federation.share = ["prior"]
    site, folder = SiteData("site-0", sample_database, POSITIONS, tiny), tmp_path / "private"
    before = dict(load_private(tiny, folder).state_dict())
    first = play(site, folder, 1)
    kept, about = load_artefact(folder)
    assert about["round"] == 1
    assert about["leaves_the_site"] is False
    assert not equal(kept["networks"], before)

    started_from: list[dict[str, Tensor]] = []
    trainer = site_round.SeparatorTrainer

    def spy(networks, *rest, **named):
        started_from.append({name: value.clone() for name, value in networks.state_dict().items()})
        return trainer(networks, *rest, **named)

    monkeypatch.setattr(site_round, "SeparatorTrainer", spy)
    second = play(site, folder, 2)
    for name, value in started_from[0].items():
        assert torch.equal(value, before[name] if name.startswith("prior.") else kept["networks"][name])
    assert load_artefact(folder)[1]["round"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["private"]
    for update in (first, second):
        assert update.measured.keys() >= {"separator_loss", "perplexity", "detector_loss", "twins"}


def test_two_sites_do_not_mix(site: SiteData, tmp_path: Path) -> None:
    one, other = site, replace(site, name="site-1")
    play(one, tmp_path / "sites" / "one")
    alone = load_artefact(tmp_path / "sites" / "one")[0]
    play(other, tmp_path / "sites" / "other")
    assert equal(load_artefact(tmp_path / "sites" / "one")[0]["networks"], alone["networks"])
    assert not equal(load_artefact(tmp_path / "sites" / "other")[0]["networks"], alone["networks"])


# --- the judge -------------------------------------------------------------------------------------------------------


def test_the_judge_is_the_broadcast_detector_from_round_two(
    site: SiteData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges: list[torch.nn.Module | None] = []
    trainer = site_round.SeparatorTrainer

    def spy(networks, codebook, judge, *rest, **named):
        judges.append(judge)
        return trainer(networks, codebook, judge, *rest, **named)

    monkeypatch.setattr(site_round, "SeparatorTrainer", spy)
    play(site, tmp_path / "private", 1)
    play(site, tmp_path / "private", 2)
    assert judges[0] is None  # weights that nobody trained judge nothing
    assert judges[1] is not None
    assert equal(dict(judges[1].state_dict()), shared(site.config).detector)
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
    healthy, records = len(site.healthy), len(site.ecgs)
    first, second = (play(site, tmp_path / "private", number, seen=1.0) for number in (1, 2))
    assert (first.measured["twins"], second.measured["twins"]) == (0.0, 2.0 * healthy)
    assert first.examples == second.examples == records  # twins are no examples: they do not weigh the average
    assert len(trained_on[0]) == records
    twins = trained_on[1]
    assert len(twins) == records + 2 * healthy
    assert torch.equal(twins.x[:records], site.ecgs.x)
    assert twins.weight[:records].unique().tolist() == [1.0]
    assert twins.weight[records:].unique().tolist() == [0.25]


def test_training_twins_are_of_healthy_training_patients_and_carry_one_disease(site: SiteData) -> None:
    sent, networks = shared(site.config), load_private(site.config, Path("nowhere"))
    known = torch.zeros_like(sent.codebook["requests"])
    known[1:4, 3] = 1.0  # HYP has never been seen
    made = training_twins(site, networks, sent.codebook["codes"], known, torch.Generator().manual_seed(0))
    assert made is not None
    healthy = site.healthy
    norm = site.train_positions[site.database.norm_only()[site.train_positions]]
    assert torch.equal(healthy.signal, site.database.signals(site.with_beats(norm)))
    assert len(made) == len(healthy)
    assert made.y.sum(1).tolist() == [1.0] * len(made)
    assert not made.y[:, [NORM, SUPERCLASSES.index("HYP")]].any()
    shares = made.y.sum(0)[1:4]
    assert float(shares.max() - shares.min()) <= 1  # diseases in equal shares
    changed = (made.x - healthy.signal).abs()
    assert bool((changed.amax(dim=(1, 2)) < 2.0).all())  # each is its own patient, little changed
    assert bool((changed == 0).any())


def test_without_a_disease_or_a_healthy_patient_there_are_no_twins(site: SiteData, sample_database: Database) -> None:
    codebook, networks = shared(site.config).codebook, load_private(site.config, Path("nowhere"))
    generator = torch.Generator().manual_seed(0)
    assert training_twins(site, networks, codebook["codes"], codebook["requests"], generator) is None
    seen = codebook["requests"] + 1.0
    sick = POSITIONS[sample_database.labels[POSITIONS, NORM] == 0]
    assert training_twins(replace(site, positions=sick), networks, codebook["codes"], seen, generator) is None


# --- sites that lack something ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["healthy", "abnormal"])
def test_a_site_that_lacks_one_kind_sends_zero_statistics_and_trains_its_detector(
    site: SiteData, sample_database: Database, tmp_path: Path, missing: str
) -> None:
    norm = sample_database.norm_only()[POSITIONS]
    lacking = replace(site, positions=POSITIONS[norm if missing == "abnormal" else ~norm])
    update = play(lacking, tmp_path / "private", number=3, seen=1.0)
    sent = shared(site.config)
    assert {name: value.shape for name, value in update.statistics.items()} == {
        name: sent.codebook[name].shape for name in STATISTICS
    }
    assert not any(value.any() for value in update.statistics.values())
    assert equal(update.networks, sent.networks)  # nothing was learned, and nothing pretended
    # A site without disease is whom the shared networks serve: it makes twins of what others have seen.
    assert (update.measured["twins"] > 0) == (missing == "abnormal")
    assert np.isfinite(update.measured["detector_loss"])
    assert not equal(update.detector, sent.detector)


def test_an_editor_that_nobody_trained_makes_no_twins(sample_database: Database, tiny: Config, tmp_path: Path) -> None:
    tiny.federation.share = ["prior"]
    norm = sample_database.norm_only()[POSITIONS]
    site = SiteData("site-0", sample_database, POSITIONS[norm], tiny)
    assert play(site, tmp_path / "private", number=3, seen=1.0).measured["twins"] == 0.0


def test_a_site_without_training_records_says_so(site: SiteData, sample_database: Database, tmp_path: Path) -> None:
    folds = sample_database.table["strat_fold"].to_numpy()[POSITIONS]
    with pytest.raises(DataError, match="site-0 has no record in the training folds"):
        play(replace(site, positions=POSITIONS[folds == 10]), tmp_path / "private")
    assert not (tmp_path / "private").exists()


# --- the site's data -------------------------------------------------------------------------------------------------


def test_training_data_are_the_databases_rows(site: SiteData, sample_database: Database) -> None:
    ecgs, beats = site.ecgs, site.beats
    assert torch.equal(ecgs.x, sample_database.signals(site.train_positions))
    np.testing.assert_array_equal(ecgs.y.numpy(), sample_database.labels[site.train_positions])
    found = site.with_beats(site.train_positions)
    np.testing.assert_array_equal(beats.x.numpy(), sample_database.beats.median[found])
    np.testing.assert_array_equal(beats.y.numpy(), sample_database.labels[found])
    assert beats.memory.shape[0] == beats.mask.shape[0] == len(beats)
    assert beats.memory.shape[-1] == site.config.text.width
    assert beats.valid.shape == (len(beats), beat_tokens(site.config))


def test_records_without_beats_train_the_detector_but_no_editor(sample_database: Database, tiny: Config) -> None:
    """Nothing is lost: a record whose beats are not alike is left out where beats are needed, and only there."""
    beats = sample_database.beats
    lacking = copy.copy(sample_database)
    dominant = beats.dominant.copy()
    dominant[POSITIONS[0]] = False
    lacking.__dict__["beats"] = replace(beats, dominant=dominant)
    site = SiteData("site-0", lacking, POSITIONS, tiny)
    assert POSITIONS[0] not in site.with_beats(POSITIONS)
    assert len(site.guided(POSITIONS)) == len(site.patients(POSITIONS)) == len(site.with_beats(POSITIONS))
    assert len(site.ecgs) == len(site.train_positions)


def test_guidance_is_of_statements_that_a_beat_can_show(site: SiteData, tiny: Config) -> None:
    """Diagnostic and form statements, no rhythm, and none for NORM; the free text only where it was asked for."""
    positions = site.with_beats(site.train_positions)
    table = site.rows(positions)
    statements = site.database.statements
    shown = set(statements.query("(diagnostic == 1 or form == 1) and rhythm != 1").index)
    shown -= {"NORM", "PVC", "PAC", "PRC(S)", "2AVB", "3AVB"}
    expected = [sum(code in shown for code in codes) for codes in table["statements"]]
    assert site.beats.mask.sum(1).tolist() == expected
    tiny.text.source = "report"
    by_text = replace(site, config=tiny).beats
    sentences = [sum(bool(part.strip()) for part in report.split(".")) for report in table["report"]]
    assert by_text.mask.sum(1).tolist() == sentences
    assert by_text.asked_mask.sum(1).tolist() == expected  # a twin is still asked for by statements
