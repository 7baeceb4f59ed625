"""What a private hospital of the tests is asked, and what its ledger says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lavq_core.runs.layout import SiteFolder

Make = Callable[..., Any]
PRIVATE = (
    "privacy=eps8", "separator_training.steps=0", "detector_training.steps=3", "detector_training.epochs=3",
    "federation.rounds=3",
)  # fmt: skip


def entries(folder: SiteFolder) -> list[dict[str, Any]]:
    """Lines of the ledger behind its first; none where there is no ledger."""
    return [json.loads(line) for line in folder.ledger.read_text().splitlines()][1:] if folder.ledger.exists() else []
