"""The discriminator asks whether a beat is a real one of a patient with these statements."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lavq_core.models.discriminator import Discriminator, discriminator_loss

MEMORY = 12


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_discriminator(stride: int = 4) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(MEMORY, stride).eval()


def beats(count: int = 3, samples: int = 96, seed: int = 0) -> Tensor:
    return 0.5 * torch.randn(count, 8, samples, generator=rng(seed))


def said(lengths: list[int], seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random unit tokens of statements, padded to the most."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens = F.normalize(torch.randn(len(lengths), max(lengths), MEMORY, generator=rng(seed)), dim=-1)
    return tokens * mask[..., None], mask


def classes(count: int = 3) -> Tensor:
    return F.one_hot(torch.arange(count) % 5, 5).float()


@pytest.mark.parametrize(("samples", "stride"), [(96, 4), (96, 8), (480, 20), (480, 40)])
def test_a_beat_gets_one_score_at_any_sampling_rate(samples: int, stride: int) -> None:
    scores = make_discriminator(stride)(beats(3, samples), *said([1, 2, 3]), classes())
    assert scores.shape == (3,)
    assert torch.isfinite(scores).all()


def test_the_score_depends_on_waveform_statements_and_superclasses() -> None:
    score, x, (memory, mask), y = make_discriminator(), beats(), said([2, 2, 2]), classes()
    with torch.no_grad():
        own = score(x, memory, mask, y)
        for other in (
            score(x.roll(1, 0), memory, mask, y),
            score(x, memory.roll(1, 0), mask, y),
            score(x, memory, mask, y.roll(1, 0)),
        ):
            assert float((own - other).abs().min()) > 1e-4


def test_padding_and_order_of_statements_say_nothing() -> None:
    score, x, (memory, mask), y = make_discriminator(), beats(), said([3, 3, 3]), classes()
    longer = torch.cat([memory, 100.0 * torch.randn(3, 2, MEMORY, generator=rng(5))], dim=1)
    with torch.no_grad():
        own = score(x, memory, mask, y)
        torch.testing.assert_close(score(x, longer, torch.cat([mask, mask.new_zeros(3, 2)], dim=1), y), own)
        torch.testing.assert_close(score(x, memory[:, [1, 2, 0]], mask, y), own)


def test_a_healthy_beat_has_no_statement() -> None:
    mask = torch.zeros(3, 4, dtype=torch.bool)
    with torch.no_grad():
        found = [
            make_discriminator()(beats(), torch.randn(3, 4, MEMORY, generator=rng(i)), mask, classes()) for i in (1, 2)
        ]
    assert torch.isfinite(found[0]).all()
    assert torch.equal(found[0], found[1])


def test_a_score_does_not_depend_on_the_rest_of_the_batch() -> None:
    score, x, (memory, mask), y = make_discriminator(), beats(), said([1, 2, 3]), classes()
    with torch.no_grad():
        together = score(x, memory, mask, y)
        for i in range(3):
            row = slice(i, i + 1)
            alone = score(x[row], memory[row], mask[row], y[row])
            torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-5)


def test_no_layer_makes_anything_longer() -> None:
    """Spectral normalisation: the largest singular value of every layer is 1."""
    made = make_discriminator().train()
    for _ in range(30):
        made(beats(), *said([1, 2, 3]), classes())
    layers = [layer for layer in made.modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv1d)]
    assert len(layers) == 6
    for layer in layers:
        largest = float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2))
        assert largest == pytest.approx(1.0, abs=0.05)


def test_the_hinge_loss_asks_for_a_margin_and_no_more() -> None:
    real, made = torch.tensor([3.0, 0.5, -1.0]), torch.tensor([-3.0, -0.5, 2.0])
    assert float(discriminator_loss(real, made)) == pytest.approx((0 + 0.5 + 2 + 0 + 0.5 + 3) / 3)
    assert float(discriminator_loss(torch.full((2,), 1.0), torch.full((2,), -1.0))) == 0.0


def test_it_learns_which_beats_are_real_for_what_is_said_of_them() -> None:
    """The same beats are real with one statement and made with the other: only both together tell."""
    made, (statements, mask) = make_discriminator().train(), said([1, 1])
    optimiser = torch.optim.Adam(made.parameters(), lr=2e-3, betas=(0.5, 0.99))
    shape = torch.sin(torch.linspace(0.0, 12.0, 96)).expand(8, -1)

    def scores(which: int, seed: int) -> tuple[Tensor, Tensor]:
        x = 0.2 * beats(16, seed=seed)
        x[:8] += shape  # real with statement 0, made with statement 1
        memory, there = statements[which].expand(16, -1, -1), mask[which].expand(16, -1)
        told = made(x, memory, there, torch.zeros(16, 5))
        return (told[:8], told[8:]) if which == 0 else (told[8:], told[:8])

    for number in range(45):
        optimiser.zero_grad()
        sum(discriminator_loss(*scores(which, number)) for which in (0, 1)).backward()  # type: ignore[union-attr]
        optimiser.step()
    with torch.no_grad():
        for which in (0, 1):
            real, false = scores(which, 999)
            assert float((real[:, None] > false).float().mean()) > 0.95
