"""What a simulated hospital has, and what it wrote and answered, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flwr.app import Message
from flwr.common.serde import message_to_proto

from lavq_core.data.database import Database
from lavq_core.data.labels import SUPERCLASSES, diagnostic_statements
from lavq_core.runs.artefact import load_artefact
from lavq_core.runs.layout import SiteFolder, rounds_in
from simulations.partitions import partition

Make = Callable[..., Any]
PATIENT = "Jane Doe, born 1950-01-01, record 04711_lr"


def share_of(database: Database, number: int = 0) -> np.ndarray:
    return partition(database.table, "iid", 24, 0)[f"client-{number}"]


def in_folds(database: Database, positions: np.ndarray, *folds: int) -> np.ndarray:
    return positions[np.isin(database.table["strat_fold"].to_numpy()[positions], folds)]


def has_seen(site: Any, **statements: str) -> None:
    """Let the federation have seen one record of some superclasses, each with one statement."""
    for disease, code in statements.items():
        row, column = SUPERCLASSES.index(disease), diagnostic_statements().index(code)
        site.shared.codebook["requests"][row, column] = 1.0


def newest_networks(folder: SiteFolder) -> dict[str, torch.Tensor]:
    kept = rounds_in(folder.private_model)
    return load_artefact(kept[max(kept)])[0]["networks"]


def bytes_of(message: Message) -> bytes:
    return message_to_proto(message).SerializeToString()
