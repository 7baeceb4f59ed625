from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lavq_core.data.plain_records import read_plain
from lavq_core.data.records import read_record


@pytest.fixture(scope="module")
def files(sample: Path) -> list[str]:
    """Some real records, as tables name them."""
    return [str(header.with_suffix("")) for header in sorted((sample / "records100").rglob("*.hea"))[::15]]


@pytest.fixture
def copied(files: list[str], tmp_path: Path) -> list[str]:
    """Copies of three records, which a test may damage."""
    for file in files[:3]:
        for suffix in (".hea", ".dat"):
            shutil.copy(file + suffix, tmp_path)
    return [str(tmp_path / Path(file).name) for file in files[:3]]


def test_records_are_read_as_one_by_one_to_the_last_bit(files: list[str]) -> None:
    signals, plain = read_plain(files, 100, 1000)
    assert plain.all()
    assert signals.dtype == np.float32
    for together, file in zip(signals, files, strict=True):
        np.testing.assert_array_equal(together, read_record(file).signal)


def edit(file: str, change: Callable[[str], str]) -> None:
    header = Path(f"{file}.hea")
    header.write_text(change(header.read_text()))


@pytest.mark.parametrize("gain", ["1000.0", "999.9", "200", "1e3"])
@pytest.mark.parametrize("baseline", ["0", "-2", "99999999"])
def test_whatever_gain_and_baseline_the_signals_are_the_same_or_left(
    copied: list[str], gain: str, baseline: str
) -> None:
    edit(copied[1], lambda text: text.replace("1000.0(0)", f"{gain}({baseline})"))
    signals, plain = read_plain(copied, 100, 1000)
    for together, file in zip(signals, np.array(copied)[plain], strict=True):
        np.testing.assert_array_equal(together, read_record(file).signal)
    exact = gain in ("1000.0", "200") and baseline != "99999999"
    assert plain.tolist() == [True, exact, True]


def test_leads_in_another_order_are_put_in_theirs(copied: list[str]) -> None:
    expected = read_record(copied[1]).signal
    data = Path(f"{copied[1]}.dat")
    frames = np.fromfile(data, dtype="<i2").reshape(-1, 12)
    frames[:, [0, 8]] = frames[:, [8, 0]]
    data.write_bytes(frames.tobytes())

    def exchange(text: str) -> str:
        lines = text.splitlines()
        lines[1], lines[9] = lines[9], lines[1]
        return "\n".join(lines)

    edit(copied[1], exchange)
    signals, plain = read_plain(copied, 100, 1000)
    assert plain.all()
    np.testing.assert_array_equal(signals[1], expected)


def test_a_missing_sample_is_nan(copied: list[str]) -> None:
    data = Path(f"{copied[0]}.dat")
    frames = np.fromfile(data, dtype="<i2").reshape(-1, 12)
    before = int(frames[3, 7])
    frames[3, 7] = -32768
    data.write_bytes(frames.tobytes())
    lines = Path(f"{copied[0]}.hea").read_text().splitlines()
    parts = lines[8].split()
    parts[6] = str(int(parts[6]) - 32768 - before)  # the checksum of what is there now
    edit(copied[0], lambda text: text.replace(lines[8], " ".join(parts)))
    signals, plain = read_plain(copied, 100, 1000)
    assert plain.all()
    assert np.argwhere(np.isnan(signals)).tolist() == [[0, 7, 3]]


def cut_short(file: str) -> None:
    data = Path(f"{file}.dat")
    data.write_bytes(data.read_bytes()[:-2])


def change_a_sample(file: str) -> None:
    data = Path(f"{file}.dat")
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)


def turn_avr(file: str) -> None:
    data = Path(f"{file}.dat")
    frames = np.fromfile(data, dtype="<i2").reshape(-1, 12)
    frames[:, 3] = -frames[:, 3]
    data.write_bytes(frames.tobytes())
    edit(file, lambda text: "\n".join(_without_checksum(line) for line in text.splitlines()))


def _without_checksum(line: str) -> str:
    parts = line.split()
    return " ".join([*parts[:6], "0", *parts[7:]]) if len(parts) > 8 else line


@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        change_a_sample,
        turn_avr,
        lambda file: Path(f"{file}.dat").unlink(),
        lambda file: Path(f"{file}.hea").unlink(),
        lambda file: Path(f"{file}.hea").write_bytes(b"\xff\xfe"),
        lambda file: Path(f"{file}.hea").write_text(""),
        lambda file: edit(file, lambda text: text.replace("/mV", "/uV")),
        lambda file: edit(file, lambda text: text.replace(" AVR", " -AVR")),
        lambda file: edit(file, lambda text: text.replace(" V6", " VX")),
        lambda file: edit(file, lambda text: text.replace(" 12 100 1000", " 12 100 999")),
        lambda file: edit(file, lambda text: text.replace(" 12 100 1000", " 12 101 1000")),
        lambda file: edit(file, lambda text: text.replace(Path(file).name, f"../{Path(file).name}")),
    ],
)
def test_what_is_not_plain_is_left_to_others(copied: list[str], damage: Callable[[str], object]) -> None:
    damage(copied[1])
    signals, plain = read_plain(copied, 100, 1000)
    assert plain.tolist() == [True, False, True]
    for together, file in zip(signals, (copied[0], copied[2]), strict=True):
        np.testing.assert_array_equal(together, read_record(file).signal)


def test_no_records() -> None:
    signals, plain = read_plain([], 100, 1000)
    assert (signals.shape, plain.shape) == ((0, 12, 1000), (0,))
