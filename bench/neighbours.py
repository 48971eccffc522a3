"""What one tenant's hostile statements do to another's latency.

    python -P bench/neighbours.py [--rounds 3] [--seconds 5] [--rate 400]

Two tenants share tables (both layers) and one worker. `victim` reads points by their key at a fixed
rate, prepared and unprepared in turn; meanwhile four connections of `noisy` send statements that
nobody has seen before, one after the other:

    literals   10,000 numbers in an IN list, about 60 kB
    megabyte   numbers up to 1 MB
    refused    as many, on a table that is not there: PostgreSQL never sees it

PostgreSQL plans and runs what noisy sends, on the same cores. So each is measured twice: through
the proxy, and sent straight to PostgreSQL, which costs the machine the same and the proxy nothing.
Latency counts from when a read was due, so that a stall is not told only once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the installed build goes first

import psycopg
import uvloop

from bench.lab import PASSWORD, Lab, config, laboratory
from bench.load import Endpoint
from bench.machine import begin, machine
from bench.rows import Client, load, log_in, place, prepared, say, simple, tenants

WAY = "row shared"
VICTIM, NOISY = f"{WAY.replace(' ', '-')}-0", f"{WAY.replace(' ', '-')}-1"
HOSTILE = {
    "literals": ("points", 10_000),
    "megabyte": ("points", 150_000),
    "refused": ("nothing", 10_000),
}
CONNECTIONS = 4
READERS = 8
SETTLE_SECONDS = 1.0


def statement(kind: str, number: int) -> str:
    """A text of this kind that was never sent before."""
    table, count = HOSTILE[kind]
    numbers = ",".join(map(str, range(1_000_000 + number, 1_000_000 + number + count)))
    return f"SELECT count(*) FROM {table} WHERE id IN ({numbers})"


def send(where: Endpoint, kind: str, stop: Event) -> None:
    """A process of its own, so that making the texts does not delay who measures."""
    number = random.randrange(100_000_000)
    while not stop.is_set():
        with psycopg.connect(
            host=where.host, port=where.port, user=where.user, password=where.password,
            dbname=where.database, sslmode="disable", autocommit=True, prepare_threshold=None,
        ) as connection:  # fmt: skip
            while not stop.is_set():
                number += 1
                try:
                    connection.execute(statement(kind, number).encode())
                except psycopg.OperationalError:
                    break
                except psycopg.Error:
                    continue


@contextmanager
def noise(where: Endpoint | None, kind: str) -> Iterator[None]:
    """`CONNECTIONS` connections that send without a pause; none without an endpoint."""
    stop = multiprocessing.get_context("spawn").Event()
    make = multiprocessing.get_context("spawn").Process
    count = CONNECTIONS if where else 0
    senders = [make(target=send, args=(where, kind, stop), daemon=True) for _ in range(count)]
    for sender in senders:
        sender.start()
    time.sleep(SETTLE_SECONDS if senders else 0)
    try:
        yield
    finally:
        stop.set()
        for sender in senders:
            sender.join(30)


async def read_points(clients: list[Client], rate: float, seconds: float) -> list[float]:
    """Latencies in ms of reads that are due `rate` times a second."""
    times: list[float] = []
    began = time.perf_counter() + 0.05
    turn = iter(range(round(rate * seconds)))

    async def work(client: Client) -> None:
        for number in turn:
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            row = await client.ask(prepared(number) if number % 2 else simple(number))
            assert row, "a tenant does not see its own row"
            times.append((time.perf_counter() - due) * 1000)

    await asyncio.gather(*(work(client) for client in clients))
    return sorted(times)


def measure(lab: Lab, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians over the rounds of p50 and p99 in ms, for each kind of noise."""
    database = place(WAY, NOISY)
    through = lab.through(NOISY, database)
    # The process that sends cannot be given what counts processes.
    through = Endpoint("tenantry", through.host, through.port, through.user, database, PASSWORD)
    ways: list[tuple[str, Endpoint | None, str]] = [("quiet", None, "literals")]
    for kind in HOSTILE:
        ways += [(f"{kind}, proxy", through, kind)]
        if HOSTILE[kind][0] == "points":
            ways += [(f"{kind}, straight", lab.superuser(database), kind)]
    seen: dict[str, list[list[float]]] = {name: [] for name, *_ in ways}

    async def one() -> list[float]:
        turn = asyncio.Semaphore(READERS)
        clients = [await log_in(lab, VICTIM, WAY, turn) for _ in range(READERS)]
        try:
            # Servers are opened, and texts become known.
            await read_points(clients, given.rate, SETTLE_SECONDS)
            return await read_points(clients, given.rate, given.seconds)
        finally:
            for client in clients:
                client.writer.close()
                await client.kept.close()

    for _ in range(given.rounds):
        for name, where, kind in ways:
            with noise(where, kind):
                times = uvloop.run(one())
            seen[name].append([times[len(times) // 2], times[int(len(times) * 0.99)]])
            say(f"{name:20} p50 {seen[name][-1][0]:7.2f} ms  p99 {seen[name][-1][1]:7.2f} ms")
    return {
        name: {
            "p50_ms": round(statistics.median(p50 for p50, _ in rounds), 3),
            "p99_ms": round(statistics.median(p99 for _, p99 in rounds), 3),
        }
        for name, rounds in seen.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=400.0, help="reads a second")
    given = parser.parse_args()
    begin()
    about = machine()
    with laboratory(config(tenants(WAY, 2), budget=32)) as lab, lab.serve():
        lab.wait_until_provisioned()
        load(lab, WAY, 2)
        time.sleep(SETTLE_SECONDS)
        found = measure(lab, given)
    print(json.dumps({"machine": about, "latency": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
