"""The round loop: who takes part, what is sent, what is used, what is kept.

Stock Flower strategies wait for ever for a dead site and average whatever comes back, so the loop is our own: a
deadline on every wait, a quorum, checked replies, a checkpoint after every round and one line in the event log for
everything that happened. A bad site is left out of the round and named; too few good ones end the run with an error.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid

from lavq_core.errors import LavqError, RunError
from lavq_core.runs.events import EventLog
from lavq_core.settings import FederationConfig
from server.aggregation import Aggregator
from server.checkpoints import Checkpoints
from server.exchange import Answer, Question, ask
from server.model import SharedModel, SiteUpdate, State
from server.validation import ReplyChecker, read_evaluation, read_site_name

_LOOK = 0.2  # s between two looks at who has joined


@dataclass(frozen=True)
class RoundLoop:
    """One federated training.

    Attributes:
        grid: Flower's grid.
        settings: numbers of sites and rounds, deadlines.
        aggregator: what becomes of a round's updates.
        checkpoints: where models are kept.
        events: the server's event log.
    """

    grid: Grid
    settings: FederationConfig
    aggregator: Aggregator
    checkpoints: Checkpoints
    events: EventLog

    def run(self, start: SharedModel) -> SharedModel:
        """Train and return the final model.

        Raises:
            RunError: the folder is in use, too few sites joined, or too few good replies in a round. Whatever is raised
                after the run has started is in the event log as ``run-failed``.
        """
        self.checkpoints.refuse_used_folder()
        began = time.monotonic()
        self.events.write("run-started", rounds=self.settings.rounds, sites=self.settings.sites)
        try:
            sites = self._join()
            model, memory = start, State()
            for number in range(1, self.settings.rounds + 1):
                model, memory = self._round(model, memory, sites, number)
            self.checkpoints.save_final(model)
        except BaseException as error:
            text = str(error) if isinstance(error, LavqError) else f"{type(error).__name__}: {error}"
            self.events.write("run-failed", reason=" ".join(text.split()))
            raise
        self.events.write("run-finished", seconds=_since(began))
        return model

    def _join(self) -> dict[int, str]:
        """Wait for the sites and ask their names; return them by node id, in the order of names."""
        nodes = self._wait_for_nodes()
        question = Question("query.hello", RecordDict(), read_site_name, 0)
        unnamed = {node: f"node-{node}" for node in nodes}
        answers = list(ask(self.grid, unnamed, question, self.settings.join_timeout))
        taken = Counter(answer.value for answer in answers if answer.value is not None)
        sites: dict[int, str] = {}
        for answer in answers:
            if answer.value is None:
                self._log_answer("site-replied", answer, 0)
            elif taken[answer.value] > 1:
                self.events.write("site-replied", **_fields(answer, 0) | {"status": "rejected: the name is not unique"})
            else:
                sites[answer.node] = answer.value
        sites = dict(sorted(sites.items(), key=lambda item: item[1]))
        for name in sites.values():
            self.events.write("site-joined", site=name)
        self._require_quorum(len(sites), "gave a name of their own", self._see_log)
        return sites

    def _wait_for_nodes(self) -> list[int]:
        deadline = time.monotonic() + self.settings.join_timeout
        while True:
            nodes = sorted(self.grid.get_node_ids())
            if len(nodes) >= self.settings.sites or time.monotonic() >= deadline:
                break
            time.sleep(_LOOK)
        self._require_quorum(
            len(nodes),
            f"joined within {self.settings.join_timeout:g} s",
            f"start the missing ones (flwr run: --federation-config num-supernodes={self.settings.sites})",
        )
        return nodes

    def _round(
        self, model: SharedModel, memory: State, sites: dict[int, str], number: int
    ) -> tuple[SharedModel, State]:
        """Train once on every site, aggregate, keep a checkpoint, let every site evaluate the result."""
        began = time.monotonic()
        self.events.write("round-started", round=number)
        updates = self._screen(model, self._train(model, sites, number), number)
        self._require_quorum(len(updates), f"gave a usable update in round {number}", self._see_log)
        model, memory = self.aggregator.aggregate(model, updates, number, memory)
        self.checkpoints.save_round(model, memory, number)
        scored = replace(model, moments={})  # two thirds of the bytes, of no use to an evaluation
        question = Question("evaluate", self._content(scored, number), read_evaluation, number)
        for answer in ask(self.grid, sites, question, self.settings.round_timeout):
            self._log_answer("site-evaluated", answer, number, examples=answer.value)
        self.events.write("round-finished", round=number, seconds=_since(began), sites=len(updates))
        return model, memory

    def _train(self, model: SharedModel, sites: dict[int, str], number: int) -> dict[str, SiteUpdate]:
        question = Question("train", self._content(model, number), ReplyChecker(model).update, number)
        updates = {}
        for answer in ask(self.grid, sites, question, self.settings.round_timeout):
            self._log_answer("site-replied", answer, number, examples=answer.value.examples if answer.value else None)
            if answer.value is not None:
                updates[answer.site] = answer.value
        return updates

    def _screen(self, model: SharedModel, updates: dict[str, SiteUpdate], number: int) -> dict[str, SiteUpdate]:
        """Leave out what shows as bad beside the other updates; every site concerned is named in the event log."""
        screened = self.aggregator.screen(model, updates)
        for site, reason in screened.left_out.items():
            self.events.write("site-left-out", round=number, site=site, status=f"rejected: {reason}")
        for site, (declared, counted) in screened.cut.items():
            self.events.write(
                "site-weight-cut", round=number, site=site, declared=round(declared, 4), counted=round(counted, 4)
            )
        return screened.updates

    def _content(self, model: SharedModel, number: int) -> RecordDict:
        content = model.records()
        content["round"] = ConfigRecord({"number": number, "rounds": self.settings.rounds})
        return content

    def _require_quorum(self, good: int, what: str, advice: str) -> None:
        settings = self.settings
        if good < settings.min_sites:
            raise RunError(
                f"only {good} of {settings.sites} sites {what} and federation.min_sites is {settings.min_sites}: "
                f"{advice}"
            )

    @property
    def _see_log(self) -> str:
        return f"the site-replied events in {self.events.path} say why"

    def _log_answer(self, event: str, answer: Answer, number: int, examples: float | None = None) -> None:
        self.events.write(event, **_fields(answer, number, examples))


def _fields(answer: Answer, number: int, examples: float | None = None) -> dict[str, object]:
    return {
        "round": number,
        "site": answer.site,
        "status": answer.status,
        "bytes_down": answer.bytes_down,
        "bytes_up": answer.bytes_up,
        "seconds": round(answer.seconds, 3),
        "examples": examples,
    }


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
