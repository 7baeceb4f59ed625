"""Median beats of twelve leads on the same paper."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lavq_core.plots import draw_median_beats
from lavq_core.signals.leads import LEADS
from tests.core.drawings import RATE, TOLERANCE, Drawing


@pytest.fixture(scope="module")
def beats() -> Drawing:
    """A beat of .96 s, 24 tokens of 4 samples; tokens 6 to 8 are edited, the last sample belongs to the next beat."""
    reference = np.zeros((12, 96))
    reference[:, 32] = np.linspace(0.5, 1.5, 12)
    reference[:, 95] = np.nan
    gate = np.zeros(24)
    gate[6:9] = 1.0
    envelope = np.repeat(gate, 4)
    twin = reference + 0.2 * envelope
    return Drawing(
        draw_median_beats(twin, RATE, reference=reference, envelope=envelope, gate=gate, title="Beat", synthetic=True)
    )


def test_median_beats_stand_on_the_same_calibrated_paper(beats: Drawing) -> None:
    for lead, height in zip(LEADS, 10 * np.linspace(0.5, 1.5, 12), strict=True):
        [reference] = beats.trace("reference", lead)
        assert np.ptp(reference[:, 0]) == pytest.approx(25 * 0.94, abs=TOLERANCE)  # 95 of 96 samples
        assert np.ptp(reference[:, 1]) == pytest.approx(height, abs=TOLERANCE)
        peak = reference[reference[:, 1].argmax(), 0]
        assert peak - reference[0, 0] == pytest.approx(25 * 0.32, abs=TOLERANCE)
    for pulse in beats.lines("calibration"):
        assert np.ptp(pulse[:, 1]) == pytest.approx(10, abs=TOLERANCE)
        assert np.ptp(pulse[pulse[:, 1] > pulse[0, 1] + 5, 0]) == pytest.approx(5, abs=TOLERANCE)


def test_beats_of_a_column_stand_below_each_other_and_columns_do_not_touch(beats: Drawing) -> None:
    starts = [beats.trace("reference", lead)[0][0, 0] for lead in LEADS]
    assert starts == pytest.approx(np.repeat(15 + 29 * np.arange(4), 3), abs=TOLERANCE)  # 24 mm, and .2 s of paper


def test_edit_and_gate_of_a_beat_stand_where_the_beat_is_edited(beats: Drawing) -> None:
    left = sorted({round(box[:, 0].min(), 1) for box in beats.lines("level-85")})
    right = sorted({round(box[:, 0].max(), 1) for box in beats.lines("level-85")})
    assert left == pytest.approx(15 + 29 * np.arange(4) + 25 * 0.235, abs=TOLERANCE)
    assert np.subtract(right, left) == pytest.approx(3, abs=TOLERANCE)  # three tokens of 40 ms
    [steps] = beats.lines("gate")
    opened = steps[steps[:, 1] > steps[:, 1].max() - 0.1, 0]
    assert opened.min() == pytest.approx(15 + 6, abs=TOLERANCE)
    assert opened.max() == pytest.approx(15 + 3 * 29 + 9, abs=TOLERANCE)


def test_a_narrow_page_is_marked_and_writes_its_footer_on_two_lines() -> None:
    figure = draw_median_beats(np.zeros((12, 96)), RATE, synthetic=True)
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts].count("SYNTHETIC") == 2
    boxes = [
        text.get_window_extent(renderer) for text in texts if re.search(r"medical device|bandwidth", text.get_text())
    ]
    assert len(boxes) == 2
    assert not boxes[0].overlaps(boxes[1])
