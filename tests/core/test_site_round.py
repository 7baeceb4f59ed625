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

from lavq_core.data.database import Database
from lavq_core.data.labels import (
    SUPERCLASSES,
    diagnostic_statements,
    public_statements,
    statement_matrix,
    superclass_of,
)
from lavq_core.data.requests import statement_names
from lavq_core.errors import DataError
from lavq_core.models.codebook import STATISTICS, initial_codebook
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import Networks, beat_tokens, make_networks
from lavq_core.models.strip import strip_places
from lavq_core.models.twins import Patients
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.layout import rounds_in
from lavq_core.settings import SHAREABLE, Config
from lavq_core.text.statements import requests
from lavq_core.training import site_round
from lavq_core.training.detector_training import LabelledEcgs
from lavq_core.training.guided import NORM
from lavq_core.training.site_data import SiteData
from lavq_core.training.site_round import SharedState, SiteUpdate, train_round, training_twins

POSITIONS = np.arange(0, 520, 12)
BEATLESS = 180  # of these records, NORM-only and in a training fold, but without enough beats of one shape
S = len(diagnostic_statements())


@pytest.fixture(scope="module")
def site(sample_database: Database, make_tiny: Callable[[], Config]) -> SiteData:
    """A hospital of 44 records; tests that change its configuration take another one."""
    return SiteData("site-0", sample_database, POSITIONS, make_tiny())


def seen_in(*diseases: str) -> Tensor:
    """Counts ``(C, S)``: the federation has seen one record with each statement of these superclasses."""
    known, classes = torch.zeros(len(SUPERCLASSES), S), superclass_of(public_statements())
    for column, code in enumerate(diagnostic_statements()):
        if classes[code] in diseases:
            known[SUPERCLASSES.index(classes[code]), column] = 1.0
    return known


def broadcast(config: Config, known: Tensor | None = None) -> SharedState:
    """What a server sends in a first round; the federation may have seen diseases before."""
    detector = build_detector(config.detector, config.data.sampling_rate, config.run.seed)
    codebook = initial_codebook(config.codebook, beat_tokens(config), config.run.seed)
    if known is not None:
        codebook["requests"] += known
    networks = make_networks(config, config.run.seed).shared(config.federation.share)
    return SharedState(dict(detector.state_dict()), codebook, networks)


def play(site: SiteData, folder: Path, number: int = 1, rounds: int = 4, known: Tensor | None = None) -> SiteUpdate:
    return train_round(site, folder, broadcast(site.config, known), number, rounds)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def on_disk(folder: Path) -> dict[str, Tensor]:
    """The newest networks of a site."""
    rounds = rounds_in(folder)
    return load_artefact(rounds[max(rounds)])[0]["networks"]


def of(name: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key.startswith(f"{name}.")}


# --- what leaves -----------------------------------------------------------------------------------------------------


def test_what_leaves_has_the_form_of_what_came(site: SiteData, tmp_path: Path) -> None:
    shared = broadcast(site.config)
    before = copy.deepcopy(shared)
    update = train_round(site, tmp_path / "private", shared, 1, 4)
    for sent, came in ((update.detector, shared.detector), (update.networks, shared.networks)):
        assert {name: value.shape for name, value in sent.items()} == {n: v.shape for n, v in came.items()}
        assert not equal(sent, came)
    assert {name: value.shape for name, value in update.statistics.items()} == {
        name: shared.codebook[name].shape for name in STATISTICS
    }
    for value in (*update.detector.values(), *update.networks.values(), *update.statistics.values()):
        assert value.dtype == torch.float32
        assert value.device.type == "cpu"
        assert not value.requires_grad
        assert torch.isfinite(value).all()
    assert update.examples == len(site.train_positions)
    for part in ("detector", "codebook", "networks"):
        assert equal(getattr(shared, part), getattr(before, part))


@pytest.mark.parametrize("share", [[], ["prior"], ["editor", "prior"], list(SHAREABLE)])
def test_only_the_networks_that_are_shared_leave(
    sample_database: Database, tiny: Config, tmp_path: Path, share: list[str]
) -> None:
    tiny.federation.share = share
    update = play(SiteData("site-0", sample_database, POSITIONS, tiny), tmp_path / "private")
    assert {name.split(".")[0] for name in update.networks} == set(share)
    kept = on_disk(tmp_path / "private")
    assert {name.split(".")[0] for name in kept} == set(SHAREABLE)
    assert all(torch.equal(value, kept[name]) for name, value in update.networks.items())


def test_what_leaves_is_sums_of_this_round_only(site: SiteData, tmp_path: Path) -> None:
    """The broadcast counts are the server's: a site that sent them back would count everybody twice."""
    shared = broadcast(site.config)
    for name in STATISTICS:
        shared.codebook[name] += 1000.0
    update = train_round(site, tmp_path / "private", shared, 1, 4)
    tokens, records = beat_tokens(site.config), len(site.train_positions)
    assert 0 < float(update.statistics["prior"].sum()) <= tokens * records
    assert float(update.statistics["counts"].sum()) <= tokens * records
    assert 0 < float(update.statistics["requests"].sum()) <= S * records
    assert not update.statistics["prior"][NORM].any()
    assert not update.statistics["requests"][NORM].any()


def test_the_same_seed_gives_the_same_bits_and_another_site_another_stream(site: SiteData, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = play(site, tmp_path / "a", number=3)
    torch.manual_seed(2)
    again = play(site, tmp_path / "b", number=3)
    for part in ("detector", "networks", "statistics"):
        assert equal(getattr(first, part), getattr(again, part))
    assert first.measured == again.measured
    assert equal(on_disk(tmp_path / "a"), on_disk(tmp_path / "b"))

    reseeded = copy.deepcopy(site.config)
    reseeded.run.seed = 1
    shared = broadcast(site.config)
    others = [(replace(site, name="site-1"), 3), (site, 2), (replace(site, config=reseeded), 3)]
    for place, (other, number) in enumerate(others):
        update = train_round(other, tmp_path / f"other-{place}", shared, number, 4)
        assert not equal(first.detector, update.detector)
        assert not equal(first.networks, update.networks)


def test_nothing_of_the_held_out_folds_enters_training(
    sample_database: Database, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every signal that is read during a round is one of a training fold, and the held-out ones change no bit."""
    site = SiteData("site-0", sample_database, POSITIONS, tiny)
    read: list[int] = []
    signals, guided = Database.signals, SiteData.guided

    def spy_on_signals(self: Database, positions: np.ndarray) -> Tensor:
        read.extend(np.asarray(positions).tolist())
        return signals(self, positions)

    def spy_on_beats(self: SiteData, positions: np.ndarray):
        read.extend(np.asarray(positions).tolist())
        return guided(self, positions)

    monkeypatch.setattr(Database, "signals", spy_on_signals)
    monkeypatch.setattr(SiteData, "guided", spy_on_beats)
    first = play(site, tmp_path / "a", number=3)
    folds = sample_database.table["strat_fold"].to_numpy()
    assert set(read) == set(site.train_positions.tolist()) == set(POSITIONS[~np.isin(folds[POSITIONS], (9, 10))])
    held_out = set(sample_database.table["patient_id"].iloc[np.setdiff1d(POSITIONS, site.train_positions)])
    assert held_out
    assert not held_out & set(site.rows(site.train_positions)["patient_id"])

    monkeypatch.undo()
    without = play(replace(site, positions=site.train_positions), tmp_path / "b", number=3)
    for part in ("detector", "networks", "statistics"):
        assert equal(getattr(first, part), getattr(without, part))


def test_the_folds_are_the_configured_ones(sample_database: Database, tiny: Config) -> None:
    tiny.data.train_folds, tiny.data.validation_fold, tiny.data.test_fold = [3, 9, 10], 1, 2
    site = SiteData("site-0", sample_database, POSITIONS, tiny)
    folds = sample_database.table["strat_fold"].to_numpy()
    assert set(folds[site.train_positions]) == {3, 9, 10}
    assert set(folds[site.fold_positions(2)]) == {2}
    assert set(folds[site.fold_positions(1, 2)]) == {1, 2}
    together = [site.fold_positions(fold) for fold in range(1, 11)]
    assert sorted(np.concatenate(together).tolist()) == POSITIONS.tolist()


def test_a_withheld_superclass_is_not_trained_on(site: SiteData, sample_database: Database, tmp_path: Path) -> None:
    without = replace(site, withheld=("MI",))
    labels = sample_database.labels[:, SUPERCLASSES.index("MI")]
    assert without.train_positions.tolist() == [p for p in site.train_positions if labels[p] == 0]
    assert 0 < len(without.train_positions) < len(site.train_positions)
    assert without.fold_positions(10).tolist() == site.fold_positions(10).tolist()  # but it is tested on
    update = play(without, tmp_path / "private")
    assert not update.statistics["prior"][SUPERCLASSES.index("MI")].any()
    assert not update.statistics["requests"][SUPERCLASSES.index("MI")].any()


# --- the networks ----------------------------------------------------------------------------------------------------


def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The weights with which training begins, round by round."""
    found: list[dict[str, Tensor]] = []
    trainer = site_round.SeparatorTrainer

    def spy(networks: Networks, *rest, **named):
        found.append({name: value.clone() for name, value in networks.state_dict().items()})
        return trainer(networks, *rest, **named)

    monkeypatch.setattr(site_round, "SeparatorTrainer", spy)
    return found


def test_shared_networks_come_from_the_server_and_others_from_the_sites_disk(
    sample_database: Database, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.federation.share = ["editor", "prior"]
    site, folder = SiteData("site-0", sample_database, POSITIONS, tiny), tmp_path / "private"
    begun = starts(monkeypatch)
    play(site, folder, 1)
    own = on_disk(folder)
    server = make_networks(tiny, 7)  # what other sites made of it
    train_round(site, folder, replace(broadcast(tiny), networks=server.shared(["editor", "prior"])), 2, 4)
    assert equal(begun[0], dict(make_networks(tiny, tiny.run.seed).state_dict()))
    for name, weights in (("separator", own), ("editor", server.state_dict()), ("prior", server.state_dict())):
        assert equal(of(name, begun[1]), of(name, weights))
    assert not equal(of("editor", own), of("editor", begun[1]))
    assert [load_artefact(kept)[1]["round"] for kept in rounds_in(folder).values()] == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["private"]


def test_without_sharing_a_site_goes_on_with_its_own_networks(
    sample_database: Database, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.federation.share = []
    site, folder = SiteData("site-0", sample_database, POSITIONS, tiny), tmp_path / "private"
    begun = starts(monkeypatch)
    first = play(site, folder, 1)
    own = on_disk(folder)
    second = play(site, folder, 2)
    assert equal(begun[1], own)
    for update in (first, second):
        assert update.measured.keys() >= {"separator_loss", "perplexity", "detector_loss", "twins"}
        assert update.networks == {}


def test_two_sites_do_not_mix(site: SiteData, tmp_path: Path) -> None:
    play(site, tmp_path / "sites" / "one")
    alone = on_disk(tmp_path / "sites" / "one")
    play(replace(site, name="site-1"), tmp_path / "sites" / "other")
    assert equal(on_disk(tmp_path / "sites" / "one"), alone)
    assert not equal(on_disk(tmp_path / "sites" / "other"), alone)


def schedules(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Steps of the whole training and steps done, as each round begins."""
    found: list[tuple[int, int]] = []
    trainer = site_round.SeparatorTrainer

    def spy(*rest, total: int, done: int, **named):
        found.append((total, done))
        return trainer(*rest, total=total, done=done, **named)

    monkeypatch.setattr(site_round, "SeparatorTrainer", spy)
    return found


def test_the_learning_rate_falls_over_all_rounds(
    site: SiteData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = schedules(monkeypatch)
    for number in (1, 2, 4):
        play(site, tmp_path / "private", number)
    steps = site.config.separator_training.steps
    assert begun == [(4 * steps, 0), (4 * steps, steps), (4 * steps, 3 * steps)]


def test_the_separator_waits_for_its_round_and_then_has_a_whole_schedule(
    sample_database: Database, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.separator_training.after = tiny.twins.after = 0.5
    site, begun = SiteData("site-0", sample_database, POSITIONS, tiny), schedules(monkeypatch)
    early, first, last = (play(site, tmp_path / "private", number) for number in (2, 3, 4))
    steps = tiny.separator_training.steps
    assert begun[1:] == [(2 * steps, 0), (2 * steps, steps)]
    assert equal(early.networks, broadcast(tiny).networks)  # nothing was trained yet
    assert all(not value.any() for value in early.statistics.values())
    assert not equal(first.networks, broadcast(tiny).networks)
    assert first.statistics["requests"].any()
    assert "separator_loss" not in early.measured
    assert "separator_loss" in last.measured


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
    update = play(site, tmp_path / "private", 2)
    assert judges[0] is None  # weights that nobody trained judge nothing
    assert judges[1] is not None
    assert equal(dict(judges[1].state_dict()), broadcast(site.config).detector)
    assert not equal(
        dict(judges[1].state_dict()), update.detector
    )  # the site's own detector learns, the judge does not
    assert not any(parameter.requires_grad for parameter in judges[1].parameters())
    assert not judges[1].training


# --- twins -----------------------------------------------------------------------------------------------------------


def training_data(monkeypatch: pytest.MonkeyPatch) -> list[LabelledEcgs]:
    """What the detector trains on, round by round."""
    found: list[LabelledEcgs] = []
    train = site_round.train_in_round

    def spy(model, data: LabelledEcgs, *rest, **named):
        found.append(data)
        return train(model, data, *rest, **named)

    monkeypatch.setattr(site_round, "train_in_round", spy)
    return found


def test_twins_join_the_detectors_training_from_their_round_on(
    sample_database: Database, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.twins.after, tiny.twins.per_record, tiny.twins.weight = 0.25, 2, 0.25
    site = SiteData("site-0", sample_database, POSITIONS, tiny)
    trained_on = training_data(monkeypatch)
    real, healthy = len(site.train_positions), len(site.healthy)
    assert BEATLESS in site.train_positions
    assert healthy == int(sample_database.norm_only()[site.train_positions].sum()) - 1
    first, second = (play(site, tmp_path / "private", number) for number in (1, 2))
    assert (first.measured["twins"], second.measured["twins"]) == (0.0, 2.0 * healthy)
    assert first.examples == second.examples == real  # twins are no examples: they do not weigh the average
    assert len(trained_on[0]) == real
    twins = trained_on[1]
    assert len(twins) == real + 2 * healthy
    assert torch.equal(twins.x[:real], sample_database.signals(site.train_positions))
    assert twins.weight[:real].unique().tolist() == [1.0]
    assert twins.weight[real:].unique().tolist() == [0.25]


def made(site: SiteData, known: Tensor, seed: int = 0):
    networks, codes = make_networks(site.config, 0), broadcast(site.config).codebook["codes"]
    return training_twins(site, networks, codes, known, torch.Generator().manual_seed(seed))


def test_training_twins_are_of_healthy_training_patients_and_carry_one_disease(site: SiteData) -> None:
    twins = made(site, seen_in("NORM", "MI", "STTC", "CD"))
    assert twins is not None
    assert len(twins) == len(site.healthy)
    assert twins.y.sum(1).tolist() == [1.0] * len(twins)
    assert not twins.y[:, [NORM, SUPERCLASSES.index("HYP")]].any()  # HYP has never been seen
    shares = twins.y.sum(0)[1:4]
    assert float(shares.max() - shares.min()) <= 1  # diseases in equal shares
    changed = (twins.x - site.healthy.signal).abs()
    assert bool((changed.amax(dim=(1, 2)) < 2.0).all())  # each is its own patient, little changed
    assert bool((changed.amax(dim=(1, 2)) > 0).all())


def test_training_twins_are_asked_for_by_statements_of_their_disease(
    site: SiteData, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    request = site_round.request_twins

    def spy(networks, codes, patients, statements, *rest):
        asked.extend(statements)
        return request(networks, codes, patients, statements, *rest)

    monkeypatch.setattr(site_round, "request_twins", spy)
    twins = made(site, seen_in("STTC", "CD", "HYP"))
    assert twins is not None
    classes = superclass_of(public_statements())
    assert [SUPERCLASSES.index(classes[code]) for (code,) in asked] == twins.y.argmax(1).tolist()
    assert len({code for (code,) in asked}) > 3


def test_a_disease_that_only_other_sites_have_seen_is_made_too(
    site: SiteData, sample_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The point of a federated prior."""
    trained_on = training_data(monkeypatch)
    without = replace(site, withheld=("HYP",))
    play(without, tmp_path / "a", number=3)
    play(without, tmp_path / "b", number=3, known=seen_in("HYP"))
    real = len(without.train_positions)
    alone, federated = (data.y[real:, SUPERCLASSES.index("HYP")].sum() for data in trained_on)
    assert float(alone) == 0.0 < float(federated)


def test_without_a_disease_or_a_healthy_patient_there_are_no_twins(site: SiteData, sample_database: Database) -> None:
    assert made(site, torch.zeros(len(SUPERCLASSES), S)) is None
    assert made(site, seen_in("NORM")) is None
    sick = POSITIONS[sample_database.labels[POSITIONS, NORM] == 0]
    assert made(replace(site, positions=sick), seen_in("MI")) is None
    assert made(replace(site, positions=np.append(sick, BEATLESS)), seen_in("MI")) is None  # nobody to write to


# --- sites that lack something ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["healthy", "abnormal"])
def test_a_site_that_lacks_one_kind_sends_zero_statistics_and_trains_its_detector(
    site: SiteData, sample_database: Database, tmp_path: Path, missing: str
) -> None:
    norm = sample_database.norm_only()[POSITIONS]
    lacking = replace(site, positions=POSITIONS[norm if missing == "abnormal" else ~norm])
    shared = broadcast(site.config, seen_in("MI"))
    update = train_round(lacking, tmp_path / "private", shared, 3, 4)
    assert {name: value.shape for name, value in update.statistics.items()} == {
        name: shared.codebook[name].shape for name in STATISTICS
    }
    assert not any(value.any() for value in update.statistics.values())
    assert equal(update.networks, shared.networks)  # nothing was learned
    assert update.measured["twins"] == (len(lacking.healthy) if missing == "abnormal" else 0.0)
    assert "separator_loss" not in update.measured
    assert np.isfinite(update.measured["detector_loss"])
    assert not equal(update.detector, shared.detector)


def test_a_site_makes_no_twins_with_an_editor_that_nobody_trained(
    sample_database: Database, tiny: Config, tmp_path: Path
) -> None:
    """It has no abnormal record to train one, and gets none from the server: such twins are healthy, labelled ill."""
    tiny.federation.share = ["prior"]
    healthy = POSITIONS[sample_database.norm_only()[POSITIONS]]
    lacking = SiteData("site-0", sample_database, healthy, tiny)
    assert play(lacking, tmp_path / "private", number=3, known=seen_in("MI")).measured["twins"] == 0.0


def test_a_site_without_training_records_says_so(site: SiteData, sample_database: Database, tmp_path: Path) -> None:
    folds = sample_database.table["strat_fold"].to_numpy()[POSITIONS]
    with pytest.raises(DataError, match="site-0 has no record in the training folds"):
        play(replace(site, positions=POSITIONS[folds == 10]), tmp_path / "private")
    assert not (tmp_path / "private").exists()


# --- the site's data -------------------------------------------------------------------------------------------------


def test_the_detector_trains_on_every_record_and_the_separator_on_those_with_beats(
    site: SiteData, sample_database: Database
) -> None:
    assert torch.equal(site.ecgs.x, sample_database.signals(site.train_positions))
    np.testing.assert_array_equal(site.ecgs.y.numpy(), sample_database.labels[site.train_positions])
    assert site.ecgs.weight.unique().tolist() == [1.0]
    kept = site.with_beats(site.train_positions)
    assert kept.tolist() == [position for position in site.train_positions if position != BEATLESS]
    np.testing.assert_array_equal(site.beats.x.numpy(), sample_database.beats.median[kept])
    np.testing.assert_array_equal(site.beats.y.numpy(), sample_database.labels[kept])


def test_guidance_is_what_a_beat_can_show(site: SiteData) -> None:
    """Diagnostic and form statements, not rhythms; NORM is to say nothing."""
    positions = site.with_beats(site.train_positions)
    shown = set(statement_names(public_statements()))
    codes = [[code for code in row if code in shown] for row in site.rows(positions)["statements"]]
    assert any(len(some) < len(row) for some, row in zip(codes, site.rows(positions)["statements"], strict=True))
    beats, expected = site.beats, requests(codes, site.config.text)
    for tokens, mask in ((beats.memory, beats.mask), (beats.asked, beats.asked_mask)):
        assert torch.equal(tokens, expected.tokens)
        assert torch.equal(mask, expected.mask)
    np.testing.assert_array_equal(beats.statements.numpy(), statement_matrix(codes))
    norm = beats.statements[:, diagnostic_statements().index("NORM")]
    assert not norm.any()


def test_the_free_text_guides_where_it_was_asked_for(site: SiteData, tiny: Config) -> None:
    """What is asked of twins stays statements: nobody asks for a twin with a report."""
    tiny.text.source = "report"
    by_text = replace(site, config=tiny).beats
    reports = site.rows(site.with_beats(site.train_positions))["report"]
    sentences = [sum(bool(part.strip()) for part in report.split(".")) for report in reports]
    assert by_text.mask.sum(1).tolist() == sentences
    assert torch.equal(by_text.asked, site.beats.asked)
    assert torch.equal(by_text.asked_mask, site.beats.asked_mask)


def test_strips_and_covariates_are_each_records_own(site: SiteData, sample_database: Database) -> None:
    positions = site.with_beats(site.train_positions)
    beats = sample_database.beats.take(positions)
    expected = strip_places(torch.from_numpy(beats.rr), torch.from_numpy(beats.valid), 100)
    assert torch.equal(site.beats.places, expected)
    rows = site.rows(positions)
    order = np.argsort(site.beats.covariates[:, 0].numpy())
    assert bool((np.diff(beats.rr[order]) >= 0).all())
    np.testing.assert_array_equal(site.beats.covariates[:, 2] > 0, rows["sex"] == 1)


def test_patients_are_the_databases_records_in_the_beat_frame(site: SiteData, sample_database: Database) -> None:
    healthy = site.train_positions[sample_database.norm_only()[site.train_positions]]
    healthy = healthy[healthy != BEATLESS]
    assert torch.equal(site.healthy.signal, sample_database.signals(healthy))
    rows = site.rows(healthy)
    again = Patients.of(site.healthy.signal, rows["age"].to_numpy(float), rows["sex"].to_numpy(float), 4, 100)
    torch.testing.assert_close(site.healthy.input.x, again.input.x, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(site.healthy.input.covariates, again.input.covariates)
    assert torch.equal(site.healthy.input.valid, again.input.valid)
