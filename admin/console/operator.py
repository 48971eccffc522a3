"""Answers the SQL console: asks all workers, reads the configuration, does what may be done.

    SHOW POOLS ─▶ OperatorConsole ─▶ NodeConsole (this worker)
                        └──────────▶ Caller ─NATS─▶ the NodeConsoles of all others
    DISABLE … ────▶ CommandClient ─NATS─▶ control: stored, for ever
    PAUSE … ──────▶ as SHOW: for minutes, not stored

While NATS is away SHOW tells of this worker alone, and says so. An act is then done here, and
answered with an error, for it has not reached the others: done again when NATS is back, it does.
DISABLE, ENABLE and RELOAD, which others carry out, fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Final

from admin.console.calls import (
    RELOAD_SECONDS,
    SECONDS,
    SUPERVISOR,
    TOKEN_SECONDS,
    Call,
    Caller,
    Gathered,
    Row,
)
from admin.console.node import NodeConsole
from admin.console.shows import Shows
from events.audit_sink import COMMAND, FAILED, OK, OVERRIDE, REFUSED, AuditSink
from events.bus_client import CommandClient
from events.commands_model import Command, DisableTenant, EnableTenant
from events.log import ConfigLog
from events.model import TENANT_ID
from events.operators import Role
from events.projection import Projection
from events.stream import LogError
from events.tokens import TokenSigner
from wire import errors as e
from wire.ports import OperatorLogin
from wire.postgres.console import Answer, ConsolePort, ConsoleSession, columns_for
from wire.postgres.console_tables import HELP, TEXT
from wire.postgres.console_words import ACTS, Statement

if TYPE_CHECKING:
    from wire.postgres.client import ClientConnection

POLL_SECONDS: Final = 0.05
# How often PAUSE and WAIT_CLOSE look, once they have waited for a second: it takes as long as
# clients keep servers, which for session pooling is until they leave.
LOOK_SECONDS: Final = 0.5
# How often they tell how many are left.
TELL_SECONDS: Final = 5.0
# How long DISABLE and ENABLE wait until this worker has seen what they stored.
APPLY_SECONDS: Final = 2.0


class OperatorConsole(ConsolePort):
    """The console of one worker."""

    def __init__(
        self,
        here: NodeConsole,
        caller: Caller,
        shows: Shows,
        log: ConfigLog,
        projection: Projection,
        signer: TokenSigner,
        audit: AuditSink,
    ) -> None:
        self._here = here
        self._caller = caller
        self._shows = shows
        self._log = log
        self._projection = projection
        self._signer = signer
        self._audit = audit

    def version(self) -> str:
        return version()

    async def answer(
        self, who: OperatorLogin, statement: Statement, client: ClientConnection
    ) -> Answer:
        """Raises TenantryError."""
        if statement.verb in ACTS:
            return await self._noted(who, statement, client)
        if statement.verb != "show":
            raise e.SyntaxRefused("invalid command, use SHOW HELP;")
        if statement.thing == "help":
            return Answer("SHOW", notices=[f"Console usage\n{HELP}"])
        columns = columns_for(statement)
        assert columns is not None
        if statement.name and not who.may(statement.name):
            raise _not_his(who, statement.name)
        notices: list[str] = []

        async def ask(call: Call) -> list[Row]:
            found, told = await self.everywhere(call, who)
            notices.extend(each for each in told if each not in notices)
            return found

        rows = await self._shows.rows(statement, who, ask)
        empty = [(column.name, "" if column.oid == TEXT else 0) for column in columns]
        return Answer(
            "SHOW", columns, [[row.get(*each) for each in empty] for row in rows], notices
        )

    # --- all workers -----------------------------------------------------------------------------

    async def everywhere(self, call: Call, who: OperatorLogin) -> tuple[list[Row], list[str]]:
        """The rows of all workers, and what is to be said about those that have not answered."""
        rows = await self._here.do(call)
        others, told = await self._others(call, who)
        return rows + others.rows, told

    async def _others(self, call: Call, who: OperatorLogin) -> tuple[Gathered, list[str]]:
        try:
            role: Role = "operator" if who.role == "operator" else "viewer"
            others = await self._caller.ask(call, who.name, role, seconds=SECONDS)
        except e.ServerUnavailable as error:
            return Gathered(missing=["others"]), [f"this worker alone: {error.message}"]
        missing = [f"{each} has not answered" for each in others.missing]
        return others, missing + others.errors

    # --- acts ------------------------------------------------------------------------------------

    async def _noted(
        self, who: OperatorLogin, statement: Statement, client: ClientConnection
    ) -> Answer:
        """Do it, and tell the audit that it was, or why not."""
        what = f"{statement.verb.upper()} {statement.name}".strip()
        stored = statement.verb in ("disable", "enable")
        error: e.TenantryError | None = None
        try:
            self._check(who, statement)
            return await self._act(who, statement, client)
        except e.TenantryError as refusal:
            error = refusal
            raise
        finally:
            # What is stored is told by the one who stores it.
            if error is not None or not stored:
                known = TENANT_ID.fullmatch(statement.name) is not None
                self._audit.note(
                    COMMAND if statement.verb in ("reload", "shutdown") else OVERRIDE,
                    statement.name if known and statement.verb != "kill_client" else "",
                    actor=who.name,
                    address=client.address,
                    outcome=OK
                    if error is None
                    else REFUSED
                    if isinstance(error, e.Forbidden)
                    else FAILED,
                    reason="" if error is None else type(error).__name__,
                    sqlstate="" if error is None else error.sqlstate,
                    detail=f"{what} console",
                )

    def _check(self, who: OperatorLogin, statement: Statement) -> None:
        if who.role != "operator":
            raise e.Forbidden("the role viewer may only SHOW", hint="See `tenantry operators put`.")
        if statement.verb == "shutdown":
            raise e.NotSupported(
                "Tenantry is not shut down from the console",
                hint="Send SIGTERM to its supervisor, or use `tenantry drain` on its machine.",
            )
        if statement.verb == "suspend":
            raise e.NotSupported(
                "Tenantry hands its sockets to no other process: there is nothing to suspend for",
                hint="PAUSE holds clients while servers are changed.",
            )
        if statement.verb == "kill_client":
            return
        if statement.verb == "reload" or not statement.name:
            if who.tenants is not None:
                raise e.Forbidden(
                    f"operator {who.name} may not do that to all tenants",
                    hint="Name one of: " + ", ".join(sorted(who.tenants)),
                )
            return
        if not who.may(statement.name):
            raise _not_his(who, statement.name)
        if self._projection.tenant(statement.name) is None:
            raise UnknownTenant(statement.name)

    async def _act(
        self, who: OperatorLogin, statement: Statement, client: ClientConnection
    ) -> Answer:
        verb, name = statement.verb, statement.name
        if verb in ("disable", "enable"):
            kind = DisableTenant if verb == "disable" else EnableTenant
            await self._command(who, kind(id=name))
            return Answer(verb.upper())
        if verb == "reload":
            return await self._reload(who)
        if verb == "kill_client":
            return await self._kill_client(who, name)
        if verb == "wait_close":
            await self._settled(who, name, client, ("sv_closing",))
            return Answer("WAIT_CLOSE")
        done, told = await self.everywhere(Call(verb, tenant=name), who)
        if told:
            raise e.ServerUnavailable(
                f"{verb.upper()} has not reached all workers", detail="; ".join(told)
            )
        notices: list[str] = []
        if verb == "resume" and not any(row["changed"] for row in done):
            notices.append(f"{f'tenant {name}' if name else 'nothing'} was not paused")
        if verb == "pause":
            try:
                await self._settled(who, name, client, ("sv_active", "sv_login"))
            except e.QueryCancelled:
                # As in PgBouncer: who gives up waiting wants everything to go on.
                await self.everywhere(Call("resume", tenant=name), who)
                raise
        return Answer(verb.upper(), notices=notices)

    async def _settled(
        self, who: OperatorLogin, tenant: str, client: ClientConnection, counts: Sequence[str]
    ) -> None:
        """Wait until all workers have none of `counts` left, and tell of it meanwhile. Others may
        look and RESUME from another connection. Raises QueryCancelled, ConnectionResetError."""
        session = client.startup
        assert isinstance(session, ConsoleSession)
        loop = asyncio.get_running_loop()
        start = told_at = loop.time()
        while True:
            rows, told = await self.everywhere(Call("look", tenant=tenant), who)
            left = sum(
                row.get(count, 0)
                for row in rows
                for count in counts
                if tenant or not row["tenant"].startswith("@")
            )
            if not left and not told:
                return
            if counts != ("sv_closing",) and not await self._is_paused(who, tenant):
                raise Resumed()
            now = loop.time()
            if now - told_at >= TELL_SECONDS:
                told_at = now
                session.tell("; ".join([*_left(left), *told]))
            if session.gone or client.closed:
                raise ConnectionResetError
            if session.cancelled:
                raise e.QueryCancelled()
            await asyncio.sleep(POLL_SECONDS if now - start < 1.0 else LOOK_SECONDS)

    async def _is_paused(self, who: OperatorLogin, tenant: str) -> bool:
        """Whether this worker still holds: somebody else may have said RESUME."""
        (state,) = await self._here.do(Call("state"))
        return bool(state["paused_all"] or (tenant and tenant in state["paused"]))

    async def _kill_client(self, who: OperatorLogin, text: str) -> Answer:
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise e.SyntaxRefused("invalid client id", hint="SHOW CLIENTS has the ids.")
        id = int(text)
        if who.tenants is not None:
            rows, _ = await self.everywhere(Call("look", sockets=True), who)
            found = [each for row in rows for each in row["client_rows"] if each["id"] == id]
            if not found or not who.may(found[0]["tenant"]):
                raise ClientNotFound()
        done, told = await self.everywhere(Call("kill_client", id=id), who)
        if not done:
            raise ClientNotFound(detail="; ".join(told))
        return Answer("KILL_CLIENT")

    async def _reload(self, who: OperatorLogin) -> Answer:
        found = await self._caller.ask(
            Call("reload", to=SUPERVISOR), who.name, seconds=RELOAD_SECONDS
        )
        wrong = [row["error"] for row in found.rows if row["error"]] + found.errors
        if wrong or not found.answered:
            detail = "; ".join(wrong) or "no supervisor has answered"
            raise NotReloaded("RELOAD failed", detail=detail)
        return Answer("RELOAD")

    async def _command(self, who: OperatorLogin, command: Command) -> None:
        token, _ = self._signer.make(who.name, "operator", seconds=TOKEN_SECONDS)
        try:
            answer = await CommandClient(self._log, token).send(command)
        except LogError as error:
            raise e.ServerUnavailable(str(error)) from None
        if not answer["accepted"]:
            mistakes = "; ".join(str(each.get("message", "")) for each in answer["mistakes"])
            raise e.Forbidden(mistakes or str(answer["code"]))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + APPLY_SECONDS
        seen = self._projection
        # It tells its subscribers of each change; for a command of a person, looking is enough.
        while seen.position < answer["sequence"] and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)


def version() -> str:
    """Of Tenantry."""
    try:
        return metadata.version("tenantry")
    except metadata.PackageNotFoundError:
        return "0"


def _left(count: int) -> Sequence[str]:
    if not count:
        return []
    return [f"waiting for {count} servers that clients keep"]


class UnknownTenant(e.TenantryError):
    sqlstate = "3D000"
    http_status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"no such tenant: {name[:63]}", hint="SHOW TENANTS lists them.")


class Resumed(e.TenantryError):
    sqlstate = "57014"
    http_status = 409

    def __init__(self) -> None:
        super().__init__("the pause ended before all servers were free: somebody else resumed")


class ClientNotFound(e.TenantryError):
    sqlstate = "42704"
    http_status = 404

    def __init__(self, detail: str = "") -> None:
        super().__init__("client not found", hint="SHOW CLIENTS has the ids.", detail=detail)


class NotReloaded(e.TenantryError):
    sqlstate = "F0000"  # config_file_error, as PgBouncer answers
    http_status = 400


def _not_his(who: OperatorLogin, tenant: str) -> e.Forbidden:
    return e.Forbidden(f'operator {who.name} has no tenant "{tenant[:63]}"')
