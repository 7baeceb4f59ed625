"""GE MUSE XML: ``RestingECG``, the 10 s rhythm as base64 of 16-bit integers.

Parsed with defusedxml: a file that declares entities is refused before one is expanded. Name, birth date and everything
else about the patient are not read.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from lavq_core.data.stored import Stored
from lavq_core.errors import DataError

_LARGEST = 10_000_000  # bytes; a tree takes a hundred times its text, and ten seconds have .2 MB
_UNITS = {"microvolts": "uV", "millivolts": "mV"}


def read_muse(path: Path) -> Stored:
    """Read the rhythm of a MUSE XML file.

    Raises:
        DataError: it is no well-formed XML, declares entities, is of another vendor, or its rhythm is missing or
            damaged.
    """
    root = _parse(path)
    name = _bare(root)
    if name != "RestingECG":
        raise DataError(f"{path} is XML of {name[:40]!r}, not of GE MUSE: export it as MUSE XML or DICOM")
    rhythm = next((w for w in _children(root, "Waveform") if _text(w, "WaveformType").casefold() == "rhythm"), None)
    leads = [] if rhythm is None else _children(rhythm, "LeadData")
    if rhythm is None or not leads:
        raise DataError(f"{path} holds no rhythm (median beats at most): export it with its 10 s of all leads")
    try:
        rate = float(_text(rhythm, "SampleBase")) * 10.0 ** float(_text(rhythm, "SampleExponent") or 0)
        rows = [_samples(lead) for lead in leads]
        physical = np.stack(rows)  # (leads, T); ValueError where lengths differ
    except (ValueError, OverflowError, binascii.Error) as error:
        raise DataError(f"{path} is damaged ({_reason(error)}): export it again") from None
    units = [_text(lead, "LeadAmplitudeUnits") for lead in leads]
    return Stored(
        names=[_text(lead, "LeadID") for lead in leads],
        units=[_UNITS.get(unit.casefold(), unit) for unit in units],
        sampling_rate=rate,
        physical=physical,
    )


def _parse(path: Path) -> Element:
    content = path.read_bytes()
    if len(content) > _LARGEST:
        raise DataError(f"{path} has {len(content) / 1e6:.0f} MB, which no MUSE ECG has: export one ECG a file")
    try:
        return fromstring(content)
    except DefusedXmlException:
        raise DataError(f"{path} declares XML entities, which no ECG needs: refused") from None
    except (ParseError, ValueError, LookupError) as error:  # ValueError, LookupError: an encoding that is none
        raise DataError(f"{path} is no well-formed XML ({_reason(error)}): export it again") from None


def _samples(lead: Element) -> np.ndarray:
    """Decode one lead: (T,) in its own unit."""
    content = base64.b64decode("".join(_text(lead, "WaveFormData").split()), validate=True)
    if int(_text(lead, "LeadSampleSize") or 2) != 2:
        raise ValueError("samples are not of 16 bits")
    digital = np.frombuffer(content, dtype="<i2")
    count = _text(lead, "LeadSampleCountTotal")
    if count and int(count) != len(digital):
        raise ValueError(f"a lead has {len(digital)} samples where it says {int(count)}")
    return digital * float(_text(lead, "LeadAmplitudeUnitsPerBit"))


def _children(element: Element, name: str) -> list[Element]:
    return [child for child in element if _bare(child) == name]


def _text(element: Element, name: str) -> str:
    """Text of the first child of that name, empty where there is none."""
    return next(((child.text or "").strip() for child in _children(element, name)), "")


def _bare(element: Element) -> str:
    """Name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:80]
