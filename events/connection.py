"""One connection to NATS that is never given up, and requests that do not outlive it.

The client library reconnects by itself after most failures, but closes for good when the server
says -ERR (too many connections, say, while everybody reconnects at once); then it is dialled anew.
Users and passwords that an address may carry are never logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from events import nats_login
from events.direct import DirectClient
from events.nats_login import LoginError, SafeClient
from events.stream import ApiError, LogUnavailable

log = logging.getLogger("tenantry.log")

# How long one attempt waits for the server: a cluster elects a leader in about a second.
ATTEMPT_SECONDS = 2.0
# How long something is tried again before its caller is told that the log is away.
PATIENCE_SECONDS = 6.0
# Between two tries.
RETRY_SECONDS = 0.05
# A local server is back within a second; waiting longer between tries only adds to the outage.
RECONNECT_SECONDS = 0.25
# A dead connection that sends no reset is noticed after PING_SECONDS * (PINGS_MISSED_MAX + 1).
PING_SECONDS = 5
PINGS_MISSED_MAX = 2
# A server that answers nothing else within ATTEMPT_SECONDS gets this long for a ping.
PROBE_SECONDS = 1
# A server of a cluster that answers pings and nothing else for longer is cut off from the others.
# An election takes about as long.
CUT_OFF_SECONDS = 2.0

Answer = TypeVar("Answer")


class Connection:
    """`client` is the NATS client; it stays the same object over all reconnects. The addresses say
    how to log in (events.nats_login)."""

    @classmethod
    def to(cls, servers: Sequence[str], name: str = "") -> Connection:
        """Not open yet. Raises LogUnavailable when the addresses cannot be used."""
        try:
            return cls(SafeClient(nats_login.parse(servers)), servers, name)
        except LoginError as error:
            raise LogUnavailable(str(error)) from None

    def __init__(self, client: DirectClient, servers: Sequence[str] = (), name: str = "") -> None:
        self.client = client
        self.login = nats_login.parse(servers)
        self._tls = nats_login.tls_context(self.login)
        self._name = name
        self._closing = False
        # The last that dialling failed for: the library itself only says that it takes too long.
        self._refused = ""
        # Done as soon as the present connection is lost; then another one takes its place.
        self._cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Since when nothing that was asked for could be done; None after anything that could.
        self._failing_since: float | None = None
        self._redial: asyncio.Task[None] | None = None
        self._listeners: set[Callable[[], None]] = set()

    async def open(self, patience: float) -> None:
        """Dial until somebody answers. Raises LogUnavailable after `patience` seconds."""
        try:
            await asyncio.wait_for(self._dial(), patience)
        except (NatsError, OSError, TimeoutError) as error:
            await self.close()
            why = self._refused or repr(error)
            place = redacted(self.login.servers)
            raise LogUnavailable(f"no NATS at {place}: {why}") from error

    async def close(self) -> None:
        self._closing = True
        if self._redial is not None:
            self._redial.cancel()
        # Its last flush may find the connection cut; it is closed all the same.
        with contextlib.suppress(OSError, NatsError):
            await self.client.close()

    @property
    def connected(self) -> bool:
        return self.client.is_connected

    def on_reconnect(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each reconnect; the returned function ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    async def persist(
        self, once: Callable[[float], Awaitable[Answer]], what: str, *, writing: bool
    ) -> Answer:
        """Call once(seconds to wait) until it answers. Raises LogUnavailable after
        PATIENCE_SECONDS, with `unknown` when `writing` may have taken place."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        unknown = False
        reason = "not connected"
        while (left := deadline - time.monotonic()) > 0:
            if not self.connected:
                # Asking now would leave the message in the client's buffer, to be sent whenever
                # the server is back, long after the caller was told that it failed.
                await asyncio.sleep(min(left, RETRY_SECONDS))
                continue
            try:
                answer = await once(min(left, ATTEMPT_SECONDS))
                self._failing_since = None
                return answer
            except NoRespondersError:
                reason = "the stream has no leader"
            except ApiError as error:
                # The server says why it did not do it this time; an earlier time it may have.
                reason = str(error)
            except (NatsError, OSError, TimeoutError) as error:
                unknown = writing
                reason = repr(error)
                await self._leave_the_silent()
            await self._leave_the_cut_off()
            await asyncio.sleep(RETRY_SECONDS)
        message = f"{what}: the configuration log does not answer ({reason})"
        if unknown:
            message += "; whether it was stored is unknown: repeat the same command"
        raise LogUnavailable(message, unknown=unknown)

    async def _leave_the_silent(self) -> None:
        """Go to another server of a cluster when this one does not even answer a ping. The client
        would by itself, but only after three lost ones."""
        if not self.connected or len(self.client.servers) < 2:
            return
        try:
            await self.client.flush(PROBE_SECONDS)
        except (NatsError, OSError, TimeoutError):
            log.warning("NATS is silent; going to another server")
            await self.client.force_reconnect()

    async def _leave_the_cut_off(self) -> None:
        """Go to another server of a cluster when this one has done nothing for CUT_OFF_SECONDS: cut
        off from the others it greets us, and may take itself for the leader, but cannot store."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        elif (
            now - self._failing_since > CUT_OFF_SECONDS
            and self.connected
            and len(self.client.servers) > 1
        ):
            self._failing_since = None
            log.warning("NATS can do nothing here; going to another server")
            await self.client.force_reconnect()

    async def ask(
        self, subject: str, payload: bytes, wait: float, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """One JetStream request. Raises ApiError and what `exchange` raises."""
        message = await self.exchange(subject, payload, wait, headers)
        answer: dict[str, Any] = orjson.loads(message.data)
        error = answer.get("error")
        if error is not None:
            raise ApiError(int(error.get("err_code", 0)), str(error.get("description", "")))
        return answer

    async def exchange(
        self, subject: str, payload: bytes, wait: float, headers: dict[str, str] | None = None
    ) -> Msg:
        """One request and the first answer to it, given up as soon as the connection is lost (the
        client would sit out `wait`). Raises NatsError, OSError, TimeoutError."""
        asking = self.client.request(subject, payload, timeout=wait, headers=headers)
        task = asyncio.get_running_loop().create_task(asking, name=f"request {subject}")
        try:
            await asyncio.wait((task, self._cut), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ConnectionResetError("the connection to NATS was lost")
            return task.result()
        finally:
            task.cancel()

    # --- called by the client ------------------------------------------------------------------

    async def _dial(self) -> None:
        # Dialled again, the library would keep the addresses of the time before as well.
        self.client._server_pool.clear()
        await self.client.connect(
            self.login.servers,
            tls=self._tls,
            name=self._name,
            error_cb=self._failed,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            closed_cb=self._closed,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type]
            ping_interval=PING_SECONDS,
            max_outstanding_pings=PINGS_MISSED_MAX,
        )

    async def _failed(self, error: Exception) -> None:
        log.debug("NATS: %r", error)
        self._refused = str(error) or type(error).__name__
        transport = self.client._transport
        if self.client.is_connecting and transport is not None:
            # The library takes another connection when a greeting fails, and leaves this one open.
            with contextlib.suppress(AttributeError):  # it was not even open
                transport.close()  # type: ignore[no-untyped-call]

    async def _disconnected(self) -> None:
        if not self._closing:
            log.warning("lost the connection to NATS; serving the configuration known so far")
        self._cut.set_result(None)
        self._cut = asyncio.get_running_loop().create_future()

    async def _reconnected(self) -> None:
        log.info("connected to NATS again")
        for listener in tuple(self._listeners):
            listener()

    async def _closed(self) -> None:
        if self._closing:
            return
        log.warning("NATS ended the connection (%r); dialling anew", self.client.last_error)
        self._redial = asyncio.get_running_loop().create_task(self._dial_again(), name="dial NATS")

    async def _dial_again(self) -> None:
        while True:
            await asyncio.sleep(RECONNECT_SECONDS)
            try:
                await self._dial()
                break
            except (NatsError, OSError, TimeoutError) as error:
                log.warning("NATS does not let us in: %r", error)
        await self._reconnected()


def redacted(servers: Sequence[str]) -> str:
    """Addresses without the user and password that they may carry."""
    parts = [urlsplit(server if "//" in server else f"//{server}") for server in servers]
    return ", ".join(f"{part.hostname}:{part.port or 4222}" for part in parts)
