"""Local training of separator, editor and prior network: what is learned, what is counted, and who trains nothing."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements, public_statements, superclass_of
from lavq_core.errors import RunError
from lavq_core.models.codebook import STATISTICS, CodebookState, code_statistics, initial_codebook, quantise
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import beat_tokens, make_networks
from lavq_core.models.prior import count_codes
from lavq_core.settings import Config
from lavq_core.training import separator_training
from lavq_core.training.guided import NORM, GuidedBeats, class_weights
from lavq_core.training.separator_training import SeparatorTrainer
from lavq_core.training.site_data import SiteData

CPU = torch.device("cpu")
N = 24


@pytest.fixture(scope="module")
def records(sample_database: Database, make_tiny: Callable[[], Config]) -> GuidedBeats:
    """Real beats of all classes, with their statements."""
    site = SiteData("site-0", sample_database, np.arange(0, 520, 20), make_tiny())
    return site.guided(site.positions)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codebook_of(config: Config) -> CodebookState:
    return initial_codebook(config.codebook, beat_tokens(config), 0)


def judge_of(config: Config) -> nn.Module:
    return build_detector(config.detector, 100, 1).eval().requires_grad_(False)


def trainer_of(
    config: Config, judge: nn.Module | None = None, seed: int = 0, total: int = 1000, done: int = 100
) -> SeparatorTrainer:
    return SeparatorTrainer(make_networks(config, 0), codebook_of(config), judge, config, rng(seed), total, done)


def weights(trainer: SeparatorTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.networks.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def take(data: GuidedBeats, rows: Tensor) -> GuidedBeats:
    return data.take(rows, CPU)


def batch_of(records: GuidedBeats, count: int = 4) -> tuple[GuidedBeats, GuidedBeats]:
    return take(records, records.abnormal()[:count]), take(records, records.norm_only()[:count])


# --- records ---------------------------------------------------------------------------------------------------------


def test_abnormal_and_norm_only_are_what_they_say(records: GuidedBeats) -> None:
    for row, labels in enumerate(records.y):
        others = labels.clone()
        others[NORM] = 0
        assert (row in records.abnormal()) == bool(others.any())
        assert (row in records.norm_only()) == (bool(labels[NORM]) and not others.any())


def test_a_record_without_any_label_is_neither(records: GuidedBeats) -> None:
    y = torch.zeros(len(records), 5)
    y[1, NORM], y[2, NORM], y[2, 1] = 1, 1, 1
    data = replace(records, y=y)
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


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judged", [False, True])
def test_a_few_steps_lower_the_loss(tiny: Config, records: GuidedBeats, judged: bool) -> None:
    tiny.separator_training.loss.adversarial = tiny.separator_training.loss.statements = 0.0  # opponents learn too
    tiny.separator_training.lr = 1e-2
    trainer = trainer_of(tiny, judge_of(tiny) if judged else None)
    sick, healthy = batch_of(records)
    losses = [trainer.step(sick, healthy)["separator_loss"] for _ in range(14)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_a_step_measures_what_the_site_logs(tiny: Config, records: GuidedBeats) -> None:
    measured = trainer_of(tiny).step(*batch_of(records))
    assert {
        "separator_loss",
        "reconstruction",
        "prior",
        "adversarial",
        "discriminator",
        "statements",
        "classifier",
    } <= measured.keys()
    assert all(np.isfinite(value) for value in measured.values())
    assert 0 <= measured["gate_abnormal"] <= 1
    assert 0 <= measured["gate_norm"] <= 1
    judged = trainer_of(tiny, judge_of(tiny)).step(*batch_of(records))
    assert {"judge_twin", "judge_healed"} <= judged.keys()
    assert not {"judge_twin", "judge_healed"} & measured.keys()


def test_a_step_reaches_every_weight_of_every_network(tiny: Config, records: GuidedBeats) -> None:
    trainer = trainer_of(tiny, judge_of(tiny))
    with torch.no_grad():
        trainer.networks.separator.gate.bias.add_(0.2)  # opens: nothing is learned of codes behind a shut gate
    before_them = {name: value.detach().clone() for name, value in trainer.opponents.named_parameters()}
    assert {name.split(".")[0] for name in before_them} == {"discriminator", "classifier"}
    before = weights(trainer)
    for _ in range(3):
        trainer.step(*batch_of(records))
    for name, value in weights(trainer).items():
        assert not torch.equal(value, before[name]), name
    for name, value in trainer.opponents.named_parameters():
        if name != "discriminator.score.bias":  # real and made beats within the margin ask for opposite ones
            assert not torch.equal(value, before_them[name]), name


@pytest.mark.parametrize(
    ("weight", "left_out"),
    [("adversarial", {"adversarial", "discriminator"}), ("statements", {"statements", "classifier"})],
)
def test_weight_0_leaves_an_opponent_out(tiny: Config, records: GuidedBeats, weight: str, left_out: set[str]) -> None:
    both = {"adversarial", "discriminator", "statements", "classifier"}
    setattr(tiny.separator_training.loss, weight, 0.0)
    measured = trainer_of(tiny).step(*batch_of(records))
    assert both & measured.keys() == both - left_out


def test_without_opponents_there_is_nobody_to_train(tiny: Config, records: GuidedBeats) -> None:
    tiny.separator_training.loss.adversarial = tiny.separator_training.loss.statements = 0.0
    trainer = trainer_of(tiny)
    trainer.step(*batch_of(records))
    assert not list(trainer.opponents.parameters())
    assert not any(name.startswith("oppo") for name in trainer.keep())


def test_a_round_goes_on_where_the_last_one_stopped(tiny: Config, records: GuidedBeats) -> None:
    """Opponents and both optimisers' moments survive, so that many short rounds are one training."""
    batch = batch_of(records)
    first = trainer_of(tiny)
    for _ in range(2):
        first.step(*batch)
    kept = {name: value.clone() for name, value in first.keep().items()}
    second = SeparatorTrainer(
        copy.deepcopy(first.networks), codebook_of(tiny), None, tiny, rng(5), total=1000, done=102, kept=kept
    )
    assert equal(second.keep(), kept)
    fresh = trainer_of(tiny)
    assert not equal(fresh.keep(), kept)
    assert kept["optimiser.0.step"] == 2
    second.step(*batch)
    assert second.keep()["optimiser.0.step"] == 3


def test_opponents_of_other_settings_are_refused(tiny: Config) -> None:
    kept = trainer_of(tiny).keep()
    tiny.separator_training.loss.statements = 0.0
    with pytest.raises(RunError, match="private_model"):
        SeparatorTrainer(make_networks(tiny, 0), codebook_of(tiny), None, tiny, rng(0), total=10, kept=kept)


def test_a_step_leaves_judge_and_shared_codebook_alone(tiny: Config, records: GuidedBeats) -> None:
    judge, state = judge_of(tiny), codebook_of(tiny)
    before, judge_before = copy.deepcopy(state), copy.deepcopy(judge.state_dict())
    trainer = SeparatorTrainer(make_networks(tiny, 0), state, judge, tiny, rng(0), total=100, done=8)
    for _ in range(3):  # beyond the first revival of dead codes, in step 10
        trainer.step(*batch_of(records))
    assert equal(state, before)
    assert equal(dict(judge.state_dict()), dict(judge_before))
    assert all(parameter.grad is None for parameter in judge.parameters())
    assert not torch.equal(trainer.codes, state["codes"])  # the local copy moved
    torch.testing.assert_close(trainer.codes.norm(dim=-1), torch.ones(tiny.codebook.size))


def test_healthy_records_put_nothing_into_the_codes(tiny: Config, records: GuidedBeats) -> None:
    sick, healthy = batch_of(records)
    codes = []
    for norm in (healthy, replace(healthy, x=healthy.x.flip(0) * 1.5)):
        trainer = trainer_of(tiny)
        trainer.step(sick, norm)
        codes.append(trainer.codes)
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codebook_of(tiny)["codes"])


def test_the_prior_network_learns_the_symbols_of_abnormal_records_and_moves_no_other(
    tiny: Config, records: GuidedBeats
) -> None:
    """Codes where the gate is open, left normal where it is not; codes do not move so as to be easy to foretell."""
    trainer, given = trainer_of(tiny), []

    def spy(covariates: Tensor, memory: Tensor, mask: Tensor, symbols: Tensor, generator: torch.Generator) -> Tensor:
        given.append((covariates, memory, mask, symbols))
        return torch.zeros((), requires_grad=True)

    sick, healthy = batch_of(records)
    with torch.no_grad():
        found = trainer.networks.separator(sick.x, sick.covariates, sick.valid, sick.memory, sick.mask)
    _, indices = quantise(found.latents, trainer.codes)
    trainer.networks.prior.loss = spy  # type: ignore[method-assign, assignment]
    trainer.step(sick, healthy)
    covariates, memory, mask, symbols = given[0]
    assert torch.equal(covariates, sick.covariates)
    assert torch.equal(memory, sick.asked)
    assert torch.equal(symbols, torch.where(found.gate > 0.5, indices, tiny.codebook.size))
    assert not bool((mask & ~sick.asked_mask).any())
    assert torch.equal(mask.any(1), sick.asked_mask.any(1))


def test_a_request_seldom_names_all_there_is(tiny: Config, records: GuidedBeats) -> None:
    """Some statements of a record are kept from the prior network, never all of them."""
    trainer, shown = trainer_of(tiny), []
    loss = trainer.networks.prior.loss

    def spy(covariates: Tensor, memory: Tensor, mask: Tensor, *rest) -> Tensor:
        shown.append(mask)
        return loss(covariates, memory, mask, *rest)

    trainer.networks.prior.loss = spy  # type: ignore[method-assign, assignment]
    sick, healthy = batch_of(records)
    there = torch.arange(3) < torch.tensor([3, 3, 1, 0])[:, None]
    sick = replace(sick, asked=torch.randn(4, 3, tiny.text.width), asked_mask=there)
    for _ in range(8):
        trainer.step(sick, healthy)
    masks = torch.stack(shown)
    assert not bool((masks & ~there).any())
    assert bool(masks[:, :3].any(-1).all())
    assert bool(masks[:, 2, 0].all())
    assert 0.5 < float(masks[:, :2].float().mean()) < 0.9


@contextmanager
def like_a_gpus(_: torch.device) -> Iterator[None]:
    """Mixed precision as on a GPU in one respect: it refuses the cross-entropy of probabilities."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("binary_cross_entropy is unsafe to autocast")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "binary_cross_entropy", refuse)
        yield


def test_no_loss_needs_what_mixed_precision_refuses(
    tiny: Config, records: GuidedBeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(separator_training, "mixed_precision", like_a_gpus)
    assert trainer_of(tiny, judge_of(tiny)).step(*batch_of(records))


# --- the learning rate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "done", "share"),
    [(1000, 0, 0.02), (1000, 24, 0.5), (10_000, 50, 1.0), (1000, 500, 0.525), (1000, 1000, 0.05), (1000, 2000, 0.05)],
)
def test_the_learning_rate_rises_and_falls_once_over_all_rounds(
    tiny: Config, records: GuidedBeats, total: int, done: int, share: float
) -> None:
    """Adam's first step moves a weight by the rate."""
    tiny.separator_training.weight_decay = tiny.separator_training.prior_weight_decay = 0.0
    trainer = trainer_of(tiny, total=total, done=done)
    before = weights(trainer)
    trainer.step(*batch_of(records))
    moved = max(float((value - before[name]).abs().max()) for name, value in weights(trainer).items())
    assert moved == pytest.approx(share * tiny.separator_training.lr, rel=0.02)


# --- a site's steps --------------------------------------------------------------------------------------------------


def test_the_same_generator_gives_the_same_bits(tiny: Config, records: GuidedBeats) -> None:
    runs = []
    for global_seed, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        trainer = trainer_of(tiny, judge_of(tiny), seed)
        measured = trainer.run(records, 3)
        assert torch.equal(torch.get_rng_state(), before)  # nobody else's random numbers are used up
        runs.append((measured, weights(trainer), trainer.statistics(records)))
    assert runs[0][0] == runs[1][0]
    assert equal(runs[0][1], runs[1][1])
    assert equal(runs[0][2], runs[1][2])
    assert not equal(runs[0][1], runs[2][1])


def batches_of(trainer: SeparatorTrainer, records: GuidedBeats, steps: int) -> list[tuple[GuidedBeats, GuidedBeats]]:
    """The batches of a run, without the steps."""
    drawn = []

    def spy(sick: GuidedBeats, healthy: GuidedBeats) -> dict[str, float]:
        drawn.append((sick, healthy))
        return {"separator_loss": float(len(drawn))}

    trainer.step = spy  # type: ignore[method-assign]
    assert trainer.run(records, steps)
    return drawn


def test_a_batch_is_half_abnormal_and_half_norm_paired_by_heart_rate(tiny: Config, records: GuidedBeats) -> None:
    for sick, healthy in batches_of(trainer_of(tiny), records, 20):
        assert len(sick) == len(healthy) == tiny.separator_training.batch
        assert len(sick.abnormal()) == len(sick)
        assert len(healthy.norm_only()) == len(healthy)
        for half in (sick, healthy):
            assert bool((half.covariates[:, 0].diff() >= 0).all())


def test_rare_superclasses_are_drawn_more_often_than_they_are(tiny: Config, records: GuidedBeats) -> None:
    tiny.separator_training.batch = 100
    names = np.array(SUPERCLASSES)[1:]
    single = torch.eye(5)[1 + torch.arange(len(records)) % 4]
    single[records.norm_only()] = torch.eye(5)[NORM]
    data = replace(records, y=single)
    there = Counter(names[i] for i in single[data.abnormal()].argmax(1).numpy() - 1)
    drawn = Counter(
        names[i] for sick, _ in batches_of(trainer_of(tiny), data, 30) for i in sick.y.argmax(1).numpy() - 1
    )
    often = {name: drawn[name] / there[name] for name in names}
    assert often["HYP"] > 1.3 * often["MI"]
    assert often["CD"] > 1.1 * often["STTC"]


def test_what_is_told_of_a_run_is_the_mean_of_its_last_quarter(tiny: Config, records: GuidedBeats) -> None:
    trainer = trainer_of(tiny)
    numbers = iter(range(1, 100))
    trainer.step = lambda sick, healthy: {"separator_loss": float(next(numbers))}  # type: ignore[method-assign]
    assert trainer.run(records, 8) == {"separator_loss": 7.5}
    assert trainer.run(records, 1) == {"separator_loss": 9.0}


def test_a_few_healthy_patients_can_fill_a_batch(tiny: Config, records: GuidedBeats) -> None:
    rows = torch.cat([records.abnormal(), records.norm_only()[:1]])
    assert trainer_of(tiny).run(take(records, rows), 1)


def test_after_training_the_networks_are_ready_for_use(tiny: Config, records: GuidedBeats) -> None:
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
    expected = {name: torch.zeros_like(value) for name, value in codebook_of(tiny).items() if name in STATISTICS[:3]}
    with torch.no_grad():
        for row in records.abnormal():
            one = take(records, row[None])
            found = trainer.networks.separator(one.x, one.covariates, one.valid, one.memory, one.mask)
            _, indices = quantise(found.latents, trainer.codes)
            gate = found.gate > 0.5
            for name, value in code_statistics(found.latents, indices, gate, K).items():
                expected[name] += value
            expected["prior"] += count_codes(indices, gate, class_weights(one.y), K)
    for batch in (1, 3, 256):
        found = trainer.statistics(records, batch)
        assert tuple(found) == STATISTICS
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-3, msg=f"{name} differs")


def test_statements_are_counted_under_their_own_superclass(tiny: Config, records: GuidedBeats) -> None:
    """A twin that is asked for as MI, and trained on as MI, must not be drawn from a block that came with an MI."""
    order, classes = diagnostic_statements(), superclass_of(public_statements())
    expected = torch.zeros(len(SUPERCLASSES), len(order))
    for row in records.abnormal():
        for column in records.statements[row].nonzero().flatten().tolist():
            own = SUPERCLASSES.index(classes[order[column]])
            expected[own, column] += class_weights(records.y[row, None])[0, own]
    for batch in (1, 256):
        found = trainer_of(tiny).statistics(records, batch)["requests"]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert bool((expected.sum(1)[1:] > 0).all())


def test_statistics_hold_nothing_of_healthy_records(tiny: Config, records: GuidedBeats) -> None:
    trainer = trainer_of(tiny)
    changed = replace(records, x=records.x.clone())
    changed.x[records.norm_only()] *= -2.0
    assert equal(trainer.statistics(records), trainer.statistics(changed))
    assert not trainer.statistics(records)["prior"][NORM].any()
    assert not trainer.statistics(records)["requests"][NORM].any()
    only_healthy = trainer.statistics(take(records, records.norm_only()))
    assert tuple(only_healthy) == STATISTICS
    assert not any(value.any() for value in only_healthy.values())


def test_every_token_of_a_class_is_counted_once(tiny: Config, records: GuidedBeats) -> None:
    found = trainer_of(tiny).statistics(records)
    counted = class_weights(records.y).sum(0)[:, None].expand(-1, N)
    torch.testing.assert_close(found["prior"].sum(-1), counted, rtol=1e-4, atol=1e-3)
    assert bool((found["sums"].norm(dim=-1) <= found["counts"] + 1e-3).all())  # unit latents
    assert not any(value.requires_grad for value in found.values())


def test_counting_twice_gives_the_same_and_changes_nothing(tiny: Config, records: GuidedBeats) -> None:
    trainer = trainer_of(tiny)
    before, codes = weights(trainer), trainer.codes.clone()
    assert equal(trainer.statistics(records), trainer.statistics(records))
    assert equal(weights(trainer), before)
    assert torch.equal(trainer.codes, codes)
