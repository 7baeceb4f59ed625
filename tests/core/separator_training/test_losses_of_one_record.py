"""What a record's loss has to do with the others of its batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lavq_core.models.networks import Networks
from lavq_core.settings import Config
from lavq_core.training.guided import GuidedBeats
from lavq_core.training.opponents import Opponents
from lavq_core.training.separator_losses import losses_of
from tests.core.separator_training.passes import NOBODY, Seen, batch_of, codes_of, each, judge_of, pass_of

MEANS = {"reconstruction", "cycle", "judge_healed", "judge_twin", "gate_cycle", "sparsity", "norm_gate", "smoothness"}
OF_OPEN_TOKENS = {"closure", "commitment", "code_cycle"}
OF_THE_MEAN_GATE = {"gate_floor", "gate_ceiling"}
OPPOSED = {"adversarial", "statements"}  # need an opponent that learns from the same patients
COUPLED = {"identity", "usage", "wrong_report"} | OPPOSED  # switched off for privacy per patient


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
