"""Messages that wait on disk until their stream takes them: bounded, and adopted after a crash.

One directory for each kind of message, shared by all processes of an installation. A segment is a
file of records; who writes one holds a lock on it, which a killed process loses, so the next one
to look takes the segment over. A record that a crash cut off ends its segment.

    record = crc32 of the rest · lengths of subject, id, data · subject · id · data
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

log = logging.getLogger("tenantry.spool")

# All segments of one directory together: about 600,000 usage messages, which is a day of a hundred
# busy tenants; and small beside the disk that the log itself needs.
SPOOL_BYTES_MAX: Final = 256 * 1024 * 1024
# One segment is read into memory as a whole when it is sent.
SEGMENT_BYTES_MAX: Final = 4 * 1024 * 1024

_HEAD: Final = struct.Struct(">IHHI")
_SUFFIX: Final = ".spool"


class Message(NamedTuple):
    """What is published: `id` makes repeats harmless."""

    subject: str
    id: str
    data: bytes


class Segment:
    """A file that this process has locked; its lock goes with `done` or `close`."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self.bytes = os.fstat(handle).st_size
        self._handle = handle

    def write(self, records: bytes, *, sync: bool) -> None:
        """Append; on failure the file is as it was. Raises OSError."""
        try:
            at = 0
            while at < len(records):
                at += os.write(self._handle, records[at:])
            if sync:
                os.fsync(self._handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self.bytes)
            raise
        self.bytes += len(records)

    def messages(self) -> list[Message]:
        """All whole records, in order. Raises OSError."""
        data = os.pread(self._handle, max(self.bytes, os.fstat(self._handle).st_size), 0)
        found = list(_records(data))
        used = sum(_size(message) for message in found)
        if used < len(data):
            log.warning("%s ends in %d bytes of a broken record", self.path, len(data) - used)
        return found

    def done(self) -> None:
        """All of it is stored elsewhere."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave the file to whoever looks next."""
        os.close(self._handle)


class Spool:
    """The waiting messages in `directory`. Calls do short file operations and block for them."""

    def __init__(self, directory: Path, *, bytes_max: int = SPOOL_BYTES_MAX) -> None:
        self.directory = directory
        self.bytes_max = bytes_max
        # `parents` would make the folder above one for everybody.
        directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.mkdir(exist_ok=True, mode=0o700)
        self._boot = uuid4().hex[:16]
        self._made = 0
        self._current: Segment | None = None
        # Filled and not sent yet, oldest first; and the one being sent.
        self._full: list[Segment] = []
        self._taken: Segment | None = None

    def append(self, messages: Sequence[Message], *, sync: bool = True) -> bool:
        """Keep all `messages`, or none: False without room, or when the disk fails (told once in
        the log). With `sync` they outlive a power failure, without it only the process."""
        records = b"".join([_record(message) for message in messages])
        if self.used() + len(records) > self.bytes_max:
            return False
        try:
            self._segment().write(records, sync=sync)
        except OSError as error:
            log.error("nothing can be kept in %s: %s", self.directory, error)
            return False
        return True

    def used(self) -> int:
        """Bytes of all segments, those of other processes too."""
        total = 0
        with contextlib.suppress(OSError), os.scandir(self.directory) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    total += entry.stat().st_size
        return total

    def waiting(self) -> bool:
        """Whether this process holds messages that are not stored."""
        return self._taken is not None or bool(self._full) or self._current is not None

    def take(self) -> Segment | None:
        """The next segment to send, the oldest first; the same one until `done` is called. None
        when nothing waits. What a process that is gone left behind is taken too."""
        if self._taken is None:
            self._taken = self._adopt()
        if self._taken is None and self._full:
            self._taken = self._full.pop(0)
        if self._taken is None and self._current is not None:
            self._taken, self._current = self._current, None
        return self._taken

    def done(self) -> None:
        """All messages of the taken segment are stored."""
        if self._taken is not None:
            self._taken.done()
            self._taken = None

    def close(self) -> None:
        """Leave what waits to the next process."""
        for segment in (self._taken, self._current, *self._full):
            if segment is not None:
                segment.close()
        self._taken = self._current = None
        self._full = []

    def _segment(self) -> Segment:
        if self._current is not None and self._current.bytes >= SEGMENT_BYTES_MAX:
            self._full.append(self._current)
            self._current = None
        if self._current is None:
            self._made += 1
            path = self.directory / f"{self._boot}.{self._made:08d}{_SUFFIX}"
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._current = Segment(path, handle)
        return self._current

    def _adopt(self) -> Segment | None:
        """The oldest segment of a process that is gone, locked."""
        try:
            paths = sorted(self.directory.glob(f"*{_SUFFIX}"), key=_age)
        except OSError:
            return None
        for path in paths:
            if not path.name.startswith(self._boot) and (found := _lock(path)) is not None:
                return found
        return None


def _age(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_mtime_ns, path.name
    except OSError:
        return 0, path.name


def _lock(path: Path) -> Segment | None:
    """The segment at `path`, unless somebody else has it or it was sent meanwhile."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been finished between our look and our lock.
        if path.stat().st_ino == os.fstat(handle).st_ino:
            return Segment(path, handle)
    except OSError:
        pass
    os.close(handle)
    return None


def waiting_in(directory: Path) -> Iterator[Message]:
    """The whole records of all segments, without taking them: for people who look."""
    for path in sorted(directory.glob(f"*{_SUFFIX}"), key=_age):
        with contextlib.suppress(OSError):
            yield from _records(path.read_bytes())


def _size(message: Message) -> int:
    return _HEAD.size + len(message.subject.encode()) + len(message.id) + len(message.data)


def _record(message: Message) -> bytes:
    subject, id = message.subject.encode(), message.id.encode()
    lengths = struct.pack(">HHI", len(subject), len(id), len(message.data))
    rest = lengths + subject + id + message.data
    return struct.pack(">I", zlib.crc32(rest)) + rest


def _records(data: bytes) -> Iterator[Message]:
    at = 0
    while at + _HEAD.size <= len(data):
        check, subject, id, size = _HEAD.unpack_from(data, at)
        start = at + _HEAD.size
        end = start + subject + id + size
        if end > len(data) or zlib.crc32(data[at + 4 : end]) != check:
            return
        yield Message(
            data[start : start + subject].decode(),
            data[start + subject : start + subject + id].decode(),
            data[start + subject + id : end],
        )
        at = end
