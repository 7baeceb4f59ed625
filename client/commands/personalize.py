"""``lavq personalize``: one patient's detector from that patient's own twins."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from client.reading import FORMATS, configure_reading, read_options

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lavq_core.models.detector import Detector
    from lavq_core.models.twins import Patients
    from lavq_core.runs.layout import RunFolder
    from lavq_core.training.detector_training import LabelledEcgs
    from lavq_core.twins.maker import TwinMaker

HELP = "make one patient's detector from that patient's own twins (so far no better than controls)"
EXAMPLE = """\
  lavq personalize --run runs/demo simulations/sample/records100/00000/00059_lr --out patient-59
  lavq detect --run runs/demo --model patient-59 LATER_ECG --out later.csv"""
_SEEDS = 3  # fine-tunings; the first is kept, the others show what chance does


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("record", metavar="ECG", help=f"of the patient while healthy: {FORMATS}")
    parser.add_argument("--run", required=True, metavar="RUN", help="run folder")
    parser.add_argument("--age", type=float, default=float("nan"), help="of the patient, years")
    parser.add_argument("--sex", choices=["male", "female", "unknown"], default="unknown", help="of the patient")
    parser.add_argument("--site", default="", metavar="NAME", help="whose networks to use, when the run holds several")
    parser.add_argument("--out", required=True, metavar="MODEL", help="folder of the patient's detector")
    configure_reading(parser)


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from lavq_core.progress import track
    from lavq_core.runs.layout import RunFolder
    from lavq_core.training.detector_training import predict
    from lavq_core.training.personal import personalise
    from lavq_core.twins.made import code_of
    from lavq_core.twins.maker import SICK, TwinMaker

    run = RunFolder.open(args.run)
    maker = TwinMaker.of_run(run, args.site)
    ecg, model = maker.read(args.record, read_options(args)), maker.model
    patient = maker.patient(ecg, args.age, args.sex)
    examples = _examples(run, maker, patient)
    settings, rate = model.config, model.config.data.sampling_rate
    made = [
        personalise(model.detector, examples, settings.personal, settings.detector_training, rate, seed)
        for seed in track(range(_SEEDS), "fine-tuning")
    ]
    before = predict(model.detector, patient.signal)[0]  # (5,)
    after = torch.stack([predict(detector, patient.signal)[0] for detector in made])  # (seeds, 5)
    _save(Path(args.out), made[0], run, maker, code_of(ecg), examples)

    table = Table(ecg.name, "population", "personal", f"over {_SEEDS} fine-tunings")
    for c, label in enumerate(model.classes):
        spread = f"{after[:, c].min():.3f} to {after[:, c].max():.3f}"
        table.add_row(label, f"{before[c]:.3f}", f"{after[0, c]:.3f}", spread)
    Console().print(table)
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for note in ecg.notes:
        console.print(f"note: {note}")
    if before[0] < SICK:
        console.print("note: this ECG does not read as NORM, so this detector takes for normal what may be ill")
    console.print(f"{len(examples) // 2} twins by the networks of {maker.networks_of}; written to {args.out}")
    console.print("no better than controls (another patient's twins) so far; uncalibrated; not a medical device")
    return 0


def _examples(run: RunFolder, maker: TwinMaker, patient: Patients) -> LabelledEcgs:
    """Make the patient's twins of every disease that the federation has seen."""
    import torch

    from lavq_core.errors import RunError
    from lavq_core.models.prior import available_diseases, draw_statements
    from lavq_core.models.twins import request_twins
    from lavq_core.text.statements import named
    from lavq_core.training.personal import personal_examples

    model = maker.model
    diseases = available_diseases(maker.seen)
    if len(diseases) == 0:
        raise RunError(f"the run in {run.root} has seen no disease, so it makes no twins: give a run that trained them")
    generator = torch.Generator().manual_seed(model.config.run.seed)
    classes = diseases.repeat(model.config.personal.twins)  # (n,)
    wanted = named(draw_statements(maker.seen, classes, generator))
    several = patient.take(torch.zeros_like(classes))
    twins = request_twins(maker.networks, model.codebook["codes"], several, wanted, model.config, 1.0, generator)
    return personal_examples(patient.signal[0], twins.signal, classes)


def _save(out: Path, detector: Detector, run: RunFolder, maker: TwinMaker, code: str, data: LabelledEcgs) -> None:
    from lavq_core.models.calibration import detector_digest
    from lavq_core.models.stored import save_personal

    about = {
        "ecg": code,
        "run": run.root.name,
        "networks_of": maker.networks_of,
        "twins": _counts(data.y[: len(data) // 2], maker.model.classes),
        "population": detector_digest(maker.model.detector.state_dict()),
        "note": "made from one patient's ECG: that patient's data; no better than controls; not a medical device",
    }
    save_personal(out, detector, about)


def _counts(y: Tensor, classes: tuple[str, ...]) -> dict[str, int]:
    """Twins by disease."""
    total: torch.Tensor = y.sum(dim=0)
    return {name: int(count) for name, count in zip(classes, total.tolist(), strict=True) if count}
