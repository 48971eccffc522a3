"""A request becomes a command, and its answer a response."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import orjson
from fastapi import Depends, Header, Query
from pydantic import ValidationError
from starlette.responses import Response

from admin.api.access import Anybody, Behind, Caller, forbidden
from admin.api.backend import Backend
from admin.api.bodies import JSON
from admin.api.problems import Problem, mistake
from events.answer import Answer
from events.audit_sink import COMMAND
from events.commands_checks import told
from events.commands_model import Command

SEQUENCE_HEADER: Final = "Tenantry-Sequence"
_ETAG: Final = re.compile(r'"([0-9]{1,18})"')
_KEY: Final = r'^"?[!#-~]{1,64}"?$'


class Order:
    """A request to change: by whom, under which id, on which version, or only to try."""

    def __init__(
        self, backend: Backend, who: Caller, id: str = "", expected: int | None = None
    ) -> None:
        self.backend = backend
        self.who = who
        self.id = id
        self.expected = expected
        self.dry_run = False

    async def give(self, kind: type[Command], **fields: Any) -> Answer:
        """Carry it out. Raises Problem unless it was accepted."""
        answer = await self.try_to_give(kind, **fields)
        if not answer.accepted:
            raise Problem.of(answer)
        return answer

    async def try_to_give(self, kind: type[Command], **fields: Any) -> Answer:
        """Carry it out, and answer. Raises Problem only for what is no command."""
        common: dict[str, Any] = {"dry_run": self.dry_run, "expected_version": self.expected}
        if self.id:
            common["command_id"] = self.id
        try:
            command = kind.model_validate({**common, **fields})
        except ValidationError as error:
            mistakes = told(error)
            self.refuse(kind.TYPE, str(fields.get("id", "")) if kind.KIND == "tenant" else "")
            raise Problem(
                "refused", "; ".join(map(str, mistakes)), mistakes=mistakes, command_id=self.id
            ) from None
        return await self.backend.control.service.execute(
            command, self.who.principal, self.who.origin
        )

    def refuse(self, what: str, tenant: str = "") -> None:
        """Tell the audit of a command that was none."""
        principal = self.who.principal
        trace, span = self.who.origin.trace
        self.backend.note(
            COMMAND,
            principal.address,
            f"{what} is malformed",
            actor=principal.name,
            tenant=tenant if self.backend.state.record(tenant) else "",
            trace_id=trace,
            span_id=span,
        )


async def order(
    backend: Behind,
    who: Anybody,
    dry_run: Annotated[bool, Query(description="Only tell which events would be stored.")] = False,
    idempotency_key: Annotated[
        str | None,
        Header(
            pattern=_KEY,
            max_length=66,
            description="Names the command: sent again, it still happens once (31 days).",
        ),
    ] = None,
    tenantry_command_id: Annotated[
        str | None, Header(pattern=_KEY, max_length=66, description="As Idempotency-Key.")
    ] = None,
    if_match: Annotated[
        str | None,
        Header(max_length=200, description="Only if this is its ETag still; else 412."),
    ] = None,
    if_none_match: Annotated[
        str | None,
        Header(max_length=200, description="`*`: only if there is no such thing yet; else 412."),
    ] = None,
) -> Order:
    """What every command may be told. Raises Problem."""
    if who.principal.role == "viewer":
        # Before the body is read and passwords are worked on. All others are judged by
        # events.operators, with the command at hand.
        raise forbidden(backend, who, "a change")
    id = (idempotency_key or tenantry_command_id or "").strip('"')
    made = Order(backend, who, id, _expected(if_match, if_none_match))
    made.dry_run = dry_run
    return made


Ordered = Annotated[Order, Depends(order)]


async def order_for_all(order: Ordered) -> Order:
    """Of what concerns all tenants. Raises Problem, before anything there is is told of."""
    if not order.who.principal.may_read(""):
        raise forbidden(order.backend, order.who, "a change for all tenants")
    return order


OrderedForAll = Annotated[Order, Depends(order_for_all)]


def _expected(if_match: str | None, if_none_match: str | None) -> int | None:
    """The version that is expected, 0 for none. Raises Problem for what no ETag here can be."""
    if if_none_match is not None:
        if if_none_match.strip() != "*" or if_match is not None:
            raise mistake("If-None-Match", "only * is understood, without If-Match")
        return 0
    if if_match is None or if_match.strip() == "*":
        return None
    found = _ETAG.fullmatch(if_match.strip())
    if found is None:
        raise Problem("changed", "If-Match: send one ETag as it was received")
    return int(found[1])


def etag(version: int) -> dict[str, str]:
    return {"ETag": f'"{version}"'}


def about(answer: Answer) -> dict[str, str]:
    """Headers that tell of a command. A read with `Tenantry-After: <sequence>` sees it anywhere."""
    headers = {SEQUENCE_HEADER: str(answer.sequence), "Tenantry-Command-Id": answer.command_id}
    if answer.repeated:
        headers["Idempotency-Replayed"] = "true"
    return headers


def json(
    body: Any, status: int = 200, headers: dict[str, str] | None = None, media_type: str = JSON
) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type=media_type)


def told_only(answer: Answer, **more: Any) -> Response:
    """The answer itself, as other surfaces give it."""
    return json({**answer.as_dict(), **more}, headers=about(answer))


def done(answer: Answer, more: dict[str, str] | None = None) -> Response:
    """204, or what would be stored. `more` are headers."""
    if answer.dry_run:
        return told_only(answer)
    return Response(status_code=204, headers={**about(answer), **(more or {})})


async def caught_up(
    backend: Behind,
    who: Anybody,
    tenantry_after: Annotated[
        int | None,
        Header(
            ge=0,
            le=2**53,
            description="Answer as of this event or later: the Tenantry-Sequence of a command.",
        ),
    ] = None,
) -> None:
    """Wait for what the caller has written before, also through another control process."""
    if tenantry_after:
        await backend.reach(tenantry_after)
