"""DICOM waveforms (PS3.3 A.34 and C.10.9), read: 12-lead, general and ambulatory ECG.

Leads are found by their code (PS3.16 CID 3001, in the MDC and the SCP-ECG numbering), else by its meaning. Nothing
about the patient is read.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pydicom.waveforms import multiplex_array

from lavq_core.data.stored import Stored
from lavq_core.errors import DataError
from lavq_core.signals.leads import LEADS, canonical_lead, known_leads

NUMBERS = dict(zip(("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"), range(1, 9), strict=True)) | dict(
    zip(("III", "aVR", "aVL", "aVF", "-aVR"), range(61, 66), strict=True)
)
"""Lead numbers of SCP-ECG, which MDC codes as ``2:NUMBER`` and SCPECG as ``5.6.3-9-NUMBER``."""

SYNTHETIC = "SYNTHETIC"
_BY_CODE = {f"{prefix}{number}": lead for lead, number in NUMBERS.items() for prefix in ("2:", "5.6.3-9-")}


def read_dicom(path: Path) -> Stored:
    """Read the ECG of a DICOM file: of several groups of channels the one with the most leads, then the longest.

    Raises:
        DataError: it is damaged, compressed as a whole, or holds no waveform.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of values that we do not read
            meta = pydicom.filereader.read_file_meta_info(path)
            if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                raise DataError(f"{path} is compressed (deflated DICOM): export it uncompressed")
            dataset = pydicom.dcmread(path)
            groups = dataset.get("WaveformSequence") or []
            if not groups:
                raise DataError(f"{path} is DICOM without a waveform ({_what(dataset)}): export the ECG as a waveform")
            found = [_group(dataset, index) for index in range(len(groups))]
    except DataError:
        raise
    except Exception as error:  # pydicom raises whatever a damaged element leads to
        reason = (str(error).strip().splitlines() or [""])[0][:80]
        raise DataError(f"{path} is truncated or corrupt ({type(error).__name__}: {reason}): export it again") from None
    return max(found, key=_worth)


def _group(dataset: Dataset, index: int) -> Stored:
    """Read one group of channels that were sampled together."""
    group = dataset.WaveformSequence[index]
    raw = multiplex_array(dataset, index, as_raw=True).astype(np.float64)  # (T, channels)
    if "WaveformPaddingValue" in group:
        raw[raw == _padding(group)] = np.nan
    names, units = [], []
    for channel, definition in enumerate(group.ChannelDefinitionSequence):
        names.append(_lead(definition))
        units.append(_unit(definition))
        step = float(definition.get("ChannelSensitivity", 1)) * float(
            definition.get("ChannelSensitivityCorrectionFactor", 1)
        )
        raw[:, channel] = raw[:, channel] * step + float(definition.get("ChannelBaseline", 0))
    said = f"{dataset.get('SyntheticData', '')} {dataset.get('SeriesDescription', '')}"
    synthetic = said.startswith("YES") or SYNTHETIC in said
    return Stored(
        names=names,
        units=units,
        sampling_rate=float(group.SamplingFrequency),
        physical=raw.T,
        notes=(f"{SYNTHETIC}: the file says that it is no recording",) if synthetic else (),
    )


def _lead(definition: Dataset) -> str:
    """Name a channel by code, else by the code's meaning, else by its label."""
    source = definition.ChannelSourceSequence[0]
    by_code = _BY_CODE.get(str(source.get("CodeValue", "")).strip())
    if by_code:
        return by_code
    meaning = str(source.get("CodeMeaning", ""))
    return canonical_lead(meaning) or str(definition.get("ChannelLabel", "")) or meaning


def _unit(definition: Dataset) -> str:
    """Unit of a channel's samples; empty where none is given, and then they are in no unit at all."""
    units = definition.get("ChannelSensitivityUnitsSequence") or []
    return str(units[0].get("CodeValue", "")) if units else ""


def _padding(group: Dataset) -> int:
    """Value that marks a missing sample; it is stored with the samples' own width."""
    value = group.WaveformPaddingValue
    if isinstance(value, bytes):
        return int.from_bytes(value[: int(group.WaveformBitsAllocated) // 8], "little", signed=True)
    return int(value)


def _worth(stored: Stored) -> tuple[int, float]:
    leads = {canonical_lead(name) for name in stored.names}
    present = np.array([lead in leads for lead in LEADS])
    return int(known_leads(present).sum()), stored.physical.shape[1] / max(stored.sampling_rate, 1e-9)


def _what(dataset: Dataset) -> str:
    """Say what a file without waveforms is."""
    uid = dataset.get("SOPClassUID")
    return uid.name if uid is not None else "no SOP class"
