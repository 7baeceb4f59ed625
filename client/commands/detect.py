"""``lavq detect``: score ECGs with a run's detector."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from client.reading import FORMATS, configure_reading, read_options

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from torch import Tensor

    from lavq_core.formats.options import ReadOptions
    from lavq_core.models.calibration import Calibration
    from lavq_core.models.stored import SharedModel

    _Scored = tuple[pd.Series, Tensor, list[tuple[str, str]], list[str]]

HELP = "score ECGs with the detector of a run"
EXAMPLE = """\
  lavq detect --run runs/demo simulations/sample/records100/00000/00059_lr --out predictions.csv
  lavq detect --run runs/demo ecg.dcm muse.xml holter.edf --out predictions.csv
  lavq detect --run runs/demo ecg.csv --sampling-rate 500 --unit uV --out predictions.csv
  lavq detect --run runs/demo --database /path/to/ptb-xl --out predictions.csv
  lavq detect --run runs/demo --calibration st-mary/calibration.json ECG --out predictions.csv"""


_SHOWN = 10  # lines of a list


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("records", nargs="*", metavar="ECG", help=FORMATS)
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
    configure_reading(parser)


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    import pandas as pd
    from rich.console import Console

    from lavq_core.errors import LavqError
    from lavq_core.formats.options import ReadOptions
    from lavq_core.models.calibration import basis_of
    from lavq_core.models.stored import load_calibration, load_personal, load_shared_model
    from lavq_core.runs.layout import RunFolder, write_atomic

    if bool(args.records) == bool(args.database):
        raise LavqError("give either ECGs or --database DIR")
    if args.database and read_options(args) != ReadOptions():
        raise LavqError("leave out --sampling-rate, --unit, --leads and --start: a database says these itself")
    run = RunFolder.open(args.run)
    model = load_shared_model(run)
    if args.model and args.calibration:
        raise LavqError("give --model or --calibration: no calibration was made for one patient's detector")
    calibration = None if args.model else load_calibration(run, model, args.calibration)
    model = load_personal(Path(args.model), model) if args.model else model
    found = _database(model, args.database) if args.database else _records(model, args.records, read_options(args))
    names, scores, left_out, notes = found
    frame = _table(names, scores, model, calibration)
    out = Path(args.out)
    write_atomic(out, frame.to_csv(index=False, float_format="%.6f"))
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    _list(console, [f"note: {note}" for note in notes])
    _list(console, [f"left out {name}: {reason}" for name, reason in left_out])
    if left_out:
        rejected = out.with_name(f"{out.stem}.left-out.csv")
        write_atomic(rejected, pd.DataFrame(left_out, columns=["record", "reason"]).to_csv(index=False))
        console.print(f"{len(left_out)} records left out, all named in {rejected}")
    console.print(basis_of(calibration))
    console.print(f"{len(frame)} ECG{'' if len(frame) == 1 else 's'} scored, written to {out}")
    if not args.database:
        for row in frame.to_dict("records"):
            marks = [f"{name} {row[name]:.2f}{'*' * (row.get(_reached(name)) == 1)}" for name in model.classes]
            console.print(f"{row[names.name]}: {'  '.join(marks)}")
    return 0


def _list(console: Console, lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        console.print(line)
    if len(lines) > _SHOWN:
        console.print(f"... and {len(lines) - _SHOWN} more")


def _reached(name: str) -> str:
    return f"{name}_reached"


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


def _database(model: SharedModel, folder: str) -> _Scored:
    """Score every usable record: ids, probabilities ``(n, 5)``, who was left out and why, and notes."""
    import torch

    from lavq_core.data.database import Database
    from lavq_core.progress import track
    from lavq_core.training.detector_training import predict

    database = Database.configured(model.config.data, folder)
    batches = [list(range(i, min(i + 256, len(database)))) for i in range(0, len(database), 256)]
    scores = torch.cat([predict(model.detector, database.signals(rows)) for rows in track(batches, "scoring")])
    rejected = database.quality[database.quality["verdict"] == "reject"]
    left_out = [(str(ecg_id), str(reason)) for ecg_id, reason in rejected["reasons"].items()]
    return database.table.index.to_series().reset_index(drop=True), scores, left_out, []


def _records(model: SharedModel, paths: list[str], options: ReadOptions) -> _Scored:
    """Score single files, as ``_database``; notes say what was done to each."""
    import pandas as pd
    import torch

    from lavq_core.errors import DataError
    from lavq_core.formats.reading import read_usable
    from lavq_core.progress import track
    from lavq_core.training.detector_training import predict

    scores, names, left_out, notes = [], [], [], []
    for path in track(paths, "scoring"):
        try:
            ecg = read_usable(path, model.config.data.sampling_rate, options, model.most_blank)
        except DataError as error:
            if len(paths) == 1:
                raise
            left_out.append((path, str(error)))
            continue
        names.append(ecg.name)
        notes += [f"{ecg.name}: {note}" for note in ecg.notes]
        scores.append(predict(model.detector, model.signal(ecg).unsqueeze(0)))  # one by one: lengths may differ
    if not scores:
        raise DataError(f"none of the {len(paths)} records can be used; the first: {left_out[0][1]}")
    return pd.Series(names, name="record"), torch.cat(scores), left_out, notes
