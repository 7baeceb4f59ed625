"""What the studio's page asks: which ECGs and diseases there are, and one twin at a time.

The server keeps nothing between two questions but the run's networks. The page sends an uploaded ECG again with every
question; the same question gives the same twin, so a download is the question asked once more.
"""

from __future__ import annotations

import io
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.responses import Response

from client.studio.library import Library
from client.studio.uploads import MOST_BYTES, options_of, unpacked
from lavq_core.data.labels import SUPERCLASSES, public_statements, superclass_of
from lavq_core.data.requests import NORM, statement_names
from lavq_core.errors import ConfigError, DataError
from lavq_core.formats.writing import write_ecg
from lavq_core.models.calibration import Calibration, basis_of
from lavq_core.models.prior import available_diseases
from lavq_core.plots import svg_markup
from lavq_core.plots.files import save_svg
from lavq_core.plots.layouts import LAYOUTS
from lavq_core.report.gallery import DISEASES
from lavq_core.twins.made import Made
from lavq_core.twins.maker import TwinMaker, unseen_statements
from lavq_core.twins.wish import Wish
from lavq_core.web.local_page import local_app, numbers

_PAGE = Path(__file__).parent / "page"
_OF_FORM = "shape of the beat"  # statements of no superclass
_UPLOAD = "upload"
_LINE = " The line across the bars is that threshold."


@dataclass(frozen=True)
class Studio:
    """A run's networks, its calibration where it has one, and the ECGs that can be chosen, by source."""

    run: str
    maker: TwinMaker
    calibration: Calibration | None
    libraries: Mapping[str, Library]
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)  # matplotlib's settings are global

    def app(self, token: str) -> Starlette:
        """Build the application of the page."""
        sent = 2 * MOST_BYTES  # base64, and the rest of the question
        answers = {"about": (self.about, 1_000), "twin": (self.twin, sent), "files": (self.files, sent)}
        return local_app(_PAGE, answers, token)

    def about(self, _: dict[str, Any]) -> dict[str, Any]:
        """Say what can be asked."""
        return {
            "run": self.run,
            "sampling_rate": self.maker.model.config.data.sampling_rate,
            "networks_of": self.maker.networks_of,
            "basis": basis_of(self.calibration) + (_LINE if self.calibration else ""),
            "diseases": _diseases(self.maker),
            "layouts": [name for name in LAYOUTS if name != "3x4"],
            "sources": {source: library.listing() for source, library in self.libraries.items()},
            "most_bytes": MOST_BYTES,
        }

    def twin(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Make a twin: its pictures, and what the detector reads before and after."""
        layout = _layout(asked)
        with self._one_at_a_time:
            made = self._make(asked)
            paper, beats = _paper(made, layout), svg_markup(made.draw_beats(0))
        return {
            "name": made.name,
            "called": made.called,
            "disease": made.diseases[0],
            "words": _words(made.diseases[0]),
            "stem": made.stem(0),
            "paper": paper,
            "beats": beats,
            "readings": self._readings(made),
            "notes": made.notes,
        }

    def files(self, asked: dict[str, Any]) -> Response:
        """Make the same twin, as a DICOM file, or as a zip of its WFDB record and its picture."""
        layout, kind = _layout(asked), _one_of("format", ("wfdb", "dicom"), asked)
        with self._one_at_a_time, tempfile.TemporaryDirectory(prefix="lavq-studio-") as name:
            made, folder = self._make(asked), Path(name)
            if kind == "dicom":
                content = write_ecg(folder / "twin.dcm", made.record(0)).read_bytes()
                return Response(content, media_type="application/dicom")
            write_ecg(folder / f"{made.stem(0)}.hea", made.record(0))
            save_svg(_paper(made, layout), folder / f"{made.stem(0)}.svg")
            whole = io.BytesIO()
            with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(folder.iterdir()):
                    archive.write(file, file.name)
        return Response(whole.getvalue(), media_type="application/zip")

    def _make(self, asked: dict[str, Any]) -> Made:
        given = numbers(("strength", "age", "seed"), asked)
        wish = Wish(
            str(asked.get("disease", "")),
            strength=given.get("strength", 1.0),
            age=given.get("age", float("nan")),
            sex=str(asked.get("sex", "unknown")),
            seed=int(given.get("seed", 0)),
        )
        with self._chosen(asked) as path:
            ecg = self.maker.read(path, options_of(asked))
        return self.maker.make(ecg, wish)

    @contextmanager
    def _chosen(self, asked: dict[str, Any]) -> Iterator[Path]:
        source = asked.get("source")
        if source == _UPLOAD:
            with unpacked(asked.get("files")) as path:
                yield path
        elif isinstance(source, str) and source in self.libraries:
            yield self.libraries[source].path(asked.get("record"))
        else:
            raise DataError("choose an ECG")

    def _readings(self, made: Made) -> list[dict[str, Any]]:
        """One row a class: calibrated probabilities and its threshold where there is one."""
        raw = np.stack([made.before.numpy(), made.after[0].numpy()])
        before, after = raw if self.calibration is None else self.calibration.apply(raw)
        thresholds = (None,) * len(SUPERCLASSES) if self.calibration is None else self.calibration.thresholds
        return [
            {
                "class": name,
                "name": DISEASES[name],
                "before": float(before[c]),
                "after": float(after[c]),
                "threshold": thresholds[c],
                "asked": c in made.shown,
            }
            for c, name in enumerate(SUPERCLASSES)
        ]


def _layout(asked: dict[str, Any]) -> str:
    return _one_of("layout", tuple(LAYOUTS), asked, "3x4+II")


def _one_of(name: str, choices: tuple[str, ...], asked: dict[str, Any], default: str = "") -> str:
    chosen = asked.get(name, default or choices[0])
    if chosen not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}")
    return str(chosen)


def _paper(made: Made, layout: str) -> str:
    """Draw the page's picture, which can be saved; the readings stand beside it, calibrated."""
    return svg_markup(made.draw(0, layout, f"{made.called} with {made.diseases[0]}"))


def _words(disease: str) -> str:
    """Say in words what a twin shows; ``disease`` is its statements, or what was asked for where there are none."""
    names = statement_names(public_statements())
    return ", ".join(names.get(code, "no change" if code == NORM else "") for code in disease.split("+"))


def _diseases(maker: TwinMaker) -> list[dict[str, Any]]:
    """Groups of requests, with those that the federation has seen no record of marked."""
    table, seen = public_statements(), {SUPERCLASSES[int(c)] for c in available_diseases(maker.seen)}
    classes, unseen = superclass_of(table), unseen_statements(maker.seen)
    groups: dict[str, list[dict[str, Any]]] = {"superclass": []}
    for name in (*SUPERCLASSES[1:], NORM):
        if name in seen or name == NORM:
            words = "no change" if name == NORM else DISEASES[name]
            groups["superclass"].append({"code": name, "name": words, "seen": True})
    for code, words in statement_names(table).items():
        group = DISEASES[classes[code]] if code in classes else _OF_FORM
        groups.setdefault(group, []).append({"code": code, "name": words, "seen": code not in unseen})
    return [{"group": group, "requests": requests} for group, requests in groups.items()]
