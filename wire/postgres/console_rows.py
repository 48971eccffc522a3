"""Rows and descriptions of the console as protocol bytes, in text and in binary format.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

from wire.postgres import protocol as p
from wire.postgres.console_tables import INT4, INT8, NUMERIC, Column

Value: TypeAlias = str | int | None

# typlen of pg_type; -1 is variable.
_SIZES: Final = {INT4: 4, INT8: 8}
_INT4_MAX: Final = 2**31 - 1
_INT8_MAX: Final = 2**63 - 1


def row_description(columns: Sequence[Column], formats: Sequence[int]) -> bytes:
    body = len(columns).to_bytes(2, "big")
    for at, column in enumerate(columns):
        size = _SIZES.get(column.oid, -1)
        body += column.name.encode() + b"\0"
        body += struct.pack("!ihihih", 0, 0, column.oid, size, -1, format_of(formats, at))
    return p.message(p.ROW_DESCRIPTION, body)


def parameter_description() -> bytes:
    """There are none."""
    return p.message(p.PARAMETER_DESCRIPTION, b"\0\0")


def data_row(columns: Sequence[Column], row: Sequence[Value], formats: Sequence[int]) -> bytes:
    fields = [len(columns).to_bytes(2, "big")]
    for at, (column, value) in enumerate(zip(columns, row, strict=True)):
        if value is None:
            fields.append(b"\xff\xff\xff\xff")
            continue
        data = binary(column, value) if format_of(formats, at) else text(column, value)
        fields += (len(data).to_bytes(4, "big"), data)
    return p.message(p.DATA_ROW, b"".join(fields))


def notice(words: str) -> bytes:
    fields = (b"SNOTICE", b"VNOTICE", b"C00000", b"M" + words.encode("utf-8", "replace"))
    return p.message(p.NOTICE, b"\0".join(fields) + b"\0\0")


def format_of(formats: Sequence[int], at: int) -> int:
    """One format is for all columns, none is text."""
    if not formats:
        return 0
    return formats[0] if len(formats) == 1 else formats[at] if at < len(formats) else 0


def text(column: Column, value: str | int) -> bytes:
    if isinstance(value, int):
        return str(bounded(column, value)).encode()
    return value.encode("utf-8", "replace").replace(b"\0", b"?")


def binary(column: Column, value: str | int) -> bytes:
    if not isinstance(value, int):
        return text(column, value)
    value = bounded(column, value)
    if column.oid == INT4:
        return value.to_bytes(4, "big", signed=True)
    if column.oid == INT8:
        return value.to_bytes(8, "big", signed=True)
    return numeric(value) if column.oid == NUMERIC else str(value).encode()


def bounded(column: Column, value: int) -> int:
    """What is too large for its column is told as the largest."""
    most = {INT4: _INT4_MAX, INT8: _INT8_MAX}.get(column.oid)
    return value if most is None else max(-most - 1, min(most, value))


def numeric(value: int) -> bytes:
    """A whole number in the binary format of numeric: digits to the base of 10,000
    (numeric_send in PostgreSQL's numeric.c)."""
    digits: list[int] = []
    rest = abs(value)
    while rest:
        rest, digit = divmod(rest, 10_000)
        digits.insert(0, digit)
    sign = 0x4000 if value < 0 else 0
    head = struct.pack("!hhHh", len(digits), max(0, len(digits) - 1), sign, 0)
    return head + b"".join(digit.to_bytes(2, "big") for digit in digits)
