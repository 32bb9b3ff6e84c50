"""The real ledger against the naive one, command by command, in memory."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock

from ledger.domain.book import decide
from ledger.domain.commands import Sealed
from ledger.store.memory import MemoryJournal
from tests.reference import Reference, seen, told
from tests.strategies import Cast, Step, examples, programs


def done(work: Any) -> Any:
    """The result of work that waits for nothing."""
    results: list[Any] = []
    ensureDeferred(work).addBoth(results.append)
    return results[0]


@given(programs(100))
@examples(200)
def test_in_memory(program: list[list[Step]]) -> None:
    cast, clock = Cast.new(), Clock()
    journal, reference = MemoryJournal(clock, ()), Reference(cast.everyone)
    for account in cast.everyone:
        journal.open_account(account)
    for batch in program:
        commands = [cast.command(step) for step in batch]
        book = done(journal.read_facts(commands))
        outcomes = decide(book, commands)
        done(journal.append(book, [outcome for outcome in outcomes if isinstance(outcome, Sealed)]))
        clock.advance(0.25)
        assert [told(outcome) for outcome in outcomes] == [reference.apply(command) for command in commands]
        assert {account.id: seen(account) for account in journal.accounts.values()} == reference.accounts
    assert done(journal.head()) == reference.next - 1
    committed = done(journal.after(0, reference.next))
    assert [one.record.seq for one in committed] == list(range(1, reference.next))
    instants = [one.record.posted_at for one in committed]
    assert instants == sorted(instants)
