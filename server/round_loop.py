"""The round loop: what is sent, what is used, what is kept.

Stock Flower strategies wait for ever for a dead site and average whatever comes back, so the loop is our own: a
deadline on every wait, a quorum, checked replies, a checkpoint after every round and one line in the event log for
everything that happened. A bad site is left out of the round and named; too few good ones end the run with an error.
A run that ended before its time, whatever the reason, goes on from its newest checkpoint and gives the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid

from lavq_core.errors import LavqError, RunError
from lavq_core.runs.events import EventLog, read_events, standing_events
from lavq_core.settings import FederationConfig
from server.aggregation import Aggregator
from server.checkpoints import Checkpoint, Checkpoints
from server.exchange import Exchange, Question
from server.membership import Membership
from server.model import SharedModel, SiteUpdate
from server.validation import ReplyChecker, read_evaluation

T = TypeVar("T")


@dataclass(frozen=True)
class RoundLoop:
    """One federated training.

    Attributes:
        grid: Flower's grid.
        settings: numbers of sites and rounds, deadlines.
        aggregator: what becomes of a round's updates.
        checkpoints: where models are kept.
        events: the server's event log.
        private: sites keep privacy ledgers; what the server knows of them is echoed to them.
    """

    grid: Grid
    settings: FederationConfig
    aggregator: Aggregator
    checkpoints: Checkpoints
    events: EventLog
    private: bool = False

    def run(self, start: SharedModel) -> SharedModel:
        """Train and return the final model.

        Raises:
            RunError: the folder is in use, too few sites joined, or too few good replies in a round. Whatever is raised
                after the run has started is in the event log as ``run-failed``.
        """
        self.checkpoints.refuse_used_folder()
        self.events.write("run-started", rounds=self.settings.rounds, sites=self.settings.sites)
        return self._guarded(Checkpoint(start))

    def resume(self, start: SharedModel) -> SharedModel:
        """Go on after the newest whole checkpoint, and return the final model.

        Args:
            start: what the run started from.

        Raises:
            RunError: the run has finished; otherwise as ``run``.
        """
        before = read_events(self.events.path)
        if any(event["event"] == "run-finished" for event in before):
            raise RunError(f"the run in {self.checkpoints.run.root} has finished: there is nothing to go on with")
        newest = self.checkpoints.newest(
            start, lambda number, reason: self.events.write("checkpoint-rejected", round=number, reason=reason)
        )
        number, settings = newest.round, self.settings
        self.events.write("run-resumed", round=number, rounds=settings.rounds, sites=settings.sites)
        done = any(e["event"] == "round-finished" and e["round"] == number for e in standing_events(before))
        return self._guarded(newest, evaluated=done or number == 0)

    def _guarded(self, begin: Checkpoint, evaluated: bool = True) -> SharedModel:
        try:
            return self._rounds(begin, evaluated)
        except BaseException as error:
            text = str(error) if isinstance(error, LavqError) else f"{type(error).__name__}: {error}"
            self.events.write("run-failed", reason=" ".join(text.split()))
            raise

    def _rounds(self, begin: Checkpoint, evaluated: bool) -> SharedModel:
        """Do the rounds after ``begin``, and the evaluation of its own round if that was not done."""
        clock = time.monotonic() - begin.seconds
        exchange = Exchange(self.grid, self.events, self.settings.retries)
        members, now = Membership(exchange, self.settings, self.events), begin
        sites = self._join(members)
        if not evaluated:
            self._evaluate(exchange, now, sites)
            self._finish_round(now, time.monotonic())
        for number in range(begin.round + 1, self.settings.rounds + 1):
            began = time.monotonic()
            self.events.write("round-started", round=number)
            now = self._train(exchange, now, sites, clock)
            self._evaluate(exchange, now, sites)
            self._finish_round(now, began)
            if number < self.settings.rounds:
                sites = members.current()
                self._require_quorum(len(sites), f"are connected before round {number + 1}", "start the missing ones")
        self.checkpoints.save_final(now.model)
        self.events.write("run-finished", seconds=_since(clock))
        return now.model

    def _join(self, members: Membership) -> dict[int, str]:
        sites = members.join()
        self._require_quorum(
            members.connected(),
            f"joined within {self.settings.join_timeout:g} s",
            f"start the missing ones (flwr run: --federation-config num-supernodes={self.settings.sites})",
        )
        self._require_quorum(len(sites), "gave a name of their own", self._see_log)
        return sites

    def _train(self, exchange: Exchange, before: Checkpoint, sites: dict[int, str], clock: float) -> Checkpoint:
        """Train one round on every site, aggregate, and keep a checkpoint."""
        number, model = before.round + 1, before.model
        read = ReplyChecker(model, self.private).update
        question = self._question("train", model, number, read, self.settings.enough)
        heads = before.heads
        if self.private:
            question.content["ledgers"] = ConfigRecord(dict(heads))
        updates: dict[str, SiteUpdate] = {}
        for answer in exchange.ask(sites, question):
            update = answer.value
            spent = {"epsilon": round(update.ledger.epsilon, 6)} if update and update.ledger else {}
            examples = update.examples if update else None
            self.events.write("site-replied", round=number, **answer.fields(examples), **spent)
            if update is not None:
                updates[answer.site] = update
                heads |= {answer.site: update.ledger.head} if update.ledger else {}
        updates = self._screen(model, updates, number)
        self._require_quorum(len(updates), f"gave a usable update in round {number}", self._see_log)
        done: dict[str, object] = {"round": number, "sites": sorted(updates), "seconds": _since(clock)}
        if self.private:
            done["heads"] = heads
        model, memory = self.aggregator.aggregate(model, updates, number, before.memory)
        after = Checkpoint(model, number, memory, (*before.history, done))
        self.checkpoints.save_round(after)
        return after

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

    def _evaluate(self, exchange: Exchange, after: Checkpoint, sites: dict[int, str]) -> None:
        """Let every site evaluate the model of a round; after the last one all have time to write their predictions."""
        last = after.round >= self.settings.rounds
        enough = 0 if last else self.settings.enough
        question = self._question("evaluate", after.model.scored(last), after.round, read_evaluation, enough)
        for answer in exchange.ask(sites, question):
            self.events.write("site-evaluated", round=after.round, **answer.fields(answer.value))

    def _finish_round(self, after: Checkpoint, began: float) -> None:
        used = len(after.history[-1]["sites"])
        self.events.write("round-finished", round=after.round, seconds=_since(began), sites=used)

    def _question(
        self, kind: str, model: SharedModel, number: int, read: Callable[[RecordDict], T], enough: int
    ) -> Question[T]:
        content = model.records()
        content["round"] = ConfigRecord({"number": number, "rounds": self.settings.rounds})
        return Question(kind, content, read, number, self.settings.round_timeout, enough=enough)

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


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
