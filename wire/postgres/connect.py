"""Opening a server connection: TCP, TLS, login, until the server is ready for its first query."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from typing import Final, cast

from wire import errors as e
from wire.ports import Pool
from wire.postgres import protocol as p
from wire.postgres.auth import ServerLogin
from wire.postgres.cancel import CancelTarget
from wire.postgres.reported import UNSAFE_ENCODINGS, share
from wire.postgres.server import ServerConnection
from wire.postgres.tls import TlsEndpoint
from wire.postgres.tls_setup import NodeTls

log = logging.getLogger("tenantry.connect")

CONNECT_SECONDS: Final = 15.0
# Everything a server may send during login: parameters, a key, notices.
MAX_LOGIN_BYTES: Final = 256 * 1024
# A role may change its own defaults (ALTER ROLE … SET inside a function); what the startup packet
# says counts for more. Without it the server could read a statement otherwise than the guard did.
READ_AS_JUDGED: Final = {"standard_conforming_strings": "on"}


class Target:
    """Where a pool's servers are, and as whom they log in."""

    def __init__(
        self,
        host: str,
        port: int,
        database: str,
        user: str,
        password: str,
        tls: NodeTls | None,
        *,
        sealed: bool = False,
    ) -> None:
        self.host = host
        self.port = port
        self.database = database
        self.user = user
        self.password = password
        self.tls = tls
        # Tenants share these servers: each is asked for what names its process in a token.
        self.sealed = sealed

    def same(self, other: Target) -> bool:
        return self._place() == other._place()

    def _place(self) -> tuple[object, ...]:
        return self.host, self.port, self.database, self.user, self.password, self.sealed


class _Login:
    """The protocol of the connection until login is over."""

    def __init__(self) -> None:
        self.buffer = b""
        self.received_bytes = 0
        self.tls: TlsEndpoint | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.lost = False
        self.error: e.TenantryError | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        try:
            if self.received_bytes > MAX_LOGIN_BYTES:
                raise e.ServerUnavailable("the PostgreSQL server sends too much during login")
            if self.tls is not None:
                data, answer = self.tls.received(data)
                if answer and self.transport is not None:
                    self.transport.write(answer)
        except e.TenantryError as error:
            self.error = error
        else:
            self.buffer += data
        self.wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.wake()

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def wait(self) -> None:
        if self.error is not None:
            raise self.error
        if self.lost:
            raise e.ServerUnavailable("the PostgreSQL server closed the connection during login")
        self.waiter = asyncio.get_running_loop().create_future()
        await self.waiter
        if self.error is not None:
            raise self.error

    async def read(self, size: int) -> bytes:
        while len(self.buffer) < size:
            await self.wait()
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data if self.tls is None else self.tls.send(data))


async def connect(pool: Pool, target: Target, settings: dict[str, str]) -> ServerConnection:
    """A server connection that is ready. `settings` go into its startup packet.

    Raises ServerUnavailable when there is none to be had, InvalidParameter when the server
    refuses a setting.
    """
    login = _Login()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            factory = cast("Callable[[], asyncio.Protocol]", lambda: login)
            await asyncio.get_running_loop().create_connection(factory, target.host, target.port)
            return await _log_in(pool, login, target, settings)
    except OSError as error:
        log.warning("cannot reach PostgreSQL at %s:%d: %s", target.host, target.port, error)
        raise unavailable() from None
    except TimeoutError:
        log.warning("PostgreSQL at %s:%d does not answer", target.host, target.port)
        raise unavailable() from None
    finally:
        if login.transport is not None:
            login.transport.abort()


def unavailable() -> e.ServerUnavailable:
    return e.ServerUnavailable(
        "no PostgreSQL server is available", hint="Try again; if it lasts, tell your operator."
    )


async def _log_in(
    pool: Pool, login: _Login, target: Target, settings: dict[str, str]
) -> ServerConnection:
    if target.tls is not None:
        login.send(p.SSL_REQUEST_PACKET)
        answer = await login.read(1)
        endpoint = target.tls.answered(answer + login.buffer)
        if endpoint is not None:
            login.tls = endpoint
            assert login.transport is not None
            login.transport.write(endpoint.start())
            while not endpoint.handshake_done:
                await login.wait()
    named = {"user": target.user, "database": target.database}
    # Who logs in and where no setting may say.
    login.send(p.startup_message(READ_AS_JUDGED | settings | named))
    proof = ServerLogin(
        target.user,
        target.password,
        login.tls.server_end_point() if login.tls is not None else None,
        login.tls is not None or is_loopback(target.host),
    )
    parameters: dict[str, str] = {}
    process_id, key = 0, b""
    while True:
        head = await login.read(5)
        kind, length = head[0], int.from_bytes(head[1:5], "big")
        if not 4 <= length <= MAX_LOGIN_BYTES:
            raise e.ServerUnavailable("the PostgreSQL server broke the login protocol")
        body = await login.read(length - 4)
        p.legal(p.BACKEND, p.LOGIN, kind)
        if kind == p.AUTHENTICATION:
            answer_body = proof.feed(body)
            if answer_body is not None:
                login.send(p.message(p.PASSWORD, answer_body))
        elif kind == p.PARAMETER_STATUS:
            name, _, value = body.rstrip(b"\0").partition(b"\0")
            parameters[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        elif kind == p.BACKEND_KEY:
            process_id, key = int.from_bytes(body[:4], "big"), body[4:]
        elif kind == p.ERROR:
            raise refused(p.error_fields(body), target, settings)
        elif kind == p.READY:
            if not proof.done:
                raise e.ServerUnavailable("the PostgreSQL server broke the login protocol")
            if parameters.get("client_encoding") in UNSAFE_ENCODINGS:
                raise e.NotSupported(
                    f"client_encoding {parameters['client_encoding']} is not supported",
                    hint="It is the default of the role: ALTER ROLE … RESET client_encoding.",
                )
            cancel = CancelTarget(
                target.host,
                target.port,
                process_id,
                key,
                target.tls.context if login.tls is not None and target.tls is not None else None,
            )
            backend = await _ask_backend(login, target) if target.sealed else ""
            return hand_over(pool, login, cancel, parameters, settings, backend)


async def _ask_backend(login: _Login, target: Target) -> str:
    """What `tenantry.backend` says of the server's process. Raises ServerUnavailable."""
    login.send(p.query(b"SELECT tenantry.backend()"))
    found = ""
    while True:
        head = await login.read(5)
        kind, length = head[0], int.from_bytes(head[1:5], "big")
        if not 4 <= length <= MAX_LOGIN_BYTES:
            raise e.ServerUnavailable("the PostgreSQL server broke the login protocol")
        body = await login.read(length - 4)
        if kind == p.ERROR:
            raise refused(p.error_fields(body), target, {})
        if kind == p.DATA_ROW and len(body) > 6:
            found = body[6:].decode("ascii", "replace")
        elif kind == p.READY:
            if not found:
                raise e.ServerUnavailable("the PostgreSQL server does not tell its process")
            return found


def hand_over(
    pool: Pool,
    login: _Login,
    cancel: CancelTarget,
    parameters: dict[str, str],
    settings: dict[str, str],
    backend: str,
) -> ServerConnection:
    """From login to work: the transport gets its lasting protocol."""
    transport = login.transport
    assert transport is not None
    server = ServerConnection(pool, transport, cancel, share(parameters), login.tls)
    server.startup = settings
    server.backend = backend
    transport.set_protocol(cast("asyncio.Protocol", server))
    login.transport = None
    if login.buffer:
        server.data_received(login.buffer)
    return server


def refused(fields: dict[str, str], target: Target, settings: dict[str, str]) -> e.TenantryError:
    """What to say of a server's refusal. Names of roles and databases stay in the log."""
    code = fields.get("C", "")
    log.warning(
        "PostgreSQL at %s:%d refuses %s: %s %s",
        target.host,
        target.port,
        target.user,
        code,
        fields.get("M", ""),
    )
    if code == "53300":
        return e.TooManyConnections("PostgreSQL has no connections left")
    if settings and code[:2] in ("22", "42"):
        return e.InvalidParameter(fields.get("M", ""), detail=fields.get("D", ""))
    return unavailable()


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost") or host.startswith("/")
