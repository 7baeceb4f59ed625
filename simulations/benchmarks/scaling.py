"""How the cost grows with the size of the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lavq_core.models.detector import build_detector
from lavq_core.training.detector_training import predict
from simulations.benchmarks.federations import make_aggregator, site_updates
from simulations.benchmarks.setting import Setting, generator

_BATCH = 64


@dataclass(frozen=True)
class Growth:
    """The same work at several sizes, smallest first."""

    sizes: Sequence[int]
    calls: Sequence[Callable[[], object]]


def batches(setting: Setting) -> Growth:
    """An epoch of random batches of 64, by records; sizes beyond the database are left out."""
    database = setting.database
    sizes = [size for size in (1000, 5000, len(database)) if size <= len(database)]
    sizes = sorted({*sizes, max(_BATCH, len(database) // 4)}) if len(sizes) < 2 else sizes

    def epoch(size: int) -> Callable[[], object]:
        order = torch.randperm(size, generator=generator()).split(_BATCH)

        def run() -> None:
            for rows in order:
                database.signals(rows)

        return run

    return Growth(sizes, [epoch(size) for size in sizes])


def sites(setting: Setting) -> Growth:
    """A round's merge of detector and codebook, by the number of sites."""
    config, sizes = (
        setting.config("federation.share=[]"),
        [setting.many(count) + number for number, count in enumerate((4, 16, 50, 500))],
    )
    model, updates = site_updates(config, max(sizes))
    aggregator = make_aggregator(config)

    def merge(size: int) -> Callable[[], object]:
        some = dict(list(updates.items())[:size])
        return lambda: aggregator.aggregate(model, some, 1, {})

    return Growth(sizes, [merge(size) for size in sizes])


def inference(setting: Setting) -> Growth:
    """The detector's scores of one batch, by its records."""
    config = setting.config()
    model = build_detector(config.detector, config.data.sampling_rate, 0).eval()
    sizes = [1, 4, 16, 64, 256]
    x = setting.ecgs(max(sizes))
    return Growth(sizes, [lambda size=size: predict(model, x[:size]) for size in sizes])  # type: ignore[misc]
