"""Digital twins: a healthy patient's ECG as it might look with a disease.

No donor is needed: gate and codes come from the shared class prior, the content from the patient. Samples outside the
envelope are the patient's own, bit for bit; the R peaks are left where they are, so the heart rate is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lavq_core.models.codebook import CodebookState
from lavq_core.models.editor import Editor, envelope
from lavq_core.models.prior import sample_codes


@dataclass(frozen=True)
class Twins:
    """A batch of twins, on the CPU."""

    signal: Tensor  # (B, 8, T) mV
    gate: Tensor  # (B, N) 0 or 1
    envelope: Tensor  # (B, T) 0..1, 0 where the twin equals its reference


@torch.no_grad()
def make_twins(
    editor: Editor,
    codebook: CodebookState,
    references: Tensor,
    phases: Tensor,
    classes: Tensor,
    strength: float,
    generator: torch.Generator,
    batch: int = 128,
) -> Twins:
    """Make one twin of each reference.

    Args:
        editor: trained, in eval mode.
        codebook: shared state; a class without any count in the prior leaves its twins unedited.
        references: ``(B, 8, T)`` mV, healthy ECGs.
        phases: ``(B, N)`` int64 beat phases of the references.
        classes: ``(B,)`` int64 requested superclasses.
        strength: dose of the disease, 0 to 1.
        generator: CPU generator; another state gives another twin of the same request.
        batch: ECGs at a time.
    """
    device = next(editor.parameters()).device
    gate, indices = sample_codes(codebook["prior"].cpu(), classes, phases, strength, generator)
    codes = codebook["codes"].to(device)
    rows = range(0, len(references), batch)
    parts = [
        editor(
            references[i : i + batch].to(device),
            gate[i : i + batch].to(device),
            codes[indices[i : i + batch].to(device)],
        ).cpu()
        for i in rows
    ]
    signal = torch.cat(parts) if parts else references.clone()
    return Twins(signal, gate, envelope(gate, editor.stride) if len(gate) else gate.new_zeros(0, references.shape[-1]))


def available_diseases(prior: Tensor) -> Tensor:
    """Superclasses other than NORM of which the prior has seen any code: int64 positions, ascending."""
    seen = prior[..., :-1].sum((1, 2)) > 0  # (C,)
    seen[0] = False
    return seen.nonzero().flatten()
