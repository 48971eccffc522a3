"""Commands over NATS: asked and answered, stored for later, once in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import nats
import orjson
import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError
from support.engines import Nats
from support.nats import NatsServer

from admin.control import Control
from events.audit_sink import AuditSink
from events.facts import TenantChanged
from events.secrets import Vault
from events.stream import LogUnavailable

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
async def desk(url: str) -> Any:
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


# --- requests ------------------------------------------------------------------------------------


def test_a_tenant_is_made_and_changed_over_nats(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        made = await desk.ask("acme.create", {"settings": {"name": "Acme"}}, id="c1")
        assert made == {
            "accepted": True,
            "command_id": "c1",
            "sequence": 1,
            "events": [
                {"type": "TenantCreated", "version": 1, "data": {"settings": {"name": "Acme"}}}
            ],
            "repeated": False,
            "dry_run": False,
        }
        await desk.ask("acme.change", {"patch": {"rate_limits": {"qps_limit": 7}}})
        tenant = desk.control.projection.tenant("acme")
        assert tenant is not None
        assert (tenant.name, tenant.rate_limits.qps_limit) == ("Acme", 7)
        assert [note["actor"] for note in desk.notes.taken] == ["ann", "ann"]
        assert desk.notes.taken[0]["detail"] == "PutTenant c1 1 nats request"

    at_desk(nats_server, test)
