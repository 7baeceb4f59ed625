"""A twin over its reference: marked, explained, and told apart without seeing colour."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from lavq_core.plots import draw_ecg, svg_markup
from lavq_core.plots.marks import REFERENCE, SHADE, TWIN
from tests.core.drawings import RATE, SAMPLES, TOLERANCE, Drawing, noisy


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
