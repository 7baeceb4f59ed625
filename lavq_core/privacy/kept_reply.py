"""The newest private reply, kept on the site's disk: asked the same once more, the site sends it and pays nothing.

Between a site's ledger and the server's checkpoint a reply can get lost: either may be killed, or the answer comes too
late. To train again would release, and cost, as much again. To send the same bytes again tells nobody more than they
told when they were paid for, since they are made of nothing else.

Three steps, each on the disk before the next: the reply is kept under its own sha256; the ledger's entry, which pays
for it, names that hash and the hash of the question; the reply is sent. So whatever is sent again was paid for,
wherever the site was killed. A kept reply that no entry names is never read. Only the newest entry's is kept, and only
the very same question gets it; anything else is trained, and paid, anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lavq_core.privacy.guard import Parts, digest
from lavq_core.privacy.ledger import Entry, Ledger, LedgerError
from lavq_core.runs import parts_buffer
from lavq_core.runs.layout import write_atomic


def question(about: Mapping[str, object], broadcast: Parts) -> str:
    """Hash what a round is asked: JSON facts (round, settings, data), and every tensor that came from the server."""
    tensors = {f"{part}/{name}": digest(value) for part, state in broadcast.items() for name, value in state.items()}
    return hashlib.sha256(json.dumps([dict(about), tensors], sort_keys=True).encode()).hexdigest()


class KeptReply:
    """The reply that a ledger's newest entry has paid for."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._folder = ledger, ledger.path.parent / "kept_reply"

    def pay(self, entry: Entry, asked: str, parts: Parts) -> None:
        """Keep a reply and enter it; both are on the disk when this returns, and older replies are gone.

        Args:
            entry: what it costs.
            asked: ``question``.
            parts: what leaves, and whatever else the site needs to answer as if it had just been trained.

        Raises:
            BudgetSpent, LedgerError: see ``Ledger.write``; the reply is then never sent.
        """
        content = parts_buffer.to_buffer(parts)
        name = hashlib.sha256(content).hexdigest()
        write_atomic(self._file(name), content)
        self._ledger.write(replace(entry, question=asked, reply=name))
        for other in set(self._folder.glob("*.safetensors")) - {self._file(name)}:
            other.unlink(missing_ok=True)

    def find(self, run: str, number: int, asked: str) -> parts_buffer.Parts | None:
        """Return the parts that the ledger's newest entry has paid for; None if that was another question, or if
        nothing is kept of it.

        Raises:
            LedgerError: the kept reply is not the one that was paid for.
        """
        newest = self._ledger.entries[-1] if self._ledger.entries else None
        if newest is None or not newest.reply or (newest.run, newest.round, newest.question) != (run, number, asked):
            return None
        file = self._file(newest.reply)
        if not file.is_file():
            return None
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != newest.reply:
            raise LedgerError(
                f"the kept reply {file} was changed since it was paid for: nothing is sent. Delete it to have the "
                "round trained, and paid for, once more"
            )
        return parts_buffer.from_buffer(content)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"
