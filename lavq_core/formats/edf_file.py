"""EDF and continuous EDF+ (Kemp et al. 1992, Kemp and Olivan 2003): a header in ASCII, then blocks of 16-bit samples.

Read here, not through wfdb's converter: that one averages wrongly where signals of one file have different rates, as
every EDF+ file with annotations has, and its zero is one step off. Name and birth date in the header are not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lavq_core.data.stored import Stored
from lavq_core.errors import DataError
from lavq_core.signals.leads import canonical_lead

_FIXED = 256  # bytes of the header before and for each signal
_ANNOTATIONS = "EDF Annotations"
# Fields of a signal and their widths, each stored for all signals in turn.
_FIELDS = {
    "label": 16, "transducer": 80, "unit": 8, "low": 8, "high": 8, "digital_low": 8, "digital_high": 8,
    "prefilter": 80, "samples": 8, "reserved": 32,
}  # fmt: skip


@dataclass(frozen=True)
class _Header:
    signals: list[dict[str, str]]
    blocks: int  # -1: as many as there are
    seconds: float  # of a block
    size: int  # bytes of the header


def read_edf(path: Path) -> Stored:
    """Read the leads of an EDF file; annotations and what is no lead are left out.

    Raises:
        DataError: it is damaged, has gaps (EDF+D), no lead, or leads of different rates.
    """
    content = path.read_bytes()
    try:
        header = _header(content)
        samples = [int(signal["samples"]) for signal in header.signals]
        blocks = _blocks(content, header, samples)  # (blocks, samples of all signals)
        leads = [i for i, signal in enumerate(header.signals) if canonical_lead(signal["label"].lstrip("-"))]
        starts = np.cumsum([0, *samples])
        rates = {samples[i] for i in leads}
        rows = [_physical(blocks[:, starts[i] : starts[i + 1]], header.signals[i]) for i in leads]
    except (ValueError, IndexError, ZeroDivisionError, OverflowError, MemoryError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:80]
        raise DataError(f"{path} is truncated or corrupt ({reason}): export it again") from None
    if not leads:
        names = ", ".join(signal["label"] for signal in header.signals if signal["label"] != _ANNOTATIONS)
        raise DataError(f"{path} has no ECG lead (it has {names[:200]}): give a 12-lead recording")
    if len(rates) > 1:
        raise DataError(f"{path} has leads of different rates: export all leads at one rate")
    return Stored(
        names=[header.signals[i]["label"] for i in leads],
        units=[header.signals[i]["unit"] or "mV" for i in leads],
        sampling_rate=rates.pop() / header.seconds,
        physical=np.stack(rows),
        notes=_notes(header, leads),
    )


def _header(content: bytes) -> _Header:
    """Parse the header.

    Raises:
        ValueError: a field is no number, or the header is cut short.
    """
    fixed = content[:_FIXED].decode("latin-1")
    if fixed[192:197] == "EDF+D":
        raise ValueError("EDF+D: it has gaps")
    count = int(fixed[252:256])
    if not 0 < count <= 512 or len(content) < _FIXED * (count + 1):
        raise ValueError("its header is cut short")
    signals: list[dict[str, str]] = [{} for _ in range(count)]
    place = _FIXED
    for name, width in _FIELDS.items():
        for signal in signals:
            signal[name] = content[place : place + width].decode("latin-1").strip()
            place += width
    seconds = float(fixed[244:252])
    if not 0.0 < seconds < 1e6:
        raise ValueError("a block has no duration")
    return _Header(signals, int(fixed[236:244]), seconds, place)


def _blocks(content: bytes, header: _Header, samples: list[int]) -> np.ndarray:
    width = sum(samples)
    if min(samples) < 0 or width == 0:
        raise ValueError("a block has no samples")
    there = (len(content) - header.size) // (2 * width)
    count = there if header.blocks < 0 else header.blocks
    if count > there or count == 0:
        raise ValueError(f"{count} blocks declared, {there} there")
    return np.frombuffer(content, dtype="<i2", count=count * width, offset=header.size).reshape(count, width)


def _physical(digital: np.ndarray, signal: dict[str, str]) -> np.ndarray:
    """Scale one signal's blocks: (T,) in its own unit."""
    low, high = float(signal["low"]), float(signal["high"])
    digital_low, digital_high = int(signal["digital_low"]), int(signal["digital_high"])
    gain = (high - low) / (digital_high - digital_low)  # unit per step
    return (digital.reshape(-1).astype(np.float64) - digital_low) * gain + low


def _notes(header: _Header, leads: list[int]) -> tuple[str, ...]:
    others = [s for i, s in enumerate(header.signals) if i not in leads and s["label"] != _ANNOTATIONS]
    return (f"{len(others)} of {len(header.signals)} signals left out: no ECG leads",) if others else ()
