"""Everybody who might have been trained on: the people whose membership an attack has to guess."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavq_core.data.cache import MICROVOLTS
from lavq_core.data.database import Database
from lavq_core.models.combined_detector import CombinedDetector
from lavq_core.models.detector import Detector
from lavq_core.models.feature_detector import FeatureDetector
from lavq_core.models.pretrained import pretrained_network
from lavq_core.settings import Config
from lavq_core.training.detector_training import LabelledEcgs


@dataclass(frozen=True)
class Cohort:
    """Members and non-members of one run with their ECGs. Patient p is row p of ``patients`` and ``member``."""

    signals: np.ndarray  # (n, 8, T) int16 in uV, of every record that is scored
    y: np.ndarray  # (n, 5) float32 of 0 and 1
    owner: np.ndarray  # (n,) int64, patient of each record, 0 to P - 1
    patients: np.ndarray  # (P,) patient_id
    member: np.ndarray  # (P,) bool, trained on by the run
    positions: np.ndarray  # (n,) int64, row of each record in its database
    described: np.ndarray | None = None  # (n, size) descriptions, where the detector reads them

    @classmethod
    def of_run(cls, database: Database, config: Config) -> Cohort:
        """Split a run's patients: members have records in the training folds, non-members in others only.

        Folds keep patients together in PTB-XL. Where they do not, a patient of both sides is a member and is scored by
        the records that were trained on.
        """
        held_out = ~database.table["strat_fold"].isin(config.data.train_folds).to_numpy()
        patients, owner = np.unique(database.table["patient_id"].to_numpy(), return_inverse=True)
        member = np.zeros(len(patients), dtype=bool)
        member[owner[~held_out]] = True
        scored = np.flatnonzero(held_out != member[owner])
        reads = config.detector.kind != "resnet"
        network = pretrained_network(config.detector, config.data.sampling_rate)
        return cls(
            np.asarray(database.packed[scored]),
            database.labels[scored],
            owner[scored].astype(np.int64),
            patients,
            member,
            scored,
            database.described(scored, network).numpy() if reads else None,
        )

    def __len__(self) -> int:
        """Return the number of patients."""
        return len(self.patients)

    def x(self, rows: np.ndarray) -> Tensor:
        """ECGs of some records: float32 ``(m, 8, T)`` in mV."""
        return torch.from_numpy(self.signals[rows].astype(np.float32)).div_(MICROVOLTS)

    def training_data(self, included: np.ndarray) -> LabelledEcgs:
        """All records of some patients; ``included`` is ``(P,)`` bool."""
        rows = np.flatnonzero(included[self.owner])
        described = None if self.described is None else torch.from_numpy(self.described[rows])
        return LabelledEcgs(self.x(rows), torch.from_numpy(self.y[rows]), torch.ones(len(rows)), described)

    def records(self) -> np.ndarray:
        """Return the number of scored records of each patient: ``(P,)`` int64."""
        return np.bincount(self.owner, minlength=len(self))

    def patient_means(self, values: np.ndarray) -> np.ndarray:
        """Average over each patient's records: ``(..., n)`` to ``(..., P)``, in float64."""
        sums = np.zeros((len(self), *values.shape[:-1]))
        np.add.at(sums, self.owner, np.moveaxis(values, -1, 0))
        return np.moveaxis(sums, 0, -1) / self.records()

    def digest(self) -> str:
        """Hash the ECGs, their labels and whose they are; who is a member does not enter."""
        digest = hashlib.sha256(repr(self.signals.shape).encode())
        for part in (self.signals, self.y, self.owner):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    @torch.no_grad()
    def logits(self, model: Detector, rows: np.ndarray | None = None, batch: int = 256) -> np.ndarray:
        """Ask a detector about records (all, or some rows) once, without augmentation: ``(m, 5)`` float32.

        Logits and not probabilities: float32 probabilities of an overfit detector are exactly 0 or 1, and what they
        hide is what an attack reads.
        """
        rows = np.arange(len(self.owner)) if rows is None else rows
        if isinstance(model, FeatureDetector):
            return model.head(model.standard(self._known(rows))).numpy()
        device = next(model.parameters()).device
        model.eval()
        said = []
        for part in np.split(rows, range(batch, len(rows), batch)):
            known = (self._known(part).to(device),) if isinstance(model, CombinedDetector) else ()
            said.append(model(self.x(part).to(device), *known).float().cpu().numpy())
        return np.concatenate(said)

    def _known(self, rows: np.ndarray) -> Tensor:
        if self.described is None:
            raise ValueError("this detector reads descriptions, and this cohort has none")
        return torch.from_numpy(self.described[rows])
