"""One writer's audit: notes are folded, chained, kept on disk, published; never waited for.

    note ─▶ fold (bounded memory) ─flush─▶ chain ─▶ spool on disk ─▶ stream

Everything goes through the spool, so a batch is whole on disk before its first event is published:
a process that is killed leaves no hole in its chain, and the next process publishes the rest. While
the spool has no room nothing is chained: notes are folded, then counted as lost, and that count is
an event itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import uuid4

import orjson
from nats.aio.client import Client
from nats.js.api import StreamConfig

from events.audit import (
    NO_TENANT,
    SUBJECT_PREFIX,
    AuditEvent,
    Chain,
    Head,
    iso,
    stream_config,
)
from events.audit_fold import Fold
from events.audit_sink import CHAIN_CLOSE, CHAIN_OPEN, LOST, OK, AuditSink
from events.model import TENANT_ID
from events.outlet import Outlet
from events.spool import Message, Spool

log = logging.getLogger("tenantry.audit")

# What a kill -9 can take with it; a batch every half second costs nothing that can be measured.
FLUSH_SECONDS: Final = 0.5
# Heads of chains before this one that its first event names; the rest is left to the next.
HEADS_MAX: Final = 32
# Beneath the data directory: what all publishers of an installation on this machine are given.
AUDIT_FOLDER: Final = "audit"
# Beneath that.
SPOOL_FOLDER: Final = "spool"
_HEAD_SUFFIX: Final = ".head"


class AuditPublisher(AuditSink):
    """The sink of one process. `writer` names it ("worker-0", "control"); `key` is
    Vault.derive(KEY_PURPOSE); `directory` (spool and heads) is shared by all processes of a data
    directory. `known` says whether a tenant exists: what claims to be another is not counted as one
    (its name would become a subject of the stream)."""

    def __init__(
        self,
        nats: Client,
        directory: Path,
        writer: str,
        key: bytes,
        *,
        known: Callable[[str], bool] = lambda _: True,
        config: StreamConfig | None = None,
        spool: Spool | None = None,
    ) -> None:
        # Notes that found no room, since the start.
        self.lost = 0
        self._outlet = Outlet(nats, config or stream_config())
        self._directory = directory
        self._spool = spool or Spool(directory / SPOOL_FOLDER)
        self._writer = writer
        self._known = known
        self._fold = Fold()
        self._key = key
        self._chain = Chain(f"{writer}.{uuid4().hex[:12]}", writer, key)
        # Events that found no room on disk; nothing else is chained before them.
        self._held: list[AuditEvent] = []
        # What the chain's first event names, until that event is stored.
        self._before: list[Head] = []
        self._opened = False
        self._flushing = asyncio.Lock()

    @property
    def chain(self) -> str:
        return self._chain.id

    def note(
        self,
        kind: str,
        tenant: str,
        *,
        actor: str = "",
        address: str = "",
        fingerprint: str = "",
        statement_kind: str = "",
        outcome: str = "",
        reason: str = "",
        sqlstate: str = "",
        trace_id: str = "",
        span_id: str = "",
        detail: str = "",
    ) -> None:
        """See AuditSink. Adds to memory, and no more."""
        if tenant and (TENANT_ID.fullmatch(tenant) is None or not self._known(tenant)):
            tenant = ""
        self._fold.add(
            AuditEvent(
                kind,
                tenant,
                actor,
                address,
                fingerprint,
                statement_kind,
                outcome,
                reason,
                sqlstate,
                trace_id,
                span_id,
                detail,
            ),
            time.time(),
        )

    def size(self) -> int:
        """Notes in memory: those that wait, and those that others are compared with."""
        return self._fold.size() + len(self._held)

    def waiting_bytes(self) -> int:
        """What waits on disk, of all processes of the data directory."""
        return self._spool.used()

    async def run(self) -> None:
        """Flush until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except Exception:
                log.exception("the audit could not be flushed; trying again")

    async def flush(self, *, everything: bool = False) -> int:
        """Chain what is due, publish what waits; returns how many events were stored."""
        async with self._flushing:
            connected = self._outlet.nats.is_connected
            await self._link(connected=connected, everything=everything)
            if not connected or not self._spool.waiting() or not await self._outlet.open():
                return 0
            return await self._publish()

    async def close(self) -> None:
        """Tell the rest, and that the chain ends here; leave what NATS does not take on disk."""
        await self.flush(everything=True)
        self._fold.add(AuditEvent(CHAIN_CLOSE, outcome=OK), time.time())
        await self.flush(everything=True)
        self._spool.close()

    # --- into the chain ------------------------------------------------------------------------

    async def _link(self, *, connected: bool, everything: bool) -> None:
        if self._spool.used() >= self._spool.bytes_max:
            return
        if not self._opened and not self._open_chain():
            return
        events = self._held or self._fold.due(time.time(), everything=everything)
        if not events:
            return
        if events is not self._held:
            self.lost += sum(event.count for event in events if event.kind == LOST)
        before = self._chain.n, self._chain.hash
        messages = [
            Message(SUBJECT_PREFIX + (event.tenant or NO_TENANT), id, data)
            for event, (id, data) in zip(events, self._chain.link(events), strict=True)
        ]
        # Connected, it is stored in a moment; then only the power could fail in between.
        if not await asyncio.to_thread(self._spool.append, messages, sync=not connected):
            self._chain.n, self._chain.hash = before
            self._held = events
            return
        self._held = []
        self._remember(self._chain.head())

    def _open_chain(self) -> bool:
        """The first event: it names where the chains before this one ended."""
        self._before = heads(self._directory)[:HEADS_MAX]
        detail = orjson.dumps([[head.chain, head.n, head.hash] for head in self._before]).decode()
        event = AuditEvent(CHAIN_OPEN, outcome=OK, detail=detail, time=iso(time.time()))
        message_id, data = self._chain.link([event])[0]
        message = Message(SUBJECT_PREFIX + NO_TENANT, message_id, data)
        self._opened = self._spool.append([message], sync=False)
        if not self._opened:
            self._chain = Chain(self._chain.id, self._writer, self._key)
        return self._opened

    # --- out of the spool ----------------------------------------------------------------------

    async def _publish(self) -> int:
        stored = 0
        while (segment := self._spool.take()) is not None:
            messages = await asyncio.to_thread(segment.messages)
            left = await self._outlet.store(messages)
            stored += len(messages) - len(left)
            if left:
                return stored
            self._spool.done()
        for head in self._before:
            # Our first event says it from now on.
            _head_file(self._directory, head.chain).unlink(missing_ok=True)
        self._before = []
        return stored

    def _remember(self, head: Head) -> None:
        """Write down where the chain is, so that a tail that is cut off in the stream shows."""
        path = _head_file(self._directory, head.chain)
        draft = path.with_suffix(".new")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(orjson.dumps([head.chain, head.n, head.hash]))
            draft.replace(path)
        except OSError as error:
            log.warning("the head of the audit cannot be kept: %s", error)


def heads(directory: Path) -> list[Head]:
    """Where the chains written from this data directory got to, as far as no later chain says."""
    found = []
    for path in sorted(directory.glob(f"*{_HEAD_SUFFIX}")):
        try:
            chain, n, hash = orjson.loads(path.read_bytes())
            found.append(Head(str(chain), int(n), str(hash)))
        except (OSError, ValueError, TypeError):
            log.warning("%s cannot be read", path)
    return found


def _head_file(directory: Path, chain: str) -> Path:
    return directory / f"{chain.replace('/', '_')}{_HEAD_SUFFIX}"
