"""/events: every change as it was stored, listed, one by one, or as it comes (server-sent)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from admin.api import described, examples
from admin.api.access import Anybody, Behind, Caller, forbidden, still_good
from admin.api.backend import Backend
from admin.api.bodies import JSON
from admin.api.commands import Ordered, caught_up, json, told_only
from admin.api.described import answers, listed, table
from admin.api.limits import (
    HEARTBEAT_SECONDS,
    PAGE,
    SCANNED_MAX,
    STREAM_BATCH,
    STREAMS_MAX,
    STREAMS_PER_CALLER_MAX,
)
from admin.api.pages import Limit, SequenceCursor, Since, Until, paged
from admin.api.problems import Problem, missing, mistake
from admin.api.routes_tenants import Force
from admin.cli.event_text import as_dict
from admin.cli.failure import Failure
from admin.cli.when import parse_when
from events.commands_model import Mistake, Undo
from events.facts import KIND_INSTALLATION, KIND_OPERATOR, KIND_TENANT, KIND_TIER
from events.history import commit_of, sequence_at
from events.model import TENANT_ID
from events.reader import Stored
from events.stream import SUBJECT_PREFIX, LogError

router = APIRouter(prefix="/events", tags=["log"])

EVENT_STREAM: Final = "text/event-stream"
# Events looked at in one go, backwards or forwards, when no subject narrows it down.
WINDOW: Final = 2_000
# A stream whose projection was replaced (NATS came back elsewhere) notices within this.
LOOK_SECONDS: Final = 1.0
RECONNECT_MS: Final = 2_000
UNDOABLE: Final = frozenset({KIND_TENANT, KIND_TIER, KIND_INSTALLATION, KIND_OPERATOR})


class Wanted:
    """Which events are asked for."""

    def __init__(self, tenant: str, kind: str, actor: str, type: str) -> None:
        self.tenant = tenant
        self.kind = KIND_TENANT if tenant else kind
        self._actor = actor
        self._type = type

    @property
    def subjects(self) -> list[str]:
        """What the log's server can sort out."""
        if self.tenant:
            return [f"{SUBJECT_PREFIX}{KIND_TENANT}.{self.tenant}"]
        return [f"{SUBJECT_PREFIX}{self.kind}.>"] if self.kind else []

    def shown(self, stored: Stored) -> dict[str, Any] | None:
        """The event, if it is one of them."""
        if self.kind and stored.kind != self.kind:
            return None
        if self.tenant and stored.id != self.tenant:
            return None
        commit = commit_of(stored)
        if self._actor and commit.actor != self._actor:
            return None
        if self._type and all(self._type != fact.TYPE for fact in commit.events):
            return None
        return as_dict(stored, commit)


async def wanted(
    backend: Behind,
    who: Anybody,
    tenant: Annotated[str, Query(max_length=63, description="Of this tenant.")] = "",
    kind: Annotated[
        str, Query(pattern=r"^[a-z_]*$", max_length=40, description="tenant, tier, token …")
    ] = "",
    actor: Annotated[str, Query(max_length=200, description="Who did it.")] = "",
    type: Annotated[str, Query(max_length=60, description="A fact, e.g. TenantChanged.")] = "",
) -> Wanted:
    """Raises Problem for what the caller may not see."""
    own = who.principal.tenant
    if own and tenant not in ("", own):
        raise forbidden(backend, who, "another tenant")
    if own and kind not in ("", KIND_TENANT):
        raise forbidden(backend, who, f"events of kind {kind}")
    if tenant and TENANT_ID.fullmatch(tenant) is None:
        raise mistake("tenant", "is no tenant id")
    return Wanted(tenant or own, kind, actor, type)


Which = Annotated[Wanted, Depends(wanted)]


# --- list ----------------------------------------------------------------------------------------


@router.get(
    "",
    summary="List events, or hear of them as they come",
    description="Newest first unless `order=asc`. With `Accept: text/event-stream` it is a stream "
    "(server-sent events) that begins behind `Last-Event-ID` or `after`, else with the next event; "
    "the id of each is its sequence.",
    responses={
        **answers(table(events=listed(described.EVENT))),
        200: {
            "description": "Events.",
            "content": {
                JSON: {
                    "schema": table(events=listed(described.EVENT)),
                    "example": examples.EVENTS,
                },
                EVENT_STREAM: {"schema": {"type": "string"}, "example": examples.STREAM},
            },
        },
    },
    dependencies=[Depends(caught_up)],
)
async def list_events(
    request: Request,
    backend: Behind,
    who: Anybody,
    which: Which,
    limit: Limit = PAGE,
    cursor: SequenceCursor = None,
    order: Annotated[Literal["asc", "desc"], Query(description="desc: newest first.")] = "desc",
    after: Annotated[int | None, Query(ge=0, le=2**53, description="Behind this event.")] = None,
    since: Since = "",
    until: Until = "",
    last_event_id: Annotated[
        str | None, Header(max_length=20, description="Of a stream: behind this event.")
    ] = None,
) -> Response:
    if EVENT_STREAM in request.headers.get("accept", "").lower():
        _check_stream(request)
        start = await _start(backend, last_event_id, after, since)
        return _streamed(backend, who, which, start)
    async with backend.reading():
        with log_problems():
            first, last = await _range(backend, after, since, until)
            if order == "asc":
                found, next_one = await _forwards(backend, which, cursor or first, last, limit)
            else:
                end = last if cursor is None else min(last, cursor)
                found, next_one = await _backwards(backend, which, first, end, limit)
    return paged(request, {"events": found}, str(next_one) if next_one else "", limit)


@contextlib.contextmanager
def log_problems() -> Any:
    """What reading the log raises, as problems."""
    try:
        yield
    except LogError as error:
        raise Problem("unavailable", str(error)) from None


async def _range(backend: Backend, after: int | None, since: str, until: str) -> tuple[int, int]:
    """First and last sequence that are asked for."""
    source = backend.control.log
    first, last = 1 if after is None else after + 1, backend.state.position
    if since:
        moment = when("since", since)
        first = max(first, await sequence_at(source, moment) + 1)
    if until:
        moment = when("until", until)
        last = min(last, await sequence_at(source, moment))
    return first, last


def when(name: str, text: str) -> Any:
    """A moment. Raises Problem."""
    try:
        return parse_when(text)
    except Failure as failure:
        raise mistake(name, "is no time", str(failure)) from None


async def _backwards(
    backend: Backend, wanted: Wanted, first: int, last: int, limit: int
) -> tuple[list[dict[str, Any]], int]:
    """The newest ones up to `last`, and where to go on, 0 at the end."""
    found: list[dict[str, Any]] = []
    # What one tenant has been through is read in one go.
    window = max(1, last - first + 1) if wanted.tenant else max(WINDOW, limit)
    scanned = 0
    while last >= first and len(found) < limit and scanned < SCANNED_MAX:
        start = max(first, last - window + 1)
        part: deque[dict[str, Any]] = deque(maxlen=limit - len(found))
        await _scan(backend, wanted, start, last, part.append)
        found += reversed(part)
        scanned += window
        last = start - 1 if len(found) < limit else found[-1]["sequence"] - 1
    return found, last if last >= first else 0


async def _forwards(
    backend: Backend, wanted: Wanted, first: int, last: int, limit: int
) -> tuple[list[dict[str, Any]], int]:
    found: list[dict[str, Any]] = []
    window = max(1, last - first + 1) if wanted.tenant else max(WINDOW, limit)
    scanned = 0
    while first <= last and len(found) < limit and scanned < SCANNED_MAX:
        end = min(last, first + window - 1)
        part: list[dict[str, Any]] = []
        await _scan(backend, wanted, first, end, part.append)
        room = limit - len(found)
        first = part[room]["sequence"] if len(part) > room else end + 1
        found += part[:room]
        scanned += window
    return found, first if first <= last else 0


async def _scan(backend: Backend, wanted: Wanted, first: int, last: int, keep: Any) -> None:
    def take(stored: Stored) -> None:
        shown = wanted.shown(stored)
        if shown is not None:
            keep(shown)

    await backend.control.log.scan(take, first=first, last=last, subjects=wanted.subjects)


# --- one event -----------------------------------------------------------------------------------

Sequence = Annotated[int, Path(ge=1, le=2**53)]


async def _stored(backend: Backend, who: Caller, sequence: int) -> Stored:
    """Raises Problem."""
    with log_problems():
        found = await backend.control.log.get(sequence)
    if found is None:
        raise missing(f"event {sequence}")
    if not who.principal.may_read(found.id if found.kind == KIND_TENANT else ""):
        raise forbidden(backend, who, "an event of others")
    return found


@router.get(
    "/{sequence}",
    summary="One event",
    responses=answers(described.EVENT, examples.EVENT_SHOWN),
    dependencies=[Depends(caught_up)],
)
async def get_event(backend: Behind, who: Anybody, sequence: Sequence) -> Response:
    stored = await _stored(backend, who, sequence)
    return json({**as_dict(stored, commit_of(stored)), "headers": stored.headers})


@router.post(
    "/{sequence}/undo",
    summary="Take back what an event changed",
    description="As a new command. What was changed again since is left alone, and told (412), "
    "unless `force` is given.",
    responses=answers(described.ANSWER, examples.DONE),
)
async def undo_event(order: Ordered, sequence: Sequence, force: Force = False) -> Response:
    stored = await _stored(order.backend, order.who, sequence)
    if stored.kind not in UNDOABLE:
        raise mistake("sequence", f"what happens to a {stored.kind} cannot be undone")
    answer = await order.give(
        Undo, of_kind=stored.kind, id=stored.id, sequence=sequence, force=force
    )
    return told_only(answer)


# --- as they come --------------------------------------------------------------------------------


def _check_stream(request: Request) -> None:
    """A stream has no end and no pages. Raises Problem."""
    strange = sorted(set(request.query_params) & {"limit", "cursor", "order", "until"})
    if strange:
        hint = "A stream goes on for ever, the oldest first."
        wrong = [Mistake(name, "is not for a stream", hint) for name in strange]
        raise Problem("refused", "; ".join(map(str, wrong)), mistakes=wrong)


async def _start(backend: Backend, last_event_id: str | None, after: int | None, since: str) -> int:
    """Behind which event a stream begins. Raises Problem."""
    name, start = "after", after
    if last_event_id:
        if not (last_event_id.isascii() and last_event_id.isdigit()):
            raise mistake("Last-Event-ID", "is no sequence")
        name, start = "Last-Event-ID", int(last_event_id)
    elif since:
        moment = when("since", since)
        with log_problems():
            start = max(start or 0, await sequence_at(backend.control.log, moment))
    if start is None:
        return backend.state.position
    if start > backend.state.position:
        # Of a log that was restored to an earlier state, say: who waits for what follows would
        # never hear of what comes until then.
        with log_problems():
            stored = await backend.control.log.last_sequence()
        if start > stored:
            raise mistake(name, f"there is no event {start} yet", "Begin anew without it.")
    return start


def _streamed(backend: Backend, who: Caller, wanted: Wanted, after: int) -> Response:
    if sum(backend.streams.values()) >= STREAMS_MAX:
        raise Problem("busy", "too many streams", status=503, retry_after=HEARTBEAT_SECONDS)
    if backend.streams.get(who.name, 0) >= STREAMS_PER_CALLER_MAX:
        raise Problem("busy", "too many streams of one token", retry_after=HEARTBEAT_SECONDS)
    return StreamingResponse(
        _stream(backend, who, wanted, after),
        media_type=EVENT_STREAM,
        headers={"X-Accel-Buffering": "no"},
    )


async def _stream(
    backend: Backend, who: Caller, wanted: Wanted, position: int
) -> AsyncIterator[bytes]:
    """The log itself is the queue: a slow reader only lags, and nothing is kept for it."""
    backend.streams[who.name] = backend.streams.get(who.name, 0) + 1
    try:
        yield f"retry: {RECONNECT_MS}\n\n".encode()
        quiet = 0.0
        while not backend.closing.is_set() and still_good(backend, who):
            control = backend.control_or_none
            if control is None or control.projection.position <= position:
                await _something(backend)
                quiet += LOOK_SECONDS
                if quiet >= HEARTBEAT_SECONDS:
                    quiet = 0.0
                    yield b": still here\n\n"
                continue
            end = min(control.projection.position, position + STREAM_BATCH)
            found: list[dict[str, Any]] = []
            try:
                await _scan(backend, wanted, position + 1, end, found.append)
            except (LogError, Problem):
                await asyncio.sleep(LOOK_SECONDS)
                continue
            for each in found:
                yield b"id: %d\ndata: %b\n\n" % (each["sequence"], orjson.dumps(each))
            if not found or found[-1]["sequence"] != end:
                # So that a reader who comes again does not look at all of that again.
                yield b"id: %d\n\n" % end
            position, quiet = end, 0.0
    finally:
        backend.streams[who.name] -= 1
        if not backend.streams[who.name]:
            del backend.streams[who.name]


async def _something(backend: Backend) -> None:
    """Return when something was folded, or after LOOK_SECONDS."""
    control = backend.control_or_none
    changed = asyncio.Event()
    forget = control.projection.subscribe(lambda *_: changed.set()) if control else None
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            await changed.wait()
    except TimeoutError:
        pass
    finally:
        if forget is not None:
            forget()
