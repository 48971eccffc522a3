"""One PostgreSQL and one NATS for a whole test run, shared by its workers, gone when it ends.

pytest's controlling process starts this module as the engine host and holds the other end of its
standard input. The host starts the engines when the first test asks (over a Unix socket), and
stops them when that end closes: on a normal end, on Ctrl-C and on kill -9 alike.

NATS has many accounts, each with streams of its own: every test that asks gets one, so the fixed
stream names of the event log never meet.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import conninfo, sql

from admin.engines.both import EmbeddedNats, EmbeddedPostgres

SOCKET_VARIABLE = "TENANTRY_TEST_ENGINES"
ACCOUNTS = 1000  # one per test that asks; each costs the server's start a fraction of a ms
MAX_CONNECTIONS = 300
MEMORY = "/dev/shm"
MEMORY_BYTES = 2 * 1024**3  # a cluster, its log (bounded below), and what tests put into it
SETTINGS = {"max_wal_size": "256MB", "min_wal_size": "80MB"}


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server and its superuser."""

    host: str
    port: int
    user: str
    password: str
    pid: int = 0

    def dsn(self, dbname: str = "postgres", **options: object) -> str:
        """A libpq connection string; `options` such as user, password, sslmode override ours."""
        known = {"host": self.host, "port": self.port, "user": self.user}
        known |= {"password": self.password, "dbname": dbname, "connect_timeout": 10}
        return conninfo.make_conninfo(**(known | options))

    def connect(self, dbname: str = "postgres", **options: object) -> psycopg.Connection:
        """A superuser's connection in autocommit mode."""
        return psycopg.connect(self.dsn(dbname, **options), autocommit=True)

    def execute(self, statement: str, dbname: str = "postgres") -> list[tuple]:
        """Run one statement as superuser and return its rows, if it has any."""
        with self.connect(dbname) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, prefix: str = "test") -> str:
        """A new empty database under a name nobody else uses; it goes with the server."""
        name = unique_name(prefix)
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name


@dataclass(frozen=True)
class Nats:
    """A NATS server; `url` logs in to an account that no other test has."""

    url: str
    port: int
    pid: int


def unique_name(prefix: str = "test") -> str:
    """A lower-case identifier that no other test of any run uses."""
    return f"{prefix}_{uuid.uuid4().hex[:12]}"


def roomy_memory() -> str | None:
    """A memory file system with room for a run's data: nothing here needs to outlive it."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(MEMORY).free > MEMORY_BYTES and os.access(MEMORY, os.W_OK):
            return MEMORY
    return None


class EngineHost:
    """The controller's side: owns the host process; use `start` and `stop`."""

    def __init__(self) -> None:
        # Readable by others, because as root PostgreSQL runs as another account beneath it.
        self.folder = Path(tempfile.mkdtemp(prefix="tenantry-tests-", dir=roomy_memory()))
        self.folder.chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the host process (not yet the engines) and let workers know where it is."""
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches pytest; the host ends when pytest does
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"listening\n", "the engine host did not start"
        os.environ[SOCKET_VARIABLE] = str(self.folder / "host.sock")

    def stop(self) -> None:
        """Let the host stop the engines, and wait for it."""
        os.environ.pop(SOCKET_VARIABLE, None)
        if self.process is not None:
            self.process.communicate()
            self.process = None


def ask(engine: str) -> dict:
    """Ask the host for `postgres` or `nats`; it starts the engine when it is the first to be."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(os.environ[SOCKET_VARIABLE])
        peer.sendall(engine.encode() + b"\n")
        with peer.makefile() as answers:
            answer = json.loads(answers.readline())
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def _serve(folder: Path) -> None:
    """The host's side: answer until the controller's end of standard input closes."""
    postgres = EmbeddedPostgres(
        folder, fast=True, max_connections=MAX_CONNECTIONS, settings=SETTINGS
    )
    accounts = {f"test{number}": uuid.uuid4().hex for number in range(ACCOUNTS)}
    nats = EmbeddedNats(folder, fast=True, extra_accounts=accounts)
    unused = iter(accounts)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "host.sock"))
    listener.listen(64)
    print("listening", flush=True)
    try:
        while sys.stdin not in (ready := select.select([sys.stdin, listener], [], [])[0]):
            assert ready == [listener]
            peer, _ = listener.accept()
            with peer, peer.makefile("rw") as stream:
                try:
                    answer = _answer(stream.readline().strip(), postgres, nats, unused)
                except Exception as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                stream.write(json.dumps(answer) + "\n")
    finally:
        listener.close()
        nats.down()
        postgres.down()
        shutil.rmtree(folder, ignore_errors=True)


def _answer(engine: str, postgres: EmbeddedPostgres, nats: EmbeddedNats, unused) -> dict:
    if engine == "postgres":
        postgres.up()
        return {
            "host": postgres.host,
            "port": postgres.port(),
            "user": postgres.user,
            "password": postgres.password(),
            "pid": postgres.pid(),
        }
    nats.up()
    return {"url": nats.nats_url(next(unused)), "port": nats.port(), "pid": nats.pid()}


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
