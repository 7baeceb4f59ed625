"""What judges and opponents are shown, and what the codes must carry."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lavq_core.data.labels import diagnostic_statements
from lavq_core.models.networks import Networks
from lavq_core.settings import Config
from lavq_core.training.guided import NORM
from lavq_core.training.separator_losses import Pass, losses_of
from tests.core.separator_training.passes import NOBODY, B, Seen, Told, codes_of, rng


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
