"""The log as a file, and back: for backups, for moving to another server, for looking at.

JSON, one object a line: a header, each message as it lies in the log, and a trailer with the
SHA-256 of all bytes before it. Messages keep their bytes, their headers and when they were stored.
Secrets are in them sealed, as in the log: the file is worth nothing without the key, which is not
in it, and must be kept with the same care as the log all the same. Keys of personal data are in it
only if asked for (version 2): sealed too, each on a line of its own behind the messages.

    {"format": "tenantry events", "version": 1, "stream": …, "first": 1, "last": n, …}
    {"sequence": 1, "subject": …, "stored_at": ns, "headers": {…}, "text": …}
    {"key_of": tenant, "sealed": …}
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
from typing import IO, Any, Final, NamedTuple

import orjson

from events.archive_keys import restore, stored_keys
from events.history import state_at
from events.log import ConfigLog
from events.model import TENANT_ID
from events.reader import STORED_AT_HEADER, Stored
from events.secrets import is_sealed
from events.stream import STREAM, SUBJECT_PREFIX

FORMAT: Final = "tenantry events"
VERSION: Final = 1
# With keys; programs that do not know of them refuse it, rather than lose them.
VERSION_WITH_KEYS: Final = 2
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
    keys: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """`messages` in the file, `added` to the log; `keys` of personal data in the file, and those
    that were brought back."""

    header: Header
    messages: int
    added: int
    sha256: str
    keys: int = 0
    keys_added: int = 0


class KeyLine(NamedTuple):
    """A tenant's key of personal data, sealed with the installation's."""

    tenant: str
    sealed: str


# --- out -----------------------------------------------------------------------------------------


async def export(
    log: ConfigLog, path: Path, progress: Progress | None = None, *, with_keys: bool = False
) -> Result:
    """Write all that is stored now to `path` (mode 0600), whole or not at all.

    Raises LogUnavailable, LogGap, OSError.
    """
    last = await log.last_sequence()
    # Read behind `last`: nothing before it lacks its key, unless that was erased.
    keys = await stored_keys(log) if with_keys else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    header = Header(1, last, now, len(keys))
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

            write(_header_line(header, with_keys=with_keys))
            await log.scan(take, last=last)
            for tenant, sealed in sorted(keys.items()):
                write({"key_of": tenant, "sealed": sealed})
            trailer = {"messages": last, "sha256": total.hexdigest()}
            file.write(orjson.dumps(trailer) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)
    return Result(header, last, 0, total.hexdigest(), len(keys))


def _header_line(header: Header, *, with_keys: bool) -> dict[str, Any]:
    keys = {"keys": header.keys} if with_keys else {}
    return keys | {
        "format": FORMAT,
        "version": VERSION_WITH_KEYS if with_keys else VERSION,
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
    header, messages, digest, keys = None, 0, "", 0
    with path.open("rb") as file:
        for each in _checked(file):
            if isinstance(each, Header):
                header = each
            elif isinstance(each, Stored):
                messages += 1
            elif isinstance(each, KeyLine):
                keys += 1
            else:
                digest = each
    assert header is not None, "without one, reading has failed"
    return Result(header, messages, 0, digest, keys)


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
    keys: dict[str, str] = {}
    with path.open("rb") as file:
        waiting: list[Stored] = []
        for each in _checked(file):
            if isinstance(each, Stored) and each.sequence > have:
                waiting.append(each)
            elif isinstance(each, KeyLine):
                keys[each.tenant] = each.sealed
            if waiting and (len(waiting) >= IN_FLIGHT_MAX or isinstance(each, str)):
                await _add(log, waiting)
                waiting = []
                if progress is not None and isinstance(each, Stored):
                    progress(each.sequence, checked.messages)
    restored = 0
    if keys:
        state = await state_at(log, checked.messages)
        purged = [each for each in keys if state.is_purged(each)]
        restored = await restore(log, keys, purged)
    added = checked.messages - have
    return Result(checked.header, checked.messages, added, checked.sha256, len(keys), restored)


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


def _checked(file: IO[bytes]) -> Iterator[Header | Stored | KeyLine | str]:
    """The header, the messages, the keys, and the digest. Raises ArchiveError."""
    total = hashlib.sha256()
    header: Header | None = None
    messages = keys = 0
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
                if keys != header.keys:
                    raise ArchiveError("keys are missing from it")
                if file.read(1):
                    raise ArchiveError("something follows its end")
                yield total.hexdigest()
                return
            elif "key_of" in fields:
                keys += 1
                yield _read_key(fields)
            else:
                stored = _read_line(fields)
                if stored.sequence != header.first + messages:
                    raise ArchiveError(f"sequence {stored.sequence} is out of order")
                messages += 1
                yield stored
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            where = f"line {messages + keys + (1 if header is None else 2)}"
            raise ArchiveError(f"{where} cannot be read: {type(error).__name__}") from None
        total.update(line)
    raise ArchiveError("it has no end: the file was cut off")


def _read_header(fields: dict[str, Any]) -> Header:
    if fields.get("format") != FORMAT:
        raise ArchiveError("it is not an export of events")
    if fields["version"] not in (VERSION, VERSION_WITH_KEYS):
        raise ArchiveError(f"version {fields['version']} of the format is not known here")
    first, last = int(fields["first"]), int(fields["last"])
    return Header(first, last, str(fields["exported_at"]), int(fields.get("keys", 0)))


def _read_key(fields: dict[str, Any]) -> KeyLine:
    tenant, sealed = fields["key_of"], fields["sealed"]
    if TENANT_ID.fullmatch(tenant) is None or not is_sealed(sealed):
        raise ArchiveError("it has a key that is none")
    return KeyLine(tenant, sealed)


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
