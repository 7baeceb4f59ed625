"""How weights travel: all tensors of a message as one array, a safetensors buffer.

Flower fetches every array of a message in two signed requests of its own, each with a kilobyte of headers: with an
array for each tensor, a fifth of what a small detector costs would be headers. safetensors is also the form in which
weights rest (``lavq_core.runs.artefact``).

A buffer is read only in the one form that ``pack`` writes: nothing else can travel in it, neither a text in its header
nor bytes between or after the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import Array, ArrayRecord
from torch import Tensor

from lavq_core.runs.parts_buffer import Parts, from_buffer, to_buffer

PARTS = "parts"
"""Name of the record that holds the parts of a message: detector, codebook, networks, moments."""

_FORM = "safetensors"


def pack(parts: Mapping[str, Mapping[str, Tensor]]) -> ArrayRecord:
    """Make the record of some parts: one array of bytes, in which a tensor is named ``PART/NAME``.

    The same names, shapes, dtypes and values give the same bytes, in whatever order and memory they are.
    """
    data = to_buffer(parts)
    return ArrayRecord({_FORM: Array("uint8", (len(data),), _FORM, data)})


def packed_bytes(record: ArrayRecord) -> int:
    """Tell how long a record's arrays are, whatever they are, without reading them."""
    return sum(len(array.data) for array in record.values())


def unpack(record: ArrayRecord) -> Parts:
    """Read the parts of a record. The tensors are copies, and not more is allocated than a few times the buffer.

    Raises:
        ValueError: it is not what ``pack`` makes of any tensors: another format, cut short, a header that lies or holds
            more than names, dtypes, shapes and places. The message repeats nothing of it.
    """
    try:
        parts = from_buffer(record[_FORM].data)
        whole = pack(parts) == record
    except Exception:  # safetensors and torch raise many kinds, and whatever it is, the buffer cannot be read
        whole = False
    if not whole:
        raise ValueError("not a safetensors buffer as lavq writes it")
    return parts
