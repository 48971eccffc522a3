"""`tenantry serve` with a snapshot in the log: every process starts from it, or from the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from support.serving import Home, prepared_home, serving

from admin.engines.nats import EmbeddedNats
from events import snapshot
from events.log import ConfigLog
from events.projection import Projection
from events.secrets import Vault

pytestmark = pytest.mark.engine

# Control and two workers.
PROCESSES = 3


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with prepared_home() as made:
        yield made


def write_snapshot(home: Home, change: bytes | None = None) -> None:
    """As control writes it; with `change`, its first piece is that instead."""

    async def run() -> None:
        log = await ConfigLog.connect([EmbeddedNats(home.data).nats_url()])
        state = Projection()
        await log.read_all(1, state.apply)
        manifest = await snapshot.save(log, Vault.load(home.data), state)
        assert manifest is not None
        if change is not None:
            piece = f"{snapshot.PIECES}{manifest.id}.state.0"
            await log.nats.jetstream().publish(piece, change)
        await log.close()

    asyncio.run(run())


def served(home: Home) -> str:
    """What is said by a start with two workers that serve both tenants."""
    with serving(home, "--workers", "2") as proxy:
        for tenant in ("acme", "widgetco"):
            with proxy.connect(tenant) as client:
                assert client.execute("SELECT 1").fetchone() == (1,)
        return proxy.log()


def test_all_processes_start_from_the_snapshot_and_from_the_log_without_it(home: Home) -> None:
    said = served(home)
    assert "snapshot" not in said, "there is none yet"
    write_snapshot(home)
    assert served(home).count("started from the snapshot at sequence") == PROCESSES
    write_snapshot(home, b"truncated")
    said = served(home)
    assert said.count("the whole log is read instead") == PROCESSES, said
    assert "started from the snapshot" not in said
