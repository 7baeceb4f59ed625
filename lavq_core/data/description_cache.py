"""The descriptions of a packed database, fixed or by a network, computed once and kept beside its pack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from lavq_core.data.derived import in_batches, kept_beside
from lavq_core.signals.beats import Beats
from lavq_core.signals.description import RATE, SIZE, VERSION, describe


class Network(Protocol):
    """What describes ECGs by a frozen network: ``lavq_core.models.pretrained.PretrainedNetwork``."""

    @property
    def key(self) -> str:
        """Name of the weights and of how they are used."""

    @property
    def size(self) -> int:
        """Numbers in a description."""

    def describe(self, signals: np.ndarray) -> np.ndarray:
        """Describe ECGs ``(n, 8, T)`` in mV: ``(n, size)`` float32."""


def open_network_descriptions(pack: Path, packed: np.ndarray, network: Network) -> np.ndarray:
    """Map what a frozen network says of a pack, ``(n, size)`` float32; see ``open_descriptions``."""
    doing = "Describing ECGs by the pre-trained network"
    return _open(pack, packed, f"pretrained-{network.key}", network.size, doing, lambda _, x: network.describe(x))


def open_descriptions(pack: Path, packed: np.ndarray, sampling_rate: int, beats: Beats) -> np.ndarray:
    """Map the descriptions of a pack, ``(n, SIZE)`` float32; the first time they are computed and written.

    Args:
        pack: folder of the pack; its name carries a key of the content.
        packed: ``(n, 8, T)`` int16 in uV.
        sampling_rate: Hz.
        beats: of the same records.

    Raises:
        DataError: the cache folder cannot be written.
    """

    def described(rows: slice, signals: np.ndarray) -> np.ndarray:
        known = beats.take(np.arange(rows.start, rows.stop)) if sampling_rate == RATE else None
        return describe(signals, sampling_rate, known)

    return _open(pack, packed, f"described-{VERSION}", SIZE, "Describing ECGs", described)


def _open(
    pack: Path,
    packed: np.ndarray,
    name: str,
    size: int,
    doing: str,
    described: Callable[[slice, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Map the table ``NAME.npy`` of a pack, ``(n, size)``; ``described`` makes it from rows and their signals in mV."""

    def build(place: Path) -> None:
        table = np.empty((len(packed), size), np.float32)
        for rows, signals in in_batches(packed, doing):
            table[rows] = described(rows, signals)
        np.save(place, table)

    return np.asarray(np.load(kept_beside(pack, f"{name}.npy", build), mmap_mode="r"))
