"""ECG files as other people's software writes them, for tests; written without the readers under test."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

PATIENT = "Mustermann", "Erika", "19570312", "PID-4711"  # must never come out of any file that we write
EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
SCP_NUMBERS = {"I": 1, "II": 2, "V1": 3, "V2": 4, "V3": 5, "V4": 6, "V5": 7, "V6": 8}
SCP_NUMBERS |= {"III": 61, "aVR": 62, "aVL": 63, "aVF": 64}


DOCTYPE = '<!DOCTYPE RestingECG SYSTEM "restecg.dtd">'  # as MUSE writes it


def write_muse(
    path: Path, millivolts: np.ndarray, leads: tuple[str, ...], rate: int = 500, head: str = DOCTYPE
) -> Path:
    """GE MUSE XML with a median beat before its rhythm, 4.88 uV a step."""
    digital = np.round(millivolts * 1000 / 4.88).astype("<i2")

    def waveform(kind: str, rows: np.ndarray) -> str:
        data = "".join(
            f"<LeadData><LeadByteCountTotal>{2 * len(row)}</LeadByteCountTotal>"
            f"<LeadSampleCountTotal>{len(row)}</LeadSampleCountTotal>"
            "<LeadAmplitudeUnitsPerBit>4.88</LeadAmplitudeUnitsPerBit>"
            "<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits><LeadSampleSize>2</LeadSampleSize>"
            f"<LeadID>{lead}</LeadID><WaveFormData>\n{base64.encodebytes(row.tobytes()).decode()}</WaveFormData></LeadData>"
            for lead, row in zip(leads, rows, strict=True)
        )
        return (
            f"<Waveform><WaveformType>{kind}</WaveformType><SampleBase>{rate}</SampleBase>"
            f"<SampleExponent>0</SampleExponent>{data}</Waveform>"
        )

    path.write_text(
        f'<?xml version="1.0" encoding="ISO-8859-1"?>\n{head}\n'
        f"<RestingECG><PatientDemographics><PatientID>{PATIENT[3]}</PatientID>"
        f"<PatientLastName>{PATIENT[0]}</PatientLastName></PatientDemographics>"
        f"{waveform('Median', digital[:, :600])}{waveform('Rhythm', digital)}</RestingECG>",
        encoding="latin-1",
    )
    return path


def write_edf(
    path: Path, millivolts: np.ndarray, leads: tuple[str, ...], rate: int = 500, annotations: bool = False
) -> Path:
    """EDF with blocks of 1 s in uV; EDF+ with an annotation signal of its own rate."""
    labels = [f"ECG {lead}" for lead in leads] + ["EDF Annotations"] * annotations
    count, blocks = len(labels), millivolts.shape[1] // rate
    samples = [rate] * len(leads) + [60] * annotations

    def fields(values: list[str], width: int) -> str:
        return "".join(value.ljust(width) for value in values)

    head = (
        "0".ljust(8) + f"{PATIENT[3]} F 12-MAR-1957 {PATIENT[0]}".ljust(80) + "Startdate X X X X".ljust(80)
        + "01.01.0100.00.00" + str(256 * (count + 1)).ljust(8) + ("EDF+C" if annotations else "").ljust(44)
        + str(blocks).ljust(8) + "1".ljust(8) + str(count).ljust(4)
        + fields(labels, 16) + fields([""] * count, 80) + fields(["uV"] * len(leads) + [""] * annotations, 8)
        + fields(["-5000"] * count, 8) + fields(["5000"] * count, 8)
        + fields(["-32768"] * count, 8) + fields(["32767"] * count, 8)
        + fields([""] * count, 80) + fields([str(n) for n in samples], 8) + fields([""] * count, 32)
    )  # fmt: skip
    digital = np.round((millivolts * 1000 + 5000) / 10000 * 65535 - 32768).astype("<i2")
    body = b""
    for block in range(blocks):
        body += digital[:, block * rate : (block + 1) * rate].tobytes()
        body += (f"+{block}\x14\x14\x00".encode().ljust(120, b"\x00")) * annotations
    path.write_bytes(head.encode("latin-1") + body)
    return path


def write_vendor_dicom(path: Path, millivolts: np.ndarray, leads: tuple[str, ...], rate: int = 500) -> Path:
    """A 12-lead ECG as recorders export it: 2.5 uV a step, SCP-ECG codes, a median beat as second group, and a name."""
    dataset = Dataset()
    dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.9.1.1")
    dataset.SOPInstanceUID = UID("1.2.3.4")
    dataset.Modality = "ECG"
    dataset.PatientName, dataset.PatientBirthDate, dataset.PatientID = f"{PATIENT[0]}^{PATIENT[1]}", *PATIENT[2:]
    dataset.WaveformSequence = [_group(millivolts[:, :400], leads, rate), _group(millivolts, leads, rate)]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = (
        dataset.SOPClassUID,
        dataset.SOPInstanceUID,
    )
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def _group(millivolts: np.ndarray, leads: tuple[str, ...], rate: int) -> Dataset:
    group = Dataset()
    group.WaveformOriginality, group.SamplingFrequency = "ORIGINAL", rate
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = millivolts.shape
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    group.WaveformData = np.round(millivolts.T * 1000 / 2.5).astype("<i2").tobytes()
    group["WaveformData"].VR = "OW"
    group.ChannelDefinitionSequence = []
    for lead in leads:
        source, unit, channel = Dataset(), Dataset(), Dataset()
        source.CodeValue, source.CodingSchemeDesignator = f"5.6.3-9-{SCP_NUMBERS[lead]}", "SCPECG"
        source.CodeMeaning = "as coded"
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "uV", "UCUM", "microvolt"
        channel.ChannelSourceSequence, channel.ChannelSensitivityUnitsSequence = [source], [unit]
        channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = (
            "2.5",
            "1",
            "0",
        )
        channel.WaveformBitsStored = 16
        group.ChannelDefinitionSequence.append(channel)
    return group
