"""Listens for the admin API inside the control process's event loop.

    AdminServer(backend, installation).start() → where it listens
    .stop()

uvicorn with its HTTP parser in plain Python (h11): the strictest one, and fast enough here. What
uvicorn leaves open is closed in `Connection`: how many there may be, in all and of one address, and
how long the header of a request may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from admin.api.app import build
from admin.api.backend import Backend
from admin.api.limits import (
    CONNECTIONS_MAX,
    CONNECTIONS_PER_ADDRESS_MAX,
    HEADER_BYTES_MAX,
    HEADER_SECONDS,
    KEEP_ALIVE_SECONDS,
)
from admin.cli.failure import Failure
from admin.listen_port import is_loopback, split_address
from events.installation import OFF, Installation
from wire.tasks import spawn

log = logging.getLogger("tenantry.api")

BACKLOG: Final = 128
# What requests under way get when we stop.
STOP_SECONDS: Final = 2
_BAD_BODY: Final = (
    b'{"type":"urn:tenantry:problem:malformed","title":"The request cannot be read","status":400,'
    b'"detail":"this is no HTTP","instance":"","code":"malformed","errors":[]}'
)
_BAD_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_BAD_BODY), _BAD_BODY)
)


class AdminServer:
    """Serves `backend` as `installation` says. Start it once."""

    def __init__(self, backend: Backend, installation: Installation) -> None:
        self.host = ""
        self.port = 0
        self._backend = backend
        self._installation = installation
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        scheme = "https" if self._installation.admin.cert_path else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises Failure when that cannot be, or must not."""
        installation = self._installation
        check_secure(installation)
        listening = _listen(installation.admin_address)
        try:
            # Describing all endpoints takes a while.
            config = await asyncio.to_thread(self._config, installation)
        except (OSError, ssl.SSLError) as error:
            listening.close()
            raise Failure(f"The admin API has no usable certificate: {error}.") from None
        self.host, self.port = listening.getsockname()[:2]
        server = self._server = _Server(config)
        try:
            await self._serve(server, listening)
        except BaseException:
            await self.stop()
            raise

    async def _serve(self, server: _Server, listening: socket.socket) -> None:
        serving = self._serving = spawn(server.serve(sockets=[listening]), name="admin API")
        listens = spawn(server.ready.wait(), name="admin API starts")
        await asyncio.wait({serving, listens}, return_when=asyncio.FIRST_COMPLETED)
        listens.cancel()
        if serving.done():
            await serving  # says why

    def _config(self, installation: Installation) -> uvicorn.Config:
        admin = installation.admin
        # It has nothing to say that the gate does not answer already.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        config = uvicorn.Config(
            build(self._backend, names=admin.hosts),
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            h11_max_incomplete_event_size=HEADER_BYTES_MAX,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
            ssl_certfile=admin.cert_path or None,
            ssl_keyfile=admin.key_path or None,
            ssl_ca_certs=admin.ca_path or None,
            ssl_cert_reqs=ssl.CERT_OPTIONAL if admin.ca_path else ssl.CERT_NONE,
        )
        config.load()
        if isinstance(config.ssl, ssl.SSLContext):
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        return config

    async def stop(self) -> None:
        """Stop listening, let requests under way end, for STOP_SECONDS. Twice does no harm."""
        server, serving = self._server, self._serving
        self._server = self._serving = None
        self._backend.closing.set()
        if server is not None and serving is not None:
            server.leave()
            with contextlib.suppress(Exception):
                await serving


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._leaving = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    def leave(self) -> None:
        """Stop listening, and end."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        """Once a second the Date header changes; otherwise there is nothing to do."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._leaving.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the supervisor's."""
        yield


def check_secure(installation: Installation) -> None:
    """Raises Failure when the address would let strangers in, or show them tokens."""
    host, _ = split_address(installation.admin_address)
    admin = installation.admin
    if installation.admin_allow_insecure:
        where = "everybody on this machine" if is_loopback(host) else "EVERYBODY WHO REACHES IT"
        log.warning(
            "admin_allow_insecure is on: the admin API on %s lets %s change everything, "
            "without any token",
            installation.admin_address,
            where,
        )
        return
    if is_loopback(host) or admin.cert_path:
        return
    if admin.allow_plaintext:
        log.warning("the admin API on %s takes tokens in clear text", installation.admin_address)
        return
    raise Failure(
        f"The admin API does not listen on {installation.admin_address}: tokens would cross the "
        "network in clear text. Use a loopback address, or give [admin] a cert_path and key_path, "
        "or set [admin] allow_plaintext = true when something before it speaks TLS."
    )


def _listen(address: str) -> socket.socket:
    assert address != OFF, "nothing listens when the API is off"
    host, port = split_address(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(where)
            made.setblocking(False)
            return made
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise Failure(
            f"The admin API cannot listen on {address} ({error.strerror or error}): choose another "
            'admin_address, or "off".'
        ) from None


class Connection(H11Protocol):
    """A connection that may not wait for ever, and one of a bounded number."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        same = sum(
            each.client is not None and each.client[0] == address
            for each in self.connections
            if isinstance(each, Connection)
        )
        if len(self.connections) > CONNECTIONS_MAX or same > CONNECTIONS_PER_ADDRESS_MAX:
            transport.abort()
            return
        self.app_state = {
            **self.app_state,
            "certificate": _common_name(transport),
            "abort": transport.abort,
        }
        self._wait_for_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._waiting is None:
            # A header, or a body that nobody reads, byte by byte.
            self._wait_for_header()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        self.transport.write(_BAD_REQUEST)
        self.transport.close()

    def _wait_for_header(self) -> None:
        self._waiting = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def _common_name(transport: asyncio.Transport) -> str:
    """Of the client's certificate, which was verified; "" without one."""
    certificate = transport.get_extra_info("peercert")
    subject = certificate.get("subject", ()) if certificate else ()
    names = [value for part in subject for name, value in part if name == "commonName"]
    return names[0] if len(names) == 1 else ""
