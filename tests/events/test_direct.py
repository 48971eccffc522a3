"""Messages that are handed on at once: all of them, in order, however the bytes are cut."""

from __future__ import annotations

import asyncio
import random

import pytest
from nats.aio.msg import Msg
from nats.errors import ProtocolError
from support.engines import Nats
from support.nats import Line

from events.direct import DirectClient

STATUS = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 7\r\n\r\n"
HEADERS = b"NATS/1.0\r\na: b\r\n\r\n"


def message(sid: int, data: bytes, reply: bytes = b"", headers: bytes = b"") -> bytes:
    """As the server writes it."""
    names = b"s.%d %d %b" % (sid, sid, reply + b" " if reply else b"")
    if headers:
        size = len(headers)
        return b"HMSG %b%d %d\r\n%b%b\r\n" % (names, size, size + len(data), headers, data)
    return b"MSG %b%d\r\n%b\r\n" % (names, len(data), data)


class Heard:
    """A client that hears bytes instead of a server: subscription 1 is direct, 2 the library's."""

    def __init__(self) -> None:
        self.all: list[tuple[int, bytes, bytes, bytes]] = []
        self.client = DirectClient()
        self.client._takers[b"1"] = self._take
        self.client._process_msg = self._library  # type: ignore[method-assign]

    def _take(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        assert subject == b"s.1"
        self.all.append((1, reply, headers, data))

    async def _library(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        assert subject == b"s.%d" % sid
        self.all.append((sid, reply, headers or b"", data))


SAID = [
    (1, b"one", b"$JS.ACK.1", HEADERS),
    (1, b"", b"", STATUS),
    (1, b"MSG s.1 1 3\r\nabc\r\n", b"", b""),
    (2, b"two", b"", b""),
    (1, b"x" * 70, b"reply", b""),
    (2, b"\r\n\r\n", b"r", HEADERS),
    (12, b"not for 1", b"", b""),
    (1, b"\r\n", b"", HEADERS),
    (1, b"", b"", b""),
]


def heard_in(pieces: list[bytes]) -> list[tuple[int, bytes, bytes, bytes]]:
    async def run() -> list[tuple[int, bytes, bytes, bytes]]:
        heard = Heard()
        for piece in pieces:
            await heard.client._ps.parse(piece)
        assert not heard.client._ps.buf
        return heard.all

    return asyncio.run(run())


WIRE = b"".join(message(sid, data, reply, headers) for sid, data, reply, headers in SAID)
EXPECTED = [(sid, reply, headers, data) for sid, data, reply, headers in SAID]


def test_however_the_bytes_are_cut_the_same_is_heard() -> None:
    assert heard_in([WIRE]) == EXPECTED
    assert heard_in([WIRE[at : at + 1] for at in range(len(WIRE))]) == EXPECTED
    for cut in range(len(WIRE)):
        assert heard_in([WIRE[:cut], WIRE[cut:]]) == EXPECTED
    for seed in range(50):
        chance = random.Random(seed)
        cuts = sorted(chance.sample(range(1, len(WIRE)), 6))
        bounds = zip([0, *cuts], [*cuts, len(WIRE)], strict=True)
        assert heard_in([WIRE[a:b] for a, b in bounds]) == EXPECTED


def test_what_was_begun_on_a_lost_connection_is_forgotten() -> None:
    async def run() -> None:
        for cut in range(1, len(message(1, b"lost"))):
            heard = Heard()
            await heard.client._ps.parse(message(1, b"lost")[:cut])
            heard.client._ps.reset()
            await heard.client._ps.parse(message(1, b"new"))
            assert [data for *_, data in heard.all] == [b"new"]

    asyncio.run(run())


@pytest.mark.parametrize("rubbish", [b"MSG s.1 1 x\r\n", b"HMSG s.1 1 5\r\n", b"MSG s.1 1 -4\r\n"])
def test_what_is_no_message_is_left_to_the_library(rubbish: bytes) -> None:
    """It ends the connection for this; the reader makes another."""
    with pytest.raises(ProtocolError):
        heard_in([rubbish])


def test_a_listener_hears_a_real_server_over_reconnects_until_it_leaves(nats_server: Nats) -> None:
    async def run() -> None:
        async with Line(nats_server.url, int(nats_server.url.rpartition(":")[2])) as line:
            client = DirectClient()
            await client.connect(line.url, reconnect_time_wait=0.01, max_reconnect_attempts=-1)
            sender = DirectClient()
            await sender.connect(nats_server.url)
            direct: list[bytes] = []
            usual: list[bytes] = []

            async def note(message: Msg) -> None:
                usual.append(message.data)

            listening = await client.listen("here", lambda s, r, h, data: direct.append(data))
            await client.subscribe("here", cb=note)
            await client.flush()
            for number in range(1000):
                await sender.publish("here", b"%d" % number, headers={"a": "b"})
            async with asyncio.timeout(20):
                while len(usual) < 1000 or len(direct) < 1000:
                    await asyncio.sleep(0.01)
            assert direct == usual == [b"%d" % number for number in range(1000)]
            line.cut()
            async with asyncio.timeout(20):
                while direct[-1] != b"again":
                    await sender.publish("here", b"again")
                    await asyncio.sleep(0.02)
            await client.leave(listening)
            assert not client._takers
            count = len(direct)
            await sender.publish("here", b"last")
            async with asyncio.timeout(20):
                while usual[-1] != b"last":
                    await asyncio.sleep(0.01)
            assert len(direct) == count
            await client.close()
            await sender.close()

    asyncio.run(run())
