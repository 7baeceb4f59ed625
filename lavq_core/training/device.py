"""Where to compute, and in which precision."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch

from lavq_core.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Return the device that ``run.device`` names; ``auto`` takes a GPU when there is one.

    Raises:
        ConfigError: ``cuda`` was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("run.device=cuda, but PyTorch sees no GPU here: use run.device=auto or cpu")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def mixed_precision(device: torch.device, wide: bool = False) -> AbstractContextManager[object]:
    """bfloat16 autocast where the device is fast at it, full precision elsewhere.

    Args:
        device: a GPU with bfloat16 takes it always. A CPU needs matrix units (AMX): without them bfloat16 is slower.
        wide: the network is large enough for a CPU's matrix units. A step of the detector gains a third to two fifths;
            one of the separator, whose products are small, nothing.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    if device.type == "cpu" and wide and torch.cpu.get_capabilities().get("amx_bf16", False):
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return contextlib.nullcontext()
