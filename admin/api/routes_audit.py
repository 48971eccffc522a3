"""/audit: who did what, and whether the record of it is whole."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from admin.api import described, examples
from admin.api.access import Anybody, Behind, Overseer, forbidden
from admin.api.backend import Backend
from admin.api.commands import json
from admin.api.described import answers, listed, table
from admin.api.limits import PAGE, SCANNED_MAX
from admin.api.pages import Limit, SequenceCursor, Since, Until, paged
from admin.api.problems import Problem
from admin.api.routes_log import log_problems, when
from events import tail
from events.audit import KEY_PURPOSE, NO_TENANT, STREAM, SUBJECT_PREFIX, AuditEvent, decode, iso
from events.audit_verify import Verifier

router = APIRouter(prefix="/audit", tags=["audit"])

# Events looked at in one go, going backwards.
WINDOW: Final = 2_000
BREAKS_MAX: Final = 1_000


class Asked:
    """Which events are asked for. `equal` names fields and what they must be; "" is anything."""

    def __init__(self, tenant: str, equal: dict[str, str], since: str, until: str) -> None:
        self.tenant = tenant
        self._equal = equal
        self.since = when("since", since).timestamp() if since else None
        self._first = iso(self.since) if self.since is not None else ""
        self._last = iso(when("until", until).timestamp()) if until else ""

    @property
    def subject(self) -> str:
        return SUBJECT_PREFIX + self.tenant if self.tenant else ""

    def wants(self, event: AuditEvent) -> bool:
        if event.until < self._first or (self._last and event.time >= self._last):
            return False
        return all(
            not asked or getattr(event, name) == asked for name, asked in self._equal.items()
        )


async def asked(
    backend: Behind,
    who: Anybody,
    tenant: Annotated[
        str,
        Query(
            max_length=63,
            pattern=r"^[a-z0-9_-]*$",
            description=f"`{NO_TENANT}` for events of no tenant.",
        ),
    ] = "",
    kind: Annotated[str, Query(max_length=40, description="login, refusal, limit …")] = "",
    actor: Annotated[str, Query(max_length=200, description="Who did it.")] = "",
    address: Annotated[str, Query(max_length=60, description="Where it came from.")] = "",
    outcome: Annotated[
        Literal["", "ok", "refused", "failed"], Query(description="What came of it.")
    ] = "",
    fingerprint: Annotated[str, Query(max_length=40, description="Of a statement.")] = "",
    trace: Annotated[str, Query(max_length=40, description="A trace id.")] = "",
    since: Since = "",
    until: Until = "",
) -> Asked:
    """Raises Problem for what the caller may not see."""
    own = who.principal.tenant
    if own and tenant not in ("", own):
        raise forbidden(backend, who, "another tenant")
    equal = {
        "kind": kind,
        "actor": actor,
        "address": address,
        "outcome": outcome,
        "fingerprint": fingerprint,
        "trace_id": trace,
    }
    return Asked(tenant or own, equal, since, until)


@router.get(
    "",
    summary="Search the audit",
    description="Newest first. One request looks at a bounded number of events; `next_cursor` goes "
    "on behind them, even when none of them matched.",
    responses=answers(
        table(
            events=listed(table(sequence=described.COUNT, kind=described.NAME, time=described.NAME))
        ),
        examples.AUDIT,
    ),
)
async def search_audit(
    request: Request,
    backend: Behind,
    which: Annotated[Asked, Depends(asked)],
    limit: Limit = PAGE,
    cursor: SequenceCursor = None,
) -> Response:
    async with backend.reading():
        with log_problems():
            found, after = await _search(backend, which, limit, cursor)
    return paged(request, {"events": found}, str(after) if after else "", limit)


async def _search(
    backend: Backend, asked: Asked, limit: int, cursor: int | None
) -> tuple[list[dict[str, Any]], int]:
    nats = backend.control.log.nats
    info = await tail.info(nats, STREAM)
    if info is None:
        return [], 0
    first, last = int(info["state"]["first_seq"]), int(info["state"]["last_seq"])
    last = last if cursor is None else min(last, cursor)
    found: list[dict[str, Any]] = []
    seen: set[tuple[str, int]] = set()
    scanned = 0
    while last >= first and len(found) < limit and scanned < SCANNED_MAX:
        start = max(first, last - WINDOW + 1)
        part: deque[dict[str, Any]] = deque(maxlen=limit - len(found))
        oldest = await _window(nats, asked, start, last, part, seen)
        found += reversed(part)
        scanned += WINDOW
        last = start - 1 if len(found) < limit else found[-1]["sequence"] - 1
        if asked.since is not None and oldest and oldest < asked.since:
            return found, 0
    return found, last if last >= first else 0


async def _window(
    nats: Any,
    asked: Asked,
    first: int,
    last: int,
    keep: deque[dict[str, Any]],
    seen: set[tuple[str, int]],
) -> float:
    """Keep what matches; the time when the first one was stored (seconds since 1970), or 0."""
    oldest = 0.0
    reading = tail.read(nats, STREAM, subject=asked.subject, after=first - 1)
    async with contextlib.aclosing(reading) as batches:
        async for batch in batches:
            for stored in batch:
                if stored.sequence > last:
                    return oldest
                oldest = oldest or stored.stored_at / 1e9
                event = decode(stored.data)
                # A batch that was sent again is there twice.
                if event is None or (event.chain, event.n) in seen or not asked.wants(event):
                    continue
                seen.add((event.chain, event.n))
                keep.append(_shown(stored.sequence, event))
    return oldest


def _shown(sequence: int, event: AuditEvent) -> dict[str, Any]:
    values = {name: getattr(event, name) for name in AuditEvent.__slots__}
    return {"sequence": sequence, **{name: value for name, value in values.items() if value != ""}}


@router.get(
    "/verify",
    summary="Check that no event of the audit was changed or removed",
    description="Reads all of it; one at a time.",
    responses=answers(
        table(
            whole={"type": "boolean"},
            chains=described.COUNT,
            events=described.COUNT,
            breaks=listed(described.OBJECT),
        ),
        examples.AUDIT_VERIFIED,
    ),
)
async def verify_audit(backend: Behind, who: Overseer) -> Response:
    if backend.verifying.locked():
        raise Problem("busy", "it is being checked already", status=503, retry_after=5)
    async with backend.verifying:
        with log_problems():
            verifier = await _verified(backend)
    reports = verifier.chains.values()
    return json(
        {
            "whole": not verifier.breaks,
            "chains": len(verifier.chains),
            "events": sum(each.events for each in reports),
            "stands_for": sum(each.stands_for for each in reports),
            "lost": sum(each.lost for each in reports),
            "breaks": [
                {"chain": each.chain, "n": each.n, "sequence": each.sequence, "what": each.what}
                for each in verifier.breaks[:BREAKS_MAX]
            ],
        }
    )


async def _verified(backend: Backend) -> Verifier:
    control = backend.control
    nats = control.log.nats
    info = await tail.info(nats, STREAM)
    expired = info is not None and int(info["state"]["first_seq"]) > 1
    verifier = Verifier(control.vault.derive(KEY_PURPOSE), expired=expired)
    async with contextlib.aclosing(tail.read(nats, STREAM)) as batches:
        async for batch in batches:
            for stored in batch:
                verifier.take(stored.sequence, stored.subject, stored.data)
            await asyncio.sleep(0)
    verifier.finish()
    return verifier
