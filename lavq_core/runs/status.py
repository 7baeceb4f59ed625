"""Where a run stands, out of the server's event log; no site is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lavq_core.runs.events import Event, read_events, standing_events
from lavq_core.runs.layout import RunFolder
from lavq_core.runs.lock import is_held

_ANSWERS = ("site-replied", "site-evaluated")
_COMING = {"site-joined": True, "site-returned": True, "site-left": False}


@dataclass
class SiteStatus:
    """One site, or a node that never became one.

    Attributes:
        name: its pseudonym, or ``node-ID``.
        state: ``training``, ``evaluating``, ``ready``, ``left`` or ``refused`` in a run that goes on; in one that has
            ended, ``took part`` or ``refused``.
        rounds: whose update was used.
        last: status of its last answer, with the round.
        failures: answers that did not count, and failures after which it was asked again.
        bytes_down: content sent to it over the whole run, rounds that were done again included.
        bytes_up: content received from it.
        seconds: that it took for its answers.
        epsilon: what its patients' privacy has cost so far, as it last said; 0 without privacy.
    """

    name: str
    state: str = "refused"
    rounds: int = 0
    last: str = ""
    failures: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0
    epsilon: float = 0.0


@dataclass
class RunStatus:
    """One run.

    Attributes:
        state: ``running``, ``finished``, ``failed`` or ``broken off``.
        reason: why it failed; empty otherwise.
        done: rounds that are complete.
        rounds: rounds of the whole run, 0 when the log does not say.
        current: round that is going on, 0 for none.
        resumed: how often the run was taken up again.
        sites: by name.
    """

    state: str
    reason: str = ""
    done: int = 0
    rounds: int = 0
    current: int = 0
    resumed: int = 0
    sites: dict[str, SiteStatus] = field(default_factory=dict)


def run_status(run: RunFolder) -> RunStatus:
    """Read a run's log; it may be going on."""
    goes_on = is_held(run)  # before the log is read: a run that ends in between is then seen as ended by its log
    events = read_events(run.events)
    status = RunStatus(*_outcome(events, goes_on))
    for event in events:
        status.rounds = int(event.get("rounds") or status.rounds)
        status.resumed += event["event"] == "run-resumed"
        _count(status, event)
    standing = standing_events(events)
    for event in standing:
        if event["event"] == "site-replied" and event["round"] and event["status"] == "ok":
            status.sites[event["site"]].rounds += 1
        if event["event"] == "site-left-out":  # its reply was sound in itself, and not beside the others
            status.sites[event["site"]].rounds -= 1
    status.done = sum(event["event"] == "round-finished" for event in standing)
    if status.state == "running":
        _say_what_they_do(status, standing)
    return status


def _outcome(events: Sequence[Event], goes_on: bool) -> tuple[str, str]:
    last = next((e for e in reversed(events) if e["event"].startswith("run-")), None)
    if last is not None and last["event"] == "run-finished":
        return "finished", ""
    if goes_on:
        return "running", ""
    if last is not None and last["event"] == "run-failed":
        return "failed", str(last["reason"])
    return "broken off", ""


def _count(status: RunStatus, event: Event) -> None:
    """Add an event to its site's sums."""
    if "site" not in event:
        return
    site = status.sites.setdefault(event["site"], SiteStatus(event["site"]))
    if event["event"] in _COMING:
        site.state = ("ready" if _COMING[event["event"]] else "left") if status.state == "running" else "took part"
    if event["event"] in _ANSWERS:
        where = f"round {event['round']}" if event["round"] else "joining"
        site.last = f"{event['status']} ({where}, {'evaluation' if event['event'] == 'site-evaluated' else 'training'})"
    if event.get("status", "ok") != "ok":
        site.failures += 1
    site.bytes_down += int(event.get("bytes_down") or 0)
    site.bytes_up += int(event.get("bytes_up") or 0)
    site.seconds += float(event.get("seconds") or 0.0)
    site.epsilon = float(event.get("epsilon") or site.epsilon)


def _say_what_they_do(status: RunStatus, standing: Sequence[Event]) -> None:
    """Name the round that goes on, and who is still asked in it."""
    begun = [event["round"] for event in standing if event["event"] == "round-started"]
    status.current = begun[-1] if begun and begun[-1] > status.done else 0
    if not status.current:
        return
    answered = {
        kind: {e["site"] for e in standing if e["event"] == kind and e["round"] == status.current} for kind in _ANSWERS
    }
    for name, site in status.sites.items():
        if site.state == "ready" and name not in answered["site-evaluated"]:
            trained = name in answered["site-replied"]
            everyone = bool(answered["site-evaluated"])  # the evaluation has begun
            site.state = "evaluating" if everyone else "ready" if trained else "training"
