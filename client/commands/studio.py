"""``lavq studio``: a local page on which one ECG is given a disease and looked at."""

from __future__ import annotations

import argparse

HELP = "open a local page: choose an ECG and a disease, see the twin over the original, download it"
EXAMPLE = """\
  lavq studio runs/demo
  lavq studio runs/demo --folder /path/to/ecgs --port 9000 --no-browser

served on this machine only, to whoever has the printed address; nothing is stored; Ctrl-C ends it"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument(
        "--folder",
        metavar="DIR",
        help="your own ECGs: WFDB, DICOM, MUSE XML or EDF files, or a folder in PTB-XL's layout",
    )
    parser.add_argument("--site", default="", metavar="NAME", help="whose networks to use, when the run holds several")
    parser.add_argument(
        "--calibration", metavar="JSON", help="a site's calibration.json (default: the run's, where it has one)"
    )
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1 (default: any free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address only, for you to open")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from client.studio.app import Studio
    from client.studio.library import Library
    from lavq_core.models.stored import load_calibration
    from lavq_core.runs.layout import RunFolder
    from lavq_core.twins.maker import TwinMaker
    from lavq_core.web.local_page import new_token, serve
    from simulations import sample

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    run, token = RunFolder.open(args.run), new_token()
    with console.status("loading the run's networks"):
        maker = TwinMaker.of_run(run, args.site)
        rate, calibration = maker.model.config.data.sampling_rate, load_calibration(run, maker.model, args.calibration)
        libraries = {"folder": Library.of("your folder", args.folder, rate)} if args.folder else {}
        if rate == sample.SAMPLING_RATE:
            libraries["bundled"] = Library.of("bundled sample", sample.FOLDER, rate)
    studio = Studio(run.root.name, maker, calibration, libraries)

    def say(address: str) -> None:
        console.print(f"twin studio of {run.root.name}: {address}")
        console.print("on this machine only; Ctrl-C ends it")

    serve(studio.app(token), args.port, token, say, not args.no_browser)
    return 0
