"""The shared codebook of disease codes, as explicit statistics that add up over hospitals.

Vector quantisation after van den Oord et al. 2017 (*Neural Discrete Representation Learning*, section 3.2 and
appendix A.1 for the moving average), on the unit sphere (cosine similarity, Yu et al. 2021). A code is the direction
of the sum of the latents assigned to it, so the codebook of several hospitals is the codebook of their summed
statistics: nothing else about a patient is in it.

The state is a dict of tensors that travels as it is:

============  ===============  ================================================================================
``codes``     ``(K, D)``       unit vectors
``counts``    ``(K,)``         running number of latents assigned to each code
``sums``      ``(K, D)``       running sum of those (unit) latents
``prior``     ``(C, N, K+1)``  running class prior, see ``lavq_core.models.prior``
``requests``  ``(C, S)``       running counts of each superclass's own statements
============  ===============  ================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements
from lavq_core.settings import CodebookConfig

CodebookState = dict[str, Tensor]
STATISTICS = ("counts", "sums", "prior", "requests")  # what a site sends back
_DEAD_SHARE = 0.01  # a code with less than this share of the mean count is dead
_SPLIT_ANGLE = 0.2  # length of the step by which a revived code leaves the popular one


def initial_codebook(config: CodebookConfig, tokens: int, seed: int) -> CodebookState:
    """Make the server's codebook: random directions and empty statistics.

    One initialisation for everybody: sites that start their own and average by index lose the codes (DESIGN section 4).
    ``tokens`` is N, of a beat.
    """
    generator = torch.Generator().manual_seed(seed)
    K, D = config.size, config.dim
    return {
        "codes": F.normalize(torch.randn(K, D, generator=generator), dim=-1),
        "counts": torch.zeros(K),
        "sums": torch.zeros(K, D),
        "prior": torch.zeros(len(SUPERCLASSES), tokens, K + 1),
        "requests": torch.zeros(len(SUPERCLASSES), len(diagnostic_statements())),
    }


def no_statistics(config: CodebookConfig, tokens: int) -> dict[str, Tensor]:
    """Make the statistics of a site that has nothing to say: zeros of every name in ``STATISTICS``."""
    state = initial_codebook(config, tokens, 0)
    return {name: torch.zeros_like(state[name]) for name in STATISTICS}


def quantise(latents: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Replace each latent by the nearest code; the gradient passes straight through.

    Args:
        latents: ``(..., D)``, any length; only the direction counts.
        codes: ``(K, D)`` unit vectors.

    Returns:
        ``(quantised (..., D), indices (...) int64)``.
    """
    unit = F.normalize(latents, dim=-1)
    indices = (unit @ codes.T).argmax(dim=-1)
    nearest = codes[indices].detach()
    return nearest + (unit - unit.detach()), indices  # the code to the last bit, the gradient of the unit latent


def commitment_loss(latents: Tensor, codes: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of ``1 - cos(latent, its code)``; ``latents (..., D)``, ``weight (...)``."""
    unit = F.normalize(latents, dim=-1)
    similarity = (unit @ codes.T).amax(dim=-1)  # (...)
    return ((1.0 - similarity) * weight).sum() / weight.sum().clamp_min(1.0)


def usage_loss(latents: Tensor, codes: Tensor, weight: Tensor, temperature: float = 0.1) -> Tensor:
    """``log K`` minus the entropy of the batch's mean soft assignment: 0 when all codes are used alike.

    After the entropy penalty of Chang et al. 2022 (MaskGIT, appendix). It couples the patients of a batch, so it has no
    place under differential privacy. ``latents (..., D)``, ``weight (...)``.
    """
    share = torch.softmax(F.normalize(latents, dim=-1) @ codes.T / temperature, dim=-1)  # (..., K)
    mean = (share * weight.unsqueeze(-1)).flatten(0, -2).sum(0) / weight.sum().clamp_min(1.0)  # (K,)
    return math.log(len(codes)) + (mean * mean.clamp_min(1e-9).log()).sum()


def code_statistics(latents: Tensor, indices: Tensor, gate: Tensor, size: int) -> dict[str, Tensor]:
    """Count the gated latents of each code and sum them.

    Args:
        latents: ``(B, N, D)``.
        indices: ``(B, N)`` int64, from ``quantise``.
        gate: ``(B, N)`` bool; other tokens are left out.
        size: K.

    Returns:
        ``{"counts": (K,), "sums": (K, D)}`` float32.
    """
    chosen = F.normalize(latents.detach(), dim=-1)[gate]  # (M, D)
    which = indices[gate]  # (M,)
    counts = torch.zeros(size, device=latents.device).index_add_(0, which, torch.ones_like(which, dtype=torch.float32))
    sums = torch.zeros(size, latents.shape[-1], device=latents.device).index_add_(0, which, chosen.float())
    return {"counts": counts, "sums": sums}


def merge_statistics(
    state: Mapping[str, Tensor], fresh: Sequence[Mapping[str, Tensor]], decay: float = 0.5
) -> CodebookState:
    """Add the sites' fresh sums to the running statistics and recompute the codes.

    The result depends on the sum of ``fresh`` alone, so any split of the same patients over sites, in any order, gives
    the codebook of the pooled data.

    Args:
        state: the running state.
        fresh: one ``{"counts", "sums", "prior", "requests"}`` per site, each the plain sum over this round.
        decay: share of the running statistics that is kept.

    Returns:
        A new state; codes that nobody used take over half of the most popular code, a small step aside. Copying a
        latent instead, as is usual, would publish a patient.
    """
    merged: CodebookState = {
        name: decay * state[name].double() + torch.stack([part[name].double() for part in fresh]).sum(0)
        for name in STATISTICS
    }
    used = merged["sums"].norm(dim=-1) > 1e-9  # latents that cancel have no direction
    codes = state["codes"].double().clone()
    codes[used] = F.normalize(merged["sums"][used], dim=-1)
    merged["codes"] = codes
    revive_dead_codes(merged)
    return {name: value.float() for name, value in merged.items()}


def revive_dead_codes(state: CodebookState) -> None:
    """Split popular codes, in place: a dead code takes over half of the most popular one's counts, a small step aside.

    The step is fixed by the code's number, so nothing but the statistics decides where a revived code lies. Counts and
    prior keep their totals.
    """
    counts = state["counts"]
    if float(counts.sum()) == 0.0:
        return
    generator = torch.Generator().manual_seed(len(counts))
    steps = F.normalize(torch.randn(*state["codes"].shape, generator=generator, dtype=torch.float64), dim=-1)
    steps = steps.to(state["codes"].dtype)
    prior = [state["prior"].movedim(-1, 0)] if "prior" in state else []  # a site's moving average has none
    for dead in (counts < _DEAD_SHARE * counts.mean()).nonzero().flatten().tolist():
        popular = int(counts.argmax())
        for values in (counts, state["sums"], *prior):
            values[popular] *= 0.5
            values[dead] += values[popular]
        aside = F.normalize(state["codes"][popular] + _SPLIT_ANGLE * steps[dead], dim=-1)
        state["codes"][dead] = aside
        state["sums"][dead] = aside * state["sums"][dead].norm()


def perplexity(counts: Tensor) -> float:
    """Effective number of codes in use, ``exp`` of the entropy of ``counts (K,)``; 0 when there are none."""
    total = float(counts.sum())
    if total <= 0:
        return 0.0
    share = counts.double() / total
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))
