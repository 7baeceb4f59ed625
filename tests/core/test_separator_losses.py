"""What the separator's and editor's losses reward, and what a record's loss has to do with the others of its batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lavq_core.data.database import Database
from lavq_core.data.labels import diagnostic_statements
from lavq_core.models.codebook import initial_codebook, quantise
from lavq_core.models.detector import build_detector
from lavq_core.models.networks import Networks, beat_tokens, make_networks
from lavq_core.models.separator import Separation
from lavq_core.settings import Config
from lavq_core.training.guided import NORM, GuidedBeats
from lavq_core.training.opponents import Opponents
from lavq_core.training.separator_losses import Pass, identity_loss, losses_of, relative_error
from lavq_core.training.site_data import SiteData

CPU = torch.device("cpu")
Seen = tuple[Pass, dict[str, Tensor]]
B = 5

MEANS = {"reconstruction", "cycle", "judge_healed", "judge_twin", "gate_cycle", "sparsity", "norm_gate", "smoothness"}
OF_OPEN_TOKENS = {"closure", "commitment", "code_cycle"}
OF_THE_MEAN_GATE = {"gate_floor", "gate_ceiling"}
OPPOSED = {"adversarial", "statements"}  # need an opponent that learns from the same patients
COUPLED = {"identity", "usage", "wrong_report"} | OPPOSED  # switched off for privacy per patient
NOBODY = SimpleNamespace(discriminator=None, classifier=None)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def records(sample_database: Database, make_tiny: Callable[[], Config]) -> GuidedBeats:
    site = SiteData("site-0", sample_database, np.arange(0, 520, 20), make_tiny())
    return site.guided(site.positions)


@pytest.fixture
def networks(tiny: Config, records: GuidedBeats) -> Networks:
    """Networks whose gates are half open and whose edits are of tenths of a millivolt."""
    made = make_networks(tiny, 0)
    with torch.no_grad():
        made.separator.gate.weight.mul_(30.0)
        given = (records.x, records.covariates, records.valid, records.memory, records.mask)
        made.separator.gate.bias -= made.separator(*given).probability.clamp(1e-4, 1 - 1e-4).logit().median()
        made.editor.paint.weight.mul_(3.0)
        made.editor.null.normal_(generator=rng(1))
    return made


def codes_of(config: Config) -> Tensor:
    return initial_codebook(config.codebook, beat_tokens(config), 0)["codes"]


def judge_of(config: Config) -> nn.Module:
    return build_detector(config.detector, 100, 1).eval().requires_grad_(False)


def batch_of(records: GuidedBeats) -> tuple[GuidedBeats, GuidedBeats]:
    return records.take(records.abnormal()[:B], CPU), records.take(records.norm_only()[:B], CPU)


def pass_of(networks: Networks, codes: Tensor, sick: GuidedBeats, healthy: GuidedBeats) -> Pass:
    """A forward pass as in training, but for the noise on the content."""
    separator, editor = networks.separator, networks.editor
    found, nothing = (
        separator(part.x, part.covariates, part.valid, part.memory, part.mask) for part in (sick, healthy)
    )
    quantised, indices = quantise(found.latents, codes)
    healed = editor(sick.x, sick.covariates, found.gate, None)
    recomposed = healed + editor.change(healed, sick.covariates, found.gate, quantised)
    gate = found.gate * healthy.valid
    twin = editor(healthy.x, healthy.covariates, gate, quantised)
    again = editor(twin, healthy.covariates, gate, None)
    return Pass(sick, healthy, found, nothing, quantised, indices, healed, recomposed, gate, twin, again)


def each(batch: GuidedBeats) -> list[GuidedBeats]:
    return [batch.take(torch.tensor([i]), CPU) for i in range(len(batch))]


class Told(nn.Module):
    """A judge or discriminator that says what it was told to say, call by call, and keeps what it was asked."""

    def __init__(self, *answers: Tensor) -> None:
        super().__init__()
        self.answers, self.asked = list(answers), list[tuple[Tensor, ...]]()

    def forward(self, *given: Tensor) -> Tensor:
        self.asked.append(given)
        return self.answers.pop(0)


# --- one record and the others of its batch --------------------------------------------------------------------------


def test_every_loss_is_of_a_known_kind_and_coupling_can_be_switched_off(
    tiny: Config, networks: Networks, records: GuidedBeats
) -> None:
    codes, (sick, healthy) = codes_of(tiny), batch_of(records)
    seen = pass_of(networks, codes, sick, healthy)
    opponents = Opponents(tiny)
    losses = losses_of(seen, networks, codes, judge_of(tiny), opponents, tiny)
    assert losses.keys() == MEANS | OF_OPEN_TOKENS | OF_THE_MEAN_GATE | COUPLED
    assert all(torch.isfinite(value) and value.shape == () for value in losses.values())
    weight = tiny.separator_training.loss
    weight.identity = weight.usage = weight.wrong_report = weight.adversarial = weight.statements = 0.0
    silent = losses_of(seen, networks, codes, None, Opponents(tiny), tiny)
    assert {name for name in silent if name in COUPLED} == COUPLED - OPPOSED
    total = torch.stack([silent[name] for name in COUPLED & silent.keys()]).sum()
    assert float(total) == 0.0
    for gradient in torch.autograd.grad(total, list(networks.separator.parameters()), allow_unused=True):
        assert gradient is None or not gradient.any()


@pytest.fixture
def together(tiny: Config, networks: Networks, records: GuidedBeats) -> Seen:
    codes = codes_of(tiny)
    seen = pass_of(networks, codes, *batch_of(records))
    return seen, losses_of(seen, networks, codes, judge_of(tiny), NOBODY, tiny)


@pytest.fixture
def alone(tiny: Config, networks: Networks, records: GuidedBeats) -> list[Seen]:
    codes = codes_of(tiny)
    passes = [pass_of(networks, codes, *pair) for pair in zip(*map(each, batch_of(records)), strict=True)]
    return [(seen, losses_of(seen, networks, codes, judge_of(tiny), NOBODY, tiny)) for seen in passes]


def test_most_losses_of_a_batch_are_the_mean_over_its_records(together: Seen, alone: list[Seen]) -> None:
    for name in sorted(MEANS):
        expected = torch.stack([losses[name] for _, losses in alone]).mean()
        assert float(expected) > 0, name
        torch.testing.assert_close(together[1][name], expected, rtol=1e-3, atol=1e-6, msg=f"{name} differs")


def test_losses_on_codes_are_the_mean_over_open_tokens(together: Seen, alone: list[Seen]) -> None:
    """A record's share of it is as large as its gate: all that it learns of the others is how many tokens they open."""
    for name in sorted(OF_OPEN_TOKENS):
        open_tokens = [float((seen.gate if name == "code_cycle" else seen.opened).sum()) for seen, _ in alone]
        assert len(set(open_tokens)) > 1
        summed = sum(count * float(losses[name]) for count, (_, losses) in zip(open_tokens, alone, strict=True))
        assert float(together[1][name]) == pytest.approx(summed / sum(open_tokens), rel=1e-3), name


def test_the_bounds_are_on_the_batchs_mean_gate(tiny: Config, together: Seen, alone: list[Seen]) -> None:
    weight = tiny.separator_training.loss
    level = np.mean([float(seen.opened.mean()) for seen, _ in alone])
    bounds = {"gate_floor": weight.gate_floor - level, "gate_ceiling": level - weight.gate_ceiling}
    for name, beyond in bounds.items():
        assert float(together[1][name]) == pytest.approx(weight.gate_bounds * max(0.0, beyond), abs=1e-5)


def test_the_gradient_of_one_record_does_not_depend_on_the_others(
    tiny: Config, networks: Networks, records: GuidedBeats
) -> None:
    """Of the losses that are means: with these alone, a step is the sum of what each record says."""
    codes, judge = codes_of(tiny), judge_of(tiny)

    def gradients(sick: GuidedBeats, healthy: GuidedBeats) -> list[Tensor]:
        inputs = [sick.x.clone().requires_grad_(), healthy.x.clone().requires_grad_()]
        seen = pass_of(networks, codes, replace(sick, x=inputs[0]), replace(healthy, x=inputs[1]))
        losses = losses_of(seen, networks, codes, judge, NOBODY, tiny)
        total = torch.stack([losses[name] for name in sorted(MEANS)]).sum() * len(sick)
        return list(torch.autograd.grad(total, inputs))

    sick, healthy = batch_of(records)
    whole = gradients(sick, healthy)
    for i, pair in enumerate(zip(each(sick), each(healthy), strict=True)):
        for found, own in zip(whole, gradients(*pair), strict=True):
            assert float(own.abs().max()) > 0
            torch.testing.assert_close(found[i : i + 1], own, rtol=1e-3, atol=1e-5 * float(own.abs().max()))


# --- who a twin is ---------------------------------------------------------------------------------------------------


def people(count: int, size: float = 0.3, seed: int = 0) -> Tensor:
    return size * torch.randn(count, 8, 96, generator=rng(seed))


def test_a_twin_is_nearer_to_its_own_patient() -> None:
    patients = people(6, 0.05)
    twins = patients + 0.02 * torch.randn(patients.shape, generator=rng(1))
    own, other = identity_loss(twins, patients), identity_loss(twins, patients.roll(1, 0))
    assert float(own) < float(other) - 1.0
    assert float(own) < math.log(6)


def test_identity_is_the_cross_entropy_of_finding_the_patient_by_squared_distance() -> None:
    twins, patients = people(4, 0.05), people(4, 0.05, seed=1)
    wrong = []
    for i in range(4):
        near = [math.exp(-float((twins[i] - patient).square().sum())) for patient in patients]
        wrong.append(-math.log(near[i] / sum(near)))
    assert float(identity_loss(twins, patients)) == pytest.approx(np.mean(wrong), rel=1e-3)


def test_a_large_edit_costs_nothing_while_nobody_else_is_near() -> None:
    patients = people(3, 1.0)
    assert float(identity_loss(patients + 0.3, patients)) == pytest.approx(0.0, abs=1e-4)
    assert float(identity_loss(people(1), people(1, seed=1))) == 0.0
    assert float(identity_loss(patients[:1].expand(3, -1, -1), patients[:1].expand(3, -1, -1))) == pytest.approx(
        math.log(3), abs=1e-3
    )


# --- how far two beats are apart -------------------------------------------------------------------------------------


def test_relative_error_is_energy_over_energy_of_voltage_and_half_of_slope() -> None:
    x, y = people(3, 0.5).double(), people(3, 0.5, seed=1).double()
    expected = 0.0
    for one, other in zip(x.numpy(), y.numpy(), strict=True):
        centred = one - one.mean(axis=1, keepdims=True)
        expected += ((other - one) ** 2).sum() / (centred**2).sum() / 3
        expected += 0.5 * (np.diff(other - one) ** 2).sum() / (np.diff(one) ** 2).sum() / 3
    assert float(relative_error(y, x)) == pytest.approx(expected)
    assert float(relative_error(x, x)) == 0.0


def test_relative_error_knows_no_gain_but_leaves_silence_alone() -> None:
    x, y = people(3, 0.5), people(3, 0.5, seed=1)
    torch.testing.assert_close(relative_error(2.0 * y, 2.0 * x), relative_error(y, x))
    torch.testing.assert_close(relative_error(y + 1.0, x + 1.0), relative_error(y, x))  # nor the level of a lead
    silent = relative_error(1e-3 * y, torch.zeros_like(x))
    assert 0.0 < float(silent) < 0.1


# --- gates -----------------------------------------------------------------------------------------------------------


def with_gates(seen: Pass, sick: Tensor, healthy: Tensor) -> Pass:
    """The same pass with given gates of the abnormal beats and gate probabilities of the healthy ones."""
    found = Separation(0.5 * sick + 0.2, sick, seen.found.latents)
    return replace(seen, found=found, nothing=Separation(healthy, healthy.round(), seen.nothing.latents))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_gates_are_sparse_but_never_dead_and_shut_in_the_healthy(
    tiny: Config, networks: Networks, together: Seen, share: float
) -> None:
    weight = tiny.separator_training.loss
    gate = (torch.rand(B, 24, generator=rng(0)) < share).float()
    nothing = torch.rand(B, 24, generator=rng(1))
    found = losses_of(with_gates(together[0], gate, nothing), networks, codes_of(tiny), None, NOBODY, tiny)
    level = float(gate.mean())
    steps = sum(float(gate[b, n] != gate[b, n + 1]) for b in range(B) for n in range(23)) / (B * 23)
    expected = {
        "sparsity": weight.sparsity * level,
        "gate_floor": weight.gate_bounds * max(0.0, weight.gate_floor - level),
        "gate_ceiling": weight.gate_bounds * max(0.0, level - weight.gate_ceiling),
        "norm_gate": weight.norm_gate * float(nothing.mean()),
        "smoothness": weight.smoothness * steps,
    }
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-5), name


def test_there_is_room_between_floor_and_ceiling(tiny: Config) -> None:
    weight = tiny.separator_training.loss
    assert 0.0 < weight.gate_floor < weight.gate_ceiling < 0.4  # the target for abnormal records


# --- reports ---------------------------------------------------------------------------------------------------------


def wrong_report(tiny: Config, networks: Networks, seen: Pass, y: Tensor) -> Tensor:
    seen = replace(seen, sick=replace(seen.sick, y=y))
    return losses_of(seen, networks, codes_of(tiny), None, NOBODY, tiny)["wrong_report"]


def test_a_report_of_other_diseases_does_not_open_what_the_own_opens(
    tiny: Config, networks: Networks, together: Seen
) -> None:
    """Each record under the report of the one before it, where they have no superclass in common."""
    seen, _ = together
    y = F.one_hot(torch.tensor([1, 1, 2, 3, 3]), 5).float()  # strangers: 0 to 4, 2 to 1 and 3 to 2
    open_tokens, opened = 0.0, 0.0
    for i in (0, 2, 3):
        own = [part[i : i + 1] for part in (seen.sick.x, seen.sick.covariates, seen.sick.valid)]
        before = (i - 1) % B
        with torch.no_grad():
            swapped = networks.separator(*own, seen.sick.memory[before, None], seen.sick.mask[before, None])
        opened += float((swapped.probability * seen.opened[i : i + 1]).sum())
        open_tokens += float(seen.opened[i].sum())
    found = wrong_report(tiny, networks, seen, y)
    assert float(found) == pytest.approx(tiny.separator_training.loss.wrong_report * opened / open_tokens, rel=1e-3)


def test_records_with_the_same_disease_may_share_reports(tiny: Config, networks: Networks, together: Seen) -> None:
    y = torch.zeros(B, 5)
    y[:, 2] = 1.0
    y[::2, 3] = 1.0
    assert float(wrong_report(tiny, networks, together[0], y)) == 0.0


def test_weight_0_takes_the_wrong_report_away(tiny: Config, networks: Networks, together: Seen) -> None:
    y = F.one_hot(torch.arange(B) % 4 + 1, 5).float()
    assert float(wrong_report(tiny, networks, together[0], y)) > 0
    tiny.separator_training.loss.wrong_report = 0.0
    assert float(wrong_report(tiny, networks, together[0], y)) == 0.0


# --- judges and codes ------------------------------------------------------------------------------------------------


def judged(
    tiny: Config, networks: Networks, seen: Pass, healed: Tensor, real: Tensor, twin: Tensor
) -> dict[str, float]:
    judge = Told(healed, real, twin)
    found = losses_of(seen, networks, codes_of(tiny), judge, NOBODY, tiny)
    assert all(given[0].shape == (B, 8, 250) for given in judge.asked)  # strips
    return {name: float(value) for name, value in found.items() if name.startswith("judge")}


def test_a_healed_beat_reads_as_norm(tiny: Config, networks: Networks, together: Seen) -> None:
    scores = torch.zeros(B, 5)
    normal = torch.full((B, 5), -9.0)
    normal[:, NORM] = 9.0
    bad, good = (judged(tiny, networks, together[0], told, scores, scores) for told in (-normal, normal))
    assert good["judge_healed"] < 0.01 < 1.0 < bad["judge_healed"]


def test_a_twin_scores_like_the_record_its_codes_came_from(tiny: Config, networks: Networks, together: Seen) -> None:
    """No less and no more; less of its own disease, which codes tend to, costs twice."""
    scores = torch.randn(B, 5, generator=rng(0))
    own = together[0].sick.y
    assert 0.0 < float(own.mean()) < 1.0

    def cost(change: Tensor) -> float:
        return judged(tiny, networks, together[0], scores, scores, scores + change)["judge_twin"]

    assert cost(torch.zeros(B, 5)) == 0.0
    assert cost(0.5 * own) > 0
    assert cost(-0.5 * own) == pytest.approx(2.0 * cost(0.5 * own), rel=1e-4)
    assert cost(-0.5 * (1 - own)) == pytest.approx(cost(0.5 * (1 - own)), rel=1e-4)
    assert cost(1.0 * own) > cost(0.5 * own)


def test_the_discriminator_sees_twins_as_the_sick_and_healed_beats_as_the_healthy(
    tiny: Config, networks: Networks, together: Seen
) -> None:
    seen, weight = together[0], tiny.separator_training.loss.adversarial
    twin, healed = torch.randn(B, generator=rng(0)), torch.randn(B, generator=rng(1))
    opponent = Told(twin, healed)
    opponents = SimpleNamespace(discriminator=opponent, classifier=None)
    found = losses_of(seen, networks, codes_of(tiny), None, opponents, tiny)["adversarial"]
    assert float(found) == pytest.approx(-weight * float(twin.mean() + healed.mean()), rel=1e-4)
    for given, x, of in zip(opponent.asked, (seen.twin, seen.healed), (seen.sick, seen.healthy), strict=True):
        assert torch.equal(given[0], x)
        for told, known in zip(given[1:], (of.asked, of.asked_mask, of.y), strict=True):
            assert torch.equal(told, known)


def test_a_twin_has_to_show_the_statements_of_its_source_its_own_above_all(
    tiny: Config, networks: Networks, together: Seen
) -> None:
    seen, S = together[0], len(diagnostic_statements())
    own = seen.sick.statements
    assert own.any(dim=1).all()

    def cost(by: Tensor) -> float:
        real = torch.randn(B, S, generator=rng(3))
        opponent = Told(real, real + by)
        opponents = SimpleNamespace(discriminator=None, classifier=opponent)
        found = losses_of(seen, networks, codes_of(tiny), None, opponents, tiny)["statements"]
        assert torch.equal(opponent.asked[0][0], seen.sick.x)
        assert torch.equal(opponent.asked[1][0], seen.twin)
        return float(found)

    weight = tiny.separator_training.loss.statements
    assert cost(torch.zeros(B, S)) == 0.0
    # Smooth L1 of .5 is .125: once as the mean over its own, once as the mean over all.
    assert cost(0.5 * own) == pytest.approx(weight * 0.5 * 0.125 * (1.0 + float(own.mean())), rel=1e-4)
    assert cost(0.5 * (1.0 - own)) < cost(0.5 * own)


def test_the_codes_alone_tell_the_superclasses(tiny: Config, networks: Networks, together: Seen) -> None:
    seen = replace(together[0], sick=replace(together[0].sick, y=torch.eye(5)[1].expand(B, -1)))
    costs = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            networks.separator.closure.weight.zero_()
            networks.separator.closure.bias.copy_(sign * 9.0 * (2.0 * torch.eye(5)[1] - 1.0))
        costs.append(float(losses_of(seen, networks, codes_of(tiny), None, NOBODY, tiny)["closure"]))
    assert costs[0] < 0.01
    assert costs[1] == pytest.approx(tiny.separator_training.loss.closure * 9.0, rel=1e-2)


def test_a_twin_is_separated_into_what_it_was_made_of(tiny: Config, networks: Networks, together: Seen) -> None:
    """Against a loop over tokens."""
    seen = together[0]
    with torch.no_grad():
        found = networks.separator(
            seen.twin, seen.healthy.covariates, seen.healthy.valid, seen.sick.memory, seen.sick.mask
        )
    wrong, far, count = 0.0, 0.0, 0
    for b in range(B):
        for n in range(24):
            opened = bool(seen.gate[b, n])
            p = min(max(float(found.probability[b, n]), 1e-6), 1 - 1e-6)
            wrong -= math.log(p if opened else 1 - p) / (B * 24)
            if opened:
                far += 1.0 - float(F.cosine_similarity(found.latents[b, n], seen.quantised[b, n], dim=0))
                count += 1
    weight = tiny.separator_training.loss
    assert float(together[1]["gate_cycle"]) == pytest.approx(weight.gate_cycle * wrong, rel=1e-3)
    assert float(together[1]["code_cycle"]) == pytest.approx(weight.code_cycle * far / count, rel=1e-3)
