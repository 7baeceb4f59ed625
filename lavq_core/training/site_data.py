"""One hospital's records, split by fold and ready to train on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from lavq_core.config import Config
from lavq_core.data.database import Database
from lavq_core.data.labels import superclass_of
from lavq_core.models.prior import beat_phases
from lavq_core.signals.rpeaks import find_r_peaks_batch
from lavq_core.text.encoders import make_encoder
from lavq_core.text.memory import ReportMemory, free_text_memory, statement_memory
from lavq_core.training.guided import GuidedEcgs


@dataclass(frozen=True)
class SiteData:
    """A site's share of a database.

    Patients keep to one fold, so the split by fold is a split by patient.
    """

    name: str
    database: Database
    positions: np.ndarray  # (n,) rows of the database that are this site's
    config: Config

    @cached_property
    def train(self) -> GuidedEcgs:
        """Records of all folds but the validation and test fold."""
        return self._guided(self.train_positions)

    @cached_property
    def train_positions(self) -> np.ndarray:
        """Rows of the database to train on."""
        held_out = (self.config.data.validation_fold, self.config.data.test_fold)
        folds = self.database.table["strat_fold"].to_numpy()[self.positions]
        return self.positions[~np.isin(folds, held_out)]

    def fold_positions(self, fold: int) -> np.ndarray:
        """Rows of the database in one fold."""
        folds = self.database.table["strat_fold"].to_numpy()[self.positions]
        return self.positions[folds == fold]

    def rows(self, positions: np.ndarray) -> pd.DataFrame:
        """Table rows of some positions."""
        return self.database.table.iloc[positions]

    def phases(self, positions: np.ndarray) -> torch.Tensor:
        """Beat phase of every token: ``(n, N)`` int64."""
        signals = self.database.signals(positions)
        return token_phases(signals, self.config.separator.stride, self.config.data.sampling_rate)

    def _guided(self, positions: np.ndarray) -> GuidedEcgs:
        memory = self._memory(positions)
        return GuidedEcgs(
            x=self.database.signals(positions),
            y=torch.from_numpy(self.database.labels[positions]),
            memory=memory.tokens,
            mask=memory.mask,
            phases=self.phases(positions),
        )

    def _memory(self, positions: np.ndarray) -> ReportMemory:
        """Report tokens: descriptions of the diagnostic statements, or the free text."""
        text, table = self.config.text, self.rows(positions)
        descriptions = self.database.statements["description"].dropna().astype(str).to_dict()
        encoder = make_encoder(text.encoder, text.width, list(descriptions.values()))
        if text.source == "report":
            return free_text_memory(list(table["report"]), encoder)
        diagnostic = superclass_of(self.database.statements)
        statements = [[code for code in codes if code in diagnostic] for codes in table["statements"]]
        return statement_memory(statements, descriptions, encoder)


def token_phases(signals: torch.Tensor, stride: int, sampling_rate: int) -> torch.Tensor:
    """Beat phase of every token of ECGs ``(n, 8, T)`` in mV: ``(n, T / stride)`` int64."""
    tokens = signals.shape[-1] // stride
    peaks = find_r_peaks_batch(signals.numpy(), sampling_rate)
    rows = [beat_phases(found, tokens, stride, sampling_rate) for found in peaks]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, tokens, dtype=torch.int64)
