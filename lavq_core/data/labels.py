"""From SCP-ECG statements to the five diagnostic superclasses.

The rule is the benchmark's (Strodthoff et al., IEEE JBHI 2021): a record carries a superclass when any of its
diagnostic statements belongs to it, however unlikely the cardiologist thought it. A minimum likelihood is a setting.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from lavq_core.errors import ConfigError, DataError

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
"""The order of labels, probabilities and scores everywhere."""


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
