"""``lavq run``: a federation inside this process."""

from __future__ import annotations

import argparse
from pathlib import Path

from simulations.commands.arguments import add_settings

HELP = "train a simulated federation inside this process, then judge, audit and report"
EXAMPLE = """\
  lavq run
  lavq run --data /path/to/ptb-xl preset=ptbxl federation.rounds=12 partition.scheme=dirichlet:0.1
  lavq run --resume runs/run-20260101-120000
  lavq run --data PUBLIC --out runs/network preset=detector
  lavq run privacy=eps3 detector.pretrained=runs/network

detector.pretrained and detector.start take runs on public ECGs. Public means that none of
their patients is a patient of a site: a site's epsilon does not hold for one who is.

settings (KEY=VALUE) are listed with their meaning in lavq_core/settings.py; presets: sample, ptbxl, detector, paper"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_settings(parser)
    parser.add_argument("--out", metavar="RUN", help="run folder (default: runs/run-TIME)")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run that was broken off, with its own settings")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    import logging

    from rich.console import Console

    from lavq_core.runs.layout import RunFolder
    from simulations.finish import finish_run
    from simulations.inprocess import run_in_process
    from simulations.launch import prepare
    from simulations.progress import following

    given = _settings_of(args) if args.resume else args.overrides
    overrides, config = prepare(given, args.data, args.out, "run")
    run = RunFolder(Path(config.run.dir))
    logging.getLogger("flwr").setLevel(logging.WARNING)  # its rounds are told below, one line each
    with following(run):
        run_in_process(overrides, config.federation.sites)
    report = finish_run(run)
    Console().print(f"report: {report}", soft_wrap=True, highlight=False)
    return 0


def _settings_of(args: argparse.Namespace) -> list[str]:
    """Read the settings of the run to go on with."""
    from lavq_core.config import as_overrides, load_config
    from lavq_core.errors import ConfigError
    from lavq_core.runs.layout import RunFolder

    if args.overrides or args.data or args.out:
        raise ConfigError("--resume takes its settings from the run's config.yaml: leave out KEY=VALUE, --data, --out")
    run = RunFolder.open(args.resume)
    config = load_config(run.config)
    config.run.dir, config.run.resume = str(run.root), True
    return as_overrides(config)
