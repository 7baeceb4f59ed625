"""Rounds of the private head trained again from a checkpoint with honest noise, to hold the run's weights against.

Between two checkpoints lie steps that nobody kept. So one round is taken from the earlier checkpoint by the reference
(``head_reference``) many times with independent noise of the planned size, and once without. How far noise drives the
weights from the path without noise is the same number for all honest trainings, to a few per cent: it is a sum over
thousands of weights. And along the path itself, the run has to go as far as the honest ones do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import t as t_distribution
from torch import Tensor

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.training.head_training import PatientItems
from simulations.audit.privacy.head_reference import Head, clipped_errors, shares
from simulations.audit.privacy.noise_check import FALSE_ALARM, Finding

REPLAYS = 16
_SEEN = FALSE_ALARM / 20  # p of what fails among as many tests as there usually are
_SUMMED = "every record like a patient"
_UNCLIPPED = "patients without their clip"


@dataclass(frozen=True)
class SiteHead:
    """One site's part of a round."""

    seen: Tensor  # (n, SIZE + 1), see ``standardised``
    items: PatientItems
    size: float  # released number of patients
    weight: float  # share in the average


@dataclass(frozen=True)
class Replayed:
    """One round, as the run left it and as others would have."""

    run: np.ndarray  # (d,) the run's weights less those of a round without noise
    honest: np.ndarray  # (K, d) the same of honest rounds
    path: np.ndarray  # (d,) how a round without noise moves the weights
    faults: dict[str, np.ndarray]  # (d,) how far a round without noise, but with a fault, ends from one without either


def head_round_tests(
    weights: Mapping[int, Tensor], sites: Mapping[int, Sequence[SiteHead]], head: Head, noise: float, seed: int
) -> list[Finding]:
    """Test every round of which ``sites`` tells who took part.

    Args:
        weights: ``(5, SIZE + 1)`` after each round.
        sites: by round.
        head: how it is trained.
        noise: standard deviation of a step's noise in the plan.
        seed: of the honest noise.
    """
    generator = np.random.default_rng(seed)
    rounds = {
        number: replay_round(weights[number - 1], weights[number], taking_part, head, noise, generator)
        for number, taking_part in sites.items()
    }
    every = list(rounds.values())
    findings = [_distance_test(f"round {number}", [one]) for number, one in rounds.items()]
    findings += [_distance_test("all rounds", every), _repeat_test(every)]
    findings += [_part_test("class", every, 1), _part_test("feature", every, 0)]
    findings.append(_along_test("steps without noise", every, [one.path for one in every]))
    findings += [_along_test(name, every, [one.faults[name] for one in every]) for name in every[0].faults]
    return findings


def replay_round(
    before: Tensor, after: Tensor, sites: Sequence[SiteHead], head: Head, noise: float, generator: np.random.Generator
) -> Replayed:
    """Train one round again, by all sites."""
    scales = torch.tensor([0.0] + [noise] * REPLAYS, dtype=torch.float64)
    ends = _mean(sites, [_ends(before, site, shares(site.items), scales, head, generator) for site in sites])
    faults = {}
    for name in (_SUMMED, _UNCLIPPED):
        wrong = _mean(sites, [_faulty(name, before, site, head, generator) for site in sites])
        faults[name] = (wrong - ends[0]).flatten().numpy()
    run, clean = after - ends[0], ends[0] - before
    honest = (ends[1:] - ends[0]).flatten(1).numpy()
    return Replayed(run.flatten().numpy(), honest, clean.flatten().numpy(), faults)


def _mean(sites: Sequence[SiteHead], ends: Sequence[Tensor]) -> Tensor:
    """Average the sites' weights as the server does."""
    return torch.stack([site.weight * end for site, end in zip(sites, ends, strict=True)]).sum(dim=0)


def _ends(
    before: Tensor, site: SiteHead, share: Tensor, scales: Tensor, head: Head, generator: np.random.Generator
) -> Tensor:
    """End of one site's round, for each scale of noise by itself: ``(K, 5, SIZE + 1)``."""
    weights = before.expand(len(scales), *before.shape).clone()
    velocity, path = torch.zeros_like(weights), []
    for _ in range(head.steps):
        present = _taking_part(len(scales), site.items, head.rate, generator)
        errors = clipped_errors(site.seen, site.items.y, weights, head) * (share * present)[..., None]
        total = torch.einsum("tnc,nd->tcd", errors, site.seen)
        drawn = torch.from_numpy(generator.standard_normal(tuple(total.shape)))
        velocity = head.momentum * velocity + (total + scales[:, None, None] * drawn) / (head.rate * site.size)
        weights = weights - head.lr * velocity
        path.append(weights)
    return head.running_mean(torch.stack(path))


def _taking_part(trainings: int, items: PatientItems, rate: float, generator: np.random.Generator) -> Tensor:
    """How much each record takes part in a step of each training, ``(K, n)``: in the first one as much as expected."""
    if rate == 1:
        return torch.ones(trainings, len(items.owner), dtype=torch.float64)
    present = generator.random((trainings, items.patients)) < rate
    share = np.concatenate([np.full((1, items.patients), rate), present[1:]])
    return torch.from_numpy(share)[:, items.owner]


def _faulty(name: str, before: Tensor, site: SiteHead, head: Head, generator: np.random.Generator) -> Tensor:
    """End of a round without noise that has a fault: ``(5, SIZE + 1)``."""
    none = torch.zeros(1, dtype=torch.float64)
    if name == _SUMMED:
        return _ends(before, site, torch.ones(len(site.seen), dtype=torch.float64), none, head, generator)[0]
    free = replace(head, clipping_norm=float("inf"))
    return _ends(before, site, shares(site.items), none, free, generator)[0]


def _distance_test(what: str, rounds: Sequence[Replayed]) -> Finding:
    """Test how far noise has driven the weights, against honest rounds."""
    run = np.log(sum(float((one.run**2).sum()) for one in rounds) + 1e-300)
    honest = np.log(sum((one.honest**2).sum(axis=1) for one in rounds))  # (K,)
    ratio = float(np.exp((run - honest.mean()) / 2))
    text = f"{what}: noise has driven the head's weights {ratio:.3f} as far as honest noise does"
    return Finding(f"{what}: distance", _against(run, honest), text)


def _along_test(what: str, rounds: Sequence[Replayed], ways: Sequence[np.ndarray]) -> Finding:
    """Test how far the run has gone along a way of each round, against honest rounds: in lengths of that way."""
    length = max(float(sum(way @ way for way in ways)), 1e-300)
    run = float(sum(one.run @ way for one, way in zip(rounds, ways, strict=True))) / length
    honest = np.asarray(sum(one.honest @ way for one, way in zip(rounds, ways, strict=True))) / length  # (K,)
    beyond = f"{run - honest.mean():+.2f} of their way beyond honest rounds' (spread {honest.std(ddof=1):.2f})"
    blind = _against(float(honest.mean()) + 1.0, honest) > _SEEN  # were it there at full length
    return Finding(what, _against(run, honest), f"{what} move the run's weights {beyond}", blind)


def _repeat_test(rounds: Sequence[Replayed]) -> Finding:
    """Test that no round has the noise of another, against how far honest rounds correlate by chance."""
    pairs = np.triu_indices(len(rounds), 1)
    if not len(pairs[0]):
        return Finding("rounds repeated", 1.0, "there is one round of the head only")
    means = [one.honest.mean(axis=0) for one in rounds]
    run = _correlations([one.run - mean for one, mean in zip(rounds, means, strict=True)])[pairs]
    honest = np.concatenate(
        [
            _correlations([one.honest[k] - mean for one, mean in zip(rounds, means, strict=True)])[pairs]
            for k in range(REPLAYS)
        ]
    )
    largest = float(np.abs(run).max())
    p = min(1.0, 2 * run.size * float(t_distribution.sf(largest / honest.std(), honest.size - 1)))
    return Finding("rounds repeated", p, f"largest correlation between the noise of rounds is {largest:.3f}")


def _correlations(rows: Sequence[np.ndarray]) -> np.ndarray:
    unit = np.stack([row / max(float(np.linalg.norm(row)), 1e-300) for row in rows])
    return np.asarray(unit @ unit.T)


def _part_test(part: str, rounds: Sequence[Replayed], axis: int) -> Finding:
    """Test that no part of the weights has been left with less noise than honest, over all rounds.

    A part is a row or a column of the head's ``(CLASSES, SIZE + 1)``, which is summed over ``axis``.
    """
    run = np.log(sum((_by_class(one.run) ** 2).sum(axis=axis) for one in rounds) + 1e-300)  # (parts,)
    honest = np.log(sum((_by_class(one.honest) ** 2).sum(axis=1 + axis) for one in rounds))  # (K, parts)
    all_p = [_against(one, known) for one, known in zip(run, honest.T, strict=True)]
    worst = int(np.argmin(all_p))
    ratio = float(np.exp((run[worst] - honest[:, worst].mean()) / 2))
    text = f"noise of {part} {worst} of the head has driven it {ratio:.3f} as far as honest noise does"
    return Finding(f"each {part}", min(1.0, len(all_p) * all_p[worst]), text)


def _by_class(weights: np.ndarray) -> np.ndarray:
    """``(..., d)`` to ``(..., CLASSES, SIZE + 1)``."""
    return weights.reshape(*weights.shape[:-1], len(SUPERCLASSES), -1)


def _against(value: float, honest: np.ndarray) -> float:
    """Chance of one further draw so far from ``honest (K,)``, if all are normal (Student's t)."""
    spread = float(honest.std(ddof=1)) * np.sqrt(1 + 1 / len(honest))
    return 2 * float(t_distribution.sf(abs(value - honest.mean()) / max(spread, 1e-300), len(honest) - 1))
