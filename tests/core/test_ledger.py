"""The site's ledger: what was released is on the disk first, adds up over everything, and cannot be undone."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path

import pytest

from lavq_core.privacy import ledger as module
from lavq_core.privacy.accounting import Mechanism, epsilon_of
from lavq_core.privacy.ledger import BudgetSpent, Entry, Ledger, LedgerError

DELTA = 1e-5
STEP = Mechanism("detector", 30.0, steps=40)


def opened(folder: Path, data: str = "data", limit: float = 8.0) -> Ledger:
    return Ledger(folder / "ledger.jsonl", data, limit, DELTA)


def entry(number: int, run: str = "first") -> Entry:
    return Entry(run, number, [STEP], [f"{number:064x}"], {"size": 12.5} if number == 1 else {})


def filled(folder: Path, entries: int = 3) -> Ledger:
    ledger = opened(folder)
    for number in range(1, entries + 1):
        ledger.write(entry(number))
    return ledger


def test_what_was_written_is_read_again_and_adds_up(tmp_path: Path) -> None:
    assert opened(tmp_path).epsilon() == 0.0
    filled(tmp_path)
    again = opened(tmp_path)
    assert again.entries == [entry(1), entry(2), entry(3)]
    assert again.epsilon() == pytest.approx(epsilon_of([STEP] * 3, DELTA))


def test_runs_and_restarts_compose_as_one_unbroken_run_would(tmp_path: Path) -> None:
    for number in range(1, 5):  # a new process every time
        opened(tmp_path).write(entry(number, run=f"run-{number % 2}"))
    assert opened(tmp_path).epsilon() == pytest.approx(epsilon_of([Mechanism("all", 30.0, steps=160)], DELTA))


def test_the_round_that_would_pass_the_budget_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    limit = epsilon_of([STEP] * 2, DELTA)
    ledger = opened(tmp_path, limit=limit)
    ledger.write(entry(1))
    ledger.write(entry(2))
    before = ledger.path.read_bytes()
    with pytest.raises(BudgetSpent, match="budget spent"):
        ledger.require([STEP])
    with pytest.raises(BudgetSpent):
        ledger.write(entry(3))
    assert ledger.path.read_bytes() == before
    opened(tmp_path, limit=2 * limit).write(entry(3))  # the site may raise its own


@pytest.mark.parametrize("place", range(0, 1200, 37))
def test_one_changed_byte_anywhere_fails_closed(tmp_path: Path, place: int) -> None:
    path = filled(tmp_path).path
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place] = (content[place] + 1) % 128
    path.write_bytes(bytes(content))
    with pytest.raises(LedgerError, match="cannot be trusted"):
        opened(tmp_path)


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_a_ledger_that_was_cut_short_fails_closed(tmp_path: Path, lines: int) -> None:
    path = filled(tmp_path).path
    kept = path.read_text().splitlines(keepends=True)[:lines]
    path.write_text("".join(kept))
    with pytest.raises(LedgerError):
        opened(tmp_path)


def test_half_a_line_fails_closed(tmp_path: Path) -> None:
    path = filled(tmp_path).path
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LedgerError):
        opened(tmp_path)


def test_a_lost_ledger_is_not_a_new_one(tmp_path: Path) -> None:
    filled(tmp_path).path.unlink()
    with pytest.raises(LedgerError, match="missing"):
        opened(tmp_path)


def test_an_older_copy_is_seen_by_its_head(tmp_path: Path) -> None:
    ledger = filled(tmp_path, 2)
    older = ledger.path.read_bytes()
    ledger.write(entry(3))
    ledger.write(entry(4))
    ledger.path.write_bytes(older)
    with pytest.raises(LedgerError, match="newest copy"):
        opened(tmp_path)


def test_an_older_copy_of_everything_is_seen_by_what_the_server_acknowledged(tmp_path: Path) -> None:
    ledger = filled(tmp_path, 2)
    files = {path: path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".lock"}
    ledger.write(entry(3))
    acknowledged = ledger.head
    for path, content in files.items():
        path.write_bytes(content)
    older = opened(tmp_path)  # in itself it is whole
    with pytest.raises(LedgerError, match="acknowledged"):
        older.require_head(acknowledged)
    older.require_head(older.head)
    older.require_head("")


def test_a_ledger_of_other_data_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(LedgerError, match="other data"):
        opened(tmp_path, data="with one patient more")


def test_killed_between_entry_and_head_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry counts: whether its update was sent before the kill, nobody knows."""
    ledger, write = filled(tmp_path, 1), module.write_atomic

    def killed(path: Path, text: str) -> None:
        if path.name.endswith(".head"):
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(module, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        ledger.write(entry(2))
    monkeypatch.undo()
    after = opened(tmp_path)
    assert len(after.entries) == 2
    after.write(entry(3))
    assert len(opened(tmp_path).entries) == 3


def test_killed_before_the_entry_nothing_was_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = filled(tmp_path, 1)

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        ledger.write(entry(2))
    monkeypatch.undo()
    assert len(opened(tmp_path).entries) == 1


def test_a_head_confirms_no_guess(tmp_path: Path) -> None:
    """The same entry of the same data has another hash every time."""
    heads = {filled(tmp_path / str(copy), 1).head for copy in range(3)}
    assert len(heads) == 3


def _write_some(folder: Path, run: str) -> None:
    for number in range(1, 4):
        opened(folder, limit=1000.0).write(entry(number, run))


def test_two_processes_lose_no_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_some, args=(tmp_path, f"run-{i}")) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted((e.run, e.round) for e in opened(tmp_path).entries) == [
        (f"run-{i}", number) for i in range(2) for number in range(1, 4)
    ]


def test_no_line_holds_anything_but_the_accounting(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in filled(tmp_path).path.read_text().splitlines()]
    assert set(lines[0]) == {"version", "data", "nonce"}
    assert {key for line in lines[1:] for key in line} == {
        "run", "round", "mechanisms", "outputs", "public", "question", "reply", "previous", "time", "nonce"
    }  # fmt: skip


# --- data that change ------------------------------------------------------------------------------------------------


def succeeded(folder: Path, former: str = "data", data: str = "with one patient more") -> Ledger:
    opened(folder, former).succeed(data)
    return opened(folder, data)


def test_declared_successors_pay_on_and_every_entry_counts_for_everybody(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    later = succeeded(tmp_path)
    later.write(entry(3))
    assert later.epsilon() == pytest.approx(epsilon_of([STEP] * 3, DELTA))
    third = succeeded(tmp_path, "with one patient more", "and a corrected report")
    assert third.epsilon() == later.epsilon()
    with pytest.raises(BudgetSpent):
        opened(tmp_path, "and a corrected report", limit=third.epsilon()).require([STEP])
    former = opened(tmp_path)  # the data before, put back: nothing of the sum is gone
    assert former.epsilon() == third.epsilon()


def test_nothing_but_a_declaration_lets_other_data_in(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    with pytest.raises(LedgerError, match="--successor-of data") as refused:
        opened(tmp_path, "with one patient more")
    assert refused.value.belongs_to == "data"
    with pytest.raises(LedgerError, match="belongs to other data"):
        succeeded(tmp_path, former="of another hospital")
    before = succeeded(tmp_path).path.read_bytes()
    succeeded(tmp_path)  # said twice it is still one line
    assert opened(tmp_path).path.read_bytes() == before
    with pytest.raises(LedgerError, match="belongs to other data"):
        opened(tmp_path, "with two patients more")


def test_where_nothing_was_released_there_is_nothing_to_follow(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="none is needed"):
        succeeded(tmp_path)
    assert not opened(tmp_path).path.exists()


@pytest.mark.parametrize("edit", ["other fingerprint", "taken out", "cut off"])
def test_a_declaration_cannot_be_edited_or_taken_back(tmp_path: Path, edit: str) -> None:
    filled(tmp_path, 2)
    ledger = succeeded(tmp_path)
    ledger.write(entry(3))
    *first, declared, last = ledger.path.read_text().splitlines(keepends=True)
    others = {
        "other fingerprint": [declared.replace("one patient", "two patients"), last], "taken out": [last], "cut off": []
    }  # fmt: skip
    ledger.path.write_text("".join(first + others[edit]))
    for data in ("data", "with one patient more", "with two patients more"):
        with pytest.raises(LedgerError):
            opened(tmp_path, data)


def test_a_ledger_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Its entries say nothing of questions and kept replies."""
    old = {"run": "first", "round": 1, "mechanisms": [asdict(STEP)], "outputs": [], "public": {}}
    lines = [json.dumps({"version": 1, "data": "data", "nonce": "n"})]
    lines.append(json.dumps({**old, "previous": hashlib.sha256(lines[0].encode()).hexdigest(), "time": "t"}))
    (tmp_path / "ledger.jsonl").write_text("".join(f"{line}\n" for line in lines))
    opened(tmp_path).write(entry(2))
    assert [(e.round, e.reply) for e in opened(tmp_path).entries] == [(1, ""), (2, "")]
