"""PgBouncer on the same PostgreSQL, set up as fairly as we know: what Tenantry is compared with.

Transaction pooling, the same number of servers, the same login role, SCRAM to clients, no line of
log for a connection, plain TCP on both sides.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from admin.engines.process import free_port, unprivileged_account
from bench.load import BenchError, Endpoint
from bench.machine import version_of

# The first version whose transaction pooling knows prepared statements.
PREPARED_SINCE = (1, 21)
START_SECONDS = 10.0
CLIENT = "bench"
HOW_TO_INSTALL = (
    "PgBouncer was not found, so Tenantry is compared with direct connections only. "
    "Install it (Debian, Ubuntu: apt-get install pgbouncer) or name it with PGBOUNCER=/path."
)

INI = """
[databases]
{database} = host={host} port={port} dbname={database} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = {pool}
max_client_conn = 5000
log_connections = 0
log_disconnections = 0
log_stats = 0
logfile = {folder}/pgbouncer.log
pidfile = {folder}/pgbouncer.pid
{prepared}
"""


def program() -> str | None:
    """PgBouncer's program; distributions keep it where only root looks."""
    places = (os.environ.get("PGBOUNCER", ""), "pgbouncer", "/usr/sbin/pgbouncer")
    return next((found for place in places if place and (found := shutil.which(place))), None)


def version() -> tuple[int, ...]:
    """(1, 25, 2), or () without PgBouncer."""
    found = program()
    said = re.search(r"(\d+(?:\.\d+)+)", version_of(found)) if found else None
    return tuple(map(int, said[1].split("."))) if said else ()


def version_text() -> str:
    return ".".join(map(str, version()))


def knows_prepared() -> bool:
    """Whether it keeps prepared statements in transaction pooling."""
    return version() >= PREPARED_SINCE


@contextlib.contextmanager
def pgbouncer(server: Endpoint, pool: int, folder: Path) -> Iterator[Endpoint]:
    """PgBouncer in front of `server`, with `pool` connections to it. Raises BenchError."""
    found = program()
    assert found is not None
    folder.mkdir()
    port, password = free_port(), server.password
    (folder / "users.txt").write_text(f'"{CLIENT}" "{password}"\n')
    settings = INI.format(
        database=server.database,
        host=server.host,
        port=server.port,
        user=server.user,
        password=password,
        listen=port,
        pool=pool,
        folder=folder,
        prepared="max_prepared_statements = 200" if knows_prepared() else "",
    )
    (folder / "pgbouncer.ini").write_text(settings)
    account = unprivileged_account(folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o700)
        if account is not None:
            os.chown(path, account.uid, account.gid)
    process = subprocess.Popen(
        [found, "-q", str(folder / "pgbouncer.ini")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    where = Endpoint(
        "pgbouncer", "127.0.0.1", port, CLIENT, server.database, password, lambda: [process.pid]
    )
    try:
        _wait_for(where, process, folder / "pgbouncer.log")
        yield where
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait_for(where: Endpoint, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(
                host=where.host,
                port=where.port,
                user=where.user,
                password=where.password,
                dbname=where.database,
            ).close()
            return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text()[-500:] if log.exists() else ""
                raise BenchError(f"PgBouncer did not start: {error} {said}") from None
            time.sleep(0.05)
