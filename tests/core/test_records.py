from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from lavq_core.data.format16 import read_format16
from lavq_core.data.records import Ecg, read_record, write_record
from lavq_core.data.stored import read_wfdb
from lavq_core.errors import DataError
from lavq_core.signals.leads import LEADS, einthoven_residual, to_twelve

PTBXL_NAMES = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")


def ecg(seed: int = 0, name: str = "p1", sampling_rate: float = 100.0) -> Ecg:
    eight = np.round(np.random.default_rng(seed).normal(size=(8, 1000)), 3)
    return Ecg(name, to_twelve(eight).astype(np.float32), sampling_rate, np.ones(12, dtype=bool))


def write(folder: Path, signal: np.ndarray, names: tuple[str, ...], units: str = "mV", **options: object) -> Path:
    """Write (leads, T) in ``units`` with wfdb, as somebody else's software would; returns the record."""
    arguments = {"fs": 100, "fmt": ["16"] * len(names), "units": [units] * len(names)} | options
    wfdb.wrsamp("r", p_signal=signal.T.astype(np.float64), sig_name=list(names), write_dir=str(folder), **arguments)
    return folder / "r"


@pytest.fixture
def record(small: Path) -> Path:
    """A copy of a real record, without suffix, for a test to damage."""
    return sorted((small / "records100").rglob("*.hea"))[0].with_suffix("")


def edit(record: Path, change: Callable[[str], str]) -> None:
    header = record.with_suffix(".hea")
    header.write_text(change(header.read_text()))


def test_a_real_record_has_the_internal_form(record: Path) -> None:
    read = read_record(record)
    assert read.name == record.name
    assert read.signal.shape == (12, 1000)
    assert read.signal.dtype == np.float32
    assert read.sampling_rate == 100
    assert read.present.all()
    assert einthoven_residual(read.signal) < 0.005


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_a_record_is_named_with_or_without_suffix(record: Path, suffix: str) -> None:
    np.testing.assert_array_equal(read_record(f"{record}{suffix}").signal, read_record(record).signal)


def test_reading_directly_equals_reading_through_wfdb(sample: Path) -> None:
    for header in sorted((sample / "records100").rglob("*.hea"))[::40]:
        direct, slow = read_format16(header), read_wfdb(header)
        assert direct is not None
        np.testing.assert_array_equal(direct.physical, slow.physical)
        np.testing.assert_array_equal(direct.sums, slow.sums)
        assert (direct.names, direct.units, direct.checksums) == (slow.names, slow.units, slow.checksums)
        assert direct.sampling_rate == slow.sampling_rate


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(12)), upper=st.booleans())
def test_leads_are_found_by_name(tmp_path_factory: pytest.TempPathFactory, order: list[int], upper: bool) -> None:
    original = ecg()
    names = tuple((PTBXL_NAMES if upper else LEADS)[i] for i in order)
    path = write(
        tmp_path_factory.mktemp("record"), original.signal[order], names, adc_gain=[1000.0] * 12, baseline=[0] * 12
    )
    np.testing.assert_allclose(read_record(path).signal, original.signal, atol=0.00051)


def test_missing_derived_leads_are_computed(tmp_path: Path) -> None:
    original = ecg()
    keep = [0, 1, 6, 7, 8, 9, 10, 11]
    read = read_record(write(tmp_path, original.signal[keep], tuple(LEADS[i] for i in keep)))
    np.testing.assert_allclose(read.signal, original.signal, atol=0.002)
    np.testing.assert_array_equal(read.present, [True, True, False, False, False, False] + [True] * 6)


def test_leads_beyond_the_twelve_are_left_out(tmp_path: Path) -> None:
    original = ecg()
    read = read_record(write(tmp_path, np.vstack([original.signal, original.signal[:1]]), (*LEADS, "VX")))
    np.testing.assert_allclose(read.signal, original.signal, atol=0.001)


@pytest.mark.parametrize(("unit", "per_mv"), [("mV", 1.0), ("uV", 1000.0), ("µV", 1000.0), ("V", 0.001)])
def test_units_are_taken_as_declared(tmp_path: Path, unit: str, per_mv: float) -> None:
    original = ecg()
    path = write(tmp_path, original.signal * 1000, LEADS, adc_gain=[1.0] * 12, baseline=[0] * 12)
    edit(path, lambda text: text.replace("1.0(0)/mV", f"{1000 / per_mv}(0)/{unit}"))
    np.testing.assert_allclose(read_record(path).signal, original.signal, atol=0.00051)


@pytest.mark.parametrize("fmt", ["16", "212", "24", "32"])
def test_other_wfdb_formats_are_read_too(tmp_path: Path, fmt: str) -> None:
    original = ecg()
    read = read_record(write(tmp_path, original.signal, LEADS, fmt=[fmt] * 12))
    np.testing.assert_allclose(read.signal, original.signal, atol=0.005)


def test_a_missing_sample_is_nan(tmp_path: Path) -> None:
    original = ecg()
    original.signal[7, 3] = np.nan
    read = read_record(write_record(tmp_path, original))
    assert np.argwhere(np.isnan(read.signal)).tolist() == [[7, 3]]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    original = ecg(sampling_rate=500.0)
    path = write_record(tmp_path / "new", original, comments=["SYNTHETIC"])
    assert path == tmp_path / "new" / "p1.hea"
    assert sorted(file.name for file in path.parent.iterdir()) == ["p1.dat", "p1.hea"]
    read = read_record(path)
    np.testing.assert_allclose(read.signal, original.signal, atol=0.00051)
    assert (read.name, read.sampling_rate) == ("p1", 500.0)
    assert wfdb.rdheader(str(path.with_suffix(""))).comments == ["SYNTHETIC"]


def test_writing_again_replaces(tmp_path: Path) -> None:
    write_record(tmp_path, ecg(0))
    write_record(tmp_path, ecg(1))
    np.testing.assert_allclose(read_record(tmp_path / "p1").signal, ecg(1).signal, atol=0.00051)


@pytest.mark.parametrize("name", ["../x", "a b", "", "a.b", "x/y"])
def test_names_that_wfdb_does_not_allow_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="not allowed"):
        write_record(tmp_path, ecg(name=name))
    assert list(tmp_path.iterdir()) == []


def test_amplitudes_beyond_sixteen_bits_are_refused(tmp_path: Path) -> None:
    loud = ecg()
    loud.signal[0, 0] = 40.0
    with pytest.raises(DataError, match="exceeds 32 mV"):
        write_record(tmp_path, loud)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another folder"):
        write_record(tmp_path / "file", ecg())


def refused(record: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read_record(record)
    assert "\n" not in str(caught.value)


def test_a_record_that_is_absent_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "00042_lr", "no record at .*00042_lr")


def test_an_absent_signal_file_is_named(record: Path) -> None:
    record.with_suffix(".dat").unlink()
    refused(record, r"no signal file .*\.dat")


@pytest.mark.parametrize("size", [0, 1, 1000, 23_999])
def test_a_truncated_signal_file_is_refused(record: Path, size: int) -> None:
    file = record.with_suffix(".dat")
    file.write_bytes(file.read_bytes()[:size])
    refused(record, "truncated or corrupt")


def test_a_corrupt_signal_file_of_the_right_size_is_refused(record: Path) -> None:
    file = record.with_suffix(".dat")
    content = bytearray(file.read_bytes())
    content[5000] ^= 0xFF
    file.write_bytes(content)
    refused(record, "corrupt .*checksum")


@pytest.mark.parametrize("content", ["", "nonsense", "x 12 100\n", "x 0 100 1000\n"])
def test_a_header_that_is_none_is_refused(record: Path, content: str) -> None:
    record.with_suffix(".hea").write_text(content)
    refused(record, str(record.name))


def test_a_binary_header_is_refused(record: Path) -> None:
    record.with_suffix(".hea").write_bytes(bytes(range(128, 256)))
    refused(record, "not a WFDB header")


def test_a_header_cut_short_is_refused(record: Path) -> None:
    edit(record, lambda text: "\n".join(text.splitlines()[:6]))
    refused(record, record.name)


def test_other_leads_are_refused_and_named(record: Path) -> None:
    edit(record, lambda text: text.replace(" V2\n", " MCL1\n"))
    refused(record, r"lacks lead V2 \(it has .*MCL1")


def test_a_lead_twice_is_refused(record: Path) -> None:
    edit(record, lambda text: text.replace(" V2\n", " V1\n"))
    refused(record, "two leads named V1")


@pytest.mark.parametrize("unit", ["mmHg", "NU", "pV"])
def test_other_units_are_refused(record: Path, unit: str) -> None:
    edit(record, lambda text: text.replace("/mV", f"/{unit}"))
    refused(record, f"in '{unit}'")
