"""Replies that the server must not use: a good one, spoilt in one way each."""

from collections.abc import Callable

import torch
from flwr.app import Context, Message, MetricRecord, RecordDict

from lavq_core.models.codebook import STATISTICS
from server.packing import PARTS, pack
from tests.packed import opened, states


def broken(change: Callable[[RecordDict], None]) -> Callable[[Message, Context], RecordDict]:
    def site(message: Message, context: Context) -> RecordDict:
        parts = states(message.content)
        parts["codebook"] = {name: torch.zeros_like(parts["codebook"][name]) for name in STATISTICS}
        content = RecordDict({PARTS: pack(parts), "metrics": MetricRecord({"num-examples": 10})})
        change(content)
        return content

    return site


def nan(content: RecordDict) -> None:
    with opened(content) as parts:
        parts["detector"]["head.bias"] = torch.tensor([float("nan"), 0.0])


def wrong_shape(content: RecordDict) -> None:
    with opened(content) as parts:
        parts["detector"]["head.bias"] = torch.zeros(3)


def wrong_dtype(content: RecordDict) -> None:
    with opened(content) as parts:
        parts["detector"]["head.bias"] = torch.zeros(2, dtype=torch.float64)


def extra_key(content: RecordDict) -> None:
    with opened(content) as parts:
        parts["detector"]["report of Jane Doe"] = torch.zeros(2)


def lying(content: RecordDict) -> None:
    content["metrics"]["num-examples"] = 10**9


def no_networks(content: RecordDict) -> None:
    with opened(content) as parts:
        del parts["networks"]


def cut_short(content: RecordDict) -> None:
    (array,) = content.array_records[PARTS].values()
    array.data = array.data[:-1]
