"""Which of a site's records are noisy: a score that was learned from the site's own records, and their drift.

For the data card and for a table that the site keeps. It names records, so it stays at the site.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from client.data_card import Section
from lavq_core.data.database import Database
from lavq_core.errors import ConfigError
from lavq_core.runs.layout import write_atomic
from lavq_core.signals.bands import DRIFT, band_size
from lavq_core.signals.leads import INDEPENDENT_LEADS
from lavq_core.training.noise_score import STEPS, NoiseScore

_SHOWN = 25  # records in the card; the table has all
_LEARNED, _AT_ONCE = 5000, 256  # records that are learned from at most, and that are scored at once
_COLUMNS = {"noise": "%.2f", "noise_lead": "%s", "drift_mv": "%.3f", "drift_lead": "%s"}


def noise_table(database: Database, steps: int = STEPS) -> pd.DataFrame:
    """Score every usable record by what is usual in this database; noisiest first.

    Returns:
        By ecg_id: ``noise``, spreads above the median of the worst lead (``lavq_core.training.noise_score``), and
        ``noise_lead``; ``drift_mv``, root mean square below .5 Hz in the lead that drifts most, and ``drift_lead``;
        ``file``.
    """
    everything, rate = np.arange(len(database)), database.sampling_rate
    some = np.sort(np.random.default_rng(0).permutation(everything)[:_LEARNED])
    score = NoiseScore.fit(database.signals(some).numpy(), rate, steps=steps)
    scores, drifts = [], []
    for start in range(0, len(everything), _AT_ONCE):
        signals = database.signals(everything[start : start + _AT_ONCE]).numpy()
        scores.append(score(signals, rate))
        drifts.append(band_size(signals, rate, 0.0, DRIFT))
    leads, noise, drift = np.array(INDEPENDENT_LEADS), np.concatenate(scores), np.concatenate(drifts)  # (n, 8)
    table = pd.DataFrame(
        {
            "noise": noise.max(axis=1),
            "noise_lead": leads[noise.argmax(axis=1)],
            "drift_mv": drift.max(axis=1),
            "drift_lead": leads[drift.argmax(axis=1)],
            "file": database.table["file"],
        },
        index=database.table.index,
    )
    return table.sort_values("noise", ascending=False, kind="stable")


def write_noise_table(path: Path, table: pd.DataFrame) -> None:
    """Write all records as CSV.

    Raises:
        ConfigError: it cannot be written there.
    """
    try:
        write_atomic(path, table.round({"noise": 3, "drift_mv": 4}).to_csv())
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error.strerror}): choose another place") from None


def noise_section(table: pd.DataFrame) -> Section:
    """Name the noisiest records."""
    rows = [
        (str(ecg_id), *(form % row[column] for column, form in _COLUMNS.items()), str(row["file"]))
        for ecg_id, row in table.head(_SHOWN).iterrows()
    ]
    note = (
        "Records whose worst lead is least like the same lead of the other records here, by a network that nobody told "
        "what noise is; noise is in spreads above the median. Rare diseases score high as well: look, do not delete. "
        "Drift is the root mean square below .5 Hz, measured and not learned."
    )
    return Section("Noisiest records", note, ("ecg_id", "noise", "lead", "drift, mV", "lead", "file"), rows)
