"""Noise that anybody could draw: what usual generators give from seeds that anybody would try.

Noise from a known seed looks as it should, and hides nothing: whoever draws it again takes it away. From the outside
that shows only where the seed is guessed, so what is tested is the list below, and nothing beyond it is ruled out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from unittest.mock import patch

import numpy as np
import torch
from scipy.stats import beta

from lavq_core.privacy import noise
from simulations.audit.privacy.noise_check import Finding

_STREAMS: dict[str, Callable[[int], np.random.BitGenerator]] = {
    "Philox(key)": lambda seed: np.random.Philox(key=seed),
    "Philox": lambda seed: np.random.Philox(seed),
    "PCG64": lambda seed: np.random.PCG64(seed),
    "MT19937": lambda seed: np.random.MT19937(seed),
}


def public_noise(shape: tuple[int, ...], seeds: Sequence[int]) -> Iterator[tuple[str, np.ndarray]]:
    """Draw standard normal noise from every generator and seed, as a first draw: name and values."""
    for seed in seeds:
        for name, stream in _STREAMS.items():
            with patch.object(noise, "_generator", lambda: np.random.Generator(stream(seed))):  # noqa: B023
                yield f"{name} of {seed}, as the mechanisms draw", noise.gaussian(shape, 1.0).numpy()
            yield f"{name} of {seed}", np.random.Generator(stream(seed)).standard_normal(shape)
        yield f"numpy.random.seed({seed})", np.random.RandomState(seed).standard_normal(shape)
        for dtype in (torch.float32, torch.float64):
            drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
            yield f"torch.manual_seed({seed}), {dtype}", drawn.double().numpy()


def public_noise_test(name: str, seen: np.ndarray, seeds: Sequence[int]) -> Finding:
    """Test that noise ``(d,)`` has nothing to do with any that is public (exact, Bonferroni)."""
    found = [(abs(float(np.corrcoef(seen, drawn)[0, 1])), what) for what, drawn in public_noise(seen.shape, seeds)]
    largest, what = max(found)
    p = min(1.0, len(found) * float(beta.sf(min(1.0, largest**2), 0.5, (seen.size - 2) / 2)))
    return Finding(f"{name} public", p, f"noise of the {name} correlates by {largest:.3f} with {what}")
