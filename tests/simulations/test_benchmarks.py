"""Benchmarks: how times are taken, and that ours and each reference give the same. No time is asserted."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from lavq_core.data.database import Database
from lavq_core.errors import ConfigError, RunError
from lavq_core.signals.quality import Verdict, assess
from simulations.benchmarks.catalogue import COMPARED, GROWTHS, Aim
from simulations.benchmarks.evaluations import seconds_of_a_personal_detector
from simulations.benchmarks.federations import federated_round
from simulations.benchmarks.harness import Pair, Spread, Way, measure, slope
from simulations.benchmarks.plain_gate import judge
from simulations.benchmarks.processes import fresh_process, python
from simulations.benchmarks.setting import Setting
from simulations.benchmarks.suite import PAIRS, compare, grow, names, run_suite, serve
from simulations.benchmarks.tables import tables
from simulations.benchmarks.wang import WangResNet
from simulations.experiments.results_file import Row

_LARGE = {"round", "round-4", "round-50", "shadows"}  # rounds are below, shadows are tested with the audit
_TINY = ("detector.width=8", "detector.blocks=1", "separator.width=8", "separator.blocks=1", "codebook.size=8")


@pytest.fixture(scope="module")
def tiny(sample_database: Database, packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """The benchmarks at a fiftieth of their size."""
    return Setting(sample_database, str(packs), tmp_path_factory.mktemp("bench"), scale=0.02)


class Clock:
    """A clock that goes on by what the work says that it takes."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, list[str]()

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, *seconds: float):
        durations = itertools.cycle(seconds)

        def run() -> str:
            self.calls.append(name)
            self.now += next(durations)
            return "the same"

        return run


def test_ours_and_the_reference_take_turns_and_neither_is_always_first():
    clock = Clock()
    pair = Pair(Way(clock.work("ours", 1.0), 1), Way(clock.work("reference", 1.0), 1), str.__eq__, clock)
    measure("turns", pair, rounds=3)
    warm_up, pairs = clock.calls[:2], clock.calls[2:]
    assert warm_up == ["ours", "reference"]
    assert pairs == ["ours", "reference", "reference", "ours", "ours", "reference"]


def test_a_ratio_is_of_seconds_per_unit_and_its_median_withstands_one_bad_pair():
    clock = Clock()
    ours = clock.work("ours", 9.0, 1.0, 2.0, 1.0, 1.0, 50.0)  # the first call warms up
    reference = clock.work("reference", 9.0, 4.0, 8.0, 4.0, 5.0, 4.0)
    timing = measure("ratio", Pair(Way(ours, 10), Way(reference, 2), str.__eq__, clock), rounds=5)
    assert timing.ours == pytest.approx([0.1, 0.2, 0.1, 0.1, 5.0])
    assert timing.reference == pytest.approx([2.0, 4.0, 2.0, 2.5, 2.0])
    spread = Spread.of(timing.speed_up)
    assert (spread.median, spread.low, spread.high, spread.rounds) == pytest.approx((20.0, 0.4, 25.0, 5))
    assert timing.cost == pytest.approx(1 / timing.speed_up)


def test_two_ways_that_do_not_agree_are_not_compared():
    pair = Pair(Way(lambda: 1, 1), Way(lambda: 2, 1), lambda mine, other: mine == other)
    with pytest.raises(RunError, match="do not give the same"):
        measure("different", pair)


def test_the_slope_is_the_exponent_of_a_power_law():
    sizes = [10, 100, 1000]
    assert slope(sizes, [3.0 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_an_aim_is_met_on_its_own_side_of_the_figure():
    assert Aim(300).met(301)
    assert not Aim(300).met(299)
    assert Aim(1.5, at_most=True).met(1.4)
    assert not Aim(1.5, at_most=True).met(1.6)


def test_every_benchmark_of_the_catalogue_can_be_run_and_no_other():
    assert [entry.name for entry in COMPARED] == list(PAIRS)
    assert names() == [*PAIRS, *GROWTHS, "start", "report", "bytes", "memory", "serving", "personalize"]


@pytest.mark.parametrize("entry", [entry for entry in COMPARED if entry.name not in _LARGE], ids=lambda e: e.name)
def test_ours_and_the_reference_give_the_same(entry, tiny):
    if entry.name == "codebook":
        pytest.importorskip("vector_quantize_pytorch")
    rows = {row.metric: row for row in compare(entry, tiny, rounds=1)}
    ratio = rows[f"{entry.name}.ratio"]
    ours, reference = (rows[f"{entry.name}.{which}"].value for which in ("seconds", "reference_seconds"))
    assert ratio.value == pytest.approx(ours / reference if entry.is_cost else reference / ours)
    assert (ratio.arm, ratio.n) == (entry.name, 1)


def test_a_federated_round_and_its_local_steps_end_with_the_same_weights_bit_for_bit(tiny):
    few = ("federation.rounds=1", "detector_training.epochs=1", "twins.after=0", "separator_training.after=0")
    own = ("separator_training.steps=1", "separator_training.batch=4", "twins.gallery=1", *_TINY)
    pair = federated_round(tiny, 3, *few, *own)
    ours, reference = pair.ours.run(), pair.reference.run()
    assert len(ours) == len(reference) > 0
    assert all(np.array_equal(a, b) for a, b in zip(ours, reference, strict=True))
    assert pair.agree(ours, reference)


@pytest.mark.parametrize("name", GROWTHS)
def test_growth_is_measured_at_three_sizes_or_more_and_has_a_slope(name, tiny):
    rows = grow(name, tiny, rounds=1)
    assert rows[-1].metric == "slope"
    assert len(rows) >= 3
    assert all(row.value > 0 for row in rows[:-1])


def test_the_plain_gate_says_what_the_gate_says_of_good_and_bad_records(tiny):
    rng = np.random.default_rng(0)
    database = tiny.database
    good = np.zeros((6, 12, 1000), np.float32)
    good[:, [0, 1, *range(6, 12)]] = database.signals(np.arange(6)).numpy()
    good[:, 2], good[:, 3] = good[:, 1] - good[:, 0], -(good[:, 0] + good[:, 1]) / 2
    good[:, 4], good[:, 5] = good[:, 0] - good[:, 1] / 2, good[:, 1] - good[:, 0] / 2
    bad = np.repeat(good[:1], 8, axis=0)
    bad[0, 7, 10] = np.nan
    bad[1, 6] = 0.0
    bad[2, 8] *= 20
    bad[3, 0], bad[3, 1] = good[0, 1], good[0, 0]
    bad[4, 9] = np.clip(bad[4, 9] * 30, -2, 2)
    bad[5, 10, 100:400] = bad[5, 10, 100]
    bad[6] = 0.3 * rng.standard_normal((12, 1000))
    bad[7] /= 1000.0
    signals = np.concatenate([good, bad]).astype(np.float32)
    verdicts = assess(signals, 100)
    assert [judge(signal, 100) for signal in signals] == verdicts
    assert {verdict.verdict for verdict in verdicts} == set(Verdict)


def test_the_reference_detector_has_the_size_of_the_one_it_stands_for():
    model = WangResNet()
    assert sum(weights.numel() for weights in model.parameters()) == 473_349
    assert model(torch.zeros(2, 12, 1000)).shape == (2, 5)


def test_a_fresh_process_tells_its_own_peak_of_memory():
    small, large = (
        fresh_process(python("pass")),
        fresh_process(python("x = bytearray(200_000_000); x[::4096] = x[1::4096]")),
    )
    assert large.peak_bytes - small.peak_bytes == pytest.approx(200e6, rel=0.1)
    with pytest.raises(RunError, match="SystemError"):
        fresh_process(python("raise SystemError('no')"))


@pytest.mark.slow
def test_the_inference_service_is_asked_on_one_core_and_the_others_are_given_back(tiny):
    before = os.sched_getaffinity(0)
    rows = {row.metric: row.value for row in serve(tiny, rounds=2)}
    assert os.sched_getaffinity(0) == before
    assert rows["detect.per_second"] > 0 < rows["detect.p99_seconds"]


@pytest.mark.slow
def test_a_personal_detector_is_made_by_the_command_itself(tiny):
    seconds = seconds_of_a_personal_detector(tiny, 1, *_TINY, "separator_training.batch=4", "detector_training.steps=2")
    assert seconds[0] > 0
    assert list(tiny.work.glob("personal-*/*.safetensors"))


def test_an_unknown_benchmark_is_named_with_those_there_are(tiny):
    with pytest.raises(ConfigError, match=r"no benchmark named nothing.*batches"):
        run_suite(tiny, 5, Console(quiet=True), ["nothing"])


def test_a_limit_that_has_passed_ends_the_suite_without_a_result(tiny):
    with pytest.raises(RunError, match="1 benchmarks are left"):
        run_suite(tiny, 5, Console(quiet=True), ["gate"], seconds=1e-9)


def rows_of(name: str, ratio: float) -> list[Row]:
    return [
        Row(name, f"{name}.{metric}", value, 0.9 * value, 1.1 * value, 5, 1)
        for metric, value in (("ratio", ratio), ("seconds", 2e-5), ("reference_seconds", 2e-5 * ratio))
    ]


def test_the_table_shows_the_spread_and_says_which_aims_were_missed():
    rows = [*rows_of("batches", 250.0), *rows_of("packing", 25.0), *rows_of("dp-step", 1.8)]
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in tables(rows)}
    batches = next(line for what, line in lines.items() if "random batches" in what)
    assert "250 [225, 275]" in batches
    assert "20 us a record | 5 ms" in batches
    assert ">= 300, **missed**" in batches
    assert ">= 20, met" in next(line for what, line in lines.items() if "first packing" in what)
    assert "<= 1.5, **missed**" in next(line for what, line in lines.items() if "DP step" in what)


def test_a_ratio_to_another_days_constant_has_a_table_of_its_own_that_says_so():
    constant = Row("twins-100hz", "twins-100hz.constant_ratio", 60.0, 50.0, 70.0, 5, 1)
    lines = tables([*rows_of("twins-100hz", 9.0), constant])
    head = next(number for number, line in enumerate(lines) if "a constant measured on another day" in line)
    assert any("60 [50, 70]" in line and "**missed**" in line for line in lines[head:])
    assert not any("60 [50, 70]" in line for line in lines[:head])


def test_growth_and_plain_figures_have_their_rows():
    rows = [Row("growth-sites", f"seconds.{n}", 0.01 * n, 0, 1, 5, 1) for n in (4, 50)]
    rows += [Row("growth-sites", "slope", 1.0, 0.9, 1.1, 5, 1), Row("start", "help.seconds", 0.4, 0.3, 0.5, 5, 1)]
    text = "\n".join(tables(rows))
    assert "4: 40 ms, 50: 500 ms" in text
    assert "| `lavq --help` | 0.4 s | <= 0.5, met |" in text
