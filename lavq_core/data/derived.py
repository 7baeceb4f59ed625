"""What is computed from a packed database once and kept beside its pack."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.progress import track

from lavq_core.data.cache import MICROVOLTS
from lavq_core.errors import DataError

_BATCH = 256  # records at a time
_SHOW = 2000  # records; a bar is shown above, as that takes seconds


def kept_beside(pack: Path, name: str, build: Callable[[Path], None]) -> Path:
    """Return the file ``NAME`` of a pack; the first time ``build`` writes it, once for all processes.

    Args:
        pack: folder of the pack; its name carries a key of the content.
        name: what it is, with the version of how it is computed.
        build: writes the file that it is given; it may be stopped half-way.

    Raises:
        DataError: the cache folder cannot be written.
    """
    place = pack.with_name(f"{pack.name}.{name}")
    if place.is_file():
        return place
    try:
        with FileLock(f"{place}.lock"):
            if not place.is_file():  # another process may have written it while this one waited
                _build_whole(place, build)
    except OSError as error:
        raise DataError(
            f"cannot write {name} beside the signal cache in {pack.parent} ({error.strerror}): choose another with "
            "data.cache_dir"
        ) from None
    return place


def in_batches(packed: np.ndarray, doing: str) -> Iterator[tuple[slice, np.ndarray]]:
    """Go through packed signals ``(n, 8, T)``: rows, and those signals as float32 in mV; a bar shows long work."""
    starts = track(
        range(0, len(packed), _BATCH),
        description=doing,
        console=Console(stderr=True),
        disable=len(packed) <= _SHOW,
    )
    for start in starts:
        rows = slice(start, min(start + _BATCH, len(packed)))
        yield rows, packed[rows].astype(np.float32) / MICROVOLTS


def _build_whole(place: Path, build: Callable[[Path], None]) -> None:
    handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.", suffix=place.suffix)
    os.close(handle)
    try:
        build(Path(temporary))
        Path(temporary).replace(place)
    finally:
        Path(temporary).unlink(missing_ok=True)
