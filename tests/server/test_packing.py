"""All tensors of a message are one safetensors buffer, and a buffer in any other form is not read."""

from __future__ import annotations

import json
import struct
import tracemalloc
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from server.flower_adapter import copy_over_the_wire
from server.packing import PARTS, pack, packed_bytes, unpack

PARTS_SENT = {
    "detector": {"stem.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.tensor([0.5, -0.0])},
    "networks": {"prior/scale": torch.ones(())},
}


def record(data: bytes, **fields: Any) -> ArrayRecord:
    array = Array(**{"dtype": "uint8", "shape": (len(data),), "stype": "safetensors", "data": data, **fields})
    return ArrayRecord({"safetensors": array})


def buffer(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A buffer with any header, JSON or not, and any length said of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_tensors_come_back_bit_for_bit_over_the_wire_in_one_array() -> None:
    content = copy_over_the_wire(RecordDict({PARTS: pack(PARTS_SENT)}))
    assert len(content.array_records[PARTS]) == 1
    back = unpack(content.array_records[PARTS])
    assert back.keys() == PARTS_SENT.keys()
    for part, state in PARTS_SENT.items():
        assert back[part].keys() == state.keys()
        for name, value in state.items():
            assert (back[part][name].shape, back[part][name].dtype) == (value.shape, value.dtype)
            assert back[part][name].numpy().tobytes() == value.numpy().tobytes()
    back["networks"]["prior/scale"] += 1.0  # a copy: it may be trained on
    assert unpack(content.array_records[PARTS])["networks"]["prior/scale"] == 1.0


def test_the_same_tensors_give_the_same_bytes_however_they_lie_in_memory() -> None:
    detector, whole = PARTS_SENT["detector"], torch.tensor([0.5, -0.0, 7.0])
    turned = {"head.bias": whole[:2], "stem.weight": detector["stem.weight"].T.clone().T}
    assert pack({"networks": PARTS_SENT["networks"], "detector": turned}) == pack(PARTS_SENT)
    twice = unpack(pack({"detector": {"one": whole, "two": whole}}))  # the same memory
    assert torch.equal(twice["detector"]["one"], twice["detector"]["two"])


GOOD = pack(PARTS_SENT)["safetensors"].data
SIX = {"a/w": entry([2, 3], 0, 24)}
BAD = {
    "empty": b"",
    "zeros": bytes(64),
    "cut short": GOOD[:-1],
    "half a header": GOOD[:20],
    "bytes after the tensors": GOOD + b"Jane Doe",
    "a header that is longer than all": buffer(SIX, bytes(24), length=2**40),
    "a header of negative length": buffer(SIX, bytes(24), length=2**64 - 1),
    "no JSON": buffer(b"\xff\xfe{}", bytes(24)),
    "JSON of another kind": buffer([1, 2, 3], bytes(24)),
    "nested a thousand deep": buffer(b"[" * 1000 + b"]" * 1000),
    "a shape that lies": buffer({"a/w": entry([2, 4], 0, 24)}, bytes(24)),
    "a shape of more than memory": buffer({"a/w": entry([2**40, 2**40], 0, 24)}, bytes(24)),
    "a shape that overflows to nothing": buffer({"a/w": entry([2**32, 2**32], 0, 0)}),
    "a negative shape": buffer({"a/w": entry([-2, -3], 0, 24)}, bytes(24)),
    "a tensor beyond the end": buffer({"a/w": entry([2, 3], 8, 32)}, bytes(24)),
    "tensors that overlap": buffer({"a/v": entry([6], 0, 24), "a/w": entry([6], 0, 24)}, bytes(24)),
    "a gap between tensors": buffer({"a/v": entry([1], 0, 4), "a/w": entry([1], 12, 16)}, b"1234Jane Doe1234"),
    "an unknown dtype": buffer({"a/w": entry([6], 0, 24, "Jane Doe")}, bytes(24)),
    "one name twice": buffer(b'{"a/w":' + json.dumps(entry([6], 0, 24)).encode() + b"," + json.dumps(SIX)[1:].encode()),
    "text in the header": save({"a/w": torch.zeros(6)}, {"patient": "Jane Doe"}),
    "spaces in the header": buffer(json.dumps(SIX).encode() + b" " * 64, bytes(24)),
    "another order": buffer({"a/b": entry([1], 4, 8), "a/a": entry([1], 0, 4)}, bytes(8)),
    "a tensor of no part": save({"w": torch.zeros(6)}),
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_buffer_in_another_form_is_refused_and_not_repeated(kind: str) -> None:
    with pytest.raises(ValueError, match=r"^not a safetensors buffer as lavq writes it$") as caught:
        unpack(record(BAD[kind]))
    assert "Jane" not in str(caught.value.__context__ or "") or caught.value.__suppress_context__


@pytest.mark.parametrize(
    "fields",
    [{"dtype": "Jane Doe"}, {"shape": (10**12,)}, {"shape": ()}, {"stype": "numpy.ndarray"}, {"stype": "pickle"}],
    ids=["dtype", "shape", "no shape", "npy", "pickle"],
)
def test_what_flower_is_told_of_a_buffer_must_be_true_of_it(fields: dict[str, Any]) -> None:
    unpack(record(GOOD))
    with pytest.raises(ValueError, match="not a safetensors buffer"):
        unpack(record(GOOD, **fields))
    with pytest.raises(ValueError, match="not a safetensors buffer"):
        unpack(ArrayRecord({"safetensors": Array(np.zeros(3, np.float32))}))


def test_one_array_more_or_under_another_name_is_refused() -> None:
    good = record(GOOD)["safetensors"]
    for arrays in ({}, {"Jane Doe": good}, {"safetensors": good, "Jane Doe": good}):
        with pytest.raises(ValueError, match="not a safetensors buffer"):
            unpack(ArrayRecord(arrays))
    assert packed_bytes(ArrayRecord({"safetensors": good, "Jane Doe": good})) == 2 * len(GOOD)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_is_refused_or_shows_in_the_tensors(data: st.DataObject) -> None:
    """Nothing but the named error comes out of a damaged buffer, and no damage goes unseen."""
    spoilt = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    del spoilt[data.draw(st.integers(0, len(spoilt))) :: data.draw(st.sampled_from([1, 7, 10**6]))]
    try:
        read = unpack(record(bytes(spoilt)))
    except ValueError:
        return
    assert pack(read)["safetensors"].data == bytes(spoilt)


def test_no_buffer_makes_the_reader_take_more_memory_than_a_few_times_its_length() -> None:
    many = {f"a/{i}": entry([0], 0, 0) for i in range(3000)}
    for bad in (*BAD.values(), buffer(many)):
        tracemalloc.start()
        with suppress(ValueError):
            unpack(record(bad))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 40 * len(bad) + 2**20
