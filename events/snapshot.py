"""Snapshots of the projection, so that a start does not fold the whole log again.

A snapshot is a convenience that may vanish at any time: whatever is doubtful about it (missing,
changed, made by other code, of another stream, beyond the end of the log), the log is folded from
its first message instead. It lies in a JetStream key-value bucket of its own, as a manifest and
compressed pieces. State read from it is trusted like the log, so the manifest is sealed with a key
that only the installation has, and names the hash of each piece.

The fold is code, so the manifest also names the code that made it: a version that reads facts
which an older one parked must not inherit the older one's state.

Protocol: ADR-8 (key-value buckets), ADR-31 (reading messages by subject).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import orjson
import pydantic

from events.dumped import copy, dump, dump_commands, restore, restore_commands
from events.log import ConfigLog
from events.personal import Opener
from events.projection import Projection
from events.secrets import Vault
from events.stream import STREAM_NAME_IN_USE, WRONG_LAST_SEQUENCE, ApiError, LogError

log = logging.getLogger("tenantry.snapshot")

FORMAT: Final = 1
BUCKET: Final = "TENANTRY_SNAPSHOTS"
STREAM: Final = f"KV_{BUCKET}"
MANIFEST: Final = f"$KV.{BUCKET}.manifest"
PIECES: Final = f"$KV.{BUCKET}.piece."

# Folding this many messages takes a quarter of a second, so a start is late by that at most.
EVERY_MESSAGES: Final = 10_000
# Writing 100,000 tenants takes seconds of CPU: a bulk load must not do it again and again.
EVERY_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 5.0
# Half of the server's default message limit of 1 MiB: read back as base64 it still fits.
PIECE_BYTES: Final = 512 * 1024
# 2 GiB compressed, some twenty million tenants: far beyond what one process can hold.
PIECES_MAX: Final = 4096
# 100,000 tenants are about 100 MB before compression; a manifest that asks for more than this is
# not believed.
RAW_BYTES_MAX: Final = 16 * 1024**3
# Unpacked at a time; a piece can be fifty times as large as it looks.
UNPACKED_BYTES: Final = 256 * 1024
# Pieces read at once.
READ_AHEAD: Final = 8
# Lines handed to the compressor together: the calls would cost more than the work.
LINES_AT_ONCE: Final = 500


class _Doubt(Exception):
    """Why a snapshot is not used."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot is of, and what it consists of. Times are seconds since 1970."""

    id: str
    sequence: int
    digest: str
    tenants: int
    made_at: float
    stream_created: str
    message_sha256: str
    raw_bytes: int
    pieces: tuple[str, ...]
    command_pieces: tuple[str, ...]
    previous: str = ""
    code: str = ""
    format: int = FORMAT

    def sealed(self, vault: Vault) -> bytes:
        body = orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)
        return orjson.dumps({"manifest": body.decode(), "mac": _mac(vault, body)})

    @classmethod
    def unsealed(cls, data: bytes, vault: Vault) -> Manifest:
        """Raises _Doubt."""
        try:
            outer = orjson.loads(data)
            body = outer["manifest"].encode()
            if not hmac.compare_digest(_mac(vault, body), outer["mac"]):
                raise _Doubt("it was not sealed with this installation's key")
            fields = orjson.loads(body)
            # A newer format is for newer code: its other fields may mean anything.
            if fields["format"] != FORMAT:
                raise _Doubt(f"format {fields['format']} is not known here")
            for name in ("pieces", "command_pieces"):
                fields[name] = tuple(fields[name])
            return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _Doubt(f"its manifest cannot be read: {error!r}") from None


# --- reading -------------------------------------------------------------------------------------


async def load(
    source: ConfigLog,
    vault: Vault,
    *,
    opener: Opener | None = None,
    remember_commands: bool = True,
) -> Projection | None:
    """The state of the newest snapshot, to be continued with what the log holds behind its
    position; None when there is none that is beyond doubt. Raises nothing but cancellation.

    `opener` and `remember_commands` as for a Projection.
    """
    try:
        manifest = await _manifest(source, vault)
        if manifest is None:
            return None
        await _check(source, manifest)
        pieces = await _read_pieces(source, manifest, "state", manifest.pieces)
        known = None
        if remember_commands:
            known = b"".join(
                await _read_pieces(source, manifest, "commands", manifest.command_pieces)
            )
        loaded = await asyncio.to_thread(_unpack, manifest, pieces, known, opener)
    except _Doubt as doubt:
        log.warning("the snapshot is not used, the whole log is read instead: %s", doubt)
    except Exception as error:
        log.warning("the snapshot cannot be read, the whole log is instead: %r", error)
    else:
        log.info("started from the snapshot at sequence %d", manifest.sequence)
        return loaded
    return None


async def read_manifest(source: ConfigLog, vault: Vault) -> Manifest | None:
    """The newest snapshot's manifest; None when there is none that fits this log and this code.
    Raises LogUnavailable."""
    try:
        manifest = await _manifest(source, vault)
        if manifest is not None:
            await _check(source, manifest)
    except _Doubt as doubt:
        log.info("there is a snapshot that is not used: %s", doubt)
        return None
    return manifest


async def _manifest(source: ConfigLog, vault: Vault) -> Manifest | None:
    message = await source.fetch(STREAM, {"last_by_subj": MANIFEST})
    return None if message is None else Manifest.unsealed(_data(message), vault)


async def _check(source: ConfigLog, manifest: Manifest) -> None:
    """Raises _Doubt unless the snapshot is of this very log and this very code."""
    if manifest.code != code():
        raise _Doubt("another version made it")
    info = await source.info()
    if manifest.stream_created != info["created"]:
        raise _Doubt("it is of a log that was replaced")
    if manifest.sequence > int(info["state"]["last_seq"]):
        raise _Doubt(f"it is of sequence {manifest.sequence}, where the log has not come to yet")
    message = await source.get(manifest.sequence)
    if message is None or hashlib.sha256(message.data).hexdigest() != manifest.message_sha256:
        raise _Doubt(f"the log has another message at {manifest.sequence}")
    pieces = len(manifest.pieces) + len(manifest.command_pieces)
    if pieces > PIECES_MAX or manifest.raw_bytes > RAW_BYTES_MAX:
        raise _Doubt("it is too large")


async def _read_pieces(
    source: ConfigLog, manifest: Manifest, part: str, hashes: tuple[str, ...]
) -> list[bytes]:
    slots = asyncio.Semaphore(READ_AHEAD)

    async def read(number: int, sha256: str) -> bytes:
        async with slots:
            subject = f"{PIECES}{manifest.id}.{part}.{number}"
            message = await source.fetch(STREAM, {"last_by_subj": subject})
        data = b"" if message is None else _data(message)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _Doubt(f"piece {number} of the {part} is missing or was changed")
        return data

    return await asyncio.gather(*(read(n, sha256) for n, sha256 in enumerate(hashes)))


def _unpack(
    manifest: Manifest, pieces: list[bytes], known: bytes | None, opener: Opener | None
) -> Projection:
    """`known` are the command ids, None when they are not wanted. Raises _Doubt."""
    try:
        lines = _lines(pieces, manifest.raw_bytes)
        small = orjson.loads(next(lines))
        if known is not None and small["commands"] is None:
            raise _Doubt("it does not know which commands were carried out")
        commands = None if known is None else restore_commands(small["commands"], known)
        made = restore(small, lines, commands, opener)
    except (StopIteration, zlib.error, ValueError, KeyError, TypeError) as error:
        raise _Doubt(f"it cannot be unpacked: {error!r}") from None
    if made.position != manifest.sequence or made.digest() != manifest.digest:
        raise _Doubt("what it holds is not the state that it claims")
    return made


def _lines(pieces: list[bytes], raw_bytes: int) -> Iterator[bytes]:
    """The lines, without ever holding all of them. Raises _Doubt, zlib.error."""
    unpacker = zlib.decompressobj()
    total = 0
    rest = b""
    for piece in pieces:
        packed = piece
        while packed and total <= raw_bytes:
            raw = unpacker.decompress(packed, UNPACKED_BYTES)
            packed = unpacker.unconsumed_tail
            total += len(raw)
            *lines, rest = (rest + raw).split(b"\n")
            yield from lines
    if total != raw_bytes or rest or not unpacker.eof:
        raise _Doubt("it is longer or shorter than it claims")


# --- writing -------------------------------------------------------------------------------------


async def save(source: ConfigLog, vault: Vault, projection: Projection) -> Manifest | None:
    """Write a snapshot of `projection` as it is now; None when there is nothing to write, or
    somebody else has written one meanwhile. Raises LogError."""
    state = copy(projection)
    message = await source.get(state.position)
    if message is None:
        return None
    replaced = await source.fetch(STREAM, {"last_by_subj": MANIFEST})
    previous = _previous(replaced, vault)
    piece_bytes = min(PIECE_BYTES, source.nats.max_payload // 2)
    draft, parts = await asyncio.to_thread(_pack, state, piece_bytes)
    manifest = replace(
        draft,
        stream_created=(await source.info())["created"],
        message_sha256=hashlib.sha256(message.data).hexdigest(),
        previous="" if previous is None else previous.id,
    )
    await _make_bucket(source)
    for part, pieces in parts.items():
        for number, piece in enumerate(pieces):
            await _put(source, f"{PIECES}{manifest.id}.{part}.{number}", piece, {})
    expected = {"Nats-Expected-Last-Subject-Sequence": str(replaced["seq"] if replaced else 0)}
    if not await _put(source, MANIFEST, manifest.sealed(vault), expected):
        return None
    await _tidy(source, manifest)
    log.info(
        "wrote a snapshot at sequence %d: %d tenants in %d pieces",
        manifest.sequence,
        manifest.tenants,
        sum(map(len, parts.values())),
    )
    return manifest


async def keep_saving(source: ConfigLog, vault: Vault, projection: Projection) -> None:
    """Save whenever the log has grown by EVERY_MESSAGES, until cancelled. What fails is tried
    again later: nothing depends on it."""
    saved: int | None = None
    while True:
        try:
            if saved is None:
                manifest = await read_manifest(source, vault)
                saved = 0 if manifest is None else manifest.sequence
            if projection.position - saved >= EVERY_MESSAGES:
                # Another process may have been first; then its snapshot is what ours follows.
                manifest = await read_manifest(source, vault)
                newest = 0 if manifest is None else manifest.sequence
                if projection.position - newest >= EVERY_MESSAGES:
                    manifest = await save(source, vault, projection)
                saved = newest if manifest is None else manifest.sequence
                await asyncio.sleep(EVERY_SECONDS)
        except (LogError, OSError) as error:
            log.info("no snapshot for now: %s", error)
        except Exception:
            log.exception("a snapshot could not be written")
            await asyncio.sleep(EVERY_SECONDS)
        await asyncio.sleep(LOOK_SECONDS)


def _previous(message: dict[str, Any] | None, vault: Vault) -> Manifest | None:
    try:
        return None if message is None else Manifest.unsealed(_data(message), vault)
    except _Doubt:
        return None


def _pack(state: Projection, piece_bytes: int) -> tuple[Manifest, dict[str, list[bytes]]]:
    small, lines = dump(state)
    small["commands"], known = dump_commands(state)
    packer = zlib.compressobj(1)
    packed = bytearray()
    raw_bytes = 0
    every = chain((orjson.dumps(small),), lines)
    while block := b"".join([line + b"\n" for line in islice(every, LINES_AT_ONCE)]):
        raw_bytes += len(block)
        packed += packer.compress(block)
    packed += packer.flush()
    parts = {"state": _cut(packed, piece_bytes), "commands": _cut(known, piece_bytes)}
    manifest = Manifest(
        id=f"{time.time_ns():016x}-{os.urandom(4).hex()}",
        sequence=state.position,
        digest=state.digest(),
        tenants=state.tenant_count(),
        made_at=time.time(),
        stream_created="",
        message_sha256="",
        raw_bytes=raw_bytes,
        pieces=_hashes(parts["state"]),
        command_pieces=_hashes(parts["commands"]),
        code=code(),
    )
    return manifest, parts


def _cut(data: bytes | bytearray, size: int) -> list[bytes]:
    return [bytes(data[at : at + size]) for at in range(0, len(data), size)]


def _hashes(pieces: list[bytes]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(piece).hexdigest() for piece in pieces)


async def _put(
    source: ConfigLog, subject: str, data: bytes, headers: dict[str, str]
) -> dict[str, Any] | None:
    """Store; None when `headers` expected something else. Raises LogUnavailable."""

    async def once(wait: float) -> dict[str, Any] | None:
        try:
            return await source.connection.ask(subject, data, wait, dict(headers))
        except ApiError as error:
            if headers and error.code in WRONG_LAST_SEQUENCE:
                return None
            raise

    return await source.connection.persist(once, "a snapshot", writing=False)


async def _make_bucket(source: ConfigLog) -> None:
    """Make the bucket as a key-value client would, unless it is there."""
    config = {
        "name": STREAM,
        "description": "Snapshots of Tenantry's configuration; may be deleted at any time",
        "subjects": [f"$KV.{BUCKET}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "num_replicas": source.replicas,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "deny_delete": True,
    }

    async def once(wait: float) -> None:
        try:
            subject = f"$JS.API.STREAM.CREATE.{STREAM}"
            await source.connection.ask(subject, orjson.dumps(config), wait)
        except ApiError as error:
            if error.code != STREAM_NAME_IN_USE:
                raise

    await source.connection.persist(once, f"the bucket {BUCKET}", writing=False)


async def _tidy(source: ConfigLog, newest: Manifest) -> None:
    """Remove the pieces of what is older than `newest`, but for the one before it: somebody may be
    reading that. Another save that is older and still under way has lost to `newest` already."""
    question = orjson.dumps({"subjects_filter": f"{PIECES}>"})
    info = await source.request(f"$JS.API.STREAM.INFO.{STREAM}", question)
    subjects = info["state"].get("subjects") or {}
    found = {subject[len(PIECES) :].partition(".")[0] for subject in subjects}
    for id in found - {newest.id, newest.previous}:
        if id < newest.id:
            purge = orjson.dumps({"filter": f"{PIECES}{id}.>"})
            await source.request(f"$JS.API.STREAM.PURGE.{STREAM}", purge)


# --- parts ---------------------------------------------------------------------------------------


@cache
def code() -> str:
    """A hash of the code that folds: equal code makes equal states of equal logs."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    if not files:
        return os.urandom(8).hex()  # cannot be told, so no snapshot is trusted
    total = hashlib.sha256(pydantic.VERSION.encode())
    for path in files:
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def _mac(vault: Vault, body: bytes) -> str:
    return hmac.digest(vault.derive("snapshot"), body, "sha256").hex()


def _data(message: dict[str, Any]) -> bytes:
    return base64.b64decode(message.get("data", ""))
