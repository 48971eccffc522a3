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
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the installed build goes first

import h11
import nats
import psycopg

from bench.lab import PASSWORD, USER, Lab, config, laboratory
from bench.machine import begin, machine
from bench.tables import Table, amount
from events.secrets import Vault
from events.tokens import TokenSigner
from wire.tasks import spawn

RESULTS = Path(__file__).resolve().parent / "results"
AIM_MS = 100.0
ID = "acme"
# Bytes of a statement that the tenant may send: less than the one that is asked, and more.
TIGHT, WIDE = 100, 1000
STATEMENT = "SELECT 1 /* " + "x" * 500 + " */"
PAUSE_SECONDS = 0.001
# Between two changes, so that they are as rare as people make them.
REST_SECONDS = 0.01
PATIENCE_SECONDS = 30.0
OPERATOR = "ann"
TENANT = """
[[multi_tenancy.tenants]]
id = "{id}"
isolation = {{ strategy = "schema" }}
pool = {{ max_connections = 10, min_idle = 2 }}
rate_limits = {{ qps_limit = "unlimited", max_connections = 1000, max_statement_size = {size} }}
users = [{{ name = "{user}", password = "{password}" }}]
"""
IN_PROCESSES = ("cli", "apply")
WAYS = ("nats", "http", "console", "sighup", *IN_PROCESSES, "disable", "watched")

Clock = time.perf_counter


def text_of(size: int) -> str:
    tenant = TENANT.format(id=ID, size=size, user=USER, password=PASSWORD)
    return config([tenant], top='admin_address = "127.0.0.1:0"\n')


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


async def operator(lab: Lab) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection[Any].connect(
        host="127.0.0.1", port=lab.port, user=OPERATOR, password=PASSWORD, dbname="tenantry",
        autocommit=True,
    )  # fmt: skip


async def _shown(client: psycopg.AsyncConnection[Any], text: str) -> list[dict[str, Any]]:
    cursor = await client.execute(text.encode())
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


# --- ways to make a change ------------------------------------------------------------------------

Change = Callable[[int], Awaitable[None]]
"""Makes a change to so many bytes; returns as soon as it is acknowledged."""


class Ways:
    """All of them, of one running installation."""

    def __init__(self, lab: Lab, stack: contextlib.AsyncExitStack) -> None:
        self.lab = lab
        self.stack = stack
        vault = Vault.load(lab.data)
        self.token, _ = TokenSigner(vault).make(OPERATOR, "operator", seconds=7200)
        self.log = lab.folder / "serve.log"

    async def made(self, way: str) -> Change:
        change: Change = await getattr(self, f"_{way}")()
        return change

    async def _nats(self) -> Change:
        client = await nats.connect(self.lab.nats_url())
        self.stack.push_async_callback(client.close)

        async def change(size: int) -> None:
            body = json.dumps({"patch": {"rate_limits": {"max_statement_size": size}}}).encode()
            headers = {"Tenantry-Token": self.token}
            subject = f"tenantry.request.{ID}.change"
            answer = await client.request(subject, body, timeout=PATIENCE_SECONDS, headers=headers)
            assert json.loads(answer.data)["accepted"], answer.data

        return change

    async def _http(self) -> Change:
        found = re.search(r"admin API on http://([\d.]+):(\d+)", self.log.read_text())
        assert found is not None
        reader, writer = await asyncio.open_connection(found[1], int(found[2]))
        self.stack.callback(writer.close)
        connection = h11.Connection(h11.CLIENT)

        async def change(size: int) -> None:
            body = json.dumps({"rate_limits": {"max_statement_size": size}}).encode()
            headers = [("Host", found[1]), ("Authorization", f"Bearer {self.token}"),
                       ("Content-Type", "application/json"),
                       ("Content-Length", str(len(body)))]  # fmt: skip
            request = h11.Request(method="PATCH", target=f"/tenants/{ID}", headers=headers)
            for event in (request, h11.Data(data=body), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            while True:
                got = connection.next_event()
                if got is h11.NEED_DATA:
                    connection.receive_data(await reader.read(65536))
                elif isinstance(got, h11.Response):
                    assert got.status_code == 200, got
                elif isinstance(got, h11.EndOfMessage):
                    connection.start_next_cycle()
                    return

        return change

    async def _console(self) -> Change:
        console = await self.stack.enter_async_context(await operator(self.lab))

        async def change(size: int) -> None:
            self.lab.config.write_text(text_of(size))
            await console.execute("RELOAD")

        return change

    async def _sighup(self) -> Change:
        async def change(size: int) -> None:
            with self._applied() as applied:
                self.lab.config.write_text(text_of(size))
                signal_to(self.lab.supervisor(), signal.SIGHUP)
                await applied()

        return change

    async def _watched(self) -> Change:
        async def change(size: int) -> None:
            with self._applied() as applied:
                self.lab.config.write_text(text_of(size))
                await applied()

        return change

    @contextlib.contextmanager
    def _applied(self) -> Any:
        """Waits for the next line that says so."""
        with self.log.open() as said:
            said.seek(0, 2)

            async def applied() -> None:
                text = ""
                deadline = Clock() + PATIENCE_SECONDS
                while "is applied" not in text:
                    assert Clock() < deadline, text
                    await asyncio.sleep(PAUSE_SECONDS)
                    text += said.read()

            yield applied

    async def _cli(self) -> Change:
        async def change(size: int) -> None:
            setting = f"rate_limits.max_statement_size={size}"
            command = self._command("tenants", "change", ID, setting)
            process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            self.leftover = process
            assert process.stdout is not None
            line = await process.stdout.readline()
            assert b"event" in line, line

        return change

    async def _apply(self) -> Change:
        async def change(size: int) -> None:
            self.lab.config.write_text(text_of(size))
            command = self._command("apply", str(self.lab.config))
            process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            said, _ = await process.communicate()
            assert process.returncode == 0, said

        return change

    def _command(self, *arguments: str) -> list[str]:
        command = [sys.executable, "-P", "-m", "admin.cli", *arguments]
        return [*command, "--data-dir", str(self.lab.data)]

    leftover: asyncio.subprocess.Process | None = None

    async def settled(self) -> None:
        """The rest of a process that was acknowledged already."""
        process, self.leftover = self.leftover, None
        if process is not None:
            await process.communicate()

    async def own_seconds(self, way: str) -> float:
        """What the command takes when it changes nothing, at the median."""
        self.lab.config.write_text(text_of(TIGHT))
        words = {
            "cli": ("tenants", "change", ID, f"rate_limits.max_statement_size={TIGHT}"),
            "apply": ("apply", str(self.lab.config)),
        }
        took = []
        for _ in range(9):
            began = Clock()
            process = await asyncio.create_subprocess_exec(
                *self._command(*words[way], "--dry-run"), stdout=subprocess.PIPE
            )
            await process.communicate()
            took.append(Clock() - began)
        return sorted(took)[4]


def signal_to(pid: int, number: signal.Signals) -> None:

    os.kill(pid, number)


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
