"""The demo's steps on change: limits over NATS and over HTTP, their trace, and the state before."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from admin.cli.audit_log import as_text
from admin.cli.event_text import describe
from admin.demo.screen import told
from admin.demo.stage import (
    PATIENCE_SECONDS,
    Change,
    Stage,
    check,
    login_refused,
    until_answered,
    until_let_in,
    until_refused,
)
from admin.demo.traces import Span, tree
from admin.printed import printable
from events import tail
from events.audit import STREAM, AuditEvent, decode
from events.commands import DisableTenant, EnableTenant, PutTenant
from events.history import commit_of, moment_of, sequence_at, state_at
from events.projection import Projection
from events.spans import parse

TENANT: Final = "acme"
# acme's table of orders has eight rows.
QUESTION: Final = "SELECT * FROM orders"
OVER_NATS, OVER_HTTP = 2, 5
LIMIT: Final = "max_rows_per_query"
# What has to be in the audit and among the spans when a change has been seen to work.
AUDITED: Final = frozenset({"command", "config_change", "limit"})
TRACED: Final = frozenset({"control", "worker-0"})
POLL_SECONDS: Final = 0.05
# Clocks of NATS and of this process, on one machine.
SLACK_SECONDS: Final = 5.0
AGO: Final = timedelta(minutes=1)


# --- a limit, by two ways -------------------------------------------------------------------------


async def live_change(stage: Stage) -> None:
    """A limit is changed over NATS and over HTTP; one open connection feels both."""
    await stage.catch_up()
    record = stage.projection.record(TENANT)
    assert record is not None
    before = record.settings.get("rate_limits", {}).get(LIMIT)
    trace_id, span_id, traceparent = stage.new_trace()
    asked = f"{QUESTION} /*traceparent='{traceparent}'*/"
    sequences: list[int] = []
    async with await stage.connect(TENANT) as acme:
        await acme.execute(QUESTION.encode())
        try:
            patch = {"rate_limits": {LIMIT: OVER_NATS}}
            answer = await stage.request(f"{TENANT}.change", {"patch": patch}, traceparent)
            sequences.append(answer["sequence"])
            await _felt(stage, acme, OVER_NATS, asked)

            answer = await stage.http("PATCH", f"/tenants/{TENANT}", _limit(OVER_HTTP))
            sequences.append(await _sequence_of(stage, answer, OVER_HTTP))
            await _felt(stage, acme, OVER_HTTP, QUESTION)

            await stage.http("PATCH", f"/tenants/{TENANT}", _limit(before), quiet=True)
            await until_answered(acme, QUESTION)
        finally:
            await stage.catch_up()
            now = stage.projection.record(TENANT)
            if now is not None and now.settings != record.settings:
                await stage.command(PutTenant(id=TENANT, settings=record.settings))
    await stage.catch_up()
    stage.change = Change(trace_id, span_id, tuple(sequences), before)
    stage.screen.done(
        f"no reconnect; put back over HTTP and felt again: {_after(stage, sequences)} events"
    )


def _limit(rows: Any) -> dict[str, Any]:
    return {"rate_limits": {LIMIT: rows}}


async def _felt(stage: Stage, connection: Any, rows: int, statement: str) -> None:
    """The open connection is refused because of this limit, and no other."""
    changed = time.monotonic()
    error = await until_refused(connection, statement, "54000", saying=f" {rows} rows")
    passed = (time.monotonic() - changed) * 1000
    stage.screen.refused(TENANT, statement, error)
    stage.screen.say(f"{passed:.0f} ms after the answer to the change, on the open connection")


async def _sequence_of(stage: Stage, answer: dict[str, Any], rows: int) -> int:
    """Where the log has it; and the answer is the tenant as it is now."""
    check(answer["rate_limits"][LIMIT] == rows, f"the API answers {answer['rate_limits']}")
    await stage.catch_up()
    record = stage.projection.record(TENANT)
    return 0 if record is None else record.version


def _after(stage: Stage, sequences: list[int]) -> int:
    return stage.projection.position - sequences[0] + 1


async def switch(stage: Stage) -> None:
    """A tenant is switched off and on: clients end, and are let in again."""
    async with await stage.connect("trial") as trial:
        try:
            await stage.command(DisableTenant(id="trial"))
            error = await until_refused(trial, "SELECT 1", "57P01", pause=0.25)
            text = await login_refused(stage, "trial")
        finally:
            await stage.command(EnableTenant(id="trial"))
    stage.screen.say("command: trial is disabled; its open connection ends, new ones are refused:")
    stage.screen.say(f"open: {told(error)}", style="yellow")
    stage.screen.say(f"new:  {text}", style="yellow")
    check("password authentication failed" in text, f"a disabled tenant is told: {text}")
    await until_let_in(stage, "trial")
    stage.screen.done("enabled again, it is let in again: 2 events")


# --- its trace ------------------------------------------------------------------------------------


async def trace(stage: Stage) -> None:
    """The same trace id in the event, in the audit, and in the spans of both processes."""
    change = stage.change
    check(change is not None, "nothing was changed")
    assert change is not None
    stored = await stage.log.get(change.sequences[0])
    assert stored is not None
    found = parse(stored.headers.get("traceparent", ""))[0]
    check(found == change.trace_id, f"the event has the trace {found or '(none)'}")
    stage.screen.say(f"The trace of the change over NATS is {change.trace_id}.")
    stage.screen.heading("the event")
    stage.screen.say(describe(stored, commit_of(stored)))
    audited = await _audited(stage, change.trace_id)
    stage.screen.heading("the audit")
    for event in audited:
        stage.screen.say(printable(as_text(event)))
    spans = await _spans(stage, change.trace_id)
    stage.screen.heading("the spans")
    stage.screen.say("demo, who asks")
    drawn = tree(spans, change.span_id)
    for lines, span in drawn:
        took = (span.end - span.start) / 1e6
        stage.screen.line(f"{lines}{span.name}", f"{span.process:<9}{took:8.1f} ms")
    check(len(drawn) == len(spans), "some spans hang below nothing")
    stage.screen.done("one trace, from who asked to each process, and to the statement it refused")


async def _audited(stage: Stage, trace_id: str) -> list[AuditEvent]:
    """The audit's events of the trace, once all that must be there are."""
    since = datetime.fromisoformat(stage.started).timestamp() - SLACK_SECONDS
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        events: list[AuditEvent] = []
        async for batch in tail.read(stage.log.nats, STREAM, since=since):
            read = (decode(each.data) for each in batch)
            events += (event for event in read if event is not None and event.trace_id == trace_id)
        kinds = {event.kind for event in events}
        if kinds >= AUDITED:
            return sorted(events, key=lambda event: event.time)
        check(time.monotonic() < deadline, f"the audit has {', '.join(kinds) or 'nothing'} of it")
        await asyncio.sleep(POLL_SECONDS)


async def _spans(stage: Stage, trace_id: str) -> list[Span]:
    """The spans of the trace, once both processes have told theirs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        spans = stage.traces.of(trace_id)
        applied = {span.process for span in spans if span.name == "apply tenant"}
        names = {span.name.partition(" ")[0] for span in spans}
        if applied >= TRACED and names >= {"command", "send", "SELECT"}:
            return spans
        there = ", ".join(f"{span.name} in {span.process}" for span in spans)
        check(time.monotonic() < deadline, f"the trace has only: {there or 'nothing'}")
        await asyncio.sleep(POLL_SECONDS)


# --- the past -------------------------------------------------------------------------------------


async def past(stage: Stage) -> None:
    """The state at any time is the fold of what was stored until then."""
    change = stage.change
    assert change is not None
    entries = await stage.entries()
    rows: list[tuple[object, ...]] = []
    ago = datetime.now(UTC) - AGO
    if await sequence_at(stage.log, ago):
        rows.append(await _as_of(stage, entries, "a minute ago", ago))
    else:
        stage.screen.say("This log is younger than a minute, so: as of just before the changes.")
    first = await _moment(stage, change.sequences[0])
    second = await _moment(stage, change.sequences[1])
    moment = timedelta(milliseconds=1)
    was = await _as_of(stage, entries, "before the changes", first - moment)
    nats = await _as_of(stage, entries, "after that over NATS", first)
    http = await _as_of(stage, entries, "after that over HTTP", second)
    now = await _as_of(stage, entries, "now", datetime.now(UTC))
    limits = [row[-1] for row in (was, nats, http, now)]
    shown = [_shown(rows) for rows in (change.before, OVER_NATS, OVER_HTTP, change.before)]
    check(limits == shown, f"the limit was {limits} instead of {shown}")
    rows += [was, nats, http, now]
    names = ("as of", "time (UTC)", "events", "tenants", f"{TENANT}: {LIMIT}")
    stage.screen.table("The state, rebuilt from the log", names, rows)
    stage.screen.say("By hand: tenantry tenants show acme --at '1 minute ago'")
    stage.screen.done("each is what its events come to when they are folded again")


async def _moment(stage: Stage, sequence: int) -> datetime:
    stored = await stage.log.get(sequence)
    assert stored is not None
    return moment_of(stored)


async def _as_of(
    stage: Stage, entries: list[Any], name: str, moment: datetime
) -> tuple[object, ...]:
    """One row of the table; the state is compared with another fold of the same events."""
    sequence = await sequence_at(stage.log, moment)
    state = await state_at(stage.log, sequence)
    again = Projection()
    for entry in entries[:sequence]:
        again.apply(entry.sequence, entry.kind, entry.id, entry.commit)
    check(state.digest() == again.digest(), f"{name}: another fold gives another state")
    record = state.record(TENANT)
    limits = {} if record is None else record.settings.get("rate_limits", {})
    time = moment.strftime("%H:%M:%S.%f")[:-3]
    return name, time, sequence, state.tenant_count(), _shown(limits.get(LIMIT))


def _shown(rows: Any) -> str:
    return "default" if rows is None else f"{rows:,}" if isinstance(rows, int) else str(rows)
