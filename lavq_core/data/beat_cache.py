"""The beats of a packed database, found once and kept beside its pack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.progress import track

from lavq_core.data.cache import MICROVOLTS
from lavq_core.errors import DataError
from lavq_core.signals.beats import Beats, concatenate, find_beats

_FORMAT = 1  # raised whenever the beat frame changes, so that older files are not found
_BATCH = 256  # records at a time
_SHOW = 2000  # records; a bar is shown above, as that takes seconds


def open_beats(pack: Path, packed: np.ndarray, sampling_rate: int) -> Beats:
    """Load the beats of a pack; the first time they are found and written.

    Args:
        pack: folder of the pack; its name carries a key of the content.
        packed: ``(n, 8, T)`` int16 in uV.
        sampling_rate: Hz.

    Raises:
        DataError: the cache folder cannot be written.
    """
    place = pack.with_name(f"{pack.name}.beats-{_FORMAT}.npz")
    if place.is_file():
        return Beats.load(place)
    try:
        with FileLock(f"{place}.lock"):
            _build(place, packed, sampling_rate)
    except OSError as error:
        raise DataError(
            f"cannot write the beats beside the signal cache in {pack.parent} ({error.strerror}): choose another with "
            "data.cache_dir"
        ) from None
    return Beats.load(place)


def _build(place: Path, packed: np.ndarray, sampling_rate: int) -> None:
    if place.is_file():  # another process wrote it while this one waited
        return
    starts = track(
        range(0, len(packed), _BATCH),
        description="Finding beats",
        console=Console(stderr=True),
        disable=len(packed) <= _SHOW,
    )
    parts = [find_beats(packed[i : i + _BATCH].astype(np.float32) / MICROVOLTS, sampling_rate) for i in starts]
    concatenate(parts).save(place)
