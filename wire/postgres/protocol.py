"""PostgreSQL's frontend/backend protocol as one state table, plus framing and message building.

Rule 1: everything about which message may come when lives in FRONTEND and BACKEND below.
Rule 2: this module knows bytes only; it does no I/O and holds no connection.

Format: https://www.postgresql.org/docs/current/protocol-message-formats.html
Flow:   https://www.postgresql.org/docs/current/protocol-flow.html

A message is one type byte, a four-byte big-endian length that counts itself, and a body; only the
client's first packet lacks the type byte.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from wire.errors import ProtocolViolation, TenantryError

# --- messages that a client (frontend) sends ------------------------------------------------
BIND: Final = 66  # 'B'
CLOSE: Final = 67  # 'C'
DESCRIBE: Final = 68  # 'D'
EXECUTE: Final = 69  # 'E'
FUNCTION_CALL: Final = 70  # 'F'
FLUSH: Final = 72  # 'H'
PARSE: Final = 80  # 'P'
QUERY: Final = 81  # 'Q'
SYNC: Final = 83  # 'S'
TERMINATE: Final = 88  # 'X'
COPY_DONE: Final = 99  # 'c', both directions
COPY_DATA: Final = 100  # 'd', both directions
COPY_FAIL: Final = 102  # 'f'
PASSWORD: Final = 112  # 'p': also SASL responses

# --- messages that a server (backend) sends --------------------------------------------------
PARSE_COMPLETE: Final = 49  # '1'
BIND_COMPLETE: Final = 50  # '2'
CLOSE_COMPLETE: Final = 51  # '3'
NOTIFICATION: Final = 65  # 'A'
COMMAND_COMPLETE: Final = 67  # 'C'
DATA_ROW: Final = 68  # 'D'
ERROR: Final = 69  # 'E'
COPY_IN: Final = 71  # 'G'
COPY_OUT: Final = 72  # 'H'
EMPTY_QUERY: Final = 73  # 'I'
BACKEND_KEY: Final = 75  # 'K'
NOTICE: Final = 78  # 'N'
AUTHENTICATION: Final = 82  # 'R'
PARAMETER_STATUS: Final = 83  # 'S'
ROW_DESCRIPTION: Final = 84  # 'T'
FUNCTION_RESULT: Final = 86  # 'V'
COPY_BOTH: Final = 87  # 'W'
READY: Final = 90  # 'Z'
NO_DATA: Final = 110  # 'n'
PORTAL_SUSPENDED: Final = 115  # 's'
PARAMETER_DESCRIPTION: Final = 116  # 't'
NEGOTIATE: Final = 118  # 'v'

# --- phases and what each side may send in them ----------------------------------------------
LOGIN: Final = 0
ACTIVE: Final = 1
COPYING: Final = 2  # the server waits for COPY data from the client
SKIPPING: Final = 3  # after an error of our own: ignore everything up to Sync
CLOSED: Final = 4

# A client may pipeline, so in ACTIVE every request is legal at any time; COPY messages that come
# late (the server has already failed the COPY) are legal too, and ignored by the server.
_REQUESTS = dict.fromkeys(
    (BIND, CLOSE, DESCRIBE, EXECUTE, FLUSH, PARSE, QUERY, SYNC, FUNCTION_CALL), ACTIVE
)
FRONTEND: Final[dict[int, dict[int, int]]] = {
    LOGIN: {PASSWORD: LOGIN},
    ACTIVE: {
        **_REQUESTS,
        COPY_DATA: ACTIVE,
        COPY_DONE: ACTIVE,
        COPY_FAIL: ACTIVE,
        TERMINATE: CLOSED,
    },
    COPYING: {
        **dict.fromkeys(_REQUESTS, COPYING),
        COPY_DATA: COPYING,
        COPY_DONE: ACTIVE,
        COPY_FAIL: ACTIVE,
        TERMINATE: CLOSED,
    },
    SKIPPING: {
        **dict.fromkeys(_REQUESTS, SKIPPING),
        SYNC: ACTIVE,
        COPY_DATA: SKIPPING,
        COPY_DONE: SKIPPING,
        COPY_FAIL: SKIPPING,
        TERMINATE: CLOSED,
    },
    CLOSED: {},
}

_ANYTIME = (NOTICE, NOTIFICATION, PARAMETER_STATUS, ERROR)
BACKEND: Final[dict[int, dict[int, int]]] = {
    LOGIN: {
        AUTHENTICATION: LOGIN,
        NEGOTIATE: LOGIN,
        BACKEND_KEY: LOGIN,
        PARAMETER_STATUS: LOGIN,
        NOTICE: LOGIN,
        ERROR: CLOSED,
        READY: ACTIVE,
    },
    ACTIVE: {
        **dict.fromkeys(_ANYTIME, ACTIVE),
        PARSE_COMPLETE: ACTIVE,
        BIND_COMPLETE: ACTIVE,
        CLOSE_COMPLETE: ACTIVE,
        COMMAND_COMPLETE: ACTIVE,
        DATA_ROW: ACTIVE,
        EMPTY_QUERY: ACTIVE,
        ROW_DESCRIPTION: ACTIVE,
        NO_DATA: ACTIVE,
        PORTAL_SUSPENDED: ACTIVE,
        PARAMETER_DESCRIPTION: ACTIVE,
        FUNCTION_RESULT: ACTIVE,
        COPY_OUT: ACTIVE,
        COPY_DATA: ACTIVE,
        COPY_DONE: ACTIVE,
        COPY_IN: COPYING,
        READY: ACTIVE,
    },
    # The server leaves COPY by completing or failing the command.
    COPYING: {**dict.fromkeys(_ANYTIME, COPYING), COMMAND_COMPLETE: ACTIVE, ERROR: ACTIVE},
    CLOSED: {},
}

# --- limits ------------------------------------------------------------------------------------
HEADER: Final[i64] = 5
# PostgreSQL refuses larger startup packets too (MAX_STARTUP_PACKET_LENGTH).
MAX_STARTUP_BYTES: Final = 10_000
# SASL and password messages before authentication; PostgreSQL's own bound is 65,535.
MAX_LOGIN_MESSAGE_BYTES: Final = 16_384
# PostgreSQL's own maximum for one message (PQ_LARGE_MESSAGE_LIMIT is MaxAllocSize, 1 GiB - 1).
MAX_MESSAGE_BYTES: Final[i64] = 0x3FFFFFFF
# Names in Bind, Describe and Close. PostgreSQL truncates identifiers at 63 bytes but takes longer
# statement names; drivers stay far below this.
MAX_NAME_BYTES: Final[i64] = 1024
# A server message that must be read whole (an error, a command tag). More is forwarded unread.
MAX_INSPECTED_BYTES: Final[i64] = 65_536

# --- the client's first packet -----------------------------------------------------------------
CANCEL_REQUEST: Final = 80877102
SSL_REQUEST: Final = 80877103
GSSENC_REQUEST: Final = 80877104
PROTOCOL_3_0: Final = 196608
PROTOCOL_3_2: Final = 196610

IDLE: Final = 73  # 'I'
IN_TRANSACTION: Final = 84  # 'T'
FAILED: Final = 69  # 'E'


# Strings up to here are searched byte by byte.
SHORT_STRING: Final[i64] = 200


def legal(table: dict[int, dict[int, int]], phase: int, kind: int) -> int:
    """The phase after message `kind`; raises ProtocolViolation when it may not come now."""
    after = table[phase].get(kind)
    if after is None:
        raise ProtocolViolation(f"unexpected message type 0x{kind:02x}")
    return after


def int32(data: bytes, at: i64) -> i64:
    """The unsigned big-endian 32-bit number at `at`; the caller has checked the bounds."""
    return (
        (i64(data[at]) << 24)
        | (i64(data[at + 1]) << 16)
        | (i64(data[at + 2]) << 8)
        | i64(data[at + 3])
    )


def message(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + (len(body) + 4).to_bytes(4, "big") + body


def cstring_end(data: bytes, start: i64, end: i64) -> i64:
    """Index of the zero byte that ends the string at `start`; -1 if none comes before `end`."""
    # Names and most statements are short: a loop that compiles to a few instructions a byte costs a
    # tenth of a call to bytes.find.
    stop = end if end - start <= SHORT_STRING else start + SHORT_STRING
    at = start
    while at < stop:
        if data[at] == 0:
            return at
        at += 1
    return data.find(b"\0", at, end) if at < end else -1


READY_IDLE: Final = message(READY, b"I")
READY_IN_TRANSACTION: Final = message(READY, b"T")
READY_FAILED: Final = message(READY, b"E")
PARSE_DONE: Final = message(PARSE_COMPLETE, b"")
CLOSE_DONE: Final = message(CLOSE_COMPLETE, b"")
SYNC_MESSAGE: Final = message(SYNC, b"")
AUTHENTICATION_OK: Final = message(AUTHENTICATION, (0).to_bytes(4, "big"))
TERMINATE_MESSAGE: Final = message(TERMINATE, b"")


def ready(status: int) -> bytes:
    if status == IDLE:
        return READY_IDLE
    return READY_IN_TRANSACTION if status == IN_TRANSACTION else READY_FAILED


def query(sql: bytes) -> bytes:
    return message(QUERY, sql + b"\0")


def error_response(error: TenantryError, *, fatal: bool = False) -> bytes:
    """ErrorResponse for one of our errors; severity FATAL when the connection ends with it."""
    severity = b"FATAL" if fatal or error.fatal else b"ERROR"
    fields = [b"S" + severity, b"V" + severity, b"C" + error.sqlstate.encode()]
    fields.append(b"M" + error.message.encode("utf-8", "replace").replace(b"\0", b"?"))
    if error.detail:
        fields.append(b"D" + error.detail.encode("utf-8", "replace").replace(b"\0", b"?"))
    if error.hint:
        fields.append(b"H" + error.hint.encode("utf-8", "replace").replace(b"\0", b"?"))
    position = getattr(error, "position", 0)
    if position:
        fields.append(b"P%d" % position)
    return message(ERROR, b"\0".join(fields) + b"\0\0")


def error_fields(body: bytes) -> dict[str, str]:
    """Fields of an ErrorResponse or NoticeResponse body by their one-letter codes."""
    fields: dict[str, str] = {}
    for part in body.split(b"\0"):
        if part:
            fields[chr(part[0])] = part[1:].decode("utf-8", "replace")
    return fields


def parameter_status(name: str, value: str) -> bytes:
    return message(PARAMETER_STATUS, name.encode() + b"\0" + value.encode() + b"\0")


def pairs(body: bytes) -> dict[str, str]:
    """Zero-terminated name/value pairs (startup packet after the version).

    Raises ProtocolViolation for a missing terminator or bytes that are not UTF-8.
    """
    parts = body.split(b"\0")
    if len(parts) < 2 or parts[-1] or parts[-2]:
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    parts = parts[:-2]
    if len(parts) % 2:
        raise ProtocolViolation("invalid startup packet layout: a name without a value")
    try:
        words = [part.decode("utf-8") for part in parts]
    except UnicodeDecodeError:
        raise ProtocolViolation("startup packet is not valid UTF-8") from None
    return dict(zip(words[::2], words[1::2], strict=True))


def startup_message(parameters: dict[str, str], version: int = PROTOCOL_3_0) -> bytes:
    body = version.to_bytes(4, "big")
    for name, value in parameters.items():
        body += name.encode() + b"\0" + value.encode() + b"\0"
    body += b"\0"
    return (len(body) + 4).to_bytes(4, "big") + body


SSL_REQUEST_PACKET: Final = (8).to_bytes(4, "big") + SSL_REQUEST.to_bytes(4, "big")


def changes_types(data: bytes, tag: i64, end: i64) -> bool:
    """Whether a command tag is of DDL that may change what a prepared statement gives.

    ALTER, DROP and CREATE VIEW are; other CREATEs are not, and temporary tables come often.
    """
    if end - tag < 6:
        return False
    first = data[tag]
    if first == 65:  # A
        return data[tag + 1] == 76
    if first == 68:  # D
        return data[tag + 1] == 82
    return first == 67 and data[tag + 1] == 82 and data[tag : tag + 11] == b"CREATE VIEW"
