"""Memory of an idle, authenticated client in a worker, in clear and with TLS.

    python -P bench/memory.py [--clients 2000] [--json]

The clients live in another process. A few come first and stay, so that what the worker loads once
is not counted; then the growth of its memory is divided by the number of clients. `connected` is
after their log-in, `used` after each has run one statement as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the installed build goes first

import psycopg

from bench.lab import PASSWORD, Lab, config, laboratory, tenant_table
from bench.machine import begin, memory_of
from bench.tables import show
from bench.tls_memory import certificate

TENANT = "acme"
WARM = 20
# Log-ins at a time: more would only wait for the one worker.
PARALLEL = 8
SETTLE_SECONDS = 1.0


def be_clients(conninfo: str, count: int) -> None:
    """Connect `count` clients; then run one statement on each for each line read."""

    def connect(_: int) -> psycopg.Connection:
        return psycopg.connect(conninfo, password=PASSWORD, autocommit=True)

    with ThreadPoolExecutor(PARALLEL) as threads:
        clients = list(threads.map(connect, range(count)))
    print("connected", flush=True)
    for _ in sys.stdin:
        for client in clients:
            client.pgconn.exec_(b"SELECT 1")  # one simple query, nothing prepared
        print("done", flush=True)


class Clients:
    """A process with idle clients; a block that ends when they have gone."""

    def __init__(self, lab: Lab, count: int, *, tls: bool) -> None:
        where = lab.through(TENANT)
        conninfo = (
            f"host={where.host} port={where.port} user={where.user} dbname={where.database} "
            f"sslmode={'require' if tls else 'disable'} gssencmode=disable"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--be", conninfo, "--clients", str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._hear("connected")

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def use(self) -> None:
        """One statement on each."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self._hear("done")

    def _hear(self, word: str) -> None:
        assert self.process.stdout is not None
        heard = self.process.stdout.readline().strip()
        assert heard == word, f"the clients said {heard!r} instead of {word!r}"


def settled(pid: int) -> dict[str, int]:
    """The memory of the worker once it has come to rest."""
    time.sleep(SETTLE_SECONDS)
    return memory_of(pid)


def idle_clients(count: int, *, tls: bool) -> dict[str, Any]:
    """KiB a client, as growth of all resident memory, and of what is its own."""
    tables = ""
    with laboratory("") as lab:
        if tls:
            made = certificate(lab.folder)
            tables = f'\n[tls]\nenabled = true\ncert_path = "{made.cert_path}"\n'
            tables += f'key_path = "{made.key_path}"\n'
        lab.config.write_text(config([tenant_table(TENANT)], tables=tables))
        with lab.serve():
            worker = lab.workers()[0]
            with Clients(lab, WARM, tls=tls) as warm:
                warm.use()
                before = settled(worker)
                begun = time.monotonic()
                with Clients(lab, count, tls=tls) as clients:
                    seconds = time.monotonic() - begun
                    connected = settled(worker)
                    clients.use()
                    used = settled(worker)

    def each(after: dict[str, int], kind: str) -> float:
        return round((after[kind] - before[kind]) / count, 2)

    return {
        "tls": tls,
        "clients": count,
        "worker_mib": round(before["rss"] / 1024, 1),
        "connected_rss_kib": each(connected, "rss"),
        "connected_private_kib": each(connected, "private"),
        "used_rss_kib": each(used, "rss"),
        "used_private_kib": each(used, "private"),
        "logins_per_second": round(count / seconds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--be", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    begin()
    if given.be:
        be_clients(given.be, given.clients)
        return 0
    figures = [idle_clients(given.clients, tls=tls) for tls in (False, True)]
    if given.json:
        print(json.dumps(figures, indent=1))
    else:
        show({"memory": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
