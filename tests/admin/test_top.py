"""`tenantry top`: rows of usage, columns for any width, keys, and a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest
from rich.console import Console
from support.serving import COMMAND, CONFIG, Home, Proxy, home, serving, until

from actors.analytics_fold import View
from admin.cli.top import Screen
from admin.cli.top_rows import NAME_WIDTH, columns_for, rows
from admin.worker_keeper import environment
from events.model import Tenant
from events.usage_delta import COUNTERS, Usage

__all__ = ["home"]
NOW = 1_800_000_000.0


def view(**queries: int) -> View:
    """Usage of the last ten seconds."""
    made = View()
    for n, (tenant, count) in enumerate(queries.items(), 1):
        counters = [0] * len(COUNTERS)
        counters[0] = count
        made.apply(
            Usage(
                tenant=tenant,
                worker="worker-0",
                boot=f"boot-{tenant}",
                n=n,
                since=NOW - 10,
                until=NOW,
                counters=tuple(counters),
                limits={"qps": 3} if tenant == "globex" else {},
                latency={},
                now=(4, 2, 1),
            )
        )
    return made


def tenant(id: str, **limits: object) -> Tenant:
    return Tenant.model_validate({"id": id, "rate_limits": limits})


def test_the_busiest_is_first_and_any_column_sorts() -> None:
    tenants = [tenant("acme", qps_limit=10), tenant("globex"), tenant("initech")]
    seen = view(acme=90, globex=400)
    found = rows(seen, tenants, NOW)
    assert [row.tenant for row in found] == ["globex", "acme", "initech"]
    assert found[1].qps_share == pytest.approx(0.9)
    assert next(row.tenant for row in rows(seen, tenants, NOW, sort="limits")) == "globex"
    assert next(row.tenant for row in rows(seen, tenants, NOW, sort="tenant")) == "acme"
    assert [row.tenant for row in rows(seen, tenants, NOW, wanted="ITE")] == ["initech"]


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    tenants = [tenant("acme"), tenant("a-name-that-is-rather-long-for-a-terminal")]
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        screen = Screen("qps", "", 2.0)
        console.print(screen.draw(view(acme=90), tenants, NOW, width, 20))
        lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.startswith("acme") for line in lines)
    if width - NAME_WIDTH > 10:
        assert "QPS" in lines[1], "the most telling column stays to the last"
        assert columns_for(width)


def test_keys_sort_filter_hold_and_quit() -> None:
    screen = Screen("qps", "", 2.0)
    for key in "l/go\x7fl\r +q":
        screen.key(key)
    assert (screen.sort, screen.wanted, screen.held, screen.interval, screen.done) == (
        *("p99", "gl", True, 1.0),
        True,
    )


@pytest.fixture(scope="module")
def proxy(home: Home) -> Iterator[Proxy]:
    text = CONFIG.replace("[pool]", "[events]\nusage_interval_secs = 1\n\n[pool]")
    home.config.write_text(text)
    with serving(home) as made:
        yield made


def test_once_as_json_tells_of_a_query(proxy: Proxy, home: Home) -> None:
    with proxy.connect() as client:
        for _ in range(20):
            client.execute("SELECT 1")

        def told() -> bool:
            done = home.run("top", "--once", "--json")
            assert done.returncode == 0, done.stderr
            first = json.loads(done.stdout)["tenants"][0]
            return first["tenant"] == "acme" and first["clients"] == 1 and first["p99"] is not None

        until(told, "to tell of the client")
    plain = home.run("top", "--once", "--sort", "tenant")
    assert "TENANT" in plain.stdout
    assert plain.stdout.index("acme") < plain.stdout.index("widgetco")


def test_a_terminal_shows_it_live_and_is_put_back(proxy: Proxy, home: Home) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [*COMMAND, "top", "--interval", "0.2"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=home.folder,
        env={**environment(), "TENANTRY_DATA_DIR": str(home.data), "TERM": "xterm"},
    )
    seen = b""

    def drain() -> None:
        nonlocal seen
        if select.select([master], [], [], 0.2)[0]:
            seen += os.read(master, 65536)

    def ended() -> bool:
        drain()  # it waits until all it has written is read
        return process.poll() is not None

    def reads(wanted: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 20
        while wanted not in seen and time.monotonic() < deadline:
            drain()
        assert wanted in seen, seen[-500:]
        seen = seen[seen.index(wanted) :]

    try:
        reads(b"widgetco")
        os.write(master, b"/widg\r")
        reads(b"filter: widg ")
        os.write(master, b"q")
        until(ended, "to end", lambda: seen[-500:])
        assert process.returncode == 0
        assert termios.tcgetattr(slave)[3] == before[3], "the terminal echoes again"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(master)
        os.close(slave)
