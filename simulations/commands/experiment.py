"""``lavq experiment``: an experiment over many runs, ending in a results file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simulations.commands.arguments import add_settings

if TYPE_CHECKING:
    from simulations.experiments.results_file import Row

HELP = "run an experiment over several arms and seeds and write its results file"
EXAMPLE = """\
  lavq experiment population --data /path/to/ptb-xl --seeds 3 preset=detector
  lavq experiment federation --data /path/to/ptb-xl --seeds 3 preset=ptbxl --arms fedavg fedprox --partitions site iid
  lavq experiment twins --data /path/to/ptb-xl --seeds 3 preset=ptbxl
  lavq experiment transfer --data /path/to/ptb-xl --seeds 3 preset=ptbxl --site site-2 --classes MI
  lavq experiment personal --data /path/to/ptb-xl --seeds 3 preset=ptbxl twins.per_record=0
  lavq experiment privacy --data /path/to/ptb-xl --seeds 3 preset=ptbxl
  lavq experiment audit --data /path/to/ptb-xl --seeds 3 preset=ptbxl"""
_NAMES = {
    "population": "a centralised detector: sites, subgroups, calibration, thresholds",
    "federation": "centralised, local only, federated",
    "twins": "twins before judges that never trained them",
    "transfer": "twins of a disease that a site never saw",
    "personal": "one patient's detector from that patient's twins, against controls",
    "privacy": "the federated detector at epsilon 8, 3 and 1 per patient, and without; what public ECGs add",
    "audit": "what leaks at epsilon 8, 3 and 1 and without, on every surface; and the auditor's test bench",
}
_ARMS = ["centralised", "local", "fedavg", "fedavg-no-twins", "fedavg-moments"]
_ALL_ARMS = [*_ARMS, "fedprox", "fedadam", "leave-out"]
_SHARES = ("all", "editor", "prior", "codebook")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", choices=list(_NAMES), help="; ".join(f"{k}: {v}" for k, v in _NAMES.items()))
    add_settings(parser)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm (default 3)")
    parser.add_argument("--workers", type=int, default=2, help="trainings at the same time, one core each (default 2)")
    parser.add_argument("--work", metavar="DIR", help="keeps each training, so that a broken-off experiment goes on")
    parser.add_argument(
        "--arms",
        nargs="+",
        default=_ARMS,
        help=f"federation: of {', '.join(_ALL_ARMS)} (default: the first five)",
    )
    parser.add_argument("--partitions", nargs="+", default=["site"], help="federation: site, dirichlet-0.1, iid (site)")
    parser.add_argument("--site", default="site-2", help="transfer: from which hospital a class is taken (site-2)")
    parser.add_argument("--classes", nargs="+", default=["MI"], help="transfer: which, each in turn (default MI)")
    parser.add_argument("--share", nargs="+", choices=_SHARES, default=["all"], help="transfer: what travels (all)")
    parser.add_argument("--each", type=int, default=1, help="transfer: twins made of a record (1)")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    import shlex
    import time

    from rich.console import Console

    from lavq_core.data.database import Database
    from simulations.experiments.results_file import write_results
    from simulations.launch import prepare

    began = time.monotonic()
    work = Path(args.work or f"runs/experiment-{args.name}").resolve()
    overrides, config = prepare(args.overrides, args.data, str(work / "unused"), "experiment")
    overrides = [override for override in overrides if not override.startswith("run.dir=")]
    rows = _experiment(args, overrides, work)()
    settings = config.data
    database = Database.configured(settings)
    data = {
        "name": Path(settings.dir).name,
        "fingerprint": database.fingerprint,
        "records": len(database),
        "patients": int(database.table["patient_id"].nunique()),
        "test_records": int((database.table["strat_fold"] == settings.test_fold).sum()),
    }
    own = {
        "transfer": ["--site", args.site, "--classes", *args.classes, "--share", *args.share, "--each", str(args.each)],
        "federation": ["--arms", *args.arms, "--partitions", *args.partitions],
    }.get(args.name, [])
    asked = [override for override in args.overrides if not override.startswith("data.cache_dir=")]  # a machine's own
    command = shlex.join(["lavq", "experiment", args.name, "--data", "DIR", "--seeds", str(args.seeds), *asked, *own])
    path = write_results(args.name, command, data, time.monotonic() - began, rows)
    Console().print(f"results: {path}\nnow `lavq results` puts them into the README", soft_wrap=True, highlight=False)
    return 0


def _experiment(args: argparse.Namespace, overrides: Sequence[str], work: Path) -> Callable[[], list[Row]]:
    if args.name == "twins":
        from simulations.experiments.twins import run_twins

        return lambda: run_twins(overrides, args.seeds, work, args.workers)
    if args.name == "population":
        return lambda: _population(args, overrides, work)
    if args.name == "privacy":
        return lambda: _privacy(args, overrides, work)
    if args.name == "audit":
        from simulations.experiments.audit import run_audit

        return lambda: run_audit(overrides, args.seeds, work, args.workers)
    if args.name == "personal":
        from simulations.experiments.personal import run_personal

        return lambda: run_personal(overrides, args.seeds, work, args.workers)
    if args.name == "transfer":
        from simulations.experiments.transfer import run_transfer

        own = (args.site, args.classes, args.share, args.each)
        return lambda: run_transfer(overrides, args.seeds, work, args.workers, *own)
    from simulations.experiments.federation import arms_of, run_experiment, score, write_predictions

    def federation() -> list[Row]:
        arms = arms_of(args.arms, args.partitions, overrides)
        predictions, costs = run_experiment(overrides, args.seeds, work, args.workers, arms)
        write_predictions(predictions)
        return score(predictions) + costs

    return federation


def _privacy(args: argparse.Namespace, overrides: Sequence[str], work: Path) -> list[Row]:
    import pandas as pd

    from simulations.experiments.federation import write_predictions
    from simulations.experiments.privacy import run_privacy
    from simulations.experiments.privacy_public import run_public

    asked = (overrides, args.seeds, work, args.workers)
    (everywhere, rows), (others, more) = run_privacy(*asked), run_public(*asked)
    write_predictions(pd.concat([everywhere, others], ignore_index=True), "privacy")
    return rows + more


def _population(args: argparse.Namespace, overrides: Sequence[str], work: Path) -> list[Row]:
    from lavq_core.config import compose
    from lavq_core.data.database import Database
    from simulations.experiments.population import run_population, score, write_population_predictions

    predictions = run_population(overrides, args.seeds, work, args.workers)
    write_population_predictions(predictions)
    config = compose(overrides)
    return score(predictions, Database.configured(config.data), config)
