"""Which commands were carried out: ids of the last 31 days, so that none is carried out twice.

The server's own memory of message ids lasts two minutes. This one is folded from the log, so it
survives every restart and is the same wherever the log is folded. A durable command waits 30 days
at most (events.bus), so whatever is still delivered is still known here.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import takewhile

# A day more than the 30 that are promised, because days are counted whole.
REMEMBERED_DAYS = 31
# About 150 bytes each, so 150 MB at most, and only where commands are decided: 31 days of one
# command every three seconds. Beyond it the oldest are forgotten early: see `horizon`.
REMEMBERED_MAX = 1_000_000

_SEQUENCE_BITS = 64
_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a command was stored, and for what and by whom (a digest): the id of somebody else's
    command must neither stand in the way of one's own unseen nor get its answer."""

    sequence: int
    subject: int

    def is_for(self, kind: str, id: str, actor: str = "") -> bool:
        return self.subject == _subject(kind, id, actor)


class SeenCommands:
    """Remembers by digest: an id is up to 64 characters, a digest of 16 bytes is as good."""

    def __init__(self) -> None:
        self.horizon = 0
        """The last sequence whose command id is forgotten; 0 as long as none is."""
        self._known: dict[bytes, int] = {}
        # The first sequence of each day, oldest day first.
        self._days: deque[tuple[date, int]] = deque()

    def remember(
        self, command_id: str, sequence: int, kind: str, id: str, time: str, actor: str = ""
    ) -> None:
        """`time` as in a commit; one that cannot be read counts as the day before it."""
        if not command_id:
            return
        key = _key(command_id)
        self._known.pop(key, None)  # so that the order stays that of the sequences
        self._known[key] = sequence | _subject(kind, id, actor) << _SEQUENCE_BITS
        self._forget(_day(time), sequence)

    def get(self, command_id: str) -> Seen | None:
        found = self._known.get(_key(command_id))
        if found is None:
            return None
        return Seen(found & (1 << _SEQUENCE_BITS) - 1, found >> _SEQUENCE_BITS)

    def __len__(self) -> int:
        return len(self._known)

    def _forget(self, day: date | None, sequence: int) -> None:
        if day is not None and (not self._days or day > self._days[-1][0]):
            self._days.append((day, sequence))
            oldest = day - timedelta(days=REMEMBERED_DAYS)
            while self._days[0][0] < oldest:
                self._days.popleft()
            self._drop_before(self._days[0][1])
        if len(self._known) > REMEMBERED_MAX:
            self._drop(next(iter(self._known)))

    def _drop_before(self, sequence: int) -> None:
        """Ids are in the order of their sequences, because that is how they are folded."""
        mask = (1 << _SEQUENCE_BITS) - 1
        # Looked for in one go: each search for the first key of a dict steps over all that were
        # removed in front of it, so that a day of 60,000 took two seconds.
        older = takewhile(lambda item: item[1] & mask < sequence, self._known.items())
        for key, _ in list(older):
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        self.horizon = max(self.horizon, self._known.pop(key) & (1 << _SEQUENCE_BITS) - 1)


def _key(command_id: str) -> bytes:
    return hashlib.blake2b(
        command_id.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES
    ).digest()


def _subject(kind: str, id: str, actor: str) -> int:
    text = f"{kind}.{id}\0{actor}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _day(time: str) -> date | None:
    try:
        return date.fromisoformat(time[:10])
    except ValueError:
        return None
