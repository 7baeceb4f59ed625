"""The median beat of twelve leads side by side: a twin's over its reference's, on the paper of whole recordings."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lavq_core.plots.ecg_paper import draw_ecg

_COLUMNS = 4
_GAP = 0.2  # s of empty paper at least behind each beat


def draw_median_beats(
    beat: NDArray[np.floating],
    sampling_rate: float,
    *,
    reference: NDArray[np.floating] | None = None,
    envelope: NDArray[np.floating] | None = None,
    gate: NDArray[np.floating] | None = None,
    title: str = "",
    synthetic: bool = False,
) -> Figure:
    """Draw one beat of every lead, in three rows of four.

    Args:
        beat: ``(12, W)`` mV in canonical lead order; NaN where the frame holds none of the beat.
        sampling_rate: Hz.
        reference: ``(12, W)`` mV, drawn below ``beat`` in the second colour.
        envelope: ``(W,)`` in 0..1, how much of each sample was edited; shaded behind the traces.
        gate: ``(tokens,)`` in 0..1 of the beat; W is a whole number of tokens.
        title: first line of the page.
        synthetic: mark the page as a digital twin's.

    Returns:
        A figure as large as the paper, 25 mm a second and 10 mm a millivolt.
    """
    samples = beat.shape[1]
    token = samples // gate.shape[0] if gate is not None else 1
    cell = token * int(np.ceil((samples + _GAP * sampling_rate) / token))  # samples, a whole number of tokens
    return draw_ecg(
        _repeated(beat, cell, np.nan),
        sampling_rate,
        layout="3x4",
        reference=None if reference is None else _repeated(reference, cell, np.nan),
        envelope=None if envelope is None else _repeated(envelope, cell, 0.0),
        gate=None if gate is None else _repeated(gate, cell // token, 0.0),
        title=title,
        synthetic=synthetic,
    )


def _repeated(values: NDArray[np.floating], length: int, filling: float) -> NDArray[np.floating]:
    """Repeat ``(..., n)`` once a column, filled up to ``length`` each: a layout's cell then shows one whole beat."""
    room = [(0, 0)] * (values.ndim - 1) + [(0, length - values.shape[-1])]
    filled = np.pad(values.astype(float), room, constant_values=filling)
    return np.tile(filled, (*[1] * (values.ndim - 1), _COLUMNS))
