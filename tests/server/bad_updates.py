"""Replies that the server must not use: a good one, spoilt in one way each."""

from collections.abc import Callable

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict

from lavq_core.models.codebook import STATISTICS


def broken(change: Callable[[RecordDict], None]) -> Callable[[Message, Context], RecordDict]:
    def site(message: Message, context: Context) -> RecordDict:
        records = message.content.array_records
        content = RecordDict(
            {
                "detector": records["detector"],
                "codebook": ArrayRecord(
                    {name: Array(np.zeros(records["codebook"][name].shape, np.float32)) for name in STATISTICS}
                ),
                "networks": records["networks"],
                "metrics": MetricRecord({"num-examples": 10}),
            }
        )
        change(content)
        return content

    return site


def nan(content: RecordDict) -> None:
    content["detector"]["head.bias"] = Array(torch.tensor([float("nan"), 0.0]).numpy())


def wrong_shape(content: RecordDict) -> None:
    content["detector"]["head.bias"] = Array(torch.zeros(3).numpy())


def wrong_dtype(content: RecordDict) -> None:
    content["detector"]["head.bias"] = Array(torch.zeros(2, dtype=torch.float64).numpy())


def extra_key(content: RecordDict) -> None:
    content["detector"]["report of Jane Doe"] = Array(torch.zeros(2).numpy())


def lying(content: RecordDict) -> None:
    content["metrics"]["num-examples"] = 10**9


def no_networks(content: RecordDict) -> None:
    del content["networks"]
