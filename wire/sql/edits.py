"""Changes to a client's text: made by splicing, so that all outside of them stays byte for byte.

An edit is the same for all tenants of a database; where something of the tenant's own stands, it
has a hole, which is filled per tenant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Kinds of holes.
VALUE: Final = 0  # the tenant's value in the tenant column, as a quoted literal: 'acme'
CHANNEL: Final = 1  # the prefix of the tenant's notification channels, without quotes
LOCK_SEED: Final = 2  # a number that the tenant's advisory-lock keys are mixed with
HOLES: Final = 3


class Edit:
    """Replace sql[start:end] (bytes; an insertion when equal) by parts with holes between them.

    `parts` is one longer than `holes`: parts[0] holes[0] parts[1] … parts[n].
    """

    __slots__ = ("end", "holes", "parts", "start")

    def __init__(
        self, start: int, end: int, parts: tuple[bytes, ...], holes: tuple[int, ...] = ()
    ) -> None:
        self.start = start
        self.end = end
        self.parts = parts
        self.holes = holes

    def filled(self, values: Sequence[bytes]) -> bytes:
        """The new text for a tenant whose values for the kinds of holes are `values`."""
        out = [self.parts[0]]
        for hole, part in zip(self.holes, self.parts[1:], strict=True):
            out.append(values[hole])
            out.append(part)
        return b"".join(out)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and self.as_tuple() == other.as_tuple()

    def __hash__(self) -> int:
        return hash(self.as_tuple())

    def as_tuple(self) -> tuple[int, int, tuple[bytes, ...], tuple[int, ...]]:
        return self.start, self.end, self.parts, self.holes


def apply(sql: bytes, edits: Sequence[Edit], values: Sequence[bytes]) -> bytes:
    """`sql` with the edits made. They are in the order of their starts and do not overlap."""
    out: list[bytes] = []
    at = 0
    for edit in edits:
        assert edit.start >= at, "edits overlap"
        out.append(sql[at : edit.start])
        out.append(edit.filled(values))
        at = edit.end
    out.append(sql[at:])
    return b"".join(out)
