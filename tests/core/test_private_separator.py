"""Private training of separator and codebook: bounded by patient, noised, entered, and nothing else leaves."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lavq_core.data.database import Database
from lavq_core.data.labels import statement_classes
from lavq_core.errors import ConfigError
from lavq_core.models.beat_judge import BeatJudge
from lavq_core.models.codebook import code_statistics, initial_codebook, quantise
from lavq_core.models.detector import build_detector
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.models.networks import Networks, beat_tokens, make_networks
from lavq_core.privacy.accounting import epsilon_of
from lavq_core.privacy.guard import LeavingRefused, check_leaving
from lavq_core.privacy.ledger import Ledger
from lavq_core.privacy.patient_gradients import clipped_gradients
from lavq_core.privacy.plan import make_plan
from lavq_core.privacy.statement import privacy_statement
from lavq_core.settings import Config
from lavq_core.settings_check import NOT_PRIVATE, check
from lavq_core.training import private_round
from lavq_core.training.guided import GuidedBeats, class_weights
from lavq_core.training.private_separator import PrivateSeparatorTrainer
from lavq_core.training.private_statistics import contributions, private_statistics
from lavq_core.training.site_data import SiteData
from lavq_core.training.site_round import SharedState, SiteUpdate, train_round
from server.validation import _check_statistics

CLIP, ROUNDS = 0.05, 3
EASY = 1e-9  # a noise multiplier that leaves what it is added to as it was, to nine digits


@pytest.fixture(scope="module")
def config(make_tiny: Callable[[], Config]) -> Config:
    config = make_tiny()
    config.privacy.epsilon, config.privacy.delta = 2.0, 1e-3
    config.privacy.separator_clipping_norm = CLIP
    config.privacy.separator_rate = 1.0  # the accountants are quick where there is no sampling
    config.detector.kind = "features"
    config.detector_training.epochs = config.detector_training.steps = 2
    config.federation.rounds = ROUNDS
    config.separator_training.after = 0.34
    config.codebook.ema = 0.0
    config.audit.enabled = False
    for name in NOT_PRIVATE:
        setattr(config.separator_training.loss, name, 0.0)
    return config


def with_sums(config: Config) -> Config:
    config = copy.deepcopy(config)
    config.privacy.codebook = "sums"
    return config


@pytest.fixture(scope="module")
def site(sample_database: Database, config: Config) -> SiteData:
    return SiteData("site-0", sample_database, np.arange(0, 520, 14), config)


def trainer_of(config: Config, noise_multiplier: float = 1.0) -> PrivateSeparatorTrainer:
    return PrivateSeparatorTrainer(
        networks_of(config),
        initial_codebook(config.codebook, beat_tokens(config), 0),
        BeatJudge(trained_detector()),
        config,
        torch.Generator().manual_seed(0),
        noise_multiplier,
        size=10.0,
        total=10,
    )


def networks_of(config: Config) -> Networks:
    """Networks whose gate opens for some tokens of a record and not for others."""
    networks = make_networks(config, 0)
    with torch.no_grad():
        networks.separator.gate.weight.mul_(20.0)
        networks.separator.gate.bias.fill_(1.0)
    return networks


def trained_detector() -> FeatureDetector:
    detector = FeatureDetector(100)
    generator = torch.Generator().manual_seed(3)
    detector.head.weight.data = torch.randn(detector.head.weight.shape, generator=generator)
    detector.centre.copy_(0.02 * torch.randn(detector.centre.shape, generator=generator))
    return detector


def of_kind(data: GuidedBeats, abnormal: bool, count: int = 3) -> GuidedBeats:
    return data.take((data.abnormal() if abnormal else data.norm_only())[:count])


def rows_of(items: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in items.items()}


def length(gradient: dict[str, Tensor]) -> float:
    return float(torch.cat([value.flatten() for value in gradient.values()]).norm())


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: a[name] - b[name] for name in a}


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abnormal", [True, False])
def test_a_patient_counts_at_most_c_and_the_same_whoever_else_takes_part(
    config: Config, site: SiteData, abnormal: bool
) -> None:
    trainer = trainer_of(config)
    items, weights = trainer.items(of_kind(site.beats, abnormal), abnormal), dict(trainer.losses.named_parameters())

    def summed(rows: list[int]) -> dict[str, Tensor]:
        owner = torch.tensor(rows)
        return clipped_gradients(trainer.loss(abnormal), weights, rows_of(items, rows), owner, CLIP)

    alone, everybody = summed([0]), summed([0, 1, 2])
    assert 0.99 * CLIP < length(alone) <= CLIP
    assert length(apart(apart(everybody, summed([1, 2])), alone)) < 1e-6


@pytest.mark.parametrize("abnormal", [True, False])
def test_gradients_equal_those_of_plain_backward(config: Config, site: SiteData, abnormal: bool) -> None:
    trainer = trainer_of(config)
    items, weights = trainer.items(of_kind(site.beats, abnormal), abnormal), dict(trainer.losses.named_parameters())
    owner = torch.arange(len(items["x"]))
    found = clipped_gradients(trainer.loss(abnormal), weights, items, owner, 1e9)
    for row in owner.tolist():
        trainer.losses({name: value[row] for name, value in items.items()}, abnormal).backward()
    for name, parameter in trainer.losses.named_parameters():
        plain = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(found[name].float(), plain, rtol=1e-4, atol=2e-5), name


def test_every_network_and_the_codes_learn_from_one_kind_of_patient_or_the_other(
    config: Config, site: SiteData
) -> None:
    trainer = trainer_of(config)
    rows = torch.cat([site.beats.abnormal()[:3], site.beats.norm_only()[:3]])
    total = trainer.clipped_sum(site.beats, torch.arange(len(site.beats)), rows)
    for part in ("networks.separator", "networks.editor", "networks.prior", "codes"):
        assert any(float(value.abs().max()) > 0 for name, value in total.items() if name.startswith(part))


def test_a_patient_with_two_records_takes_part_with_one_of_them(config: Config, site: SiteData) -> None:
    trainer, owner = trainer_of(config), torch.arange(len(site.beats)) // 2
    for _ in range(5):
        rows = trainer._one_record_each(owner, owner.unique())
        assert owner[rows].tolist() == owner.unique().tolist()


def test_a_patient_entered_twice_in_one_step_is_refused(config: Config, site: SiteData) -> None:
    trainer = trainer_of(config)
    with pytest.raises(ValueError, match="one record only"):
        trainer.step(site.beats, torch.zeros(len(site.beats), dtype=torch.int64), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="one record only"):
        trainer.step(site.beats, torch.arange(len(site.beats)), torch.tensor([2, 2]))


def test_a_step_without_patients_adds_noise_and_counts(config: Config, site: SiteData) -> None:
    trainer, none = trainer_of(config), torch.zeros(0, dtype=torch.int64)
    before = {name: value.clone() for name, value in trainer.losses.named_parameters()}
    trainer.step(site.beats, torch.arange(len(site.beats)), none)
    assert all(not torch.equal(value, before[name]) for name, value in trainer.losses.named_parameters())
    assert {float(value) for name, value in trainer.keep().items() if name.endswith(".step")} == {1.0}


def test_codes_learn_in_the_clip_or_stay_as_broadcast(config: Config, site: SiteData) -> None:
    owner, rows = torch.arange(len(site.beats)), site.beats.abnormal()[:3]
    learned, fixed = trainer_of(config), trainer_of(with_sums(config))
    start = learned.codes
    for trainer in (learned, fixed):
        trainer.step(site.beats, owner, rows)
    assert torch.allclose(learned.codes.norm(dim=1), torch.ones(len(start)))
    assert not torch.allclose(learned.codes, start, atol=1e-5)
    assert torch.equal(fixed.codes, start)
    assert "codes" not in dict(fixed.losses.named_parameters())


# --- what is refused by configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOT_PRIVATE)
def test_a_loss_that_is_not_of_one_patient_is_refused(config: Config, name: str) -> None:
    leaky = copy.deepcopy(config)
    check(leaky)
    setattr(leaky.separator_training.loss, name, 0.1)
    with pytest.raises(ConfigError, match=f"loss.{name}=0"):
        check(leaky)


def test_a_moving_average_of_codes_is_refused_with_the_reason(config: Config) -> None:
    leaky = copy.deepcopy(config)
    leaky.codebook.ema = 0.99
    with pytest.raises(ConfigError, match=r"codebook\.ema=0: a moving average"):
        check(leaky)
    forced = copy.deepcopy(config)
    forced.privacy.codebook = "ema"
    with pytest.raises(ConfigError, match=r"privacy.codebook must be one of gradient, sums: .* publish patients"):
        check(forced)


# --- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gradient", "sums"])
def test_a_record_counts_at_most_one_in_all_statistics_together(config: Config, site: SiteData, kind: str) -> None:
    config = with_sums(config) if kind == "sums" else config
    trainer = trainer_of(config)
    vectors = contributions(trainer.networks, trainer.codes, of_kind(site.beats, True, 20), config)
    norms = vectors.norm(dim=1)
    assert float(norms.max()) <= 1 + 1e-9
    assert float(norms.min()) > 0.3  # bounds that much less were needed would waste the budget


@pytest.mark.parametrize("kind", ["gradient", "sums"])
def test_without_noise_the_statistics_are_the_patients_shares(config: Config, site: SiteData, kind: str) -> None:
    config = with_sums(config) if kind == "sums" else config
    trainer, data = trainer_of(config), of_kind(site.beats, True, 6)
    found = trainer.networks.separator(data.x, data.covariates, data.valid, data.memory, data.mask)
    _, indices = quantise(found.latents, trainer.codes)
    gate = found.gate > 0.5
    assert bool(gate.any(dim=1).all())
    owner = torch.tensor([0, 0, 1, 2, 3, 4])
    share = torch.tensor([0.5, 0.5, 1, 1, 1, 1])
    of_record = [
        code_statistics(found.latents[i : i + 1], indices[i : i + 1], gate[i : i + 1], config.codebook.size)
        for i in range(6)
    ]
    counts = torch.stack([s["counts"] / s["counts"].sum() for s in of_record])  # (6, K)
    sums = torch.stack([s["sums"] / s["counts"].sum() for s in of_record])  # (6, K, D)
    fresh = private_statistics(trainer.networks, trainer.codes, data, owner, config, EASY, 5.0)
    expected = (counts * share[:, None]).sum(0)
    assert torch.allclose(fresh["counts"], expected, atol=1e-4)
    expected_sums = (sums * share[:, None, None]).sum(0) if kind == "sums" else expected[:, None] * trainer.codes
    assert torch.allclose(fresh["sums"], expected_sums, atol=1e-4)
    said = torch.einsum("n,nc,ns->cs", share, class_weights(data.y), data.statements)
    assert torch.allclose(fresh["requests"], said * torch.from_numpy(statement_classes()), atol=0.5)
    assert float(fresh["prior"].sum()) == pytest.approx(
        float((class_weights(data.y).sum(1) * share).sum() * beat_tokens(config)), rel=1e-4
    )


@pytest.mark.parametrize("kind", ["gradient", "sums"])
@pytest.mark.parametrize("noise", [0.5, 50.0])
def test_the_server_takes_noised_statistics(config: Config, site: SiteData, kind: str, noise: float) -> None:
    config = with_sums(config) if kind == "sums" else config
    trainer, owner = trainer_of(config), site.beat_owners
    fresh = private_statistics(trainer.networks, trainer.codes, site.beats, owner, config, noise, 30.0)
    _check_statistics(fresh, 30)
    again = private_statistics(trainer.networks, trainer.codes, site.beats, owner, config, noise, 30.0)
    assert not torch.equal(fresh["counts"], again["counts"])


# --- plan and statement ----------------------------------------------------------------------------------------------


def test_the_plan_shares_the_budget_and_spends_all_of_it(config: Config) -> None:
    config = copy.deepcopy(config)
    config.privacy.epsilon, config.privacy.delta, config.privacy.separator_rate = 3.0, 1e-5, 0.1
    config.separator_training.steps = config.detector_training.steps = 40
    config.detector_training.epochs = 40
    plan = make_plan(config, ROUNDS)
    assert [m.name for m in plan.of_round(1, sized=False)] == ["size", "centre"]
    assert [m.name for m in plan.of_round(2, sized=True)] == ["detector", "separator", "counts"]
    assert plan.separator is not None
    assert plan.separator.steps.sample_rate == config.privacy.separator_rate
    spent = epsilon_of(plan.whole(), config.privacy.delta)
    assert 0.97 * 3.0 < spent <= 3.0
    one_by_one = [m for number in (1, 2, 3) for m in plan.of_round(number, sized=number > 1)]
    for mechanism in plan.whole():
        parts = [m for m in one_by_one if m.name == mechanism.name]
        assert {m.noise_multiplier for m in parts} == {mechanism.noise_multiplier}
        assert sum(m.steps for m in parts) == mechanism.steps


def test_without_separator_steps_the_plan_is_that_of_the_detector_alone(config: Config) -> None:
    alone = copy.deepcopy(config)
    alone.separator_training.steps = 0
    plan = make_plan(alone, ROUNDS)
    assert plan.separator is None
    assert [m.name for m in plan.whole()] == ["size", "centre", "detector"]
    assert plan.detector.noise_multiplier < make_plan(config, ROUNDS).detector.noise_multiplier


def test_the_statement_names_the_new_releases(config: Config) -> None:
    said = privacy_statement(config)
    assert "4 gradient sums of separator, editor, prior network and codebook clipped to 0.05 a patient" in said
    assert "with every patient in every step, no sampling" in said
    assert "; elsewhere every patient in every step, no sampling; PRV" in said
    assert "2 counts of codes, places and statements (noise multiplier" in said
    assert "with sums of latents" in privacy_statement(with_sums(config))


# --- the judge -------------------------------------------------------------------------------------------------------


def test_the_judge_reads_beats_as_the_detector_does_and_passes_a_gradient(site: SiteData) -> None:
    detector, positions = trained_detector(), site.with_beats(site.train_positions)[:4]
    described = torch.from_numpy(np.array(site.database.descriptions[positions]))
    beats = site.beats.x[:4].clone().requires_grad_(True)
    rest = detector.centre[8 * 96 :].expand(4, -1)
    seen = torch.cat([described[:, : 8 * 96], rest], dim=1)
    told = BeatJudge(detector)(beats)
    assert torch.allclose(told, detector.head(detector.standard(seen)), atol=1e-5)
    told.sum().backward()
    assert beats.grad is not None
    assert float(beats.grad.abs().max()) > 0


# --- the round and the door ------------------------------------------------------------------------------------------


def broadcast(config: Config) -> SharedState:
    detector = build_detector(config.detector, 100, config.run.seed)
    networks = make_networks(config, config.run.seed).shared(config.federation.share)
    codebook = initial_codebook(config.codebook, beat_tokens(config), config.run.seed)
    return SharedState(dict(detector.state_dict()), codebook, networks)


def play(site: SiteData, folder: Path, number: int) -> tuple[SiteUpdate, Ledger]:
    ledger = Ledger(folder / "ledger", "data", 100.0, site.config.privacy.delta)
    return train_round(site, folder / "private", broadcast(site.config), number, ROUNDS, ledger), ledger


@pytest.fixture(scope="module")
def played(site: SiteData, tmp_path_factory: pytest.TempPathFactory) -> tuple[SiteUpdate, Ledger]:
    """A site's first round is the federation's second."""
    return play(site, tmp_path_factory.mktemp("site"), 2)


def parts_of(update: SiteUpdate) -> dict[str, dict[str, Tensor]]:
    return {"detector": update.detector, "codebook": update.statistics, "networks": update.networks}


def leave(parts: dict[str, dict[str, Tensor]], ledger: Ledger, config: Config) -> None:
    shared = broadcast(config)
    check_leaving(parts, ledger.entries[-1].outputs, {"detector": shared.detector, "networks": shared.networks})


def test_one_entry_of_the_ledger_covers_all_that_leaves(config: Config, played: tuple[SiteUpdate, Ledger]) -> None:
    update, ledger = played
    assert [m.name for m in ledger.entries[-1].mechanisms] == ["size", "detector", "separator", "counts"]
    leave(parts_of(update), ledger, config)
    assert update.networks.keys() == broadcast(config).networks.keys()
    assert not torch.equal(update.networks["editor.null"], broadcast(config).networks["editor.null"])
    assert update.examples == max(1, round(ledger.entries[-1].public["size"]))


def test_the_ledger_holds_nothing_of_what_was_released(played: tuple[SiteUpdate, Ledger]) -> None:
    _, ledger = played
    entry = json.loads(ledger.path.read_text(encoding="utf-8").splitlines()[-1])
    assert entry["public"].keys() == {"size"}
    assert all(len(output) == 64 for output in entry["outputs"])


def test_a_round_trained_twice_draws_other_noise(
    site: SiteData, played: tuple[SiteUpdate, Ledger], tmp_path: Path
) -> None:
    again, _ = play(site, tmp_path, 2)
    assert not torch.equal(again.networks["editor.null"], played[0].networks["editor.null"])
    assert not torch.equal(again.statistics["counts"], played[0].statistics["counts"])


def test_no_draw_of_a_private_round_follows_from_the_runs_seed(
    site: SiteData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn from a known seed, one patient more would shift what is drawn for all the others."""
    seeds: list[int] = []
    real = private_round.PrivateSeparatorTrainer

    def watched(*args: Any, **more: Any) -> Any:
        seeds.extend(value.initial_seed() for value in args if isinstance(value, torch.Generator))
        return real(*args, **more)

    monkeypatch.setattr(private_round, "PrivateSeparatorTrainer", watched)
    for name in ("a", "b"):
        play(site, tmp_path / name, 2)
    assert len(seeds) == len(set(seeds)) == 2


@pytest.mark.parametrize("leak", ["moving average", "copied latent", "another network", "class counts"])
def test_what_no_mechanism_released_is_caught_at_the_door(
    config: Config, site: SiteData, played: tuple[SiteUpdate, Ledger], leak: str
) -> None:
    update, ledger = played
    parts = copy.deepcopy(parts_of(update))
    networks, data = networks_of(config), of_kind(site.beats, True)
    found = networks.separator(data.x, data.covariates, data.valid, data.memory, data.mask)
    codes = initial_codebook(config.codebook, beat_tokens(config), 0)["codes"]
    _, indices = quantise(found.latents, codes)
    fresh = code_statistics(found.latents, indices, found.gate > 0.5, len(codes))
    if leak == "moving average":
        parts["codebook"]["sums"] = 0.99 * parts["codebook"]["sums"] + 0.01 * fresh["sums"]
    elif leak == "copied latent":
        parts["codebook"]["sums"][0] = found.latents[0, 0].detach()
    elif leak == "another network":
        parts["networks"]["editor.null"] = parts["networks"]["editor.null"] + 1e-7 * found.latents[0, 0].detach()
    else:
        parts["codebook"]["requests"] = class_weights(data.y).T @ data.statements
    with pytest.raises(LeavingRefused, match="comes from no mechanism"):
        leave(parts, ledger, config)


def test_before_its_first_round_the_separator_releases_nothing(site: SiteData, tmp_path: Path) -> None:
    update, ledger = play(site, tmp_path, 1)
    assert [m.name for m in ledger.entries[-1].mechanisms] == ["size", "centre"]
    assert all(not bool(value.any()) for value in update.statistics.values())
    shared = broadcast(site.config)
    assert all(torch.equal(value, shared.networks[name]) for name, value in update.networks.items())
