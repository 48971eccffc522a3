"""What tenants used, as differences: merged in memory, published now and then, counted once.

Subject `tenantry.usage.<tenant>`, message id `<boot>.<n>`; the message is told in usage_delta.
A message whose outcome is unknown is sent again unchanged, so the server drops it if it has it (for
DUPLICATE_SECONDS); readers that look back further drop repeats by the same (boot, n).

    add ─▶ merged in memory ─flush─▶ numbered ─▶ stream
                                        └──────▶ spool on disk, while NATS is away ─▶ stream

What a process that is killed takes with it is what was added since its last flush, and of what it
was publishing just then what had not left it yet; never is anything in the stream that counts
twice. When the spool is full, usage is merged in memory again:
nothing is lost as long as the process lives. What is lost is counted in `lost`.
Usage must never slow or stop a query: `add` only adds, `flush` never raises.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final
from uuid import uuid4

from nats.aio.client import Client
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from events.outlet import Outlet
from events.spool import Message, Spool
from events.usage_delta import Delta, encode

__all__ = ["STREAM", "SUBJECT_PREFIX", "Delta", "UsagePublisher"]

log = logging.getLogger("tenantry.usage")

STREAM = "TENANTRY_USAGE"
SUBJECT_PREFIX = "tenantry.usage."

# Beneath the data directory: what the spools of all workers of an installation are given.
USAGE_FOLDER: Final = "usage"

# Long enough for a quarter's bill; the oldest go first when the disk share below is full.
KEEP_DAYS = 90
# About four million messages of 250 bytes. The server reserves it, so small disks must have room.
STREAM_BYTES_MAX = 1024**3
# How long the server remembers message ids; at 10 s an interval, ten tries of each message.
DUPLICATE_SECONDS = 120.0

# Tenants with usage that is not stored yet. About 500 bytes each, so 50 MB when NATS is away while
# everybody is active. Usage of further tenants is counted in `lost`, and said in the log.
TENANTS_WAITING_MAX = 100_000
# Messages made before others get their turn on the event loop: about two milliseconds of it.
TURN: Final = 500


class UsagePublisher:
    """One worker's usage. `worker_id` tells people who counted; each start of it counts anew.
    Without a spool, what NATS does not take stays in memory."""

    def __init__(
        self,
        nats: Client,
        worker_id: str,
        *,
        replicas: int = 1,
        stream_bytes: int = STREAM_BYTES_MAX,
        spool: Spool | None = None,
    ) -> None:
        self.lost = 0
        self.boot = uuid4().hex
        self._outlet = Outlet(nats, stream_config(replicas, stream_bytes))
        self._spool = spool
        self._worker = worker_id
        self._sent = 0
        self._since = time.time()
        self._fresh: dict[str, Delta] = {}
        # Numbered, and not known to be stored: they must not change any more.
        self._unsure: list[Message] = []
        self._flushing = asyncio.Lock()

    def add(self, tenant: str, delta: Delta) -> None:
        """Count `delta` for `tenant`."""
        found = self._fresh.get(tenant)
        if found is not None:
            found.merge(delta)
        elif len(self._fresh) < TENANTS_WAITING_MAX:
            self._fresh[tenant] = delta.copy()
        else:
            self.lost += 1
            if self.lost == 1:
                log.error("usage of more than %d tenants waits; losing some", TENANTS_WAITING_MAX)

    def waiting(self) -> int:
        """Tenants with usage that is neither known to be stored nor in the spool."""
        unsure = {message.subject.removeprefix(SUBJECT_PREFIX) for message in self._unsure}
        return len(self._fresh.keys() | unsure)

    async def flush(self) -> int:
        """Publish what was added; returns how many messages were stored. What cannot be published
        goes to the spool; without one, or when it is full, it stays, merged with what comes."""
        async with self._flushing:
            stored = 0
            if await self._outlet.open():
                stored += await self._publish()
                if not self._unsure:
                    await self._number()
                    stored += await self._publish()
                if not self._unsure:
                    stored += await self._unspool()
            if self._spool is not None and (self._unsure or self._fresh):
                await self._keep(self._spool)
            return stored

    def close(self) -> None:
        """After the last flush: leave the spool to the next process."""
        if self._spool is not None:
            self._spool.close()

    async def _number(self) -> None:
        """Turn what was merged into messages."""
        fresh, self._fresh = self._fresh, {}
        since, self._since = self._since, time.time()
        until = self._since
        for tenant, delta in fresh.items():
            self._sent += 1
            data = encode(tenant, self._worker, self.boot, self._sent, since, until, delta)
            self._unsure.append(Message(SUBJECT_PREFIX + tenant, f"{self.boot}.{self._sent}", data))
            if self._sent % TURN == 0:
                await asyncio.sleep(0)

    async def _publish(self) -> int:
        before = len(self._unsure)
        self._unsure = await self._outlet.store(self._unsure)
        return before - len(self._unsure)

    async def _unspool(self) -> int:
        """Publish what waits on disk, and what killed processes left there."""
        stored = 0
        while self._spool is not None and (segment := self._spool.take()) is not None:
            messages = await asyncio.to_thread(segment.messages)
            left = await self._outlet.store(messages)
            stored += len(messages) - len(left)
            if left:
                break
            self._spool.done()
        return stored

    async def _keep(self, spool: Spool) -> None:
        """Put what is unsure, then what is fresh, on disk, as far as there is room."""
        if self._unsure and not await asyncio.to_thread(spool.append, self._unsure):
            return
        self._unsure = []
        if self._fresh:
            await self._number()
            if await asyncio.to_thread(spool.append, self._unsure):
                self._unsure = []


def stream_config(replicas: int, max_bytes: int) -> StreamConfig:
    return StreamConfig(
        name=STREAM,
        description="What tenants of Tenantry used: differences, one message per tenant and flush",
        subjects=[f"{SUBJECT_PREFIX}>"],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        storage=StorageType.FILE,
        num_replicas=replicas,
        max_bytes=max_bytes,
        max_age=KEEP_DAYS * 86400.0,
        duplicate_window=DUPLICATE_SECONDS,
    )
