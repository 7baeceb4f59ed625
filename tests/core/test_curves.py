"""Curves of a run: convergence, ROC and bytes."""

from __future__ import annotations

import numpy as np
import pytest

from lavq_core.plots.curves import RocCurve, draw_bytes, draw_convergence, draw_roc
from tests.core.drawings import Drawing

CURVE = RocCurve([0.0, 0.01, 1.0], [0.0, 0.05, 1.0], [0.0, 0.02, 0.9], [0.01, 0.1, 1.0])


def test_convergence_names_every_site_even_odd_ones() -> None:
    curves = {name: [(1.0, 0.6), (2.0, 0.7)] for name in ("site-0", "_hidden", "$money$", "x" * 60)}
    words = Drawing(draw_convergence(curves, "validation macro AUC")).words()
    assert {"site-0", "$money$", "validation macro AUC", "round"} <= set(words)
    assert any(word.strip() == "_hidden" for word in words)
    assert any(word.startswith("xxxx") and word.endswith("…") for word in words)


def test_the_roc_has_logarithmic_axes_and_the_chance_line() -> None:
    drawing = Drawing(draw_roc({"LiRA": CURVE}, 1e-3))
    assert {"chance", "LiRA", "0.1\u00a0%", "1\u00a0%", "10\u00a0%", "100\u00a0%"} <= set(drawing.words())
    [chance] = drawing.lines("roc-chance")
    [curve] = drawing.lines("roc-0")
    decade = np.ptp(chance[:, 0]) / 3
    corner = curve[np.isclose(curve[:, 0], chance[:, 0].min() + decade, atol=0.1)]
    assert np.ptp(corner[:, 1]) == pytest.approx(np.ptp(chance[:, 1]) / 3 * np.log10(50), abs=0.2)


def test_bytes_are_drawn_for_every_site_in_both_directions() -> None:
    words = Drawing(draw_bytes({"a": 2e6, "b": 1e6}, {"a": 1e6, "b": 0.0})).words()
    assert {"a", "b", "received", "sent", "megabytes"} <= set(words)
