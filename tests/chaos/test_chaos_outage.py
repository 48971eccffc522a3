"""NATS is away for a while: queries go on, commands fail and say so, and afterwards all is counted.

AWAY_SECONDS sets for how long it is away in the long form.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from support.nats import NatsServer
from support.serving import COMMAND, CONFIG, Home, Proxy, serving, until

from admin.worker_keeper import environment
from events.audit_publisher import AUDIT_FOLDER, SPOOL_FOLDER
from events.bus_client import CommandClient
from events.commands_model import ChangeTenant
from events.history import commit_of
from events.log import ConfigLog
from events.reader import Stored
from events.secrets import Vault
from events.spool import SPOOL_BYTES_MAX
from events.stream import LogUnavailable
from events.tokens import TokenSigner
from events.usage import USAGE_FOLDER

pytestmark = pytest.mark.engine

WORKERS = 2
AWAY_SECONDS = float(os.environ.get("AWAY_SECONDS", "180"))
# Longer than /readyz waits until it calls a configuration stale, which takes no setting.
SHORT_SECONDS = 10.0
PASSWORD = "console-secret"


@pytest.fixture
def home(own_nats: NatsServer) -> Iterator[Home]:
    """NATS is not ours to start again."""
    events = f'[events]\nservers = ["{own_nats.url}"]\nusage_interval_secs = 0.5\n'
    config = CONFIG.replace('admin_address = "off"', 'admin_address = "127.0.0.1:0"')
    made = Home(config.replace("[pool]", f"{events}\n[pool]", 1))
    yield made
    made.remove()


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsServer]:
    made = NatsServer(tmp_path)
    made.start()
    yield made
    made.stop()


class Customer:
    """Asks all the time, on one connection and on new ones; every answer must be right."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._over = threading.Event()
        self.answered = 0
        self.logins = 0
        self._asking = threading.Thread(target=self._ask)
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._asking.start()

    def stop(self) -> None:
        self._over.set()
        self._asking.join()
        assert self.failure is None, self.failure

    def _ask(self) -> None:
        try:
            with closing(self._proxy.connect()) as kept:
                self.logins += 1
                while not self._over.wait(0.02):
                    assert kept.execute("SELECT 1").fetchone() == (1,)
                    self.answered += 1
                    if self.answered % 20 == 0:
                        with closing(self._proxy.connect()) as fresh:
                            self.logins += 1
                            assert fresh.execute("SELECT 2").fetchone() == (2,)
                            self.answered += 1
        except BaseException as error:
            self.failure = error


class Operator:
    """The ways in. Each answers what it was told, "" when it was carried out."""

    def __init__(self, proxy: Proxy, nats_url: str) -> None:
        self.proxy = proxy
        self.home = proxy.home
        self.token = self.home.run("tokens", "create", "--name", "ann", "--role", "operator")
        self.token = self.token.stdout.strip()  # type: ignore[assignment]
        found = re.search(r"admin API on (http://\S+)", proxy.log())
        assert found is not None
        headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=found[1], headers=headers, timeout=30)
        subprocess.run(
            [*COMMAND, "operators", "put", "ann", "--password-stdin", "--role", "operator",
             "--tenants", "*", "--data-dir", str(self.home.data)],
            input=PASSWORD + "\n", text=True, check=True, capture_output=True, timeout=30,
            env=environment(), cwd=self.home.folder,
        )  # fmt: skip
        # One that is connected since before the outage, with a loop that goes on.
        self._loop = asyncio.new_event_loop()
        self._turning = threading.Thread(target=self._loop.run_forever)
        self._turning.start()
        self._log = self._do(ConfigLog.connect([nats_url]))
        vault = Vault.load(self.home.data)
        self._client = CommandClient(self._log, TokenSigner(vault).make("ann", "operator")[0])

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        self.http.close()
        self._do(self._log.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._turning.join()
        self._loop.close()

    def by_http(self) -> str:
        key = {"Idempotency-Key": "by-http"}
        body = {"metadata": {"http": "x"}}
        answer = self.http.patch("/tenants/acme", json=body, headers=key)
        return "" if answer.status_code == 200 else f"{answer.status_code} {answer.text}"

    def by_command_line(self) -> str:
        done = self.home.run("tenants", "change", "acme", "metadata.cli=x")
        return "" if done.returncode == 0 else f"{done.returncode} {done.stderr}"

    def by_console(self) -> str:
        try:
            with psycopg.connect(
                host="127.0.0.1",
                port=self.proxy.port,
                user="ann",
                password=PASSWORD,
                dbname="tenantry",
                autocommit=True,
            ) as console:
                console.execute("DISABLE widgetco")
        except psycopg.Error as error:
            return f"{error.sqlstate} {error}"
        return ""

    def by_request(self) -> str:
        return self._send(self._client.send, "by-request")

    def by_queue(self) -> str:
        return self._send(self._client.store, "by-queue")

    def _send(self, way: Callable[..., Any], id: str) -> str:
        patch = {"metadata": {id: "x"}}
        try:
            self._do(way(ChangeTenant(id="acme", patch=patch, command_id=id)))
        except LogUnavailable as error:
            return f"unknown {error}" if error.unknown else str(error)
        return ""

    def by_file(self) -> str:
        """Tells of it in the log of `tenantry serve`."""
        self.home.change("max_connections = 5,", "max_connections = 6,")
        done = self.home.run("apply", str(self.home.config))
        self.home.change("max_connections = 6,", "max_connections = 5,")
        return "" if done.returncode == 0 else f"{done.returncode} {done.stderr}"

    def ways(self) -> list[Callable[[], str]]:
        return [
            self.by_http,
            self.by_command_line,
            self.by_console,
            self.by_request,
            self.by_queue,
            self.by_file,
        ]


def outage(home: Home, server: NatsServer, seconds: float) -> None:
    with serving(home, "--workers", str(WORKERS)) as proxy:
        proxy.says("admin API on http://")
        operator, customer = Operator(proxy, server.url), Customer(proxy)
        customer.start()
        try:
            ready = httpx.URL(operator.http.base_url).join("/readyz")
            until(lambda: httpx.get(ready).status_code == 200, "to be ready")
            before = commits(server)
            server.kill()
            gone = time.monotonic()
            told = in_its_absence(operator, ready)
            assert time.monotonic() - gone < 60, "people do not wait for longer"
            spooled(home)
            while time.monotonic() - gone < seconds:
                time.sleep(0.1)
            assert customer.failure is None, customer.failure
            server.start()
            until(lambda: httpx.get(ready).status_code == 200, "to be ready again")
            # What failed was not carried out afterwards.
            assert commits(server) == before, told
            assert [way() for way in operator.ways()[:1]] == [""]
            assert operator.by_request() == operator.by_queue() == ""
            until(lambda: len(commits(server)) == len(before) + 3, "to carry out what is sent")
            customer.stop()
            nothing_is_missing(operator, customer)
        finally:
            customer.stop()
            operator.close()
    # Equal events are told together, and the last of them when the workers stop.
    assert logins(home) == customer.logins
    print(json.dumps(told, indent=1), customer.answered, "queries", customer.logins, "logins")


def in_its_absence(operator: Operator, ready: httpx.URL) -> dict[str, str]:
    """What people and machines are told meanwhile."""
    with ThreadPoolExecutor(8) as pool:
        asked = [(way.__name__, pool.submit(way)) for way in operator.ways()]
        told = {name: answer.result() for name, answer in asked}
    assert all(told.values()), told
    assert not any(each.startswith("unknown") for each in told.values()), told
    assert told["by_http"].startswith("503 "), told
    until(lambda: httpx.get(ready).status_code == 503, "to be called stale")
    body = httpx.get(ready).json()
    assert body["reasons"] == ["the configuration is stale: the log cannot be reached"], body
    assert httpx.get(ready.join("/healthz")).json() == {"status": "alive"}
    page = operator.http.get("/metrics", params={"format": "prometheus"}).text
    stale = re.search(r"_configuration_staleness_seconds\{[^}]*control[^}]*\} ([\d.]+)", page)
    assert stale is not None, page
    assert float(stale[1]) > 5
    doctor = operator.home.run("doctor", seconds=60)
    assert doctor.returncode != 0
    told["doctor"] = doctor.stdout + doctor.stderr
    assert "NATS" in told["doctor"], told
    return told


def spooled(home: Home) -> None:
    """Usage and audit are on disk, within their bound."""
    for folder in (home.data / USAGE_FOLDER, home.data / AUDIT_FOLDER / SPOOL_FOLDER):
        size = sum(file.stat().st_size for file in folder.glob("*.spool"))
        assert 0 < size <= SPOOL_BYTES_MAX, (folder, size)


def nothing_is_missing(operator: Operator, customer: Customer) -> None:
    """Each query is counted once, and the chains of the audit are whole."""

    def counted() -> int:
        found: int = operator.http.get("/tenants/acme/stats").json()["queries"]["total"]
        return found

    until(lambda: counted() == customer.answered, f"to be {customer.answered}", counted)

    done = operator.home.run("audit", "verify")
    assert done.returncode == 0, done.stdout


def logins(home: Home) -> int:
    """How many the audit tells of."""
    done = home.run("audit", "search", "--kind", "login", "--tenant", "acme", "--json")
    return sum(json.loads(line).get("count", 1) for line in done.stdout.splitlines())


def commits(server: NatsServer) -> list[str]:
    """The ids of all commands in the log."""

    async def read() -> list[str]:
        log = await ConfigLog.connect([server.url])
        found: list[str] = []

        def take(each: Stored) -> None:
            found.append(commit_of(each).id)

        await log.scan(take)
        await log.close()
        return found

    return asyncio.run(read())


def test_while_nats_is_away_queries_go_on_and_commands_fail(
    home: Home, own_nats: NatsServer
) -> None:
    outage(home, own_nats, SHORT_SECONDS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nats_away_for_minutes(home: Home, own_nats: NatsServer) -> None:
    outage(home, own_nats, AWAY_SECONDS)
