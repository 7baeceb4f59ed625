"""ECG paper, measured: the SVG is read back and every length is checked in millimetres."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavq_core.errors import ConfigError
from lavq_core.plots import draw_ecg
from lavq_core.plots.layouts import LAYOUTS
from lavq_core.plots.page import place_rows
from lavq_core.signals.leads import LEADS
from tests.core.drawings import POINTS_PER_MM, RATE, SAMPLES, TOLERANCE, Drawing, distance_to_line, noisy, silent

# --- calibration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_page_states_its_size_in_millimetres(layout: str) -> None:
    drawing = Drawing(draw_ecg(silent(), RATE, layout=layout))
    assert drawing.width == pytest.approx(270)
    box = [float(side) for side in drawing.root.attrib["viewBox"].split()]
    assert box == pytest.approx([0, 0, drawing.width * POINTS_PER_MM, drawing.height * POINTS_PER_MM], abs=0.01)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_row_begins_with_a_pulse_10_mm_high_and_5_mm_wide(layout: str) -> None:
    pulses = Drawing(draw_ecg(noisy(), RATE, layout=layout)).lines("calibration")
    assert len(pulses) == len(LAYOUTS[layout])
    for pulse in pulses:
        foot = pulse[0, 1]
        top = pulse[pulse[:, 1] > foot + 5]
        assert pulse[:, 1].max() - foot == pytest.approx(10, abs=TOLERANCE)
        assert np.ptp(top[:, 0]) == pytest.approx(5, abs=TOLERANCE)


def test_the_grid_has_boxes_of_1_mm_and_5_mm() -> None:
    drawing = Drawing(draw_ecg(silent(), RATE))
    for name, spacing in (("grid-1mm", 1.0), ("grid-5mm", 5.0)):
        lines = drawing.lines(name)
        for axis in (0, 1):
            places = np.sort([line[0, axis] for line in lines if np.ptp(line[:, axis]) < 1e-6])
            assert len(places) > 80 / spacing
            assert np.diff(places) == pytest.approx(spacing, abs=0.02)


def test_the_baseline_of_each_row_stands_on_a_5_mm_line() -> None:
    drawing = Drawing(draw_ecg(noisy(), RATE))
    lines = np.array([line[0, 1] for line in drawing.lines("grid-5mm") if np.ptp(line[:, 1]) < 1e-6])
    for pulse in drawing.lines("calibration"):
        assert np.abs(lines - pulse[0, 1]).min() < 0.02


def test_25_mm_are_one_second_and_a_strip_of_10_s_is_250_mm_wide() -> None:
    signal = silent()
    signal[:, [100, 200, 900]] = 1.0
    [trace] = Drawing(draw_ecg(signal, RATE, layout="12x1")).trace("ecg", "V3")
    peaks = trace[trace[:, 1] > trace[:, 1].max() - 0.05, 0]
    assert np.diff(peaks) == pytest.approx([25, 175], abs=TOLERANCE)
    assert np.ptp(trace[:, 0]) == pytest.approx(250 * (SAMPLES - 1) / SAMPLES, abs=TOLERANCE)


def test_10_mm_are_one_millivolt_above_the_foot_of_the_pulse() -> None:
    signal = silent()
    signal[LEADS.index("V3"), 500:] = 1.5
    drawing = Drawing(draw_ecg(signal, RATE, layout="12x1"))
    [trace] = drawing.trace("ecg", "V3")
    foot = drawing.lines("calibration")[LEADS.index("V3")][0, 1]
    assert trace[0, 1] == pytest.approx(foot, abs=TOLERANCE)
    assert trace[-1, 1] - foot == pytest.approx(15, abs=TOLERANCE)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_sample_lies_on_its_trace_to_a_tenth_of_a_millimetre(seed: int) -> None:
    signal = noisy(seed)
    drawing = Drawing(draw_ecg(signal, RATE, layout="12x1"))
    foot = drawing.lines("calibration")[6][0, 1]
    points = np.column_stack([15 + 25 * np.arange(SAMPLES) / RATE, foot + 10 * signal[6]])
    assert distance_to_line(points, drawing.trace("ecg", "V1")[0]).max() < TOLERANCE


def test_500_hz_is_drawn_on_the_same_paper() -> None:
    drawing = Drawing(draw_ecg(noisy(rate=500), 500))
    assert drawing.width == pytest.approx(270)
    assert any("500 Hz sampling: bandwidth below 250 Hz" in words for words in drawing.words())


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_three_by_four_shows_each_lead_2_5_s_and_lead_ii_for_10_s() -> None:
    drawing = Drawing(draw_ecg(noisy(), RATE))
    for column, leads in enumerate((LEADS[:3], LEADS[3:6], LEADS[6:9], LEADS[9:])):
        for lead in leads:
            trace = drawing.trace("ecg", lead)[0]
            assert trace[0, 0] == pytest.approx(15 + 62.5 * column, abs=TOLERANCE)
            assert np.ptp(trace[:, 0]) == pytest.approx(62.25, abs=TOLERANCE)
    assert np.ptp(drawing.trace("ecg", "II")[1][:, 0]) == pytest.approx(249.75, abs=TOLERANCE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_lead_is_named(layout: str) -> None:
    assert set(LEADS) <= set(Drawing(draw_ecg(silent(), RATE, layout=layout)).words())


@settings(max_examples=30, deadline=None)
@given(
    layout=st.sampled_from(list(LAYOUTS)),
    highest=st.lists(st.floats(-5, 5), min_size=12, max_size=12),
    lowest=st.lists(st.floats(-5, 5), min_size=12, max_size=12),
)
def test_no_trace_leaves_its_row_and_no_row_touches_another(
    layout: str, highest: list[float], lowest: list[float]
) -> None:
    signal = silent()
    signal[:, ::2], signal[:, 1::2] = np.array(highest)[:, None], np.array(lowest)[:, None]
    page = place_rows(LAYOUTS[layout], [signal], RATE, 10.0, 0.0)
    for row in page.rows:
        values = np.concatenate([10 * signal[LEADS.index(cell.lead)] for cell in row.cells])
        assert row.bottom <= row.baseline + values.min() + 1e-9
        assert row.baseline + values.max() <= row.top + 1e-9
        assert row.label_y + 3 <= row.top
    for above, below in zip(page.rows, page.rows[1:], strict=False):
        assert above.bottom == pytest.approx(below.top)


def test_a_lead_that_was_not_recorded_is_said_to_be_missing() -> None:
    signal = noisy()
    signal[LEADS.index("V2")] = np.nan
    drawing = Drawing(draw_ecg(signal, RATE))
    assert "V2 (not recorded)" in drawing.words()


def test_a_trace_beyond_10_mv_is_cut_and_the_footer_says_so() -> None:
    signal = silent()
    signal[0, 100] = 14.0
    drawing = Drawing(draw_ecg(signal, RATE))
    assert np.ptp(drawing.trace("ecg", "I")[0][:, 1]) == pytest.approx(100, abs=TOLERANCE)
    assert any("cut at 10 mV" in words for words in drawing.words())
    assert not any("cut at" in words for words in Drawing(draw_ecg(silent(), RATE)).words())


# --- wrong calls -----------------------------------------------------------------------------------------------------


def test_an_unknown_layout_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"3x4\+II, 3x4, 6x2, 12x1"):
        draw_ecg(silent(), RATE, layout="4x3")


@pytest.mark.parametrize(
    "arguments",
    [
        {"signal": np.zeros((8, SAMPLES))},
        {"signal": np.zeros(SAMPLES)},
        {"reference": np.zeros((12, 5))},
        {"envelope": np.zeros(5)},
        {"sampling_rate": 0.0},
    ],
)
def test_arrays_of_the_wrong_shape_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"shape|sampling rate"):
        draw_ecg(**({"signal": silent(), "sampling_rate": RATE} | arguments))
