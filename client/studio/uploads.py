"""Files that the page hands over: on disk while they are read, and gone before the answer."""

from __future__ import annotations

import base64
import binascii
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lavq_core.errors import DataError, LavqError
from lavq_core.formats.options import ReadOptions
from lavq_core.web.local_page import numbers

MOST_BYTES = 10_000_000  # of all files of one ECG together
_MOST_FILES = 4
_FIELDS = {
    "--sampling-rate HZ": 'the field "Sampling rate"',
    "--unit mV, uV, nV or V": 'the field "Unit"',
    "--leads I,II,V1,...": 'the field "Leads"',
}  # what the reader calls an option is a field of the page
_NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,119}")  # of a plain file in a folder


@contextmanager
def unpacked(given: Any) -> Iterator[Path]:
    """Lay an upload into a folder of its own and give the path of its record; the folder is deleted afterwards.

    Args:
        given: ``[{"name": file name, "data": base64}, ...]``; a WFDB record is its ``.hea`` and its signal files,
            every other format is one file.

    Raises:
        DataError: what was sent is no upload, or a part of a record is missing.
        LavqError: whatever is raised inside; it names the files as the user does, not the folder.
    """
    files = _decoded(given)
    with tempfile.TemporaryDirectory(prefix="lavq-studio-") as name:
        folder = Path(name)
        try:
            yield _record(folder, files)
        except LavqError as error:
            raise type(error)(_as_seen(str(error), folder)) from None


def options_of(asked: dict[str, Any]) -> ReadOptions:
    """Take what a CSV or NPY file does not say of itself, and where a longer recording is to begin.

    Raises:
        DataError: a field holds something else.
    """
    given, unit, leads = numbers(("sampling_rate", "start"), asked), asked.get("unit", ""), asked.get("leads", "")
    if not isinstance(unit, str) or not isinstance(leads, str):
        raise DataError("unit and leads must be text")
    names = tuple(leads.replace(",", " ").split())
    return ReadOptions(given.get("sampling_rate"), unit, names, given.get("start", 0.0))


def _as_seen(message: str, folder: Path) -> str:
    """Name files as the user does, and options as the page does."""
    message = message.replace(f"{folder}/", "").replace(str(folder), "the upload")
    for option, name in _FIELDS.items():
        message = message.replace(f"with {option}", f"in {name}")
    return message


def _decoded(given: Any) -> dict[str, bytes]:
    if not isinstance(given, list) or not given:
        raise DataError("choose a file: a WFDB record is its .hea and its .dat together")
    if len(given) > _MOST_FILES:
        raise DataError(f"{len(given)} files were chosen: give those of one ECG, {_MOST_FILES} at most")
    files: dict[str, bytes] = {}
    for file in given:
        name, data = (file.get("name"), file.get("data")) if isinstance(file, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(data, str):
            raise DataError("the upload cannot be read: choose the file again")
        if not _NAME.fullmatch(name):
            raise DataError("a file has a name that cannot be kept: rename it with letters, digits, dot, - and _")
        try:
            files[name] = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise DataError(f"{name} arrived damaged: choose it again") from None
    if sum(map(len, files.values())) > MOST_BYTES:
        raise DataError(f"the files have more than {MOST_BYTES / 1e6:g} MB: one ECG of 10 s is smaller than that")
    return files


def _record(folder: Path, files: dict[str, bytes]) -> Path:
    """Write the files and say which of them is read."""
    headers = [name for name in files if name.lower().endswith(".hea")]
    if len(headers) > 1 or (not headers and len(files) > 1):
        raise DataError(f"{len(files)} files of different ECGs were chosen: give those of one ECG")
    (main,) = headers or list(files)
    if not headers and main.lower().endswith(".dat"):
        raise DataError(f"{main} lacks its header: choose the .hea file together with it")
    if headers:
        _check_signal_files(main, files)
        files[f"{main[:-4]}.hea"] = files.pop(main)  # .HEA too
        main = f"{main[:-4]}.hea"
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / main


def _check_signal_files(header: str, files: dict[str, bytes]) -> None:
    """A header may name only files that came with it: neither one that was forgotten nor one elsewhere on this disk."""
    try:
        lines = [line for line in files[header].decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{header} is not a WFDB header: choose another file") from None
    signals = [line.split()[0] for line in lines if not line.startswith("#")][1:]
    missing = sorted(set(signals) - set(files))
    if missing:
        raise DataError(f"{header} names the signal file {missing[0]}: choose both together")
