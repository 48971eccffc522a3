r"""How soon a change is felt: by open connections on two workers, for each way to make one.

    python -P bench/changes.py [--changes 300] [--processes 100] [--ways nats,http,…] [--json]

A client of the tenant on each of two workers asks the same statement again and again, about once a
millisecond. A limit of the tenant (max_statement_size) is changed to and fro, so that the statement
is refused and answered in turn. For each change: when it was sent, when it was acknowledged, and
when the later of both clients had the first answer that obeys it. `--processes` is the number of
changes for those ways that start a process each time.

    nats        a request; acknowledged by its answer
    http        PATCH /tenants/…; by its answer
    console     RELOAD in the SQL console after the file was written; by its answer
    disable     DISABLE in the SQL console, which ends the clients; by its answer
    sighup      SIGHUP after the file was written; by the line in the log that it is applied
    watched     the file was written, with `serve --watch`; by the same line
    cli         `tenantry tenants change`; by its first line
    apply       `tenantry apply FILE`; by its end

What commands take for themselves is told apart: the same with --dry-run, which changes nothing.

What is felt before it is acknowledged counts as 0 ms from there. `stale` counts the statements that
were sent after the acknowledgement and yet answered as before it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the installed build goes first

import psycopg

from bench.changes_ways import (
    ID,
    OPERATOR,
    PATIENCE_SECONDS,
    PAUSE_SECONDS,
    TIGHT,
    WIDE,
    Clock,
    Ways,
    operator,
    text_of,
)
from bench.lab import PASSWORD, Lab, laboratory
from bench.machine import begin, machine
from bench.tables import Table, amount
from wire.tasks import spawn

RESULTS = Path(__file__).resolve().parent / "results"
AIM_MS = 100.0
STATEMENT = "SELECT 1 /* " + "x" * 500 + " */"
# Between two changes, so that they are as rare as people make them.
REST_SECONDS = 0.01
IN_PROCESSES = ("cli", "apply")
WAYS = ("nats", "http", "console", "sighup", *IN_PROCESSES, "disable", "watched")


# --- clients that look ----------------------------------------------------------------------------


@dataclass
class Looker:
    """Asks on one open connection, from `run` until it is cancelled. What it has seen is the
    SQLSTATE of the last answer, and when that one was asked and had."""

    connection: psycopg.AsyncConnection[Any]
    state: str = "?"
    since: float = 0.0
    acknowledged: float = 0.0
    stale: int = 0
    wanted: str = ""
    met: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        while True:
            asked = Clock()
            state = ""
            try:
                await self.connection.execute(STATEMENT, prepare=False)
            except psycopg.Error as error:
                state = error.sqlstate or "closed"
            if state != self.state:
                self.state, self.since = state, Clock()
            if self.obeys():
                self.met.set()
            elif self.acknowledged and asked > self.acknowledged:
                self.stale += 1
            if self.connection.closed:
                return
            await asyncio.sleep(PAUSE_SECONDS)

    def obeys(self) -> bool:
        return self.state == self.wanted or (self.wanted == "57P01" and self.state == "closed")

    def expect(self, wanted: str) -> None:
        self.wanted, self.acknowledged = wanted, 0.0
        self.met.clear()


async def lookers(lab: Lab) -> list[Looker]:
    """One on each worker."""
    where = lab.through(ID)
    found: dict[str, psycopg.AsyncConnection[Any]] = {}
    async with await operator(lab) as console:
        for _ in range(60):
            made = await psycopg.AsyncConnection[Any].connect(
                host=where.host, port=where.port, user=where.user, password=where.password,
                dbname=where.database, autocommit=True,
            )  # fmt: skip
            port = made.pgconn.socket and _port(made)
            rows = await _shown(console, f"SHOW CLIENTS {ID}")
            worker = next(row["worker"] for row in rows if row["port"] == port)
            if worker in found:
                await made.close()
            found.setdefault(worker, made)
            if len(found) == 2:
                return [Looker(each) for each in found.values()]
    raise RuntimeError("all clients came to one worker")


def _port(connection: psycopg.AsyncConnection[Any]) -> int:
    """The client's own."""

    with socket.socket(fileno=os.dup(connection.fileno())) as own:
        return int(own.getsockname()[1])


async def _shown(client: psycopg.AsyncConnection[Any], text: str) -> list[dict[str, Any]]:
    cursor = await client.execute(text.encode())
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


# --- measuring ------------------------------------------------------------------------------------


async def one(change: Callable[[], Awaitable[None]], eyes: list[Looker], wanted: str) -> Any:
    """Milliseconds from sending and from the acknowledgement until all obey."""
    for each in eyes:
        each.expect(wanted)
    sent = Clock()
    await change()
    acknowledged = Clock()
    for each in eyes:
        each.acknowledged = acknowledged
    await asyncio.wait_for(
        asyncio.gather(*(each.met.wait() for each in eyes)), timeout=PATIENCE_SECONDS
    )
    felt = max(each.since for each in eyes)
    return (felt - sent) * 1000, max(0.0, felt - acknowledged) * 1000


async def to_and_fro(lab: Lab, way: str, count: int) -> dict[str, Any]:
    """`count` changes of the limit."""
    async with contextlib.AsyncExitStack() as stack:
        ways = Ways(lab, stack)
        change = await ways.made(way)
        eyes = await lookers(lab)
        tasks = [spawn(each.run(), name="look") for each in eyes]
        times = []
        try:
            for number in range(count + 1):
                size, wanted = (TIGHT, "54000") if number % 2 == 0 else (WIDE, "")
                taken = await one(lambda size=size: change(size), eyes, wanted)  # type: ignore[misc]
                await ways.settled()
                await asyncio.sleep(REST_SECONDS)
                if number:  # the first one also warms up
                    times.append(taken)
            if count % 2 == 0:
                await one(lambda: change(WIDE), eyes, "")
                await ways.settled()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for each in eyes:
                await each.connection.close()
        figures = summary(way, times, sum(each.stale for each in eyes))
        if way in IN_PROCESSES:
            figures["own_ms"] = await ways.own_seconds(way) * 1000
        return figures


async def off_and_on(lab: Lab, count: int) -> dict[str, Any]:
    """`count` times DISABLE, each with new clients."""
    times = []
    stale = 0
    async with await operator(lab) as console:
        for _ in range(count):
            eyes = await lookers(lab)
            tasks = [spawn(each.run(), name="look") for each in eyes]
            times.append(await one(lambda: console.execute(f"DISABLE {ID}"), eyes, "57P01"))  # type: ignore[arg-type, return-value]
            stale += sum(each.stale for each in eyes)
            await asyncio.gather(*tasks)
            await console.execute(f"ENABLE {ID}")
            await until_let_in(lab)
    return summary("disable", times, stale)


async def until_let_in(lab: Lab) -> None:
    """On both workers: several logins in a row."""
    where, row = lab.through(ID), 0
    while row < 6:
        try:
            made = await psycopg.AsyncConnection[Any].connect(
                host=where.host, port=where.port, user=where.user, password=where.password,
                dbname=where.database,
            )  # fmt: skip
        except psycopg.OperationalError:
            row = 0
            continue
        await made.close()
        row += 1


def summary(way: str, times: list[tuple[float, float]], stale: int) -> dict[str, Any]:
    found: dict[str, Any] = {"way": way, "changes": len(times), "stale": stale}
    for name, values in zip(("sent", "acknowledged"), zip(*times, strict=True), strict=True):
        ordered = sorted(values)
        found[f"from_{name}"] = {
            "p50_ms": ordered[len(ordered) // 2],
            "p99_ms": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
            "max_ms": ordered[-1],
        }
    return found


def run(given: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {"machine": machine(), "aim_ms": AIM_MS, "ways": []}
    with laboratory(text_of(WIDE)) as lab:
        for watched in (False, True):
            ways = [way for way in given.ways if (way == "watched") == watched]
            if not ways:
                continue
            lab.config.write_text(text_of(WIDE))
            with lab.serve("--workers", "2", *(["--watch"] if watched else [])):
                lab.wait_until_provisioned()
                put_operator(lab)
                for way in ways:
                    count = given.processes if way in IN_PROCESSES else given.changes
                    if way == "disable":
                        count = given.processes
                        figures = asyncio.run(off_and_on(lab, count))
                    else:
                        figures = asyncio.run(to_and_fro(lab, way, count))
                    print(json.dumps(figures), file=sys.stderr, flush=True)
                    results["ways"].append(figures)
    results["load_after"] = round(os.getloadavg()[0], 2)
    return results


def put_operator(lab: Lab) -> None:
    command = [sys.executable, "-P", "-m", "admin.cli", "operators", "put", OPERATOR]
    command += ["--role", "operator", "--tenants", "*", "--password-stdin"]
    subprocess.run(
        [*command, "--data-dir", str(lab.data)], input=PASSWORD + "\n", text=True, check=True,
        capture_output=True,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            asyncio.run(_greet(lab))
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


async def _greet(lab: Lab) -> None:
    await (await operator(lab)).close()


def table(results: dict[str, Any]) -> Table:
    made = Table(
        "How soon a change is felt",
        "Milliseconds until the next statements of open connections on both of two workers obey "
        f"(aim: {AIM_MS:g} ms at p99 from the acknowledgement).",
        ("way", "changes", "p50 acknowledged", "p99 acknowledged", "max", "p50 sent", "p99 sent",
         "the command with --dry-run", "stale"),
    )  # fmt: skip
    for each in results["ways"]:
        known, sent = each["from_acknowledged"], each["from_sent"]
        made.rows.append(
            [
                each["way"],
                str(each["changes"]),
                amount(known["p50_ms"]),
                amount(known["p99_ms"]) + ("" if known["p99_ms"] <= AIM_MS else " ✗"),
                amount(known["max_ms"]),
                amount(sent["p50_ms"]),
                amount(sent["p99_ms"]),
                amount(each["own_ms"], 0) if "own_ms" in each else "–",
                str(each["stale"]),
            ]
        )
    return made


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--changes", type=int, default=300)
    parser.add_argument("--processes", type=int, default=100)
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(WAYS))
    parser.add_argument("--json", action="store_true", help="keep the figures in bench/results")
    given = parser.parse_args()
    begin()
    results = run(given)
    table(results).show()
    if results["machine"]["compiled"] is False:
        print("interpreted, which is slower", file=sys.stderr)
    if given.json:
        day = datetime.datetime.now(datetime.UTC).date().isoformat()
        path = RESULTS / f"{day}-changes.json"
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"kept in {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
