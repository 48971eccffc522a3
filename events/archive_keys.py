"""The keys of personal data in an exported log, and back from there: only when that is asked for.

Each is as it lies in its stream: sealed with the installation's key, which is not in the file. Who
has both reads the names of people, also of those who were erased since: such a file must not
outlive what the law lets be kept. Bringing keys back erases nobody's erasure: a tenant that the
log says is purged gets none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Final

import orjson

from events import tail
from events.keys import STREAM, SUBJECT_PREFIX, ensure_stream
from events.log import ConfigLog
from events.stream import WRONG_LAST_SEQUENCE, ApiError

# Stored at once; a key has about 200 bytes.
IN_FLIGHT_MAX: Final = 64


async def stored_keys(log: ConfigLog) -> dict[str, str]:
    """Tenant → its key, sealed. Raises LogUnavailable."""
    found: dict[str, str] = {}
    async for batch in tail.read(log.nats, STREAM, after=0):
        for stored in batch:
            sealed = sealed_of(stored.data)
            if sealed:
                found[stored.subject[len(SUBJECT_PREFIX) :]] = sealed
    return found


def sealed_of(data: bytes) -> str:
    """The sealed key that a message holds; "" when it cannot be read."""
    try:
        sealed = orjson.loads(data)["sealed"]
    except (ValueError, KeyError, TypeError):
        return ""
    return sealed if isinstance(sealed, str) else ""


async def restore(log: ConfigLog, keys: Mapping[str, str], purged: Collection[str]) -> int:
    """Store those of `keys` that are not there and not of `purged` tenants; how many these were.

    A key that is there stays: what was sealed since needs it. Raises LogUnavailable.
    """
    wanted = [each for each in keys.items() if each[0] not in purged]
    if not wanted:
        return 0
    await ensure_stream(log)
    added = 0
    for at in range(0, len(wanted), IN_FLIGHT_MAX):
        some = wanted[at : at + IN_FLIGHT_MAX]
        added += sum(await asyncio.gather(*(_store(log, id, sealed) for id, sealed in some)))
    return added


async def _store(log: ConfigLog, id: str, sealed: str) -> bool:
    data = orjson.dumps({"v": 1, "sealed": sealed})
    headers = {"Nats-Expected-Last-Subject-Sequence": "0", "Nats-Expected-Stream": STREAM}

    async def once(wait: float) -> bool:
        try:
            await log.connection.ask(SUBJECT_PREFIX + id, data, wait, headers)
        except ApiError as error:
            if error.code not in WRONG_LAST_SEQUENCE:
                raise
            return False
        return True

    return await log.connection.persist(once, f"the key of {id}", writing=False)
