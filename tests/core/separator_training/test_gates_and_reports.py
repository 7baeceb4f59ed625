"""When gates open: seldom, never in the healthy, and as the record's own report says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lavq_core.models.networks import Networks
from lavq_core.models.separator import Separation
from lavq_core.settings import Config
from lavq_core.training.separator_losses import Pass, losses_of
from tests.core.separator_training.passes import NOBODY, B, Seen, codes_of, rng

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
