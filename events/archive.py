"""The log as a file, and back: for backups, for moving to another server, for looking at.

JSON, one object a line: a header, each message as it lies in the log, and a trailer with the
SHA-256 of all bytes before it. Messages keep their bytes, their headers and when they were stored.
Secrets are in them sealed, as in the log: the file is worth nothing without the key, which is not
in it, and must be kept with the same care as the log all the same.

    {"format": "tenantry events", "version": 1, "stream": …, "first": 1, "last": n, …}
    {"sequence": 1, "subject": …, "stored_at": ns, "headers": {…}, "text": …}
    {"messages": n, "sha256": …}

`text` is the message when it is UTF-8; `base64` stands in its place when it is not.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import orjson

from events.log import ConfigLog
from events.reader import STORED_AT_HEADER, Stored
from events.stream import STREAM, SUBJECT_PREFIX

FORMAT: Final = "tenantry events"
VERSION: Final = 1
# Longest line that is read: a commit is 512 KiB at most, and escaping can triple it.
LINE_BYTES_MAX: Final = 4 * 1024 * 1024
# Messages sent before the first answer is awaited. Each names the sequence it expects, so that
# when one fails none behind it is taken.
IN_FLIGHT_MAX: Final = 256
# Between two calls of the progress.
TELL_MESSAGES: Final = 10_000

# Headers that spoke to the server when the message was first sent, and mean nothing in a file.
_SPOKEN: Final = ("Nats-Expected-",)

Progress = Callable[[int, int], None]


class ArchiveError(Exception):
    """The file is not a whole, unchanged export, or it does not fit the log."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the file says of itself."""

    first: int
    last: int
    exported_at: str


@dataclass(frozen=True, slots=True)
class Result:
    """`messages` in the file, `added` to the log."""

    header: Header
    messages: int
    added: int
    sha256: str


# --- out -----------------------------------------------------------------------------------------


async def export(log: ConfigLog, path: Path, progress: Progress | None = None) -> Result:
    """Write all that is stored now to `path`, whole or not at all.

    Raises LogUnavailable, LogGap, OSError.
    """
    last = await log.last_sequence()
    header = Header(1, last, datetime.now(UTC).isoformat(timespec="seconds"))
    total = hashlib.sha256()
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:

            def write(line: dict[str, Any]) -> None:
                text = orjson.dumps(line) + b"\n"
                total.update(text)
                file.write(text)

            def take(stored: Stored) -> None:
                write(_line(stored))
                if progress is not None and stored.sequence % TELL_MESSAGES == 0:
                    progress(stored.sequence, last)

            write(_header_line(header))
            await log.scan(take, last=last)
            trailer = {"messages": last, "sha256": total.hexdigest()}
            file.write(orjson.dumps(trailer) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)
    return Result(header, last, 0, total.hexdigest())


def _header_line(header: Header) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "stream": STREAM,
        "first": header.first,
        "last": header.last,
        "exported_at": header.exported_at,
    }


def _line(stored: Stored) -> dict[str, Any]:
    line: dict[str, Any] = {
        "sequence": stored.sequence,
        "subject": stored.subject,
        "stored_at": stored.stored_at,
        "headers": {
            name: value
            for name, value in stored.headers.items()
            if not name.startswith(_SPOKEN) and name != STORED_AT_HEADER
        },
    }
    try:
        line["text"] = stored.data.decode()
    except UnicodeDecodeError:
        line["base64"] = base64.b64encode(stored.data).decode()
    return line


# --- in ------------------------------------------------------------------------------------------


def verify(path: Path) -> Result:
    """Read the file through. Raises ArchiveError with what is wrong, OSError."""
    header, messages, digest = None, 0, ""
    with path.open("rb") as file:
        for each in _checked(file):
            if isinstance(each, Header):
                header = each
            elif isinstance(each, Stored):
                messages += 1
            else:
                digest = each
    assert header is not None, "without one, reading has failed"
    return Result(header, messages, 0, digest)


def sealing_keys(path: Path) -> set[str]:
    """Ids of the keys that sealed secrets in the file: without them it is of little use."""
    found: set[str] = set()
    with path.open("rb") as file:
        for line in file:
            for part in line.split(b"sealed:1:")[1:]:
                found.add(part[:8].decode("ascii", "replace"))
    return found


async def import_(log: ConfigLog, path: Path, progress: Progress | None = None) -> Result:
    """Put the file's messages into the log, which must be empty, or hold the beginning of the file
    (an import that was interrupted): nothing in it can be deleted to begin anew.

    Everything is checked before anything is written. Raises ArchiveError, LogError, OSError.
    """
    checked = verify(path)
    if checked.messages and checked.header.first != 1:
        raise ArchiveError(f"it begins at sequence {checked.header.first}, a log begins at 1")
    state = (await log.info())["state"]
    have = int(state["last_seq"])
    if int(state["messages"]) != have:
        raise ArchiveError("the log lacks messages; import into an empty one")
    if have > checked.messages:
        raise ArchiveError(f"the log holds {have} messages, the file {checked.messages}")
    if have:
        await _check_beginning(log, path, have)
    with path.open("rb") as file:
        waiting: list[Stored] = []
        for each in _checked(file):
            if isinstance(each, Stored) and each.sequence > have:
                waiting.append(each)
            if waiting and (len(waiting) >= IN_FLIGHT_MAX or isinstance(each, str)):
                await _add(log, waiting)
                waiting = []
                if progress is not None and isinstance(each, Stored):
                    progress(each.sequence, checked.messages)
    return Result(checked.header, checked.messages, checked.messages - have, checked.sha256)


async def _check_beginning(log: ConfigLog, path: Path, have: int) -> None:
    """Raises ArchiveError unless the first `have` messages of log and file are the same."""
    with path.open("rb") as file:
        expected = (each for each in _checked(file) if isinstance(each, Stored))

        def take(stored: Stored) -> None:
            wanted = next(expected)
            if (stored.subject, stored.data) != (wanted.subject, wanted.data):
                raise ArchiveError(
                    f"the log is not empty, and at sequence {stored.sequence} it holds something "
                    "other than the file; import into an empty one"
                )

        with contextlib.closing(expected):
            await log.scan(take, last=have)


async def _add(log: ConfigLog, messages: list[Stored]) -> None:
    """Store `messages` at exactly their sequences. Raises ArchiveError when somebody else writes
    at the same time, LogUnavailable."""
    sure = messages[0].sequence - 1

    async def once(wait: float) -> None:
        nonlocal sure
        # What an earlier try stored without our hearing of it must not be sent again.
        have = await log.last_sequence()
        for each in messages:
            if sure < each.sequence <= have:
                await _check_same(log, each)
        sure = max(sure, have)
        sending = [_send(log, each, wait) for each in messages if each.sequence > sure]
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    await log.connection.persist(once, "the import", writing=True)


async def _send(log: ConfigLog, stored: Stored, wait: float) -> None:
    headers = {
        **stored.headers,
        STORED_AT_HEADER: str(stored.stored_at),
        "Nats-Expected-Stream": STREAM,
        "Nats-Expected-Last-Sequence": str(stored.sequence - 1),
    }
    # The server would take two old messages with one id for the same one sent twice.
    headers.pop("Nats-Msg-Id", None)
    await log.connection.ask(stored.subject, stored.data, wait, headers)


async def _check_same(log: ConfigLog, wanted: Stored) -> None:
    found = await log.get(wanted.sequence)
    if found is None or (found.subject, found.data) != (wanted.subject, wanted.data):
        raise ArchiveError(
            f"somebody else wrote to the log at sequence {wanted.sequence}; "
            "import before anything is served from it"
        )


# --- the file ------------------------------------------------------------------------------------


def _checked(file: IO[bytes]) -> Iterator[Header | Stored | str]:
    """The header, the messages, and the digest. Raises ArchiveError."""
    total = hashlib.sha256()
    header: Header | None = None
    messages = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        if len(line) > LINE_BYTES_MAX or not line.endswith(b"\n"):
            raise ArchiveError("it ends in the middle of a line: the file was cut off")
        try:
            fields = orjson.loads(line)
            if header is None:
                header = _read_header(fields)
                yield header
            elif "sha256" in fields:
                _check_trailer(fields, total.hexdigest(), messages, header)
                if file.read(1):
                    raise ArchiveError("something follows its end")
                yield total.hexdigest()
                return
            else:
                stored = _read_line(fields)
                if stored.sequence != header.first + messages:
                    raise ArchiveError(f"sequence {stored.sequence} is out of order")
                messages += 1
                yield stored
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            where = f"line {messages + 1}" if header is None else f"line {messages + 2}"
            raise ArchiveError(f"{where} cannot be read: {type(error).__name__}") from None
        total.update(line)
    raise ArchiveError("it has no end: the file was cut off")


def _read_header(fields: dict[str, Any]) -> Header:
    if fields.get("format") != FORMAT:
        raise ArchiveError("it is not an export of events")
    if fields["version"] != VERSION:
        raise ArchiveError(f"version {fields['version']} of the format is not known here")
    return Header(int(fields["first"]), int(fields["last"]), str(fields["exported_at"]))


def _read_line(fields: dict[str, Any]) -> Stored:
    if "text" in fields:
        data = fields["text"].encode()
    else:
        data = base64.b64decode(fields["base64"], validate=True)
    subject = fields["subject"]
    if not subject.startswith(SUBJECT_PREFIX) or any(each in subject for each in " \t\r\n*>"):
        raise ArchiveError(f"{subject!r} is no subject of the log")
    headers = {str(name): str(value) for name, value in fields["headers"].items()}
    return Stored(int(fields["sequence"]), int(fields["stored_at"]), subject, data, headers)


def _check_trailer(fields: dict[str, Any], digest: str, messages: int, header: Header) -> None:
    if fields["sha256"] != digest:
        raise ArchiveError("its checksum is wrong: the file was changed")
    if fields["messages"] != messages or header.last != header.first + messages - 1:
        raise ArchiveError("messages are missing from it")


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
