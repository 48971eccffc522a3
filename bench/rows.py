r"""What isolation by rows costs: point reads of many tenants, one strategy against the other.

    python -P bench/rows.py [--tenants 10,1000] [--protocols simple,prepared] [--rounds 3]
                            [--in-flight 16] [--seconds 3] [--ways database,row\ shared,…]

Tenants read one row of their own by its key, each over a connection of its own; `--in-flight` of
them at a time, the tenants in turn. With `--servers 16` shared servers are that few, and with more
tenants nearly every statement is a hand-over.

    database         a database for each tenant
    row shared       shared tables, both layers, servers that pass between tenants
    row dedicated    the same tables, servers of the tenant's own
    row seal         as shared, PostgreSQL alone keeps tenants apart
    row rewrite      as shared, the proxy alone does

`simple` sends the text with its numbers in it, which PostgreSQL plans each time; `prepared` parses
once for each connection and then binds, as drivers do. There are servers enough for each tenant to
keep one, so nobody waits for one to be opened; tenants that share them come to one each in time (a
few ms for each: see --warm). The load is made in Python, in one process, which is the same for all
strategies; CPU is that of the proxy only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the installed build goes first

import psycopg
import uvloop
from psycopg import sql

from admin.provision.sql import group_role
from bench.lab import PASSWORD, USER, Lab, config, laboratory
from bench.machine import begin, cpu_of, machine

PROTOCOLS = ("simple", "prepared")
WAYS = ("database", "row shared", "row dedicated", "row seal", "row rewrite")
ROWS = 200
SERVERS = 16
SETTLE_SECONDS = 3.0
# For whoever loads the data, provisions, and reads catalogs.
SPARE = 50
# 1,000 logins at once would measure the SCRAM proofs only.
LOGINS_AT_ONCE = 20

TENANT = """
[[multi_tenancy.tenants]]
id = "{id}"
isolation = {{ {isolation} }}
pool = {{ max_connections = {pool}, min_idle = 0, dedicated_pool = {dedicated} }}
rate_limits = {{ qps_limit = 1_000_000, max_connections = 20_000 }}
users = [{{ name = "{user}", password = "{password}" }}]
"""


def isolation(way: str, id: str) -> str:
    if way == "database":
        return 'strategy = "database"'
    enforcement = way.partition(" ")[2]
    if enforcement in ("shared", "dedicated"):
        enforcement = "both"
    return f'strategy = "row", database_name = "{place(way, id)}", enforcement = "{enforcement}"'


def place(way: str, id: str) -> str:
    """The tenant's database."""
    return f"{id}_db" if way == "database" else "market_" + way.partition(" ")[2]


def ids(way: str, count: int) -> list[str]:
    return [f"{way.replace(' ', '-')}-{number}" for number in range(count)]


def tenants(way: str, count: int) -> list[str]:
    dedicated = way == "row dedicated"
    return [
        TENANT.format(
            id=id,
            isolation=isolation(way, id),
            pool=1 if dedicated else SERVERS,
            dedicated="true" if dedicated else "false",
            user=USER,
            password=PASSWORD,
        )
        for id in ids(way, count)
    ]


# --- data ----------------------------------------------------------------------------------------


def load(lab: Lab, way: str, count: int) -> None:
    """The same rows for each tenant, and for the protected tables what `protect` does."""
    names = ids(way, count)
    if way == "database":
        for id in names:
            with lab.admin(place(way, id)) as admin:
                admin.execute("CREATE TABLE points (id int PRIMARY KEY, value bigint)")
                admin.execute(f"INSERT INTO points SELECT n, n FROM generate_series(1, {ROWS}) n")
                admin.execute("ANALYZE points")
        return
    database = place(way, names[0])
    with lab.admin(database) as admin:
        admin.execute(
            "CREATE TABLE points (tenant_id text NOT NULL, id int, value bigint,"
            " PRIMARY KEY (tenant_id, id))"
        )
        admin.execute(
            f"INSERT INTO points SELECT t, n, n FROM unnest(%s::text[]) t,"
            f" generate_series(1, {ROWS}) n",
            (names,),
        )
        admin.execute("ANALYZE points")
    if way == "row rewrite":
        with lab.admin(database) as admin:
            group = sql.Identifier(group_role("select", database))
            admin.execute(sql.SQL("GRANT SELECT ON points TO {}").format(group))
        return
    command = [sys.executable, "-P", "-m", "admin.cli", "protect", "--data-dir", str(lab.data)]
    done = subprocess.run(
        [*command, "--database", database, "--apply"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- load ----------------------------------------------------------------------------------------


def message(kind: bytes, body: bytes) -> bytes:
    """One message of the protocol."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


PREPARE = (
    message(b"P", b"read\0SELECT value + 1 FROM points WHERE id = $1::int4\0" + bytes(2))
    + message(b"S", b"")
)  # fmt: skip
EXECUTE_AND_SYNC = message(b"E", bytes(5)) + message(b"S", b"")


def simple(number: int) -> bytes:
    """A point read as one text."""
    text = f"SELECT value + {number} FROM points WHERE id = {number % ROWS + 1}"
    return message(b"Q", text.encode() + b"\0")


def prepared(number: int) -> bytes:
    """The same as Bind, Execute and Sync of what `PREPARE` has parsed; the parameter is binary."""
    value = (number % ROWS + 1).to_bytes(4, "big")
    bind = b"\0read\0" + bytes((0, 1, 0, 1, 0, 1, 0, 0, 0, 4)) + value + bytes(2)
    return message(b"B", bind) + EXECUTE_AND_SYNC


@dataclass
class Client:
    """One connection, past its login; a statement is written and answered as bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    # Ends the session when it goes.
    kept: psycopg.AsyncConnection[Any]

    async def ask(self, asked: bytes) -> bool:
        """Whether the answer holds a row; it is read up to ReadyForQuery."""
        self.writer.write(asked)
        row = False
        while True:
            head = await self.reader.readexactly(5)
            body = await self.reader.readexactly(int.from_bytes(head[1:], "big") - 4)
            if head[:1] == b"D":
                row = True
            elif head[:1] == b"E":
                raise RuntimeError(body.replace(b"\0", b" ").decode(errors="replace"))
            elif head[:1] == b"Z":
                return row


async def log_in(lab: Lab, id: str, way: str, turn: asyncio.Semaphore) -> Client:
    """libpq proves the password; then the socket is ours."""
    where = lab.through(id, place(way, id))
    async with turn:
        connection = await psycopg.AsyncConnection[Any].connect(
            host=where.host, port=where.port, user=where.user, password=where.password,
            dbname=where.database, sslmode="disable", autocommit=True,
        )  # fmt: skip
    taken = socket.socket(fileno=os.dup(connection.fileno()))
    taken.setblocking(False)
    client = Client(*await asyncio.open_connection(sock=taken), connection)
    await client.ask(PREPARE)
    return client


async def measure(
    clients: list[Client],
    ask: Callable[[int], bytes],
    in_flight: int,
    seconds: float,
    pids: list[int],
) -> dict[str, float]:
    """Transactions a second, latency in ms, and the proxy's CPU in µs a transaction."""
    queue = asyncio.Queue[Client]()
    for client in clients:
        queue.put_nowait(client)
    times: list[float] = []
    stop = time.monotonic() + seconds
    number = 0

    async def work() -> None:
        nonlocal number
        while time.monotonic() < stop:
            client = queue.get_nowait()
            number += 1
            began = time.perf_counter()
            row = await client.ask(ask(number))
            times.append(time.perf_counter() - began)
            assert row, "a tenant does not see its own row"
            queue.put_nowait(client)

    before, began = cpu_of(pids), time.monotonic()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    passed, after = time.monotonic() - began, cpu_of(pids)
    times.sort()
    cpu = (after.user + after.system - before.user - before.system) / len(times) * 1e6
    return {
        "tps": len(times) / passed,
        "p50_ms": times[len(times) // 2] * 1000,
        "p99_ms": times[int(len(times) * 0.99)] * 1000,
        "cpu_us": cpu,
    }


async def rounds_of(
    lab: Lab, ways: list[str], count: int, given: argparse.Namespace
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """By protocol and way, each way in turn, `rounds` times, so that what the machine does meets
    all of them."""
    turn = asyncio.Semaphore(LOGINS_AT_ONCE)
    pids = lab.processes()
    seen: dict[str, dict[str, list[dict[str, float]]]] = {
        protocol: {way: [] for way in ways} for protocol in given.protocols
    }
    clients = {
        way: await asyncio.gather(*(log_in(lab, id, way, turn) for id in ids(way, count)))
        for way in ways
    }
    in_flight = min(given.in_flight, count)
    for protocol in given.protocols:
        ask = simple if protocol == "simple" else prepared
        for way in ways:
            await measure(list(clients[way]), ask, in_flight, given.warm, pids)
        for _ in range(given.rounds):
            for way in ways:
                figures = await measure(list(clients[way]), ask, in_flight, given.seconds, pids)
                seen[protocol][way].append(figures)
                told = " ".join(f"{key} {value:9.2f}" for key, value in figures.items())
                say(f"{count:5} tenants, {protocol:8}, {way:14} {told}")
    return seen


def compare(count: int, given: argparse.Namespace) -> dict[str, Any]:
    ways = list(given.ways)
    budget = given.servers or max(SERVERS, count)
    text = config([each for way in ways for each in tenants(way, count)], budget=budget * len(ways))
    connections = max(budget, count) * len(ways) + SPARE
    with laboratory(text, max_connections=connections) as lab, lab.serve():
        lab.wait_until_provisioned()
        for way in ways:
            load(lab, way, count)
        say(f"{count} tenants of each kind are loaded")
        time.sleep(SETTLE_SECONDS)
        seen = uvloop.run(rounds_of(lab, ways, count, given))
    return {
        "tenants": count,
        "against": ways[0],
        "protocols": {protocol: summary(rounds) for protocol, rounds in seen.items()},
    }


def summary(seen: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of each way, and their ratio to the first one."""
    medians = {
        way: {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}
        for way, rows in seen.items()
    }
    base = next(iter(medians.values()))
    return {
        "medians": medians,
        "ratio": {
            way: {key: round(figures[key] / base[key], 3) for key in figures}
            for way, figures in medians.items()
        },
    }


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tenants", type=lambda text: [int(n) for n in text.split(",")],
                        default=[10, 1000])  # fmt: skip
    parser.add_argument("--protocols", type=lambda text: text.split(","), default=list(PROTOCOLS))
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(WAYS))
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--warm", type=float, default=5.0, help="seconds before the first round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--servers", type=int, default=0, help="for each way; 0: for every tenant")
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    begin()
    about = machine()
    done = [compare(count, given) for count in given.tenants]
    print(json.dumps({"machine": about, "results": done}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
