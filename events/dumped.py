"""The projection as bytes and back, whole: for snapshots and for looking at it in another thread.

A friend of events.projection and events.seen: it knows their fields, so that they need not know of
snapshots. A test compares every field of theirs after the way there and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from itertools import islice
from typing import Any, Final

from events.installation import Installation
from events.named import Named
from events.personal import Opener
from events.projection import Parked, Projection
from events.seen import SeenCommands
from events.settings import read_leniently
from events.tenant_entry import Entry, is_live

# A command's digest, then where it was stored and for what: see SeenCommands.
_KEY_BYTES: Final = 16
_VALUE_BYTES: Final = 16
_SEEN_BYTES: Final = _KEY_BYTES + _VALUE_BYTES


def copy(state: Projection) -> Projection:
    """The same state, to be read elsewhere while `state` goes on. It has no subscribers."""
    twin = Projection(state.opener, remember_commands=state._commands is not None)
    twin.position = state.position
    twin.installation_version = state.installation_version
    # Entries, settings and what else they hold are never changed in place, so only they are copied.
    twin._tenants = state._tenants.copy()
    twin._live = state._live
    twin._installation = state._installation
    twin._installation_settings = state._installation_settings
    twin._parked = state._parked.copy()
    twin._named = {kind: names.copy() for kind, names in state._named.items()}
    twin._deleted_at = state._deleted_at.copy()
    if state._commands is not None and twin._commands is not None:
        twin._commands.horizon = state._commands.horizon
        twin._commands._known = state._commands._known.copy()
        twin._commands._days = state._commands._days.copy()
    return twin


def dump(state: Projection) -> tuple[dict[str, Any], Iterator[bytes]]:
    """All but the command ids: the small things as JSON holds them, and a line for each tenant.

    A line is id, version, flags, settings and provisioned, with tabs between them: compact JSON
    holds neither tabs nor line ends.
    """
    small = {
        "position": state.position,
        "installation_version": state.installation_version,
        "installation": None if state._installation is None else state._installation_settings,
        "parked": [
            [kind, id, each.sequence, each.reason, each.commits]
            for (kind, id), each in state._parked.items()
        ],
        "named": [
            [kind, id, each.settings, each.version, each.deleted]
            for kind, names in state._named.items()
            for id, each in names.items()
        ],
        "deleted_at": state._deleted_at,
    }
    return small, (_line(id, entry) for id, entry in state._tenants.items())


def restore(
    small: dict[str, Any],
    lines: Iterable[bytes],
    commands: SeenCommands | None,
    opener: Opener | None = None,
) -> Projection:
    """What `dump` gave, as a projection again. Raises ValueError, KeyError, TypeError."""
    made = Projection(opener, remember_commands=False)
    made._commands = commands
    made.position = small["position"]
    made.installation_version = small["installation_version"]
    if small["installation"] is not None:
        made._installation_settings = small["installation"]
        made._installation = read_leniently(Installation, small["installation"])
    made._parked = {
        (kind, id): Parked(sequence, reason, commits)
        for kind, id, sequence, reason, commits in small["parked"]
    }
    for kind, id, settings, version, deleted in small["named"]:
        made._named[kind][id] = Named(settings, version, deleted)
    made._deleted_at = small["deleted_at"]
    for line in lines:
        id, version, flags, settings, provisioned = line.split(b"\t")
        entry = Entry(settings, provisioned, int(version), int(flags))
        made._tenants[id.decode()] = entry
        made._live += is_live(entry.flags)
    return made


def dump_commands(state: Projection) -> tuple[dict[str, Any] | None, bytes | bytearray]:
    """The small things, and a fixed number of bytes for each command id; None when `state` does
    not remember commands."""
    commands = state._commands
    if commands is None:
        return None, b""
    small = {
        "horizon": commands.horizon,
        "days": [[day.isoformat(), sequence] for day, sequence in commands._days],
    }
    known = bytearray()
    every = iter(commands._known.items())
    while some := [key + value.to_bytes(_VALUE_BYTES, "big") for key, value in islice(every, 1000)]:
        # Joined at once, a million of them keep all other threads waiting for 50 ms.
        known += b"".join(some)
    return small, known


def restore_commands(small: dict[str, Any], known: bytes | bytearray) -> SeenCommands:
    """What `dump_commands` gave. Raises ValueError, KeyError, TypeError."""
    if len(known) % _SEEN_BYTES:
        raise ValueError("half a command id")
    made = SeenCommands()
    made.horizon = small["horizon"]
    made._days.extend((date.fromisoformat(day), sequence) for day, sequence in small["days"])
    for at in range(0, len(known), _SEEN_BYTES):
        key_end = at + _KEY_BYTES
        value = int.from_bytes(known[key_end : at + _SEEN_BYTES], "big")
        made._known[bytes(known[at:key_end])] = value
    return made


def pass_over(state: Projection, sequence: int) -> None:
    """Take it that nothing up to `sequence` is wanted: for folding a few subjects only. What was
    passed over does not exist, and the digest compares with no other."""
    state.position = max(state.position, sequence)


def _line(id: str, entry: Entry) -> bytes:
    head = f"{id}\t{entry.version}\t{entry.flags}\t".encode()
    return head + entry.settings + b"\t" + entry.provisioned
