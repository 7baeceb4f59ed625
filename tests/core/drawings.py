"""ECG paper read back from its SVG in millimetres, and signals to draw on it, for tests."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
from matplotlib.figure import Figure

from lavq_core.plots import svg_markup

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
