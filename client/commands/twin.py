"""``lavq twin``: digital twins of one ECG, as WFDB records and pictures."""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lavq_core.data.requests import Request
    from lavq_core.models.twins import Patients, Twins
    from lavq_core.settings import Config

HELP = "make digital twins of a healthy ECG: what would this patient look like with a disease?"
EXAMPLE = """\
  lavq twin --run runs/demo simulations/sample/records100/00000/00059_lr --disease MI --count 8 --out twins
  lavq twin --run runs/demo ECG --disease CLBBB --age 71 --sex female --strength 0.7 --out twins
  lavq twin --run runs/demo ECG --disease IMI+LAFB --rate 0.9 --out twins"""
_TITLE = 72  # letters of a picture's title
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
    parser.add_argument("--site", default="", metavar="NAME", help="whose networks to use, when the run holds several")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other twins (default 0)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for records and pictures")


@dataclass(frozen=True)
class _Made:
    """n twins of one patient, and what is said of them."""

    name: str  # of the patient's record
    patient: Patients  # 1 ECG, at the wanted heart rate
    asked: Request
    diseases: list[str]  # of each twin: its statements
    twins: Twins
    gate: Tensor  # (n, tokens) in 0..1, over the whole record
    before: Tensor  # (5,) detector's probabilities of the original
    after: Tensor  # (n, 5) ... and of the twins
    networks_of: str  # whose networks made them
    notes: list[str]  # what a reader of the twins should know

    @property
    def shown(self) -> list[int]:
        """Superclasses whose probabilities are shown: those asked for, NORM where a statement belongs to none."""
        return [int(c) for c in self.asked.superclasses.nonzero()[0]] or [0]


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    from rich.console import Console

    from lavq_core.data.labels import SUPERCLASSES
    from lavq_core.progress import track

    _check(args)
    made = _make(args)
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    console.print(f"networks of {made.networks_of}")
    for note in made.notes:
        console.print(f"note: {note}")
    for i in track(range(args.count), "drawing"):
        _write(made, i, args)
    drawn = ", ".join(f"{count} with {disease}" for disease, count in Counter(made.diseases).most_common())
    console.print(f"{drawn}: written to {args.out}")
    for c in made.shown:
        low, high = float(made.after[:, c].min()), float(made.after[:, c].max())
        reads = f"{low:.2f} in the twin" if args.count == 1 else f"{low:.2f} to {high:.2f} in the twins"
        console.print(f"detector's {SUPERCLASSES[c]}: {made.before[c]:.2f} in the original, {reads}")
    return 0


def _check(args: argparse.Namespace) -> None:
    from lavq_core.errors import ConfigError

    wrong = [
        (args.count < 1, "--count must be at least 1"),
        (not 0.0 <= args.strength <= 1.0, "--strength must lie between 0 and 1"),
        (not args.rate > 0.0, "--rate must be above 0"),
        (args.age < 0.0, "--age must not be negative"),
        (not 0 <= args.seed < 2**63, "--seed must be a whole number from 0 to 2^63 - 1"),
    ]
    for bad, message in wrong:
        if bad:
            raise ConfigError(message)


def _make(args: argparse.Namespace) -> _Made:
    import torch

    from lavq_core.data.labels import public_statements
    from lavq_core.data.requests import parse_request, statements_of
    from lavq_core.models.stored import load_networks, load_shared_model
    from lavq_core.models.twins import request_twins
    from lavq_core.runs.layout import RunFolder
    from lavq_core.training.detector_training import predict

    asked = parse_request(args.disease, public_statements())
    run = RunFolder.open(args.run)
    model = load_shared_model(run)
    networks, networks_of = load_networks(run, args.site)
    name, patient = _read_patient(args, model.config)
    generator = torch.Generator().manual_seed(args.seed)
    wanted = statements_of(asked, model.codebook["requests"], args.count, generator)
    patients, codes = patient.take(torch.zeros(args.count, dtype=torch.int64)), model.codebook["codes"]
    twins = request_twins(networks, codes, patients, wanted, model.config, args.strength, generator)
    before, after = predict(model.detector, patient.signal)[0], predict(model.detector, twins.signal)
    return _Made(
        name=name,
        patient=patient,
        asked=asked,
        diseases=["+".join(statements) or asked.name for statements in wanted],
        twins=twins,
        gate=twins.gate_over_time(model.config.separator.stride),
        before=before,
        after=after,
        networks_of=networks_of,
        notes=_notes(asked, float(before[0]), model.codebook["requests"]),
    )


def _notes(asked: Request, healthy: float, seen: Tensor) -> list[str]:
    """Say what weakens the twins; ``healthy`` is the original's probability of NORM, ``seen`` counts ``(C, S)``."""
    from lavq_core.data.labels import diagnostic_statements
    from lavq_core.data.requests import NORM

    order = diagnostic_statements()
    unseen = [name for name in asked.statements if name in order and not seen[:, order.index(name)].any()]
    notes = [f"this federation has seen no record with {name}: its words alone were to go by" for name in unseen]
    if healthy < _SICK and asked.name != NORM:
        notes.append("this ECG does not read as NORM, so its twins add a disease to what it already shows")
    return notes


def _read_patient(args: argparse.Namespace, config: Config) -> tuple[str, Patients]:
    """Read the record and bring it to the wanted heart rate: its name, and the patient in the beat frame."""
    import torch

    from client.records import read_patient

    def at_rate(signal: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(_at_rate(signal.numpy(), config.data.sampling_rate, args.rate))

    change = None if args.rate == 1.0 else at_rate
    return read_patient(args.record, args.age, _SEX[args.sex], config, change)


def _at_rate(signal: np.ndarray, sampling_rate: int, factor: float) -> np.ndarray:
    """Multiply the heart rate of ``(8, T)`` mV."""
    from lavq_core.errors import ConfigError
    from lavq_core.signals.rr_scaling import rr_limits, scale_rr

    shortest, longest = rr_limits(signal, sampling_rate)  # of the RR intervals, which go against the rate
    if not shortest <= 1.0 / factor <= longest:
        slow, fast = math.ceil(100 / longest) / 100, math.floor(100 / shortest) / 100
        raise ConfigError(f"--rate of this record can be {slow:.2f} to {fast:.2f}: its T-P segments give no more")
    return scale_rr(signal, sampling_rate, 1.0 / factor)


def _write(made: _Made, i: int, args: argparse.Namespace) -> None:
    """Write record and picture of twin ``i``."""
    import numpy as np

    from lavq_core.data.records import Ecg, write_record
    from lavq_core.plots import draw_ecg, save_figure
    from lavq_core.signals.leads import LEADS, to_twelve

    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{made.name}_{made.asked.name}_{i + 1:02d}")  # a name that WFDB takes
    twin, disease, rate = to_twelve(made.twins.signal[i].numpy()), made.diseases[i], made.patient.sampling_rate
    notes = [
        f"SYNTHETIC: digital twin of {made.name} with {disease}, strength {args.strength:g}, seed {args.seed}",
        *_conditions(args),
        "research use, not a medical device",
    ]
    write_record(Path(args.out), Ecg(stem, twin, rate, np.ones(len(LEADS), bool)), notes)
    figure = draw_ecg(
        twin,
        rate,
        reference=to_twelve(made.patient.signal[0].numpy()),
        envelope=made.twins.envelope[i].numpy(),
        gate=made.gate[i].numpy(),
        title=_title(made, i, args),
        synthetic=True,
    )
    save_figure(figure, Path(args.out) / f"{stem}.png")


def _title(made: _Made, i: int, args: argparse.Namespace) -> str:
    """Say what the picture shows, with the detector's readings as long as they fit on the line."""
    from lavq_core.data.labels import SUPERCLASSES

    title = f"{made.name} with {made.diseases[i]}"
    if args.rate != 1.0:
        title += f", heart rate times {args.rate:g}"
    reads = ", ".join(f"{SUPERCLASSES[c]} {made.before[c]:.2f} to {made.after[i, c]:.2f}" for c in made.shown)
    whole = f"{title}   \u00b7   detector: {reads}"
    return whole if len(whole) <= _TITLE else title


def _conditions(args: argparse.Namespace) -> list[str]:
    """What was asked for beside the disease, in words."""
    given = [
        (args.rate != 1.0, f"heart rate times {args.rate:g}"),
        (not math.isnan(args.age), f"age {args.age:g}"),
        (args.sex != "unknown", args.sex),
    ]
    return [words for told, words in given if told]
