"""The victim's words, and how they are found again in what an attacker has received."""

from __future__ import annotations

import base64
from typing import Any, Final

OTHER: Final = "vexillum"
# In every cell of the victim's rows; and in everything else of the victim's.
IN_ROWS: Final = "ROWCANARY"
BESIDE: Final = "SIDECANARY"


def _encodings(word: str) -> list[bytes]:
    """A word as clever queries may send it."""
    plain = word.lower().encode()
    forms = [plain, plain[::-1], plain.hex().encode(), word.upper().encode().hex().encode()]
    for shift in range(3):
        for each in (word.lower(), word.upper()):
            coded = base64.b64encode(b"x" * shift + each.encode())
            forms.append(coded[4 if shift else 0 : -4].lower())
    return forms


_ROWS: Final = [*_encodings(IN_ROWS), b"77000", b"7777.7", b"1977-07-07", b"77777777-7777"]
_BESIDE: Final = _encodings(BESIDE)
# What only the server may say, not the attacker's own text.
NAME: Final = OTHER.encode()


def canaries(heard: bytes) -> list[tuple[bytes, str]]:
    """What of the victim's is in an answer: each word found, and where."""
    small = heard.lower()
    return [
        (word, f"{kind} canary in {around(small, word)!r}")
        for kind, words in (("row", _ROWS), ("other", _BESIDE))
        for word in words
        if word in small
    ]


def around(heard: bytes, word: bytes) -> bytes:
    at = heard.index(word)
    return heard[max(0, at - 60) : at + 60]


def differing(one: tuple[Any, ...], other: tuple[Any, ...]) -> str:
    return ", ".join(
        f"{n}: {a} -> {b}" for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b
    )
