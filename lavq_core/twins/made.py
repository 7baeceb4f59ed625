"""Twins of one ECG as they were made: as records, as pictures, and what is said of them.

Files and pictures, which can leave the machine, call the original by a code or by the name that the user chose. The
name of the original's file can be a patient's; it is for the screen of whoever has that file.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from lavq_core.data.labels import SUPERCLASSES
from lavq_core.data.records import Ecg
from lavq_core.data.requests import Request
from lavq_core.models.editor import envelope
from lavq_core.models.twins import Patients, Twins
from lavq_core.signals.leads import LEADS, to_twelve
from lavq_core.twins.wish import Wish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLE = 72  # letters of a picture's title


@dataclass(frozen=True)
class Made:
    """n twins of one patient, and what is said of them."""

    name: str  # of the patient's record: for the screen alone
    called: str  # what files and pictures call it
    wish: Wish
    patient: Patients  # 1 ECG, at the wanted heart rate
    asked: Request
    diseases: list[str]  # of each twin: its statements
    twins: Twins
    gate: Tensor  # (n, tokens) in 0..1, over the whole record
    before: Tensor  # (5,) detector's probabilities of the original, as it gives them
    after: Tensor  # (n, 5) ... and of the twins
    notes: list[str]  # what a reader of the twins should know

    @property
    def shown(self) -> list[int]:
        """Superclasses whose probabilities are shown: those asked for, NORM where a statement belongs to none."""
        return [int(c) for c in self.asked.superclasses.nonzero()[0]] or [0]

    @property
    def reference(self) -> np.ndarray:
        """The original: ``(12, T)`` mV."""
        return to_twelve(self.patient.signal[0].numpy())

    def stem(self, i: int) -> str:
        """Name of twin ``i``'s files, one that WFDB takes."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", f"{self.called}_{self.asked.name}_{i + 1:02d}")

    def record(self, i: int) -> Ecg:
        """Twin ``i`` as a record, whose notes say that it is one; ``write_ecg`` writes them into the file."""
        notes = (
            f"SYNTHETIC: digital twin of {self.called} with {self.diseases[i]}, strength {self.wish.strength:g}, "
            f"seed {self.wish.seed}",
            *self.wish.conditions,
            "research use, not a medical device",
        )
        twin = to_twelve(self.twins.signal[i].numpy())
        return Ecg(self.stem(i), twin, float(self.patient.sampling_rate), np.ones(len(LEADS), dtype=bool), notes)

    def draw(self, i: int, layout: str = "3x4+II", title: str = "") -> Figure:
        """Draw twin ``i`` over its original, edited segments shaded, the gate below.

        Without a title of the caller's it tells what the detector reads, uncalibrated.
        """
        from lavq_core.plots import draw_ecg

        return draw_ecg(
            to_twelve(self.twins.signal[i].numpy()),
            self.patient.sampling_rate,
            layout=layout,
            reference=self.reference,
            envelope=self.twins.envelope[i].numpy(),
            gate=self.gate[i].numpy(),
            title=title or self._title(i),
            synthetic=True,
        )

    def draw_beats(self, i: int) -> Figure:
        """Draw the median beat of twin ``i`` over the original's, twelve leads side by side."""
        from lavq_core.plots import draw_median_beats

        valid = self.patient.beats.valid[0]  # (W,)
        beat, original = (to_twelve(x.numpy()) for x in (self.twins.median[i], self.patient.input.x[0]))
        gate = self.twins.gate[i]
        return draw_median_beats(
            np.where(valid, beat, np.nan),
            self.patient.sampling_rate,
            reference=np.where(valid, original, np.nan),
            envelope=envelope(gate[None], len(valid) // len(gate))[0].numpy() * valid,
            gate=gate.numpy(),
            title=f"Median beat: {self.called} with {self.diseases[i]}",
            synthetic=True,
        )

    def _title(self, i: int) -> str:
        """Say what the picture shows, with the detector's readings as long as they fit on the line."""
        title = f"{self.called} with {self.diseases[i]}"
        if self.wish.rate != 1.0:
            title += f", heart rate times {self.wish.rate:g}"
        reads = ", ".join(f"{SUPERCLASSES[c]} {self.before[c]:.2f} to {self.after[i, c]:.2f}" for c in self.shown)
        whole = f"{title}   \u00b7   detector: {reads}"
        return whole if len(whole) <= _TITLE else title


def code_of(ecg: Ecg) -> str:
    """Name an ECG by its samples: eight digits that the same samples always give, and nothing of the file's name.

    Whoever holds the original can make the code too, and could know it from a twin anyway: outside the edited segments
    both are the same.
    """
    return f"ecg-{hashlib.blake2b(ecg.signal.tobytes(), digest_size=4).hexdigest()}"
