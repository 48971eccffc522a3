"""Questions to all processes of an installation, over NATS: who is connected, pause, reload.

    subject   tenantry.workers.control      no queue group: each process answers for itself
    headers   Tenantry-Token
    body      Call as JSON
    answers   Part as JSON, one or more of each process; the last says so

It is for what is not stored: figures of this moment, and acts that are for minutes. What is to last
is a command (events.bus). Nobody knows how many proxies there are, so an asker waits until all
workers of each node that has answered have done so, at least QUIET_SECONDS, SECONDS at most.

Acts are for the role operator. A token is made for one message and lives for a minute, and one of
an act is good once in each process: whoever can read NATS can neither repeat an act nor alter it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from events.bus import TOKEN_HEADER, may_answer_to, token_of
from events.connection import Connection
from events.operators import Principal, Role
from events.tokens import TokenChecker, TokenRefused, TokenSigner
from wire.errors import ServerUnavailable, TenantryError
from wire.tasks import end, spawn

log = logging.getLogger("tenantry.calls")

SUBJECT: Final = "tenantry.workers.control"
# A proxy that is there answers within milliseconds; those of another site within some ten.
QUIET_SECONDS: Final = 0.1
SECONDS: Final = 2.0
# Reading the file again replaces workers when certificates have changed.
RELOAD_SECONDS: Final = 60.0
TOKEN_SECONDS: Final = 60
# Rows of one message: 1 MB is what NATS takes, and a row of a client has some 500 bytes.
ROWS_PER_PART: Final = 500
BODY_MAX: Final = 64 * 1024
# Acts remembered so that none is done twice; more within a minute are refused.
ACTS_REMEMBERED: Final = 10_000
# Calls in work at once in one process.
IN_WORK_MAX: Final = 64

WORKER: Final = "worker"
SUPERVISOR: Final = "supervisor"
READS: Final = ("look", "stats", "state", "paused", "digest", "health")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """`to` is the role of the processes asked; `arguments` are `do`'s own."""

    do: str
    to: str = WORKER
    tenant: str = ""
    sockets: bool = False
    id: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Who answers: the node, which of how many workers."""

    node: str
    number: int = 0
    of: int = 1
    role: str = WORKER


@dataclass(slots=True)
class Gathered:
    """What all have answered. `missing` tells of those that should have and have not."""

    rows: list[Row] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    answered: int = 0


Handle = Callable[[Call, Principal], Awaitable[list[Row]]]
"""Raises TenantryError."""


def node_id(data_dir: str | Path) -> str:
    """The same for all processes of one supervisor, another one for each supervisor."""
    name = f"{socket.gethostname()}\0{Path(data_dir).absolute()}"
    return hashlib.sha256(name.encode()).hexdigest()[:8]


# --- the one that answers ------------------------------------------------------------------------


class Responder:
    """Answers from `start` to `stop`, also after reconnects."""

    def __init__(
        self, connection: Connection, place: Place, checker: TokenChecker, handle: Handle
    ) -> None:
        self.place = place
        self._connection = connection
        self._checker = checker
        self._handle = handle
        self._subscription: Subscription | None = None
        self._forget: Callable[[], None] | None = None
        self._working: set[asyncio.Task[None]] = set()
        self._done: dict[str, float] = {}

    async def start(self) -> None:
        """Raises NatsError, OSError."""
        self._subscription = await self._connection.client.subscribe(SUBJECT, cb=self._received)
        self._forget = self._connection.on_reconnect(self._reconnected)
        await self._connection.client.flush()

    async def stop(self) -> None:
        if self._forget is not None:
            self._forget()
        await _leave(self._subscription)
        await end(*self._working)

    def _reconnected(self) -> None:
        # A connection that was dialled anew has forgotten us; in the other case there are two
        # subscriptions for a moment, and the asker tells parts by their numbers.
        self._spawn(self._resubscribe())

    async def _resubscribe(self) -> None:
        before = self._subscription
        with contextlib.suppress(NatsError, OSError):
            self._subscription = await self._connection.client.subscribe(SUBJECT, cb=self._received)
            await _leave(before)

    async def _received(self, message: Msg) -> None:
        if len(self._working) < IN_WORK_MAX:
            self._spawn(self._work(message))

    def _spawn(self, work: Any) -> None:
        task = spawn(work, name="a call of an operator")
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _work(self, message: Msg) -> None:
        if not message.reply or not may_answer_to(message.reply):
            return
        rows: list[Row] = []
        error = ""
        try:
            call, principal = self._read(message)
            if call.to != self.place.role:
                return
            rows = await self._handle(call, principal)
        except TokenRefused as refused:
            error = str(refused)
        except TenantryError as refused:
            error = refused.message
        except Exception:
            log.exception("a call failed")
            error = "it failed here: see the log"
        await self._reply(message.reply, rows, error)

    def _read(self, message: Msg) -> tuple[Call, Principal]:
        if len(message.data) > BODY_MAX:
            raise TenantryError("the call is too long")
        token = token_of(message.headers or {})
        principal = self._checker.check_for(token, message.data)
        try:
            call = Call(**orjson.loads(message.data))
        except (ValueError, TypeError):
            raise TenantryError("the call is malformed") from None
        if not isinstance(call.tenant, str) or type(call.id) is not int:
            raise TenantryError("the call is malformed")
        if not principal.may_read("") or (call.do not in READS and principal.role != "operator"):
            raise TenantryError(f"the role {principal.role} may not do that")
        if call.do not in READS:
            self._once(principal.jti)
        return call, principal

    def _once(self, jti: str) -> None:
        now = time.monotonic()
        while self._done and next(iter(self._done.values())) < now:
            del self._done[next(iter(self._done))]
        if jti in self._done or len(self._done) >= ACTS_REMEMBERED:
            raise TenantryError("that was done already")
        self._done[jti] = now + 2 * TOKEN_SECONDS

    async def _reply(self, subject: str, rows: Sequence[Row], error: str) -> None:
        place = asdict(self.place)
        pieces = [rows[at : at + ROWS_PER_PART] for at in range(0, len(rows), ROWS_PER_PART)]
        pieces = pieces or [[]]
        for number, piece in enumerate(pieces):
            part = {"from": place, "part": number, "parts": len(pieces), "pid": os.getpid()}
            data = orjson.dumps({**part, "rows": piece, "error": error})
            with contextlib.suppress(NatsError, OSError, ValueError):
                await self._connection.client.publish(subject, data)
            await asyncio.sleep(0)


# --- the one that asks ---------------------------------------------------------------------------


class Caller:
    """Asks in the name of `name` with `role`. `here` is this process's own place, if it has one:
    then the other workers of its node must answer."""

    def __init__(
        self, connection: Connection, signer: TokenSigner, here: Place | None = None
    ) -> None:
        self._connection = connection
        self._signer = signer
        self._here = here

    async def ask(
        self, call: Call, name: str, role: Role = "operator", *, seconds: float = SECONDS
    ) -> Gathered:
        """What all others answer. Raises ServerUnavailable while NATS is away."""
        if not self._connection.connected:
            raise ServerUnavailable("NATS is away, so other workers cannot be asked")
        body = orjson.dumps(asdict(call))
        token = self._signer.make_for(body, name, role, seconds=TOKEN_SECONDS)
        hearing = _Hearing(self._here, call.to)
        client = self._connection.client
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, cb=hearing.received)
        try:
            await client.publish(SUBJECT, body, reply=inbox, headers={TOKEN_HEADER: token})
            await hearing.finish(seconds)
        except (NatsError, OSError) as error:
            raise ServerUnavailable(f"other workers cannot be asked: {error!r}") from None
        finally:
            await _leave(subscription)
        return hearing.gathered()


class _Hearing:
    """Collects parts until everybody has said all."""

    def __init__(self, here: Place | None, role: str) -> None:
        self._here = here
        self._role = role
        self._parts: dict[tuple[str, int, int], dict[int, list[Row]]] = {}
        self._parts_of: dict[tuple[str, int, int], int] = {}
        self._workers: dict[str, int] = {}
        self._errors: list[str] = []
        self._news = asyncio.Event()
        if here is not None and role == WORKER:
            self._workers[here.node] = here.of

    async def received(self, message: Msg) -> None:
        try:
            part = orjson.loads(message.data)
            place = Place(**part["from"])
            key = (place.node, place.number, int(part["pid"]))
            if self._is_me(key):
                return
            if part["error"] and part["error"] not in self._errors:
                self._errors.append(str(part["error"]))
            self._workers[place.node] = place.of
            self._parts.setdefault(key, {})[int(part["part"])] = part["rows"]
            self._parts_of[key] = int(part["parts"])
        except (ValueError, KeyError, TypeError):
            return
        self._news.set()

    def _is_me(self, key: tuple[str, int, int]) -> bool:
        """A worker hears its own call as well; it has answered itself already."""
        here = self._here
        if here is None or self._role != WORKER:
            return False
        return key == (here.node, here.number, os.getpid())

    def missing(self) -> list[str]:
        """Workers that are known of and have not answered in full."""
        whole = {key[:2] for key, parts in self._parts.items() if len(parts) == self._parts_of[key]}
        if self._here is not None and self._role == WORKER:
            whole.add((self._here.node, self._here.number))
        return [
            f"worker {number} of node {node}"
            for node, of in self._workers.items()
            for number in range(of)
            if (node, number) not in whole
        ]

    async def finish(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while True:
            now = loop.time() - start
            complete = bool(self._workers) and not self.missing()
            limit = QUIET_SECONDS if complete else seconds
            if now >= limit:
                return
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit - now):
                    await self._news.wait()

    def gathered(self) -> Gathered:
        rows = [
            row
            for parts in self._parts.values()
            for number in sorted(parts)
            for row in parts[number]
        ]
        return Gathered(rows, self._errors, self.missing(), len(self._parts))


async def _leave(subscription: Subscription | None) -> None:
    if subscription is not None:
        with contextlib.suppress(NatsError, OSError):
            await subscription.unsubscribe()
