"""The past: the state at a time or a sequence, and what changed in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.engines import Nats

from events.facts import (
    Commit,
    Fact,
    InstallationChanged,
    TenantChanged,
    TenantCreated,
    TenantDeleted,
    TenantDisabled,
    TierSet,
)
from events.history import (
    Change,
    changed_between,
    commit_of,
    compare,
    moment_of,
    sequence_at,
    state_at,
    tenant_at,
)
from events.log import ConfigLog
from events.projection import Projection
from events.reader import Stored, parse_headers
from events.reader import nanoseconds as of_text
from events.stream import SUBJECT_PREFIX


class Book:
    """A log that is written by the line."""

    def __init__(self, log: ConfigLog) -> None:
        self.log = log
        self._last: dict[str, int] = {}

    async def write(self, kind: str, id: str, *facts: Fact) -> int:
        commit = Commit(f"c{sum(self._last.values())}{kind}{id}", "ann", "", facts)
        before = self._last.get(f"{kind}.{id}", 0)
        self._last[f"{kind}.{id}"] = await self.log.append(kind, id, commit, before)
        return self._last[f"{kind}.{id}"]

    async def moment(self, sequence: int) -> datetime:
        stored = await self.log.get(sequence)
        assert stored is not None
        return moment_of(stored)

    async def story(self) -> None:
        """1 defaults, 2 acme, 3 widgetco, 4 acme faster, 5 defaults, 6 gold, 7 widgetco deleted."""
        await self.write("installation", "main", defaults(min_idle=1))
        await self.write("tenant", "acme", TenantCreated(settings={"tier": "gold"}))
        await self.write("tenant", "widgetco", TenantCreated(settings={"metadata": {"a": "b"}}))
        await self.write("tenant", "acme", TenantChanged(changes={"pool": {"max_connections": 9}}))
        await self.write("installation", "main", defaults(min_idle=2))
        await self.write("tier", "gold", TierSet(settings={"rate_limits": {"qps_limit": 5.0}}))
        await self.write("tenant", "widgetco", TenantDeleted())


def defaults(**pool: Any) -> InstallationChanged:
    return InstallationChanged(settings={"defaults": {"pool": pool}})


def with_book(server: Nats, test: Callable[[Book], Awaitable[None]]) -> None:
    async def run() -> None:
        log = await ConfigLog.connect([server.url])
        try:
            await test(Book(log))
        finally:
            await log.close()

    asyncio.run(run())


def test_the_state_at_each_sequence_is_the_fold_up_to_it(nats_server: Nats) -> None:
    async def test(book: Book) -> None:
        await book.story()
        folded = Projection(remember_commands=False)
        start = None
        for sequence in range(8):
            await book.log.scan(
                lambda each: folded.apply(each.sequence, each.kind, each.id, commit_of(each)),
                first=folded.position + 1,
                last=sequence,
            )
            assert (await state_at(book.log, sequence)).digest() == folded.digest()
            # And when begun at an earlier state.
            start = await state_at(book.log, sequence, start=start)
            assert start.digest() == folded.digest()
        # A start that is too late is not used.
        assert (await state_at(book.log, 3, start=start)).position == 3

    with_book(nats_server, test)


def test_one_tenants_past_is_the_same_without_reading_the_others(nats_server: Nats) -> None:
    async def test(book: Book) -> None:
        await book.story()
        for number in range(20):
            await book.write("tenant", f"other{number}", TenantCreated(settings={}))
        last = await book.log.last_sequence()
        for sequence in (0, 1, 2, 3, 4, 5, 6, 7, 8, last):
            whole = await state_at(book.log, sequence)
            part = await tenant_at(book.log, "acme", sequence)
            assert part.tenant("acme") == whole.tenant("acme")
            assert list(part.ids()) == (["acme"] if sequence >= 2 else [])
        acme = (await tenant_at(book.log, "acme", 5)).tenant("acme")
        assert acme is not None
        assert (acme.pool.min_idle, acme.pool.max_connections) == (2, 9)

    with_book(nats_server, test)


def test_a_time_finds_the_last_sequence_stored_by_then(nats_server: Nats) -> None:
    async def test(book: Book) -> None:
        assert await sequence_at(book.log, datetime.now(UTC)) == 0
        await book.story()
        for sequence in range(1, 8):
            stored = await book.log.get(sequence)
            assert stored is not None
            at = moment_of(stored)
            assert await sequence_at(book.log, at) >= sequence
            assert await sequence_at(book.log, at - timedelta(microseconds=1)) < sequence
        assert await sequence_at(book.log, datetime(1999, 1, 1, tzinfo=UTC)) == 0
        assert await sequence_at(book.log, datetime(2999, 1, 1, tzinfo=UTC)) == 7

    with_book(nats_server, test)


def test_what_changed_between_two_sequences_by_subject(nats_server: Nats) -> None:
    async def test(book: Book) -> None:
        await book.story()
        found = await changed_between(book.log, 3, 7)
        assert [(each.kind, each.id, each.commits, each.what) for each in found] == [
            ("tenant", "acme", 1, "changed"),
            ("installation", "main", 1, "changed"),
            ("tier", "gold", 1, "created"),
            ("tenant", "widgetco", 1, "deleted"),
        ]
        assert found[0].changes == (Change("pool.max_connections", None, 9),)
        assert found[1].changes == (Change("defaults.pool.min_idle", 1, 2),)
        assert await changed_between(book.log, 7, 7) == []
        whole = await changed_between(book.log, 0, 7)
        assert ("widgetco", 2, "deleted") in [(each.id, each.commits, each.what) for each in whole]

    with_book(nats_server, test)


def test_what_was_changed_back_is_told_as_unchanged(nats_server: Nats) -> None:
    async def test(book: Book) -> None:
        await book.story()
        for value in (10, 9):
            change = TenantChanged(changes={"pool": {"max_connections": value}})
            await book.write("tenant", "acme", change)
        await book.write("tenant", "acme", TenantDisabled())
        found = await changed_between(book.log, 7, 9)
        assert [(each.commits, each.what) for each in found] == [(2, "unchanged")]
        found = await changed_between(book.log, 7, 10)
        assert found[0].changes == (Change("enabled", True, False),)

    with_book(nats_server, test)


def test_only_the_subjects_asked_for_are_handed_on(nats_server: Nats) -> None:
    async def test(book: Book) -> None:
        await book.story()
        seen: list[int] = []
        subjects = [f"{SUBJECT_PREFIX}tenant.acme", f"{SUBJECT_PREFIX}tier.>"]
        reached = await book.log.scan(lambda each: seen.append(each.sequence), subjects=subjects)
        assert (seen, reached) == ([2, 4, 6], 7)
        seen.clear()
        await book.log.scan(
            lambda each: seen.append(each.sequence), first=3, last=5, subjects=subjects
        )
        assert seen == [4]
        nobody = [f"{SUBJECT_PREFIX}tenant.nobody"]
        assert await book.log.scan(lambda each: seen.append(0), subjects=nobody) == 7
        assert seen == [4]

    with_book(nats_server, test)


def test_a_message_is_had_with_its_headers_and_its_time(nats_server: Nats) -> None:
    async def test(book: Book) -> None:
        commit = Commit("c1", "ann", "", (TenantCreated(settings={"name": "☃"}),))
        headers = {"traceparent": "00-1-2-01"}
        await book.log.append("tenant", "acme", commit, 0, headers)
        assert headers == {"traceparent": "00-1-2-01"}, "the caller's headers stay his"
        got = await book.log.get(1)
        scanned: list[Stored] = []
        await book.log.scan(scanned.append)
        assert scanned == [got]
        assert got is not None
        assert (got.kind, got.id, commit_of(got)) == ("tenant", "acme", commit)
        assert got.headers["traceparent"] == "00-1-2-01"
        assert got.headers["Nats-Msg-Id"] == "c1"
        assert abs(datetime.now(UTC) - moment_of(got)) < timedelta(minutes=1)
        assert await book.log.get(2) is None

    with_book(nats_server, test)


def test_every_difference_has_its_path() -> None:
    before = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "same": [1]}
    after = {"b": {"c": 4}, "same": [1], "new": {"x": False}}
    assert compare(before, after) == [
        Change("a", 1, None),
        Change("b.c", 2, 4),
        Change("b.d.e", 3, None),
        Change("new.x", None, False),
    ]


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("2026-11-01T10:00:00.123456789Z", 1_793_527_200_123_456_789),
    ],
)
def test_the_servers_times_are_read_to_the_nanosecond(text: str, nanoseconds: int) -> None:
    assert of_text(text) == nanoseconds


def test_headers_are_read_as_the_server_stores_them() -> None:
    block = b"NATS/1.0\r\nA: one\r\nB:two: three\r\n\r\n"
    assert parse_headers(block) == {"A": "one", "B": "two: three"}
    assert parse_headers(b"") == {}
