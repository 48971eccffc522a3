"""`tenantry events …`: the log of all changes, for people and for programs. Never a secret."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from admin.cli.event_text import as_dict, describe, masked
from admin.cli.failure import FAILED, MISSING, MISTAKE, Failure
from admin.cli.when import parse_when
from admin.find_log import connect_log
from admin.printed import printable
from events import archive
from events.archive import ArchiveError
from events.facts import Commit
from events.history import (
    KINDS,
    Change,
    SubjectChange,
    changed_between,
    commit_of,
    sequence_at,
    state_at,
)
from events.log import ConfigLog
from events.model import TENANT_ID
from events.projection import Projection
from events.reader import Stored
from events.stream import SUBJECT_PREFIX
from events.verify import verify

# Between two lines of progress on a terminal. Seconds.
TELL_SECONDS: Final = 0.2
# Longest value that a table shows.
VALUE_CHARACTERS: Final = 60


def list_events(given: argparse.Namespace) -> int:
    """The last events that fit, the newest last."""
    found = asyncio.run(_list(given))
    if given.json:
        _print_json([as_dict(stored, commit) for stored, commit in found])
        return 0
    for stored, commit in found:
        print(describe(stored, commit))
    if not found:
        print("There are no such events.")
    return 0


async def _list(given: argparse.Namespace) -> list[tuple[Stored, Commit]]:
    kind = (given.kind or "").strip()
    by_kind = kind if kind.lower() in KINDS else ""
    by_type = "" if by_kind else kind.lower()
    async with connect_log(given.data_dir, given.config) as (log, _):
        first, last = await _between(log, given.since, given.until)
        subjects = _subjects(given.tenant, by_kind.lower())
        if not subjects and not by_type:
            first = max(first, last - given.limit + 1)
        found: deque[tuple[Stored, Commit]] = deque(maxlen=given.limit)

        def take(stored: Stored) -> None:
            commit = commit_of(stored)
            if not by_type or any(fact.TYPE.lower() == by_type for fact in commit.events):
                found.append((stored, commit))

        if last >= first:
            await log.scan(take, first=first, last=last, subjects=subjects)
    return list(found)


async def _between(log: ConfigLog, since: str | None, until: str | None) -> tuple[int, int]:
    """First and last sequence."""
    # Both are judged before anything is asked: a mistake in one must not wait for the other.
    start = None if since is None else parse_when(since)
    end = None if until is None else parse_when(until)
    first = 1 if start is None else await sequence_at(log, start) + 1
    last = await log.last_sequence() if end is None else await sequence_at(log, end)
    return first, last


def _subjects(tenant: str | None, kind: str) -> list[str]:
    if tenant is not None:
        if TENANT_ID.fullmatch(tenant) is None:
            raise Failure(f'"{tenant}" is not a tenant id.', MISTAKE)
        if kind not in ("", "tenant"):
            raise Failure(f"The events of a tenant are of the kind tenant, not {kind}.", MISTAKE)
        return [f"{SUBJECT_PREFIX}tenant.{tenant}"]
    return [f"{SUBJECT_PREFIX}{kind}.>"] if kind else []


def show_event(given: argparse.Namespace) -> int:
    """All of one event."""

    async def get() -> Stored | None:
        async with connect_log(given.data_dir, given.config) as (log, _):
            return await log.get(given.sequence)

    stored = asyncio.run(get())
    if stored is None:
        raise Failure(
            f"There is no event {given.sequence}: `tenantry events list` shows the last.", MISSING
        )
    shown = as_dict(stored, commit_of(stored))
    if given.json:
        _print_json({**shown, "headers": stored.headers, "bytes": len(stored.data)})
        return 0
    events = shown.pop("events")
    for name, value in {**shown, "bytes": len(stored.data)}.items():
        print(f"{name:<11} {value}")
    for name, value in sorted(stored.headers.items()):
        print(f"header      {name}: {value}")
    for event in events:
        print(f"\n{event['type']} (version {event['version']})")
        print(orjson.dumps(event["data"], option=orjson.OPT_INDENT_2).decode())
    return 0


def diff_events(given: argparse.Namespace) -> int:
    """What differs between two times."""

    async def get() -> tuple[int, int, list[SubjectChange]]:
        async with connect_log(given.data_dir, given.config) as (log, _):
            first, last = await _between(log, given.since, given.until)
            return first, last, await changed_between(log, first - 1, last)

    first, last, found = asyncio.run(get())
    if given.json:
        rows = [
            {
                "kind": each.kind,
                "id": each.id,
                "commits": each.commits,
                "what": each.what,
                "changes": [change_as_dict(change) for change in each.changes],
            }
            for each in found
        ]
        _print_json({"first": first, "last": last, "changed": rows})
        return 0
    for each in found:
        events = "1 event" if each.commits == 1 else f"{each.commits} events"
        print(f"{each.kind} {each.id}: {each.what} ({events})")
        if each.what in ("changed", "restored"):
            print_changes(each.changes)
    if not found:
        print("Nothing was changed.")
    return 0


def change_as_dict(change: Change) -> dict[str, Any]:
    """For programs; what is secret is named only."""
    last = change.path.rpartition(".")[2]
    before, after = masked({last: change.before})[last], masked({last: change.after})[last]
    return {"path": change.path, "before": before, "after": after}


def print_changes(changes: tuple[Change, ...] | list[Change]) -> None:
    """One line a setting: what it was, what it is."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for change in changes:
        told = change_as_dict(change)
        row = (f"  {told['path']}", show_value(told["before"]), "→", show_value(told["after"]))
        table.add_row(*[escape(printable(cell)) for cell in row])
    Console(highlight=False).print(table)


def show_value(value: Any) -> str:
    if value is None:
        return "(not set)"
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        # Of users and nodes their names say enough for one line.
        value = ", ".join(str(each.get("name") or each.get("host") or "…") for each in value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= VALUE_CHARACTERS else f"{text[: VALUE_CHARACTERS - 1]}…"


def replay_events(given: argparse.Namespace) -> int:
    """Fold the log, and tell what it comes to and how long it took."""

    async def replay() -> tuple[Projection, float]:
        async with connect_log(given.data_dir, given.config) as (log, _):
            last = await log.last_sequence()
            if given.at is not None:
                last = await sequence_at(log, parse_when(given.at))
            elif given.to is not None and given.to > last:
                raise Failure(f"There is no event {given.to}: the last one is {last}.", MISSING)
            elif given.to is not None:
                last = given.to
            start = time.perf_counter()
            state = Projection(remember_commands=False)
            progress = _Progress("folded", not given.json)
            state.subscribe(lambda *_: progress(state.position, last))
            await state_at(log, last, start=state)
            progress.end()
            return state, time.perf_counter() - start

    with _parking_told_here():
        state, seconds = asyncio.run(replay())
    told: dict[str, Any] = {
        "sequence": state.position,
        "digest": state.digest(),
        "tenants": state.tenant_count(),
        "parked": [
            {"kind": kind, "id": id, "since": each.sequence, "reason": each.reason}
            for (kind, id), each in state.parked().items()
        ],
        "seconds": round(seconds, 3),
        "events_per_second": round(state.position / seconds) if seconds else 0,
    }
    if given.json:
        _print_json(told)
        return 0
    print(f"{state.position} events in {seconds:.2f} s ({told['events_per_second']} a second)")
    print(f"tenants  {state.tenant_count()}")
    print(f"digest   {told['digest']}")
    for row in told["parked"]:
        print(f"parked   {row['kind']} {row['id']} since event {row['since']}: {row['reason']}")
    return 0


def verify_events(given: argparse.Namespace) -> int:
    """Check all of the log; 1 when something is wrong with it."""

    async def check() -> Any:
        async with connect_log(given.data_dir, given.config) as (log, vault):
            progress = _Progress("checked", not given.json)
            report = await verify(log, vault, digest=given.digest, progress=progress)
            progress.end()
            return report

    with _parking_told_here():
        report = asyncio.run(check())
    if given.json:
        _print_json(
            {
                "correct": not report.troubles,
                "messages": report.messages,
                "digest": report.digest,
                "tenants": report.tenants,
                "snapshot": report.snapshot or None,
                "troubles": report.troubles,
                "more_troubles": report.more_troubles,
                "notes": report.notes,
            }
        )
        return FAILED if report.troubles else 0
    for note in report.notes:
        print(f"note: {note}")
    for trouble in report.troubles:
        print(f"trouble: {trouble}")
    if report.more_troubles:
        print(f"… and {report.more_troubles} more")
    state = "has trouble" if report.troubles else "is in order"
    print(f"The log {state}: {report.messages} events, {report.tenants} tenants.")
    if report.snapshot:
        print(f"The snapshot at sequence {report.snapshot} was compared.")
    print(f"digest {report.digest}")
    return FAILED if report.troubles else 0


def export_events(given: argparse.Namespace) -> int:
    """Write the log to a file."""

    async def export() -> archive.Result:
        async with connect_log(given.data_dir, given.config) as (log, _):
            progress = _Progress("written", not given.json)
            result = await archive.export(log, given.file, progress, with_keys=given.with_keys)
            progress.end()
            return result

    result = asyncio.run(export())
    if given.json:
        _print_json(_result(given, result))
        return 0
    print(f"{result.messages} events are in {given.file} (sha256 {result.sha256}).")
    if given.with_keys:
        keys = "1 key" if result.keys == 1 else f"{result.keys} keys"
        print(
            f"{keys} of personal data too: with the installation's key it tells the names of "
            "people, also of those who are erased later. Keep it no longer than you may keep those."
        )
    else:
        print("Names, metadata and users of tenants need TENANTRY_KEYS too: --with-keys adds it.")
    print("The key that opens its secrets is not: keep a copy of secret.key elsewhere.")
    return 0


def import_events(given: argparse.Namespace) -> int:
    """Put a file into an empty log, or only check it."""
    try:
        only = given.verify_only
        result = archive.verify(given.file) if only else asyncio.run(_import(given))
    except ArchiveError as error:
        raise Failure(f"{given.file} was not imported: {error}.") from None
    if given.json:
        _print_json(_result(given, result))
        return 0
    span = f"{result.messages} events, exported {result.header.exported_at}"
    if result.keys:
        span += f", with {result.keys} keys of personal data"
    if given.verify_only:
        print(f"{given.file} is whole: {span}.")
    else:
        print(f"{given.file} is in the log: {span}; {result.added} were new to it.")
    if result.keys and not given.verify_only:
        print(f"{result.keys_added} keys were brought back; purged tenants stay erased.")
    return 0


async def _import(given: argparse.Namespace) -> archive.Result:
    async with connect_log(given.data_dir, given.config) as (log, vault):
        strange = ", ".join(sorted(archive.sealing_keys(given.file) - {vault.key_id}))
        if strange:
            raise Failure(
                f"The secrets in {given.file} are sealed with the key {strange}, but this "
                f"installation has the key {vault.key_id}: bring the secret.key along before "
                " anything is started in this data directory."
            )
        progress = _Progress("stored", not given.json)
        result = await archive.import_(log, given.file, progress)
        progress.end()
        return result


def _result(given: argparse.Namespace, result: archive.Result) -> dict[str, Any]:
    return {
        "file": str(given.file),
        "messages": result.messages,
        "added": result.added,
        "exported_at": result.header.exported_at,
        "sha256": result.sha256,
        "keys": result.keys,
        "keys_added": result.keys_added,
    }


@contextmanager
def _parking_told_here() -> Iterator[None]:
    """What the projection would log is part of the answer."""
    logger = logging.getLogger("tenantry.projection")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Progress:
    """A line on the terminal that counts; nothing when standard error is none."""

    def __init__(self, what: str, wanted: bool) -> None:
        self._what = what
        self._wanted = wanted and sys.stderr.isatty()
        self._told_at = time.monotonic()
        self._told = False

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        if self._wanted and now - self._told_at >= TELL_SECONDS:
            self._told_at, self._told = now, True
            print(f"\r{self._what} {done} of {of}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._told:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _print_json(value: Any) -> None:
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
