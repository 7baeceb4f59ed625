"""``lavq detect``: score ECGs with a run's detector."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from lavq_core.models.stored import SharedModel

HELP = "score ECGs with the detector of a run"
EXAMPLE = """\
  lavq detect --run runs/demo simulations/sample/records100/00000/00059_lr --out predictions.csv
  lavq detect --run runs/demo --database /path/to/ptb-xl --out predictions.csv"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("records", nargs="*", metavar="RECORD", help="WFDB records, with or without .hea or .dat")
    parser.add_argument("--run", required=True, metavar="RUN", help="run folder")
    parser.add_argument("--database", metavar="DIR", help="instead of records: a folder in PTB-XL's layout")
    parser.add_argument("--out", required=True, metavar="CSV", help="predictions: a row per ECG, a column per class")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    import pandas as pd
    from rich.console import Console

    from lavq_core.errors import LavqError
    from lavq_core.models.stored import load_shared_model
    from lavq_core.runs.layout import RunFolder, write_atomic

    if bool(args.records) == bool(args.database):
        raise LavqError("give either RECORDs or --database DIR")
    model = load_shared_model(RunFolder.open(args.run))
    frame, left_out = _score_database(model, args.database) if args.database else _score_records(model, args.records)
    out = Path(args.out)
    write_atomic(out, frame.to_csv(index=False, float_format="%.6f"))
    console = Console(stderr=True)
    for name, reason in left_out[:10]:
        console.print(f"left out {name}: {reason}", highlight=False, soft_wrap=True)
    if len(left_out) > 10:
        console.print(f"... and {len(left_out) - 10} more")
    if left_out:
        rejected = out.with_name(f"{out.stem}.left-out.csv")
        write_atomic(rejected, pd.DataFrame(left_out, columns=["record", "reason"]).to_csv(index=False))
        console.print(f"{len(left_out)} records left out, all named in {rejected}", soft_wrap=True)
    console.print(f"{len(frame)} ECGs scored, written to {out}", soft_wrap=True)
    if not args.database:
        for row in frame.itertuples(index=False):
            scores = "  ".join(f"{name} {value:.2f}" for name, value in zip(frame.columns[1:], row[1:], strict=True))
            console.print(f"{row[0]}: {scores}", highlight=False, soft_wrap=True)
    return 0


def _score_database(model: SharedModel, folder: str) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    import pandas as pd

    from lavq_core.data.database import Database
    from lavq_core.progress import track
    from lavq_core.training.detector_training import predict

    database = Database.configured(model.config.data, folder)
    batches = [list(range(i, min(i + 256, len(database)))) for i in range(0, len(database), 256)]
    scores = [predict(model.detector, database.signals(rows)) for rows in track(batches, "scoring")]
    frame = pd.DataFrame({"ecg_id": database.table.index})
    frame[list(model.classes)] = [row for part in scores for row in part.tolist()]
    rejected = database.quality[database.quality["verdict"] == "reject"]
    return frame, [(str(ecg_id), str(reason)) for ecg_id, reason in rejected["reasons"].items()]


def _score_records(model: SharedModel, paths: list[str]) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
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
    frame = pd.DataFrame({"record": names})
    frame[list(model.classes)] = predict(model.detector, torch.stack(signals)).tolist()
    return frame, left_out
