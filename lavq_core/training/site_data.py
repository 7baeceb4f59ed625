"""One hospital's records, split by fold and ready to train on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES, public_statements, statement_matrix
from lavq_core.data.requests import statement_names
from lavq_core.models.beat_input import BeatInput
from lavq_core.models.combined_detector import CombinedDetector
from lavq_core.models.detector import Detector
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.models.pretrained import pretrained_network
from lavq_core.models.strip import strip_places
from lavq_core.models.twins import Patients
from lavq_core.settings import Config
from lavq_core.text.memory import ReportMemory, free_text_memory
from lavq_core.text.statements import public_encoder, requests
from lavq_core.training.detector_training import LabelledEcgs, predict
from lavq_core.training.guided import GuidedBeats
from lavq_core.training.head_training import PatientItems


@dataclass(frozen=True)
class SiteData:
    """A site's share of a database.

    Patients keep to one fold, so the split by fold is a split by patient.
    """

    name: str
    database: Database
    positions: np.ndarray  # (n,) rows of the database that are this site's
    config: Config
    withheld: tuple[str, ...] = ()  # superclasses whose records it may not train on (transfer experiments)
    members: np.ndarray | None = None  # patients to train on, whatever their fold (shadows of an audit); None: by fold

    @cached_property
    def train_positions(self) -> np.ndarray:
        """Rows of the database to train on: those of the training folds, or of the members where they are named."""
        if self.members is None:
            chosen = self.fold_positions(*self.config.data.train_folds)
        else:
            chosen = self.positions[np.isin(self.rows(self.positions)["patient_id"].to_numpy(), self.members)]
        columns = [SUPERCLASSES.index(name) for name in self.withheld]
        return chosen[self.database.labels[chosen][:, columns].sum(axis=1) == 0]

    def fold_positions(self, *folds: int) -> np.ndarray:
        """Rows of the database in some folds."""
        own = self.database.table["strat_fold"].to_numpy()[self.positions]
        return self.positions[np.isin(own, folds)]

    def rows(self, positions: np.ndarray) -> pd.DataFrame:
        """Table rows of some positions."""
        return self.database.table.iloc[positions]

    @cached_property
    def ecgs(self) -> LabelledEcgs:
        """Training records for the detector."""
        rows, combined = self.train_positions, self.config.detector.kind == "combined"
        labels = torch.from_numpy(self.database.labels[rows])
        described = self.database.described(rows) if combined else None
        return LabelledEcgs(self.database.signals(rows), labels, torch.ones(len(labels)), described)

    @cached_property
    def described(self) -> PatientItems:
        """Training records for a features detector, by patient."""
        rows, config = self.train_positions, self.config
        described = self.database.described(rows, pretrained_network(config.detector, config.data.sampling_rate))
        labels = torch.from_numpy(self.database.labels[rows])
        return PatientItems.of(described, labels, self.rows(rows)["patient_id"].to_numpy())

    def scores(self, detector: Detector, positions: np.ndarray) -> np.ndarray:
        """Probabilities ``(n, 5)`` of a detector for some positions of the database."""
        return database_scores(detector, self.database, positions)

    @cached_property
    def fingerprint(self) -> str:
        """Key of the site's share of the data, see ``fingerprint_of``."""
        return fingerprint_of(self.database, self.positions)

    @cached_property
    def beats(self) -> GuidedBeats:
        """Training records for separator and editor: those whose beats were found."""
        return self.guided(self.train_positions)

    @cached_property
    def beat_owners(self) -> torch.Tensor:
        """Patients of ``beats``, ``(n,)`` int64, numbered from 0."""
        rows = self.rows(self.with_beats(self.train_positions))
        _, owner = np.unique(rows["patient_id"].to_numpy(), return_inverse=True)
        return torch.from_numpy(owner.astype(np.int64))

    @cached_property
    def healthy(self) -> Patients:
        """NORM-only training records whose beats were found: whom twins are made of."""
        return self.patients(self.train_positions[self.database.norm_only()[self.train_positions]])

    def patients(self, positions: np.ndarray) -> Patients:
        """Records in the beat frame, for twins; those without enough beats of one shape are left out."""
        positions = self.with_beats(positions)
        signals = self.database.signals(positions)
        beats = self.database.beats.take(positions)
        return Patients(signals, beats, self._input(positions), self.config.data.sampling_rate)

    def with_beats(self, positions: np.ndarray) -> np.ndarray:
        """Keep the positions whose records have enough beats of one shape."""
        return positions[self.database.beats.found()[positions]]

    def guided(self, positions: np.ndarray) -> GuidedBeats:
        """Records in the beat frame with reports and labels; those without enough beats are left out."""
        positions = self.with_beats(positions)
        given, beats = self._input(positions), self.database.beats.take(positions)
        shown = set(statement_names(public_statements()))  # diagnostic and form: what a beat can show
        codes = [[code for code in row if code in shown] for row in self.rows(positions)["statements"]]
        asked = requests(codes, self.config.text)
        memory = asked if self.config.text.source == "statements" else self._free_text(positions)
        return GuidedBeats(
            x=given.x,
            covariates=given.covariates,
            valid=given.valid,
            y=torch.from_numpy(self.database.labels[positions]),
            memory=memory.tokens,
            mask=memory.mask,
            asked=asked.tokens,
            asked_mask=asked.mask,
            statements=torch.from_numpy(statement_matrix(codes)),
            places=strip_places(
                torch.from_numpy(beats.rr), torch.from_numpy(beats.valid), self.config.data.sampling_rate
            ),
        )

    def _input(self, positions: np.ndarray) -> BeatInput:
        rows = self.rows(positions)
        age, sex = (rows[name].to_numpy(dtype=float, na_value=np.nan) for name in ("age", "sex"))
        return BeatInput.of(self.database.beats.take(positions), age, sex, self.config.separator.stride)

    def _free_text(self, positions: np.ndarray) -> ReportMemory:
        text = self.config.text
        return free_text_memory(list(self.rows(positions)["report"]), public_encoder(text.encoder, text.width))


def database_scores(detector: Detector, database: Database, positions: np.ndarray) -> np.ndarray:
    """Probabilities ``(n, 5)`` of a detector for some records; where it reads descriptions, the kept ones."""
    if isinstance(detector, FeatureDetector):
        return detector.scores(database.described(positions, detector.network)).numpy()
    described = database.described(positions) if isinstance(detector, CombinedDetector) else None
    return predict(detector, database.signals(positions), described=described).numpy()


def fingerprint_of(database: Database, positions: np.ndarray) -> str:
    """Return the key of a share of a database: sha256 of the database's fingerprint and of the rows."""
    rows = np.sort(positions).astype("<i8").tobytes()
    return hashlib.sha256(database.fingerprint.encode() + rows).hexdigest()
