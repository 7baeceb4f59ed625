"""What the benchmarks work on: data, the models of the preset ``ptbxl``, a place for files, and how much is done."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from lavq_core.config import compose
from lavq_core.data.database import Database
from lavq_core.settings import Config
from lavq_core.training.site_data import SiteData
from simulations import sample
from simulations.launch import quoted


@dataclass(frozen=True)
class Setting:
    """One call of ``lavq bench``.

    Models and federations are measured on the bundled sample, whatever the data, so that figures of two machines can be
    compared; loading, packing, the quality gate and the peak of memory are measured on ``database``.
    """

    database: Database
    cache_dir: str  # of packs; empty: the user's cache folder
    work: Path  # scratch, absolute
    scale: float = 1.0  # of the work of a call; tests take less
    _numbers: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    def many(self, count: int, least: int = 2) -> int:
        """Scale an amount of work."""
        return max(least, round(self.scale * count))

    def fresh(self, what: str) -> Path:
        """Name a folder that is not there yet."""
        return self.work / f"{what}-{next(self._numbers)}"

    def overrides(self, *own: str) -> list[str]:
        """Settings of a run on the bundled sample."""
        cache = [f"data.cache_dir={quoted(Path(self.cache_dir))}"] if self.cache_dir else []
        return [f"data.dir={quoted(sample.FOLDER)}", *cache, *own]

    def config(self, *own: str) -> Config:
        """Compose a configuration; without more of its own, that of the preset ``ptbxl``."""
        return compose(self.overrides("preset=ptbxl", *own))

    @cached_property
    def sample(self) -> Database:
        """The bundled sample."""
        return Database.open(sample.FOLDER, cache_dir=self.cache_dir or None, progress=False)

    @cached_property
    def site(self) -> SiteData:
        """One hospital that has all of the sample."""
        return SiteData("bench", self.sample, np.arange(len(self.sample)), self.config())

    def ecgs(self, count: int) -> torch.Tensor:
        """ECGs of the sample, repeated where there are too few: ``(count, 8, T)`` mV."""
        return self.sample.signals(np.arange(count) % len(self.sample))


def generator(seed: int = 0) -> torch.Generator:
    """Make a CPU generator."""
    return torch.Generator().manual_seed(seed)


def close(ours: Sequence[object], reference: Sequence[object], atol: float = 1e-5, rtol: float = 1e-4) -> bool:
    """Compare arrays one by one, as many as the shorter has."""
    if not ours or not reference:
        return False
    return all(
        np.allclose(np.asarray(a, float), np.asarray(b, float), atol=atol, rtol=rtol, equal_nan=True)
        for a, b in zip(ours, reference, strict=False)
    )
