"""Who takes part: nodes come, go and come back, a site is known by its name."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import RecordDict

from lavq_core.runs.events import EventLog
from lavq_core.settings import FederationConfig
from server.deployment.folders import read_nodes
from server.exchange import Exchange, Question
from server.validation import read_site_name

_LOOK = 0.2  # s between two looks at who has joined


@dataclass
class Membership:
    """The sites of one run and the nodes that they are at.

    A node is asked its name once. A site that comes back at another node, say after a restart, is known by its name; as
    long as the node that holds a name is connected, no other node gets that name. Where it is known which site's key a
    node has (``federation.nodes``, in a deployment), it gets that site's name or none.

    Attributes:
        exchange: asks the nodes.
        settings: how many sites, and how long to wait for them.
        events: the server's event log.
    """

    exchange: Exchange
    settings: FederationConfig
    events: EventLog
    _names: dict[int, str] = field(default_factory=dict)  # of every node that ever said one
    _silent: set[int] = field(default_factory=set)  # asked, have not answered: a late answer is as good
    _sites: dict[int, str] = field(default_factory=dict)  # connected now, by node id
    _refused: set[int] = field(default_factory=set)  # nodes whose name is another node's
    _seen: set[str] = field(default_factory=set)  # sites that have ever taken part
    _registered: dict[int, str] = field(init=False)  # by node, as far as it is known

    def __post_init__(self) -> None:
        self._registered = read_nodes(self.settings.nodes) if self.settings.nodes else {}

    def join(self) -> dict[int, str]:
        """Wait for all expected nodes, or for the deadline, and return the sites as ``current`` does."""
        deadline = time.monotonic() + self.settings.join_timeout
        while len(self._nodes()) < self.settings.sites and time.monotonic() < deadline:
            time.sleep(_LOOK)
        return self.current(deadline)

    def current(self, deadline: float | None = None) -> dict[int, str]:
        """Ask newcomers their names and return the sites that are connected, by node id, in the order of names.

        Args:
            deadline: until when to wait for a quorum, as ``time.monotonic`` counts; None: ``federation.join_timeout``
                from now. Fewer sites may be returned.
        """
        deadline = time.monotonic() + self.settings.join_timeout if deadline is None else deadline
        failed: set[int] = set()
        while True:
            failed |= self._ask_newcomers(failed)
            self._settle()
            if len(self._sites) >= self.settings.min_sites or time.monotonic() >= deadline:
                return dict(self._sites)
            time.sleep(_LOOK)

    def connected(self) -> int:
        """Return how many nodes are connected, named or not."""
        return len(self._nodes())

    def _nodes(self) -> list[int]:
        return sorted(self.exchange.grid.get_node_ids())

    def _ask_newcomers(self, failed: set[int]) -> set[int]:
        """Ask the nodes that have no name yet; returns those that answered with an error.

        They are asked again before the next round, while a node that does not answer at all would hold up every round.
        """
        nodes = self._nodes()
        self._silent &= set(nodes)
        known = {*self._names, *self._silent, *self._refused, *failed}
        unnamed = {node: f"node-{node}" for node in nodes if node not in known}
        settings = self.settings
        question = Question(
            "query.hello",
            RecordDict(),
            read_site_name,
            0,
            timeout=settings.join_timeout,
            lifetime=settings.join_timeout + settings.round_timeout,
            late=self._named,
        )
        wrong = set()
        for answer in self.exchange.ask(unnamed, question):
            if answer.value is not None:
                self._named(answer.node, answer.value)
                continue
            self.events.write("site-replied", round=0, **answer.fields())
            if answer.silent:
                self._silent.add(answer.node)
            else:
                wrong.add(answer.node)
        return wrong

    def _named(self, node: int, name: str) -> None:
        self._silent.discard(node)
        own, taken = self._registered.get(node), self._registered.values()
        if name == own or (own is None and name not in taken):
            self._names[node] = name
            return
        self._refused.add(node)
        self.events.write(
            "site-replied", round=0, site=f"node-{node}", status="rejected: the name is not that of its key's site"
        )

    def _settle(self) -> None:
        """Decide which connected node is which site, and log who came and who went."""
        holders: dict[str, list[int]] = {}
        for node in self._nodes():
            if node in self._names:
                holders.setdefault(self._names[node], []).append(node)
        now: dict[int, str] = {}
        for name, nodes in sorted(holders.items()):
            held = [node for node in nodes if self._sites.get(node) == name] if len(nodes) > 1 else nodes
            now |= dict.fromkeys(held, name)
            for node in sorted(set(nodes) - set(held) - self._refused):
                self._refused.add(node)
                self.events.write("site-replied", round=0, site=name, status="rejected: the name is not unique")
        self._log_changes(now)
        self._sites = now

    def _log_changes(self, now: Mapping[int, str]) -> None:
        for name in sorted(set(self._sites.values()) - set(now.values())):
            self.events.write("site-left", site=name)
        for node, name in now.items():
            if self._sites.get(node) != name:  # another node of a site that never left is a return, too
                self.events.write("site-returned" if name in self._seen else "site-joined", site=name)
                self._seen.add(name)
