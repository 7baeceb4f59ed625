"""All benchmarks: their rows in the results file ``bench``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console

from lavq_core.errors import ConfigError, RunError
from simulations.benchmarks import (
    detectors,
    evaluations,
    federations,
    loading,
    private_steps,
    processes,
    scaling,
    serving,
    twin_networks,
)
from simulations.benchmarks.catalogue import COMPARED, GROWTHS, LAVQ_EDITOR_BYTES, Compared
from simulations.benchmarks.harness import Pair, Spread, measure, slope
from simulations.benchmarks.processes import fresh_process
from simulations.benchmarks.scaling import Growth
from simulations.benchmarks.setting import Setting
from simulations.experiments.results_file import Row

PAIRS: dict[str, Callable[[Setting], Pair]] = {
    "batches": loading.batches,
    "packing": loading.packing,
    "gate": loading.gate,
    "beats": loading.beats,
    "description": loading.description,
    "detector-training": detectors.training,
    "detector-inference": detectors.inference,
    "detector-batching": detectors.one_by_one,
    "codebook": twin_networks.codebook,
    "separator-training": twin_networks.separator_step,
    "twins-100hz": twin_networks.twins_100,
    "twins-500hz": twin_networks.twins_500,
    "dp-step-opacus": private_steps.resnet_opacus,
    "bootstrap": evaluations.bootstrap,
    "shadows": evaluations.shadows,
    "aggregation": federations.aggregation,
    "dp-step": private_steps.resnet_plain,
    "dp-separator": private_steps.separator_plain,
    "round": federations.round_preset,
    "round-4": federations.round_4,
    "round-50": federations.round_50,
}
_GROWTHS: dict[str, Callable[[Setting], Growth]] = {
    "growth-batches": scaling.batches,
    "growth-sites": scaling.sites,
    "growth-inference": scaling.inference,
}
_SMALL = 0.02  # s, below which a call of a growth is repeated


def run_suite(
    setting: Setting, rounds: int, console: Console, only: Sequence[str] = (), seconds: float = 0.0
) -> list[Row]:
    """Run the benchmarks, one line each on the console.

    Args:
        setting: data and sizes.
        rounds: pairs of each comparison.
        console: for progress.
        only: names; all when empty.
        seconds: limit of all together; 0: none.

    Raises:
        ConfigError: an unknown name.
        RunError: the limit has passed before all were done, or ours and a reference do not agree.
    """
    benchmarks = _benchmarks()
    unknown = sorted(set(only) - set(benchmarks))
    if unknown:
        raise ConfigError(f"no benchmark named {', '.join(unknown)}: choose from {', '.join(benchmarks)}")
    chosen = [name for name in benchmarks if not only or name in only]
    began, rows = time.monotonic(), list[Row]()
    for number, name in enumerate(chosen, start=1):
        if seconds and time.monotonic() - began > seconds:
            raise RunError(
                f"{seconds:g} s have passed, {len(chosen) - number + 1} benchmarks are left: nothing is written"
            )
        started = time.monotonic()
        with console.status(f"{number} of {len(chosen)}: {name}"):
            found = benchmarks[name](setting, rounds)
        console.print(f"{name} ({time.monotonic() - started:.0f} s): {_line(found)}", highlight=False, soft_wrap=True)
        rows += found
    return rows


def names() -> list[str]:
    """Return the benchmarks' names, in the order in which they run."""
    return list(_benchmarks())


def _benchmarks() -> dict[str, Callable[[Setting, int], list[Row]]]:
    found: dict[str, Callable[[Setting, int], list[Row]]] = {}
    for entry in COMPARED:
        found[entry.name] = lambda setting, rounds, entry=entry: compare(entry, setting, rounds)  # type: ignore[misc]
    for name in GROWTHS:
        found[name] = lambda setting, rounds, name=name: grow(name, setting, rounds)  # type: ignore[misc]
    found |= {"start": start, "report": report, "bytes": traffic, "memory": memory}
    return found | {"serving": serve, "personalize": personalise}


def compare(entry: Compared, setting: Setting, rounds: int) -> list[Row]:
    """Time a pair: the ratio, s a unit of both, and the ratio to a constant where there is one."""
    timing = measure(entry.name, PAIRS[entry.name](setting), rounds)
    name = entry.name
    rows = [
        _row(name, f"{name}.ratio", timing.cost if entry.is_cost else timing.speed_up),
        _row(name, f"{name}.seconds", timing.ours),
        _row(name, f"{name}.reference_seconds", timing.reference),
    ]
    if entry.constant is not None:
        rows.append(_row(name, f"{name}.constant_ratio", entry.constant / timing.ours))
    return rows


def grow(name: str, setting: Setting, rounds: int) -> list[Row]:
    """Time the same work at several sizes, in turn: s each, and the slope of their logarithms."""
    growth = _GROWTHS[name](setting)
    repeats = [max(1, int(_SMALL / max(_seconds(call), 1e-6))) for call in growth.calls]  # warms up, too
    taken = [[_seconds(call, often) for call, often in zip(growth.calls, repeats, strict=True)] for _ in range(rounds)]
    rows = [_row(name, f"seconds.{size}", [one[place] for one in taken]) for place, size in enumerate(growth.sizes)]
    return [*rows, _row(name, "slope", [slope(growth.sizes, one) for one in taken])]


def _seconds(call: Callable[[], object], often: int = 1) -> float:
    began = time.process_time()
    for _ in range(often):
        call()
    return (time.process_time() - began) / often


def start(setting: Setting, rounds: int) -> list[Row]:
    """Seconds of fresh processes, taken in turn."""
    commands = {
        "python": processes.BARE, "help": processes.HELP, "import": processes.IMPORT, "first_use": processes.FIRST_USE
    }  # fmt: skip
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            taken[name].append(fresh_process(command).seconds)
    return [_row("start", f"{name}.seconds", values) for name, values in taken.items()]


def report(setting: Setting, rounds: int) -> list[Row]:
    """Seconds of a report."""
    return [_row("report", "report.seconds", evaluations.seconds_of_a_report(setting, rounds))]


def personalise(setting: Setting, rounds: int) -> list[Row]:
    """Seconds of ``lavq personalize``."""
    return [_row("personalize", "personalize.seconds", evaluations.seconds_of_a_personal_detector(setting, rounds))]


def serve(setting: Setting, rounds: int) -> list[Row]:
    """ECGs a second and s of one, of the inference service."""
    rates, waits = serving.detections(setting, rounds)
    return [_row("serving", "detect.per_second", rates), _row("serving", "detect.p99_seconds", waits)]


def traffic(setting: Setting, rounds: int) -> list[Row]:
    """Bytes of a round and site; they do not vary."""
    counts = federations.bytes_of_a_round(setting)
    rows = [_row("bytes", f"bytes.{way}", [count]) for way, count in counts.items()]
    return [*rows, _row("bytes", "lavq-editor.ratio", [LAVQ_EDITOR_BYTES / sum(counts.values())])]


def memory(setting: Setting, rounds: int) -> list[Row]:
    """Peak memory of a round in a fresh process each, on the sample, and on the data where these are others."""
    few = ("detector_training.steps=4", "detector_training.epochs=.05")
    rows = [("sample", fresh_process(processes.round_on(setting, setting.sample.folder)))]
    if setting.database.fingerprint != setting.sample.fingerprint:
        rows.append(("data", fresh_process(processes.round_on(setting, setting.database.folder, "preset=ptbxl", *few))))
    return [_row("memory", f"{name}.peak_bytes", [float(cost.peak_bytes)]) for name, cost in rows]


def _row(arm: str, metric: str, values: Sequence[float] | np.ndarray) -> Row:
    spread = Spread.of(values)
    return Row(arm, metric, spread.median, spread.low, spread.high, spread.rounds, 1)


def _line(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row.metric} {row.value:.4g} [{row.low:.4g}, {row.high:.4g}]" for row in rows)
