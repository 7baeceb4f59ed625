"""``lavq twin``: digital twins of one ECG, as WFDB records and pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "make digital twins of a healthy ECG: what would this patient look like with a disease?"
EXAMPLE = """\
  lavq twin --run runs/demo simulations/sample/records100/00000/00039_lr --disease MI --count 8 --out twins
  lavq twin --run runs/demo ECG --disease CLBBB --age 71 --sex female --strength 0.7 --out twins"""
_SICK = 0.5  # probability of NORM below which a reference is called not healthy
_SEX = {"male": 0.0, "female": 1.0, "unknown": float("nan")}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("record", metavar="RECORD", help="WFDB record of a healthy patient")
    parser.add_argument("--run", required=True, metavar="RUN", help="run folder")
    parser.add_argument("--disease", required=True, help="MI, STTC, CD or HYP, or SCP statements: IMI+LAFB")
    parser.add_argument("--count", type=int, default=8, help="how many different twins (default 8)")
    parser.add_argument("--strength", type=float, default=1.0, help="dose of the disease, 0 to 1 (default 1)")
    parser.add_argument("--age", type=float, default=float("nan"), help="of the patient, years")
    parser.add_argument("--sex", choices=list(_SEX), default="unknown", help="of the patient")
    parser.add_argument(
        "--rate", type=float, default=1.0, metavar="FACTOR", help="heart rate times this; T-P stretches"
    )
    parser.add_argument("--site", default="", metavar="NAME", help="whose editor to use, when the run holds several")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other twins (default 0)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for records and pictures")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    import numpy as np
    import torch
    from rich.console import Console

    from client.records import read_checked
    from lavq_core.data.labels import SUPERCLASSES, public_statements
    from lavq_core.data.records import Ecg, write_record
    from lavq_core.data.requests import parse_request, statements_of
    from lavq_core.errors import ConfigError, DataError
    from lavq_core.models.stored import load_networks, load_shared_model
    from lavq_core.models.twins import Patients, request_twins
    from lavq_core.plots import draw_ecg, save_figure
    from lavq_core.progress import track
    from lavq_core.runs.layout import RunFolder
    from lavq_core.signals.leads import to_twelve
    from lavq_core.signals.rr_scaling import scale_rr
    from lavq_core.training.detector_training import predict

    if args.count < 1 or not 0.0 <= args.strength <= 1.0 or args.rate <= 0.0:
        raise ConfigError("--count must be at least 1, --strength must lie between 0 and 1, --rate above 0")
    asked = parse_request(args.disease, public_statements())
    run = RunFolder.open(args.run)
    model = load_shared_model(run)
    networks, folder = load_networks(run, args.site)
    rate = model.config.data.sampling_rate
    ecg, signal = read_checked(args.record, rate)
    if args.rate != 1.0:
        signal = torch.from_numpy(scale_rr(signal.numpy(), rate, 1.0 / args.rate))
    age, sex = np.array([args.age]), np.array([_SEX[args.sex]])
    patient = Patients.of(signal.unsqueeze(0), age, sex, model.config.separator.stride, rate)
    if not patient.beats.found()[0]:
        raise DataError(f"record {ecg.name} has fewer than three beats of one shape: a twin needs a regular ECG")
    generator = torch.Generator().manual_seed(args.seed)
    wanted = statements_of(asked, model.codebook["requests"], args.count, generator)
    patients = patient.take(torch.zeros(args.count, dtype=torch.int64))
    codes = model.codebook["codes"]
    twins = request_twins(networks, codes, patients, wanted, model.config, args.strength, generator)
    before, after = predict(model.detector, signal.unsqueeze(0))[0], predict(model.detector, twins.signal)
    shown = max(np.flatnonzero(asked.superclasses), default=0, key=lambda column: float(after[:, column].mean()))

    console, out = Console(stderr=True), Path(args.out)
    reads = SUPERCLASSES[shown]
    console.print(f"networks of {folder.root.name}; {reads} in the original: {before[shown]:.2f}", soft_wrap=True)
    if float(before[0]) < _SICK:
        console.print("note: this ECG does not read as NORM, so its twins add a disease to what it already shows")
    original, gate = to_twelve(signal.numpy()), twins.gate_over_time(model.config.separator.stride)
    for i in track(range(args.count), "drawing"):
        disease = "+".join(wanted[i]) or asked.name
        name = f"{ecg.name}_{disease.replace('/', '-')}_{i + 1:02d}"
        twin = to_twelve(twins.signal[i].numpy())
        note = f"SYNTHETIC: twin of {ecg.name} with {disease}, strength {args.strength:g}, seed {args.seed}"
        write_record(out, Ecg(name, twin, rate, ecg.present), [note, "research use, not a medical device"])
        figure = draw_ecg(
            twin,
            rate,
            reference=original,
            envelope=twins.envelope[i].numpy(),
            gate=gate[i].numpy(),
            title=f"{ecg.name} with {disease} ({reads} {before[shown]:.2f} to {after[i, shown]:.2f})",
            synthetic=True,
        )
        save_figure(figure, out / f"{name}.png")
    low, high = float(after[:, shown].min()), float(after[:, shown].max())
    console.print(f"{args.count} twins in {out}; {reads} reads {low:.2f} to {high:.2f} in them", soft_wrap=True)
    return 0
