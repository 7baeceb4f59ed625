"""``lavq evaluate``: score a file of predictions against a database, whoever made it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from lavq_core.data.predictions import Judged
    from lavq_core.metrics.auc import Interval
    from lavq_core.models.calibration import Calibration

HELP = "score anybody's predictions: AUC, calibration, thresholds, sites and subgroups, with intervals"
EXAMPLE = """\
  lavq detect --run runs/demo --database /path/to/ptb-xl --out predictions.csv
  lavq evaluate predictions.csv --database /path/to/ptb-xl --out evaluation.json

the file needs a column ecg_id and one per class: NORM, MI, STTC, CD, HYP; labels, patients, sites, age, sex and device
come from the database. Temperatures and thresholds are chosen on the validation fold's rows of the same file."""
_BY_CLASS = ("auc", "auprc", "brier", "ece_raw", "ece", "sensitivity", "specificity")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("predictions", metavar="CSV", help="a row per ECG, a probability per class")
    parser.add_argument("--database", required=True, metavar="DIR", help="a folder in PTB-XL's layout; tables only")
    parser.add_argument("--fold", type=int, default=10, metavar="N", help="is scored (default 10, the test fold)")
    parser.add_argument(
        "--calibration-fold", type=int, default=9, metavar="N", help="chooses temperatures and thresholds (default 9)"
    )
    parser.add_argument(
        "--sensitivity", type=float, default=0.9, metavar="SHARE", help="that thresholds must reach (default 0.9)"
    )
    parser.add_argument(
        "--minimum-likelihood",
        type=float,
        default=0.0,
        metavar="PERCENT",
        help="a diagnosis counts from this likelihood on (default 0: every diagnosis)",
    )
    parser.add_argument("--out", metavar="JSON", help="every figure with its interval")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from lavq_core.data.predictions import judge_predictions, read_predictions
    from lavq_core.errors import ConfigError, DataError
    from lavq_core.metrics.population import Scored, evaluate

    if not 0.0 < args.sensitivity <= 1.0:
        raise ConfigError("--sensitivity must lie above 0, up to 1")
    if args.fold == args.calibration_fold:
        raise ConfigError("--fold and --calibration-fold must differ: what chose the thresholds cannot test them")
    judged = judge_predictions(read_predictions(args.predictions), args.database, args.minimum_likelihood)
    rows = judged.in_fold(args.fold)
    if len(rows) == 0:
        raise DataError(f"{args.predictions} scores no record of fold {args.fold}: choose another with --fold")
    calibration = _calibrate(judged, args)
    scored = Scored.of(judged.labels[rows], judged.probabilities[rows], judged.table.iloc[rows])
    figures = evaluate(scored, calibration)
    _show(Console(), figures, calibration)
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    patients, missing = len(set(scored.patients.tolist())), judged.missing(args.fold)
    console.print(f"fold {args.fold}: {len(rows)} records of {patients} patients; 95 % intervals, patients drawn")
    if missing:
        console.print(f"{missing} records of fold {args.fold} were not scored and are left out")
    console.print(_basis(calibration, args))
    if args.out:
        _write(Path(args.out), args, figures, calibration, len(rows), patients, missing)
        console.print(f"written to {args.out}")
    return 0


def _calibrate(judged: Judged, args: argparse.Namespace) -> Calibration | None:
    from lavq_core.models.calibration import Calibration

    rows = judged.in_fold(args.calibration_fold)
    if len(rows) == 0:
        return None
    name = Path(args.predictions).name
    return Calibration.fit(
        judged.labels[rows], judged.probabilities[rows], args.sensitivity, args.calibration_fold, name
    )


def _basis(calibration: Calibration | None, args: argparse.Namespace) -> str:
    """Say where temperatures and thresholds are from, or why there are none."""
    from lavq_core.data.labels import SUPERCLASSES

    if calibration is None:
        return (
            f"no rows of fold {args.calibration_fold} in the file: no temperature and no threshold, and so no Brier "
            "score, sensitivity or specificity"
        )
    told = (
        f"temperatures and thresholds (sensitivity {calibration.sensitivity:g}) from {calibration.n} records of fold "
        f"{calibration.fold} in the same file"
    )
    known = zip(SUPERCLASSES, calibration.temperatures, strict=True)
    few = [name for name, temperature in known if temperature is None]
    return f"{told}; too few there for {', '.join(few)}" if few else told


def _show(console: Console, figures: Mapping[str, Interval], calibration: Calibration | None) -> None:
    """Two tables: a column a class, and a row a group of patients."""
    from rich.table import Table

    from lavq_core.data.labels import SUPERCLASSES

    by_class = Table("", *SUPERCLASSES)
    for metric in _BY_CLASS:
        by_class.add_row(metric, *(_cell(figures.get(f"{metric}.{name}")) for name in SUPERCLASSES))
    if calibration is not None:
        for what, values in (("temperature", calibration.temperatures), ("threshold", calibration.thresholds)):
            by_class.add_row(what, *("" if value is None else _short(value) for value in values))
    console.print(by_class)
    groups = Table("all classes", "value", "95 % interval", "records")
    for name, found in figures.items():
        if name.startswith("macro_"):
            groups.add_row(name, f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}", str(found.n))
    console.print(groups)


def _cell(found: Interval | None) -> str:
    return "" if found is None else f"{_short(found.value)}\n{_short(found.low)}-{_short(found.high)}"


def _short(value: float) -> str:
    """Three decimals without the leading zero: five classes then fit on a terminal."""
    return f"{value:.3f}".removeprefix("0")


def _write(
    out: Path,
    args: argparse.Namespace,
    figures: Mapping[str, Interval],
    calibration: Calibration | None,
    records: int,
    patients: int,
    missing: int,
) -> None:
    import json
    from dataclasses import asdict

    from lavq_core.runs.layout import write_atomic

    content = {
        "predictions": Path(args.predictions).name,
        "database": Path(args.database).name,
        "fold": args.fold,
        "records": records,
        "patients": patients,
        "records_not_scored": missing,
        "calibration": None if calibration is None else asdict(calibration),
        "figures": {name: asdict(found) for name, found in figures.items()},
    }
    write_atomic(out, json.dumps(content, indent=1) + "\n")
