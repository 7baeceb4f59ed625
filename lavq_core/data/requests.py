"""Which disease a digital twin may be asked for.

A request is one superclass, NORM (which changes nothing), or SCP-ECG statements joined with ``+``. An edit changes
every beat of the patient alike and leaves the R peaks where they are, so a statement can be asked for when it is about
the beat's shape: P wave, PR interval, QRS, ST, T, QT. Rhythms, beats out of turn and a PQ relation that changes from
beat to beat are refused rather than drawn wrongly. WPW is a short PR with a delta wave, in every beat: it is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements, superclass_of
from lavq_core.errors import ConfigError

NORM, *DISEASES = SUPERCLASSES

_RHYTHM = "is a rhythm: a twin keeps the patient's own R peaks, so it cannot show it"
_OUT_OF_TURN = "is a beat out of turn: a twin changes every beat alike where it is, so it cannot show it"
_UNCOUPLED = "has P waves without their QRS: a twin changes every beat alike, so it cannot show it"
_REFUSED = {
    **dict.fromkeys(("SR", "SARRH", "STACH", "SBRAD", "AFIB", "AFLT", "SVARR", "SVTAC", "PSVT"), _RHYTHM),
    **dict.fromkeys(("BIGU", "TRIGU", "PACE"), _RHYTHM),
    **dict.fromkeys(("PVC", "PAC", "PRC(S)"), _OUT_OF_TURN),
    **dict.fromkeys(("2AVB", "3AVB"), _UNCOUPLED),
}
_SUGGESTED = 5  # names suggested


@dataclass(frozen=True, eq=False)
class Request:
    """A disease to make a twin with."""

    statements: tuple[str, ...]  # in the table's order; none when a superclass was asked for
    superclasses: np.ndarray  # (5,) float32 of 0 and 1, order of ``SUPERCLASSES``; all 0 for statements of form alone
    name: str  # as a user writes it: "MI", "CLBBB", "IMI+LAFB"


def parse_request(text: str, table: pd.DataFrame) -> Request:
    """Read a request, in any case and with spaces around the names.

    Args:
        text: a superclass, or statements joined with ``+``.
        table: ``scp_statements.csv``, indexed by code.

    Raises:
        ConfigError: no such disease, one that a twin cannot show, or a combination that means nothing.
    """
    codes = {str(code).casefold(): str(code) for code in table.index} | {name.casefold(): name for name in SUPERCLASSES}
    asked = [part.strip() for part in text.split("+")]
    if not all(asked):
        raise ConfigError(
            f"no disease in {text!r}: give a superclass ({_superclasses()}) or statements joined with '+'"
        )
    names = [codes.get(part.casefold()) or _unknown(part, table) for part in asked]
    if len(set(names)) > 1:
        _check_joined(names)
    if names[0] in SUPERCLASSES:
        return Request((), _vector({names[0]}), names[0])
    for name in names:
        _check_shown(name, table)
    statements = tuple(str(code) for code in table.index if code in names)
    classes = superclass_of(table)
    return Request(statements, _vector({classes[code] for code in statements if code in classes}), "+".join(statements))


def statements_of(request: Request, seen: Tensor, count: int, generator: torch.Generator) -> list[list[str]]:
    """Say which statements each of ``count`` twins is asked for.

    Args:
        request: its own statements, or those of its superclass, drawn as often as the federation has seen them.
        seen: ``(C, S)`` counts of statements by superclass (``requests`` of the codebook).
        count: twins.
        generator: CPU generator.

    Raises:
        ConfigError: the federation has seen no record of the superclass.
    """
    if request.name == NORM:
        return [[] for _ in range(count)]
    if request.statements:
        return [list(request.statements)] * count
    row = seen[int(request.superclasses.argmax())]  # (S,)
    if float(row.sum()) == 0.0:
        raise ConfigError(f"this federation has seen no record with {request.name}: ask for one of its statements")
    order = diagnostic_statements()
    return [[order[int(column)]] for column in torch.multinomial(row, count, replacement=True, generator=generator)]


def statement_names(table: pd.DataFrame) -> dict[str, str]:
    """Return the statements that may be asked for and what they mean, in the table's order.

    Args:
        table: ``scp_statements.csv``, indexed by code.
    """
    shown = [str(code) for code in table.index if code != NORM and _why_not(str(code), table) is None]
    return {code: str(table.at[code, "description"]) for code in shown}


def _why_not(code: str, table: pd.DataFrame) -> str | None:
    """Say why a twin cannot show a statement of the table; None when it can."""
    if code in _REFUSED:
        return _REFUSED[code]
    kinds = {kind for kind in ("diagnostic", "form", "rhythm") if kind in table and table.at[code, kind] == 1}
    if "rhythm" in kinds:
        return _RHYTHM
    return None if kinds else "is not about the shape of the beat, which is all that a twin changes"


def _check_shown(code: str, table: pd.DataFrame) -> None:
    reason = _why_not(code, table)
    if reason:
        description = table.at[code, "description"]
        raise ConfigError(
            f"{code} ({description}) {reason}; choose one of {_superclasses()} or a statement about the beat's shape,"
            f" such as {', '.join(list(statement_names(table))[:_SUGGESTED])}"
        )


def _check_joined(names: list[str]) -> None:
    """Only statements can be joined: a superclass leaves open which of its statements is meant, NORM excludes all."""
    for name in names:
        if name == NORM:
            raise ConfigError("NORM means that nothing changes: ask for it alone")
        if name in DISEASES:
            raise ConfigError(f"{name} is a superclass: ask for it alone, or name its statements, joined with '+'")


def _unknown(part: str, table: pd.DataFrame) -> str:
    """Raise, with the names that the user may have meant: alike, or described by what was written."""
    described = statement_names(table)
    names = {name.casefold(): name for name in (*SUPERCLASSES, *described)}
    alike = [names[name] for name in get_close_matches(part.casefold(), names, n=_SUGGESTED, cutoff=0.6)]
    told = [name for name, text in described.items() if part.casefold() in text.casefold()]
    near = list(dict.fromkeys([*alike, *told]))[:_SUGGESTED]
    advice = f"did you mean {', '.join(near)}?" if near else f"choose one of {_superclasses()} or a statement"
    raise ConfigError(f"unknown disease {part!r}: {advice}")


def _vector(classes: set[str]) -> np.ndarray:
    return np.array([name in classes for name in SUPERCLASSES], dtype=np.float32)


def _superclasses() -> str:
    return ", ".join(DISEASES)
