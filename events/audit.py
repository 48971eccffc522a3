"""The audit event, and the chains that show when one was changed, taken out or put in.

Each writer (a worker, the control process) starts a chain of its own when it starts, so that
writers need no lock among them. An event names its chain, its number there, and the hash of the
one before; its own hash covers all of it:

    hash = sha256 of the canonical JSON (sorted keys, no blanks) of all but `hash` and `mac`

The last event of each batch also has `mac`, an HMAC of its hash with a key of the installation.
A chain's first event names where the chains before it in the same data directory ended.

What this proves, and what not:
- anybody can check the links: an event changed, removed, inserted or moved inside a chain shows;
- who can write to NATS can make a whole chain anew with right hashes, but not its macs: with the
  installation's key, every event up to a chain's last mac is proven to be as it was written;
- a tail that was cut off shows by the next event of the chain, by the first event of the writer's
  next chain, or by the head that the data directory remembers; not when all of those are gone;
- the oldest events expire; a chain then begins with a later number, which is normal as long as
  the stream's own beginning is that old;
- what was never written is not there: notes of the last FLUSH_SECONDS before a kill -9, and those
  that found no room, whose number the next event (`lost`) tells;
- whoever has the installation's key can forge everything.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

STREAM: Final = "TENANTRY_AUDIT"
SUBJECT_PREFIX: Final = "tenantry.audit."
# Events that concern no tenant, or one that does not exist. No tenant id begins with "_".
NO_TENANT: Final = "_installation"
VERSION: Final = 1
# What a chain's first event has as the hash of the one before.
NOTHING_BEFORE: Final = "0" * 64

# Thirteen months: last year's same month can still be looked at.
KEEP_DAYS: Final = 400
# At about 450 bytes an event, two million of them. The server reserves it.
STREAM_BYTES_MAX: Final = 1024**3
# Long enough for a batch that is tried again; verification drops later repeats.
DUPLICATE_SECONDS: Final = 120.0

# Purpose of the key for macs: Vault.derive(KEY_PURPOSE).
KEY_PURPOSE: Final = "audit chains"


@dataclass(slots=True)
class AuditEvent:
    """Who did what. `time` and `until` are UTC in ISO 8601; `until` differs where equal events
    were folded into this one, `count` says how many it stands for."""

    kind: str
    tenant: str = ""
    actor: str = ""
    address: str = ""
    fingerprint: str = ""
    statement_kind: str = ""
    outcome: str = ""
    reason: str = ""
    sqlstate: str = ""
    trace_id: str = ""
    span_id: str = ""
    detail: str = ""
    count: int = 1
    time: str = ""
    until: str = ""
    worker: str = ""
    chain: str = ""
    n: int = 0
    prev: str = ""
    hash: str = ""
    mac: str = ""
    v: int = VERSION


_NAMES: Final = frozenset(field.name for field in fields(AuditEvent))
# Left out of the stored form when they are empty.
_OPTIONAL: Final = (
    *("tenant", "actor", "address", "fingerprint", "statement_kind", "outcome", "reason"),
    *("sqlstate", "trace_id", "span_id", "detail"),
)


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain has got to."""

    chain: str
    n: int
    hash: str


class Chain:
    """The end of one chain, to which its only writer adds."""

    def __init__(self, id: str, worker: str, key: bytes) -> None:
        self.id = id
        self.worker = worker
        self.n = 0
        self.hash = NOTHING_BEFORE
        self._key = key

    def head(self) -> Head:
        return Head(self.id, self.n, self.hash)

    def link(self, events: Sequence[AuditEvent]) -> list[tuple[str, bytes]]:
        """Number and link `events`, seal the last one; gives message id and bytes of each."""
        made = []
        for event in events:
            self.n += 1
            event.worker, event.chain, event.n, event.prev = self.worker, self.id, self.n, self.hash
            event.until = event.until or event.time
            event.mac = ""
            raw = {
                name: value
                for name in AuditEvent.__slots__
                if (value := getattr(event, name)) or name not in _OPTIONAL
            }
            del raw["hash"], raw["mac"]
            event.hash = raw["hash"] = self.hash = digest(raw)
            if event is events[-1]:
                event.mac = raw["mac"] = seal(self._key, self.hash)
            made.append((f"{self.id}.{self.n}", orjson.dumps(raw, option=orjson.OPT_SORT_KEYS)))
        return made


def digest(raw: Mapping[str, Any]) -> str:
    """The hash of a stored event: of every key it has but `hash` and `mac`, also of those that
    only a newer version knows."""
    covered = {name: value for name, value in raw.items() if name not in ("hash", "mac")}
    return hashlib.sha256(orjson.dumps(covered, option=orjson.OPT_SORT_KEYS)).hexdigest()


def seal(key: bytes, hash: str) -> str:
    return hmac.digest(key, b"tenantry audit " + hash.encode(), "sha256").hex()


def decode(data: bytes) -> AuditEvent | None:
    """The event in `data`, what is not known here left out; None when it is none. Only the shape
    is looked at, not the hash. Raises nothing."""
    try:
        raw = orjson.loads(data)
        event = AuditEvent(**{name: value for name, value in raw.items() if name in _NAMES})
    except (ValueError, TypeError, AttributeError):
        return None
    for field in fields(AuditEvent):
        wanted = int if field.name in ("count", "n", "v") else str
        if type(getattr(event, field.name)) is not wanted:
            return None
    return event


def iso(seconds: float) -> str:
    """UTC in ISO 8601 with microseconds: sorts as text."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def stream_config(
    replicas: int = 1, *, keep_days: float = KEEP_DAYS, max_bytes: int = STREAM_BYTES_MAX
) -> StreamConfig:
    """Nothing is ever deleted by hand; the oldest go when they are older than `keep_days`, or when
    the disk share is full (that a tenant cannot bring about is the folding's job)."""
    return StreamConfig(
        name=STREAM,
        description="Audit of Tenantry: who did what, refused or allowed; hash-chained",
        subjects=[f"{SUBJECT_PREFIX}>"],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        storage=StorageType.FILE,
        num_replicas=replicas,
        max_bytes=max_bytes,
        max_age=keep_days * 86400.0,
        duplicate_window=DUPLICATE_SECONDS,
        deny_delete=True,
        deny_purge=True,
    )
