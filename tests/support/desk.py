"""A control process that takes commands over NATS, and somebody who sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats
import orjson
from nats.aio.client import Client
from support.engines import Nats
from support.nats import NatsServer

from admin.control import Control
from events.audit_sink import AuditSink
from events.secrets import Vault

VAULT = Vault(bytes(range(32)))


class Notes(AuditSink):
    """An audit that can be read."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []

    def note(self, kind: str, tenant: str, **what: Any) -> None:
        self.taken.append({"kind": kind, "tenant": tenant, **what})


class Desk:
    """A running command service, and a client of its NATS with an operator's token."""

    def __init__(self, control: Control, client: Client, notes: Notes) -> None:
        self.control = control
        self.client = client
        self.notes = notes
        self.token = self.make("ann")

    def make(self, name: str, role: Any = "operator", tenant: str = "", **more: Any) -> str:
        return self.control.service.signer.make(name, role, tenant=tenant, **more)[0]

    async def ask(
        self, subject: str, body: Any = None, id: str = "", token: str | None = None, **more: str
    ) -> dict[str, Any]:
        headers = {"Tenantry-Token": self.token if token is None else token, **more}
        if id:
            headers["Tenantry-Command-Id"] = id
        data = body if isinstance(body, bytes) else orjson.dumps(body or {})
        message = await self.client.request(
            f"tenantry.request.{subject}", data, timeout=20, headers=headers
        )
        answer: dict[str, Any] = orjson.loads(message.data)
        return answer

    async def stored(self) -> int:
        return await self.control.log.last_sequence()


@asynccontextmanager
async def desk(url: str) -> AsyncIterator[Desk]:
    notes = Notes()
    control = await Control.open([url], VAULT)
    client = await nats.connect(url)
    try:
        await control.serve_commands(notes)
        yield Desk(control, client, notes)
    finally:
        await client.close()
        await control.close()


def at_desk(server: Nats | NatsServer, test: Callable[[Desk], Awaitable[None]]) -> None:
    async def run() -> None:
        async with desk(server.url) as made:
            await test(made)

    asyncio.run(run())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
