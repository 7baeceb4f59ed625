"""``lavq bench``: speed, memory and bytes, each beside a reference in the same run."""

from __future__ import annotations

import argparse

HELP = "measure speed, memory and bytes beside references, and write the results file bench"
EXAMPLE = """\
  lavq bench --data /path/to/ptb-xl
  lavq bench --only batches dp-step --rounds 9      # a trial: nothing is written

ours and the reference take turns in one process, on one thread; the figure is the median ratio of the pairs"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--data", metavar="DIR", help="a folder in PTB-XL's layout (default: the bundled sample)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these benchmarks, and write no file")
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="pairs of ours and the reference, 5 or more (default 5)"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.0, metavar="LIMIT", help="give up after so long (default: never)"
    )
    parser.add_argument(
        "--cache-dir", default="", metavar="DIR", help="packed signals (default: the user's cache folder)"
    )


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    import logging
    import shlex
    import tempfile
    import time
    from pathlib import Path

    import torch
    from rich.console import Console

    from lavq_core.data.database import Database
    from lavq_core.errors import ConfigError
    from simulations.benchmarks.harness import FEWEST_ROUNDS
    from simulations.benchmarks.setting import Setting
    from simulations.benchmarks.suite import run_suite
    from simulations.experiments.results_file import write_results
    from simulations.launch import SAMPLE

    if args.rounds < FEWEST_ROUNDS:
        raise ConfigError(f"--rounds must be {FEWEST_ROUNDS} or more: fewer pairs give no spread")
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)  # a line a round, of hundreds of rounds
    began, console = time.monotonic(), Console()
    database = Database.open(args.data or SAMPLE, cache_dir=args.cache_dir or None)
    with tempfile.TemporaryDirectory(prefix="lavq-bench-") as work:
        setting = Setting(database, str(Path(args.cache_dir).resolve()) if args.cache_dir else "", Path(work).resolve())
        rows = run_suite(setting, args.rounds, console, args.only, args.seconds)
    if args.only:
        console.print("a trial of some benchmarks: no file was written")
        return 0
    data = {
        "name": Path(database.folder).name,
        "fingerprint": database.fingerprint,
        "records": len(database),
        "patients": int(database.table["patient_id"].nunique()),
    }
    command = shlex.join(["lavq", "bench", *(["--data", "DIR"] if args.data else []), "--rounds", str(args.rounds)])
    path = write_results("bench", command, data, time.monotonic() - began, rows)
    console.print(f"results: {path}\nnow `lavq results` puts them into the README", soft_wrap=True, highlight=False)
    return 0
