from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavq_core.data.records import read_record
from lavq_core.signals.leads import LEADS
from lavq_core.signals.quality import Quality, Verdict, assess, check_form
from simulations.benchmarks.plain_gate import judge as judge_plainly

V2 = LEADS.index("V2")


@pytest.fixture(scope="module")
def good(sample: Path) -> np.ndarray:
    """One real record (12, 1000) that is accepted."""
    signal = read_record(sorted((sample / "records100").rglob("*.hea"))[0]).signal
    signal.flags.writeable = False
    return signal


def judge(signal: np.ndarray) -> Quality:
    return assess(signal[None], 100)[0]


def test_a_good_record_is_accepted_without_reasons(good: np.ndarray) -> None:
    assert judge(good) == Quality(Verdict.ACCEPT)


def test_a_batch_judges_each_record_alone(good: np.ndarray) -> None:
    silent = np.zeros_like(good)
    verdicts = [quality.verdict for quality in assess(np.stack([good, silent, good]), 100)]
    assert verdicts == [Verdict.ACCEPT, Verdict.REJECT, Verdict.ACCEPT]


def test_records_together_are_judged_as_one_by_one_and_lead_by_lead(sample: Path) -> None:
    """Real records, and each of them disturbed in a way of its own; the plain gate knows no batch."""
    headers = sorted((sample / "records100").rglob("*.hea"))[::6]
    signals = np.stack([read_record(header).signal for header in headers])
    rng = np.random.default_rng(0)
    disturbed = signals.copy()
    for number, signal in enumerate(disturbed):
        lead, start, stop = rng.integers(12), *np.sort(rng.integers(0, 1000, 2))
        match number % 8:
            case 0:
                signal[lead, start:stop] = signal[lead, start]  # off for a while
            case 1:
                signal *= rng.choice([0.002, 2.0, 6.0, 1000.0])
            case 2:
                np.clip(signal, -0.3 * rng.random(), 0.5 + rng.random(), out=signal)
            case 3:
                signal[lead, start] = rng.choice([np.nan, np.inf, -np.inf, 7.0, -12.0])
            case 4:
                signal[lead] = rng.choice([0.0, 0.3])
            case 5:
                signal[:] = rng.normal(size=signal.shape) * rng.choice([1e-5, 0.1, 3.0])
            case 6:
                signal[lead] *= -1
            case _:
                signal[:, start:stop] = 0.0
    both = np.concatenate([signals, disturbed])
    expected = [judge_plainly(signal, 100) for signal in both]
    assert assess(both, 100) == expected
    assert [judge(signal) for signal in both] == expected
    assert len({reason.split()[0] for quality in expected for reason in quality.reasons}) >= 7


def test_no_records_no_verdicts() -> None:
    assert assess(np.zeros((0, 12, 1000), dtype=np.float32), 100) == []


def test_nan_in_an_independent_lead_rejects(good: np.ndarray) -> None:
    signal = good.copy()
    signal[V2, 7] = np.nan
    assert judge(signal) == Quality(Verdict.REJECT, ("NaN in V2",))


def test_nan_in_a_derived_lead_only_flags(good: np.ndarray) -> None:
    signal = good.copy()
    signal[LEADS.index("aVF"), 7] = np.nan
    assert judge(signal) == Quality(Verdict.FLAG, ("limb leads break Einthoven's law by NaN",))


def test_a_flat_lead_rejects(good: np.ndarray) -> None:
    signal = good.copy()
    signal[V2] = 0.3
    assert judge(signal) == Quality(Verdict.REJECT, ("flat lead V2",))


def test_a_lead_that_is_off_for_a_while_flags(good: np.ndarray) -> None:
    signal = good.copy()
    signal[V2, 300:600] = 0.0
    assert judge(signal) == Quality(Verdict.FLAG, ("constant for 2 s: V2",))


@pytest.mark.parametrize(("level", "verdict"), [(4.9, "accept"), (6.0, "flag"), (-6.0, "flag"), (10.5, "reject")])
def test_large_amplitudes_flag_and_impossible_ones_reject(good: np.ndarray, level: float, verdict: str) -> None:
    signal = good.copy()
    signal[V2, 500] = level
    found = judge(signal)
    assert found.verdict == verdict
    assert found.reasons == (() if verdict == "accept" else (f"amplitude {abs(level):.1f} mV",))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_clipped_lead_rejects(good: np.ndarray, sign: int) -> None:
    signal = good.copy()
    signal[V2] = np.clip(sign * signal[V2] * 20 / np.abs(signal[V2]).max(), -2.0, 2.0)
    assert judge(signal).verdict is Verdict.REJECT
    assert "clipped lead V2" in judge(signal).reasons


def test_swapped_limb_leads_flag(good: np.ndarray) -> None:
    swapped = good[[0, 2, 1, *range(3, 12)]]
    found = judge(swapped)
    assert found.verdict is Verdict.FLAG
    assert "Einthoven" in found.reasons[0]


def test_a_unit_error_rejects(good: np.ndarray) -> None:
    assert judge(good * 1000).verdict is Verdict.REJECT


@pytest.mark.parametrize("seconds", [0, 1])
def test_no_heartbeat_rejects(good: np.ndarray, seconds: int) -> None:
    signal = 0.02 * np.sin(2 * np.pi * 0.3 * np.arange(1000) / 100) * np.ones((12, 1), dtype=np.float32)
    signal[:, : 100 * seconds] += good[:, : 100 * seconds]
    found = judge(signal.astype(np.float32))
    assert found.verdict is Verdict.REJECT
    assert "no plausible R peaks" in found.reasons


def test_a_missing_independent_lead_rejects(good: np.ndarray) -> None:
    present = np.ones((1, 12), dtype=bool)
    present[0, V2] = False
    signal = good.copy()
    signal[V2] = np.nan
    assert assess(signal[None], 100, present) == [Quality(Verdict.REJECT, ("missing lead V2",))]


def test_a_missing_derived_lead_is_nothing_to_mind(good: np.ndarray) -> None:
    present = np.ones((1, 12), dtype=bool)
    present[0, 2] = False
    assert assess(good[None], 100, present)[0].verdict is Verdict.ACCEPT


def test_wrong_rate_and_wrong_length_reject() -> None:
    assert check_form(1000, 100, 100) == Quality(Verdict.ACCEPT)
    assert check_form(5000, 500, 100).reasons == ("sampled at 500 Hz, expected 100 Hz",)
    assert check_form(800, 100, 100).reasons == ("8 s long, expected 10 s",)


def test_a_limb_lead_that_two_others_give_is_not_missing(good: np.ndarray) -> None:
    present = np.ones((1, 12), dtype=bool)
    present[0, [0, 3, 4, 5]] = False  # II and III are left
    assert assess(good[None], 100, present)[0].verdict is Verdict.ACCEPT
    present[0, 2] = False
    assert assess(good[None], 100, present)[0].reasons == ("missing lead I",)


def test_a_lead_that_is_blank_on_purpose_is_not_judged(good: np.ndarray) -> None:
    gone = np.zeros((1, 12), dtype=bool)
    gone[0, 8] = True
    good = np.where(gone[0][:, None], 0.0, good)
    assert assess(good[None], 100, ~gone)[0].verdict is Verdict.REJECT
    assert assess(good[None], 100, ~gone, blank=gone)[0].verdict is Verdict.ACCEPT


@pytest.mark.parametrize(
    ("factor", "unit"), [(1000.0, "microvolts given as milli"), (0.001, "millivolts given as micro")]
)
def test_a_mistaken_unit_is_named(good: np.ndarray, factor: float, unit: str) -> None:
    quality = assess((factor * good)[None], 100)[0]
    assert quality.verdict is Verdict.REJECT
    assert any(unit in reason for reason in quality.reasons)


def test_anything_but_twelve_leads_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="12"):
        assess(np.zeros((2, 8, 1000)), 100)
