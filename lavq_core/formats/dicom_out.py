"""DICOM waveforms, written: one ECG, 16 bits at 1 uV a step, and nothing about a patient.

The standard allows 12-lead ECGs from 200 Hz on; below that the same content is an ambulatory ECG, from 50 Hz on (PS3.3
A.34.3 and A.34.5). Identifiers are made of the content, so the same ECG gives the same file. Dates that the standard
demands are a fixed one, as in PS3.15 for attributes that cannot be empty.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    AmbulatoryECGWaveformStorage,
    ExplicitVRLittleEndian,
    TwelveLeadECGWaveformStorage,
)

from lavq_core.data.records import Ecg, digitise
from lavq_core.errors import DataError
from lavq_core.formats.dicom_file import NUMBERS, SYNTHETIC
from lavq_core.runs.layout import write_atomic
from lavq_core.signals.leads import LEADS

_LOWEST_12_LEAD = 200.0  # Hz
_DAY, _TIME = "19000101", "000000"
_MISSING = np.iinfo(np.int16).min
_NOTE = 1024  # letters of a note


def write_dicom(path: Path, ecg: Ecg) -> Path:
    """Write one ECG, the whole file or none.

    ``notes`` of the ECG become annotations; one that begins with SYNTHETIC marks the file as synthetic data and its
    series by its description.

    Returns:
        The path.

    Raises:
        DataError: amplitudes beyond 32 mV, or a folder that cannot be written.
    """
    digital = digitise(ecg)  # (12, T) int16
    synthetic = any(note.startswith(SYNTHETIC) for note in ecg.notes)
    dataset = _about(digital, ecg.sampling_rate, synthetic, ecg.notes)
    dataset.WaveformSequence = Sequence([_group(digital, ecg.sampling_rate)])
    if ecg.notes:
        dataset.WaveformAnnotationSequence = Sequence(_annotation(note) for note in ecg.notes)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    try:
        write_atomic(path, content.getvalue())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"cannot write {path} ({reason}): choose another folder") from None
    return path


def _about(digital: np.ndarray, rate: float, synthetic: bool, notes: tuple[str, ...]) -> Dataset:
    """Everything but the waveform: identifiers, and that no patient is named."""
    digest = hashlib.sha256(digital.tobytes() + f"{rate} {notes}".encode()).digest()
    study, series, instance = (_uid(digest, part) for part in ("study", "series", "instance"))
    about = Dataset()
    about.SOPClassUID = TwelveLeadECGWaveformStorage if rate >= _LOWEST_12_LEAD else AmbulatoryECGWaveformStorage
    about.SOPInstanceUID, about.StudyInstanceUID, about.SeriesInstanceUID = instance, study, series
    about.SpecificCharacterSet = "ISO_IR 192"  # UTF-8
    about.PatientName = about.PatientID = about.PatientBirthDate = about.PatientSex = ""
    about.PatientIdentityRemoved = "YES"
    about.DeidentificationMethod = "LAVQ: signal, leads and sampling rate only"
    about.StudyDate = about.StudyTime = about.ReferringPhysicianName = about.StudyID = about.AccessionNumber = ""
    about.ContentDate, about.ContentTime, about.AcquisitionDateTime = _DAY, _TIME, f"{_DAY}{_TIME}"
    about.Modality, about.Manufacturer, about.SeriesNumber, about.InstanceNumber = "ECG", "LAVQ", 1, 1
    about.AcquisitionContextSequence = Sequence()
    about.SyntheticData = "YES" if synthetic else "NO"
    about.SeriesDescription = f"{SYNTHETIC} digital twin, research use" if synthetic else "ECG, research use"
    return about


def _group(digital: np.ndarray, rate: float) -> Dataset:
    """Twelve channels sampled together."""
    group = Dataset()
    group.MultiplexGroupTimeOffset = 0
    group.WaveformOriginality = "DERIVED"  # of the recorded samples, by filtering or by an editor
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = digital.shape
    group.SamplingFrequency = f"{rate:.10g}"
    group.ChannelDefinitionSequence = Sequence(_channel(lead) for lead in LEADS)
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    group.WaveformPaddingValue = _MISSING.to_bytes(2, "little", signed=True)
    group["WaveformPaddingValue"].VR = "OW"
    group.WaveformData = digital.T.astype("<i2").tobytes()
    group["WaveformData"].VR = "OW"
    return group


def _channel(lead: str) -> Dataset:
    channel = Dataset()
    channel.ChannelLabel = lead
    channel.ChannelSourceSequence = Sequence([_code(f"2:{NUMBERS[lead]}", "MDC", f"Lead {lead}")])
    channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor = "1", "1"
    channel.ChannelSensitivityUnitsSequence = Sequence([_code("uV", "UCUM", "microvolt")])
    channel.ChannelBaseline, channel.ChannelSampleSkew = "0", "0"
    channel.WaveformBitsStored = 16
    return channel


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _annotation(note: str) -> Dataset:
    annotation = Dataset()
    annotation.AnnotationGroupNumber = 1
    annotation.ReferencedWaveformChannels = [1, 0]  # the whole first group
    annotation.UnformattedTextValue = note[:_NOTE]
    return annotation


def _uid(digest: bytes, part: str) -> UID:
    """Derive a UID from the content (2.25 and 128 bits, PS3.5 B.2)."""
    return UID(f"2.25.{int.from_bytes(hashlib.sha256(digest + part.encode()).digest()[:16], 'big')}")
