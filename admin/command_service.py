"""Carries commands out for every surface: who asks, may they, do it, note it.

    NATS request ─┐
    NATS durable ─┼─▶ handle ─▶ token ─▶ command ─┐
    HTTP, console ┘                               ├─▶ execute ─▶ may they? ─▶ Commander ─▶ audit
    in this process ──────────────────────────────┘

`execute` is the one function that others build on. It answers; it raises nothing but cancellation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from admin.api.limits import Buckets, Rate
from events.answer import Answer, refusal
from events.audit_sink import COMMAND, FAILED, OK, REFUSED, AuditSink
from events.bus import BODY_BYTES_MAX, Request, RequestBus
from events.bus_durable import DurableBus
from events.commander import Commander
from events.commands_model import Command, CommandRefused, Mistake, PurgeTenant
from events.commands_tenant import purge_due
from events.keys import KeyRing
from events.log import ConfigLog
from events.operators import Principal, objection
from events.projection import Projection
from events.secrets import Vault
from events.spans import parse as parse_traceparent
from events.stream import (
    CommandIdReused,
    CommitTooLarge,
    Conflict,
    LogError,
    LogUnavailable,
)
from events.tokens import TokenChecker, TokenRefused, TokenSigner
from events.verbs import INSTALLATION, parse
from wire.tasks import end, spawn

log = logging.getLogger("tenantry.commands")

# How often deleted tenants are looked at whose retention may be over. Seconds.
PURGE_SECONDS: Final = 600.0
# What the administrators of one tenant may ask for. Whatever is accepted stays in the log for ever,
# and nobody may fill it for all others: this is some 17,000 changes a day.
TENANT_ADMIN_RATE: Final = Rate(0.2, 200)
RETENTION: Final = Principal("retention", "operator")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a command came from: the surface ("http", "nats request" …) and the trace it is part
    of (W3C Trace Context, "" when none)."""

    surface: str = ""
    traceparent: str = ""

    @property
    def trace(self) -> tuple[str, str]:
        """Trace id and span id, empty when there are none."""
        return parse_traceparent(self.traceparent)[:2]


class CommandService:
    """One per control process. `open` is `start`, work, `stop`."""

    def __init__(
        self,
        source: ConfigLog,
        commander: Commander,
        projection: Projection,
        vault: Vault,
        keys: KeyRing,
        *,
        audit: AuditSink | None = None,
    ) -> None:
        self.signer = TokenSigner(vault)
        self.checker = TokenChecker(self.signer.public_key, projection)
        self.audit = audit or AuditSink()
        self._source = source
        self._commander = commander
        self._projection = projection
        self._keys = keys
        self._rates = Buckets(TENANT_ADMIN_RATE)
        self._requests = RequestBus(source.connection, self.handle)
        self._durable = DurableBus(source, self.handle, replicas=source.replicas)
        self._tasks: list[asyncio.Task[None]] = []

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen on NATS. Raises NatsError, OSError when there is no connection."""
        await self._requests.start()
        self._tasks = [
            spawn(self._durable.run(), name="durable commands"),
            spawn(self._purge(), name="retention of deleted tenants"),
        ]

    async def stop(self) -> None:
        """Finish what is under way; doing so twice does no harm."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        await self._requests.stop()
        await end(*tasks)

    # --- commands --------------------------------------------------------------------------------

    async def handle(self, request: Request) -> Answer:
        """A request of another process: check the token, read the command, execute it."""
        origin = Origin(request.surface, request.traceparent)
        try:
            principal = self.checker.check(request.token, at=request.shown_at)
        except TokenRefused as refused:
            answer = refusal(request.command_id, "unauthenticated", str(refused))
            tenant = "" if request.tenant == INSTALLATION else request.tenant
            self._note(answer, tenant, request.verb, "", "", origin, refused.reason)
            return answer
        try:
            if len(request.body) > BODY_BYTES_MAX:
                mistake = Mistake("", f"the body is over {BODY_BYTES_MAX} bytes")
                raise CommandRefused([mistake], "too_large")
            command = parse(request.tenant, request.verb, request.body, request.command_id)
        except CommandRefused as refused:
            code, mistakes = refused.code, tuple(refused.mistakes)
            answer = Answer(request.command_id, code, mistakes=mistakes)
            # What is wrong with it may tell somebody who may not even ask how things are here.
            tenant = "" if request.tenant == INSTALLATION else request.tenant
            if not principal.may_read(tenant):
                answer = refusal(request.command_id, "forbidden", "this token is not for that")
            self._note(answer, tenant, request.verb, principal.name, principal.address, origin)
            return answer
        return await self.execute(command, principal, origin)

    async def execute(
        self, command: Command, principal: Principal, origin: Origin = Origin()
    ) -> Answer:
        """Carry `command` out for `principal`, who was shown to be so. Never raises: see
        events.answer for the codes; after "unknown", the same command again finds out."""
        tenant = command.subject_id if command.kind == "tenant" else ""
        spans = self._source.spans
        with spans.command(command.TYPE, tenant, origin.surface, origin.traceparent) as parent:
            origin = Origin(origin.surface, parent)
            wrong = objection(principal, command)
            if wrong is not None:
                answer = Answer(command.command_id, "forbidden", mistakes=(wrong,))
            elif principal.tenant and (wait := self._rates.take(principal.tenant)):
                text = f"too many commands of the administrators of {principal.tenant}"
                hint = f"Wait {wait:.0f} s."
                answer = refusal(command.command_id, "busy", text, hint=hint)
            else:
                answer = await self._execute(command, principal, origin)
            self._note(answer, tenant, command.TYPE, principal.name, principal.address, origin)
            return answer

    async def _execute(self, command: Command, principal: Principal, origin: Origin) -> Answer:
        id = command.command_id
        headers = {"Tenantry-Surface": origin.surface} if origin.surface else {}
        if origin.traceparent:
            headers["traceparent"] = origin.traceparent
        try:
            accepted = await self._commander.execute(command, principal.name, headers)
        except CommandRefused as refused:
            return Answer(id, refused.code, mistakes=tuple(refused.mistakes))
        except Conflict as error:
            return refusal(id, "conflict", str(error), hint="Try again.")
        except CommandIdReused as error:
            return refusal(id, "reused", str(error), "command_id", "Use another one.")
        except CommitTooLarge as error:
            return refusal(id, "too_large", str(error))
        except LogUnavailable as error:
            return refusal(id, "unknown" if error.unknown else "unavailable", str(error))
        except LogError as error:
            return refusal(id, "unavailable", str(error))
        except Exception:
            log.exception("command %s %s failed", command.TYPE, id)
            return refusal(id, "failed", "the command failed here", hint="See the server's log.")
        return Answer(
            id,
            sequence=accepted.sequence,
            events=accepted.events,
            repeated=accepted.repeated,
            dry_run=accepted.dry_run,
        )

    def _note(
        self,
        answer: Answer,
        tenant: str,
        what: str,
        actor: str,
        address: str,
        origin: Origin,
        reason: str = "",
    ) -> None:
        trace, span = origin.trace
        outcome = OK if answer.accepted else REFUSED if answer.final else FAILED
        self.audit.note(
            COMMAND,
            tenant,
            actor=actor,
            address=address,
            outcome=outcome,
            reason=reason or answer.code,
            trace_id=trace,
            span_id=span,
            detail=f"{what} {answer.command_id} {answer.sequence or ''} {origin.surface}".strip(),
        )

    # --- retention -------------------------------------------------------------------------------

    async def _purge(self) -> None:
        while True:
            await self.purge_due()
            for id in tuple(self._keys.leftover):
                with contextlib.suppress(LogError):
                    await self._keys.destroy(id)
            await asyncio.sleep(PURGE_SECONDS)

    async def purge_due(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> int:
        """Purge the deleted tenants whose retention is over; how many were."""
        settings = self._projection.installation_settings()
        count = 0
        for id, deleted_at in self._projection.deleted().items():
            if deleted_at and purge_due(settings, deleted_at) <= now():
                answer = await self.execute(PurgeTenant(id=id), RETENTION, Origin("retention"))
                count += answer.accepted
        return count
