"""The log on NATS JetStream: appending commits, and the connection that reading shares.

One stream, one subject per tenant, one message per commit. An append names the last sequence it
knows of its subject; the server refuses it when somebody else was faster. Since no message is ever
deleted, an append can be repeated as it is, whatever became of the first try: it is stored at most
once, and the first message behind the expected sequence tells for ever who won.

Protocol: https://docs.nats.io/reference/reference-protocols/nats_api_reference, ADR-8 (expected
last subject sequence).
"""

from __future__ import annotations

import base64
import logging
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from events import codec, reader
from events.connection import Connection
from events.direct import DirectClient
from events.facts import Commit
from events.reader import Stored, Take
from events.spans import NO_SPANS, Spans
from events.stream import (
    NO_MESSAGE_FOUND,
    NO_STREAM_FOUND,
    STREAM,
    STREAM_NAME_IN_USE,
    SUBJECT_PREFIX,
    WRONG_LAST_SEQUENCE,
    ApiError,
    Apply,
    CommandIdReused,
    CommitTooLarge,
    Conflict,
    LogUnavailable,
    check_stream,
    stream_config,
)

log = logging.getLogger("tenantry.log")

# A tenant's settings are a few kB; a commit near the server's 1 MiB default message limit is a
# mistake, and half of it leaves room for headers and for servers that are set lower.
COMMIT_BYTES_MAX = 512 * 1024


class ConfigLog:
    """The configuration log. Made by `connect`, ended by `close`."""

    def __init__(self, connection: Connection, replicas: int = 1) -> None:
        self.connection = connection
        self.replicas = replicas
        self.synced_at = -math.inf
        self.spans: Spans = NO_SPANS

    @classmethod
    async def connect(
        cls,
        servers: Sequence[str],
        *,
        replicas: int | None = None,
        name: str = "tenantry",
        patience: float = 10.0,
    ) -> ConfigLog:
        """Connect and make the stream if it is missing. From then on reconnects for ever.

        `replicas` None: as many as the stream has that is there, and one of a stream that is made.
        Raises LogUnavailable after `patience` seconds, LogMisconfigured.
        """
        connection = Connection.to(servers, name)
        await connection.open(patience)
        made = cls(connection, replicas or 1)
        try:
            await made._ensure_stream_within(patience, replicas)
        except BaseException:
            await connection.close()
            raise
        return made

    async def close(self) -> None:
        await self.connection.close()

    @property
    def nats(self) -> DirectClient:
        """The client, for what else goes over this connection (usage)."""
        return self.connection.client

    @property
    def connected(self) -> bool:
        return self.connection.connected

    def staleness(self) -> float:
        """Seconds since all that is stored was known to be applied here; infinite before that."""
        return time.monotonic() - self.synced_at

    # --- writing -------------------------------------------------------------------------------

    async def append(
        self,
        kind: str,
        id: str,
        commit: Commit,
        expected_sequence: int,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Store `commit` if `expected_sequence` is still the last one of its subject (0: none yet).

        `headers` go with it (traceparent, say). Returns its sequence, also when an earlier try of
        the same command had stored it. Raises Conflict, CommandIdReused, CommitTooLarge,
        LogUnavailable.
        """
        data = codec.encode(commit)
        if len(data) > min(COMMIT_BYTES_MAX, self.nats.max_payload):
            raise CommitTooLarge(f"{kind} {id}: {len(data)} bytes, {COMMIT_BYTES_MAX} at most")
        subject = f"{SUBJECT_PREFIX}{kind}.{id}"
        with self.spans.append(subject, headers or {}) as given:
            sent = {
                **given,
                "Nats-Msg-Id": commit.id,
                "Nats-Expected-Stream": STREAM,
                "Nats-Expected-Last-Subject-Sequence": str(expected_sequence),
            }
            once = partial(self._append_once, subject, data, commit, expected_sequence, sent)
            return await self.connection.persist(once, f"{kind} {id}", writing=True)

    async def _append_once(
        self,
        subject: str,
        data: bytes,
        commit: Commit,
        expected: int,
        headers: dict[str, str],
        wait: float,
    ) -> int:
        try:
            answer = await self.connection.ask(subject, data, wait, headers)
        except ApiError as error:
            if error.code not in WRONG_LAST_SEQUENCE:
                raise
            # The conflict may be with our own earlier try. Only the first message behind the
            # expected one can be ours; once it is somebody else's, ours can never be stored.
            first = await self._first_from(subject, expected + 1, wait)
            if first is not None and _same(first[1], commit):
                return first[0]
            raise Conflict(f"{subject} has moved on from {expected}") from None
        sequence = int(answer["seq"])
        if answer.get("duplicate"):
            first = await self._first_from(subject, sequence, wait)
            if first is None or first[0] != sequence or not _same(first[1], commit):
                raise CommandIdReused(f"command {commit.id} was used for something else")
        return sequence

    async def _first_from(
        self, subject: str, sequence: int, wait: float
    ) -> tuple[int, Commit] | None:
        """Sequence and contents of the subject's first message at or after `sequence`. Asks the
        leader: any replica may answer a direct get, also one that lags behind."""
        question = orjson.dumps({"seq": sequence, "next_by_subj": subject})
        try:
            answer = await self.connection.ask(f"$JS.API.STREAM.MSG.GET.{STREAM}", question, wait)
        except ApiError as error:
            if error.code == NO_MESSAGE_FOUND:
                return None
            raise
        message = answer["message"]
        return int(message["seq"]), codec.decode(base64.b64decode(message["data"]))

    # --- reading -------------------------------------------------------------------------------

    async def read_all(self, from_sequence: int, apply: Apply) -> int:
        """Apply all that is stored now, from `from_sequence` (position + 1) on.

        Returns the last sequence applied, or from_sequence - 1. Raises LogUnavailable, LogGap.
        """
        return await reader.read_all(self, from_sequence, apply)

    async def scan(
        self, take: Take, *, first: int = 1, last: int | None = None, subjects: Sequence[str] = ()
    ) -> int:
        """Hand on what is stored now, as it is stored, from `first` to `last`; with `subjects`, of
        those only. Returns the sequence reached. Raises LogUnavailable, LogGap, and what `take`
        raises."""
        return await reader.scan(self, take, first, last, subjects)

    async def get(self, sequence: int) -> Stored | None:
        """The message at `sequence`, from the leader. Raises LogUnavailable."""
        message = await self.fetch(STREAM, {"seq": sequence})
        return None if message is None else reader.stored(message)

    async def fetch(self, stream: str, which: dict[str, Any]) -> dict[str, Any] | None:
        """A message of any stream, from its leader; None when there is none, or no such stream.

        `which` is the request of STREAM.MSG.GET. Raises LogUnavailable."""
        question = orjson.dumps(which)

        async def once(wait: float) -> dict[str, Any] | None:
            try:
                answer = await self.connection.ask(
                    f"$JS.API.STREAM.MSG.GET.{stream}", question, wait
                )
            except ApiError as error:
                if error.code in (NO_MESSAGE_FOUND, NO_STREAM_FOUND):
                    return None
                raise
            message: dict[str, Any] = answer["message"]
            return message

        return await self.connection.persist(once, f"a message of {stream}", writing=False)

    async def follow(self, from_sequence: int, apply: Apply) -> None:
        """Apply everything from `from_sequence` on, as it comes, until cancelled.

        Outlives restarts of the server; what cannot be had in sequence is waited for, never
        skipped. Raises only what `apply` raises.
        """
        await reader.follow(self, from_sequence, apply)

    async def last_sequence(self) -> int:
        """The last stored sequence, from the leader. Raises LogUnavailable."""
        return int((await self.info())["state"]["last_seq"])

    async def info(self) -> dict[str, Any]:
        """The stream's configuration and state as the server tells them. Raises LogUnavailable."""
        return await self.request(f"$JS.API.STREAM.INFO.{STREAM}", b"")

    async def request(self, subject: str, payload: bytes) -> dict[str, Any]:
        """A JetStream request that changes no facts. Raises LogUnavailable."""

        async def once(wait: float) -> dict[str, Any]:
            return await self.connection.ask(subject, payload, wait)

        return await self.connection.persist(once, subject, writing=False)

    async def _ensure_stream_within(self, patience: float, replicas: int | None) -> None:
        """A cluster that has just been started lets us in before it has elected its leader."""
        deadline = time.monotonic() + patience
        while True:
            try:
                return await self._ensure_stream(replicas)
            except LogUnavailable:
                if time.monotonic() > deadline:
                    raise

    async def _ensure_stream(self, replicas: int | None) -> None:
        """Make the stream, or check the one that is there. It is never updated from here: a client
        that rewrites a configuration it read drops the settings it does not know."""
        wanted = orjson.dumps(stream_config(replicas or 1).as_dict())

        async def once(wait: float) -> dict[str, Any]:
            info_subject = f"$JS.API.STREAM.INFO.{STREAM}"
            try:
                return await self.connection.ask(info_subject, b"", wait)
            except ApiError as error:
                if error.code != NO_STREAM_FOUND:
                    raise
            try:
                create_subject = f"$JS.API.STREAM.CREATE.{STREAM}"
                return await self.connection.ask(create_subject, wanted, wait)
            except ApiError as error:
                if error.code != STREAM_NAME_IN_USE:
                    raise
            # Another process has made it meanwhile, with another number of replicas.
            return await self.connection.ask(info_subject, b"", wait)

        info = await self.connection.persist(once, f"the stream {STREAM}", writing=False)
        if replicas is None:
            # Streams that are made beside it are to outlive the loss of as many servers.
            self.replicas = int(info["config"].get("num_replicas") or 1)
        check_stream(info["config"], self.replicas)


def _same(stored: Commit, sent: Commit) -> bool:
    """Whether it is the same command: ids are chosen by those who send them."""
    return (stored.id, stored.actor) == (sent.id, sent.actor)
