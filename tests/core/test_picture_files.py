"""Pictures as files: small, the same each time, and without pyplot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest

from lavq_core.errors import ConfigError
from lavq_core.plots import draw_ecg, save_figure, svg_markup
from tests.core.drawings import RATE, SAMPLES, noisy, silent


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
