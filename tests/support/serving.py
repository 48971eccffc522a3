"""Runs `tenantry serve` as users do: a process, a data directory, a configuration file.

    with serving(home) as proxy:
        with proxy.connect("acme") as client: ...

Engines are started once a module and kept, as `tenantry engines up` does, so that a start takes
tenths of a second; a test that is about starting engines has a home of its own.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from support.engines import roomy_memory

from admin.engines.both import engines_down, engines_up
from admin.worker_keeper import environment

START_SECONDS = 60.0
STOP_SECONDS = 40.0
WAIT_SECONDS = 20.0

CONFIG = """
listen_address = "127.0.0.1:0"
admin_address = "off"

[[nodes]]
embedded = true

[pool]
max_connections = 40

[[multi_tenancy.tenants]]
id = "acme"
isolation = { strategy = "schema", database_name = "shared_db" }
rate_limits = { qps_limit = "unlimited", max_connections = 40 }
pool = { max_connections = 20, min_idle = 0 }
permissions = { allow_ddl = true }
users = [{ name = "appuser", password = "acme-secret" }]

[[multi_tenancy.tenants]]
id = "widgetco"
isolation = { strategy = "database" }
rate_limits = { qps_limit = "unlimited", max_connections = 40 }
pool = { max_connections = 5, min_idle = 0, dedicated_pool = true }
users = [{ name = "appuser", password = "widgetco-secret" }]
"""


class Home:
    """A data directory with its configuration file, and the command line in front of both."""

    def __init__(self, config: str = CONFIG) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tenantry-serve-", dir=roomy_memory()))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.config = self.folder / "tenantry.toml"
        self.config.write_text(config)

    def change(self, before: str, after: str) -> None:
        """Edit the file, as an operator would."""
        text = self.config.read_text()
        assert before in text, f"{before!r} is not in the file"
        self.config.write_text(text.replace(before, after))

    def run(self, *arguments: str, seconds: float = 30.0) -> subprocess.CompletedProcess[str]:
        """One command to its end."""
        return subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=self.folder,
            env={**environment(), "TENANTRY_DATA_DIR": str(self.data)},
            check=False,
        )

    def remove(self) -> None:
        engines_down(self.data)
        shutil.rmtree(self.folder, ignore_errors=True)


# Not from the current directory: what the tests import is what is started.
COMMAND = [sys.executable, "-P", "-m", "admin.cli"]


class Proxy:
    """A supervisor that serves."""

    def __init__(self, process: subprocess.Popen[bytes], home: Home, log: Path) -> None:
        self.process = process
        self.home = home
        self.port = 0
        self._log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """All that it has said so far."""
        return self._log.read_text()

    def connect(
        self, tenant: str = "acme", *, dbname: str = "", password: str = "", **options: object
    ) -> psycopg.Connection:
        """A client of the tenant, in autocommit mode."""
        known = {"autocommit": True, "connect_timeout": 10}
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=f"{tenant}.appuser",
            password=password or f"{tenant}-secret",
            dbname=dbname or {"acme": "shared_db"}.get(tenant, f"{tenant}_db"),
            **(known | options),
        )

    def workers(self) -> list[int]:
        """Process ids of its living children."""
        return children(self.pid)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    def says(self, text: str, times: int = 1) -> None:
        """Wait until it has said `text`."""
        until(lambda: self.log().count(text) >= times, f"to say {text!r}", self.log)


@contextlib.contextmanager
def serving(home: Home, *arguments: str, file: bool = True) -> Iterator[Proxy]:
    """`tenantry serve` on a free port, ready; stopped at the end."""
    command = [*COMMAND, "serve", "--data-dir", str(home.data), "--fast-engines"]
    command += ["--config", str(home.config)] if file else []
    log = home.folder / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *arguments], stderr=output, cwd=home.folder, env=environment()
        )
    proxy = Proxy(process, home, log)
    try:
        until(
            lambda: "serving " in proxy.log() or process.poll() is not None,
            "to serve",
            proxy.log,
            START_SECONDS,
        )
        found = re.search(r"serving .* on 127\.0\.0\.1:(\d+)", proxy.log())
        assert found is not None, proxy.log()
        proxy.port = int(found[1])
        yield proxy
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextlib.contextmanager
def prepared_home(config: str = CONFIG) -> Iterator[Home]:
    """A home whose engines run already, and outlive every supervisor of it."""
    home = Home(config)
    try:
        engines_up(home.data, fast=True)
        yield home
    finally:
        home.remove()


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """For a whole module. Its file may be changed; put it back at the end of the test."""
    with prepared_home() as made:
        yield made


@pytest.fixture
def original(home: Home) -> Iterator[Home]:
    """The module's home; changes to its file are undone."""
    home.config.write_text(CONFIG)
    yield home
    home.config.write_text(CONFIG)


def until(
    met: Callable[[], object],
    what: str,
    evidence: Callable[[], object] = lambda: "",
    seconds: float = WAIT_SECONDS,
) -> None:
    """Poll until `met`; AssertionError with the evidence otherwise."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for it {what}\n{evidence()}"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The living children of a process, oldest first (proc(5))."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.parent.name))
    return sorted(found)


def alive(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
