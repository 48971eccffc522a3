"""`tenantry audit search|tail|verify`: who did what, and whether the record of it is whole."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from admin.printed import printable

if TYPE_CHECKING:
    from admin.cli.parts import Commands
    from admin.control import Control
    from events.audit import AuditEvent
    from events.audit_verify import Verifier

# What fits on some screens; --json has no limit.
SHOWN_MAX: Final = 200
# By how much the clocks of writers and of NATS may differ.
SLACK_SECONDS: Final = 60.0
# `tail` looks back this many events for those that match.
LOOK_BACK: Final = 50_000


# --- what may be written -------------------------------------------------------------------------


def add_log_commands(subparsers: Commands) -> None:
    """Add them to the group `audit`."""
    from admin.cli.parts import as_json, command, config_file, data_dir, number

    search = command(
        subparsers,
        "search",
        "find events of the audit, oldest first",
        run_search,
        "tenantry audit search --tenant acme --kind refusal --since 2h",
        "tenantry audit search --actor root@ops --since 2026-11-01 --until 2026-11-02 --json",
    )
    tail = command(
        subparsers,
        "tail",
        "show the latest events of the audit",
        run_tail,
        "tenantry audit tail --follow",
        "tenantry audit tail -n 50 --tenant acme",
    )
    verify = command(
        subparsers,
        "verify",
        "check that no event of the audit was changed or removed; exit code 1 if one was",
        run_verify,
        "tenantry audit verify",
    )
    for each in (search, tail):
        each.add_argument("--tenant", metavar="ID", help='"_installation" for events of no tenant')
        each.add_argument("--kind", metavar="KIND", help="login, refusal, limit, command …")
        each.add_argument("--actor", metavar="NAME", help="who did it")
        each.add_argument("--address", metavar="ADDRESS", help="where it came from")
        each.add_argument("--outcome", choices=("ok", "refused", "failed"))
        each.add_argument("--fingerprint", metavar="HEX", help="of the statement")
        each.add_argument("--trace", metavar="ID", help="trace id")
    for name, what in (("--since", "at or after"), ("--until", "before")):
        search.add_argument(name, metavar="TIME", help=f'{what} "2026-11-01T10:00Z", "2h" ago …')
    tail.add_argument("-n", type=number(0, LOOK_BACK), default=20, metavar="N", help="how many")
    tail.add_argument("--follow", "-f", action="store_true", help="and go on, until Ctrl-C")
    for each in (search, tail, verify):
        config_file(each, "find the installation by the [events] of this file")
        data_dir(each)
        as_json(each)


# --- search and tail -----------------------------------------------------------------------------


def run_search(given: argparse.Namespace) -> int:
    import asyncio

    from admin.cli.when import parse_when

    since = parse_when(given.since).timestamp() if given.since else None
    until = parse_when(given.until).timestamp() if given.until else None
    return asyncio.run(_search(given, since, until))


async def _search(given: argparse.Namespace, since: float | None, until: float | None) -> int:
    from admin.find_log import open_log
    from events.audit import iso

    last = iso(until) if until is not None else None
    first = iso(since) if since is not None else ""
    shown: deque[AuditEvent] = deque(maxlen=SHOWN_MAX)
    found = 0
    async with open_log(given.data_dir, given.config) as control:
        # What was noted then was stored later; clocks differ a little.
        start = None if since is None else since - SLACK_SECONDS
        async for event in events(control, given, since=start):
            if event.until < first or (last is not None and event.time >= last):
                continue
            found += 1
            if given.json:
                print(as_line(event))
            else:
                shown.append(event)
    if not given.json:
        if found > len(shown):
            print(f"{found} events; the last {len(shown)} of them (--json shows all):")
        _print(list(shown))
    return 0


def run_tail(given: argparse.Namespace) -> int:
    import asyncio

    return asyncio.run(_tail(given))


async def _tail(given: argparse.Namespace) -> int:
    from admin.find_log import open_log
    from events import tail
    from events.audit import STREAM

    async with open_log(given.data_dir, given.config) as control:
        found = await tail.info(control.log.nats, STREAM)
        end = int(found["state"]["last_seq"]) if found else 0
        latest: deque[AuditEvent] = deque(maxlen=given.n)
        async for event in events(control, given, after=max(0, end - LOOK_BACK)):
            latest.append(event)
        if given.json:
            for event in latest:
                print(as_line(event))
        else:
            _print(list(latest))
        if given.follow:
            async for event in events(control, given, after=end, follow=True):
                print(as_line(event) if given.json else as_text(event), flush=True)
    return 0


async def events(
    control: Control,
    given: argparse.Namespace,
    *,
    after: int = 0,
    since: float | None = None,
    follow: bool = False,
) -> AsyncIterator[AuditEvent]:
    """What the stream holds and the arguments ask for, each once."""
    from events import tail
    from events.audit import STREAM, SUBJECT_PREFIX, decode

    subject = SUBJECT_PREFIX + given.tenant if given.tenant else ""
    # A batch that was sent again: (chain, n) of the latest events, oldest first.
    seen: dict[tuple[str, int], None] = {}
    async for batch in tail.read(
        control.log.nats, STREAM, subject=subject, after=after, since=since, follow=follow
    ):
        for stored in batch:
            event = decode(stored.data)
            if event is None or (event.chain, event.n) in seen:
                continue  # `verify` tells of what is no event
            seen[event.chain, event.n] = None
            if len(seen) > LOOK_BACK:
                del seen[next(iter(seen))]
            if matches(event, given):
                yield event


def matches(event: AuditEvent, given: argparse.Namespace) -> bool:
    wanted = (
        (given.kind, event.kind),
        (given.actor, event.actor),
        (given.address, event.address),
        (given.outcome, event.outcome),
        (given.fingerprint, event.fingerprint),
        (given.trace, event.trace_id),
    )
    return all(asked is None or asked == found for asked, found in wanted)


def as_line(event: AuditEvent) -> str:
    """One JSON object in one line, without what is empty."""
    import orjson

    values = {name: getattr(event, name) for name in type(event).__slots__}
    return orjson.dumps({name: value for name, value in values.items() if value != ""}).decode()


def as_text(event: AuditEvent) -> str:
    """One line for people; what clients wrote cannot move the cursor."""
    parts = [event.time[:23] + "Z", *_cells(event)]
    return printable("  ".join(part for part in parts if part))


def _cells(event: AuditEvent) -> tuple[str, ...]:
    statement = " ".join(part for part in (event.statement_kind, event.fingerprint) if part)
    why = " ".join(part for part in (event.sqlstate, event.reason, _detail(event)) if part)
    who = "@".join(part for part in (event.actor, event.address) if part)
    many = f"x{event.count}" if event.count > 1 else ""
    return event.kind, event.tenant or "-", who, event.outcome, many, statement, why


def _detail(event: AuditEvent) -> str:
    """What is a record for programs, in words; --json has all of it."""
    from events.audit_sink import CHAIN_OPEN, COMMAND

    if event.kind == CHAIN_OPEN:
        return "a process began to write"
    parts = event.detail.split(" ", 3)
    if event.kind != COMMAND or len(parts) < 4:
        return event.detail
    type, _, sequence, surface = parts
    return f"{type} over {surface}" + (f", event {sequence}" if sequence else "")


def _print(events: list[AuditEvent]) -> None:
    """Columns as wide as they need to be: a reason that is cut off would be no reason."""
    if not events:
        print("No event matches.")
        return
    rows = [("TIME", "KIND", "TENANT", "WHO", "OUTCOME", "", "STATEMENT", "WHY")]
    for event in events:
        cells = (event.time[:19] + "Z", *_cells(event))
        rows.append(tuple([printable(cell) for cell in cells]))  # type: ignore[arg-type]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


# --- verify --------------------------------------------------------------------------------------


def run_verify(given: argparse.Namespace) -> int:
    import asyncio

    return asyncio.run(_verify(given))


async def _verify(given: argparse.Namespace) -> int:
    from admin.find_log import open_log
    from events.audit_publisher import AUDIT_FOLDER

    async with open_log(given.data_dir, given.config) as control:
        verifier, seen = await verified(control, given.data_dir / AUDIT_FOLDER)
    if given.json:
        import orjson

        print(orjson.dumps(as_report(verifier, seen), option=orjson.OPT_INDENT_2).decode())
    else:
        _print_report(verifier, seen)
    return 1 if verifier.breaks else 0


async def verified(control: Control, folder: Path) -> tuple[Verifier, int]:
    """Every event of the stream, and those on this disk, checked; how many of the stream.

    In this order: what the heads say was in the spool or in the stream by then, and what leaves
    the spool meanwhile is in the stream when that is read.
    """
    from events import tail
    from events.audit import KEY_PURPOSE, STREAM
    from events.audit_publisher import SPOOL_FOLDER, heads
    from events.audit_verify import Verifier
    from events.spool import waiting_in

    known = heads(folder)
    found = await tail.info(control.log.nats, STREAM)
    expired = found is not None and int(found["state"]["first_seq"]) > 1
    verifier = Verifier(control.vault.derive(KEY_PURPOSE), expired=expired)
    waiting = list(waiting_in(folder / SPOOL_FOLDER))
    seen = 0
    async for batch in tail.read(control.log.nats, STREAM):
        for stored in batch:
            seen += 1
            verifier.take(stored.sequence, stored.subject, stored.data)
    for message in waiting:
        verifier.take(0, message.subject, message.data)
    verifier.finish(known, now=time.time())
    return verifier, seen


def as_report(verifier: Verifier, seen: int) -> dict[str, Any]:
    """For programs."""
    return {
        "whole": not verifier.breaks,
        "events": seen,
        "chains": [
            {
                "chain": each.id,
                "writer": each.worker,
                "first": each.first,
                "last": each.last,
                "events": each.events,
                "stands_for": each.stands_for,
                "lost": each.lost,
                "sealed": each.sealed,
                "closed": each.closed,
                "from": each.first_time,
                "to": each.last_time,
            }
            for each in sorted(verifier.chains.values(), key=lambda each: each.first_time)
        ],
        "breaks": [
            {"chain": each.chain, "event": each.n, "sequence": each.sequence, "what": each.what}
            for each in verifier.breaks
        ],
    }


def _print_report(verifier: Verifier, seen: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    report = as_report(verifier, seen)
    table = Table(box=None, pad_edge=False)
    for name in ("CHAIN", "EVENTS", "STAND FOR", "LOST", "SEALED UP TO", "FROM", "TO", ""):
        table.add_column(name, overflow="fold")
    for each in report["chains"]:
        table.add_row(
            escape(printable(each["chain"])),
            f"{each['first']}-{each['last']}",
            *(str(each[name]) for name in ("stands_for", "lost", "sealed")),
            *(each[name][:19] + "Z" for name in ("from", "to")),
            "ended" if each["closed"] else "open",
        )
    console.print(table if report["chains"] else "The audit is empty.")
    for each in report["breaks"]:
        where = f" (message {each['sequence']} of the stream)" if each["sequence"] else ""
        text = (
            f"BROKEN: {each['chain'] or 'no chain'}, event {each['event']}: {each['what']}{where}"
        )
        console.print(escape(printable(text)))
    if not report["breaks"]:
        console.print(f"{seen} events in {len(report['chains'])} chains: whole.")
