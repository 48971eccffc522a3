"""The ways to make a change, for bench/changes.py: each makes one and returns when it is
acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import nats
import psycopg

from bench.lab import PASSWORD, USER, Lab, config
from events.secrets import Vault
from events.tokens import TokenSigner

ID = "acme"
# Bytes of a statement that the tenant may send: less than the one that is asked, and more.
TIGHT, WIDE = 100, 1000
PAUSE_SECONDS = 0.001
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
Clock = time.perf_counter


def text_of(size: int) -> str:
    tenant = TENANT.format(id=ID, size=size, user=USER, password=PASSWORD)
    return config([tenant], top='admin_address = "127.0.0.1:0"\n')


async def operator(lab: Lab) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection[Any].connect(
        host="127.0.0.1", port=lab.port, user=OPERATOR, password=PASSWORD, dbname="tenantry",
        autocommit=True,
    )  # fmt: skip


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
