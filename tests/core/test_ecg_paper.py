"""ECG paper, measured: the SVG is read back and every length is checked in millimetres."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lavq_core.errors import ConfigError
from lavq_core.plots import draw_ecg, draw_median_beats, save_figure, svg_markup
from lavq_core.plots.curves import draw_bytes, draw_convergence, draw_roc
from lavq_core.plots.layouts import LAYOUTS
from lavq_core.plots.marks import REFERENCE, SHADE, TWIN
from lavq_core.plots.page import place_rows
from lavq_core.signals.leads import LEADS

RATE, SAMPLES = 100.0, 1000
TOLERANCE = 0.1  # mm
POINTS_PER_MM = 72 / 25.4


class Drawing:
    """An SVG as polylines in mm, y upwards from the page's lower edge."""

    def __init__(self, figure: Figure) -> None:
        self.text = svg_markup(figure)
        self.root = ElementTree.fromstring(self.text)
        self.width, self.height = (float(self.root.attrib[side].removesuffix("mm")) for side in ("width", "height"))

    def lines(self, name: str) -> list[np.ndarray]:
        """Polylines (n, 2) mm of the elements whose classes include ``name``."""
        found: list[np.ndarray] = []
        for element in self.root.iter("path"):
            if name in element.get("class", "").split():
                found += [self._to_mm(line) for line in read_path(element.attrib["d"])]
        return found

    def trace(self, kind: str, lead: str) -> list[np.ndarray]:
        """The polylines of one lead, one for each cell that shows it."""
        return [
            self._to_mm(np.concatenate(read_path(element.attrib["d"])))
            for element in self.root.iter("path")
            if {kind, f"lead-{lead}"} <= set(element.get("class", "").split())
        ]

    def words(self) -> list[str]:
        return [element.text or "" for element in self.root.iter("text")]

    def _to_mm(self, points: np.ndarray) -> np.ndarray:
        return np.column_stack([points[:, 0] / POINTS_PER_MM, self.height - points[:, 1] / POINTS_PER_MM])


def read_path(data: str) -> list[np.ndarray]:
    """Follow the commands M, h, v, l and z."""
    lines: list[list[tuple[float, float]]] = []
    for command, rest in re.findall(r"([Mhvlz])([^Mhvlz]*)", data):
        numbers = [float(number) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", rest)]
        x, y = lines[-1][-1] if lines else (0.0, 0.0)
        if command == "M":
            lines.append([(numbers[0], numbers[1])])
        elif command == "z":
            lines[-1].append(lines[-1][0])
        else:
            step = {"h": (numbers[0], 0.0), "v": (0.0, numbers[0])}[command] if command in "hv" else tuple(numbers)
            lines[-1].append((x + step[0], y + step[1]))
    return [np.array(line) for line in lines]


def silent() -> np.ndarray:
    return np.zeros((12, SAMPLES))


def noisy(seed: int = 0, rate: float = RATE) -> np.ndarray:
    """Twelve restless leads of 10 s: the worst case for a picture's size."""
    rng = np.random.default_rng(seed)
    beat = np.arange(int(10 * rate)) % int(0.8 * rate) / rate
    spikes = 1.2 * np.exp(-(((beat - 0.3) / 0.02) ** 2))
    return rng.uniform(-1, 1, (12, 1)) * spikes + 0.03 * rng.standard_normal((12, int(10 * rate)))


def distance_to_line(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Distance of each point (n, 2) to the nearest place on a polyline (m, 2)."""
    start, step = line[:-1], np.diff(line, axis=0)
    along = ((points[:, None] - start) * step).sum(-1) / np.maximum((step**2).sum(-1), 1e-12)
    nearest = start + np.clip(along, 0, 1)[..., None] * step
    return np.sqrt(((points[:, None] - nearest) ** 2).sum(-1)).min(axis=1)


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


# --- twins -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twin() -> Drawing:
    envelope = np.zeros(SAMPLES)
    envelope[300:340] = 1.0
    gate = np.zeros(125)
    gate[38:42] = [0.5, 1.0, 1.0, 0.5]
    reference = noisy()
    figure = draw_ecg(
        reference + 0.3 * envelope, RATE, reference=reference, envelope=envelope, gate=gate, synthetic=True
    )
    return Drawing(figure)


def test_a_twin_is_marked_twice_and_a_recording_never(twin: Drawing) -> None:
    assert twin.words().count("SYNTHETIC") == 2
    assert "SYNTHETIC" not in svg_markup(draw_ecg(noisy(), RATE))


def test_twin_and_reference_are_both_drawn_and_explained(twin: Drawing) -> None:
    assert twin.trace("twin", "V1")
    assert twin.trace("reference", "V1")
    assert {"digital twin", "reference: recorded ECG", "edited segment"} <= set(twin.words())


def test_the_shade_covers_the_edited_samples_in_every_lead(twin: Drawing) -> None:
    boxes = twin.lines("level-85")
    left = {round(box[:, 0].min(), 1) for box in boxes}
    right = {round(box[:, 0].max(), 1) for box in boxes}
    # Samples 300 to 339, half a sample more on each side; that time is shown by one column of three rows and the strip.
    assert left == {round(15 + 25 * 2.995, 1)}
    assert right == {round(15 + 25 * 3.395, 1)}
    assert len(boxes) == 4


def test_the_gate_is_drawn_as_steps_below_the_last_row(twin: Drawing) -> None:
    [steps] = twin.lines("gate")
    assert np.ptp(steps[:, 1]) == pytest.approx(5, abs=TOLERANCE)
    assert np.ptp(steps[:, 0]) == pytest.approx(250, abs=TOLERANCE)
    assert steps[:, 1].max() < twin.trace("twin", "II")[1][:, 1].min()
    open_steps = steps[steps[:, 1] > steps[:, 1].max() - 0.1, 0]
    assert open_steps.min() == pytest.approx(15 + 2 * 39, abs=TOLERANCE)
    assert open_steps.max() == pytest.approx(15 + 2 * 41, abs=TOLERANCE)


def test_the_colours_can_be_told_apart_without_seeing_colour() -> None:
    def luminance(colour: str) -> float:
        channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot(channels, (0.2126, 0.7152, 0.0722)))

    def contrast(first: str, second: str) -> float:
        low, high = sorted((luminance(first), luminance(second)))
        return (high + 0.05) / (low + 0.05)

    assert contrast(TWIN, REFERENCE) > 1.8
    assert contrast(TWIN, SHADE) > 3
    assert contrast(REFERENCE, SHADE) > 3


@pytest.mark.parametrize(
    "seen",  # linear RGB as dichromats see it: Viénot et al. 1999, Color Research and Application 24:243
    [
        [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
        [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
    ],
    ids=["protanopia", "deuteranopia"],
)
def test_twin_and_reference_stay_apart_for_the_colour_blind(seen: list[list[float]]) -> None:
    def lightness_and_hue(colour: str) -> np.ndarray:
        linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)])
        x, y, z = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ (
            np.array(seen) @ linear
        ).clip(0, 1)
        f = np.cbrt([x / 0.9505, y, z / 1.089])
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])  # CIE 1976 L*a*b*

    colours = [lightness_and_hue(colour) for colour in (TWIN, REFERENCE, SHADE)]
    for i, first in enumerate(colours):
        for second in colours[i + 1 :]:
            assert np.linalg.norm(first - second) > 30  # 2 is just noticeable


def test_the_footer_tells_how_to_read_the_paper_and_what_it_is_not_for(twin: Drawing) -> None:
    words = " ".join(twin.words())
    for note in ("25 mm/s", "10 mm/mV", "100 Hz sampling: bandwidth below 50 Hz", "not a medical device"):
        assert note in words


@pytest.mark.parametrize("words", [1, 8, 16, 40])
def test_a_long_title_ends_before_the_mark(words: int) -> None:
    figure = draw_ecg(noisy(), RATE, reference=noisy(1), title="Record 00123 " * words, synthetic=True)
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = figure.axes[0].texts
    (title,) = [text.get_window_extent(renderer) for text in texts if text.get_text().startswith("Record")]
    (mark,) = [
        text.get_window_extent(renderer)
        for text in texts
        if text.get_text() == "SYNTHETIC" and text.get_gid() != "watermark"
    ]
    assert title.x1 < mark.x0


# --- median beats ----------------------------------------------------------------------------------------------------


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


# --- files -----------------------------------------------------------------------------------------------------------


def test_an_svg_of_a_twin_stays_small() -> None:
    reference, envelope = noisy(), (np.arange(SAMPLES) % 80 < 25).astype(float)
    figure = draw_ecg(reference + 0.2 * envelope, RATE, reference=reference, envelope=envelope, synthetic=True)
    assert len(svg_markup(figure).encode()) < 150_000


def test_the_same_picture_is_written_the_same_and_as_valid_xml(tmp_path: Path) -> None:
    first, second = (save_figure(draw_ecg(noisy(), RATE, title="a < b & $c$"), tmp_path / f"{i}.svg") for i in (1, 2))
    assert first.read_bytes() == second.read_bytes()
    root = ElementTree.parse(first).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "a < b & $c$" in [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_png_has_five_pixels_a_millimetre(tmp_path: Path) -> None:
    figure = draw_ecg(silent(), RATE)
    path = save_figure(figure, tmp_path / "ecg.png")
    height, width = matplotlib.image.imread(path).shape[:2]
    assert (width, height) == tuple(round(side * 127) for side in figure.get_size_inches())
    assert [file.name for file in tmp_path.iterdir()] == ["ecg.png"]


def test_another_format_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.svg or \.png"):
        save_figure(draw_ecg(silent(), RATE), tmp_path / "ecg.gif")
    assert not list(tmp_path.iterdir())


def test_pyplot_and_its_global_state_are_never_loaded() -> None:
    code = "import sys, lavq_core.plots, lavq_core.plots.curves; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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


# --- curves ----------------------------------------------------------------------------------------------------------


def test_convergence_names_every_site_even_odd_ones() -> None:
    curves = {name: [(1.0, 0.6), (2.0, 0.7)] for name in ("site-0", "_hidden", "$money$", "x" * 60)}
    words = Drawing(draw_convergence(curves, "validation macro AUC")).words()
    assert {"site-0", "$money$", "validation macro AUC", "round"} <= set(words)
    assert any(word.strip() == "_hidden" for word in words)
    assert any(word.startswith("xxxx") and word.endswith("…") for word in words)


def test_the_roc_has_logarithmic_axes_and_the_chance_line() -> None:
    drawing = Drawing(draw_roc({"LiRA": ([0.0, 0.01, 1.0], [0.0, 0.05, 1.0])}, 1e-3))
    assert {"chance", "LiRA", "0.1\u00a0%", "1\u00a0%", "10\u00a0%", "100\u00a0%"} <= set(drawing.words())
    [chance] = drawing.lines("chance")
    [curve] = drawing.lines("roc-0")
    decade = np.ptp(chance[:, 0]) / 3
    corner = curve[np.isclose(curve[:, 0], chance[:, 0].min() + decade, atol=0.1)]
    assert np.ptp(corner[:, 1]) == pytest.approx(np.ptp(chance[:, 1]) / 3 * np.log10(50), abs=0.2)


def test_bytes_are_drawn_for_every_site_in_both_directions() -> None:
    words = Drawing(draw_bytes({"a": 2e6, "b": 1e6}, {"a": 1e6, "b": 0.0})).words()
    assert {"a", "b", "received", "sent", "megabytes"} <= set(words)
