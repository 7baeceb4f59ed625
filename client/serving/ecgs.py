"""ECGs of requests and answers: from protobuf to a checked signal, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from client.serving import inference_pb2 as pb
from lavq_core.data.records import to_ecg
from lavq_core.data.stored import Stored
from lavq_core.errors import DataError
from lavq_core.signals.leads import LEADS, to_independent, to_twelve
from lavq_core.signals.quality import Verdict, assess, check_form

MOST_LEADS = 64
"""More names than any recorder has leads: such a request is refused before its samples are looked at."""


@dataclass(frozen=True)
class Received:
    """One ECG of a request."""

    signal: torch.Tensor | None  # (8, T) mV; None where it cannot be used
    problem: str = ""
    remarks: tuple[str, ...] = ()


def receive(ecgs: Sequence[pb.Ecg], sampling_rate: int) -> list[Received]:
    """Check ECGs as records on disk are checked, the quality gate included."""
    parsed = [_parse(ecg, sampling_rate) for ecg in ecgs]
    whole = [i for i, one in enumerate(parsed) if isinstance(one, np.ndarray)]
    gate = dict(zip(whole, assess(np.stack([parsed[i] for i in whole]), sampling_rate), strict=True)) if whole else {}
    received = []
    for i, one in enumerate(parsed):
        if isinstance(one, str):
            received.append(Received(None, one))
        elif gate[i].verdict is Verdict.REJECT:
            received.append(Received(None, f"rejected: {'; '.join(gate[i].reasons)}"))
        else:
            received.append(Received(torch.from_numpy(to_independent(one).copy()), "", gate[i].reasons))
    return received


def _parse(ecg: pb.Ecg, sampling_rate: int) -> np.ndarray | str:
    """Return ``(12, T)`` float32 mV of the right length and rate, or what is wrong with it."""
    leads = len(ecg.leads)
    if not 0 < leads <= MOST_LEADS or len(ecg.samples) % leads:
        return f"{len(ecg.samples)} samples do not divide into {leads} leads: give lead after lead, as many of each"
    form = check_form(len(ecg.samples) // leads, ecg.sampling_rate, sampling_rate)
    if form.verdict is Verdict.REJECT:
        return "; ".join(form.reasons)
    samples = np.array(ecg.samples, dtype=np.float32).reshape(leads, -1)
    try:
        stored = Stored(list(ecg.leads), [ecg.unit] * leads, ecg.sampling_rate, samples, [0] * leads, np.zeros(leads))
        return to_ecg("", stored).signal
    except DataError as error:
        return str(error).replace("record  ", "the ECG ")


def send(signal: torch.Tensor, name: str, sampling_rate: int) -> pb.Ecg:
    """Make a message of an ECG ``(8, T)`` in mV: all twelve leads."""
    samples = to_twelve(signal).numpy().astype(np.float32).ravel()
    return pb.Ecg(id=name, sampling_rate=sampling_rate, unit="mV", leads=LEADS, samples=samples)
