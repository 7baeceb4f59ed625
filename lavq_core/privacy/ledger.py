"""The site's ledger: every private release is entered on the site's disk before it is sent, and none beyond the budget.

One file per site and data, JSON lines. The first line names the data by its fingerprint; every further line is an
entry that holds the hash of the line before it, so an edit anywhere breaks the chain. Beside the file lies its head,
the hash of its newest line: a file that was cut short or replaced by an older copy no longer reaches it. Should both be
put back together, the head that the server last acknowledged, which it echoes, is missing from the file. In every such
case the ledger fails closed: ``LedgerError``, and nothing is released.

Epsilon composes over all entries, whatever run or restart they come from. So it does when the data change: the site's
operator, and nobody else, may declare new data the successor of those that the ledger knows (``succeed``). That is a
line of the same chain. From then on every entry counts for every patient: for those who were there before and still are
that is what they have paid, for those who came or went it is more than that.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from lavq_core.errors import LavqError
from lavq_core.privacy.accounting import Mechanism, epsilon_of
from lavq_core.runs.layout import write_atomic

_VERSION = 1
_SLACK = 1e-6  # relative, of a budget: the same sum in another order is not another epsilon


class LedgerError(LavqError):
    """A ledger that is damaged, not whole, or of other data.

    ``belongs_to`` is the fingerprint of those other data; empty where something else is wrong.
    """

    def __init__(self, message: str, belongs_to: str = "") -> None:
        super().__init__(message)
        self.belongs_to = belongs_to


class BudgetSpent(LavqError):  # noqa: N818 - the name is what the federation is told
    """The next release would pass the site's budget."""


@dataclass(frozen=True)
class Entry:
    """What one release was: enough to account for it and to recognise it, nothing of the data."""

    run: str
    round: int
    mechanisms: list[Mechanism]
    outputs: list[str] = field(default_factory=list)  # sha256 of each tensor that may leave, see ``guard``
    public: dict[str, float] = field(default_factory=dict)  # released numbers that later rounds use again
    question: str = ""  # sha256 of what the round was asked, and of the reply as it was kept: see ``kept_reply``
    reply: str = ""


class Ledger:
    """One site's ledger, verified when it is opened.

    Args:
        path: the file; made with the first entry.
        data: fingerprint of the site's data, or of data that they were declared the successor of.
        epsilon_max, delta: the site's own budget, which nothing that a server sends can change.

    Raises:
        LedgerError: see the module.
    """

    def __init__(self, path: Path, data: str, epsilon_max: float, delta: float) -> None:
        self.path, self.data, self.epsilon_max, self.delta = path, data, epsilon_max, delta
        self._lines = self._verified()

    @property
    def head(self) -> str:
        """Hash of the newest line; empty before the first entry."""
        return _hash(self._lines[-1]) if self._lines else ""

    @property
    def entries(self) -> list[Entry]:
        """All entries, oldest first."""
        stored = [json.loads(line) for line in self._lines[1:]]
        return [_entry(line) for line in stored if "successor" not in line]

    def epsilon(self, further: Sequence[Mechanism] = ()) -> float:
        """Return what all entries cost together, and ``further`` mechanisms with them."""
        return epsilon_of([m for entry in self.entries for m in entry.mechanisms] + list(further), self.delta)

    def require(self, further: Sequence[Mechanism]) -> None:
        """Refuse mechanisms that the budget does not hold.

        Raises:
            BudgetSpent: with what is spent, what it would be, and the budget.
        """
        after = self.epsilon(further)
        if after > self.epsilon_max * (1 + _SLACK):
            raise BudgetSpent(
                f"budget spent: epsilon is {self.epsilon():.3f}, the next release would make it {after:.3f}, and this "
                f"site allows {self.epsilon_max:g}"
            )

    def require_head(self, acknowledged: str) -> None:
        """Refuse to go on with an older copy: the entry that the server last heard of must be here.

        Raises:
            LedgerError: it is not.
        """
        if acknowledged and acknowledged not in {_hash(line) for line in self._lines}:
            raise self._broken("an entry that the server has acknowledged is missing")

    def write(self, entry: Entry) -> None:
        """Enter a release; it is on the disk when this returns.

        Raises:
            BudgetSpent: it passes the budget.
            LedgerError: somebody else wrote meanwhile and left a damaged ledger.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            self._lines = self._verified()
            self.require(entry.mechanisms)
            self._append(asdict(entry))

    def succeed(self, data: str) -> None:
        """Enter that other data are the successor of the ledger's; this ledger is then theirs.

        Only the site's operator may say so (``lavq site ledger``): no code that a server can call does.

        Raises:
            LedgerError: nothing was released yet, so that there is nothing to go on from; or the ledger is damaged.
        """
        with FileLock(f"{self.path}.lock"):
            self._lines = self._verified()
            if not self._lines:
                raise LedgerError(f"there is no privacy ledger {self.path}: nothing was released, and none is needed")
            if data not in self._known(self._lines):
                self._append({"successor": data})
        self.data = data

    def _append(self, content: Mapping[str, Any]) -> None:
        """Chain one more line; the caller holds the lock."""
        lines = self._lines or [_line({"version": _VERSION, "data": self.data, "nonce": secrets.token_hex(16)})]
        # The nonce keeps a head from telling anything: without it a guess of the entry could be confirmed.
        about = {"previous": _hash(lines[-1]), "time": datetime.now(UTC).isoformat(timespec="seconds")}
        lines = [*lines, _line({**content, **about, "nonce": secrets.token_hex(16)})]
        write_atomic(self.path, "".join(f"{line}\n" for line in lines))
        write_atomic(self._head_file, f"{_hash(lines[-1])}\n")
        self._lines = lines

    @property
    def _head_file(self) -> Path:
        return self.path.with_name(f"{self.path.name}.head")

    def _verified(self) -> list[str]:
        try:
            text = self.path.read_text(encoding="utf-8")
            head = self._head_file.read_text(encoding="utf-8").strip() if self._head_file.exists() else ""
        except FileNotFoundError:
            if self._head_file.exists():
                raise self._broken("it is missing, and its head is here") from None
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise self._broken(f"it cannot be read ({type(error).__name__})") from None
        lines = text.split("\n")
        if lines.pop() != "" or len(lines) < 2:
            raise self._broken("its last line is not whole")
        self._check_chain(lines)
        self._check_data(lines)
        # Killed between the two writes, a ledger is one entry ahead of its head; it is never behind.
        if head != _hash(lines[-1]) and not (head == _hash(lines[-2]) or (not head and len(lines) == 2)):
            raise self._broken("it is not the newest copy")
        return lines

    def _check_chain(self, lines: Sequence[str]) -> None:
        try:
            first, *rest = (json.loads(line) for line in lines)
            if first["version"] != _VERSION:
                raise self._broken("another version of lavq wrote it")
            for before, entry in zip(lines, rest, strict=False):
                if entry["previous"] != _hash(before):
                    raise self._broken("a line was changed or taken out")
                if "successor" not in entry:
                    _entry(entry)
            self._known(lines)
        except (ValueError, KeyError, TypeError):
            raise self._broken("a line cannot be read") from None

    def _check_data(self, lines: Sequence[str]) -> None:
        known = self._known(lines)
        if self.data not in known:
            raise LedgerError(
                f"the privacy ledger {self.path} belongs to other data (fingerprint {known[-1]}) than these "
                f"(fingerprint {self.data}), and patients may be in both: nothing is released. If these are the same "
                "with records added, corrected or taken out, the site's operator says so: lavq site ledger FOLDER "
                f"--successor-of {known[-1]}",
                belongs_to=known[-1],
            )

    @staticmethod
    def _known(lines: Sequence[str]) -> list[str]:
        """Fingerprints of the data whose ledger this is: the first, and those that were declared its successors."""
        first, *rest = (json.loads(line) for line in lines)
        return [first["data"], *(line["successor"] for line in rest if "successor" in line)]

    def _broken(self, why: str) -> LedgerError:
        return LedgerError(
            f"the privacy ledger {self.path} cannot be trusted: {why}. Put the newest copy back; nothing is released "
            "until then"
        )


def _entry(stored: Mapping[str, Any]) -> Entry:
    mechanisms = [Mechanism(**item) for item in stored["mechanisms"]]
    kept = (stored.get("question", ""), stored.get("reply", ""))  # ledgers of earlier versions go on without
    return Entry(stored["run"], stored["round"], mechanisms, stored["outputs"], stored["public"], *kept)


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
