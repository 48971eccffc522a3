"""A bounded mailbox with two lanes. Full means a verdict at once: nobody waits, nothing is lost
without being told.

    control   small messages about the actor itself; always taken first
    work      everything else, in order of arrival

A sender that must give something back (a connection that closed, the order to stop) sends `OWED`:
in order like other work, but never refused for want of room, because refusing it would leak what
it gives back. Such senders are bounded by what was lent to them, so the lane still is.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pykka._envelope import Envelope

# A tenant's events come in batches, so a thousand unread ones means that its actor is stuck or
# drowned; more room would only answer later. An empty lane costs no memory.
MAILBOX_CAPACITY: Final = 1024
# Control messages say "look again"; more than this many unread ones tell nothing new.
CONTROL_CAPACITY: Final = 64


class Verdict(enum.Enum):
    """What became of a message. True only when it will be handled (or the actor dies first)."""

    ACCEPTED = "accepted"
    FULL = "mailbox full"
    DEAD = "actor stopped"

    def __bool__(self) -> bool:
        return self is Verdict.ACCEPTED


class Lane(enum.IntEnum):
    """Which way a message goes in; see the module's text."""

    WORK = 0
    CONTROL = 1
    OWED = 2


ACCEPTED: Final = Verdict.ACCEPTED
FULL: Final = Verdict.FULL
DEAD: Final = Verdict.DEAD
WORK: Final = Lane.WORK
CONTROL: Final = Lane.CONTROL
OWED: Final = Lane.OWED


class MailboxFull(Exception):
    """The mailbox has no room: the message was not taken. Try later, or refuse the work."""


class Mailbox:
    """pykka's inbox (`put`, `get`, `empty`), bounded and never blocking.

    The lanes exist only while they hold something: an empty deque takes 760 bytes, which an idle
    tenant should not.
    """

    __slots__ = ("_control", "_work", "capacity", "closed")

    def __init__(self, capacity: int = MAILBOX_CAPACITY) -> None:
        self._control: deque[Envelope[Any]] | None = None
        self._work: deque[Envelope[Any]] | None = None
        self.capacity = capacity
        # True from the moment that a stop was asked for.
        self.closed = False

    def offer(self, envelope: Envelope[Any], lane: Lane = WORK) -> Verdict:
        """Take the envelope if the mailbox is open and the lane has room."""
        if self.closed:
            return DEAD
        if lane is CONTROL:
            queue = self._control
            if queue is None:
                self._control = deque((envelope,))
                return ACCEPTED
            if len(queue) >= CONTROL_CAPACITY:
                return FULL
        else:
            queue = self._work
            if queue is None:
                if self.capacity < 1 and lane is WORK:
                    return FULL
                self._work = deque((envelope,))
                return ACCEPTED
            if len(queue) >= self.capacity and lane is WORK:
                return FULL
        queue.append(envelope)
        return ACCEPTED

    def put(self, envelope: Envelope[Any], /) -> None:
        """Take the envelope. Raises MailboxFull, also when the mailbox is closed."""
        verdict = self.offer(envelope)
        if not verdict:
            raise MailboxFull(verdict.value)

    def take(self) -> Envelope[Any] | None:
        """The next envelope, control first; None when there is none."""
        queue = self._control
        if queue is not None:
            envelope = queue.popleft()
            if not queue:
                self._control = None
            return envelope
        queue = self._work
        if queue is not None:
            envelope = queue.popleft()
            if not queue:
                self._work = None
            return envelope
        return None

    def get(self) -> Envelope[Any]:
        """The next envelope. Raises LookupError when there is none: it never waits."""
        envelope = self.take()
        if envelope is None:
            raise LookupError("the mailbox is empty")
        return envelope

    def empty(self) -> bool:
        return self._control is None and self._work is None

    def __len__(self) -> int:
        return len(self._control or ()) + len(self._work or ())
