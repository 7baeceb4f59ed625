"""Every format that is read gives the same ECG, and what is done to it is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import wfdb
from pydicom.data import get_testdata_file
from wfdb.io.convert.edf import read_edf as wfdb_read_edf

from lavq_core.data.records import Ecg, read_record, write_record
from lavq_core.errors import DataError
from lavq_core.formats.fitting import fit
from lavq_core.formats.options import ReadOptions
from lavq_core.formats.reading import most_blank_leads, read_ecg, read_usable
from lavq_core.signals.leads import LEADS, einthoven_residual, to_independent, to_twelve
from tests.ecg_files import EIGHT, write_edf, write_muse, write_vendor_dicom

SAMPLE = Path(__file__).resolve().parents[2] / "simulations" / "sample"
RECORD = SAMPLE / "records100" / "00000" / "00059_lr"
CABRERA = ("aVL", "I", "aVR", "II", "aVF", "III", "V1", "V2", "V3", "V4", "V5", "V6")
TOLD = ReadOptions(500, "mV", LEADS)
FULL = os.environ.get("LAVQ_PTBXL", "")


@pytest.fixture(scope="module")
def ecg() -> Ecg:
    """A real ECG at 500 Hz: band-limited like one, obeying Einthoven's law."""
    at_100 = to_independent(read_record(RECORD).signal).astype(np.float64)
    spectrum = np.fft.rfft(at_100 - at_100[:, :1], axis=1)
    at_500 = 5.0 * np.fft.irfft(spectrum, 5000, axis=1)
    return Ecg("ecg", to_twelve(at_500).astype(np.float32), 500.0, np.ones(12, bool))


def csv(path: Path, table: np.ndarray, header: str = "", separator: str = ",") -> Path:
    np.savetxt(path, table, fmt="%.6f", delimiter=separator, header=header, comments="")
    return path


WRITERS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "muse": lambda folder, x: write_muse(folder / "x.xml", to_independent(x), EIGHT),
    "edf": lambda folder, x: write_edf(folder / "x.edf", x, LEADS),
    "edf+": lambda folder, x: write_edf(folder / "x.edf", x, LEADS, annotations=True),
    "dicom": lambda folder, x: write_vendor_dicom(folder / "x.dcm", x, LEADS),
    "dicom without suffix": lambda folder, x: write_vendor_dicom(folder / "IM0001", x, LEADS),
    "csv": lambda folder, x: csv(folder / "x.csv", x.T),
    "csv with names and time": lambda folder, x: csv(
        folder / "x.csv", np.column_stack([np.arange(x.shape[1]) / 500, x.T]), ",".join(["time", *LEADS])
    ),
    "tsv": lambda folder, x: csv(folder / "x.tsv", x.T, separator="\t"),
    "npy": lambda folder, x: np.save(folder / "x.npy", x) or folder / "x.npy",
    "npy of samples by leads": lambda folder, x: np.save(folder / "x.npy", x.T) or folder / "x.npy",
    "wfdb": lambda folder, x: write_record(folder, Ecg("x", x, 500.0, np.ones(12, bool))),
}


@pytest.mark.parametrize("written", WRITERS)
def test_every_format_gives_the_same_ecg(tmp_path: Path, ecg: Ecg, written: str) -> None:
    path = WRITERS[written](tmp_path, ecg.signal)
    options = replace(TOLD, leads=()) if "names" in written else TOLD
    read = read_ecg(path, options)
    assert read.name == path.stem
    assert read.signal.dtype == np.float32
    assert read.sampling_rate == 500
    np.testing.assert_allclose(read.signal, ecg.signal, atol=0.0075)  # MUSE stores 4.88 uV a step, sums of two add up
    assert read.present.sum() == (8 if written == "muse" else 12)


def test_a_decimal_comma_is_understood_beside_semicolons(tmp_path: Path, ecg: Ecg) -> None:
    rows = [";".join(f"{value:.4f}".replace(".", ",") for value in sample) for sample in ecg.signal.T]
    (tmp_path / "x.csv").write_text("\n".join([";".join(LEADS), *rows]))
    read = read_ecg(tmp_path / "x.csv", ReadOptions(500, "mV"))
    np.testing.assert_allclose(read.signal, ecg.signal, atol=0.0001)


def test_edf_is_read_as_wfdbs_converter_reads_it_but_for_its_zero(tmp_path: Path, ecg: Ecg) -> None:
    """That one is a step (.15 uV here) off, and wrong where a file has signals of several rates."""
    path = write_edf(tmp_path / "x.edf", ecg.signal, LEADS)
    theirs = wfdb_read_edf(str(path)).p_signal.T / 1000
    np.testing.assert_allclose(read_ecg(path).signal, theirs, atol=0.00032)


# --- leads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [str, str.upper, str.lower, "Lead {}".format, "MDC_ECG_LEAD_{}".format, "ECG-{}".format]
)
def test_leads_are_found_by_name_in_cabreras_order_and_any_spelling(
    tmp_path: Path, ecg: Ecg, names: Callable[[str], str]
) -> None:
    rows = ecg.signal[[LEADS.index(lead) for lead in CABRERA]]
    path = csv(tmp_path / "x.csv", rows.T, ",".join(names(lead) for lead in CABRERA))
    read = read_ecg(path, ReadOptions(500, "mV"))
    np.testing.assert_allclose(read.signal, ecg.signal, atol=0.0001)
    assert read.notes == ()


@pytest.mark.parametrize("name", ["-aVR", "\u2212aVR", "aVR"])
def test_cabreras_turned_avr_is_turned_back_whether_it_says_so_or_not(tmp_path: Path, ecg: Ecg, name: str) -> None:
    rows = [(-1 if lead == "aVR" else 1) * ecg.signal[LEADS.index(lead)] for lead in CABRERA]
    header = ",".join(CABRERA).replace("aVR", name)
    (tmp_path / "x.csv").write_text("", encoding="utf-8")
    np.savetxt(
        tmp_path / "x.csv", np.stack(rows).T, fmt="%.6f", delimiter=",", header=header, comments="", encoding="utf-8"
    )
    read = read_ecg(tmp_path / "x.csv", ReadOptions(500, "mV"))
    np.testing.assert_allclose(read.signal, ecg.signal, atol=0.0001)
    assert any("turned back" in note for note in read.notes) == (name == "aVR")


@pytest.mark.parametrize("two", [(0, 1), (0, 2), (1, 2), (3, 4), (4, 5), (2, 3), (0, 5), (1, 4)])
def test_any_two_limb_leads_give_the_other_four(tmp_path: Path, ecg: Ecg, two: tuple[int, int]) -> None:
    keep = [*two, *range(6, 12)]
    path = csv(tmp_path / "x.csv", ecg.signal[keep].T, ",".join(LEADS[i] for i in keep))
    read = read_usable(path, 500, ReadOptions(500, "mV"))
    np.testing.assert_allclose(read.signal, ecg.signal, atol=0.0001)
    assert "computed from " + " and ".join(LEADS[i] for i in two) in read.notes[0]


def test_a_13th_channel_is_left_out_and_named(tmp_path: Path, ecg: Ecg) -> None:
    path = csv(tmp_path / "x.csv", np.vstack([ecg.signal, ecg.signal[:1]]).T, ",".join([*LEADS, "V7"]))
    read = read_ecg(path, ReadOptions(500, "mV"))
    assert read.notes == ("1 of 13 channels left out (V7)",)
    np.testing.assert_allclose(read.signal, ecg.signal, atol=0.0001)


def test_a_channels_name_that_is_no_lead_is_not_repeated(tmp_path: Path, ecg: Ecg) -> None:
    path = csv(tmp_path / "x.csv", np.vstack([ecg.signal, ecg.signal[:1]]).T, ",".join([*LEADS, "Mustermann"]))
    assert read_ecg(path, ReadOptions(500, "mV")).notes == ("1 of 13 channels left out",)


def test_a_missing_chest_lead_is_blank_where_the_detector_knows_blank_leads(tmp_path: Path, ecg: Ecg) -> None:
    keep = [i for i in range(12) if i not in (8, 10)]
    path = csv(tmp_path / "x.csv", ecg.signal[keep].T, ",".join(LEADS[i] for i in keep))
    options = ReadOptions(500, "mV")
    for most in (0, 1):
        with pytest.raises(DataError, match="lacks lead V3, V5"):
            read_usable(path, 100, options, most)
    read = read_usable(path, 100, options, 2)
    assert not read.signal[[8, 10]].any()
    assert not read.present[[8, 10]].any()
    assert read.notes[0].startswith("V3, V5 missing: read as a blank lead")


@pytest.mark.parametrize(("limb", "missing"), [(0, "II"), (1, "I"), (5, "I, II"), (3, "I, II")])
def test_one_limb_lead_is_too_few_whatever_may_be_blank(tmp_path: Path, ecg: Ecg, limb: int, missing: str) -> None:
    path = csv(tmp_path / "x.csv", ecg.signal[[limb, *range(6, 12)]].T, ",".join([LEADS[limb], *LEADS[6:]]))
    with pytest.raises(DataError, match=f"lacks lead {missing} "):
        read_usable(path, 100, ReadOptions(500, "mV"), 8)


def test_as_many_leads_may_be_blank_as_one_training_record_in_a_hundred_had() -> None:
    assert [most_blank_leads(p) for p in (0.0, 0.001, 0.01, 0.1, 0.5, 1.0)] == [0, 0, 1, 3, 7, 8]
    rng = np.random.default_rng(0)
    blank = (rng.random((200_000, 8)) < 0.1).sum(axis=1)
    assert (blank >= 3).mean() >= 0.01 > (blank >= 4).mean()


# --- rates and lengths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [100, 125, 128, 250, 257, 360, 500, 1000])
def test_a_faster_recording_is_resampled_without_changing_the_ecg(ecg: Ecg, rate: int) -> None:
    seconds, original = 10, to_independent(read_record(RECORD).signal)
    wanted = original - original[:, :1]
    spectrum = np.fft.rfft(wanted.astype(np.float64), axis=1)[:, : 45 * seconds]  # what 100 Hz holds well
    wanted = np.fft.irfft(spectrum, 1000, axis=1)
    given = rate / 100 * np.fft.irfft(spectrum, rate * seconds, axis=1)
    found = fit(Ecg("x", to_twelve(given).astype(np.float32), float(rate), np.ones(12, bool)), 100)
    assert found.signal.shape == (12, 1000)
    assert found.sampling_rate == 100
    middle = slice(20, -20)  # the record's ends have no neighbours
    error = to_independent(found.signal)[:, middle] - wanted[:, middle]
    assert np.sqrt(np.mean(error**2)) < 0.02 * wanted.std()
    assert any("resampled" in note for note in found.notes) == (rate != 100)


def test_what_lies_above_half_the_models_rate_is_filtered_not_folded(ecg: Ecg) -> None:
    time = np.arange(5000) / 500
    hum = np.tile(np.sin(2 * np.pi * 130 * time), (12, 1)).astype(np.float32)  # would fold to 30 Hz
    found = fit(Ecg("x", hum, 500.0, np.ones(12, bool)), 100)
    assert np.abs(found.signal[:, 20:-20]).max() < 0.01


def test_250_hz_serve_models_at_500_hz_and_the_note_says_what_is_missing(ecg: Ecg) -> None:
    half = replace(ecg, signal=ecg.signal[:, ::2], sampling_rate=250.0)
    found = fit(half, 500)
    assert found.signal.shape == (12, 5000)
    assert "holds nothing above 125 Hz" in found.notes[0]
    np.testing.assert_allclose(found.signal[:, 50:-50], ecg.signal[:, 50:-50], atol=0.02)


@pytest.mark.parametrize(("rate", "models"), [(50, 100), (99, 100), (100, 500), (249, 500), (20_000, 100)])
def test_rates_that_make_no_sense_are_refused(rate: int, models: int) -> None:
    with pytest.raises(DataError, match=f"{rate} Hz"):
        fit(Ecg("x", np.zeros((12, 10 * rate), np.float32), float(rate), np.ones(12, bool)), models)


def test_of_a_minute_ten_seconds_are_used_from_where_one_says(ecg: Ecg) -> None:
    minute = replace(ecg, signal=np.tile(ecg.signal, 6) + np.repeat(np.arange(6, dtype=np.float32), 5000))
    for start in (0, 20):
        found = fit(minute, 100, start)
        assert found.signal.shape == (12, 1000)
        assert found.notes[-1] == f"{start} to {start + 10} s of 60 s are used"
        assert found.signal[0, 50:-50].mean() == pytest.approx(ecg.signal[0].mean() + start / 10, abs=0.05)


def test_a_gap_outside_the_ten_seconds_spoils_nothing(ecg: Ecg) -> None:
    minute = replace(ecg, signal=np.tile(ecg.signal, 6))
    minute.signal[:, -1] = np.nan
    assert np.isfinite(fit(minute, 100).signal).all()
    assert np.isnan(fit(minute, 100, 50).signal[:, -1]).all()


@pytest.mark.parametrize(("seconds", "used"), [(10.0, 10.0), (9.998, 10.0), (9.2, 9.2), (9.23, 9.2), (9.0, 9.0)])
def test_a_recording_a_little_short_is_used_as_it_is(ecg: Ecg, seconds: float, used: float) -> None:
    found = fit(replace(ecg, signal=ecg.signal[:, : round(500 * seconds)]), 100)
    assert found.signal.shape[1] == round(100 * used)
    assert any("long, the models were trained on 10 s" in note for note in found.notes) == (used < 10)


@pytest.mark.parametrize(("seconds", "start"), [(8.9, 0), (0.1, 0), (60, 52), (60, 70), (60, -1), (60, np.nan)])
def test_a_recording_that_is_too_short_is_refused(ecg: Ecg, seconds: float, start: float) -> None:
    long = replace(ecg, signal=np.tile(ecg.signal, 6)[:, : round(500 * seconds)])
    with pytest.raises(DataError, match=r"9 s or more are needed|before its start"):
        fit(long, 100, start)


@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="LAVQ_PTBXL IS NOT SET: resampling was not compared with PTB-XL's own")
def test_resampling_agrees_with_ptb_xls_own_100_hz() -> None:
    """Its authors resampled the 500 Hz themselves, some 2 ms apart from ours: both must show the same ECG."""
    at_500, alike = sorted(Path(FULL).glob("records500/*/*.hea"))[:40], []
    assert at_500
    for header in at_500:
        ours = fit(read_ecg(header), 100).signal
        theirs = read_record(str(header).replace("records500", "records100").replace("_hr", "_lr")).signal
        alike.append(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1])
    assert np.median(alike) > 0.985
    assert min(alike) > 0.9  # steep QRS and noise feel two milliseconds most


# --- marks -----------------------------------------------------------------------------------------------------------


def test_a_file_that_calls_itself_synthetic_is_called_so(tmp_path: Path, ecg: Ecg) -> None:
    path = write_record(tmp_path, ecg, ["SYNTHETIC: digital twin"])
    assert read_ecg(path).notes == ("SYNTHETIC: the file says that it is no recording",)
    assert wfdb.rdheader(str(path.with_suffix(""))).comments == ["SYNTHETIC: digital twin"]


def test_what_the_quality_gate_flags_is_in_the_notes(tmp_path: Path, ecg: Ecg) -> None:
    swapped = ecg.signal.copy()
    swapped[[2, 5]] = swapped[[5, 2]]
    read = read_usable(csv(tmp_path / "x.csv", swapped.T), 500, TOLD)
    assert any("limb leads break Einthoven's law" in note for note in read.notes)


def test_a_recorders_own_dicom_file_is_read() -> None:
    """The ECG that comes with pydicom: 12 leads and a median beat, 1,000 Hz."""
    path = get_testdata_file("waveform_ecg.dcm", download=False)
    read = read_usable(str(path), 100)
    assert read.notes == ("resampled from 1000 Hz to 100 Hz",)
    assert read.present.all()
    assert read.signal.shape == (12, 1000)
    assert einthoven_residual(read_ecg(str(path)).signal) < 0.002
    assert 0.3 < np.ptp(read.signal, axis=1).min() < np.ptp(read.signal, axis=1).max() < 2.5
