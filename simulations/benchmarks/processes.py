"""What only a fresh process shows: seconds to start, and the largest memory, by the operating system's account."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lavq_core.errors import RunError
from simulations.benchmarks.setting import Setting
from simulations.launch import quoted

_KIB = 1024
# A child is charged with the largest memory of the process that started it, too. So a small one stands between.
_WAITER = """
import os, subprocess, sys, time
began = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(child.pid, 0)
print(time.perf_counter() - began, used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    seconds: float
    peak_bytes: int  # largest resident set


def fresh_process(command: Sequence[str]) -> Cost:
    """Run a command to its end.

    Raises:
        RunError: it failed; the last line that it wrote says why.
    """
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [*python(_WAITER), *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    words = done.stderr.strip().splitlines()
    if done.returncode != 0:
        raise RunError(f"{' '.join(command)} failed: {words[-1] if words else done.returncode}")
    seconds, peak = done.stdout.split()
    return Cost(float(seconds), int(peak) * (_KIB if sys.platform != "darwin" else 1))


def python(code: str) -> list[str]:
    """Make the command that runs some code in a fresh interpreter."""
    return [sys.executable, "-c", code]


def lavq(*arguments: str) -> list[str]:
    """Make the command that calls this checkout's ``lavq`` in a fresh interpreter."""
    return python(f"from lavq_core.cli.main import main; raise SystemExit(main({list(arguments)!r}))")


BARE = python("pass")  # the interpreter's own start
HELP = lavq("--help")
IMPORT = python("import lavq_core")
FIRST_USE = python("import lavq_core; lavq_core.load_run, lavq_core.read_ecg, lavq_core.write_ecg")


def round_on(setting: Setting, folder: Path, *own: str) -> list[str]:
    """Make the command of one whole round on a database: the data and models of a run, few of its steps."""
    cache = [f"data.cache_dir={quoted(Path(setting.cache_dir))}"] if setting.cache_dir else []
    overrides = [
        f"data.dir={quoted(folder.resolve())}", *cache, f"run.dir={quoted(setting.fresh('memory'))}",
        "federation.rounds=1", "separator_training.after=0", "twins.after=0", "separator_training.steps=2", *own,
    ]  # fmt: skip
    return python(f"from simulations.inprocess import run_in_process; run_in_process({overrides!r}, 4)")
