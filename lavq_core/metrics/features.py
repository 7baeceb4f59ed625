"""The fixed public feature net in which Frechet distance, precision and recall of ECGs are taken.

One layer of random dilated convolutions, after ROCKET (Dempster et al., Data Mining and Knowledge Discovery 2020): 64
kernels over random sets of the leads, nothing trained, so no site's data and no judge is in it, and anybody can rebuild
it from its seed. Figures are comparable only between nets of one ``feature_hash``, which is printed beside them. A
kernel gives two features: the share of time its response is above its bias, as in ROCKET, and the logarithm of the
response's size, where ROCKET takes the maximum, which one artefact decides.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from math import gcd

import numpy as np
from scipy.signal import resample_poly

from lavq_core.signals.leads import INDEPENDENT_LEADS

RATE = 100  # Hz, at which the net reads
FEATURES = 128

_SEED = 2020
_LENGTHS = (7, 9, 11)  # samples, as in ROCKET
_DILATIONS = (1, 2, 4, 8, 16, 32)  # samples between a kernel's weights: from a QRS to three beats
_LEADS = (1, 2, 4, 8)
_GRID = 64  # weights are drawn as whole numbers, so that a hash of them depends on no machine's rounding
_BIASES = (5, 10, 20, 50, 100, 200)  # uV, of either sign: from the noise to a T wave
_FLOOR = 0.01  # mV, added to a response's size before its logarithm: noise below it counts little
_SCALE = 0.1  # of the logarithm, which then spreads as much as the shares: .04 on PTB-XL
_BATCH = 64  # records


@dataclass(frozen=True)
class Kernel:
    """One random convolution, in whole numbers as drawn."""

    leads: np.ndarray  # (c,) int64, rows of (8, T)
    drawn: np.ndarray  # (c, L) int64
    dilation: int  # samples
    bias: int  # uV

    def respond(self, signals: np.ndarray) -> np.ndarray:
        """Convolve ``(n, 8, T)`` mV without padding: ``(n, T - (L - 1) dilation)`` mV.

        Weights are centred per lead, so that an offset has no response, and have norm 1.
        """
        weights = self.drawn - self.drawn.mean(axis=1, keepdims=True)
        weights = (weights / np.linalg.norm(weights)).astype(np.float32)
        L = weights.shape[1]
        valid, chosen = signals.shape[-1] - (L - 1) * self.dilation, signals[:, self.leads]
        starts = [tap * self.dilation for tap in range(L)]
        taps = [np.einsum("c,nct->nt", w, chosen[..., s : s + valid]) for w, s in zip(weights.T, starts, strict=True)]
        return np.sum(taps, axis=0)


@cache
def kernels() -> tuple[Kernel, ...]:
    """Draw the net's kernels; always the same ones."""
    rng = np.random.Generator(np.random.PCG64(_SEED))
    drawn = []
    for _ in range(FEATURES // 2):
        leads = rng.permutation(len(INDEPENDENT_LEADS))[: int(rng.choice(_LEADS))]
        weights = np.rint(_GRID * rng.standard_normal((len(leads), int(rng.choice(_LENGTHS))))).astype(np.int64)
        dilation, bias = int(rng.choice(_DILATIONS)), int(rng.choice(_BIASES) * rng.choice((-1, 1)))
        drawn.append(Kernel(leads.astype(np.int64), weights, dilation, bias))
    return tuple(drawn)


def feature_hash() -> str:
    """Return the sha256 of the net's weights, in hexadecimal."""
    digest = hashlib.sha256()
    for kernel in kernels():
        shape = np.array([*kernel.drawn.shape, kernel.dilation, kernel.bias])
        for part in (shape, kernel.leads, kernel.drawn):
            digest.update(part.astype("<i8").tobytes())
    return digest.hexdigest()


def features(signals: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Describe ECGs by the net's features.

    Args:
        signals: ``(n, 8, T)`` mV, T at least 4 s.
        sampling_rate: Hz; other rates than 100 are resampled to it.

    Returns:
        ``(n, 128)`` float64: of each kernel the share of time above its bias, then of each a tenth of the logarithm of
        its response's standard deviation.

    Raises:
        ValueError: another shape, or shorter than 4 s.
    """
    signals = np.asarray(signals, dtype=np.float32)
    if signals.ndim != 3 or signals.shape[1] != len(INDEPENDENT_LEADS) or signals.shape[-1] < 4 * sampling_rate:
        raise ValueError(f"expected ECGs (n, 8, T) of at least 4 s, got {signals.shape} at {sampling_rate} Hz")
    if sampling_rate != RATE:
        common = gcd(RATE, sampling_rate)
        signals = resample_poly(signals, RATE // common, sampling_rate // common, axis=-1, padtype="line")
    batches = [_batch(signals[start : start + _BATCH]) for start in range(0, len(signals), _BATCH)]
    return np.concatenate(batches) if batches else np.zeros((0, FEATURES))


def _batch(signals: np.ndarray) -> np.ndarray:
    shares, sizes = [], []
    for kernel in kernels():
        response = kernel.respond(signals)  # (n, T')
        shares.append((response > kernel.bias / 1000).mean(axis=-1))
        sizes.append(_SCALE * np.log(response.std(axis=-1, dtype=np.float64) + _FLOOR))
    return np.stack([*shares, *sizes], axis=1)  # (n, 128)
