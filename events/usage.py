"""What tenants used, as differences: merged in memory, published now and then, counted once.

Subject `tenantry.usage.<tenant>`, JSON, message id `<boot>.<n>`. A message whose outcome is unknown
is sent again unchanged, so the server drops it if it has it (for DUPLICATE_SECONDS); readers that
look back further drop repeats by the same (boot, n), which the message carries.
Usage must never slow or stop a query: `add` only adds, `flush` never raises.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, fields
from uuid import uuid4

import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from events.connection import ATTEMPT_SECONDS

log = logging.getLogger("tenantry.usage")

STREAM = "TENANTRY_USAGE"
SUBJECT_PREFIX = "tenantry.usage."
VERSION = 1

# Long enough for a quarter's bill; the oldest go first when the disk share below is full.
KEEP_DAYS = 90
# About four million messages of 250 bytes. The server reserves it, so small disks must have room.
STREAM_BYTES_MAX = 1024**3
# How long the server remembers message ids; at 10 s an interval, ten tries of each message.
DUPLICATE_SECONDS = 120.0

# Tenants with usage that is not stored yet. About 500 bytes each, so 50 MB when NATS is away while
# everybody is active. Usage of further tenants is counted in `lost`, and said in the log.
TENANTS_WAITING_MAX = 100_000
# Messages published before the first answer is awaited; the client's buffer holds 2 MiB.
IN_FLIGHT_MAX = 256


@dataclass(slots=True)
class Delta:
    """What was used since the last delta. Counts, bytes, seconds of server time."""

    queries: int = 0
    errors: int = 0
    refused: int = 0
    rows_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    transactions: int = 0
    busy_seconds: float = 0.0
    connections: int = 0

    def merge(self, other: Delta) -> None:
        self.queries += other.queries
        self.errors += other.errors
        self.refused += other.refused
        self.rows_out += other.rows_out
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.transactions += other.transactions
        self.busy_seconds += other.busy_seconds
        self.connections += other.connections


_FIELDS = tuple(field.name for field in fields(Delta))


class UsagePublisher:
    """One worker's usage. `worker_id` tells people who counted; each start of it counts anew."""

    def __init__(
        self,
        nats: Client,
        worker_id: str,
        *,
        replicas: int = 1,
        stream_bytes: int = STREAM_BYTES_MAX,
    ) -> None:
        self.lost = 0
        self._stream_config = _stream(replicas, stream_bytes)
        self._nats = nats
        self._worker = worker_id
        self._boot = uuid4().hex
        self._sent = 0
        self._since = time.time()
        self._fresh: dict[str, Delta] = {}
        # Messages sent at least once and not acknowledged: they must not change any more.
        self._unsure: dict[str, tuple[str, bytes]] = {}
        self._stream_ready = False
        self._flushing = asyncio.Lock()

    def add(self, tenant: str, delta: Delta) -> None:
        """Count `delta` for `tenant`."""
        found = self._fresh.get(tenant)
        if found is not None:
            found.merge(delta)
        elif len(self._fresh) < TENANTS_WAITING_MAX:
            kept = Delta()
            kept.merge(delta)
            self._fresh[tenant] = kept
        else:
            self.lost += 1
            if self.lost == 1:
                log.error("usage of more than %d tenants waits; losing some", TENANTS_WAITING_MAX)

    def waiting(self) -> int:
        """Tenants with usage that is not known to be stored."""
        return len(self._fresh.keys() | self._unsure.keys())

    async def flush(self) -> int:
        """Publish what was added; returns how many messages were stored. What cannot be published
        stays, merged with what comes after it."""
        async with self._flushing:
            if not self._nats.is_connected or not await self._ensure_stream():
                return 0
            stored = await self._publish(list(self._unsure))
            if not self._unsure:
                self._freeze()
                stored += await self._publish(list(self._unsure))
            return stored

    def _freeze(self) -> None:
        """Turn what was merged into messages."""
        now = time.time()
        for tenant, delta in self._fresh.items():
            self._sent += 1
            message = {
                "v": VERSION,
                "tenant": tenant,
                "worker": self._worker,
                "boot": self._boot,
                "n": self._sent,
                "from": self._since,
                "to": now,
                **{name: getattr(delta, name) for name in _FIELDS},
            }
            self._unsure[tenant] = (f"{self._boot}.{self._sent}", orjson.dumps(message))
        self._fresh = {}
        self._since = now

    async def _publish(self, tenants: list[str]) -> int:
        """Send the unsure messages of `tenants` until one batch has a failure in it."""
        stored = 0
        for start in range(0, len(tenants), IN_FLIGHT_MAX):
            batch = tenants[start : start + IN_FLIGHT_MAX]
            done = await asyncio.gather(*(self._send(tenant) for tenant in batch))
            stored += sum(done)
            if not all(done):
                break
        return stored

    async def _send(self, tenant: str) -> bool:
        message_id, data = self._unsure[tenant]
        headers = {"Nats-Msg-Id": message_id, "Nats-Expected-Stream": STREAM}
        try:
            answer = await self._nats.request(
                SUBJECT_PREFIX + tenant, data, timeout=ATTEMPT_SECONDS, headers=headers
            )
            error = orjson.loads(answer.data).get("error")
        except (NatsError, OSError, TimeoutError, ValueError) as failure:
            log.debug("usage of %s waits: %r", tenant, failure)
            return False
        if error is not None:
            log.warning("usage is not stored: %s", error.get("description"))
            self._stream_ready = False
            return False
        del self._unsure[tenant]
        return True

    async def _ensure_stream(self) -> bool:
        """Make the stream unless it is there; one with other limits is the operator's choice."""
        if self._stream_ready:
            return True
        try:
            config = orjson.dumps(self._stream_config.as_dict())
            for verb, body in (("INFO", b""), ("CREATE", config)):
                subject = f"$JS.API.STREAM.{verb}.{STREAM}"
                answer = await self._nats.request(subject, body, timeout=ATTEMPT_SECONDS)
                error = orjson.loads(answer.data).get("error")
                if error is None:
                    self._stream_ready = True
                    return True
            log.warning("the stream %s cannot be made: %s", STREAM, error.get("description"))
        except (NatsError, OSError, TimeoutError, ValueError) as failure:
            log.debug("usage waits: %r", failure)
        return False


def _stream(replicas: int, max_bytes: int) -> StreamConfig:
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
