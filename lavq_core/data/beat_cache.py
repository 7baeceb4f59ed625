"""The beats of a packed database, found once and kept beside its pack."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lavq_core.data.derived import in_batches, kept_beside
from lavq_core.signals.beats import Beats, concatenate, find_beats

_FORMAT = 1  # raised whenever the beat frame changes, so that older files are not found


def open_beats(pack: Path, packed: np.ndarray, sampling_rate: int) -> Beats:
    """Load the beats of a pack; the first time they are found and written.

    Args:
        pack: folder of the pack; its name carries a key of the content.
        packed: ``(n, 8, T)`` int16 in uV.
        sampling_rate: Hz.

    Raises:
        DataError: the cache folder cannot be written.
    """

    def build(place: Path) -> None:
        parts = [find_beats(signals, sampling_rate) for _, signals in in_batches(packed, "Finding beats")]
        concatenate(parts).save(place)

    return Beats.load(kept_beside(pack, f"beats-{_FORMAT}.npz", build))
