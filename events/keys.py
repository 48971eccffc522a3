"""The keys of tenants' personal data: one message a tenant, in a stream where it can be erased.

`TENANTRY_KEYS`, subject `tenantry.keys.<tenant>`: the tenant's data key, sealed with the
installation's key. Everybody who folds the log reads all of them and follows (about 200 bytes a
tenant in memory, opened when used). A key is made before the first fact that needs it is stored,
and destroyed by deleting its message, which the server overwrites (STREAM.MSG.DELETE with erase).

What this erases: the tenant's name, metadata and users in the log, in every snapshot, copy and
backup of the log, in every projection. What it does not: the tenant's id, its limits and places,
the names of operators, backups of this very stream (keep those for no longer than the law lets you
erase), and what versions before 0.2 stored in clear.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import Sequence
from typing import Any, Final

import orjson

from events import tail
from events.facts import Fact, TenantChanged, TenantCreated
from events.log import ConfigLog
from events.model import Settings
from events.personal import KEY_BYTES, PERSONAL, DataKey, without_sealed
from events.projection import Projection
from events.secrets import SecretError, Vault, sealed_with
from events.settings import merge
from events.stream import (
    NO_STREAM_FOUND,
    STREAM_NAME_IN_USE,
    WRONG_LAST_SEQUENCE,
    ApiError,
    LogUnavailable,
)

log = logging.getLogger("tenantry.keys")

STREAM: Final = "TENANTRY_KEYS"
SUBJECT_PREFIX: Final = "tenantry.keys."
# Between attempts to follow that failed.
RETRY_SECONDS: Final = 1.0
_NO_MESSAGE: Final = 10037
_MESSAGE_GONE: Final = 10043


class KeyRing:
    """All keys, as far as they are known here. `open` is the projection's opener."""

    def __init__(self, source: ConfigLog, vault: Vault) -> None:
        self._source = source
        self._vault = vault
        # Sealed still: opening costs microseconds, and few of 100,000 tenants are used.
        self._sealed: dict[str, str] = {}
        # Never used again here, whatever is delivered late.
        self._destroyed: set[str] = set()
        # Of purged tenants, and stored still: the process that purged them has died before it
        # could erase them.
        self.leftover: set[str] = set()
        self._projection: Projection | None = None
        self._position = 0

    # --- reading ---------------------------------------------------------------------------------

    def open(self, id: str, settings: Settings) -> Settings:
        """`settings` with what is sealed in clear, or without it when the key is not to be had."""
        key = self._key(id)
        return without_sealed(settings) if key is None else key.open_all(settings)

    async def load(self) -> None:
        """Read all that are stored. Raises LogUnavailable."""
        async for batch in tail.read(self._source.nats, STREAM, after=self._position):
            self._take(batch)

    def sealed_with(self) -> set[str]:
        """The ids of the installation's keys that what is stored needs: one, if all is well."""
        return {sealed_with(sealed) for sealed in self._sealed.values()}

    async def follow(self, *, make: bool = False) -> None:
        """Take what others store, until cancelled; with `make`, make the stream if need be."""
        while True:
            try:
                if make:
                    await ensure_stream(self._source)
                async for batch in tail.read(
                    self._source.nats, STREAM, after=self._position, follow=True
                ):
                    self._take(batch)
            except LogUnavailable as error:
                log.info("keys cannot be followed: %s", error)
            await asyncio.sleep(RETRY_SECONDS)

    def serve(self, projection: Projection) -> None:
        """Open personal data for `projection`: resolve anew when a key comes, forget it when the
        tenant is purged."""
        self._projection = projection
        projection.opener = self.open
        for id in tuple(self._sealed):
            self._forget_if_purged(id)
        projection.subscribe(lambda kind, id: self._forget_if_purged(id))

    def _forget_if_purged(self, id: str) -> None:
        if id in self._sealed and self._projection is not None and self._projection.is_purged(id):
            del self._sealed[id]
            self._destroyed.add(id)
            self.leftover.add(id)

    def _take(self, batch: Sequence[tail.Stored]) -> None:
        for stored in batch:
            self._position = max(self._position, stored.sequence)
            id = stored.subject[len(SUBJECT_PREFIX) :]
            self._add(id, stored.data)

    def _add(self, id: str, data: bytes) -> None:
        try:
            sealed = orjson.loads(data)["sealed"]
        except (ValueError, KeyError, TypeError):
            log.error("the key of tenant %s cannot be read", id)
            return
        if id in self._destroyed or self._sealed.get(id) == sealed:
            return
        self._sealed[id] = sealed
        self._forget_if_purged(id)
        if self._projection is not None:
            self._projection.personal_changed(id)

    def _key(self, id: str) -> DataKey | None:
        sealed = self._sealed.get(id)
        if sealed is None:
            return None
        try:
            return DataKey(id, base64.b64decode(self._vault.open(sealed, _purpose(id))))
        except SecretError as error:
            log.error("the key of tenant %s does not open: %s", id, error)
            return None

    # --- what a Commander asks for (Keeper) ------------------------------------------------------

    async def ready(self, id: str) -> None:
        """Have the tenant's key, if there is one. Raises LogUnavailable."""
        if id not in self._sealed and id not in self._destroyed:
            await self._fetch(id)

    async def seal(self, id: str, facts: Sequence[Fact], settings: Settings) -> tuple[Fact, ...]:
        """`facts` with their personal data sealed; makes the key if need be. Raises
        LogUnavailable, SecretError."""
        if not any(_has_personal(fact) for fact in facts):
            return tuple(facts)
        key = self._key(id) or await self._make(id)
        return tuple(_sealed(fact, key, settings) for fact in facts)

    async def destroy(self, id: str) -> None:
        """Erase the key. Raises LogUnavailable."""
        self._sealed.pop(id, None)
        self._destroyed.add(id)
        self.leftover.add(id)
        message = await self._source.fetch(STREAM, {"last_by_subj": SUBJECT_PREFIX + id})
        if message is None:
            self.leftover.discard(id)
            return
        request = orjson.dumps({"seq": message["seq"], "no_erase": False})

        async def once(wait: float) -> None:
            try:
                subject = f"$JS.API.STREAM.MSG.DELETE.{STREAM}"
                await self._source.connection.ask(subject, request, wait)
            except ApiError as error:
                if error.code not in (_NO_MESSAGE, _MESSAGE_GONE):
                    raise

        await self._source.connection.persist(once, f"the key of {id}", writing=False)
        self.leftover.discard(id)

    async def _make(self, id: str) -> DataKey:
        """A new key, stored; or the one that somebody else has stored meanwhile."""
        await ensure_stream(self._source)
        raw = base64.b64encode(os.urandom(KEY_BYTES)).decode()
        data = orjson.dumps({"v": 1, "sealed": self._vault.seal(raw, _purpose(id))})
        headers = {"Nats-Expected-Last-Subject-Sequence": "0", "Nats-Expected-Stream": STREAM}

        async def once(wait: float) -> bool:
            try:
                await self._source.connection.ask(SUBJECT_PREFIX + id, data, wait, headers)
            except ApiError as error:
                if error.code not in WRONG_LAST_SEQUENCE:
                    raise
                return False
            return True

        await self._source.connection.persist(once, f"the key of {id}", writing=False)
        # What is stored counts, also when an earlier try of ours was it.
        await self._fetch(id)
        key = self._key(id)
        if key is None:
            raise SecretError(f"the key of tenant {id} cannot be made or opened")
        return key

    async def _fetch(self, id: str) -> None:
        message = await self._source.fetch(STREAM, {"last_by_subj": SUBJECT_PREFIX + id})
        if message is not None:
            self._add(id, base64.b64decode(message["data"]))


async def ensure_stream(source: ConfigLog) -> None:
    """Make the stream unless it is there. Raises LogUnavailable."""
    config = orjson.dumps(stream_config(source.replicas))

    async def once(wait: float) -> dict[str, Any]:
        try:
            return await source.connection.ask(f"$JS.API.STREAM.INFO.{STREAM}", b"", wait)
        except ApiError as error:
            if error.code != NO_STREAM_FOUND:
                raise
        try:
            return await source.connection.ask(f"$JS.API.STREAM.CREATE.{STREAM}", config, wait)
        except ApiError as error:
            if error.code != STREAM_NAME_IN_USE:
                raise
        return {}

    await source.connection.persist(once, f"the stream {STREAM}", writing=False)


def stream_config(replicas: int) -> dict[str, Any]:
    return {
        "name": STREAM,
        "description": "Keys of tenants' personal data: deleting one erases what it sealed",
        "subjects": [f"{SUBJECT_PREFIX}*"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": 1,
        # A second key of a tenant would take the place of the first, and with it the data.
        "discard_new_per_subject": True,
        "num_replicas": replicas,
        "deny_purge": True,
    }


def _purpose(id: str) -> str:
    return f"data key of tenant {id}"


def _changes(fact: Fact) -> Settings | None:
    if isinstance(fact, TenantCreated):
        return fact.settings
    return fact.changes if isinstance(fact, TenantChanged) else None


def _has_personal(fact: Fact) -> bool:
    changes = _changes(fact) or {}
    return any(changes.get(name) is not None for name in PERSONAL)


def _sealed(fact: Fact, key: DataKey, before: Settings) -> Fact:
    changes = _changes(fact)
    if changes is None:
        return fact
    if isinstance(fact, TenantCreated):
        return TenantCreated(settings=key.seal_all(changes))
    metadata = changes.get("metadata")
    if isinstance(metadata, dict):
        # A patch of single entries cannot be laid over sealed text: all of them are stored.
        whole = merge({"metadata": before.get("metadata", {})}, {"metadata": metadata})["metadata"]
        changes = {**changes, "metadata": whole or None}
    return TenantChanged(changes=key.seal_all(changes))
