"""Text of others on a terminal: it must not move the cursor, change the title or turn the line."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` in one line, without characters that do something instead of being something."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)
