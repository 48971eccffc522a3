"""Examining the log: a good one is found in order, and each fault is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from support.engines import Nats

from events import codec, verify
from events.connection import Connection
from events.direct import DirectClient
from events.dumped import copy
from events.facts import Commit, TenantChanged, TenantCreated, TenantDisabled
from events.history import state_at
from events.log import ConfigLog
from events.reader import STORED_AT_HEADER
from events.secrets import Vault
from events.snapshot import save
from events.stream import STREAM, SUBJECT_PREFIX, stream_config
from events.verify import Report

VAULT = Vault(b"k" * 32)


def commit(id: str, *facts: Any) -> Commit:
    return Commit(id, "ann", "", facts or (TenantCreated(settings={}),))


async def publish(log: ConfigLog, tenant: str, data: bytes | Commit, **headers: str) -> None:
    """Past all that keeps the log in order."""
    raw = codec.encode(data) if isinstance(data, Commit) else data
    spelled = {name.replace("_", "-"): value for name, value in headers.items()}
    await log.nats.jetstream().publish(f"{SUBJECT_PREFIX}{tenant}", raw, headers=spelled)


def examined(server: Nats, write: Callable[[ConfigLog], Awaitable[Any]], **options: Any) -> Report:
    async def run() -> Report:
        log = await ConfigLog.connect([server.url])
        try:
            await log.append("tenant", "acme", commit("c1"), 0)
            await log.append("tenant", "acme", commit("c2", TenantDisabled()), 1)
            await write(log)
            return await verify.verify(log, VAULT, **options)
        finally:
            await log.close()

    return asyncio.run(run())


async def nothing(_: ConfigLog) -> None:
    pass


def test_a_log_in_order_has_no_trouble(nats_server: Nats) -> None:
    told: list[tuple[int, int]] = []
    report = examined(nats_server, nothing, progress=lambda *each: told.append(each))
    assert (report.troubles, report.messages, report.tenants) == ([], 2, 1)
    assert "one copy" in report.notes[0]
    again = examined(nats_server, nothing, digest=report.digest)
    assert again.troubles == []


@pytest.mark.parametrize(
    ("write", "trouble"),
    [
        (
            lambda log: publish(log, "tenant.acme", b"rubbish"),
            "event 3 (tenant acme) cannot be read: not a commit",
        ),
        (
            lambda log: publish(log, "tenant.acme", commit("c3")),
            "tenant acme is parked since event 3: TenantCreated does not fit",
        ),
        (
            lambda log: publish(log, "tenant.other", commit("c1"), Nats_Msg_Id="else"),
            "event 3 (tenant other) has the command id of event 1: carried out twice",
        ),
        (
            lambda log: publish(log, "tenant.other", commit("c3"), Nats_Msg_Id="c4"),
            "event 3 (tenant other) was sent as command c4 and says c3",
        ),
        (
            lambda log: publish(log, "tenant.other", commit("c3"), **{STORED_AT_HEADER: "5"}),
            "s before the one in front of it",
        ),
        (lambda log: publish(log, "tenant", commit("c3")), "is on the subject tenantry.config."),
    ],
)
def test_each_fault_of_a_message_is_told(
    nats_server: Nats, write: Callable[[ConfigLog], Awaitable[None]], trouble: str
) -> None:
    report = examined(nats_server, write)
    assert trouble in "\n".join(report.troubles)
    assert report.messages == 3


def test_another_digest_and_too_few_copies_are_trouble(nats_server: Nats) -> None:
    report = examined(nats_server, nothing, digest="00", replicas=3)
    assert report.troubles == [
        "it has 1 copies instead of 3",
        f"it comes to {report.digest}, and not to 00",
    ]


def test_a_kind_of_a_newer_version_is_worth_a_note(nats_server: Nats) -> None:
    report = examined(nats_server, lambda log: publish(log, "planet.mars", commit("c3")))
    assert report.troubles == []
    assert "event 3 (planet mars) is of a kind that a newer version wrote" in report.notes


def test_a_snapshot_is_held_against_the_log(nats_server: Nats) -> None:
    async def truthful(log: ConfigLog) -> None:
        await save(log, VAULT, await state_at(log, 2))

    async def lying(log: ConfigLog) -> None:
        state = copy(await state_at(log, 2))
        change = TenantChanged(changes={"name": "else"})
        state.position = 1
        state.apply(2, "tenant", "acme", commit("x", change))
        await save(log, VAULT, state)

    report = examined(nats_server, truthful)
    assert (report.troubles, report.snapshot) == ([], 2)
    assert examined(nats_server, lying).troubles == [
        "the snapshot at sequence 2 is not what the log comes to"
    ]


def test_what_is_gone_is_told(nats_server: Nats) -> None:
    async def run() -> None:
        client = DirectClient()
        await client.connect(nats_server.url)
        jetstream = client.jetstream()
        await jetstream.add_stream(stream_config(1).evolve(deny_delete=False))
        log = ConfigLog(Connection(client))
        for number in range(1, 6):
            await publish(log, f"tenant.t{number}", commit(f"c{number}"))
        await jetstream.delete_msg(STREAM, 1)
        report = await verify.verify(log, VAULT)
        assert report.troubles[:2] == [
            "the stream TENANTRY_CONFIG could lose facts: deny_delete is False",
            "the log begins at sequence 2: what was before is gone",
        ]
        assert "cannot be read behind sequence 0" in report.troubles[2]
        await jetstream.delete_msg(STREAM, 3)
        assert "1 of its messages are gone" in (await verify.verify(log, VAULT)).troubles
        await client.close()

    asyncio.run(run())


def test_endless_trouble_is_counted(nats_server: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "TROUBLES_MAX", 3)

    async def write(log: ConfigLog) -> None:
        for _ in range(5):
            await publish(log, "tenant.acme", orjson.dumps({"v": 9, "id": ""}))

    report = examined(nats_server, write)
    assert (len(report.troubles), report.more_troubles) == (3, 3)
