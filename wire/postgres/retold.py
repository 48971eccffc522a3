"""Errors of the server, made fit for a client that sent another text, or may not see all rows."""

from __future__ import annotations

from typing import Final

from wire.postgres import protocol as p
from wire.postgres.owed import Edited

# Of these classes PostgreSQL's messages name what the client wrote or the server is, never values
# of rows: https://www.postgresql.org/docs/18/errcodes-appendix.html
TELLING_OF_TEXT: Final = frozenset(
    (
        *(b"08", b"0A", b"25", b"26", b"28", b"34", b"3B", b"3D"),
        *(b"3F", b"40", b"42", b"53", b"54", b"55", b"57"),
    )
)
VEILED: Final = b"the statement failed on its data"
# Severity (two spellings), SQLSTATE and position say nothing of rows.
SAFE_FIELDS: Final = b"SVCP"


def retold(body: bytes, veiled: bool, edited: Edited | None) -> bytes:
    """An ErrorResponse made of the body of another.

    veiled  values of rows may stand in it: only the class of the error is passed on
    edited  the position counts in the rewritten text, which the client does not know
    https://www.postgresql.org/docs/18/protocol-error-fields.html
    """
    fields = [field for field in body.split(b"\0") if field]
    if veiled and not any(f[:1] == b"C" and f[1:3] in TELLING_OF_TEXT for f in fields):
        fields = [field for field in fields if field[:1] in SAFE_FIELDS] + [b"M" + VEILED]
    if edited is not None:
        fields = [moved(field, edited) for field in fields]
    return p.message(p.ERROR, b"".join([field + b"\0" for field in fields if field]) + b"\0")


def moved(field: bytes, edited: Edited) -> bytes:
    """A field; if it is the position, where the client sees it, or nothing."""
    if field[:1] != b"P" or not field[1:].isdigit():
        return field
    position = edited.position(int(field[1:]))
    return b"P%d" % position if position > 0 else b""
