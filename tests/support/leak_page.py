"""Writes docs/leak-matrix.md from the tests' own data, so that the page says what the tests see.

`python -m support.leak_page`, in tests/, writes it; a test fails when that was forgotten. What came
of the cells is recorded by `LEAK_MATRIX=record make soak ARGS='-n2 -k whole_matrix'`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from support.leak_kinds import EXCEPTIONS
from support.leak_matrix import LETTERS, POOLS, recorded
from support.leak_ways import WAYS

PAGE = Path(__file__).parents[2] / "docs" / "leak-matrix.md"

INTRODUCTION = """\
# The matrix of leaks

<!-- Written by `cd tests && python -m support.leak_page` from the tests' data. Change that, not
this page. -->

A client makes a kind of session state and lets its server go in some way. The next clients look:
one of another tenant, one of the same. They look at all that a session can show: settings, made-up
settings, prepared statements, cursors, channels, locks, temporary objects, sequences, random
numbers, the seal, their rows in several ways, and every byte that reaches them. What they find is
compared with what they find on a server that nobody has used. Servers are so few that they pass on
at once.

`tests/isolation/test_leak_cells.py` plays a part of the cells in each run, with every kind and
every way for every kind of pool, and all of them in `make soak`.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION, "## Outcomes\n"]
    parts += [f"- `{letter}` {told}." for letter, told in LETTERS.items()]
    parts += ["", "## Ways to let go\n"]
    parts += [f"{number}. {way}" for number, way in enumerate(WAYS, 1)]
    parts += ["", "## Exceptions\n"]
    for each in EXCEPTIONS.values():
        kinds = ", ".join(each.kinds)
        parts.append(f"- **{kinds}.** {each.told} See [security](security.md).")
    for pool, rows in recorded().items():
        kind = POOLS[pool]
        shared = "one server for all tenants" if kind.shared else "servers of each tenant's own"
        first = "the same tenant" if kind.same_first else "another tenant"
        told = f"Pooling by {kind.mode}, {shared}; the next client is one of {first}."
        parts += ["", f"## {pool}\n", f"{told}\n"]
        parts.append("| state | " + " | ".join(str(at) for at in range(1, len(WAYS) + 1)) + " |")
        parts.append("|---" * (len(WAYS) + 1) + "|")
        parts += [f"| {state} | " + " | ".join(letters) + " |" for state, letters in rows.items()]
        parts += ["", counts(rows)]
    return "\n".join(parts) + "\n"


def counts(rows: dict[str, str]) -> str:
    whole = "".join(rows.values())
    found = [f"{whole.count(letter)} `{letter}`" for letter in LETTERS if letter in whole]
    return f"{len(whole)} cells: " + ", ".join(found) + "."


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
