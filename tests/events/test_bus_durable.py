"""Commands that are stored until somebody can carry them out."""

from __future__ import annotations

import asyncio
from typing import Any

import nats
import orjson
import pytest
from nats.aio.client import Client
from support.desk import VAULT, Desk, Notes, at_desk, desk, until
from support.engines import Nats
from support.nats import NatsServer

from admin.control import Control
from events import bus_durable
from events.answer import Answer, refusal
from events.bus import Request
from events.bus_client import CommandClient
from events.bus_durable import STREAM, DurableBus, delivery
from events.commands_model import ChangeTenant, DisableTenant, PutTenant
from events.log import ConfigLog
from events.stream import LogMisconfigured
from events.tokens import TokenSigner

TOKEN = TokenSigner(VAULT).make("ann", "operator")[0]


async def waiting(log: ConfigLog) -> int:
    info = await log.request(f"$JS.API.STREAM.INFO.{STREAM}", b"")
    return int(info["state"]["messages"])


async def empty(log: ConfigLog) -> None:
    async with asyncio.timeout(30):
        while await waiting(log):
            await asyncio.sleep(0.02)


class Inbox:
    """Catches what is answered to `subject`."""

    def __init__(self, client: Client, subject: str) -> None:
        self.answers: list[dict[str, Any]] = []
        self._client = client
        self._subject = subject

    async def open(self) -> Inbox:
        async def take(message: Any) -> None:
            self.answers.append(orjson.loads(message.data))

        await self._client.subscribe(self._subject, cb=take)
        await self._client.flush()
        return self


def test_what_was_published_while_nothing_ran_is_carried_out_once_in_order(
    nats_server: Nats,
) -> None:
    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        client = await nats.connect(nats_server.url)
        inbox = await Inbox(client, "answers.here").open()
        sender = CommandClient(log, TOKEN)
        create = PutTenant(id="acme", settings={"name": "Acme"}, command_id="c1")
        for command in (create, DisableTenant(id="acme", command_id="c2"), create):
            await sender.store(command, reply_to="answers.here")
        assert await waiting(log) == 2  # the server's own window has dropped the third
        async with desk(nats_server.url) as made:
            await until(lambda: len(inbox.answers) == 2)
            await empty(log)
            tenant = made.control.projection.tenant("acme")
            assert tenant is not None
            assert (tenant.name, tenant.enabled) == ("Acme", False)
            assert [answer["command_id"] for answer in inbox.answers] == ["c1", "c2"]
            assert [answer["sequence"] for answer in inbox.answers] == [1, 2]
            details = [note["detail"] for note in made.notes.taken]
            assert details == ["PutTenant c1 1 nats command", "DisableTenant c2 2 nats command"]
        await client.close()
        await log.close()

    asyncio.run(run())


def test_a_crash_between_append_and_acknowledgement_does_it_once(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_durable, "ACK_SECONDS", 0.5)

    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        client = await nats.connect(nats_server.url)
        inbox = await Inbox(client, "answers.here").open()
        await CommandClient(log, TOKEN).store(
            PutTenant(id="acme", command_id="c1"), reply_to="answers.here"
        )
        control = await Control.open([nats_server.url], VAULT)
        stored = asyncio.Event()

        async def killed(request: Request) -> Answer:
            await control.service.handle(request)
            stored.set()
            await asyncio.sleep(60)
            raise AssertionError("unreachable")

        dying = asyncio.get_running_loop().create_task(DurableBus(log, killed).run())
        await stored.wait()
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        await control.close()
        assert inbox.answers == []
        async with desk(nats_server.url) as made:
            await until(lambda: inbox.answers)
            await empty(log)
            assert await made.stored() == 1
        ((answer),) = inbox.answers
        assert (answer["sequence"], answer["repeated"]) == (1, True)
        await client.close()
        await log.close()

    asyncio.run(run())


def test_poison_is_given_up_with_an_answer_and_holds_nobody_up_for_ever(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_durable, "AGAIN_SECONDS", 0.01)

    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        client = await nats.connect(nats_server.url)
        inbox = await Inbox(client, "answers.here").open()
        sender = CommandClient(log, TOKEN)
        for id in ("poison", "good"):
            await sender.store(PutTenant(id=id, command_id=id), reply_to="answers.here")
        tried: list[str] = []

        async def handle(request: Request) -> Answer:
            tried.append(request.tenant)
            if request.tenant == "poison":
                return refusal(request.command_id, "failed", "it fails")
            return Answer(request.command_id, sequence=7)

        queue = DurableBus(log, handle)
        work = asyncio.get_running_loop().create_task(queue.run())
        await until(lambda: len(inbox.answers) == 2)
        await empty(log)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert tried == ["poison"] * bus_durable.TRIES_MAX + ["good"]
        assert [(each["command_id"], each["accepted"]) for each in inbox.answers] == [
            ("poison", False),
            ("good", True),
        ]
        assert queue.poisoned == 1
        await client.close()
        await log.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "needs the header Tenantry-Command-Id"),
        ({"Tenantry-Command-Id": "a", "Nats-Msg-Id": "b"}, "differ"),
        ({"Tenantry-Command-Id": "a", "Tenantry-Token": ""}, "the token is missing"),
    ],
)
def test_what_cannot_be_carried_out_is_answered_and_gone(
    nats_server: Nats, headers: dict[str, str], message: str
) -> None:
    async def test(desk: Desk) -> None:
        await bus_durable.ensure_stream(desk.control.log, 1)
        inbox = await Inbox(desk.client, "answers.here").open()
        headers_all = {"Tenantry-Token": TOKEN, "Tenantry-Reply-To": "answers.here", **headers}
        await desk.client.jetstream().publish(
            "tenantry.commands.acme.create", b"{}", headers=headers_all
        )
        await until(lambda: inbox.answers)
        assert message in inbox.answers[0]["mistakes"][0]["message"]
        await empty(desk.control.log)
        assert await desk.stored() == 0

    at_desk(nats_server, test)


def test_a_token_that_expired_while_the_command_waited_counts(nats_server: Nats) -> None:
    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        control = await Control.open([nats_server.url], VAULT)
        signer = control.service.signer
        sender = CommandClient(log, signer.make("ann", "operator", seconds=60)[0])
        await sender.store(PutTenant(id="acme", command_id="c"))
        checked: list[float | None] = []
        check = control.service.checker.check

        def later(token: str, *, address: str = "", at: float | None = None) -> Any:
            checked.append(at)
            return check(token, address=address, at=at)

        control.service.checker.check = later  # type: ignore[method-assign]
        await control.serve_commands()
        await empty(log)
        assert control.projection.tenant("acme") is not None
        assert checked[0] is not None
        await control.close()
        await log.close()

    asyncio.run(run())


def test_durable_commands_survive_the_server(own_nats: NatsServer) -> None:
    async def run() -> None:
        log = await ConfigLog.connect([own_nats.url])
        sender = CommandClient(log, TOKEN)
        await sender.store(PutTenant(id="acme"))
        own_nats.kill()
        own_nats.start()
        async with desk(own_nats.url) as made:
            await until(lambda: made.control.projection.tenant("acme") is not None)
            own_nats.kill()
            own_nats.start()
            await sender.store(ChangeTenant(id="acme", patch={"metadata": {"a": "b"}}))
            await until(lambda: made.control.projection.tenant("acme").metadata == {"a": "b"})
            await empty(log)
        await log.close()

    asyncio.run(run())


def test_an_acknowledgement_that_was_lost_with_the_server_holds_nobody_up(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than this test waits: nobody may be held up by what was delivered and not acknowledged.
    monkeypatch.setattr(bus_durable, "ACK_SECONDS", 60.0)

    async def run() -> None:
        log = await ConfigLog.connect([own_nats.url])
        sender = CommandClient(log, TOKEN)
        tried: list[str] = []

        async def handle(request: Request) -> Answer:
            tried.append(request.tenant)
            if len(tried) == 1:
                # So that the server has written down that it delivered this one.
                await asyncio.sleep(0.5)
                own_nats.kill()
            return Answer(request.command_id, sequence=len(tried))

        for id in ("one", "two"):
            await sender.store(PutTenant(id=id))
        queue = DurableBus(log, handle)
        work = asyncio.get_running_loop().create_task(queue.run())
        await until(lambda: not log.connected)
        await until(lambda: queue.retries)
        own_nats.start()
        await until(lambda: "two" in tried)
        assert tried == ["one", "two"]
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await log.close()

    asyncio.run(run())


def test_a_command_that_takes_long_is_not_delivered_again_meanwhile(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_durable, "ACK_SECONDS", 1.0)
    monkeypatch.setattr(bus_durable, "PROGRESS_SECONDS", 0.2)

    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        other = await ConfigLog.connect([nats_server.url])
        await CommandClient(log, TOKEN).store(PutTenant(id="acme"))
        tried: list[str] = []

        async def slow(request: Request) -> Answer:
            tried.append(request.command_id)
            await asyncio.sleep(1.5)
            return Answer(request.command_id, sequence=1)

        loop = asyncio.get_running_loop()
        works = [loop.create_task(DurableBus(each, slow).run()) for each in (log, other)]
        await until(lambda: tried)
        await empty(log)
        assert len(tried) == 1
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        await log.close()
        await other.close()

    asyncio.run(run())


def test_a_queue_that_could_forget_or_repeat_is_refused(nats_server: Nats) -> None:
    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        config = {**bus_durable.stream_config(1), "max_age": 0, "retention": "limits"}
        await log.request(f"$JS.API.STREAM.CREATE.{STREAM}", orjson.dumps(config))
        with pytest.raises(LogMisconfigured, match=r"retention is 'limits', max_age is not"):
            await bus_durable.ensure_stream(log, 1)
        await log.close()

    asyncio.run(run())


def test_the_audit_has_what_was_refused_too(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        log = desk.control.log
        await CommandClient(log, TOKEN).store(DisableTenant(id="nobody", command_id="c"))
        await until(lambda: desk.notes.taken)
        assert isinstance(desk.notes, Notes)
        (note,) = desk.notes.taken
        assert (note["tenant"], note["outcome"], note["reason"]) == ("nobody", "refused", "missing")

    at_desk(nats_server, test)


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.S.control.3.17.5.1764000000500000000.2",
        "$JS.ACK.hub.acc.S.control.3.17.5.1764000000500000000.2",
        "$JS.ACK.hub.acc.S.control.3.17.5.1764000000500000000.2.random",
    ],
)
def test_both_forms_of_acknowledgement_subjects_are_understood(reply: str) -> None:
    assert delivery(reply) == (3, 17, 1764000000.5)
