"""The server's state on its disk: one artefact after every round, from which a run that was killed goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lavq_core.errors import RunError
from lavq_core.runs.artefact import load_artefact, save_artefact
from lavq_core.runs.layout import RunFolder
from server.model import SharedModel, State

_MEMORY = "strategy"  # part of a checkpoint beside the model's


@dataclass(frozen=True)
class Checkpoint:
    """All that the server needs to go on after a round.

    It holds no generator's state because there is none: whatever is drawn, here or at a site, is drawn from a generator
    that is seeded with the run's seed and the round's number.

    Attributes:
        model: the shared model after that round.
        round: 0 before the first.
        memory: what the strategy keeps from round to round, tensors by name; their order is not kept.
        history: one entry a round: ``round``, ``sites`` whose updates were used, ``seconds`` of the run so far, in
            which the time between a kill and its resume does not count; of a private training ``heads``.
    """

    model: SharedModel
    round: int = 0
    memory: State = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()

    @property
    def heads(self) -> dict[str, str]:
        """Head of each site's privacy ledger, as far as the server has heard."""
        return dict(self.history[-1].get("heads", {})) if self.history else {}

    @property
    def seconds(self) -> float:
        """Seconds of the run so far."""
        return float(self.history[-1]["seconds"]) if self.history else 0.0


@dataclass(frozen=True)
class Checkpoints:
    """Writes into a run folder, and reads again.

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
            raise RunError(
                f"{self.run.root} holds a run already: give another run.dir, go on with that run (run.resume=true), or "
                "remove the folder first"
            )

    def save_round(self, checkpoint: Checkpoint) -> None:
        """Write ``checkpoints/round-NNN``, all or nothing."""
        parts = checkpoint.model.parts() | ({_MEMORY: checkpoint.memory} if checkpoint.memory else {})
        facts = {**self._facts(checkpoint.round), "history": list(checkpoint.history)}
        save_artefact(self.run.checkpoint(checkpoint.round), parts, facts)

    def save_final(self, model: SharedModel) -> None:
        """Write ``model``."""
        save_artefact(self.run.model, model.parts(), self._facts(self.rounds))

    def newest(self, start: SharedModel, rejected: Callable[[int, str], None]) -> Checkpoint:
        """Read the newest checkpoint that is whole.

        Args:
            start: what the run started from: the form that a model of this run has, and the answer if there is no
                checkpoint.
            rejected: told the round of every newer checkpoint, and what is wrong with it.
        """
        for number, folder in reversed(self.run.checkpoints().items()):
            try:
                return _read(folder, number, start)
            except (RunError, OSError) as error:
                rejected(number, str(error))
        return Checkpoint(start)

    def _facts(self, round_number: int) -> dict[str, Any]:
        return {**self.about, "round": round_number, "rounds": self.rounds}


def _read(folder: Path, number: int, start: SharedModel) -> Checkpoint:
    parts, about = load_artefact(folder)
    if about.get("round") != number or "history" not in about:
        raise RunError(f"{folder} is not the checkpoint of round {number}")
    model = {name: _like(form, parts.get(name, {}), f"{folder}/{name}") for name, form in start.parts().items()}
    return Checkpoint(replace(start, **model), number, parts.get(_MEMORY, {}), about["history"])


def _like(form: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> State:
    """Return ``state`` in the order of ``form``, which a sum over tensors may depend on."""
    shapes = {name: (value.shape, value.dtype) for name, value in form.items()}
    if shapes != {name: (value.shape, value.dtype) for name, value in state.items()}:
        raise RunError(f"{where} is of another model than the configuration gives")
    return {name: state[name] for name in form}
