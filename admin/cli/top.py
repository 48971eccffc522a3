"""`tenantry top`: who uses what now, over the whole terminal, until q is pressed.

What it shows comes from the usage stream, of which it reads the last while and then what comes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

    from rich.console import Console, RenderableType

    from actors.analytics_fold import View
    from admin.cli.parts import Commands
    from admin.cli.top_sorts import Sort
    from events.model import Tenant

# Enough for rates and for the latency of five minutes, and read within a moment.
LOOK_BACK_SECONDS: Final = 900.0
INTERVAL_SECONDS: Final = 2.0
FASTEST_SECONDS: Final = 0.2
SLOWEST_SECONDS: Final = 60.0
# A cancellation that gets lost in the client of NATS is repeated after this long; people wait.
QUIT_SECONDS: Final = 0.1
# Lines that are not rows of tenants.
FRAME_LINES: Final = 4
_HELP: Final = (
    "sort: t traffic  l latency  c clients  r refused  m limits  b bytes  e errors  n name"
    " · / filter · +/- refresh · j/k scroll · space hold · q quit"
)


def add_top_command(commands: Commands) -> None:
    from admin.cli.parts import as_json, command, config_file, data_dir
    from admin.cli.top_sorts import SORTS

    made = command(
        commands,
        "top",
        "watch tenants: traffic, latency, connections, refusals, limits",
        run_top,
        "tenantry top",
        "tenantry top --sort refused --filter gold",
        "tenantry top --once --json    (for programs: one look, then the end)",
    )
    made.add_argument("--sort", choices=SORTS, default="qps", help="by what (default qps)")
    made.add_argument(
        "--filter", default="", metavar="TEXT", help="only tenants with it in id, name or tier"
    )
    made.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N")
    made.add_argument(
        "--interval", type=_seconds, default=INTERVAL_SECONDS, metavar="SECONDS", help="refresh"
    )
    made.add_argument("--once", action="store_true", help="show it once, as a plain table")
    config_file(made, "find the installation by the [events] of this file")
    data_dir(made)
    as_json(made)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds") from None
    if not FASTEST_SECONDS <= seconds <= SLOWEST_SECONDS:
        raise argparse.ArgumentTypeError(f"from {FASTEST_SECONDS:g} to {SLOWEST_SECONDS:g} seconds")
    return seconds


def run_top(given: argparse.Namespace) -> int:
    import asyncio

    live = not given.once and not given.json and sys.stdin.isatty() and sys.stdout.isatty()
    return asyncio.run(_live(given) if live else _once(given))


async def _once(given: argparse.Namespace) -> int:
    import orjson
    from rich.console import Console

    from admin.cli.top_rows import as_dict, rows, table
    from admin.find_log import open_log

    async with open_log(given.data_dir, given.config) as control:
        tenants = _tenants(control)
        view = await _read(control)
    now = time.time()
    shown = rows(view, tenants, now, sort=given.sort, wanted=given.filter)
    shown = shown[: given.limit or len(shown)]
    if given.json:
        print(orjson.dumps(as_dict(view, shown, now), option=orjson.OPT_INDENT_2).decode())
        return 0
    console = Console(highlight=False)
    console.print(_head(view, tenants, now))
    console.print(table(shown, console.width, given.sort))
    return 0


def _tenants(control: Any) -> list[Tenant]:
    projection = control.projection
    return [found for id in projection.ids() if (found := projection.tenant(id)) is not None]


async def _read(control: Any) -> View:
    from actors.analytics_fold import View
    from events import tail
    from events.usage import STREAM
    from events.usage_delta import decode

    view = View()
    since = time.time() - LOOK_BACK_SECONDS
    async for batch in tail.read(control.log.nats, STREAM, since=since):
        for stored in batch:
            view.apply(decode(stored.data), stored.stored_at / 1e9)
            view.position = stored.sequence
    return view


async def _follow(control: Any, view: View) -> None:
    from events import tail
    from events.usage import STREAM
    from events.usage_delta import decode

    since = time.time() - LOOK_BACK_SECONDS
    async for batch in tail.read(control.log.nats, STREAM, since=since, follow=True):
        for stored in batch:
            view.apply(decode(stored.data), stored.stored_at / 1e9)


def _head(view: View, tenants: Sequence[Tenant], now: float) -> str:
    from admin.analytics.views import active, total_qps

    clients = sum(account.connected(now)[0] for account in view.accounts.values())
    using = sum(active(view, tenant.id, now) for tenant in tenants)
    lag = f"{max(0.0, now - view.newest):.0f} s ago" if view.newest else "nothing yet"
    return (
        f"{len(tenants)} tenants, {using} active · {total_qps(view, now):,.0f} queries/s · "
        f"{clients} clients · last report {lag}"
    )


# --- live ----------------------------------------------------------------------------------------


class Screen:
    """What the keys have set, and what is to be seen."""

    def __init__(self, sort: Sort, wanted: str, interval: float) -> None:
        self.sort: Sort = sort
        self.wanted = wanted
        self.interval = interval
        self.typing = False
        self.held = False
        self.done = False
        self.first = 0

    def key(self, key: str) -> None:
        """One key that was pressed."""
        from admin.cli.top_sorts import KEYS

        if self.typing:
            self._type(key)
        elif key in ("q", "\x03", "\x04"):
            self.done = True
        elif key in KEYS:
            self.sort, self.first = KEYS[key], 0
        elif key == "/":
            self.typing, self.wanted = True, ""
        elif key == " ":
            self.held = not self.held
        elif key in "+=":
            self.interval = max(FASTEST_SECONDS, self.interval / 2)
        elif key in "-_":
            self.interval = min(SLOWEST_SECONDS, self.interval * 2)
        elif key == "j":
            self.first += 1
        elif key == "k":
            self.first = max(0, self.first - 1)

    def _type(self, key: str) -> None:
        if key in "\r\n":
            self.typing = False
        elif key == "\x1b":
            self.typing, self.wanted = False, ""
        elif key in "\x7f\x08":
            self.wanted = self.wanted[:-1]
        elif key.isprintable():
            self.wanted += key
        self.first = 0

    def draw(
        self, view: View, tenants: Sequence[Tenant], now: float, width: int, height: int
    ) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        from admin.cli.top_rows import rows, table

        found = rows(view, tenants, now, sort=self.sort, wanted=self.wanted)
        room = max(1, height - FRAME_LINES)
        self.first = min(self.first, max(0, len(found) - room))
        part = found[self.first : self.first + room]
        # What the keys have set comes first: a narrow terminal cuts the end off.
        state = "HELD · " if self.held else ""
        cursor = "_" if self.typing else ""
        filter_text = f"filter: {self.wanted}{cursor} · " if self.wanted or self.typing else ""
        more = f" · {self.first + 1}-{self.first + len(part)} of {len(found)}" if found else ""
        head = f"{state}{filter_text}{_head(view, tenants, now)} · every {self.interval:g} s{more}"
        one_line = {"no_wrap": True, "overflow": "ellipsis"}
        return Group(
            Text(head, style="bold", **one_line),  # type: ignore[arg-type]
            table(part, width, self.sort),
            Text(_HELP, style="dim", **one_line),  # type: ignore[arg-type]
        )


async def _live(given: argparse.Namespace) -> int:
    import asyncio

    from rich.console import Console
    from rich.live import Live

    from actors.analytics_fold import View
    from admin.find_log import open_log
    from wire.tasks import end, spawn

    console = Console(highlight=False)
    screen = Screen(given.sort, given.filter, given.interval)
    pressed = asyncio.Event()

    def typed(keys: str) -> None:
        for key in keys:
            screen.key(key)
        pressed.set()

    async with open_log(given.data_dir, given.config) as control:
        view = View()
        known = _Known(control)
        state = control.projection
        tasks = (
            spawn(_follow(control, view), name="top reads usage"),
            spawn(control.log.follow(state.position + 1, state.apply), name="top follows the log"),
        )
        try:
            with _keys(typed), Live(console=console, screen=True, auto_refresh=False) as live:
                await _show(screen, console, live, pressed, lambda: (view, known.tenants()))
        finally:
            await end(*tasks, again=QUIT_SECONDS)
    return 0


class _Known:
    """The tenants, resolved anew only when something has changed."""

    def __init__(self, control: Any) -> None:
        self._control = control
        self._position = -1
        self._found: list[Tenant] = []

    def tenants(self) -> list[Tenant]:
        if self._control.projection.position != self._position:
            self._position = self._control.projection.position
            self._found = _tenants(self._control)
        return self._found


async def _show(
    screen: Screen,
    console: Console,
    live: Any,
    pressed: asyncio.Event,
    look: Callable[[], tuple[View, list[Tenant]]],
) -> None:
    """Draw until it is done: at each key, and every interval."""
    import asyncio

    moment = time.time()
    while not screen.done:
        if not screen.held:
            moment = time.time()
        view, tenants = look()
        width, height = console.size
        live.update(screen.draw(view, tenants, moment, width, height), refresh=True)
        pressed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(screen.interval):
                await pressed.wait()


@contextlib.contextmanager
def _keys(typed: Callable[[str], None]) -> Iterator[None]:
    """Hand on each key at once, unseen; the terminal is put back at the end."""
    import asyncio
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    loop = asyncio.get_running_loop()

    def ready() -> None:
        data = os.read(number, 64)
        typed(data.decode("utf-8", "replace") if data else "q")

    tty.setcbreak(number)
    loop.add_reader(number, ready)
    try:
        yield
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)
