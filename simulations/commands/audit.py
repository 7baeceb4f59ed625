"""``lavq audit``: attacks what a run leaves behind."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from lavq_core.runs.layout import RunFolder
    from simulations.audit.finding import Metrics

HELP = "attack a run by membership inference on every surface: what leaks about a patient, does a claimed epsilon hold"
EXAMPLE = """\
  lavq audit --plan --run runs/demo      # first: what could be shown, and how long it takes
  lavq audit --run runs/demo             # attacks detector, updates, codebook and twins
  lavq audit --run runs/demo --whole     # shadows train separator and twins too: sharper, and dear
  lavq audit --model exported --members in.csv --non-members out.csv     # without the run

an audit that was broken off goes on when it is started again. The lists have columns file, patient_id, NORM, MI, STTC,
CD, HYP (0 or 1), or ecg_id with --database DIR. A verdict is one of: leak found, consistent with the claim, no power at
this size. None of them says that a model is private."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--run", metavar="RUN", help="a finished run")
    parser.add_argument("--plan", action="store_true", help="attack nothing: say what sizes could show, and the time")
    parser.add_argument("--shadows", type=int, metavar="N", help="even, at least 6 (default: the run's audit.shadows)")
    parser.add_argument("--whole", action="store_true", help="shadows train separator, editor and twins too")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    group = parser.add_argument_group("a detector whose run is not at hand")
    group.add_argument("--model", metavar="DIR", help="of `lavq export`, or a run")
    group.add_argument("--members", metavar="CSV", help="who was trained on")
    group.add_argument("--non-members", metavar="CSV", help="who was not")
    group.add_argument("--database", metavar="DIR", help="of lists that name records by ecg_id, in PTB-XL's layout")
    group.add_argument("--out", metavar="DIR", default="audit", help="folder of answer and shadows (default: audit)")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from lavq_core.errors import ConfigError
    from lavq_core.runs.layout import RunFolder

    console = Console()
    if args.plan:
        from simulations.audit.plan import show_plan

        show_plan(RunFolder.open(args.run) if args.run else None, console, args.shadows, args.workers)
    elif args.model and args.members and args.non_members:
        show(_foreign(args), console)
        console.print(f"written to {Path(args.out) / 'audit.json'}", soft_wrap=True, highlight=False)
    elif args.run:
        run = RunFolder.open(args.run)
        show(_own(run, args), console)
        console.print(f"written to {run.audit / 'audit.json'}", soft_wrap=True, highlight=False)
    else:
        raise ConfigError("give --run RUN, or --model DIR with --members CSV and --non-members CSV, or --plan")
    return 0


def _own(run: RunFolder, args: argparse.Namespace) -> Metrics:
    from lavq_core.config import load_config
    from lavq_core.data.database import Database
    from lavq_core.report import build_report
    from lavq_core.settings_check import check
    from simulations.audit.run import audit_run
    from simulations.summary import update_metrics

    config = load_config(run.config)
    config.audit.shadows = args.shadows or config.audit.shadows
    config.audit.whole = args.whole or config.audit.whole
    check(config)
    metrics = audit_run(run, config, Database.configured(config.data), args.workers)
    if run.metrics.is_file():
        update_metrics(run, "audit.", metrics)
        build_report(run)
    return metrics


def _foreign(args: argparse.Namespace) -> Metrics:
    from dataclasses import replace

    from lavq_core.config import load_config
    from lavq_core.data.database import Database
    from lavq_core.runs.layout import RunFolder
    from simulations.audit.foreign import audit_model
    from simulations.audit.lists import listed_cohort

    model = RunFolder.open(args.model)
    data = load_config(model.config).data
    database = Database.configured(replace(data, cache_dir=""), args.database) if args.database else None
    cohort = listed_cohort(args.members, args.non_members, database, data.sampling_rate)
    return audit_model(model, cohort, Path(args.out), args.shadows, args.workers)


def show(metrics: Metrics, console: Console) -> None:
    """Print what was found: a line an attack and target."""
    from rich.table import Table

    from lavq_core.report.audit_evidence import attacks
    from lavq_core.report.numbers import Metrics as Evidence

    table = Table("surface", "attack", "on", "AUC", "TPR at 1 % FPR", "TPR at .1 % FPR")
    for row in attacks(Evidence(metrics)):
        cells = [_interval(metrics, row.key + what) for what in ("auc", "tpr_at_1pct_fpr", "tpr_at_01pct_fpr")]
        table.add_row(row.surface, row.attack, row.target, *cells)
    console.print(table)
    for key, words in (
        ("audit.epsilon_lower_bound", "epsilon is at least"),
        ("audit.claimed_epsilon", "claimed epsilon"),
        ("audit.members", "members"),
        ("audit.non_members", "non-members"),
        ("audit.control.auc", "control (folds asked for instead of membership), AUC"),
        ("audit.check.step", "check"),
        ("audit.check.separator", "check"),
        ("audit.check.files", "check"),
    ):
        if key in metrics:
            value = metrics[key]
            console.print(f"{words}: {value if isinstance(value, str) else format(value, '.4g')}", highlight=False)
    console.print(f"verdict: [bold]{metrics['audit.verdict']}[/bold]", highlight=False)


def _interval(metrics: Metrics, key: str) -> str:
    if key not in metrics:
        return ""
    value, low, high = (float(metrics[f"{key}{end}"]) for end in ("", ".low", ".high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
