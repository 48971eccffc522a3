"""The provisioner follows the configuration: each tenant once, one failure harming nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.engines import Postgres
from support.provisioning import VAULT, login, lone_postgres, node, tenant

from admin.provision import provisioner as module
from admin.provision.plan import ProvisioningFailed, plan
from admin.provision.provisioner import Claims, Provisioner
from events.commands import PutTenant, RecordProvisioned, decide
from events.facts import Commit
from events.model import Provisioned
from events.projection import Projection
from events.settings import canonical
from wire.tasks import spawn

__all__ = ["lone_postgres"]


class Log:
    """Folds each command's facts at once, as the event log would have it."""

    def __init__(self) -> None:
        self.projection = Projection()
        self.recorded: list[str] = []
        self.broken = 0

    def put(self, id: str, strategy: str = "schema", **settings: Any) -> None:
        wanted = canonical(tenant(id, strategy, **settings))
        del wanted["id"]
        self._store(PutTenant(id=id, settings=wanted))

    async def execute(self, command: RecordProvisioned, actor: str) -> None:
        if self.broken:
            self.broken -= 1
            raise ConnectionError("the log is away")
        self.recorded.append(command.id)
        self._store(command)

    def _store(self, command: Any) -> None:
        facts = tuple(decide(self.projection, command))
        commit = Commit(command.command_id, "test", "", facts)
        self.projection.apply(self.projection.position + 1, "tenant", command.id, commit)

    def made(self, id: str) -> Provisioned:
        found = self.projection.tenant(id)
        assert found is not None
        assert found.provisioned is not None
        return found.provisioned


def follow(server: Postgres, log: Log, steps: Any, password: str = "") -> Provisioner:
    """Run a provisioner while `steps(provisioner)` acts, then stop it."""
    at_work = Provisioner(node(server), node_password=password or server.password)

    async def scene() -> None:
        stop = asyncio.Event()
        running = spawn(at_work.run(log.projection, log, VAULT, stop), name="provisioner")
        try:
            await asyncio.wait_for(steps(at_work), 30)
        finally:
            stop.set()
            await running

    asyncio.run(scene())
    return at_work


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_tenants_that_are_there_and_tenants_that_appear(lone_postgres: Postgres) -> None:
    log = Log()
    log.put("early")

    async def steps(at_work: Provisioner) -> None:
        await until(lambda: log.recorded == ["early"])
        log.put("late", "database")
        await until(lambda: at_work.states == {"early": "active", "late": "active"})
        log.put("late", "database", allow_ddl=True)
        await until(lambda: log.recorded == ["early", "late", "late"] and not at_work.waiting)

    follow(lone_postgres, log, steps)
    found = log.projection.tenant("late")
    assert found is not None
    with login(lone_postgres, found, log.made("late")) as conn:
        conn.execute("CREATE TABLE t (id int)")


def test_what_is_recorded_is_not_done_again(lone_postgres: Postgres) -> None:
    log = Log()
    log.put("known")

    async def settled(at_work: Provisioner) -> None:
        await until(lambda: at_work.states == {"known": "active"} and not at_work.waiting)

    assert follow(lone_postgres, log, settled).runs_total == 1
    secret = log.made("known").secret
    assert follow(lone_postgres, log, settled).runs_total == 0
    log.put("known", connections=7)
    assert follow(lone_postgres, log, settled).runs_total == 1
    assert log.made("known").secret == secret


def test_two_proxies_that_provision_at_once_agree_on_the_secret(lone_postgres: Postgres) -> None:
    class Slow(Log):
        """Of the first process, which hears of its own record after the other has made its."""

        def __init__(self, log: Log) -> None:
            super().__init__()
            self.projection = log.projection
            self.waits = asyncio.Event()
            self.goes = asyncio.Event()

        async def execute(self, command: RecordProvisioned, actor: str) -> None:
            self.waits.set()
            await self.goes.wait()
            await super().execute(command, actor)

    async def scene() -> None:
        log = Log()
        slow = Slow(log)
        log.put("twice")
        stop = asyncio.Event()
        one, two = (
            Provisioner(node(lone_postgres), node_password=lone_postgres.password) for _ in "12"
        )
        running = [spawn(one.run(log.projection, slow, VAULT, stop), name="one")]
        async with asyncio.timeout(30):
            await slow.waits.wait()
            running.append(spawn(two.run(log.projection, log, VAULT, stop), name="two"))
            await until(lambda: log.recorded == ["twice"])
            # PostgreSQL has the second's secret, and now the log gets the first's.
            slow.goes.set()
            await until(lambda: slow.recorded and not one.waiting and not two.waiting)
        stop.set()
        await asyncio.gather(*running)
        found = log.projection.tenant("twice")
        assert found is not None
        login(lone_postgres, found, log.made("twice")).close()
        # Neither goes on correcting the other.
        assert one.runs_total + two.runs_total <= 4

    asyncio.run(scene())


def test_one_tenants_failure_holds_no_other(lone_postgres: Postgres) -> None:
    log = Log()
    log.put("bad", schema_name="public")
    log.put("rowwise", "row", database_name="rows_db")
    log.put("baseless", "branch")
    log.put("good")

    async def steps(at_work: Provisioner) -> None:
        await until(lambda: not at_work.waiting and len(at_work.states) == 4)
        failed = {id for id, state in at_work.states.items() if state == "failed"}
        assert failed == {"bad", "baseless"}
        log.put("bad", schema_name="better")
        await until(lambda: at_work.states["bad"] == "active")

    follow(lone_postgres, log, steps)


def test_who_may_share_a_place_and_who_may_not() -> None:
    claims = Claims()
    row = {"database_name": "d"}
    claims.take(plan(tenant("first", "row", **row)))
    claims.take(plan(tenant("second", "row", **row)))
    claims.take(plan(tenant("beside", **row)))
    for unfit in (
        tenant("same", "row", tenant_value="first", **row),
        tenant("squatter", schema_name="beside", **row),
        tenant("inside", "row", schema_name="beside", **row),
        tenant("outside", schema_name="public_things", **row),
        tenant("whole", "database", **row),
        tenant("clone", "branch", branch_name="d", branch_base="x"),
    ):
        if unfit.id == "outside":
            claims.take(plan(tenant("third", "row", schema_name="public_things", **row)))
        with pytest.raises(ProvisioningFailed, match="another tenant's"):
            claims.take(plan(unfit))
    for id in ("first", "second", "third", "beside"):
        claims.release(id)
    claims.take(plan(tenant("whole", "database", **row)))
    with pytest.raises(ProvisioningFailed, match="another tenant's"):
        claims.take(plan(tenant("late", "row", **row)))


def test_a_log_or_server_that_is_away_is_tried_again(
    lone_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_SECS", 0.01)
    log = Log()
    log.broken = 2
    log.put("patient")

    async def steps(at_work: Provisioner) -> None:
        await until(lambda: at_work.states == {"patient": "active"} and not at_work.waiting)

    assert follow(lone_postgres, log, steps).retries_total == 2


def test_it_gives_up_at_the_limit_until_the_tenant_changes(
    lone_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_SECS", 0.001)
    log = Log()
    log.put("locked")

    async def steps(at_work: Provisioner) -> None:
        await until(lambda: at_work.states.get("locked") == "failed")
        assert at_work.runs_total == module.ATTEMPTS_MAX
        assert "password authentication failed" in at_work.reasons["locked"]
        log.put("locked", read_only=True)
        await until(lambda: at_work.runs_total == 2 * module.ATTEMPTS_MAX)

    follow(lone_postgres, log, steps, password="wrong")
