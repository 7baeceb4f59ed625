"""A file that is no usable ECG gets one line that says what to do, whatever is wrong with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavq_core.data.records import Ecg, read_record, write_record
from lavq_core.errors import DataError
from lavq_core.formats.kinds import LARGEST
from lavq_core.formats.options import ReadOptions
from lavq_core.formats.reading import read_usable
from lavq_core.formats.writing import write_ecg
from lavq_core.signals.leads import LEADS
from tests.ecg_files import DOCTYPE, write_edf, write_muse, write_vendor_dicom

RECORD = Path(__file__).resolve().parents[2] / "simulations/sample/records100/00000/00059_lr"
TOLD = ReadOptions(500, "mV", LEADS)
BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "{}"><!ENTITY c "{}">]>'.format("&a;" * 1000, "&b;" * 1000)


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    """(12, 5000) mV of a real ECG at 500 Hz, by holding each sample."""
    return np.repeat(read_record(RECORD).signal, 5, axis=1)


def refused(path: Path, match: str, options: ReadOptions = TOLD) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read_usable(path, 100, options)
    assert "\n" not in str(caught.value)


def text(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


def data(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


@pytest.mark.parametrize(
    ("written", "match"),
    [
        (data("x.dcm", b"%PDF-1.7\n" + bytes(500)), "is a PDF document, not an ECG"),
        (data("x.xml", b"PK\x03\x04" + bytes(500)), "is a ZIP archive"),
        (data("x", b"\x89PNG\r\n" + bytes(500)), "is a picture"),
        (data("x.bdf", b"\xffBIOSEMI" + bytes(500)), "is a BDF file"),
        (data("x.dcm", b""), "is empty"),
        (data("x.dcm", bytes(1000)), "holds no ECG that lavq reads"),
        (data("x.dcm", bytes(128) + b"DICM" + bytes(1000)), "truncated or corrupt|without a waveform"),
        (text("x.hl7", "MSH|^~"), "holds no ECG that lavq reads: give WFDB, DICOM"),
        (text("x.xml", "<a><b></a>"), "no well-formed XML"),
        (text("x.xml", "<AnnotatedECG xmlns='urn:hl7-org:v3'/>"), "is XML of 'AnnotatedECG', not of GE MUSE"),
        (text("x.xml", "<RestingECG/>"), "holds no rhythm"),
        (text("x.xml", f"{BOMB}<RestingECG>&c;</RestingECG>"), "declares XML entities"),
        (text("x.xml", '<!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">]><r>&e;</r>'), "declares XML entities"),
        (text("x.csv", "\n\n"), "is empty"),
        (text("x.csv", "I,II\n1,2\n3,x\n"), "is no table of numbers"),
        (text("x.csv", "1,2,3\n4,5,6\n"), "holds 2 x 3 numbers, which are not 12 leads"),
        (data("x.csv", b"I,II\n\xff\xfe"), "is not text"),
        (data("x.npy", b"\x93NUMPY\x01\x00 nothing"), "is no array of numbers"),
        (data("x.edf", b"0".ljust(8) + bytes(300)), "truncated or corrupt"),
    ],
)
def test_what_is_no_ecg_is_named(tmp_path: Path, written: Callable[[Path], Path], match: str) -> None:
    refused(written(tmp_path), match)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    refused(tmp_path / "x.dcm", "no record at .*x.dcm")
    refused(tmp_path, "is a folder: give one ECG file")


@pytest.mark.parametrize("name", ["x.dcm", "x.csv", "x.xml", "x.dat"])
def test_a_file_of_200_mb_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(200_000_000)  # sparse
    refused(tmp_path / name, rf"has 200 MB, more than the {LARGEST / 1e6:.0f} MB")


def test_an_array_that_claims_more_than_it_has_is_refused(tmp_path: Path, signal: np.ndarray) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (12, 10**12)}
        np.lib.format.write_array_header_1_0(file, shape)
        file.write(bytes(1000))
    refused(tmp_path / "x.npy", "no array of numbers")
    np.save(tmp_path / "o.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    refused(tmp_path / "o.npy", "no array of numbers")
    np.save(tmp_path / "c.npy", signal.astype(complex))
    refused(tmp_path / "c.npy", "not real numbers")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (ReadOptions(None, "mV", LEADS), "does not say its sampling rate: give it with --sampling-rate HZ"),
        (ReadOptions(500, "", LEADS), "does not say its unit: give it with --unit"),
        (ReadOptions(500, "mV"), "does not name its leads: give them in the file's order with --leads"),
        (ReadOptions(500, "mmHg", LEADS), "in 'mmHg'"),
        (ReadOptions(500, "mV", (*LEADS, "V7")), "are not 13 leads"),
        (ReadOptions(500, "mV", (*LEADS[:11], "V5")), "two leads named V5"),
        (ReadOptions(-500, "mV", LEADS), "sampling rate of -500"),
        (ReadOptions(float("nan"), "mV", LEADS), "sampling rate of nan"),
        (ReadOptions(50, "mV", LEADS), "sampled at 50 Hz where 100 Hz or more is needed"),
    ],
)
def test_nothing_is_guessed_about_a_table_of_numbers(
    tmp_path: Path, signal: np.ndarray, options: ReadOptions, match: str
) -> None:
    np.save(tmp_path / "x.npy", signal)
    refused(tmp_path / "x.npy", match, options)


def test_a_recording_of_one_lead_is_refused(tmp_path: Path, signal: np.ndarray) -> None:
    refused(write_muse(tmp_path / "x.xml", signal[:1], ("I",)), "lacks lead II, V1, .* give 12-lead records")
    refused(write_edf(tmp_path / "x.edf", signal[1:2], ("II",)), "lacks lead I, V1")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: 1000 * x, "as of microvolts given as millivolts"),
        (lambda x: x / 1000, "as of millivolts given as microvolts"),
        (lambda x: np.where(np.arange(12)[:, None] == 8, 0.01, x), "flat lead V3"),
        (lambda x: np.where(np.arange(12)[:, None] == 6, np.nan, x), "NaN in V1"),
        (lambda x: np.full_like(x, np.nan), "NaN in I, II, V1"),
        (lambda x: np.where(np.arange(12)[:, None] == 6, np.inf, x), "NaN in V1"),
        (lambda x: np.zeros_like(x), "flat lead I, II"),
        (lambda x: x[:, :4000], "8 s long, 9 s or more are needed"),
        (lambda x: x[:, :0], "holds no samples"),
    ],
)
def test_signals_that_no_heart_makes_are_refused_with_the_reason(
    tmp_path: Path, signal: np.ndarray, change: Callable[[np.ndarray], np.ndarray], match: str
) -> None:
    np.save(tmp_path / "x.npy", change(signal))
    refused(tmp_path / "x.npy", match)


def test_dicom_without_unit_or_of_something_else_is_refused(tmp_path: Path, signal: np.ndarray) -> None:
    import pydicom

    path = write_vendor_dicom(tmp_path / "x.dcm", signal, LEADS)
    dataset = pydicom.dcmread(path)
    for group in dataset.WaveformSequence:
        for channel in group.ChannelDefinitionSequence:
            del channel.ChannelSensitivityUnitsSequence
    dataset.save_as(tmp_path / "unit.dcm")
    refused(tmp_path / "unit.dcm", "gives lead I in ''")
    del dataset.WaveformSequence
    dataset.SOPClassUID = pydicom.uid.EncapsulatedPDFStorage
    dataset.save_as(tmp_path / "pdf.dcm")
    refused(tmp_path / "pdf.dcm", r"DICOM without a waveform \(Encapsulated PDF Storage\)")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "deflated.dcm")
    refused(tmp_path / "deflated.dcm", "is compressed")


@pytest.mark.parametrize("name", ["../../x.dat", "/etc/passwd", "..\\x.dat"])
def test_a_header_cannot_reach_into_another_folder(tmp_path: Path, name: str) -> None:
    header = RECORD.with_suffix(".hea").read_text().replace("00059_lr.dat", name)
    (tmp_path / "00059_lr.hea").write_text(header)
    refused(tmp_path / "00059_lr", "names a signal file in another folder")


# --- garbage ---------------------------------------------------------------------------------------------------------

HEADS = [b"", bytes(128) + b"DICM", b"\x93NUMPY\x01\x00", b"0       ", b"<RestingECG>", b"I,II,V1\n"]
SUFFIXES = [".dcm", ".xml", ".edf", ".csv", ".npy", ".hea", ""]


@settings(max_examples=120, deadline=None)
@given(head=st.sampled_from(HEADS), suffix=st.sampled_from(SUFFIXES), body=st.binary(max_size=600))
def test_random_bytes_are_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, suffix: str, body: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"garbage{suffix}"
    path.write_bytes(head + body)
    try:
        refused(path, "")
    finally:
        path.unlink()


@pytest.mark.parametrize("kind", ["muse", "edf", "edf+", "dicom", "our dicom", "npy", "csv", "wfdb"])
def test_damaged_files_are_read_or_refused_but_never_crash(tmp_path: Path, signal: np.ndarray, kind: str) -> None:
    ecg = Ecg("x", signal, 500.0, np.ones(12, bool))
    match kind:
        case "muse":
            path = write_muse(tmp_path / "x.xml", signal, LEADS, head=DOCTYPE)
        case "edf" | "edf+":
            path = write_edf(tmp_path / "x.edf", signal, LEADS, annotations=kind == "edf+")
        case "dicom":
            path = write_vendor_dicom(tmp_path / "x.dcm", signal, LEADS)
        case "our dicom":
            path = write_ecg(tmp_path / "x.dcm", replace(ecg, notes=("SYNTHETIC",)))
        case "npy":
            path = tmp_path / "x.npy"
            np.save(path, signal.astype(np.int16))
        case "csv":
            path = tmp_path / "x.csv"
            np.savetxt(path, signal[:, :50].T, fmt="%.3f", delimiter=",")
        case _:
            path = write_record(tmp_path, ecg)
    whole, rng = path.read_bytes(), random.Random(kind)
    for _ in range(40):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 6)):  # mostly in the header, where it hurts
            content[rng.randrange(min(len(content), rng.choice([200, 3000, len(content)])))] = rng.randrange(256)
        if rng.random() < 0.4:
            del content[rng.randrange(len(content)) :]
        path.write_bytes(content)
        with suppress(DataError):
            read_usable(path, 100, TOLD)
