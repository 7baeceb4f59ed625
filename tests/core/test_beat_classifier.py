"""The beat classifier tells statements from one median beat, and hears the voltage."""

from __future__ import annotations

import pytest
import torch

from lavq_core.models.beat_classifier import BeatClassifier


@pytest.mark.parametrize(("samples", "stride"), [(96, 4), (480, 20)])
def test_a_beat_gets_a_logit_for_each_statement_at_any_sampling_rate(samples: int, stride: int) -> None:
    torch.manual_seed(0)
    assert BeatClassifier(44, stride).eval()(torch.randn(3, 8, samples)).shape == (3, 44)


def test_it_learns_what_differs_in_voltage_alone() -> None:
    """Left ventricular hypertrophy is the same shape, only higher: normalised features could not tell it."""
    torch.manual_seed(0)
    net, shape = BeatClassifier(1, 4), torch.randn(8, 96)
    gain = torch.tensor([0.5, 1.0]).repeat(16).view(-1, 1, 1)
    y = (gain.flatten() > 0.7).float().unsqueeze(1)
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(60):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(gain * shape), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    told = net.eval()(gain * shape)
    assert bool(((told > 0) == (y > 0)).all())
