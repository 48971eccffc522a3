"""A client's byte stream: whole messages in, answers out, and when reading must pause.

`process` reads a chunk and hands each message to `request` (client.py). When a server or a verdict
is not at hand, reading stops (`block`) and goes on where it stopped (`unblock`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from wire import errors as e
from wire.ports import Lease, Meter
from wire.postgres import owed as o
from wire.postgres import protocol as p
from wire.postgres.protocol import HEADER, int32
from wire.postgres.tls import TlsEndpoint

if TYPE_CHECKING:
    from wire.postgres.server import ServerConnection
    from wire.postgres.startup import Startup

# What `request` did with a message.
FORWARD: Final = 0  # goes to the server as it came
TAKEN: Final = 1  # answered here, or put into self.out in another form
WAIT: Final = 2  # not handled yet: call again when unblocked

# How long a connection that we have ended may take to read our last words.
LINGER_SECONDS: Final = 5.0
# Bytes over its limit that a statement may have and still be read whole.
OVERSIZE_BYTES: Final = 4 * 65536


class ClientStream:
    """The reading and writing half of a client connection."""

    # Set by connection_made and by login; nothing reads them before.
    transport: asyncio.Transport
    lease: Lease

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.tls: TlsEndpoint | None = None
        self.startup: Startup | None = None
        self.server: ServerConnection | None = None
        self.closed = False
        self.phase = p.LOGIN
        # What has come and is not handled yet, and how many more bytes it takes to go on.
        self.rest: list[bytes] | None = None
        self.missing: i64 = 0
        # The rest of a message whose start was handled: its size, and whether it is dropped.
        self.body: i64 = 0
        self.body_dropped = False
        self.drop_rest = True
        # The read at hand, and how far it was passed on and is being handled.
        self.chunk = b""
        self.chunk_sent: i64 = 0
        self.chunk_pos: i64 = 0
        # Why reading is paused: a request waits, the server takes no more, the client takes no
        # more, too many requests have no answer.
        self.blocked = False
        self.held = False
        self.full = False
        self.crowded = False
        self.out: list[bytes] | None = None

    # --- what the other halves do for this one ----------------------------------------------------

    def request(self, kind: int, data: bytes, pos: i64, end: i64, size: i64) -> int:
        raise NotImplementedError

    def server_idle(self, server: ServerConnection) -> None:
        raise NotImplementedError

    def leave_server(self) -> None:
        raise NotImplementedError

    # --- reading ----------------------------------------------------------------------------------

    def process(self, data: bytes) -> None:
        """Handle every whole message of `data`; keep the rest for the next call."""
        if self.blocked or self.rest is not None:
            data = self.gather(data)
            if not data:
                return
        size: i64 = len(data)
        pos: i64 = 0
        self.chunk = data
        self.chunk_sent = 0
        if self.body > 0:
            pos = self.body if self.body < size else size
            self.body -= pos
            if self.body_dropped:
                self.chunk_sent = pos
            elif self.body == 0:
                self.body_sent(pos)
        while size - pos >= HEADER:
            kind = data[pos]
            length = int32(data, pos + 1)
            if length < 4 or length > p.MAX_MESSAGE_BYTES:
                raise e.ProtocolViolation("invalid message length")
            end = pos + 1 + length
            if end > size and not self.may_start(kind, pos, size, length):
                break
            self.chunk_pos = pos
            self.drop_rest = True
            action = self.request(kind, data, pos, end, size)
            if action != FORWARD:
                self.flush()
                if action == WAIT or self.closed:
                    break
                self.chunk_sent = end if end < size else size
            if end > size:
                self.body = end - size
                self.body_dropped = action == TAKEN and self.drop_rest
                pos = size
                break
            pos = end
        if self.closed:
            return
        self.chunk_pos = pos
        self.flush()
        self.chunk = b""
        if self.out is not None:
            self.send_out()
        if self.server is not None and self.server.outstanding() > o.MAX_OUTSTANDING:
            self.crowd(True)
        if pos < size:
            self.rest = [data[pos:]] if self.rest is None else [data[pos:], *self.rest]

    def process_safely(self, data: bytes) -> None:
        try:
            self.process(data)
        except e.TenantryError as error:
            self.end(error)

    def gather(self, data: bytes) -> bytes:
        """Put `data` to what has come before; empty while that cannot be handled yet."""
        rest = self.rest
        if rest is None:
            rest = self.rest = []
        if data:
            rest.append(data)
            self.missing -= len(data)
        if self.blocked or self.missing > 0:
            return b""
        self.rest = None
        self.missing = 0
        return b"".join(rest)

    def may_start(self, kind: int, pos: i64, size: i64, length: i64) -> bool:
        """Whether a message that has not come whole can be handled already.

        COPY data and large parameter values are passed on as they come; statements are read whole
        because they are judged, if they are not too large for that anyway.
        """
        if self.phase == p.SKIPPING or kind == p.COPY_DATA:
            return True
        if kind == p.QUERY or kind == p.PARSE:
            limit = self.lease.max_statement_bytes
            if limit and length > limit + p.MAX_NAME_BYTES + OVERSIZE_BYTES:
                return True
        elif kind == p.BIND or kind == p.FUNCTION_CALL:
            start = HEADER + 2 * p.MAX_NAME_BYTES - (size - pos)
            if start < 0:
                return True
            # Wait for the names only: the whole may be a gigabyte.
            whole = pos + 1 + length - size
            self.missing = whole if whole <= start else start + 1
            return False
        elif length > p.MAX_LOGIN_MESSAGE_BYTES:
            raise e.ProtocolViolation(f"message of type 0x{kind:02x} is too long")
        self.missing = pos + 1 + length - size
        return False

    def body_sent(self, end: i64) -> None:
        """The last of a message that was passed on in pieces is here."""
        self.chunk_pos = end
        self.flush()
        server = self.server
        if server is not None and server.at_rest():
            # COPY had failed before its data ended; the server was kept for the rest of it.
            self.server_idle(server)

    # --- to the server ----------------------------------------------------------------------------

    def flush(self) -> None:
        """Pass on what is to be forwarded as it came, up to the message at hand."""
        sent = self.chunk_sent
        pos = self.chunk_pos
        if pos > sent:
            self.chunk_sent = pos
            if self.server is not None:
                chunk = self.chunk
                piece = chunk if sent == 0 and pos == len(chunk) else chunk[sent:pos]
                if self.out is None:
                    self.server.write(piece)
                else:
                    self.out.append(piece)

    def send(self, piece: bytes) -> None:
        """Queue for the server something else than what came, after what came before it."""
        self.flush()
        if self.out is None:
            self.out = []
        self.out.append(piece)

    def send_out(self) -> None:
        if self.out is not None and self.server is not None:
            self.server.write(b"".join(self.out))
        self.out = None

    # --- to the client ----------------------------------------------------------------------------

    def deliver(self, data: bytes) -> None:
        if not self.closed:
            self.meter.bytes_out += len(data)
            self.transport.write(data if self.tls is None else self.tls.send(data))

    def end(self, error: e.TenantryError | None) -> None:
        """Close the connection, saying why."""
        if self.closed:
            return
        if self.server is not None and self.server.mid_message():
            # The client would take our words for the rest of a row.
            error = None
        if error is not None:
            self.deliver(p.error_response(error, fatal=True))
        self.closed = True
        self.leave_server()
        if self.tls is not None and not self.transport.is_closing():
            # Without close_notify the peer could not tell the end from a cut (RFC 8446, 6.1).
            self.transport.write(self.tls.close())
        self.hang_up(error is None)

    def hang_up(self, at_once: bool) -> None:
        """Close; after last words, only when the peer has had the time to read them.

        Closing a socket on which the peer's next request arrives resets it, and a reset takes what
        the peer has not read yet. A peer that does not go away by itself is cut off.
        """
        if at_once or self.transport.is_closing():
            self.transport.close()
        else:
            self.transport.write_eof()
            self.transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.abort)

    # --- pausing ----------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client does not take its answers: get no more, and take no more requests."""
        self.full = True
        self.update_reading()
        if self.server is not None:
            self.server.pause(True)

    def resume_writing(self) -> None:
        self.full = False
        self.update_reading()
        if self.server is not None:
            self.server.pause(False)

    def update_reading(self) -> None:
        if not self.closed:
            if self.blocked or self.held or self.full or self.crowded:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def block(self) -> None:
        if not self.blocked:
            self.blocked = True
            self.update_reading()

    def unblock(self) -> None:
        if not self.blocked or self.closed:
            return
        self.blocked = False
        if self.startup is not None:
            self.startup.wake()
            return
        self.update_reading()
        self.process_safely(b"")

    def hold(self, held: bool) -> None:
        """The server does not take what we write (or does again)."""
        self.held = held
        self.update_reading()

    def crowd(self, crowded: bool) -> None:
        """Too many requests have no answer yet (or no longer)."""
        if crowded != self.crowded:
            self.crowded = crowded
            self.update_reading()
