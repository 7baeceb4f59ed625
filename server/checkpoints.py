"""The shared model on the server's disk: one artefact after every round, and the final one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lavq_core.errors import RunError
from lavq_core.runs.artefact import save_artefact
from lavq_core.runs.layout import RunFolder
from server.model import SharedModel, State


@dataclass(frozen=True)
class Checkpoints:
    """Writes into a run folder.

    Attributes:
        run: the folder.
        rounds: rounds of the whole run.
        about: facts for every manifest (seed, class order, ...); JSON-serialisable.
    """

    run: RunFolder
    rounds: int
    about: Mapping[str, Any]

    def refuse_used_folder(self) -> None:
        """Keep two runs from mixing in one folder.

        Raises:
            RunError: the folder has an event log already.
        """
        if self.run.events.exists():
            raise RunError(f"{self.run.root} holds a run already: give another run.dir, or remove that folder first")

    def save_round(self, model: SharedModel, memory: State, round_number: int) -> None:
        """Write ``checkpoints/round-NNN``: model and strategy's memory after that round, all or nothing."""
        parts = model.parts() | ({"strategy": memory} if memory else {})
        save_artefact(self.run.checkpoint(round_number), parts, self._facts(round_number))

    def save_final(self, model: SharedModel) -> None:
        """Write ``model``."""
        save_artefact(self.run.model, model.parts(), self._facts(self.rounds))

    def _facts(self, round_number: int) -> dict[str, Any]:
        return {**self.about, "round": round_number, "rounds": self.rounds}
