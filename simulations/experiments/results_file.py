"""``simulations/results/NAME.json``: what an experiment found, and what made it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lavq_core.errors import RunError
from lavq_core.runs.layout import write_atomic
from simulations.summary import commit_of_checkout

FOLDER = Path(__file__).resolve().parents[1] / "results"


@dataclass(frozen=True)
class Row:
    """One figure of one arm."""

    arm: str  # for example fedavg/site
    metric: str  # for example macro_auc.pooled
    value: float  # mean over seeds
    low: float  # 95 % interval
    high: float
    n: int  # records behind it
    seeds: int


def write_results(
    name: str, command: str, data: Mapping[str, Any], seconds: float, rows: Sequence[Row], folder: Path = FOLDER
) -> Path:
    """Write a results file; ``data`` holds the fingerprint and counts of what was used."""
    content = {
        "command": command,
        "commit": commit_of_checkout(),
        "data": dict(data),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "seconds": round(seconds),
        "rows": [
            {key: _kept(value) if isinstance(value, float) else value for key, value in asdict(row).items()}
            for row in rows
        ],
    }
    path = folder / f"{name}.json"
    write_atomic(path, json.dumps(content, indent=1) + "\n")
    return path


def _kept(value: float) -> float:
    """Round to five decimals, and what is smaller than .01 to four digits: a time of a microsecond is not 0."""
    return round(value, 5) if abs(value) >= 0.01 else float(f"{value:.4g}")


def read_results(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Read a results file; its ``rows`` become ``Row`` objects.

    Raises:
        RunError: there is no such file.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        raise RunError(f"no results in {path}: make them with `lavq experiment {name} --data DIR`")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["rows"] = [Row(**row) for row in content["rows"]]
    return dict(content)
