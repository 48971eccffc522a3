"""A NATS client that can hand messages on at once: for who reads hundreds of thousands of them.

The library parses a message with regular expressions, makes an object of it and of each header,
and passes it through a queue to a task: more work than what a message of the log then leads to.
Whoever listens here gets the bytes of each message from the loop that reads the socket. There is no
queue, so nothing is ever dropped from one; who is slow makes the server wait. All other messages
take the library's way, in the order in which they came.

Protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol (MSG, HMSG).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.protocol.parser import AWAITING_CONTROL_LINE, MAX_CONTROL_LINE_SIZE, Parser

Taker = Callable[[bytes, bytes, bytes, bytes], None]
"""taker(subject, reply, headers, data), each as it was sent; headers and reply may be empty. It
must not raise."""

_END: Final = b"\r\n"
_FIRST: Final = (b"MSG ", b"HMSG ")
FLUSH_SECONDS: Final = 10  # the library's own


class DirectClient(Client):
    """The library's client with `listen` besides `subscribe`."""

    def __init__(self) -> None:
        super().__init__()
        # By the number of the subscription, as it is written in a message.
        self._takers: dict[bytes, Taker] = {}
        self._ps = DirectParser(self, self._takers)

    async def listen(self, subject: str, taker: Taker) -> Subscription:
        """Subscribe; end it with `leave`. It outlives reconnects. Raises NatsError, OSError."""
        subscription = await self.subscribe(subject)
        self._takers[_number(subscription)] = taker
        return subscription

    async def flush(self, timeout: int = FLUSH_SECONDS) -> None:  # noqa: ASYNC109 (as theirs)
        """When this returns the server has read all that was sent before, subscriptions above all.

        The library's own does not see to that: its PING overtakes what waits to be written, and a
        request that somebody sent at once was told that nobody listens.
        """
        await self._flush_pending(force_flush=True)
        await super().flush(timeout)

    async def leave(self, subscription: Subscription) -> None:
        """Nothing more is handed on from now on. Raises NatsError, OSError."""
        self._takers.pop(_number(subscription), None)
        await subscription.unsubscribe()

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        taker = self._takers.get(b"%d" % sid)
        if taker is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            # The library says None where there are none.
            taker(subject, reply, headers or b"", data)


class DirectParser(Parser):
    """Takes the messages of takers out of what comes; the rest is the library's."""

    def __init__(self, client: Client, takers: dict[bytes, Taker]) -> None:
        self._takers = takers
        super().__init__(client)

    def reset(self) -> None:
        super().reset()
        # The beginning of a message for a taker whose end has not come yet.
        self._begun = b""

    async def parse(self, data: bytes = b"") -> None:
        if self.state != AWAITING_CONTROL_LINE:
            await super().parse(data)
            return
        if self.buf:
            data = bytes(self.buf) + data
            self.buf.clear()
        elif self._begun:
            data = self._begun + data
        self._begun = b""
        rest = self._hand_on(data)
        if rest:
            await super().parse(rest)

    def _hand_on(self, data: bytes) -> bytes:
        """What comes behind the messages for takers that `data` begins with."""
        at = 0
        while data.startswith(_FIRST, at):
            end = data.find(_END, at, at + MAX_CONTROL_LINE_SIZE)
            if end < 0:
                break
            line = data[at:end].split()
            # Behind name, subject and number: a reply or none, the size of headers (HMSG), the size
            # of both.
            sizes = line[-2:] if line[0] == b"HMSG" else line[-1:]
            taker = self._takers.get(line[2]) if len(line) >= 3 + len(sizes) else None
            if taker is None or not b"".join(sizes).isdigit():
                break
            begins = end + 2
            ends = begins + int(sizes[-1])
            if len(data) < ends + 2:
                self._begun = data[at:]
                return b""
            middle = begins if len(sizes) == 1 else begins + int(sizes[0])
            reply = line[3] if len(line) > 3 + len(sizes) else b""
            taker(line[1], reply, data[begins:middle], data[middle:ends])
            at = ends + 2
        return data[at:]


def _number(subscription: Subscription) -> bytes:
    return b"%d" % subscription._id
