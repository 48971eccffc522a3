"""Changes to a text, collected in any order, handed out as edits that do not overlap."""

from __future__ import annotations

from typing import Final, NoReturn

from wire.errors import NotSupported
from wire.sql.edits import Edit

# Where several insertions meet at one position: those that end something inside come first.
INNER: Final = 0  # the end of an expression
TAIL: Final = 1  # the end of a table's sub-select
CLOSE: Final = 2  # the end of a condition
CLAUSE: Final = 3  # a whole new clause
OUTER: Final = 4  # the end of a query's wrapper
OPEN: Final = 5  # the beginning of anything

Piece = bytes | int
"""A part of an insertion: text, or the kind of a hole (see edits.py)."""


def quote(name: str) -> bytes:
    """An identifier as SQL, whatever is in it."""
    return b'"' + name.replace('"', '""').encode() + b'"'


def lost(what: str) -> NoReturn:
    """Fails closed: the text is not laid out as we read it."""
    raise NotSupported(
        f"cannot tell where {what} stands in this statement",
        hint="Write the statement in a simpler form.",
    )


class Splice:
    """Collects changes in any order."""

    def __init__(self) -> None:
        self._changes: list[tuple[int, int, int, int, tuple[Piece, ...]]] = []

    def insert(self, at: int, rank: int, *pieces: Piece) -> None:
        """Put `pieces` at a position. `rank` orders those of one position (INNER … OPEN)."""
        self._changes.append((at, at, rank, len(self._changes), pieces))

    def replace(self, start: int, end: int, *pieces: Piece) -> None:
        self._changes.append((start, end, OPEN, len(self._changes), pieces))

    def edits(self) -> list[Edit]:
        """The changes in order. Raises NotSupported if they overlap."""
        out: list[Edit] = []
        for start, end, _, _, pieces in sorted(self._changes, key=lambda change: change[:4]):
            parts: list[bytes] = [b""]
            holes: list[int] = []
            if out and out[-1].start == out[-1].end == start == end:
                last = out.pop()
                parts = list(last.parts)
                holes = list(last.holes)
            elif out and start < out[-1].end:
                lost("a construct within another")
            for piece in pieces:
                if isinstance(piece, int):
                    holes.append(piece)
                    parts.append(b"")
                else:
                    parts[-1] += piece
            out.append(Edit(start, end, tuple(parts), tuple(holes)))
        return out
