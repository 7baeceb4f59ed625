"""``lavq twin``: all kinds of ECGs, and why some are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lavq_core.data.records import read_record
from lavq_core.formats.reading import read_usable
from lavq_core.signals.leads import INDEPENDENT_LEADS, to_independent
from lavq_core.signals.rpeaks import find_r_peaks
from tests.client.twin_command.ecgs import RECORD, original, stored


def test_an_ecg_that_does_not_read_as_normal_is_noted(
    ask: Callable[..., str], tmp_path: Path, finished_run: Callable[..., Path]
) -> None:
    sick = finished_run(tmp_path / "run", healthy=False)
    assert "note: this ECG does not read as NORM" in ask("IMI", run=sick)
    assert "note" not in ask("IMI")
    assert "note" not in ask("NORM", run=sick)  # nothing is added


def test_a_faster_recording_is_resampled_and_a_slower_one_refused(
    ask: Callable[..., str], altered: Callable[..., Path], out: Path
) -> None:
    assert "sampled at 50 Hz where 100 Hz or more is needed" in ask(
        "IMI", record=altered(lambda signal: signal[:, ::2], 50.0), fails=True
    )
    said = ask("IMI", record=altered(lambda signal: np.repeat(signal, 5, axis=1), 500.0))
    assert "note: resampled from 500 Hz to 100 Hz" in said
    assert read_record(out / "given_IMI_01").sampling_rate == 100


def test_a_run_at_500_hz_makes_twins_at_500_hz(
    ask: Callable[..., str], altered: Callable[..., Path], tmp_path: Path, out: Path, finished_run: Callable[..., Path]
) -> None:
    def finer(signal: np.ndarray) -> np.ndarray:
        whole = np.arange(signal.shape[1])
        return np.stack([np.interp(np.arange(5 * len(whole)) / 5, whole, lead) for lead in signal])

    fast = finished_run(tmp_path / "run", "data.sampling_rate=500", "separator.stride=20")
    ask("IMI", record=altered(finer, 500.0), run=fast)
    made = read_record(out / "given_IMI_01")
    assert made.signal.shape == (12, 5000)
    assert made.sampling_rate == 500


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda signal: np.where(np.arange(12)[:, None] == 8, 0.01, signal), "flat lead V3"),
        (lambda signal: np.random.default_rng(0).normal(0, 0.5, signal.shape), "no plausible R peaks"),
        (lambda signal: np.where(np.arange(12)[:, None] == 6, np.nan, signal), "NaN in V1"),
        (lambda signal: 15 / np.abs(signal).max() * signal, "amplitude 15.0 mV"),
    ],
    ids=["flat", "noise", "hole", "unit"],
)
def test_an_ecg_that_cannot_be_used_is_refused_with_the_reason(
    ask: Callable[..., str],
    altered: Callable[..., Path],
    change: Callable[[np.ndarray], np.ndarray],
    reason: str,
) -> None:
    line = ask("IMI", record=altered(change), fails=True)
    assert "record given is rejected" in line
    assert reason in line
    assert "give another recording" in line


def test_9_seconds_are_enough_and_5_are_not(ask: Callable[..., str], altered: Callable[..., Path], out: Path) -> None:
    line = ask("IMI", record=altered(lambda signal: signal[:, :500]), fails=True)
    assert "record given is 5 s long, 9 s or more are needed: give a longer recording" in line
    said = ask("IMI", record=altered(lambda signal: signal[:, :923]))
    assert "note: 9.2 s long, the models were trained on 10 s" in said
    assert read_record(out / "given_IMI_01").signal.shape == (12, 920)


def test_beats_of_many_shapes_are_refused(
    ask: Callable[..., str], altered: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def every_beat_another(signal: np.ndarray) -> np.ndarray:
        rng, changed = np.random.default_rng(0), signal.copy()
        for peak in find_r_peaks(to_independent(signal), 100):
            around = slice(max(0, peak - 30), peak + 30)
            changed[:, around] += 1.5 * rng.normal(size=(12, 1)) * np.hanning(changed[0, around].size)
            changed[:, around] *= rng.choice([-1.0, 1.0], size=(12, 1))
        return changed

    record = altered(every_beat_another)
    read_usable(record, 100)  # the quality gate lets it through
    line = ask("IMI", record=record, fails=True)
    assert "record given has fewer than three beats of one shape: a twin needs a regular ECG" in line


def test_eight_leads_are_enough(ask: Callable[..., str], tmp_path: Path, out: Path) -> None:
    import wfdb

    digital = np.round(1000 * original().astype(np.float64)).astype(np.int64).T  # (T, 8)
    names = list(INDEPENDENT_LEADS)
    wfdb.wrsamp(
        "eight", 100, ["mV"] * 8, names, d_signal=digital, fmt=["16"] * 8, adc_gain=[1e3] * 8, baseline=[0] * 8,
        write_dir=str(tmp_path),
    )  # fmt: skip
    ask("IMI", record=tmp_path / "eight")
    ask("IMI")
    assert read_record(out / "eight_IMI_01").signal.shape == (12, 1000)
    assert np.array_equal(stored(out, "eight_IMI_01"), stored(out, "00059_lr_IMI_01"))


def test_the_limb_leads_in_one_lead_are_too_few(ask: Callable[..., str], tmp_path: Path) -> None:
    header = RECORD.with_suffix(".hea").read_text().replace(" V6", " V7")
    (tmp_path / f"{RECORD.name}.hea").write_text(header)
    (tmp_path / f"{RECORD.name}.dat").write_bytes(RECORD.with_suffix(".dat").read_bytes())
    assert "lacks lead V6" in ask("IMI", record=tmp_path / RECORD.name, fails=True)


def test_a_record_that_is_not_there_is_named(ask: Callable[..., str], tmp_path: Path) -> None:
    assert f"no record at {tmp_path / 'x'}" in ask("IMI", record=tmp_path / "x", fails=True)
