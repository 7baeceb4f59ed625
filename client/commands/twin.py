"""``lavq twin``: digital twins of one ECG, as WFDB records or DICOM files, and pictures."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from client.reading import FORMATS, configure_layout, configure_reading, read_options

if TYPE_CHECKING:
    from lavq_core.twins.made import Made
    from lavq_core.twins.wish import Wish

HELP = "make digital twins of a healthy ECG: what would this patient look like with a disease?"
EXAMPLE = """\
  lavq twin --run runs/demo simulations/sample/records100/00000/00059_lr --disease MI --out twins
  lavq twin --run runs/demo ECG --disease CLBBB --age 71 --sex female --strength 0.7 --out twins
  lavq twin --run runs/demo ECG --disease IMI+LAFB --rate 0.9 --out twins
  lavq twin --run runs/demo ecg.dcm --disease LVH --out twin.dcm"""
_SUFFIX = {"wfdb": ".hea", "dicom": ".dcm"}
_COUNT = 8  # twins in a folder


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("record", metavar="ECG", help=f"of a healthy patient: {FORMATS}")
    parser.add_argument("--run", required=True, metavar="RUN", help="run folder")
    parser.add_argument("--disease", required=True, help="MI, STTC, CD or HYP, or SCP statements: IMI+LAFB")
    parser.add_argument(
        "--count", type=int, metavar="N", help=f"how many different twins (default {_COUNT}, 1 for one file)"
    )
    parser.add_argument(
        "--strength", type=float, default=1.0, metavar="DOSE", help="dose of the disease, 0 to 1 (default 1)"
    )
    parser.add_argument("--age", type=float, default=float("nan"), help="of the patient, years")
    parser.add_argument("--sex", choices=["male", "female", "unknown"], default="unknown", help="of the patient")
    parser.add_argument(
        "--rate", type=float, default=1.0, metavar="FACTOR", help="heart rate times this; only T-P stretches (1)"
    )
    parser.add_argument("--site", default="", metavar="NAME", help="whose networks to use, when the run holds several")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other twins (default 0)")
    parser.add_argument(
        "--name",
        default="",
        help="what files and pictures call the original (default: a code of its samples, for a file's name can be a "
        "patient's)",
    )
    parser.add_argument("--format", choices=list(_SUFFIX), default="wfdb", help="of the records (default wfdb)")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for records and pictures, or one file: NAME.hea, NAME.dcm"
    )
    configure_layout(parser)
    parser.add_argument("--picture", choices=["png", "svg"], default="png", help="format of the pictures (default png)")
    configure_reading(parser)


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from lavq_core.data.labels import SUPERCLASSES
    from lavq_core.progress import track
    from lavq_core.runs.layout import RunFolder
    from lavq_core.twins.maker import TwinMaker

    wish, files = _wish(args), _files(args)
    maker = TwinMaker.of_run(RunFolder.open(args.run), args.site)
    made = maker.make(maker.read(args.record, read_options(args)), wish)
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    console.print(f"networks of {maker.networks_of}")
    for note in made.notes:
        console.print(f"note: {note}")
    if not wish.name:
        console.print(f"files and pictures call {made.name} {made.called}; --name gives it another name")
    for i in track(range(wish.count), "drawing"):
        _write(made, i, files(made.stem(i)), args.layout, args.picture)
    drawn = ", ".join(f"{count} with {disease}" for disease, count in Counter(made.diseases).most_common())
    console.print(f"{drawn}: written to {args.out}")
    for c in made.shown:
        low, high = float(made.after[:, c].min()), float(made.after[:, c].max())
        reads = f"{low:.2f} in the twin" if wish.count == 1 else f"{low:.2f} to {high:.2f} in the twins"
        console.print(f"detector's {SUPERCLASSES[c]}: {made.before[c]:.2f} in the original, {reads}")
    return 0


def _wish(args: argparse.Namespace) -> Wish:
    from lavq_core.errors import ConfigError
    from lavq_core.twins.wish import Wish

    try:
        count = args.count if args.count is not None else 1 if _is_file(args.out) else _COUNT
        return Wish(args.disease, count, args.strength, args.age, args.sex, args.rate, args.seed, args.name)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from None  # the fields have the options' names


def _is_file(out: str) -> bool:
    return Path(out).suffix in _SUFFIX.values()


def _files(args: argparse.Namespace) -> Callable[[str], Path]:
    """Tell where the record of a twin of some name is to lie."""
    from lavq_core.errors import ConfigError

    if not _is_file(args.out):
        return lambda stem: Path(args.out) / f"{stem}{_SUFFIX[args.format]}"
    if args.count not in (None, 1):
        raise ConfigError(f"{args.out} is one file and --count {args.count} asks for several: give --out a folder")
    return lambda stem: Path(args.out)


def _write(made: Made, i: int, file: Path, layout: str, picture: str) -> None:
    """Write record and picture of twin ``i``."""
    from lavq_core.formats.writing import write_ecg
    from lavq_core.plots import save_figure

    figure = made.draw(i, layout)  # first, as a layout that there is not must leave nothing behind
    write_ecg(file, made.record(i))
    save_figure(figure, file.with_suffix(f".{picture}"))
