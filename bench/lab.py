"""What is measured, set up for one run and gone after it: engines, `tenantry serve`, PgBouncer.

The PostgreSQL and the NATS are Tenantry's embedded ones in a temporary directory, with fsync off:
all that is compared shares them. Tenantry runs as users run it, `tenantry serve` with one worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from admin.engines.both import engines_down, engines_up
from admin.engines.nats import EmbeddedNats
from admin.engines.postgres import EmbeddedPostgres
from bench.load import BenchError, Endpoint
from bench.machine import build_home, children
from events.log import ConfigLog
from events.model import Tenant
from events.projection import Projection
from events.secrets import Vault, tenant_purpose

PROVISION_SECONDS = 900  # a few thousand databases
START_SECONDS = 120.0
STOP_SECONDS = 60.0
USER = "bench"
PASSWORD = "bench-secret"

HEAD = """
listen_address = "127.0.0.1:0"
{top}
[[nodes]]
embedded = true

[pool]
max_connections = {budget}

[limits]
max_clients = 20_000
{tables}
"""

# High enough to refuse nothing: the bucket is filled and emptied all the same.
TENANT = """
[[multi_tenancy.tenants]]
id = "{id}"
isolation = {{ strategy = "{strategy}" }}
pool = {{ max_connections = {pool}, min_idle = 0 }}
rate_limits = {{ qps_limit = 1_000_000, max_connections = 20_000 }}
users = [{{ name = "{user}", password = "{password}" }}]
"""


def tenant_table(id: str, strategy: str = "schema", pool: int = 20) -> str:
    """One tenant for the configuration file, with limits that are on and never reached."""
    return TENANT.format(id=id, strategy=strategy, pool=pool, user=USER, password=PASSWORD)


def config(tenants: list[str], *, top: str = "", tables: str = "", budget: int = 100) -> str:
    """A whole configuration file; `top` are further keys, `tables` further tables."""
    return HEAD.format(top=top, tables=tables, budget=budget) + "".join(tenants)


class Lab:
    """A data directory with running engines; `serve` starts Tenantry in it."""

    def __init__(self, text: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tenantry-bench-"))
        self.folder.chmod(0o755)  # as root, PostgreSQL runs as another account beneath it
        self.data = self.folder / "data"
        self.config = self.folder / "tenantry.toml"
        self.config.write_text(text)
        self.postgres = EmbeddedPostgres(self.data, fast=True)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    # --- Tenantry ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def serve(self, *arguments: str, file: bool = True) -> Iterator[None]:
        """`tenantry serve` until the end of the block, with further `arguments`. Raises
        BenchError."""
        log = self.folder / "serve.log"
        command = [
            sys.executable,
            "-P",
            "-m",
            "admin.cli",
            "serve",
            "--data-dir",
            str(self.data),
        ]
        command += ["--fast-engines", *(["--config", str(self.config)] if file else []), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(build_home())}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stderr=output, cwd=self.folder, env=environment
            )
        try:
            self.port = self._wait_until_serving(self._process, log)
            yield
        finally:
            if self._process.poll() is None:
                self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _wait_until_serving(self, process: subprocess.Popen[bytes], log: Path) -> int:
        deadline = time.monotonic() + START_SECONDS
        while True:
            said = log.read_text()
            if found := re.search(r"serving .* on [\d.]+:(\d+)", said):
                return int(found[1])
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"tenantry serve did not start: {said[-2000:]}")
            time.sleep(0.05)

    def supervisor(self) -> int:
        """The process id of `tenantry serve`."""
        assert self._process is not None
        return self._process.pid

    def workers(self) -> list[int]:
        """Its workers: the engines are not its children here."""
        return children(self.supervisor())

    def processes(self) -> list[int]:
        """All of Tenantry but the engines."""
        return [self.supervisor(), *self.workers()]

    def through(self, tenant: str, database: str = "shared_db") -> Endpoint:
        """The tenant's client, through Tenantry."""
        user = f"{tenant}.{USER}"
        return Endpoint(
            "tenantry", "127.0.0.1", self.port, user, database, PASSWORD, self.processes
        )

    # --- PostgreSQL ----------------------------------------------------------------------------

    def superuser(self, database: str) -> Endpoint:
        """The server itself, as its owner."""
        postgres = self.postgres
        port = postgres.port() or 0
        return Endpoint("direct", postgres.host, port, postgres.user, database, postgres.password())

    def direct(self, tenant: str) -> Endpoint:
        """The server itself, as the login role that Tenantry made for the tenant."""
        known = self.tenant(tenant)
        assert known.provisioned is not None, f"{tenant} is not provisioned"
        role = known.provisioned.role
        secret = Vault.load(self.data).open(known.provisioned.secret, tenant_purpose(tenant))
        # As many clients as a run wants, where Tenantry's own use is bounded by the role.
        lifted = sql.SQL("ALTER ROLE {} CONNECTION LIMIT -1").format(sql.Identifier(role))
        with self.admin("postgres") as connection:
            connection.execute(lifted)
        owner = self.superuser(known.database)
        return Endpoint("direct", owner.host, owner.port, role, known.database, secret)

    def admin(self, database: str) -> psycopg.Connection:
        """A connection of the server's owner, in autocommit mode."""
        return psycopg.connect(self.postgres.dsn(database), autocommit=True)

    # --- the log -------------------------------------------------------------------------------

    def nats_url(self) -> str:
        return EmbeddedNats(self.data).nats_url()

    def tenant(self, id: str) -> Tenant:
        """The tenant as the log has it."""
        found = self._folded().tenant(id)
        assert found is not None, f"{id} is not in the log"
        return found

    def wait_until_provisioned(self) -> None:
        """Wait for PostgreSQL to have what all tenants need. Raises BenchError."""
        deadline = time.monotonic() + PROVISION_SECONDS
        while True:
            log = self._folded()
            left = sum(tenant.provisioned is None for id in log.ids() if (tenant := log.tenant(id)))
            if not left:
                return
            if time.monotonic() > deadline:
                raise BenchError(f"{left} tenants are not provisioned")
            time.sleep(1)

    def _folded(self) -> Projection:
        async def look() -> Projection:
            log, projection = await ConfigLog.connect([self.nats_url()]), Projection()
            try:
                await log.read_all(1, projection.apply)
            finally:
                await log.close()
            return projection

        return asyncio.run(look())

    def remove(self) -> None:
        engines_down(self.data)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def laboratory(text: str, *, max_connections: int = 0) -> Iterator[Lab]:
    """Engines in a folder of their own, with `text` as the configuration file; PostgreSQL with so
    many connections, 0 for the embedded one's own number."""
    lab = Lab(text)
    try:
        if max_connections:
            EmbeddedPostgres(lab.data, fast=True, max_connections=max_connections).up()
        engines_up(lab.data, fast=True)
        yield lab
    finally:
        lab.remove()
