"""The descriptions of a packed database, fixed or by a network, computed once and kept beside its pack."""

from __future__ import annotations

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
    """Map what a network says of a pack, ``(n, size)`` float32; the first time of these weights it is computed.

    Args:
        pack: folder of the pack; its name carries a key of the content.
        packed: ``(n, 8, T)`` int16 in uV.
        network: frozen.

    Raises:
        DataError: the cache folder cannot be written.
    """

    def build(place: Path) -> None:
        table = np.empty((len(packed), network.size), np.float32)
        for rows, signals in in_batches(packed, "Describing ECGs by the pre-trained network"):
            table[rows] = network.describe(signals)
        np.save(place, table)

    return np.asarray(np.load(kept_beside(pack, f"pretrained-{network.key}.npy", build), mmap_mode="r"))


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

    def build(place: Path) -> None:
        table = np.empty((len(packed), SIZE), np.float32)
        for rows, signals in in_batches(packed, "Describing ECGs"):
            known = beats.take(np.arange(rows.start, rows.stop)) if sampling_rate == RATE else None
            table[rows] = describe(signals, sampling_rate, known)
        np.save(place, table)

    return np.asarray(np.load(kept_beside(pack, f"described-{VERSION}.npy", build), mmap_mode="r"))
