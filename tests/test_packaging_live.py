"""The files of deploy/ at work, without containers: the NATS cluster, and two proxies on it.

Names and ports of the compose file's network become free ports of this machine; all else is as it
is shipped: start.sh, cluster.conf, docs/compose.toml.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from support.engines import Postgres
from support.nats import SERVER, free_port
from support.provisioning import lone_postgres as lone_postgres
from support.serving import COMMAND, until

from admin.worker_keeper import environment

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
# All digits: the configuration must take it for text.
PASSWORD = "120034"


class Cluster:
    """Three nats-servers, started by start.sh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = [[free_port() for _ in range(3)] for _ in range(3)]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.password = folder / "password"
        self.password.write_text(PASSWORD + "\n")
        (folder / "bin").mkdir()
        (folder / "bin/nats-server").symlink_to(SERVER)

    def start(self, number: int) -> None:
        client, route, monitor = self.ports[number]
        place = self.folder / str(number)
        if not place.exists():
            shutil.copytree(ROOT / "deploy/nats", place)
            config = place / "cluster.conf"
            text = config.read_text()
            for shipped, here in (
                ("0.0.0.0:4222", f"127.0.0.1:{client}"),
                ("0.0.0.0:6222", f"127.0.0.1:{route}"),
                ("127.0.0.1:8222", f"127.0.0.1:{monitor}"),
                ("store_dir: /data", f"store_dir: {place}/data"),
            ):
                assert shipped in text
                text = text.replace(shipped, here)
            config.write_text(text)
        nodes = " ".join(f"127.0.0.1:{route}" for _, route, _ in self.ports)
        with (place / "log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [place / "start.sh", place / f"nats-{number + 1}.conf"],
                    stdout=log,
                    stderr=log,
                    env={
                        "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                        "NATS_PASSWORD_FILE": str(self.password),
                        "NATS_NODES": nodes,
                    },
                )
            )

    def healthy(self, number: int) -> bool:
        """What the health check of the compose file asks."""
        url = f"http://127.0.0.1:{self.ports[number][2]}/healthz"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def logs(self) -> str:
        return "\n".join(
            (self.folder / str(n) / "log").read_text()[-1000:] for n in range(len(self.ports))
        )

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("nats"))
    try:
        for number in range(3):
            made.start(number)
        until(
            lambda: all(made.healthy(number) for number in range(3)),
            "to be healthy",
            made.logs,
            START_SECONDS,
        )
        yield made
    finally:
        made.stop()


def configuration(cluster: Cluster, server: Postgres) -> str:
    """docs/compose.toml for this machine."""
    text = (ROOT / "docs/compose.toml").read_text()
    changes = [
        ('"0.0.0.0:6432"', '"127.0.0.1:0"\nadmin_address = "off"'),
        ('host = "postgres"', f'host = "{server.host}"\nport = {server.port}'),
        ('user = "postgres"', f'user = "{server.user}"'),
        ("max_connections = 100 ", "max_connections = 10 "),
        # The address is one for all proxies, so on one machine each chooses its port.
        ("0.0.0.0:9464", "127.0.0.1:0"),
        ('endpoint = "http://otel-collector:4318"\n', ""),
    ]
    for number, (client, _, _) in enumerate(cluster.ports, 1):
        changes.append((f"nats-{number}:4222", f"127.0.0.1:{client}"))
    for shipped, here in changes:
        assert shipped in text, shipped
        text = text.replace(shipped, here)
    return text


@contextmanager
def proxy(folder: Path, config: str, secrets: dict[str, str]) -> Iterator[tuple[int, int]]:
    """`tenantry serve` with a data directory of its own; its port, and that of its metrics."""
    folder.mkdir()
    file = folder / "compose.toml"
    file.write_text(config)
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--config", str(file), "--data-dir", str(folder / "data")],
            stderr=output,
            env={**environment(), **secrets},
        )
    try:
        until(
            lambda: "serving " in log.read_text() or process.poll() is not None,
            "to serve",
            log.read_text,
            START_SECONDS,
        )
        found = re.search(r"serving 1 tenant on 127\.0\.0\.1:(\d+)", log.read_text())
        assert found is not None, log.read_text()
        port = int(found[1])
        (page,) = listening(process.pid) - {port}
        yield port, page
        process.terminate()
        assert process.wait(START_SECONDS) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def listening(pid: int) -> set[int]:
    """The ports on which a process itself listens."""
    sockets = psutil.Process(pid).net_connections(kind="tcp")
    return {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}


def ask(port: int, statement: str) -> object:
    where = {"host": "127.0.0.1", "port": port, "user": "acme.appuser", "dbname": "shared_db"}
    with psycopg.connect(**where, password="acme", autocommit=True, connect_timeout=10) as client:
        row = client.execute(statement).fetchone()
        return None if row is None else row[0]


def page_of(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_two_proxies_serve_one_installation(
    cluster: Cluster, lone_postgres: Postgres, tmp_path: Path
) -> None:
    config = configuration(cluster, lone_postgres)
    secrets = {
        "TENANTRY_SECRET_KEY": base64.b64encode(os.urandom(32)).decode(),
        "NATS_PASSWORD": PASSWORD,
        "POSTGRES_PASSWORD": lone_postgres.password,
        "ACME_PASSWORD": "acme",
    }
    with ExitStack() as stack:
        proxies = [
            stack.enter_context(proxy(tmp_path / name, config, secrets)) for name in ("one", "two")
        ]
        (one, _), (two, _) = proxies
        with psycopg.connect(
            f"host=127.0.0.1 port={one} user=acme.appuser dbname=shared_db password=acme"
        ) as client:
            client.execute("CREATE TABLE notes (text text)")
            client.execute("INSERT INTO notes VALUES ('by one')")
        assert ask(two, "SELECT text FROM notes") == "by one"
        # Each has a page, with what the alerts ask for.
        for _, page in proxies:
            until(lambda page=page: 'process="worker-0"' in page_of(page), "to report")
            text = page_of(page)
            for wanted in ("tenantry_log_connected 1", "tenantry_workers_alive 1"):
                assert f"\n{wanted}\n" in text
        # With one of three NATS gone, changes are still taken, and felt by both.
        cluster.processes[0].kill()
        cluster.processes[0].wait()
        data = str(tmp_path / "two" / "data")
        change = ("tenants", "change", "acme", "permissions.read_only=true", "--data-dir", data)

        def told() -> str:
            """What the command complains of; it may, until a leader is elected."""
            done = subprocess.run(
                [*COMMAND, *change],
                env={**environment(), **secrets},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0 or "does not answer" in done.stderr, done.stderr
            return done.stderr if done.returncode else ""

        until(lambda: not told(), "to take a change", cluster.logs, START_SECONDS)
        for port, _ in proxies:
            until(lambda port=port: refused(port), "to be read-only")
        # The one that was killed comes back by itself.
        cluster.start(0)
        deadline = time.monotonic() + START_SECONDS
        while not cluster.healthy(0):
            assert time.monotonic() < deadline, cluster.logs()
            time.sleep(0.05)


def refused(port: int) -> bool:
    try:
        ask(port, "DELETE FROM notes RETURNING 1")
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False
