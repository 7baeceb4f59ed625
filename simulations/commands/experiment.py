"""``lavq experiment``: an experiment over many runs, ending in a results file."""

from __future__ import annotations

import argparse
from pathlib import Path

from simulations.commands.arguments import add_settings

HELP = "run an experiment over several arms and seeds and write its results file"
EXAMPLE = """\
  lavq experiment federation --data /path/to/ptb-xl --seeds 3 preset=ptbxl"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", choices=["federation"], help="federation: centralised, local only, federated")
    add_settings(parser)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm (default 3)")
    parser.add_argument("--workers", type=int, default=2, help="trainings at the same time, one core each (default 2)")
    parser.add_argument("--work", metavar="DIR", help="keeps each training, so that a broken-off experiment goes on")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    import shlex
    import time

    from rich.console import Console

    from lavq_core.data.database import Database
    from simulations.experiments.federation import run_experiment, score
    from simulations.experiments.results_file import FOLDER, write_results
    from simulations.launch import prepare

    began = time.monotonic()
    work = Path(args.work or "runs/experiment-federation").resolve()
    overrides, config = prepare(args.overrides, args.data, str(work / "unused"), "experiment")
    overrides = [override for override in overrides if not override.startswith("run.dir=")]
    predictions = run_experiment(overrides, args.seeds, work, args.workers)
    settings = config.data
    database = Database.configured(settings)
    data = {
        "name": Path(settings.dir).name,
        "fingerprint": database.fingerprint,
        "records": len(database),
        "patients": int(database.table["patient_id"].nunique()),
        "test_records": int((database.table["strat_fold"] == settings.test_fold).sum()),
    }
    command = shlex.join(
        ["lavq", "experiment", args.name, "--data", "DIR", "--seeds", str(args.seeds), *args.overrides]
    )
    path = write_results(args.name, command, data, time.monotonic() - began, score(predictions))
    kept = FOLDER / "predictions" / f"{args.name}.csv.gz"
    kept.parent.mkdir(parents=True, exist_ok=True)
    predictions.drop(columns=["fold"]).to_csv(
        kept, index=False, float_format="%.3f", compression={"method": "gzip", "mtime": 0}
    )
    Console().print(f"results: {path}\nnow `lavq results` puts them into the README", soft_wrap=True, highlight=False)
    return 0
