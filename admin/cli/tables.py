"""Plain tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from admin.printed import printable


def print_table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    empty: str,
    *,
    whole: Sequence[str] = (),
) -> None:
    """`rows` under `head`, or the sentence `empty`. The columns `whole` are never broken: they are
    there to be copied."""
    console = Console(highlight=False)
    if not rows:
        console.print(escape(empty))
        return
    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold", no_wrap=name in whole)
    for row in rows:
        table.add_row(*(escape(printable(str(value))) for value in row))
    console.print(table)
