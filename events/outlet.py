"""Publishes to a stream that is made when it is missing: many at a time, each until it is stored.

A message whose outcome is unknown is given back like one that failed: the caller sends it again
unchanged, and its id lets the server drop what it has (within the stream's duplicate window; who
reads further back drops repeats by what the message carries).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import StreamConfig

from events.connection import ATTEMPT_SECONDS
from events.spool import Message

log = logging.getLogger("tenantry.outlet")

# Messages published before the first answer is awaited; the client's buffer holds 2 MiB.
IN_FLIGHT_MAX: Final = 256


# A stream is made smaller where the disk is small, but not smaller than this.
STREAM_BYTES_MIN: Final = 16 * 1024 * 1024

_NAME_IN_USE: Final = 10058
# Insufficient resources, storage, and memory of the server, of its account, of the cluster.
_NO_ROOM: Final = (10023, 10028, 10047)


class Outlet:
    """The way into one stream."""

    def __init__(self, nats: Client, config: StreamConfig) -> None:
        self.nats = nats
        self.config = config
        self._ready = False
        self._told = ""

    async def open(self) -> bool:
        """Whether messages can be stored now. Makes the stream; one that is there with other
        limits is the operator's choice."""
        if not self.nats.is_connected:
            return False
        if self._ready:
            return True
        try:
            self._ready = await self._make()
        except (NatsError, OSError, TimeoutError, ValueError) as failure:
            log.debug("%s waits: %r", self.config.name, failure)
        return self._ready

    async def _make(self) -> bool:
        """Find the stream, or make it: smaller, where the server has not that much to reserve.
        Raises NatsError, OSError, TimeoutError, ValueError."""
        if await self._ask("INFO", b"") is None:
            return True
        while error := await self._ask("CREATE", orjson.dumps(self.config.as_dict())):
            if error.get("err_code") == _NAME_IN_USE and await self._ask("INFO", b"") is None:
                break
            size = (self.config.max_bytes or 0) // 2
            if error.get("err_code") not in _NO_ROOM or size < STREAM_BYTES_MIN:
                self._tell(f"{self.config.name} cannot be made: {error.get('description')}")
                return False
            self.config.max_bytes = size
            self._tell(f"NATS has no room for {self.config.name}; trying with {size} bytes")
        self._told = ""
        return True

    async def _ask(self, verb: str, body: bytes) -> dict[str, Any] | None:
        """The error that the server answers with, None when it did what was asked."""
        subject = f"$JS.API.STREAM.{verb}.{self.config.name}"
        answer = await self.nats.request(subject, body, timeout=ATTEMPT_SECONDS)
        error: dict[str, Any] | None = orjson.loads(answer.data).get("error")
        return error

    async def store(self, messages: Sequence[Message]) -> list[Message]:
        """Publish in order until a batch has a failure in it; gives what is not known to be
        stored."""
        left: list[Message] = []
        for start in range(0, len(messages), IN_FLIGHT_MAX):
            batch = messages[start : start + IN_FLIGHT_MAX]
            done = await asyncio.gather(*(self._send(message) for message in batch))
            left = [message for message, stored in zip(batch, done, strict=True) if not stored]
            if left:
                return [*left, *messages[start + IN_FLIGHT_MAX :]]
        return left

    async def _send(self, message: Message) -> bool:
        headers = {"Nats-Msg-Id": message.id, "Nats-Expected-Stream": str(self.config.name)}
        try:
            answer = await self.nats.request(
                message.subject, message.data, timeout=ATTEMPT_SECONDS, headers=headers
            )
            error = orjson.loads(answer.data).get("error")
        except (NatsError, OSError, TimeoutError, ValueError) as failure:
            log.debug("%s waits: %r", message.subject, failure)
            return False
        if error is not None:
            self._tell(f"{self.config.name} does not store: {error.get('description')}")
            self._ready = False
            return False
        return True

    def _tell(self, trouble: str) -> None:
        """Warn once for each trouble, not at each try."""
        if trouble != self._told:
            self._told = trouble
            log.warning("%s", trouble)
