"""A control process with its admin API, without workers: real NATS, real HTTP."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from support.desk import VAULT, Notes, until
from support.engines import Nats
from support.nats import NatsServer

from admin.api.backend import Backend
from admin.api.limits import Rate, Rates
from admin.api.server import AdminServer
from admin.control import Control
from events.commands import PutInstallation
from events.installation import Installation
from events.outlet import Outlet
from events.spool import Message
from events.usage import SUBJECT_PREFIX, stream_config
from events.usage_delta import Delta, encode

FAST = Rate(1e6, 1e6)
UNBOUNDED = Rates(FAST, FAST, FAST)


class Office:
    """A running API, a client of it with an operator's token, and what the audit was told."""

    def __init__(
        self, control: Control, server: AdminServer, backend: Backend, notes: Notes
    ) -> None:
        self.control = control
        self.server = server
        self.backend = backend
        self.notes = notes
        self.token = self.make("ann")
        self.client = self.as_token(self.token)
        self._outlet = Outlet(control.log.nats, stream_config(1, 2**20))
        self._used = itertools.count(1)

    def make(self, name: str, role: Any = "operator", tenant: str = "", **more: Any) -> str:
        return self.control.service.signer.make(name, role, tenant=tenant, **more)[0]

    def as_token(self, token: str) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(
            base_url=self.server.url, headers=headers, timeout=20, verify=False
        )

    def as_role(self, role: str, tenant: str = "") -> httpx.AsyncClient:
        return self.as_token(self.make(f"some-{role}", role, tenant))

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return await self.client.request(method, path, json=body, **more)

    async def configure(self, **settings: Any) -> None:
        """Set something of the installation."""
        known = self.control.projection.installation_settings()
        await self.control.commander.execute(
            PutInstallation(settings={**known, **settings}), "test"
        )

    async def use(
        self, tenant: str, *, at: float | None = None, seconds: float = 10.0, **used: Any
    ) -> None:
        """Let a worker tell of usage (fields of Delta) in the `seconds` before `at` (else now), and
        wait until that is counted."""
        n = next(self._used)
        end = time.time() if at is None else at
        data = encode(tenant, "worker-0", "boot", n, end - seconds, end, Delta(**used))
        assert await self._outlet.open()
        assert await self._outlet.store([Message(SUBJECT_PREFIX + tenant, f"boot.{n}", data)]) == []
        async with asyncio.timeout(20):
            while await self.backend.ask(lambda view: view.messages) < n:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def office(
    url: str,
    *,
    rates: Rates = UNBOUNDED,
    prepare: Callable[[Control], Awaitable[None]] | None = None,
    **settings: Any,
) -> AsyncIterator[Office]:
    notes = Notes()
    control = await Control.open([url], VAULT)
    control.follow()
    control.workers = lambda: (1, 1)
    installation = Installation(**{"admin_address": "127.0.0.1:0", **settings})
    backend = Backend(
        lambda: control,
        rates=rates,
        insecure=installation.admin_allow_insecure,
    )
    server = AdminServer(backend, installation)
    made: Office | None = None
    try:
        await control.serve_commands(notes)
        if prepare is not None:
            await prepare(control)
        await server.start()
        await until(lambda: control.analytics_ready)
        made = Office(control, server, backend, notes)
        yield made
    finally:
        if made is not None:
            await made.client.aclose()
        await server.stop()
        await control.close()


def in_office(
    server: Nats | NatsServer, test: Callable[[Office], Awaitable[None]], **how: Any
) -> None:
    async def run() -> None:
        async with office(server.url, **how) as made:
            await test(made)

    asyncio.run(run())
