"""Digital twins: a healthy patient's ECG as it might look with a disease.

No donor is needed: gate and codes come from the shared prior, the content from the patient. Samples outside the
envelope are the patient's own, bit for bit; the R peaks are left where they are, so the heart rate is kept. Asking for
NORM changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavq_core.errors import DataError
from lavq_core.models.beat_input import BeatInput
from lavq_core.models.editor import Editor, envelope
from lavq_core.models.networks import Networks
from lavq_core.models.prior_network import PriorNetwork
from lavq_core.settings import Config
from lavq_core.signals.beats import Beats, find_beats
from lavq_core.signals.write_back import write_back
from lavq_core.text.statements import requests


@dataclass(frozen=True)
class Patients:
    """ECGs that twins are made of."""

    signal: Tensor  # (n, 8, T) mV
    beats: Beats
    input: BeatInput
    sampling_rate: int  # Hz

    @classmethod
    def of(cls, signal: Tensor, age: np.ndarray, sex: np.ndarray, stride: int, sampling_rate: int) -> Patients:
        """Bring ECGs ``(n, 8, T)`` in mV into the beat frame; age in years and sex 0 or 1, NaN where unknown."""
        beats = find_beats(signal.numpy(), sampling_rate)
        return cls(signal, beats, BeatInput.of(beats, age, sex, stride), sampling_rate)

    @classmethod
    def of_one(cls, name: str, signal: Tensor, age: float, sex: float, config: Config) -> Patients:
        """Bring one ECG ``(8, T)`` in mV into the beat frame.

        Raises:
            DataError: fewer than three beats of one shape; ``name`` says of which record.
        """
        rate = config.data.sampling_rate
        patient = cls.of(signal.unsqueeze(0), np.array([age]), np.array([sex]), config.separator.stride, rate)
        if not patient.beats.found()[0]:
            raise DataError(f"record {name} has fewer than three beats of one shape: a twin needs a regular ECG")
        return patient

    def take(self, rows: Tensor) -> Patients:
        """Select patients, any of them more than once."""
        return Patients(self.signal[rows], self.beats.take(rows.numpy()), self.input.take(rows), self.sampling_rate)

    def __len__(self) -> int:
        return len(self.signal)


@dataclass(frozen=True)
class Twins:
    """A batch of twins, on the CPU."""

    signal: Tensor  # (B, 8, T) mV
    median: Tensor  # (B, 8, W) mV, median beat with the edit
    gate: Tensor  # (B, N) 0 or 1, of the median beat
    envelope: Tensor  # (B, T) 0..1, 0 where the twin equals its reference

    def gate_over_time(self, stride: int) -> Tensor:
        """Gate of the whole record for pictures: ``(B, T / stride)`` in 0..1."""
        return self.envelope.unfold(1, stride, stride).amax(dim=-1)


def request_twins(
    networks: Networks,
    codes: Tensor,
    patients: Patients,
    statements: Sequence[Sequence[str]],
    config: Config,
    strength: float,
    generator: torch.Generator,
) -> Twins:
    """Make one twin of each patient, of what the prior network draws for the requested statements.

    Args:
        networks: trained, in eval mode.
        codes: ``(K, D)`` of the shared codebook.
        patients: B healthy ECGs.
        statements: SCP codes asked of each; NORM, or none, changes nothing.
        config: the run's.
        strength: dose, see ``make_twins``.
        generator: CPU generator; another state gives other twins of the same requests.
    """
    asked = requests(statements, config.text)
    symbols = draw_symbols(networks.prior, patients.input, asked.tokens, asked.mask, generator)
    return make_twins(networks.editor, codes, patients, symbols, strength)


@torch.no_grad()
def make_twins(
    editor: Editor,
    codes: Tensor,
    patients: Patients,
    symbols: Tensor,
    strength: float = 1.0,
    batch: int = 256,
) -> Twins:
    """Write codes into patients.

    Args:
        editor: trained, in eval mode.
        codes: ``(K, D)``.
        patients: B healthy ECGs; one without enough beats of one shape is left as it is.
        symbols: ``(B, N)`` int64 codes, K for a token that is left normal (``draw_symbols``).
        strength: dose of the disease: 0 changes nothing, 1 is the disease as the federation knows it.
        batch: ECGs at a time.
    """
    device, K = next(editor.parameters()).device, len(codes)
    found = torch.from_numpy(patients.beats.found()).unsqueeze(1)  # (B, 1)
    gate = ((symbols < K) & found & (strength > 0)).float() * patients.input.valid  # (B, N)
    edits = []
    for rows in torch.arange(len(patients)).split(batch):
        part, chosen = patients.input.take(rows, device), symbols[rows].clamp_max(K - 1)
        written = codes.to(device)[chosen.to(device)]  # (b, N, D)
        edits.append(editor.draw(part.x, part.covariates, gate[rows].to(device), written).float().cpu())
    edit = strength * torch.cat(edits) if edits else torch.zeros_like(patients.input.x)
    shape = envelope(gate, editor.stride) if len(gate) else gate.new_zeros(patients.input.x[:, 0].shape)
    signal, where = write_back(
        patients.beats, patients.signal.numpy(), edit.numpy(), shape.numpy(), patients.sampling_rate
    )
    median = patients.input.x + shape.unsqueeze(1) * edit
    return Twins(torch.from_numpy(signal), median, gate, torch.from_numpy(where))


def draw_symbols(
    prior: PriorNetwork, patients: BeatInput, asked: Tensor, asked_mask: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw gate and codes for requests, as symbols ``(B, N)`` on the CPU.

    Args:
        prior: in eval mode.
        patients: whom the twins are of.
        asked: ``(B, L, width)`` tokens of the requested statements.
        asked_mask: ``(B, L)`` bool; a request without a statement (NORM) leaves everything normal.
        generator: CPU generator; another state gives other twins of the same request.
    """
    device = next(prior.parameters()).device
    given = [part.to(device) for part in (patients.covariates, patients.valid, asked, asked_mask)]
    drawn = prior.sample(given[0], given[1], given[2], given[3], generator).cpu()
    return torch.where(asked_mask.any(dim=1, keepdim=True), drawn, torch.full_like(drawn, prior.normal))
