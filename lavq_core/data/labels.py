"""From SCP-ECG statements to the five diagnostic superclasses.

The rule is the benchmark's (Strodthoff et al., IEEE JBHI 2021): a record carries a superclass when any of its
diagnostic statements belongs to it, however unlikely the cardiologist thought it. A minimum likelihood is a setting.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lavq_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
"""The order of labels, probabilities and scores everywhere."""


@cache
def public_statements() -> pd.DataFrame:
    """Return the 71 statements of SCP-ECG (EN 1064) that PTB-XL uses, indexed by code.

    Columns ``description`` (English), ``diagnostic``, ``form``, ``rhythm`` (0 or 1) and ``diagnostic_class``. One table
    for all sites: a hospital that words them otherwise would give the shared networks other embeddings.
    """
    import pandas as pd  # most programs that name classes need no table

    text = (Path(__file__).parent / "statements.json").read_text(encoding="utf-8")
    return pd.DataFrame(json.loads(text)).set_index("code")


def class_index(disease: str) -> int:
    """Return a superclass's place in ``SUPERCLASSES``.

    Raises:
        ConfigError: there is no such superclass.
    """
    if disease not in SUPERCLASSES:
        raise ConfigError(f"unknown disease {disease!r}: choose one of {', '.join(SUPERCLASSES)}")
    return SUPERCLASSES.index(disease)


def parse_statements(text: str) -> dict[str, float]:
    """Read PTB-XL's ``scp_codes``: a Python dict literal of statement code to likelihood in per cent.

    A likelihood of 0 on form and rhythm statements means "not given".

    Raises:
        DataError: the text is anything else.
    """
    try:
        value = ast.literal_eval(text)
        if not isinstance(value, dict):
            raise ValueError
        return {str(code): float(likelihood) for code, likelihood in value.items()}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise DataError("scp_codes is not a dict of statement codes and likelihoods") from None


def superclass_of(statements: pd.DataFrame) -> dict[str, str]:
    """Map each diagnostic statement code to its superclass.

    Args:
        statements: the ``scp_statements.csv`` table, indexed by code.
    """
    diagnostic = statements[statements["diagnostic"] == 1]
    classes = diagnostic["diagnostic_class"]
    return {str(code): name for code, name in classes.items() if name in SUPERCLASSES}


def diagnostic_statements() -> tuple[str, ...]:
    """Return the codes of the 44 diagnostic statements, sorted: the order of counts by statement everywhere."""
    return tuple(sorted(superclass_of(public_statements())))


def statement_classes() -> np.ndarray:
    """Tell which superclass each diagnostic statement belongs to: (5, 44) float32 of 0 and 1."""
    classes = superclass_of(public_statements())
    rows = [[float(classes[code] == name) for code in diagnostic_statements()] for name in SUPERCLASSES]
    return np.asarray(rows, dtype=np.float32)


def statement_matrix(statements: Iterable[Iterable[str]]) -> np.ndarray:
    """Tell which diagnostic statements each record carries: (n, 44) float32 of 0 and 1."""
    order = {code: column for column, code in enumerate(diagnostic_statements())}
    rows = [[order[code] for code in codes if code in order] for codes in statements]
    matrix = np.zeros((len(rows), len(order)), dtype=np.float32)
    for row, columns in enumerate(rows):
        matrix[row, columns] = 1.0
    return matrix


def superclass_labels(
    records: Iterable[Mapping[str, float]], classes: Mapping[str, str], minimum_likelihood: float = 0.0
) -> np.ndarray:
    """Label records by the superclasses of their diagnostic statements.

    Args:
        records: per record, statement code to likelihood in per cent.
        classes: statement code to superclass, from ``superclass_of``.
        minimum_likelihood: statements below it do not count; 0 counts every statement present.

    Returns:
        float32 (n, 5) of 0 and 1 in the order of ``SUPERCLASSES``. A record without a diagnostic statement is all 0.
    """
    rows = []
    for codes in records:
        found = {classes[code] for code, p in codes.items() if code in classes and p >= minimum_likelihood}
        rows.append([float(name in found) for name in SUPERCLASSES])
    return np.asarray(rows, dtype=np.float32).reshape(-1, len(SUPERCLASSES))
