"""The log on NATS JetStream: appending commits, and the connection that reading shares.

One stream, one subject per tenant, one message per commit. An append names the last sequence it
knows of its subject; the server refuses it when somebody else was faster. Since no message is ever
deleted, an append can be repeated as it is, whatever became of the first try: it is stored at most
once, and the first message behind the expected sequence tells for ever who won.

Protocol: https://docs.nats.io/reference/reference-protocols/nats_api_reference, ADR-8 (expected
last subject sequence).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from events import codec, reader
from events.facts import Commit
from events.stream import (
    ATTEMPT_SECONDS,
    RECONNECT_SECONDS,
    STREAM,
    SUBJECT_PREFIX,
    ApiError,
    Apply,
    CommandIdReused,
    CommitTooLarge,
    Conflict,
    LogMisconfigured,
    LogUnavailable,
    check_stream,
    stream_config,
)

log = logging.getLogger("tenantry.log")

# A tenant's settings are a few kB; a commit near the server's 1 MiB default message limit is a
# mistake, and half of it leaves room for headers and for servers that are set lower.
COMMIT_BYTES_MAX = 512 * 1024

# How long an append is tried again before its caller is told that the log is away.
APPEND_SECONDS = 6.0
# A dead connection that sends no reset is noticed after PING_SECONDS * (PINGS_MISSED_MAX + 1).
PING_SECONDS = 5
PINGS_MISSED_MAX = 2

# Both mean that the expected sequence was not the last one (server/errors.json of nats-server).
_WRONG_LAST_SEQUENCE = (10071, 10164)
_NO_MESSAGE_FOUND = 10037


class ConfigLog:
    """The configuration log. Made by `connect`, ended by `close`."""

    def __init__(self, client: Client) -> None:
        self.nats = client
        self.synced_at = -math.inf
        self._reconnect_listeners: set[Callable[[], None]] = set()

    @classmethod
    async def connect(
        cls,
        servers: Sequence[str],
        *,
        replicas: int = 1,
        name: str = "tenantry",
        patience: float = 10.0,
    ) -> ConfigLog:
        """Connect and make the stream if it is missing. From then on reconnects for ever.

        Raises LogUnavailable after `patience` seconds, LogMisconfigured.
        """
        client = Client()
        made = cls(client)
        try:
            await asyncio.wait_for(_dial(made, client, servers, name), patience)
            await made._ensure_stream(replicas, patience)
        except (NatsError, OSError, TimeoutError) as error:
            await client.close()
            raise LogUnavailable(f"no NATS at {_redacted(servers)}: {error!r}") from error
        except BaseException:
            await client.close()
            raise
        return made

    async def close(self) -> None:
        await self.nats.close()

    @property
    def connected(self) -> bool:
        return self.nats.is_connected

    def staleness(self) -> float:
        """Seconds since all that is stored was known to be applied here; infinite before that."""
        return time.monotonic() - self.synced_at

    # --- writing -------------------------------------------------------------------------------

    async def append(self, kind: str, id: str, commit: Commit, expected_sequence: int) -> int:
        """Store `commit` if `expected_sequence` is still the last one of its subject (0: none yet).

        Returns its sequence, also when an earlier try of the same command had stored it. Raises
        Conflict, CommandIdReused, CommitTooLarge, LogUnavailable.
        """
        data = codec.encode(commit)
        if len(data) > min(COMMIT_BYTES_MAX, self.nats.max_payload):
            raise CommitTooLarge(f"{kind} {id}: {len(data)} bytes, {COMMIT_BYTES_MAX} at most")
        subject = f"{SUBJECT_PREFIX}{kind}.{id}"
        deadline = time.monotonic() + APPEND_SECONDS
        sent = False
        reason = "not connected"
        while (left := deadline - time.monotonic()) > 0:
            if not self.connected:
                # Asking now would leave the message in the client's buffer, to be sent whenever
                # the server is back, long after the caller was told that it failed.
                await asyncio.sleep(min(left, RECONNECT_SECONDS / 5))
                continue
            try:
                return await self._append_once(subject, data, commit.id, expected_sequence, left)
            except NoRespondersError:
                reason = "the stream has no leader"
            except ApiError as error:
                # The server says why it did not store this try; an earlier one may have been.
                reason = str(error)
            except (NatsError, OSError, TimeoutError) as error:
                sent = True
                reason = repr(error)
            await asyncio.sleep(RECONNECT_SECONDS / 5)
        if sent:
            raise LogUnavailable(
                f"{kind} {id}: the outcome is unknown ({reason}); repeat the same command",
                unknown=True,
            )
        raise LogUnavailable(f"{kind} {id}: the configuration log is away ({reason})")

    async def _append_once(
        self, subject: str, data: bytes, command_id: str, expected: int, left: float
    ) -> int:
        headers = {
            "Nats-Msg-Id": command_id,
            "Nats-Expected-Stream": STREAM,
            "Nats-Expected-Last-Subject-Sequence": str(expected),
        }
        wait = min(left, ATTEMPT_SECONDS)
        try:
            answer = await self._ask(subject, data, wait, headers)
        except ApiError as error:
            if error.code not in _WRONG_LAST_SEQUENCE:
                raise
            # The conflict may be with our own earlier try. Only the first message behind the
            # expected one can be ours; once it is somebody else's, ours can never be stored.
            first = await self._first_from(subject, expected + 1, wait)
            if first is not None and first[1] == command_id:
                return first[0]
            raise Conflict(f"{subject} has moved on from {expected}") from None
        sequence = int(answer["seq"])
        if answer.get("duplicate"):
            first = await self._first_from(subject, sequence, wait)
            if first is None or first[0] != sequence:
                raise CommandIdReused(f"command {command_id} was used for another subject")
        return sequence

    async def _first_from(self, subject: str, sequence: int, wait: float) -> tuple[int, str] | None:
        """Sequence and command id of the subject's first message at or after `sequence`. Asks the
        leader: any replica may answer a direct get, also one that lags behind."""
        question = orjson.dumps({"seq": sequence, "next_by_subj": subject})
        try:
            answer = await self._ask(f"$JS.API.STREAM.MSG.GET.{STREAM}", question, wait)
        except ApiError as error:
            if error.code == _NO_MESSAGE_FOUND:
                return None
            raise
        message = answer["message"]
        return int(message["seq"]), codec.decode(base64.b64decode(message["data"])).id

    # --- reading -------------------------------------------------------------------------------

    async def read_all(self, from_sequence: int, apply: Apply) -> int:
        """Apply all that is stored now, from `from_sequence` (position + 1) on.

        Returns the last sequence applied, or from_sequence - 1. Raises LogUnavailable, LogGap.
        """
        return await reader.read_all(self, from_sequence, apply)

    async def follow(self, from_sequence: int, apply: Apply) -> None:
        """Apply everything from `from_sequence` on, as it comes, until cancelled.

        Outlives restarts of the server; what cannot be had in sequence is waited for, never
        skipped. Raises only what `apply` raises.
        """
        await reader.follow(self, from_sequence, apply)

    async def last_sequence(self) -> int:
        """The last stored sequence, from the leader. Raises LogUnavailable."""
        info = await self.request(f"$JS.API.STREAM.INFO.{STREAM}", b"")
        return int(info["state"]["last_seq"])

    # --- the connection ------------------------------------------------------------------------

    async def request(self, subject: str, payload: bytes) -> dict[str, Any]:
        """A JetStream request. Raises LogUnavailable whatever goes wrong."""
        try:
            if not self.connected:
                raise LogUnavailable("not connected to NATS")
            return await self._ask(subject, payload, ATTEMPT_SECONDS)
        except (ApiError, NatsError, OSError, TimeoutError) as error:
            raise LogUnavailable(f"the configuration log does not answer: {error!r}") from error

    async def _ask(
        self, subject: str, payload: bytes, wait: float, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        message = await self.nats.request(subject, payload, timeout=wait, headers=headers)
        answer: dict[str, Any] = orjson.loads(message.data)
        error = answer.get("error")
        if error is not None:
            raise ApiError(int(error.get("err_code", 0)), str(error.get("description", "")))
        return answer

    def on_reconnect(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each reconnect; the returned function ends that."""
        self._reconnect_listeners.add(listener)
        return lambda: self._reconnect_listeners.discard(listener)

    async def reconnected(self) -> None:
        """Called by the NATS client."""
        log.info("connected to NATS again")
        for listener in tuple(self._reconnect_listeners):
            listener()

    async def _ensure_stream(self, replicas: int, wait: float) -> None:
        """Make the stream, or check the one that is there. It is never updated from here: a client
        that rewrites a configuration it read drops the settings it does not know."""
        info_subject = f"$JS.API.STREAM.INFO.{STREAM}"
        try:
            info = await self._ask(info_subject, b"", wait)
        except ApiError:
            wanted = orjson.dumps(stream_config(replicas).as_dict())
            try:
                info = await self._ask(f"$JS.API.STREAM.CREATE.{STREAM}", wanted, wait)
            except ApiError as error:
                # Another process may have made it meanwhile, with another number of replicas.
                try:
                    info = await self._ask(info_subject, b"", wait)
                except ApiError:
                    raise LogMisconfigured(f"{STREAM} cannot be made: {error}") from error
        check_stream(info["config"], replicas)


async def _dial(made: ConfigLog, client: Client, servers: Sequence[str], name: str) -> None:
    async def disconnected() -> None:
        if not client.is_closed:
            log.warning("lost the connection to NATS; serving the configuration known so far")

    async def failed(error: Exception) -> None:
        log.debug("NATS: %r", error)

    await client.connect(
        list(servers),
        name=name,
        error_cb=failed,
        disconnected_cb=disconnected,
        reconnected_cb=made.reconnected,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type]
        ping_interval=PING_SECONDS,
        max_outstanding_pings=PINGS_MISSED_MAX,
    )


def _redacted(servers: Sequence[str]) -> str:
    """Addresses without the user and password that they may carry."""
    parts = [urlsplit(server if "//" in server else f"//{server}") for server in servers]
    return ", ".join(f"{part.hostname}:{part.port or 4222}" for part in parts)
