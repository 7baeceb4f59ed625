"""CSV: one column a lead, one line a sample; rate and unit are told beside it (``ReadOptions``).

The separator is a comma, semicolon, tab or space; beside semicolons and tabs a decimal comma is understood. A first
line that is not numbers names the columns; columns that are no leads, such as the time, are left out.
"""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pandas as pd

from lavq_core.data.stored import Stored
from lavq_core.errors import DataError
from lavq_core.formats.options import ReadOptions, stored_table


def read_csv(path: Path, options: ReadOptions) -> Stored:
    """Read a CSV.

    Raises:
        DataError: it is no text, no table of numbers, or something is not told.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text: give a CSV in UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    lines = text.lstrip().splitlines()
    if not lines:
        raise DataError(f"{path} is empty: export the ECG again")
    separator = next((mark for mark in ";\t," if mark in lines[0]), " ")
    decimal = "," if separator in ";\t" and "," in lines[-1] else "."
    names = [name.strip() for name in next(csv.reader([lines[0]], delimiter=separator, skipinitialspace=True))]
    named = not all(_is_number(name.replace(decimal, ".")) for name in names)
    if named and not options.leads:
        options = replace(options, leads=tuple(names))
    body = "\n".join(lines[1:] if named else lines)
    try:
        mark = r"\s+" if separator == " " else separator
        table = pd.read_csv(io.StringIO(body), sep=mark, decimal=decimal, header=None, dtype="float64")
    except (ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
        reason = (str(error).strip().splitlines() or ["no numbers"])[0]
        raise DataError(
            f"{path} is no table of numbers ({reason[:80]}): one column a lead, one line a sample"
        ) from None
    return stored_table(path, table.to_numpy(), options)


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True
