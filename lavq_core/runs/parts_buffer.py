"""Several state dicts as one buffer: the safetensors format, in which a tensor is named ``PART/NAME``."""

from __future__ import annotations

from collections.abc import Mapping

from safetensors.torch import load, save
from torch import Tensor

Parts = dict[str, dict[str, Tensor]]


def to_buffer(parts: Mapping[str, Mapping[str, Tensor]]) -> bytes:
    """Write parts; the same names, shapes, dtypes and values give the same bytes, in whatever order and memory."""
    named = {f"{part}/{name}": value for part, state in parts.items() for name, value in state.items()}
    return save({name: value.detach().cpu().contiguous().clone() for name, value in named.items()})


def from_buffer(content: bytes) -> Parts:
    """Read what ``to_buffer`` wrote; the tensors are copies.

    Raises:
        SafetensorError, ValueError: it is no such buffer. (What else torch raises of a buffer that lies is its own.)
    """
    parts: Parts = {}
    for named, value in load(content).items():
        part, name = named.split("/", 1)
        parts.setdefault(part, {})[name] = value
    return parts
