"""What is written is read back, marks twins, and says nothing about a patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from lavq_core.data.records import Ecg, read_record
from lavq_core.errors import DataError
from lavq_core.formats.reading import read_ecg
from lavq_core.formats.writing import write_ecg
from lavq_core.signals.leads import LEADS, to_independent
from tests.ecg_files import EIGHT, PATIENT, write_edf, write_muse, write_vendor_dicom

RECORD = Path(__file__).resolve().parents[2] / "simulations/sample/records100/00000/00059_lr"
NOTES = ("SYNTHETIC: digital twin of 59 with IMI, strength 1, seed 0", "research use, not a medical device")


@pytest.fixture
def ecg() -> Ecg:
    return read_record(RECORD)


def at(rate: float, ecg: Ecg) -> Ecg:
    return Ecg("x", np.repeat(ecg.signal, round(rate / 100), axis=1), rate, ecg.present)


@pytest.mark.parametrize("suffix", [".hea", ".dcm"])
@pytest.mark.parametrize("rate", [100.0, 500.0])
def test_a_round_trip_loses_nothing(tmp_path: Path, ecg: Ecg, suffix: str, rate: float) -> None:
    ecg = at(rate, ecg)
    ecg.signal[7, 3] = np.nan
    path = write_ecg(tmp_path / f"back{suffix}", ecg)
    read = read_ecg(path)
    np.testing.assert_array_equal(np.isnan(read.signal), np.isnan(ecg.signal))
    np.testing.assert_allclose(read.signal, ecg.signal, atol=1e-6)  # the sample has whole microvolts
    assert (read.name, read.sampling_rate, read.notes) == ("back", rate, ())
    assert read.present.all()


@pytest.mark.parametrize(("first", "second"), [(".hea", ".dcm"), (".dcm", ".hea")])
def test_a_twin_stays_marked_through_both_formats(tmp_path: Path, ecg: Ecg, first: str, second: str) -> None:
    twin = Ecg("x", ecg.signal, 100.0, ecg.present, NOTES)
    again = read_ecg(write_ecg(tmp_path / f"a{first}", twin))
    third = read_ecg(write_ecg(tmp_path / f"b{second}", again))
    assert third.notes == ("SYNTHETIC: the file says that it is no recording",)
    np.testing.assert_allclose(third.signal, ecg.signal, atol=1e-6)


def test_a_dicom_twin_says_synthetic_where_viewers_show_it(tmp_path: Path, ecg: Ecg) -> None:
    dataset = pydicom.dcmread(write_ecg(tmp_path / "x.dcm", Ecg("x", ecg.signal, 100.0, ecg.present, NOTES)))
    assert dataset.SeriesDescription == "SYNTHETIC digital twin, research use"
    assert dataset.SyntheticData == "YES"
    assert [item.UnformattedTextValue for item in dataset.WaveformAnnotationSequence] == list(NOTES)
    recorded = pydicom.dcmread(write_ecg(tmp_path / "y.dcm", ecg))
    assert (recorded.SyntheticData, "SYNTHETIC" in recorded.SeriesDescription) == ("NO", False)


@pytest.mark.parametrize(("rate", "kind"), [(100.0, "Ambulatory ECG"), (200.0, "12-lead ECG"), (500.0, "12-lead ECG")])
def test_the_kind_of_dicom_is_one_that_allows_the_rate(tmp_path: Path, ecg: Ecg, rate: float, kind: str) -> None:
    dataset = pydicom.dcmread(write_ecg(tmp_path / "x.dcm", at(rate, ecg)))
    assert dataset.SOPClassUID.name.startswith(kind)
    group = dataset.WaveformSequence[0]
    assert (group.SamplingFrequency, group.NumberOfWaveformChannels) == (rate, 12)
    assert [c.ChannelSourceSequence[0].CodeMeaning for c in group.ChannelDefinitionSequence] == [
        f"Lead {lead}" for lead in LEADS
    ]


def test_the_same_ecg_gives_the_same_dicom_and_another_one_other_identifiers(tmp_path: Path, ecg: Ecg) -> None:
    first, again = (write_ecg(tmp_path / name, ecg).read_bytes() for name in ("a.dcm", "b.dcm"))
    assert first == again
    other = Ecg("x", -ecg.signal, 100.0, ecg.present)
    uids = {
        uid
        for one in (ecg, other)
        for d in [pydicom.dcmread(write_ecg(tmp_path / "c.dcm", one))]
        for uid in (d.SOPInstanceUID, d.SeriesInstanceUID, d.StudyInstanceUID)
    }
    assert len(uids) == 6
    assert all(uid.is_valid for uid in uids)


@pytest.mark.parametrize("suffix", [".hea", ".dcm"])
@pytest.mark.parametrize("source", ["muse", "edf", "dicom"])
def test_who_the_patient_is_does_not_get_out(tmp_path: Path, ecg: Ecg, source: str, suffix: str) -> None:
    fine = at(500.0, ecg).signal
    match source:
        case "muse":
            given = write_muse(tmp_path / "a.xml", to_independent(fine), EIGHT)
        case "edf":
            given = write_edf(tmp_path / "a.edf", fine, LEADS)
        case _:
            given = write_vendor_dicom(tmp_path / "a.dcm", fine, LEADS)
    assert PATIENT[0].encode() in given.read_bytes()
    out = write_ecg(tmp_path / "out" / f"b{suffix}", read_ecg(given))
    for file in out.parent.iterdir():
        content = file.read_bytes()
        assert not any(word.encode() in content for word in (*PATIENT, "MAR-1957"))
    if suffix == ".dcm":
        dataset = pydicom.dcmread(out)
        assert dataset.PatientIdentityRemoved == "YES"
        assert not dataset.PatientName
        assert not dataset.PatientID


def test_writing_again_replaces_and_leaves_nothing_behind(tmp_path: Path, ecg: Ecg) -> None:
    for signal in (ecg.signal, -ecg.signal):
        write_ecg(tmp_path / "x.dcm", Ecg("x", signal, 100.0, ecg.present))
    np.testing.assert_allclose(read_ecg(tmp_path / "x.dcm").signal, -ecg.signal, atol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["x.dcm"]


@pytest.mark.parametrize("name", ["x.pdf", "x", "x.edf", "x.dat"])
def test_other_formats_are_not_written(tmp_path: Path, ecg: Ecg, name: str) -> None:
    with pytest.raises(DataError, match=r"end it with \.hea or \.dcm"):
        write_ecg(tmp_path / name, ecg)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said_and_not_half_written(tmp_path: Path, ecg: Ecg) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another folder"):
        write_ecg(tmp_path / "file" / "x.dcm", ecg)
    with pytest.raises(DataError, match="exceeds 32 mV"):
        write_ecg(tmp_path / "x.dcm", Ecg("x", 100 * ecg.signal, 100.0, ecg.present))
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
