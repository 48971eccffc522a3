"""A client's login, from its first packet to ReadyForQuery: TLS, who it is, proof, first settings.

Nothing here is on the path of a query: it is a coroutine that reads one message after the other.
Whatever is wrong with the name, the tenant or the password, the answer is the same.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from events.spans import ABOUT, About
from wire import errors as e
from wire.identify import parse_options
from wire.ports import OperatorLogin
from wire.postgres import noting
from wire.postgres import protocol as p
from wire.postgres.cancel import CancelKeys
from wire.postgres.operate import Operator
from wire.postgres.scram import ScramServer
from wire.postgres.session import EMPTY, GUC_PREFIX, Session
from wire.postgres.tls import is_direct_tls

if TYPE_CHECKING:
    from wire.postgres.client import ClientConnection

log = logging.getLogger("tenantry.login")

SASL: Final = 10
SASL_CONTINUE: Final = 11
SASL_FINAL: Final = 12

# A client that sets this, to whatever value, has its literals looked at (see client.escapes).
CONFORMING: Final = "standard_conforming_strings"
NEWEST_MINOR: Final = 2
# Startup parameters that are not settings.
NOT_SETTINGS: Final = frozenset(("user", "database", "options", "replication"))
# What begins so asks for extensions of the protocol.
EXTENSION: Final = "_pq_."
# Settings that a client may send; PostgreSQL itself has fewer than 400.
MAX_SETTINGS: Final = 100
# Bytes a client may send ahead of the answer before it is known.
MAX_AHEAD: Final = p.MAX_STARTUP_BYTES + p.MAX_LOGIN_MESSAGE_BYTES


class Startup:
    """The login of one client."""

    def __init__(self, client: ClientConnection) -> None:
        self.client = client
        self.listener = client.listener
        self.buffer = b""
        self.waiter: asyncio.Future[None] | None = None
        self.gone = False
        # Somebody asked to stop what runs; only the console has something that waits.
        self.cancelled = False
        self.minor = 0
        # Who has proven to be an operator, and wants the console.
        self.at_console: OperatorLogin | None = None

    # --- what the connection tells us ------------------------------------------------------------

    def received(self, data: bytes) -> None:
        tls = self.client.tls
        if tls is not None:
            try:
                data, answer = tls.received(data)
            except e.TenantryError:
                self.client.transport.write(tls.alert())
                raise
            if answer:
                self.client.transport.write(answer)
        self.buffer += data
        if len(self.buffer) > MAX_AHEAD:
            self.client.transport.pause_reading()
        self.wake()

    def lost(self) -> None:
        self.gone = True
        self.wake()

    def at_rest(self) -> bool:
        """Whether the connection may be closed without breaking anything."""
        return False

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def wait(self) -> None:
        if self.gone:
            raise ConnectionResetError
        self.waiter = asyncio.get_running_loop().create_future()
        await self.waiter
        self.waiter = None
        if self.gone:
            raise ConnectionResetError

    async def read(self, size: int) -> bytes:
        while len(self.buffer) < size:
            await self.wait()
        taken = self.buffer[:size]
        self.buffer = self.buffer[size:]
        return taken

    def send(self, data: bytes) -> None:
        tls = self.client.tls
        self.client.transport.write(data if tls is None else tls.send(data))

    # --- the steps -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Log the client in, or tell it why not and close."""
        try:
            async with asyncio.timeout(self.listener.auth_seconds):
                await self.login()
            if self.at_console is not None:
                # Others do not need it, and it needs this module.
                from wire.postgres.console import ConsoleSession

                assert self.listener.console is not None
                await ConsoleSession(self, self.at_console, self.listener.console).run()
            return
        except ConnectionResetError:
            return
        except TimeoutError:
            log.info("login timed out")
            self.client.end(None)
        except e.TenantryError as error:
            self.refuse(error)
        except Exception:
            log.exception("login failed")
            self.refuse(e.TenantryError("internal error during login"))

    def refuse(self, error: e.TenantryError) -> None:
        """Say why, unless a broken handshake leaves no way to say it, and close."""
        noting.login_refused(self.client, error)
        tls = self.client.tls
        self.client.end(error if tls is None or tls.handshake_done else None)

    async def login(self) -> None:
        packet = await self.first_packet()
        if packet is None:
            self.client.end(None)
            return
        version = int.from_bytes(packet[:4], "big")
        if version >> 16 != 3:
            raise e.ProtocolViolation(
                f"unsupported frontend protocol {version >> 16}.{version & 0xFFFF}: "
                "server supports 3.0 to 3.2"
            )
        parameters = p.pairs(packet[4:])
        self.negotiate(version & 0xFFFF, parameters)
        user = parameters.get("user", "")
        if not user:
            raise e.ProtocolViolation("no PostgreSQL user name specified in startup packet")
        if parameters.get("replication", "false").lower() not in ("false", "off", "no", "0"):
            raise e.NotSupported("replication connections are not supported")
        if self.listener.tls is not None and self.listener.tls_required and self.client.tls is None:
            raise e.ProtocolViolation("this server requires TLS")
        database = parameters.get("database", user)
        settings = startup_settings(parameters, self.listener.tenant_option)
        tenant = await self.authenticate(user, database, parameters)
        client = self.client
        if self.at_console is not None:
            noting.logged_in(client)
            return
        # Of this login's task: what is logged from here on is about the tenant.
        ABOUT.set(About(tenant))
        client.tenant = tenant
        client.lease = await self.listener.tenants.open(
            # libpq sends the user's name when no database is named.
            client,
            tenant,
            "" if database == user else database,
        )
        client.meter = client.lease.meter
        tracing = self.listener.meter.tracing
        if tracing is not None:
            tracing.opened(client)
        noting.logged_in(client)
        self.send(p.AUTHENTICATION_OK)
        await self.first_server(settings)
        self.welcome()

    async def first_packet(self) -> bytes | None:
        """The startup packet after whatever TLS comes first; None for a cancel request."""
        while True:
            head = await self.read(1)
            if is_direct_tls(head) and self.client.tls is None and self.listener.tls is not None:
                self.client.tls = self.listener.tls.direct()
                ahead, self.buffer = head + self.buffer, b""
                self.received(ahead)
                continue
            size = int.from_bytes(head + await self.read(3), "big")
            if not 8 <= size <= p.MAX_STARTUP_BYTES:
                raise e.ProtocolViolation("invalid length of startup packet")
            packet = await self.read(size - 4)
            code = int.from_bytes(packet[:4], "big")
            if code == p.CANCEL_REQUEST:
                if size >= 13:
                    self.listener.cancel(int.from_bytes(packet[4:8], "big"), packet[8:])
                return None
            if code == p.SSL_REQUEST and size == 8 and self.client.tls is None:
                self.start_tls()
            elif code == p.GSSENC_REQUEST and size == 8:
                self.client.transport.write(b"N")
            else:
                return packet

    def start_tls(self) -> None:
        tls = self.listener.tls
        if tls is None:
            self.client.transport.write(b"N")
            return
        endpoint = tls.upgrade(self.buffer)
        self.client.transport.write(b"S")
        self.client.tls = endpoint

    def negotiate(self, minor: int, parameters: dict[str, str]) -> None:
        """Tell a client that asks for more than we know what we know instead."""
        unknown = [name for name in parameters if name.startswith(EXTENSION)]
        for name in unknown:
            del parameters[name]
        self.minor = min(minor, NEWEST_MINOR)
        if minor == 1:
            self.minor = 0
        if self.minor != minor or unknown:
            body = ((3 << 16) | self.minor).to_bytes(4, "big") + len(unknown).to_bytes(4, "big")
            body += b"".join(name.encode() + b"\0" for name in unknown)
            self.send(p.message(p.NEGOTIATE, body))

    async def authenticate(self, user: str, database: str, parameters: dict[str, str]) -> str:
        """Prove that the client is whom it names; its tenant. Raises AuthenticationFailed."""
        listener = self.listener
        options = dict(parameters)
        if "options" in parameters:
            options.update(parse_options(parameters["options"]))
        identity = listener.identifier.identify(user, database, options)
        verifier = None
        peer = self.client.transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else ""
        self.client.address = address
        operator: OperatorLogin | None = None
        if identity is not None:
            verifier = listener.tenants.verifier(identity.tenant, identity.user, address)
        if verifier is None:
            operator = listener.tenants.operator(user, database, address)
            if operator is not None:
                verifier = operator.verifier
        tls = self.client.tls
        scram = ScramServer(
            verifier,
            user=user,
            mock_secret=listener.mock_secret,
            channel_binding=tls.server_end_point() if tls is not None else None,
            tls=tls is not None,
            mock_name=f"{user}@{database}"
            if identity is None
            else f"{identity.tenant}.{identity.user}",
        )
        names = b"".join(name.encode() + b"\0" for name in scram.mechanisms()) + b"\0"
        self.send(p.message(p.AUTHENTICATION, SASL.to_bytes(4, "big") + names))
        body = await self.password_message()
        mechanism, zero, rest = body.partition(b"\0")
        if not zero or len(rest) < 4 or int.from_bytes(rest[:4], "big") != len(rest) - 4:
            raise e.ProtocolViolation("malformed SASL message")
        first = scram.first(rest[4:], mechanism.decode("ascii", "replace"))
        self.send(p.message(p.AUTHENTICATION, SASL_CONTINUE.to_bytes(4, "big") + first))
        try:
            final = scram.final(await self.password_message())
        except e.AuthenticationFailed:
            if identity is None:
                listener.tenants.refused("", user, address)
            else:
                listener.tenants.refused(identity.tenant, identity.user, address)
            raise
        self.send(p.message(p.AUTHENTICATION, SASL_FINAL.to_bytes(4, "big") + final))
        if operator is not None:
            self.client.operator = Operator(operator.name, operator.tenants, operator.tenant)
            self.client.user = operator.name
            if operator.console:
                self.at_console = operator
                return ""
            return operator.tenant
        assert identity is not None, "a user that no tenant has cannot be proven"
        self.client.user = identity.user
        return identity.tenant

    async def password_message(self) -> bytes:
        head = await self.read(5)
        p.legal(p.FRONTEND, p.LOGIN, head[0])
        length = int.from_bytes(head[1:5], "big")
        if not 4 <= length <= p.MAX_LOGIN_MESSAGE_BYTES:
            raise e.ProtocolViolation("invalid length of password message")
        return await self.read(length - 4)

    # --- the session's first settings -------------------------------------------------------------

    async def first_server(self, settings: dict[str, str]) -> None:
        """Learn what a server reports under the client's settings.

        In session pooling that server stays the client's; it was opened with these settings in its
        own startup packet, so that RESET means to it what it means to the client.
        """
        client = self.client
        lease = client.lease
        client.session_mode = lease.session_mode
        client.escapes = any(name.lower() == CONFORMING for name in settings)
        if client.session_mode:
            # Judged here too; the server gets them as they are.
            self.settings_state(settings)
            client.startup_settings = settings
        else:
            known = lease.welcomes.get(settings_key(settings))
            state = self.settings_state(settings) if known is None else known.state
            client.session = Session(state)
            if known is not None:
                client.parameters = known.parameters
                return
        client.paid = True
        client.attach()
        while client.blocked:
            await self.wait()
        if client.pending is not None:
            error, client.pending = client.pending, None
            raise error
        client.paid = False
        if not client.session_mode:
            lease.remember_welcome(settings_key(settings), client.session.state, client.parameters)
            if client.server is not None:
                client.server_idle(client.server)

    def settings_state(self, settings: dict[str, str]) -> dict[str, bytes]:
        """Settings of the startup packet as session state, judged like any SET."""
        lease = self.client.lease
        if not settings:
            return lease.settings or EMPTY
        guard = lease.guard
        state = dict(lease.settings)
        for name, value in settings.items():
            sql = set_statement(name, value)
            verdict = guard.judge(sql) or guard.learn(sql)
            if verdict.refusal is not None:
                raise e.InvalidParameter(verdict.refusal.message, hint=verdict.refusal.hint)
            state[GUC_PREFIX + name.lower()] = sql
        return state

    def welcome(self) -> None:
        client = self.client
        keys: CancelKeys = self.listener.keys
        server = client.server
        client.process_id, client.key = keys.issue(
            client,
            long=self.minor >= NEWEST_MINOR,
            process_id=server.target.process_id if server is not None else 0,
        )
        said = [p.parameter_status(name, value) for name, value in client.parameters.items()]
        said.append(p.message(p.BACKEND_KEY, client.process_id.to_bytes(4, "big") + client.key))
        said.append(p.READY_IDLE)
        self.send(b"".join(said))
        client.startup = None
        client.phase = p.ACTIVE
        self.listener.logged_in(client)
        client.transport.resume_reading()
        if self.buffer:
            ahead, self.buffer = self.buffer, b""
            client.process_safely(ahead)


def startup_settings(parameters: dict[str, str], tenant_option: str) -> dict[str, str]:
    """The settings among startup parameters, those of `options` first, as PostgreSQL takes them."""
    settings: dict[str, str] = {}
    if "options" in parameters:
        settings.update(parse_options(parameters["options"]))
    for name in settings:
        # In a startup packet to a server it would say who logs in, and where.
        if name.lower() in NOT_SETTINGS or name.startswith(EXTENSION):
            raise e.InvalidParameter(f'unrecognized configuration parameter "{name}"')
    for name, value in parameters.items():
        if name not in NOT_SETTINGS:
            settings[name] = value
    settings.pop(tenant_option, None)
    if len(settings) > MAX_SETTINGS:
        raise e.InvalidParameter(f"more than {MAX_SETTINGS} settings in the startup packet")
    return settings


def settings_key(settings: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(settings.items()))


def set_statement(name: str, value: str) -> bytes:
    """SET with the name and the value quoted so that neither can be anything else."""
    quoted_name = ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))
    quoted_value = "'" + value.replace("'", "''") + "'"
    if name.lower() in LIST_SETTINGS:
        return f"SELECT pg_catalog.set_config('{name.lower()}', {quoted_value}, false)".encode()
    return f"SET {quoted_name} TO {quoted_value}".encode()


# Settings whose value is a list of names: quoted as one string it would be one name.
LIST_SETTINGS: Final = frozenset(("search_path", "temp_tablespaces", "session_preload_libraries"))
