"""A round's updates judged by each other, before they are aggregated.

``server.validation`` looks at one reply alone. Two things show only beside the others:

- **An update of another size.** AdamW moves every weight by about the learning rate a step, and where gradients are
  mostly noise the steps add up like a random walk, so the norm of an honest update divided by the root of the site's
  steps is about the same everywhere. A site whose figure exceeds ``federation.norm_cap`` times the round's median is
  left out. The same holds for the shared networks, and for moments that travel.
- **A weight that outvotes everybody.** A site's share of the average is cut to ``federation.max_weight_share``, and the
  sums of its codes with it; it stays in the round. A number of examples cannot be checked: k sites that lie are bounded
  by k such shares, so set it below 1 / (2 k) where k bad sites are feared.

What nobody can see here: an update of ordinary size in a wrong direction (labels exchanged, signs turned). Strategies
that look at directions are in ``server.strategies``; for the codebook there is none, its sums are only bounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lavq_core.settings import DetectorTrainingConfig, FederationConfig
from lavq_core.training.local_steps import steps_in_round
from server.model import SharedModel, SiteUpdate, State


@dataclass(frozen=True)
class Screened:
    """What remains of a round.

    Attributes:
        updates: by site; examples and codebook of a site that weighed too much are cut.
        left_out: why, by site.
        cut: by site, its share of the average as declared and as counted.
    """

    updates: dict[str, SiteUpdate]
    left_out: dict[str, str]
    cut: dict[str, tuple[float, float]]


def screen(
    model: SharedModel,
    updates: Mapping[str, SiteUpdate],
    federation: FederationConfig,
    training: DetectorTrainingConfig,
) -> Screened:
    """Leave out updates of another size, and cut weights that are too large.

    Args:
        model: what was sent.
        updates: by site, each valid by itself.
        federation: ``norm_cap`` and ``max_weight_share``.
        training: of the sites' detectors: how many steps a site takes.
    """
    left_out: dict[str, str] = {}
    if federation.norm_cap > 0:
        # A site that declares ten thousand times its records would be allowed a hundred times the norm: cut first.
        counted = _counted(updates, federation)
        sizes = {site: _sizes(model, update, counted[site], training) for site, update in updates.items()}
        for part in next(iter(sizes.values()), {}):
            left_out |= _too_large(part, {site: found[part] for site, found in sizes.items()}, federation.norm_cap)
    kept = {site: update for site, update in updates.items() if site not in left_out}
    counted = _counted(kept, federation)
    declared, total = sum(update.examples for update in kept.values()), sum(counted.values())
    cut = {
        site: (update.examples / declared, counted[site] / total)
        for site, update in kept.items()
        if counted[site] < update.examples
    }
    return Screened({site: _weighing(update, counted[site]) for site, update in kept.items()}, left_out, cut)


def cut_weights(examples: Sequence[float], share: float) -> list[float]:
    """Cut weights so that none exceeds a share of what remains; all alike where the share allows nothing else.

    They stay as large as they can be: k weights are cut to the limit ``L = share (k L + rest)``, and k is the smallest
    with which no other exceeds it.
    """
    largest_first = sorted(examples, reverse=True)
    share = max(share, 1.0 / max(1, len(examples)))
    limit = 0.0
    for cut, largest_left in enumerate(largest_first):
        limit = share * sum(largest_first[cut:]) / (1.0 - cut * share)
        if largest_left <= limit * (1.0 + 1e-9):
            break
    return [count if count <= limit * (1.0 + 1e-9) else limit for count in examples]


def _counted(updates: Mapping[str, SiteUpdate], federation: FederationConfig) -> dict[str, float]:
    weights = cut_weights([update.examples for update in updates.values()], federation.max_weight_share)
    return dict(zip(updates, weights, strict=True))


def _sizes(
    model: SharedModel, update: SiteUpdate, examples: float, training: DetectorTrainingConfig
) -> dict[str, float]:
    """How large an update is, by part, in a unit that honest sites share."""
    steps = steps_in_round(training, max(1, int(examples)))
    sizes = {"detector": _distance(model.detector, update.detector) / math.sqrt(steps)}
    if model.networks:
        sizes["networks"] = _distance(model.networks, update.networks)
    if model.moments:
        for kind in ("first", "second"):
            values = [value.double() for name, value in update.moments.items() if name.startswith(f"{kind}.")]
            powers = [value.square() if kind == "first" else value for value in values]  # second: squares already
            sizes[f"{kind} moments"] = math.sqrt(sum(float(power.sum()) for power in powers))
    return sizes


def _distance(sent: State, came: State) -> float:
    return math.sqrt(sum(float((came[name].double() - value.double()).square().sum()) for name, value in sent.items()))


def _too_large(part: str, sizes: Mapping[str, float], cap: float) -> dict[str, str]:
    """Compare with the median (the lower one of two) of the sites that changed anything."""
    changed = [size for size in sizes.values() if size > 0]
    limit = cap * float(torch.tensor(changed, dtype=torch.float64).median()) if changed else 0.0
    reason = f"the norm of its {part} is more than {cap:g} times the round's median"
    return {site: reason for site, size in sizes.items() if size > limit}


def _weighing(update: SiteUpdate, counted: float) -> SiteUpdate:
    """Give an update another weight; the sums of its codes shrink as much."""
    if counted >= update.examples:
        return update
    scale = counted / update.examples
    codebook = {name: value * scale for name, value in update.codebook.items()}
    return replace(update, codebook=codebook, examples=counted)
