"""All judges of one seed, fitted together, and what they say of a set of ECGs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES, superclass_of
from lavq_core.errors import DataError
from lavq_core.signals.beats import Beats
from lavq_core.signals.criteria import CRITERIA
from lavq_core.signals.delineation import delineate
from simulations.judges.transformer import EPOCHS, TransformerJudge
from simulations.judges.trees import TreesJudge

JUDGES = ("trees", "transformer")
CRITERION = "criterion"
"""The textbook, a third judge, of some statements."""

_FEWEST = 10  # records with a statement below which nobody learns it


@dataclass(frozen=True)
class Opinion:
    """What the judges say of n ECGs; higher is more of it."""

    classes: Mapping[str, np.ndarray]  # judge: (n, 5) probabilities, order of SUPERCLASSES
    statements: Mapping[str, Mapping[str, np.ndarray]]  # judge: statement: (n,)


@dataclass(frozen=True)
class Jury:
    """Trees on median beats and a transformer on records, for superclasses and statements, and the textbook."""

    trees: TreesJudge
    statement_trees: TreesJudge
    transformer: TransformerJudge  # superclasses, then statements
    statements: tuple[str, ...]
    rate: int  # Hz

    @classmethod
    def fit(cls, database: Database, beats: Beats, positions: np.ndarray, seed: int, epochs: int = EPOCHS) -> Jury:
        """Fit all judges to the same real records.

        Args:
            database: read at ``positions`` only.
            beats: of all its records.
            positions: ``(m,)`` records of patients who neither train nor are judged.
            seed: of every judge.
            epochs: of the transformer.

        Raises:
            DataError: a superclass or every statement is too rare among these records.
        """
        rate, classes = database.sampling_rate, database.labels[positions]
        codes = [set(found) for found in database.table["statements"].iloc[positions]]
        known = [code for code, name in superclass_of(database.statements).items() if name != SUPERCLASSES[0]]
        common = tuple(code for code in known if _FEWEST <= sum(code in found for found in codes) < len(codes))
        if not common or (classes.sum(axis=0) < _FEWEST).any():
            raise DataError(
                f"judges have {len(positions)} records of {database.folder} to learn from, and need {_FEWEST} of every "
                "superclass: give them more folds"
            )
        each = np.array([[code in found for code in common] for found in codes], dtype=np.float32)  # (m, S)
        median = beats.median[positions]
        labels = np.concatenate([classes, each], axis=1)  # (m, 5 + S)
        return cls(
            TreesJudge.fit(median, classes, rate, seed),
            TreesJudge.fit(median, each, rate, seed),
            TransformerJudge.fit(database.signals(positions), labels, rate, seed, epochs),
            common,
            rate,
        )

    def judge(self, signals: np.ndarray, median_beats: np.ndarray) -> Opinion:
        """Judge records ``(n, 8, T)`` mV with their median beats ``(n, 8, W)``."""
        read = self.transformer.scores(torch.from_numpy(signals))  # (n, 5 + S)
        voted = self.statement_trees.scores(median_beats)  # (n, S)
        marks = delineate(median_beats, self.rate)
        # What a criterion measures and cannot find, such as a P wave, is no sign of the statement.
        textbook = {code: np.nan_to_num(score(marks), nan=-np.inf) for code, score in CRITERIA.items()}
        split = len(SUPERCLASSES)
        return Opinion(
            {"trees": self.trees.scores(median_beats), "transformer": read[:, :split]},
            {
                "trees": dict(zip(self.statements, voted.T, strict=True)),
                "transformer": dict(zip(self.statements, read[:, split:].T, strict=True)),
                CRITERION: textbook,
            },
        )
