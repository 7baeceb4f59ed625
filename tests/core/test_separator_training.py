"""Local training of separator and editor: what is learned, what is counted for the server, and who trains nothing."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lavq_core.config import Config
from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES
from lavq_core.models.codebook import STATISTICS, CodebookState, code_statistics, initial_codebook, quantise
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import beat_tokens, make_networks
from lavq_core.models.prior import count_codes
from lavq_core.training.guided import NORM, GuidedBeats, class_weights
from lavq_core.training.separator_losses import identity_loss, relative_error
from lavq_core.training.separator_training import SeparatorTrainer
from lavq_core.training.site_data import SiteData

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def records(sample_database: Database) -> GuidedBeats:
    """Real median beats of all classes, with their reports."""
    config = Config()
    config.text.width = 12
    return SiteData("site-0", sample_database, np.arange(0, 520, 20), config).beats


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codebook_of(config: Config) -> CodebookState:
    return initial_codebook(config.codebook, beat_tokens(config), 0)


def judge_of(config: Config) -> nn.Module:
    return build_detector(config.detector, 100, 1).eval().requires_grad_(False)


def trainer_of(config: Config, judge: nn.Module | None = None, seed: int = 0) -> SeparatorTrainer:
    """A trainer past the warm-up, whose gate is open: shut, it gives codes and editor no gradient."""
    networks = make_networks(config, 0)
    with torch.no_grad():
        networks.separator.gate.bias.fill_(0.5)
    return SeparatorTrainer(networks, codebook_of(config), judge, config, rng(seed), total=200, done=50)


def weights(trainer: SeparatorTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.networks.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def take(data: GuidedBeats, rows: Tensor) -> GuidedBeats:
    return data.take(rows, CPU)


# --- records ---------------------------------------------------------------------------------------------------------


def test_abnormal_and_norm_only_are_what_they_say(records: GuidedBeats) -> None:
    for row, labels in enumerate(records.y):
        others = labels.clone()
        others[NORM] = 0
        assert (row in records.abnormal()) == bool(others.any())
        assert (row in records.norm_only()) == (bool(labels[NORM]) and not others.any())


def test_a_record_without_any_label_is_neither() -> None:
    y = torch.zeros(3, 5)
    y[1, NORM], y[2, NORM], y[2, 1] = 1, 1, 1
    data = GuidedBeats(*(torch.zeros(3, 1) for _ in range(3)), y, *(torch.zeros(3, 1) for _ in range(6)))
    assert data.abnormal().tolist() == [2]
    assert data.norm_only().tolist() == [1]


def test_class_weights_are_of_abnormal_labels_only() -> None:
    y = torch.tensor([[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 0]])
    before = y.clone()
    found = class_weights(y)
    assert torch.equal(y, before)
    assert not found[:, NORM].any()
    assert torch.equal(found > 0, (y > 0) & (torch.arange(5) != NORM))
    assert found[1].tolist() == [0, 1, 0, 0, 0]
    assert found[2, 1] == found[2, 3] <= 0.5  # a record with several diseases says less about each
    assert bool((found.sum(1) <= 1.0).all())


# --- first weights ---------------------------------------------------------------------------------------------------


def test_every_site_starts_from_the_same_weights(tiny: Config) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = dict(make_networks(tiny, 0).state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert equal(dict(make_networks(tiny, 0).state_dict()), first)
    assert not equal(dict(make_networks(tiny, 1).state_dict()), first)


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judged", [False, True])
def test_a_few_steps_lower_the_loss(tiny: Config, records: GuidedBeats, judged: bool) -> None:
    sick, healthy = take(records, records.abnormal()[:4]), take(records, records.norm_only()[:4])
    tiny.separator_training.loss.adversarial = 0.0  # an opponent's part of the loss need not fall
    trainer = trainer_of(tiny, judge_of(tiny) if judged else None)
    losses = [trainer.step(sick, healthy)["separator_loss"] for _ in range(20)]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


def test_a_step_measures_what_the_site_logs(tiny: Config, records: GuidedBeats) -> None:
    sick, healthy = take(records, records.abnormal()[:4]), take(records, records.norm_only()[:4])
    measured = trainer_of(tiny).step(sick, healthy)
    assert {"separator_loss", "reconstruction", "gate_abnormal", "gate_norm"} <= measured.keys()
    assert all(np.isfinite(value) for value in measured.values())
    assert 0 <= measured["gate_abnormal"] <= 1
    assert 0 <= measured["gate_norm"] <= 1
    judged = trainer_of(tiny, judge_of(tiny)).step(sick, healthy)
    assert {"judge_twin", "judge_healed", "adversarial", "discriminator", "prior"} <= judged.keys()
    assert not {"judge_twin", "judge_healed"} & measured.keys()


def test_a_step_reaches_every_weight(tiny: Config, records: GuidedBeats) -> None:
    trainer = trainer_of(tiny, judge_of(tiny))
    before = weights(trainer)
    for _ in range(3):
        trainer.step(take(records, records.abnormal()[:4]), take(records, records.norm_only()[:4]))
    for name, value in weights(trainer).items():
        assert not torch.equal(value, before[name]), name


def test_the_learning_rate_rises_then_falls_over_the_whole_training(tiny: Config, records: GuidedBeats) -> None:
    """A round goes on where the last one ended, whoever made the trainer."""
    sick, healthy = take(records, records.abnormal()[:4]), take(records, records.norm_only()[:4])

    def rate(done: int) -> float:
        trainer = SeparatorTrainer(make_networks(tiny, 0), codebook_of(tiny), None, tiny, rng(0), 400, done)
        trainer.step(sick, healthy)
        return float(trainer._optimiser.param_groups[0]["lr"])

    rates = [rate(done) for done in (0, 20, 60, 200, 399)]
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4] > 0
    assert max(rates) <= tiny.separator_training.lr


def test_without_an_opponent_there_is_no_discriminator(tiny: Config, records: GuidedBeats) -> None:
    tiny.separator_training.loss.adversarial = 0.0
    trainer = trainer_of(tiny)
    assert trainer.discriminator is None
    measured = trainer.step(take(records, records.abnormal()[:4]), take(records, records.norm_only()[:4]))
    assert not {"adversarial", "discriminator"} & measured.keys()


def test_a_request_loses_some_statements_but_never_all(tiny: Config) -> None:
    mask = torch.rand(200, 5, generator=rng(0)) < 0.6
    said = trainer_of(tiny)._some_of(mask)
    assert not (said & ~mask).any()
    assert torch.equal(said.any(1), mask.any(1))
    assert 0.5 < float(said.sum() / mask.sum()) < 0.95


def test_a_step_leaves_judge_and_shared_codebook_alone(tiny: Config, records: GuidedBeats) -> None:
    judge, state = judge_of(tiny), codebook_of(tiny)
    state["prior"] += 1.0
    trainer = SeparatorTrainer(make_networks(tiny, 0), state, judge, tiny, rng(0), 20)
    before, judge_before = copy.deepcopy(state), copy.deepcopy(judge.state_dict())
    for _ in range(12):  # beyond the first revival of dead codes
        trainer.step(take(records, records.abnormal()[:4]), take(records, records.norm_only()[:4]))
    assert equal(state, before)
    assert equal(dict(judge.state_dict()), dict(judge_before))
    assert all(parameter.grad is None for parameter in judge.parameters())
    assert not torch.equal(trainer.codes, state["codes"])  # the local copy moved
    torch.testing.assert_close(trainer.codes.norm(dim=-1), torch.ones(tiny.codebook.size))


def test_healthy_records_put_nothing_into_the_codes(tiny: Config, records: GuidedBeats) -> None:
    sick, healthy = take(records, records.abnormal()[:4]), take(records, records.norm_only()[:4])
    other = replace(healthy, x=healthy.x.flip(0) * 1.5)
    codes = []
    for norm in (healthy, other):
        trainer = trainer_of(tiny)
        trainer.step(sick, norm)
        codes.append(trainer.codes)
    assert torch.equal(codes[0], codes[1])


# --- losses ----------------------------------------------------------------------------------------------------------


def test_a_twin_that_is_nearest_to_its_own_patient_costs_least(records: GuidedBeats) -> None:
    patients = records.x[records.norm_only()[:6]]
    own, others = identity_loss(patients + 0.01, patients), identity_loss(patients.roll(1, 0), patients)
    assert float(own) < math.log(len(patients)) < float(others)


def test_errors_are_relative_to_the_beat_and_count_its_slope(records: GuidedBeats) -> None:
    x = records.x[:5]
    assert float(relative_error(x, x)) == 0.0
    torch.testing.assert_close(relative_error(2.2 * x, 2 * x), relative_error(1.1 * x, x), rtol=1e-3, atol=1e-5)
    wiggle = 0.02 * torch.tensor([1.0, -1.0]).repeat(x.shape[-1] // 2)
    assert float(relative_error(x + wiggle, x)) > 5 * float(relative_error(x + 0.02, x))


def test_a_report_of_other_diseases_costs_only_where_its_classes_are_none_of_the_record_s(
    tiny: Config, records: GuidedBeats
) -> None:
    sick, healthy = take(records, records.abnormal()[:4]), take(records, records.norm_only()[:4])
    same = replace(sick, y=torch.ones_like(sick.y))
    assert trainer_of(tiny).step(same, healthy)["wrong_report"] == 0.0
    with torch.no_grad():  # a gate that is open everywhere
        trainer = trainer_of(tiny)
        trainer.networks.separator.gate.bias.fill_(5.0)
    apart = replace(sick, y=torch.eye(5)[1:5])
    weight = tiny.separator_training.loss.wrong_report
    assert trainer.step(apart, healthy)["wrong_report"] == pytest.approx(weight, rel=0.05)


# --- a site's steps --------------------------------------------------------------------------------------------------


def test_the_same_generator_gives_the_same_bits(tiny: Config, records: GuidedBeats) -> None:
    tiny.separator_training.steps = 3
    runs = []
    for global_seed, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(global_seed)
        trainer = trainer_of(tiny, judge_of(tiny), seed)
        measured = trainer.run(records, 3)
        runs.append((measured, weights(trainer), trainer.statistics(records)))
    assert runs[0][0] == runs[1][0]
    assert equal(runs[0][1], runs[1][1])
    assert equal(runs[0][2], runs[1][2])
    assert not equal(runs[0][1], runs[2][1])


def test_a_few_healthy_patients_can_fill_a_batch(tiny: Config, records: GuidedBeats) -> None:
    rows = torch.cat([records.abnormal(), records.norm_only()[:1]])
    assert trainer_of(tiny).run(take(records, rows), 1)


def test_after_training_the_models_are_ready_for_use(tiny: Config, records: GuidedBeats) -> None:
    trainer = trainer_of(tiny)
    trainer.run(records, 1)
    assert not any(module.training for module in trainer.networks.modules())


@pytest.mark.parametrize("missing", ["abnormal", "norm_only"])
def test_a_site_without_one_kind_trains_nothing(tiny: Config, records: GuidedBeats, missing: str) -> None:
    kept = records.norm_only() if missing == "abnormal" else records.abnormal()
    trainer = trainer_of(tiny)
    before = weights(trainer)
    assert trainer.run(take(records, kept), 3) == {}
    assert equal(weights(trainer), before)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_statistics_are_the_sums_over_the_abnormal_records(tiny: Config, records: GuidedBeats) -> None:
    """Record by record, against one pass in batches."""
    trainer = trainer_of(tiny)
    trainer.run(records, 2)
    K = tiny.codebook.size
    expected = {name: torch.zeros_like(value) for name, value in codebook_of(tiny).items() if name != "codes"}
    with torch.no_grad():
        for row in records.abnormal():
            one = take(records, row[None])
            found = trainer.networks.separator(one.x, one.covariates, one.valid, one.memory, one.mask)
            _, indices = quantise(found.latents, trainer.codes)
            gate = found.gate > 0.5
            for name, value in code_statistics(found.latents, indices, gate, K).items():
                expected[name] += value
            expected["prior"] += count_codes(indices, gate, class_weights(one.y), K)
            expected["requests"] += class_weights(one.y).T @ one.statements
    for batch in (1, 3, 256):
        found = trainer.statistics(records, batch)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-3, msg=f"{name} differs")


def test_statistics_hold_nothing_of_healthy_records(tiny: Config, records: GuidedBeats) -> None:
    trainer = trainer_of(tiny)
    changed = replace(records, x=records.x.clone())
    changed.x[records.norm_only()] *= -2.0
    assert equal(trainer.statistics(records), trainer.statistics(changed))
    only_healthy = trainer.statistics(take(records, records.norm_only()))
    assert only_healthy.keys() == set(STATISTICS)
    assert all(not value.any() for value in only_healthy.values())
    assert not trainer.statistics(records)["prior"][NORM].any()


def test_every_token_of_a_class_is_counted_once(tiny: Config, records: GuidedBeats) -> None:
    found = trainer_of(tiny).statistics(records)
    tokens = class_weights(records.y).sum(0) * records.valid.shape[1]
    torch.testing.assert_close(found["prior"].sum((1, 2)), tokens, rtol=1e-4, atol=1e-3)
    assert len(tokens) == len(SUPERCLASSES)
    assert bool((found["sums"].norm(dim=-1) <= found["counts"] + 1e-3).all())  # unit latents
    assert not any(value.requires_grad for value in found.values())


def test_counting_twice_gives_the_same(tiny: Config, records: GuidedBeats) -> None:
    trainer = trainer_of(tiny)
    assert equal(trainer.statistics(records), trainer.statistics(records))
