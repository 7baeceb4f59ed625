"""``lavq twin``: digital twins of one ECG, as WFDB records and pictures."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.twins import Wish

HELP = "make digital twins of a healthy ECG: what would this patient look like with a disease?"
EXAMPLE = """\
  lavq twin --run runs/demo simulations/sample/records100/00000/00059_lr --disease MI --count 8 --out twins
  lavq twin --run runs/demo ECG --disease CLBBB --age 71 --sex female --strength 0.7 --out twins
  lavq twin --run runs/demo ECG --disease IMI+LAFB --rate 0.9 --out twins"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("record", metavar="RECORD", help="WFDB record of a healthy patient")
    parser.add_argument("--run", required=True, metavar="RUN", help="run folder")
    parser.add_argument("--disease", required=True, help="MI, STTC, CD or HYP, or SCP statements: IMI+LAFB")
    parser.add_argument("--count", type=int, default=8, help="how many different twins (default 8)")
    parser.add_argument("--strength", type=float, default=1.0, help="dose of the disease, 0 to 1 (default 1)")
    parser.add_argument("--age", type=float, default=float("nan"), help="of the patient, years")
    parser.add_argument("--sex", choices=["male", "female", "unknown"], default="unknown", help="of the patient")
    parser.add_argument(
        "--rate", type=float, default=1.0, metavar="FACTOR", help="heart rate times this; T-P stretches"
    )
    parser.add_argument("--site", default="", metavar="NAME", help="whose networks to use, when the run holds several")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other twins (default 0)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for records and pictures")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from client.twins import TwinMaker
    from lavq_core.data.labels import SUPERCLASSES
    from lavq_core.data.records import write_record
    from lavq_core.plots import save_figure
    from lavq_core.progress import track
    from lavq_core.runs.layout import RunFolder

    wish = _wish(args)
    maker = TwinMaker.of_run(RunFolder.open(args.run), args.site)
    made = maker.make(args.record, wish)
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    console.print(f"networks of {maker.networks_of}")
    for note in made.notes:
        console.print(f"note: {note}")
    for i in track(range(args.count), "drawing"):
        write_record(Path(args.out), *made.record(i))
        save_figure(made.draw(i), Path(args.out) / f"{made.stem(i)}.png")
    drawn = ", ".join(f"{count} with {disease}" for disease, count in Counter(made.diseases).most_common())
    console.print(f"{drawn}: written to {args.out}")
    for c in made.shown:
        low, high = float(made.after[:, c].min()), float(made.after[:, c].max())
        reads = f"{low:.2f} in the twin" if args.count == 1 else f"{low:.2f} to {high:.2f} in the twins"
        console.print(f"detector's {SUPERCLASSES[c]}: {made.before[c]:.2f} in the original, {reads}")
    return 0


def _wish(args: argparse.Namespace) -> Wish:
    from client.twins import Wish
    from lavq_core.errors import ConfigError

    try:
        return Wish(args.disease, args.count, args.strength, args.age, args.sex, args.rate, args.seed)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from None  # the fields have the options' names
