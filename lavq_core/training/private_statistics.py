"""The codebook's statistics with noise: counts of codes, places and statements, and by config sums of latents.

All of a site's patients take part, each with one vector of norm at most 1 in total, so that everything together is one
Gaussian mechanism. A record counts the *share* of its open tokens that falls to each code. What is done afterwards
needs the noised numbers and public ones alone: counts are not negative, what does not stand out from its noise among
the many places is 0, and nothing is more than so many patients can give (the server refuses it otherwise).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lavq_core.data.labels import statement_classes
from lavq_core.models.codebook import no_statistics, quantise
from lavq_core.models.networks import Networks
from lavq_core.privacy.clipping import clipped_sum, item_weights, release
from lavq_core.settings import Config
from lavq_core.training.guided import GuidedBeats, class_weights

Watch = Callable[[Tensor], None]
"""Is told the noised sum ``(d,)`` before anything is made of it: what the accounting takes an adversary to see."""

_ROUNDING = 1e-5  # relative, by which a sum of latents stays below its count


def private_statistics(
    networks: Networks,
    codes: Tensor,
    data: GuidedBeats,
    owner: Tensor,
    config: Config,
    noise_multiplier: float,
    size: float,
    watch: Watch | None = None,
) -> dict[str, Tensor]:
    """Release ``{"counts", "sums", "prior", "requests"}``, float32.

    Args:
        networks: in eval mode, on the CPU.
        codes: ``(K, D)`` unit vectors.
        data: the site's records, of patients ``owner (n,)``; those that are not abnormal count nothing.
        config: which of ``privacy.codebook``.
        noise_multiplier: of the mechanism.
        size: released number of patients.
        watch: an auditor's.
    """
    summed = config.privacy.codebook == "sums"
    blank = no_statistics(config.codebook, data.valid.shape[1])
    bounds = block_bounds(config, data.valid.shape[1])
    weights, total = item_weights(owner.tolist()), torch.zeros(sum(blank[name].numel() for name in bounds)).double()
    for rows in data.abnormal().split(256):
        total += clipped_sum(contributions(networks, codes, data.take(rows), config), weights[rows], 1.0)
    noised, found, start = release(total, 1.0, noise_multiplier), {}, 0
    if watch is not None:
        watch(noised.clone())
    for name, bound in bounds.items():
        values = noised[start : start + blank[name].numel()].reshape(blank[name].shape)
        found[name], start = values * bound * math.sqrt(len(bounds)), start + values.numel()
    spread = noise_multiplier * bounds["prior"] * math.sqrt(len(bounds))
    most, tokens = float(max(1, round(size))), data.valid.shape[1]
    prior = torch.where(found["prior"] > spread * math.sqrt(2 * math.log(found["prior"].numel())), found["prior"], 0.0)
    counts = _at_most(found["counts"].clamp_min(0.0), most * tokens)
    own = torch.from_numpy(statement_classes())
    sums = counts[:, None] * codes.double()
    if summed:
        length = found["sums"].norm(dim=1, keepdim=True).clamp_min(1e-12)
        sums = found["sums"] * (counts[:, None] / length).clamp_max(1.0)
    released = {
        "counts": counts,
        "sums": sums * (1 - _ROUNDING),
        "prior": _at_most(prior, most),
        "requests": found["requests"].clamp(0.0, most) * own,
    }
    return {name: value.float() for name, value in released.items()}


def block_bounds(config: Config, tokens: int) -> dict[str, float]:
    """Largest norm of a record's part in each statistic; together they are scaled to norm 1."""
    bounds = {"counts": 1.0, "prior": math.sqrt(tokens), "requests": 1.0}
    return bounds | {"sums": 1.0} if config.privacy.codebook == "sums" else bounds


@torch.no_grad()
def contributions(networks: Networks, codes: Tensor, data: GuidedBeats, config: Config) -> Tensor:
    """Each abnormal record's vector ``(B, d)``, of norm at most 1 in total."""
    found = networks.separator(data.x, data.covariates, data.valid, data.memory, data.mask)
    _, indices = quantise(found.latents, codes)
    gate, classes, K = found.gate > 0.5, class_weights(data.y), len(codes)
    share = gate.float() / gate.sum(1, keepdim=True).clamp_min(1)  # (B, N)
    which = F.one_hot(indices, K).to(share) * share.unsqueeze(-1)  # (B, N, K)
    symbols = torch.where(gate, indices, torch.full_like(indices, K))  # (B, N)
    parts = {
        "counts": which.sum(1),
        "prior": torch.einsum("bc,bnk->bcnk", classes, F.one_hot(symbols, K + 1).to(classes)),
        "requests": classes.unsqueeze(-1) * data.statements.unsqueeze(1) * torch.from_numpy(statement_classes()),
        "sums": torch.einsum("bnk,bnd->bkd", which, F.normalize(found.latents, dim=-1)),
    }
    bounds = block_bounds(config, data.valid.shape[1])
    blocks = []
    for name, bound in bounds.items():
        flat = parts[name].flatten(1).double() / (bound * math.sqrt(len(bounds)))
        norm = flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
        blocks.append(flat * (1 / (norm * math.sqrt(len(bounds)))).clamp_max(1.0))
    return torch.cat(blocks, dim=1)


def _at_most(counts: Tensor, most: float) -> Tensor:
    """Scale counts down where their sum (``(K,)``), or that of any place (``(C, N, K + 1)``), is above ``most``."""
    return counts * (most / counts.sum(-1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
