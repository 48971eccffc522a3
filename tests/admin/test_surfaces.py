"""A change by any of the five ways is felt by open connections on both workers, and seen by all.

The ways in: a request over NATS, the admin API, the command line, the SQL console, and files
(`tenantry apply`, SIGHUP; watched ones are in test_watch.py). One `tenantry serve`, two workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import nats
import psycopg
import pytest
from support.serving import COMMAND, CONFIG, Home, Proxy, prepared_home, serving, until

from admin.cli.main import main
from admin.cli.send import me
from admin.engines.nats import EmbeddedNats
from admin.worker_keeper import environment

pytestmark = pytest.mark.engine

PASSWORD = "console-secret"
# More than rows of one answer of a client that may have all it wants.
MANY = "SELECT * FROM generate_series(1, 50)"
WRITE = "INSERT INTO marks VALUES (1)"
LIMIT = 1000
FILE = CONFIG.replace('admin_address = "off"', 'admin_address = "127.0.0.1:0"').replace(
    "max_connections = 40 }", f"max_connections = 40, max_rows_per_query = {LIMIT} }}"
)

Settings = dict[str, Any]


# --- the place ------------------------------------------------------------------------------------


class Place:
    """A running proxy, a client of acme on each of its workers, and each way in."""

    def __init__(self, proxy: Proxy, url: str) -> None:
        self.proxy = proxy
        self.home: Home = proxy.home
        self.token = self.told("tokens", "create", "--name", "ann", "--role", "operator").strip()
        headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=20)
        self.clients: list[psycopg.Connection] = []

    # --- acme's clients ---------------------------------------------------------------------------

    def connect(self) -> None:
        """One open connection on each worker."""
        self.leave()
        with self.console() as console:
            for _ in range(100):
                client = self.proxy.connect()
                self.clients.append(client)
                client.execute("SELECT 1")
                rows = shown(console, "SHOW CLIENTS acme")
                if len({row["worker"] for row in rows}) == 2:
                    return
        raise AssertionError("all clients came to one worker")

    def leave(self) -> None:
        for client in self.clients:
            client.close()
        self.clients = []

    def felt(self, statement: str, sqlstate: str) -> None:
        """Every open connection gets that answer ("" for none but rows)."""
        for client in self.clients:
            until(lambda c=client: code(c, statement) == sqlstate, f"to answer {sqlstate!r}")  # type: ignore[misc]

    # --- the ways in ------------------------------------------------------------------------------

    def told(self, *arguments: str) -> str:
        """By the command line, in this process: starting one takes longer than all that it does."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            assert main([*arguments, "--data-dir", str(self.home.data)]) == 0, arguments
        return said.getvalue()

    def request(self, verb: str, body: Settings | None = None) -> Settings:
        """Over NATS."""

        async def ask() -> Settings:
            client = await nats.connect(EmbeddedNats(self.home.data).nats_url())
            try:
                message = await client.request(
                    f"tenantry.request.acme.{verb}",
                    json.dumps(body or {}).encode(),
                    timeout=20,
                    headers={"Tenantry-Token": self.token},
                )
            finally:
                await client.close()
            answer: Settings = json.loads(message.data)
            return answer

        answer = asyncio.run(ask())
        assert answer["accepted"], answer
        return answer

    def patch(self, body: Settings) -> Settings:
        """Over HTTP."""
        answer = self.http.patch("/tenants/acme", json=body)
        assert answer.status_code == 200, answer.text
        found: Settings = answer.json()
        return found

    def console(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.proxy.port,
            user="ann",
            password=PASSWORD,
            dbname="tenantry",
            autocommit=True,
        )

    def say(self, text: str) -> None:
        """In the SQL console."""
        with self.console() as console:
            console.execute(text)

    def edit(self, rows: int, read_only: bool) -> None:
        """Change the file, and nothing else yet."""
        text = FILE.replace(f"max_rows_per_query = {LIMIT}", f"max_rows_per_query = {rows}")
        text = text.replace(
            "allow_ddl = true", f"allow_ddl = true, read_only = {str(read_only).lower()}"
        )
        self.home.config.write_text(text)

    # --- what each way tells ----------------------------------------------------------------------

    def seen(self) -> dict[str, tuple[object, ...]]:
        """Rows at most, read-only, enabled: as each way tells them. The console tells the last."""
        by_http = self.http.get("/tenants/acme").json()
        by_command = json.loads(self.told("tenants", "show", "acme", "--json"))
        asked = self.request("change", {"patch": {}, "dry_run": True})
        assert asked["events"] == [], "nothing would change"
        with self.console() as console:
            state = shown(console, "SHOW TENANTS acme")[0]["state"]
        return {
            "http": _told(by_http),
            "command line": _told(by_command),
            "console": (state == "active",),
        }

    def all_see(self, rows: int, *, read_only: bool, enabled: bool = True) -> None:
        wanted = (rows, read_only, enabled)
        expected = {"http": wanted, "command line": wanted, "console": (enabled,)}
        until(lambda: self.seen() == expected, f"to tell {wanted}", self.seen)


def _told(tenant: Settings) -> tuple[object, ...]:
    return (
        tenant["rate_limits"]["max_rows_per_query"],
        tenant["permissions"]["read_only"],
        tenant["enabled"],
    )


def shown(client: psycopg.Connection, text: str) -> list[Settings]:
    cursor = client.execute(text)
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def code(client: psycopg.Connection, statement: str) -> str:
    """The SQLSTATE of the answer, "" when it is none; "closed" when nothing is said any more."""
    try:
        client.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate or "closed"
    return ""


@pytest.fixture(scope="module")
def running() -> Iterator[Place]:
    with (
        prepared_home(FILE) as home,
        serving(home, "--workers", "2") as proxy,
    ):
        proxy.says("admin API on http://")
        found = re.search(r"admin API on (http://\S+)", proxy.log())
        assert found is not None
        subprocess.run(
            [*COMMAND, "operators", "put", "ann", "--password-stdin", "--role", "operator",
             "--tenants", "*", "--data-dir", str(home.data)],
            input=PASSWORD + "\n", text=True, check=True, capture_output=True, timeout=30,
            env=environment(), cwd=home.folder,
        )  # fmt: skip
        made = Place(proxy, found[1])
        with proxy.connect() as client:
            client.execute("CREATE TABLE marks (n int)")
        with contextlib.closing(made.http):
            yield made


@pytest.fixture
def place(running: Place) -> Iterator[Place]:
    """As the file says, with a client on each worker."""
    until(lambda: can_ask(running), "to let the operator in")
    running.connect()
    yield running
    running.leave()
    running.home.config.write_text(FILE)
    running.request("enable")
    running.told("apply", str(running.home.config))
    until(lambda: can_connect(running), "to let clients in")


def can_ask(place: Place) -> bool:
    try:
        place.console().close()
    except psycopg.OperationalError:
        return False
    return True


# --- a limit and a permission, by each way --------------------------------------------------------


def by_nats(place: Place, rows: int, read_only: bool) -> None:
    settings = {"max_rows_per_query": rows}
    place.request("change", {"patch": {"rate_limits": settings}})
    place.request("change", {"patch": {"permissions": {"read_only": read_only}}})


def by_http(place: Place, rows: int, read_only: bool) -> None:
    place.patch({"rate_limits": {"max_rows_per_query": rows}})
    place.patch({"permissions": {"read_only": read_only}})


def by_command_line(place: Place, rows: int, read_only: bool) -> None:
    limit = f"rate_limits.max_rows_per_query={rows}"
    permission = f"permissions.read_only={str(read_only).lower()}"
    place.told("tenants", "change", "acme", limit, permission)


def by_apply(place: Place, rows: int, read_only: bool) -> None:
    place.edit(rows, read_only)
    place.told("apply", str(place.home.config))


def by_sighup(place: Place, rows: int, read_only: bool) -> None:
    place.edit(rows, read_only)
    place.proxy.signal(signal.SIGHUP)


def by_console(place: Place, rows: int, read_only: bool) -> None:
    place.edit(rows, read_only)
    place.say("RELOAD")


@pytest.mark.parametrize(
    "way",
    [by_nats, by_http, by_command_line, by_apply, by_sighup, by_console],
    ids=lambda way: way.__name__,
)
def test_a_limit_and_a_permission(place: Place, way: Callable[[Place, int, bool], None]) -> None:
    place.felt(MANY, "")
    place.felt(WRITE, "")
    way(place, 40, True)
    place.felt(MANY, "54000")
    place.felt(WRITE, "42501")
    place.all_see(40, read_only=True)
    way(place, 60, False)
    place.felt(MANY, "")
    place.felt(WRITE, "")


# --- a tenant is switched off and on, by each way -------------------------------------------------


def file_says(place: Place, enabled: bool) -> None:
    said = f'id = "acme"\nenabled = {str(enabled).lower()}\n'
    place.home.config.write_text(FILE.replace('id = "acme"\n', said))


def switch_by_nats(place: Place, enabled: bool) -> None:
    place.request("enable" if enabled else "disable")


def switch_by_http(place: Place, enabled: bool) -> None:
    place.patch({"enabled": enabled})


def switch_by_command_line(place: Place, enabled: bool) -> None:
    place.told("tenants", "enable" if enabled else "disable", "acme")


def switch_by_console(place: Place, enabled: bool) -> None:
    place.say("ENABLE acme" if enabled else "DISABLE acme")


def switch_by_file(place: Place, enabled: bool) -> None:
    file_says(place, enabled)
    place.told("apply", str(place.home.config))


@pytest.mark.parametrize(
    "switch",
    [switch_by_nats, switch_by_http, switch_by_command_line, switch_by_console, switch_by_file],
    ids=lambda switch: switch.__name__,
)
def test_a_tenant_is_switched_off_and_on(
    place: Place, switch: Callable[[Place, bool], None]
) -> None:
    switch(place, False)
    for client in place.clients:
        until(lambda c=client: code(c, "SELECT 1") in ("57P01", "closed"), "to end the client")  # type: ignore[misc]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        place.proxy.connect().close()
    place.all_see(LIMIT, read_only=False, enabled=False)
    switch(place, True)
    until(lambda: can_connect(place), "to let it in again")
    place.all_see(LIMIT, read_only=False)


def can_connect(place: Place) -> bool:
    try:
        place.proxy.connect().close()
    except psycopg.OperationalError:
        return False
    return True


def test_every_way_is_told_of_in_the_audit(place: Place) -> None:
    """With who did it, and by which way."""
    place.request("change", {"patch": {"metadata": {"by": "nats"}}})
    place.patch({"metadata": {"by": "http"}})
    place.told("tenants", "change", "acme", "metadata.by=cli")
    place.say("DISABLE acme")
    place.say("ENABLE acme")
    place.home.config.write_text(FILE)
    place.told("apply", str(place.home.config))

    def ways() -> set[str]:
        lines = place.told("audit", "search", "--tenant", "acme", "--kind", "command", "--json")
        events = [json.loads(line) for line in lines.splitlines()]
        return {f"{each['actor']}: {each['detail'].split(' ', 3)[-1]}" for each in events}

    # The command line and the console are clients of NATS themselves.
    wanted = {"ann: nats request", "ann: http", f"{me()}: nats request", "tenantry apply: file"}
    until(lambda: ways() >= wanted, f"to note {wanted}", ways)


def test_settings_are_not_changed_in_the_console(place: Place) -> None:
    """It says where they are."""
    with place.console() as console:
        with pytest.raises(psycopg.errors.FeatureNotSupported) as refused:
            console.execute("SET qps_limit = 5")
        assert "tenantry tenants change" in (refused.value.diag.message_hint or "")
