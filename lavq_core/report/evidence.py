"""What a run folder holds beside its metrics: events, data reports, the shared model."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lavq_core.errors import RunError
from lavq_core.models.codebook import STATISTICS
from lavq_core.report.numbers import natural
from lavq_core.runs.artefact import MANIFEST, load_artefact
from lavq_core.runs.events import read_events, standing_events
from lavq_core.runs.layout import RunFolder

_ANSWERS = {"site-replied": "training", "site-evaluated": "evaluation"}  # events of a site's answer
_COMINGS = {"site-joined": "joined", "site-left": "left", "site-returned": "came back"}


@dataclass(frozen=True)
class Traffic:
    """What one site received and sent over the whole run, in bytes, and in how many rounds its update was used."""

    site: str
    down: int
    up: int
    good: int
    asked: int


@dataclass(frozen=True)
class Trouble:
    """A site that was left out of a round, left or came back, or a run that ended early or went on."""

    time: str
    round: str
    site: str
    status: str


@dataclass(frozen=True)
class SharedTensor:
    """One tensor of the shared model."""

    part: str
    name: str
    shape: str
    values: int
    bytes: int
    leaves: bool  # sent by a site, and not only to it


@dataclass(frozen=True)
class SharedModel:
    """The shared model's tensors and its files' hashes."""

    tensors: tuple[SharedTensor, ...]
    sha256: Mapping[str, str]

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the artefact's parts, in order."""
        return tuple(dict.fromkeys(tensor.part for tensor in self.tensors))

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks that are shared beside the detector: ``federation.share``, in alphabetical order."""
        return tuple(sorted({tensor.name.split(".")[0] for tensor in self.tensors if tensor.part == "networks"}))

    def sent(self, part: str) -> tuple[int, int, int]:
        """Return how many tensors, values and bytes of a part a site sends in a round."""
        leaving = [tensor for tensor in self.tensors if tensor.part == part and tensor.leaves]
        return len(leaving), sum(tensor.values for tensor in leaving), sum(tensor.bytes for tensor in leaving)


def traffic(run: RunFolder) -> list[Traffic]:
    """Add up each site's bytes in the server's event log, and count the rounds whose update was used.

    Bytes of rounds that a resumed run did again are in the sums: they have crossed; the rounds count once.
    """
    events = read_events(run.events)
    standing = {id(event) for event in standing_events(events)}
    sums: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(("down", "up", "good", "asked"), 0))
    for event in events:
        if event.get("event") in _ANSWERS:
            site = sums[str(event.get("site"))]
            site["down"] += int(event.get("bytes_down") or 0)
            site["up"] += int(event.get("bytes_up") or 0)
            if event["event"] == "site-replied" and event.get("round") and id(event) in standing:
                site["good"] += event.get("status") == "ok"
                site["asked"] += 1
    return [Traffic(name, **sums[name]) for name in sorted(sums, key=natural)]


def troubles(run: RunFolder) -> list[Trouble]:
    """List, in order of time, every answer that did not count, who came and went, and how the run broke off."""
    found: list[Trouble] = []
    expected, first = 0, 1
    joined: set[str] = set()
    for event in read_events(run.events):
        kind, time, number = event.get("event"), str(event.get("time", "")), event.get("round") or 0
        if kind == "run-started":
            expected = int(event.get("sites") or 0)
        elif kind == "run-resumed":
            joined, first = set(), number + 1
            found.append(Trouble(time, str(number), "", "resumed after this round; what came later was done again"))
        elif kind == "checkpoint-rejected":
            found.append(Trouble(time, str(number), "", f"checkpoint not used: {event.get('reason')}"))
        elif kind in _COMINGS:
            if kind != "site-left":
                joined.add(str(event.get("site")))
            if kind != "site-joined":
                found.append(Trouble(time, "", str(event.get("site")), _COMINGS[kind]))
        elif kind == "round-started" and number == first and len(joined) < expected:
            found.append(Trouble(time, "joining", "", f"{len(joined)} of {expected} expected hospitals joined"))
        elif kind in _ANSWERS and event.get("status") != "ok":
            where = str(number) if number else "joining"
            found.append(Trouble(time, where, str(event.get("site")), _outcome(kind, number, event)))
        elif kind == "run-failed":
            found.append(Trouble(time, "", "", f"run failed: {event.get('reason')}"))
    return found


def _outcome(kind: str, number: int, event: Mapping[str, Any]) -> str:
    return f"{_ANSWERS[kind]} {event.get('status')}" if number else str(event.get("status"))


def data_reports(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Read the sites' data reports that lie in this folder, by site."""
    reports = {site.root.name: json_object(run, site.data_report) for site in run.sites()}
    return {name: reports[name] for name in sorted(reports, key=natural) if reports[name]}


def shared_model(run: RunFolder) -> SharedModel | None:
    """Read the names and sizes of what the final shared model holds; None where the run did not get that far.

    Raises:
        RunError: a file does not have the hash that the manifest gives.
    """
    if not (run.model / MANIFEST).is_file():
        return None
    parts, _ = load_artefact(run.model)
    manifest = json.loads((run.model / MANIFEST).read_text(encoding="utf-8"))
    tensors = tuple(_shared(part, name, tensor) for part, state in parts.items() for name, tensor in state.items())
    return SharedModel(tensors, manifest["sha256"])


def _shared(part: str, name: str, tensor: Tensor) -> SharedTensor:
    # The codes themselves go to a site and do not come back: the server makes them from the summed statistics.
    leaves = part != "codebook" or name in STATISTICS
    shape = " × ".join(str(side) for side in tensor.shape) or "1"
    return SharedTensor(part, name, shape, tensor.numel(), tensor.numel() * tensor.element_size(), leaves)


def json_object(run: RunFolder, path: Any) -> dict[str, Any]:
    """Read a JSON object of the run; empty where the file is missing or holds something else.

    Raises:
        RunError: the file is there but cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(
            f"{path} is not JSON ({error}): restore it or delete it and run `lavq report {run.root}`"
        ) from error
    return value if isinstance(value, dict) else {}
