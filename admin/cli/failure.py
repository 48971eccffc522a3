"""What ends a command: one or two sentences for people, and the exit code."""

from __future__ import annotations

from typing import Final

FAILED: Final = 1
MISTAKE: Final = 2
"""Wrong usage, or mistakes in the configuration file."""

MISSING: Final = 3
"""There is no such tenant, tier, operator …"""


class Failure(Exception):
    """The command cannot go on. The text says why and what to do; it holds no secret."""

    def __init__(self, text: str, exit_code: int = FAILED) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class WrongFile(Failure):
    """The configuration file has mistakes: all of them, one a line, each with its place."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines), MISTAKE)
