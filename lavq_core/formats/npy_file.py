"""NPY: a table of numbers as numpy saves it; rate, unit and leads are told beside it (``ReadOptions``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lavq_core.data.stored import Stored
from lavq_core.errors import DataError
from lavq_core.formats.options import ReadOptions, stored_table


def read_npy(path: Path, options: ReadOptions) -> Stored:
    """Read an array (T, leads) or (leads, T) of numbers; never unpickles.

    Raises:
        DataError: it is damaged, holds objects or no real numbers, or something is not told.
    """
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header cannot claim more than there is
    except Exception as error:  # numpy's header parser raises ValueError, SyntaxError, OverflowError and more
        raise DataError(f"{path} is no array of numbers ({type(error).__name__}): save it with numpy.save") from None
    if not (np.issubdtype(table.dtype, np.floating) or np.issubdtype(table.dtype, np.integer)):
        raise DataError(f"{path} holds {table.dtype}, not real numbers: save floats or integers")
    return stored_table(path, table, options)
