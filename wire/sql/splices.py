"""One tenant's edits, ready to be made: in one text, or in every text of a template.

Edits of a template stand at positions of the template. Its marks (see template.py) say where these
are in a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mypy_extensions import i64

from wire.sql.edits import Edit
from wire.sql.lexer import NUMBER, STRING, tokens

# A mark is three positions in one integer: where a piece of the text that has another length in the
# template starts in the text, where it ends in the template, and where in the text.
MARK_BITS: Final = 20
MARK_MASK: Final = (1 << MARK_BITS) - 1


class Splices:
    """Replace text[starts[n]:ends[n]] by pieces[n], in order, without overlap.

    lifted  the positions are those of the template, not of the text
    rows    the template makes rows of VALUES short (see marked_template)
    size    bytes of all pieces
    """

    __slots__ = ("ends", "lifted", "pieces", "rows", "size", "starts")

    def __init__(
        self, edits: Sequence[Edit], values: Sequence[bytes], lifted: bool, rows: bool
    ) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.pieces: list[bytes] = []
        self.lifted = lifted
        self.rows = rows
        self.size = 0
        piece = b""
        before: Edit | None = None
        for edit in edits:
            # The rows of a long INSERT all get the same.
            if before is None or edit.parts is not before.parts or edit.holes is not before.holes:
                piece = edit.filled(values)
            before = edit
            self.starts.append(edit.start)
            self.ends.append(edit.end)
            self.pieces.append(piece)
            self.size += len(piece)

    def made(self, sql: bytes, marks: list[int]) -> bytes:
        """`sql` with everything replaced; `marks` are those of its template, if `lifted`."""
        out: list[bytes] = []
        copied: i64 = 0
        following: i64 = 0  # the next mark
        count: i64 = len(marks)
        moved: i64 = 0  # from a position of the template to that of the text
        for number, piece in enumerate(self.pieces):
            start: i64 = self.starts[number]
            end: i64 = self.ends[number]
            while following < count:
                mark: i64 = marks[following]
                after = (mark >> MARK_BITS) & MARK_MASK
                if after > start:
                    break
                moved = (mark & MARK_MASK) - after
                following += 1
            out.append(sql[copied : start + moved])
            out.append(piece)
            while following < count:
                mark = marks[following]
                after = (mark >> MARK_BITS) & MARK_MASK
                if after > end:
                    break
                moved = (mark & MARK_MASK) - after
                following += 1
            copied = end + moved
        out.append(sql[copied:])
        return b"".join(out)

    def original(self, position: int, marks: list[int]) -> int:
        """The place in the client's text of the byte at `position` of the new one; -1 for what
        is in neither or belongs to a replaced piece."""
        added = 0  # bytes that the edits so far have added
        for number, piece in enumerate(self.pieces):
            start = in_text(self.starts[number], marks)
            if position < start + added:
                break
            if position < start + added + len(piece):
                return -1
            added += len(piece) - (in_text(self.ends[number], marks) - start)
        return position - added


def in_text(position: int, marks: list[int]) -> int:
    """The position of a text that a position of its template stands for."""
    moved = 0
    for mark in marks:
        after = (mark >> MARK_BITS) & MARK_MASK
        if after > position:
            break
        moved = (mark & MARK_MASK) - after
    return position + moved


def _in_template(positions: list[int], marks: list[int]) -> list[int] | None:
    """The positions of the template that stand for those of the text, in ascending order; None
    where the template has no such position."""
    found: list[int] = []
    following = 0
    moved = 0
    for position in positions:
        while following < len(marks):
            mark = marks[following]
            end = mark & MARK_MASK
            if end > position:
                if mark >> (2 * MARK_BITS) < position:
                    return None
                break
            moved = ((mark >> MARK_BITS) & MARK_MASK) - end
            following += 1
        found.append(position + moved)
    return found


def lift(edits: Sequence[Edit], sql: bytes, marks: list[int]) -> list[Edit] | None:
    """The edits of a text as those of its template; None when they would fit this text only.

    An edit must start and end where pieces of the template do, and may replace no literal.
    """
    positions: list[int] = []
    for edit in edits:
        positions.append(edit.start)
        positions.append(edit.end)
        if edit.end > edit.start:
            replaced = tokens(sql[edit.start : edit.end])
            if replaced is None:
                return None
            for kind, _, _ in replaced:
                if STRING <= kind <= NUMBER:
                    return None
    found = _in_template(positions, marks)
    if found is None:
        return None
    return [
        Edit(found[2 * number], found[2 * number + 1], edit.parts, edit.holes)
        for number, edit in enumerate(edits)
    ]
