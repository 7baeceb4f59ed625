"""``lavq twin``: digital twins of one ECG, as WFDB records and pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "make digital twins of a healthy ECG: what would this patient look like with a disease?"
EXAMPLE = """\
  lavq twin --run runs/demo simulations/sample/records100/00000/00039_lr --disease MI --count 8 --out twins"""
_SICK = 0.5  # probability of NORM below which a reference is called not healthy


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("record", metavar="RECORD", help="WFDB record of a healthy patient")
    parser.add_argument("--run", required=True, metavar="RUN", help="run folder")
    parser.add_argument("--disease", required=True, help="MI, STTC, CD or HYP")
    parser.add_argument("--count", type=int, default=8, help="how many different twins (default 8)")
    parser.add_argument("--strength", type=float, default=1.0, help="dose of the disease, 0 to 1 (default 1)")
    parser.add_argument("--site", default="", metavar="NAME", help="whose editor to use, when the run holds several")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other twins (default 0)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for records and pictures")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    import torch
    from rich.console import Console

    from client.records import read_checked
    from lavq_core.data.labels import class_index
    from lavq_core.data.records import Ecg, write_record
    from lavq_core.errors import ConfigError
    from lavq_core.models.stored import load_editor, load_shared_model
    from lavq_core.models.twins import make_twins
    from lavq_core.plots import draw_ecg, save_figure
    from lavq_core.progress import track
    from lavq_core.runs.layout import RunFolder
    from lavq_core.signals.leads import to_twelve
    from lavq_core.training.detector_training import predict
    from lavq_core.training.site_data import token_phases

    if args.count < 1 or not 0.0 <= args.strength <= 1.0:
        raise ConfigError("--count must be at least 1 and --strength must lie between 0 and 1")
    run = RunFolder.open(args.run)
    disease = class_index(args.disease)
    model = load_shared_model(run)
    editor, folder = load_editor(run, args.site)
    rate = model.config.data.sampling_rate
    ecg, signal = read_checked(args.record, rate)
    references = signal.expand(args.count, -1, -1)  # (count, 8, T)
    phases = token_phases(references[:1], model.config.separator.stride, rate).expand(args.count, -1)
    generator = torch.Generator().manual_seed(args.seed)
    classes = torch.full((args.count,), disease)
    twins = make_twins(editor, model.codebook, references, phases, classes, args.strength, generator)
    before, after = predict(model.detector, references[:1])[0], predict(model.detector, twins.signal)

    console, out = Console(stderr=True), Path(args.out)
    console.print(
        f"editor of {folder.root.name}; {args.disease} in the original: {before[disease]:.2f}", soft_wrap=True
    )
    if float(before[0]) < _SICK:
        console.print("note: this ECG does not read as NORM, so its twins add a disease to what it already shows")
    original = to_twelve(signal.numpy())
    for i in track(range(args.count), "drawing"):
        name = f"{ecg.name}_{args.disease}_{i + 1:02d}"
        twin = to_twelve(twins.signal[i].numpy())
        note = f"SYNTHETIC: twin of {ecg.name} with {args.disease}, strength {args.strength:g}, seed {args.seed}"
        write_record(out, Ecg(name, twin, rate, ecg.present), [note, "research use, not a medical device"])
        figure = draw_ecg(
            twin,
            rate,
            reference=original,
            envelope=twins.envelope[i].numpy(),
            gate=twins.gate[i].numpy(),
            title=f"{ecg.name} with {args.disease} ({before[disease]:.2f} to {after[i, disease]:.2f})",
            synthetic=True,
        )
        save_figure(figure, out / f"{name}.png")
    low, high = float(after[:, disease].min()), float(after[:, disease].max())
    console.print(f"{args.count} twins in {out}; {args.disease} reads {low:.2f} to {high:.2f} in them", soft_wrap=True)
    return 0
