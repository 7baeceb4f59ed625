"""``lavq experiment``: an experiment over many runs, ending in a results file."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulations.commands.arguments import add_settings

if TYPE_CHECKING:
    from simulations.experiments.results_file import Row

HELP = "run an experiment over several arms and seeds and write its results file"
_NAMES = {
    "population": "a centralised detector: sites, subgroups, calibration, thresholds",
    "federation": "centralised, local only, federated",
    "twins": "twins before judges that never trained them",
    "transfer": "twins of a disease that a site never saw",
    "personal": "one patient's detector from that patient's twins, against controls",
    "privacy": "the federated detector at epsilon 8, 3 and 1 per patient, and without; public ECGs",
    "audit": "what leaks at epsilon 8, 3 and 1 and without; the auditor's test bench",
    "scaling": "depth, width and kernel of the detector against macro AUC and cost",
    "noise": "a noise score trained without noise labels, beside the quality gate",
    "shift": "hospitals left out: plain, augmented, warped adversarially, with twins",
}
EXAMPLE = """\
  lavq experiment population --data /path/to/ptb-xl --seeds 3 preset=detector
  lavq experiment federation --data /path/to/ptb-xl --seeds 3 preset=ptbxl
  lavq experiment federation preset=sample --arms fedavg fedprox --partitions site iid
  lavq experiment twins --data /path/to/ptb-xl --seeds 3 preset=ptbxl
  lavq experiment transfer --data /path/to/ptb-xl --seeds 3 preset=ptbxl --site site-2 --classes MI
  lavq experiment personal --data /path/to/ptb-xl --seeds 3 preset=ptbxl twins.per_record=0
  lavq experiment privacy --data /path/to/ptb-xl --seeds 3 preset=ptbxl
  lavq experiment scaling --data /path/to/ptb-xl --seeds 3 preset=detector --depths 2 3 4
  lavq experiment noise --data /path/to/ptb-xl --seeds 3
  lavq experiment shift --data /path/to/ptb-xl --seeds 3 preset=ptbxl --arms none standard tada
  lavq experiment audit --data /path/to/ptb-xl --seeds 3 preset=ptbxl

experiments:
""" + "\n".join(f"  {name:12}{words}" for name, words in _NAMES.items())
_ARMS = ["centralised", "local", "fedavg", "fedavg-no-twins", "fedavg-moments"]
_ALL_ARMS = [*_ARMS, "fedprox", "fedadam", "leave-out"]
_SHIFT_ARMS = ["none", "standard", "tada", "twins", "twins-tada"]
_OWN = {  # options of an experiment beside those of all
    "federation": ("arms", "partitions"),
    "transfer": ("site", "classes", "share", "each"),
    "scaling": ("depths", "widths", "kernels"),
    "shift": ("arms",),
}
_SIZES = {"depths": ("blocks", [2, 3, 4]), "widths": ("channels", [16, 32, 64]), "kernels": ("samples", [3, 7, 15])}
_SHARES = ("all", "editor", "prior", "codebook")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", choices=list(_NAMES), metavar="NAME", help="of an experiment, listed below")
    add_settings(parser)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each arm (default 3)")
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="trainings at the same time, one core each (default 2)"
    )
    parser.add_argument(
        "--work",
        metavar="DIR",
        help="keeps each training, so that a broken-off experiment goes on (default runs/experiment-NAME)",
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        metavar="ARM",
        help=f"federation: of {', '.join(_ALL_ARMS)} (default: the first five), ARM/SCHEME takes one partition alone; "
        f"shift: of {', '.join(_SHIFT_ARMS)} (default: all)",
    )
    parser.add_argument(
        "--partitions",
        nargs="+",
        default=["site"],
        metavar="SCHEME",
        help="federation: site, dirichlet-0.1, iid (default site)",
    )
    parser.add_argument(
        "--site", default="site-2", metavar="NAME", help="transfer: what hospital loses a class (default site-2)"
    )
    parser.add_argument(
        "--classes", nargs="+", default=["MI"], metavar="CLASS", help="transfer: which, each in turn (default MI)"
    )
    parser.add_argument(
        "--share",
        nargs="+",
        choices=_SHARES,
        default=["all"],
        metavar="WHAT",
        help=f"transfer: what travels, of {', '.join(_SHARES)} (default all)",
    )
    parser.add_argument("--each", type=int, default=1, metavar="N", help="transfer: twins made of a record (default 1)")
    for name, (what, default) in _SIZES.items():
        shown = f"scaling: {what}, each (default {' '.join(map(str, default))})"
        parser.add_argument(f"--{name}", nargs="+", type=int, default=default, metavar="N", help=shown)


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    import shlex
    import time

    from rich.console import Console

    from lavq_core.data.database import Database
    from simulations.experiments.results_file import write_results
    from simulations.launch import prepare

    began = time.monotonic()
    args.arms = args.arms or (_SHIFT_ARMS if args.name == "shift" else _ARMS)
    work = Path(args.work or f"runs/experiment-{args.name}").resolve()
    overrides, config = prepare(args.overrides, args.data, str(work / "unused"), "experiment")
    overrides = [override for override in overrides if not override.startswith("run.dir=")]
    run = getattr(import_module(f"simulations.experiments.{args.name}"), f"run_{args.name}")
    rows: list[Row] = run(overrides, args.seeds, work, args.workers, *_own(args).values())
    settings = config.data
    database = Database.configured(settings)
    data = {
        "name": Path(settings.dir).name,
        "fingerprint": database.fingerprint,
        "records": len(database),
        "patients": int(database.table["patient_id"].nunique()),
        "test_records": int((database.table["strat_fold"] == settings.test_fold).sum()),
    }
    own = [word for name, value in _own(args).items() for word in (f"--{name}", *map(str, _listed(value)))]
    asked = [override for override in args.overrides if not override.startswith("data.cache_dir=")]  # a machine's own
    command = shlex.join(["lavq", "experiment", args.name, "--data", "DIR", "--seeds", str(args.seeds), *asked, *own])
    path = write_results(args.name, command, data, time.monotonic() - began, rows)
    Console().print(f"results: {path}\nnow `lavq results` puts them into the README", soft_wrap=True, highlight=False)
    return 0


def _own(args: argparse.Namespace) -> dict[str, Any]:
    """Options that this experiment takes beside those of all, in the order of its function."""
    return {name: getattr(args, name) for name in _OWN.get(args.name, ())}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
