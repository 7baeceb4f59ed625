"""``lavq detect``: score ECGs with a run's detector."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from lavq_core.models.calibration import Calibration
    from lavq_core.models.stored import SharedModel

HELP = "score ECGs with the detector of a run"
EXAMPLE = """\
  lavq detect --run runs/demo simulations/sample/records100/00000/00059_lr --out predictions.csv
  lavq detect --run runs/demo --database /path/to/ptb-xl --out predictions.csv
  lavq detect --run runs/demo --calibration runs/demo/sites/site-0/calibration.json ECG --out predictions.csv"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("records", nargs="*", metavar="RECORD", help="WFDB records, with or without .hea or .dat")
    parser.add_argument("--run", required=True, metavar="RUN", help="run folder")
    parser.add_argument(
        "--model", metavar="MODEL", help="a patient's own detector that `lavq personalize` made of the run"
    )
    parser.add_argument("--database", metavar="DIR", help="instead of records: a folder in PTB-XL's layout")
    parser.add_argument(
        "--calibration", metavar="JSON", help="a site's calibration.json (default: the run's, where it has one)"
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="CSV",
        help="a row per ECG: a probability per class; where calibrated, CLASS_reached: 1 at or above its threshold",
    )


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    import pandas as pd
    from rich.console import Console

    from lavq_core.errors import LavqError
    from lavq_core.models.stored import load_calibration, load_personal, load_shared_model
    from lavq_core.runs.layout import RunFolder, write_atomic

    if bool(args.records) == bool(args.database):
        raise LavqError("give either RECORDs or --database DIR")
    run = RunFolder.open(args.run)
    model = load_shared_model(run)
    if args.model and args.calibration:
        raise LavqError("give --model or --calibration: no calibration was made for one patient's detector")
    calibration = None if args.model else load_calibration(run, model, args.calibration)
    model = load_personal(Path(args.model), model) if args.model else model
    names, scores, left_out = _database(model, args.database) if args.database else _records(model, args.records)
    frame = _table(names, scores, model, calibration)
    out = Path(args.out)
    write_atomic(out, frame.to_csv(index=False, float_format="%.6f"))
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for name, reason in left_out[:10]:
        console.print(f"left out {name}: {reason}")
    if len(left_out) > 10:
        console.print(f"... and {len(left_out) - 10} more")
    if left_out:
        rejected = out.with_name(f"{out.stem}.left-out.csv")
        write_atomic(rejected, pd.DataFrame(left_out, columns=["record", "reason"]).to_csv(index=False))
        console.print(f"{len(left_out)} records left out, all named in {rejected}")
    console.print(_basis(calibration))
    console.print(f"{len(frame)} ECGs scored, written to {out}")
    if not args.database:
        for row in frame.to_dict("records"):
            marks = [f"{name} {row[name]:.2f}{'*' * (row.get(_reached(name)) == 1)}" for name in model.classes]
            console.print(f"{row[names.name]}: {'  '.join(marks)}")
    return 0


def _reached(name: str) -> str:
    return f"{name}_reached"


def _basis(calibration: Calibration | None) -> str:
    """Say what the numbers are."""
    if calibration is None:
        return "probabilities as the detector gives them: it has no calibration (`lavq report RUN` makes that of a run)"
    return (
        f"calibrated on fold {calibration.fold} of {calibration.source} ({calibration.n} records); "
        f"* or 1: at or above the threshold that reached a sensitivity of {calibration.sensitivity:g} there"
    )


def _table(names: pd.Series, scores: Tensor, model: SharedModel, calibration: Calibration | None) -> pd.DataFrame:
    """One row an ECG; a class that has no threshold has no column that says whether it was reached."""
    import pandas as pd

    found = scores.numpy() if calibration is None else calibration.apply(scores.numpy())  # (n, 5)
    frame = pd.DataFrame({names.name: names})
    frame[list(model.classes)] = found
    thresholds = calibration.thresholds if calibration is not None else ()
    for c, threshold in enumerate(thresholds):
        if threshold is not None:
            frame[_reached(model.classes[c])] = (found[:, c] >= threshold).astype(int)
    return frame


def _database(model: SharedModel, folder: str) -> tuple[pd.Series, Tensor, list[tuple[str, str]]]:
    """Score every usable record: ids, probabilities ``(n, 5)``, and who was left out and why."""
    import torch

    from lavq_core.data.database import Database
    from lavq_core.progress import track
    from lavq_core.training.detector_training import predict

    database = Database.configured(model.config.data, folder)
    batches = [list(range(i, min(i + 256, len(database)))) for i in range(0, len(database), 256)]
    scores = torch.cat([predict(model.detector, database.signals(rows)) for rows in track(batches, "scoring")])
    rejected = database.quality[database.quality["verdict"] == "reject"]
    left_out = [(str(ecg_id), str(reason)) for ecg_id, reason in rejected["reasons"].items()]
    return database.table.index.to_series().reset_index(drop=True), scores, left_out


def _records(model: SharedModel, paths: list[str]) -> tuple[pd.Series, Tensor, list[tuple[str, str]]]:
    """Score single records, as ``_database``."""
    import pandas as pd
    import torch

    from client.records import read_checked
    from lavq_core.errors import DataError
    from lavq_core.training.detector_training import predict

    signals, names, left_out = [], [], []
    for path in paths:
        try:
            ecg, signal = read_checked(path, model.config.data.sampling_rate)
        except DataError as error:
            if len(paths) == 1:
                raise
            left_out.append((path, str(error)))
            continue
        names.append(ecg.name)
        signals.append(signal)
    if not signals:
        raise DataError(f"none of the {len(paths)} records can be used; the first: {left_out[0][1]}")
    return pd.Series(names, name="record"), predict(model.detector, torch.stack(signals)), left_out
