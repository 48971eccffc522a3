"""What the demo prints: headings, small tables, refusals. Plain text where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import psycopg
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

# Where there is no terminal to ask: wide enough that no line of ours is broken.
PLAIN_WIDTH: Final = 120
# Of the left one of two columns.
LEFT_WIDTH: Final = 52


class Screen:
    """Prints for people. `console` is for tests; without it, standard output."""

    def __init__(self, console: Console | None = None) -> None:
        if console is None:
            console = Console(highlight=False)
            if not console.is_terminal:
                console = Console(highlight=False, width=PLAIN_WIDTH)
        self.console = console

    def step(self, number: int, of: int, title: str) -> None:
        self.console.print(Text(f"\n[{number}/{of}] {title}", style="bold"))

    def say(self, text: str, style: str = "") -> None:
        self.console.print(Padding(Text(text, style=style), (0, 0, 0, 6), expand=False))

    def paste(self, text: str) -> None:
        """A line to copy: never folded, whatever the width."""
        self.console.print(Text(f"      {text}", style="cyan"), soft_wrap=True)

    def done(self, text: str) -> None:
        self.console.print(Padding(Text(f"✓ {text}", style="green"), (0, 0, 0, 4), expand=False))

    def sql(self, text: str) -> None:
        for line in text.splitlines():
            self.console.print(Text(f"      {line}", style="cyan"), soft_wrap=True)

    def heading(self, text: str) -> None:
        self.console.print(Text(f"      {text}", style="bold"))

    def line(self, left: str, right: str) -> None:
        """Two columns, never folded."""
        self.console.print(Text(f"      {left:<{LEFT_WIDTH}} {right}"), soft_wrap=True)

    def table(self, title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        table = Table(
            box=box.ROUNDED if self.console.is_terminal else box.ASCII,
            title=Text(title, style="bold"),
            title_justify="left",
        )
        for name in header:
            table.add_column(name)
        for row in rows:
            table.add_row(*(Text(str(value)) for value in row))
        self.console.print(Padding(table, (0, 0, 0, 6), expand=False))

    def refused(self, who: str, statement: str, error: psycopg.Error) -> None:
        """A statement and the answer to it."""
        self.sql(f"{who}=> {statement}")
        self.say(f"ERROR {error.sqlstate or ''}: {told(error)}", style="yellow")
        if error.diag.message_hint:
            self.say(f"HINT: {error.diag.message_hint}", style="yellow")


def told(error: psycopg.Error) -> str:
    """The server's own words, without what the driver puts before and behind."""
    text = error.diag.message_primary or str(error).strip().splitlines()[0]
    return text.partition("FATAL:  ")[2] or text
