"""Commands over NATS: asked and answered, stored for later, once in any case."""

from __future__ import annotations

import asyncio

import nats
import orjson
import pytest
from nats.errors import NoRespondersError
from support.desk import VAULT, Desk, at_desk, desk, until
from support.engines import Nats
from support.nats import Line, NatsServer

from admin.control import Control
from events import bus, bus_client, snapshot
from events.bus_client import CommandClient, NobodyAnswers
from events.commands_model import ChangeTenant, EnableTenant, PutTenant
from events.history import commit_of
from events.log import ConfigLog
from events.operators import Principal
from events.reader import Stored
from events.stream import STREAM, SUBJECT_PREFIX, LogUnavailable

ANN = Principal("ann", "operator")


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


def test_one_id_sent_a_thousand_times_is_one_event(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        await desk.ask("acme.create")
        body = {"patch": {"rate_limits": {"qps_limit": 7}}}

        async def send(_: int) -> dict[str, object]:
            return await desk.ask("acme.change", body, id="once")

        answers = await asyncio.gather(*(send(number) for number in range(1000)))
        assert {answer["accepted"] for answer in answers} == {True}
        assert {answer["sequence"] for answer in answers} == {2}
        assert sum(1 for answer in answers if not answer["repeated"]) == 1
        assert await desk.stored() == 2
        # Somebody else has changed it since: the old command must not come back.
        await desk.ask("acme.change", {"patch": {"rate_limits": {"qps_limit": 8}}})
        again = await desk.ask("acme.change", body, id="once")
        assert (again["sequence"], again["repeated"]) == (2, True)
        tenant = desk.control.projection.tenant("acme")
        assert tenant is not None
        assert tenant.rate_limits.qps_limit == 8

    at_desk(nats_server, test)


def test_a_repeated_id_is_known_after_a_restart_and_from_a_snapshot(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        await desk.ask("acme.create", id="once")
        await desk.ask("acme.disable", id="off")
        for number in range(3):
            control = await Control.open([nats_server.url], VAULT)
            if number == 1:
                await snapshot.save(control.log, VAULT, control.projection)
            answer = await control.service.execute(EnableTenant(id="acme", command_id="once"), ANN)
            assert (answer.sequence, answer.repeated) == (1, True)
            await control.close()
        assert await desk.stored() == 2

    at_desk(nats_server, test)


def test_an_id_belongs_to_one_command(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        await desk.ask("acme.create", id="c")
        answer = await desk.ask("widgetco.create", id="c")
        assert (answer["accepted"], answer["code"]) == (False, "reused")

    at_desk(nats_server, test)


def test_two_control_processes_lose_no_update(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        other = await Control.open([nats_server.url], VAULT)
        await desk.ask("acme.create")

        async def add(control: Control, name: str) -> None:
            patch = {"metadata": {name: "x"}}
            while True:
                answer = await control.service.execute(ChangeTenant(id="acme", patch=patch), ANN)
                if answer.accepted:
                    return
                assert answer.code == "conflict", answer

        names = [f"n{number}" for number in range(20)]
        await asyncio.gather(
            *(add(desk.control, f"here-{name}") for name in names),
            *(add(other, f"there-{name}") for name in names),
        )
        await desk.control.commander.catch_up()
        tenant = desk.control.projection.tenant("acme")
        assert tenant is not None
        assert len(tenant.metadata) == 40
        assert await desk.stored() == 41
        await other.close()

    at_desk(nats_server, test)


def test_of_two_who_claim_one_place_at_once_one_gets_it(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        other = await Control.open([nats_server.url], VAULT)
        settings = {"isolation": {"strategy": "database", "database_name": "one"}}
        for number in range(10):
            place = {"isolation": {**settings["isolation"], "database_name": f"d{number}"}}
            answers = await asyncio.gather(
                desk.control.service.execute(PutTenant(id=f"a{number}", settings=place), ANN),
                other.service.execute(PutTenant(id=f"b{number}", settings=place), ANN),
            )
            assert sorted(answer.accepted for answer in answers) == [False, True]
            (refused,) = (answer for answer in answers if not answer.accepted)
            assert "is taken by tenant" in refused.mistakes[0].message
        await other.close()

    at_desk(nats_server, test)


def test_a_dry_run_answers_the_events_and_stores_none(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        answer = await desk.ask("acme.create", {"settings": {"name": "A"}, "dry_run": True}, "c")
        assert answer["dry_run"]
        assert [event["type"] for event in answer["events"]] == ["TenantCreated"]
        assert await desk.stored() == 0
        # And its id is still free.
        assert (await desk.ask("acme.create", {"settings": {"name": "A"}}, "c"))["sequence"] == 1

    at_desk(nats_server, test)


def test_all_mistakes_are_told_at_once(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        settings = {"rate_limits": {"qps_limit": -1}, "colour": "red", "tier": "gold"}
        answer = await desk.ask("acme.create", {"settings": settings})
        assert answer["code"] == "refused"
        assert {each["path"] for each in answer["mistakes"]} == {"rate_limits.qps_limit", "colour"}
        answer = await desk.ask("acme.change", {"patch": {}, "id": "other", "colour": 1})
        assert answer["code"] == "malformed"
        assert {each["path"] for each in answer["mistakes"]} == {"id", "colour"}

    at_desk(nats_server, test)


@pytest.mark.parametrize(
    ("subject", "body", "message"),
    [
        ("acme.create", b"{", "the body is not JSON"),
        ("acme.create", b"[]", "the body is not a JSON object"),
        ("acme.bless", b"", "bless is no verb here"),
        ("_installation.disable", b"", "disable is no verb here"),
        ("acme.tier-put", b"", "tier-put is no verb here"),
        ("acme.put", b"{}" + b" " * bus.BODY_BYTES_MAX, "the body is over 524288 bytes"),
    ],
)
def test_what_is_no_command_is_told_so(
    nats_server: Nats, subject: str, body: bytes, message: str
) -> None:
    async def test(desk: Desk) -> None:
        answer = await desk.ask(subject, body)
        assert answer["code"] in ("malformed", "too_large")
        assert message in answer["mistakes"][0]["message"]

    at_desk(nats_server, test)


def test_not_more_than_the_version_that_was_read_is_changed(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        made = await desk.ask("acme.create")
        version = made["sequence"]
        body = {"patch": {"name": "B"}, "expected_version": version}
        assert (await desk.ask("acme.change", body))["accepted"]
        assert (await desk.ask("acme.change", body))["code"] == "changed"

    at_desk(nats_server, test)


# --- who may -------------------------------------------------------------------------------------


def test_only_a_good_token_is_heard(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        for token in ("", "x", desk.token[:-4] + "AAAA"):
            answer = await desk.ask("acme.create", token=token)
            assert answer["code"] == "unauthenticated"
            assert desk.token not in str(answer)
        bearer = {"Authorization": f"Bearer {desk.token}"}
        assert (await desk.ask("acme.create", token="", **bearer))["accepted"]
        jti = desk.control.service.checker.check(desk.token).jti
        await desk.ask("_installation.token-revoke", {"jti": jti, "expires_at": 2_000_000_000})
        assert (await desk.ask("acme.disable"))["code"] == "unauthenticated"
        assert await desk.stored() == 2
        assert desk.notes.taken[-1]["reason"] == "it was revoked"
        assert desk.token not in str(desk.notes.taken)

    at_desk(nats_server, test)


def test_a_tenants_administrator_stays_within_its_tenant(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        for id in ("acme", "widgetco"):
            await desk.ask(f"{id}.create")
        stored = await desk.stored()
        token = desk.make("bob", "tenant-admin", "acme")
        for subject, body in (
            ("widgetco.change", {"patch": {"metadata": {"a": "b"}}}),
            ("acme.change", {"patch": {"metadata": {"a": "b"}, "rate_limits": {"qps_limit": 9}}}),
            ("acme.change", {"patch": {"enabled": False}}),
            ("acme.change", {"patch": {"metadata": {}}, "force": True}),
            ("acme.put", {"settings": {}}),
            ("acme.disable", {}),
            ("acme.delete", {}),
            ("acme.undo", {"sequence": 1}),
            ("_installation.tier-put", {"name": "gold", "settings": {}}),
            ("_installation.operator-put", {"name": "bob", "role": "operator"}),
        ):
            assert (await desk.ask(subject, body, token=token))["code"] == "forbidden", subject
        assert await desk.stored() == stored
        # Not even what is wrong with a command about another tenant.
        wrong = await desk.ask("widgetco.change", {"colour": 1}, token=token)
        assert wrong["code"] == "forbidden"
        assert (await desk.ask("acme.change", {"patch": {"metadata": {"a": "b"}}}, token=token))[
            "accepted"
        ]
        viewer = desk.make("eve", "viewer")
        assert (await desk.ask("acme.disable", token=viewer))["code"] == "forbidden"

    at_desk(nats_server, test)


@pytest.mark.parametrize(
    "subject",
    ["tenantry.config.tenant.acme", "$JS.API.STREAM.DELETE.TENANTRY_CONFIG", "a.*", "a b"],
)
def test_no_answer_becomes_a_fact_or_an_order(nats_server: Nats, subject: str) -> None:
    assert not bus.may_answer_to(subject)

    async def test(desk: Desk) -> None:
        if " " in subject or "*" in subject:
            return
        headers = {"Tenantry-Token": desk.token}
        await desk.client.publish(
            "tenantry.request.acme.create", b"", reply=subject, headers=headers
        )
        await until(lambda: desk.control.projection.tenant("acme") is not None)
        await desk.ask("widgetco.create")
        assert await desk.stored() == 2
        assert desk.control.projection.parked() == {}

    at_desk(nats_server, test)


# --- when things fail ----------------------------------------------------------------------------


def test_without_a_control_process_it_is_told_that_nobody_answers(nats_server: Nats) -> None:
    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        client = CommandClient(log, "token")
        with pytest.raises(NobodyAnswers, match="is Tenantry running"):
            await client.send(PutTenant(id="acme"), seconds=0.3)
        await log.close()

    asyncio.run(run())


def test_whoever_is_beyond_the_bound_is_told_to_come_back(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "IN_WORK_MAX", 0)

    async def test(desk: Desk) -> None:
        answer = await desk.ask("acme.create", id="c")
        assert (answer["code"], answer["command_id"]) == ("busy", "c")

    at_desk(nats_server, test)


def test_requests_are_answered_again_after_nats_came_back(own_nats: NatsServer) -> None:
    async def test(desk: Desk) -> None:
        log = await ConfigLog.connect([own_nats.url])
        client = CommandClient(log, desk.token)
        assert (await client.send(PutTenant(id="acme", command_id="a")))["sequence"] == 1
        own_nats.kill()
        own_nats.start()
        assert (await client.send(PutTenant(id="acme", command_id="a")))["repeated"]
        assert (await client.send(PutTenant(id="b")))["sequence"] == 2
        await log.close()

    at_desk(own_nats, test)


def test_a_bus_that_stops_finishes_what_is_under_way(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        asking = asyncio.gather(*(desk.ask(f"t{number}.create") for number in range(20)))
        await until(lambda: desk.control.projection.position > 0)
        await desk.control.service.stop()
        answers = await asyncio.gather(asking, return_exceptions=True)
        del answers
        with pytest.raises(NoRespondersError):
            await desk.ask("late.create")
        assert await desk.stored() == desk.control.projection.tenant_count()

    at_desk(nats_server, test)


def test_the_trace_of_a_request_is_stored_with_it(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        await desk.ask("acme.create", traceparent=parent)
        stored = await desk.control.log.get(1)
        assert stored is not None
        assert stored.headers["traceparent"] == parent
        note = desk.notes.taken[-1]
        assert note["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
        assert note["span_id"] == "00f067aa0ba902b7"

    at_desk(nats_server, test)


def test_whoever_asked_and_is_left_alone_is_told_that_it_is_unknown(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the first try is given up and others find nobody.
    monkeypatch.setattr(bus_client, "TRY_SECONDS", 0.1)

    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        deaf = await nats.connect(nats_server.url)
        heard = asyncio.Event()

        async def die(_: object) -> None:
            heard.set()
            await deaf.close()

        await deaf.subscribe("tenantry.request.*.*", cb=die)
        await deaf.flush()
        with pytest.raises(LogUnavailable, match="repeat it with the same command id") as told:
            await CommandClient(log, "x").send(EnableTenant(id="acme"), seconds=0.5)
        assert heard.is_set()
        assert told.value.unknown
        await log.close()

    asyncio.run(run())


def test_while_nats_is_away_nothing_is_sent_and_nothing_is_sent_later(
    own_nats: NatsServer,
) -> None:
    async def run() -> None:
        log = await ConfigLog.connect([own_nats.url])
        own_nats.kill()
        await until(lambda: not log.connected)
        with pytest.raises(LogUnavailable, match="it was not sent") as told:
            await CommandClient(log, "x").send(EnableTenant(id="acme"), seconds=0.2)
        assert not told.value.unknown
        assert log.nats.pending_data_size == 0
        own_nats.start()
        await log.close()

    asyncio.run(run())


def test_one_id_across_reconnects_is_one_event(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        await desk.ask("acme.create")
        async with Line(nats_server.url, nats_server.port) as line:
            log = await ConfigLog.connect([line.url])
            client = CommandClient(log, desk.token)
            command = ChangeTenant(id="acme", patch={"name": "B"}, command_id="once")
            sending = [
                asyncio.get_running_loop().create_task(client.send(command)) for _ in range(50)
            ]
            for _ in range(5):
                line.cut()
                await asyncio.sleep(0.05)
            answers = await asyncio.gather(*sending)
            await log.close()
        assert {answer["sequence"] for answer in answers} == {2}
        assert await desk.stored() == 2

    at_desk(nats_server, test)


def test_one_id_past_the_servers_window_and_a_restart_is_one_event(nats_server: Nats) -> None:
    """NATS itself forgets ids after its window; here that is a tenth of a second."""

    async def run() -> None:
        body = {"patch": {"name": "B"}}
        async with desk(nats_server.url) as made:
            log = made.control.log
            await made.ask("acme.create")
            config = (await log.info())["config"] | {"duplicate_window": 100_000_000}
            await log.request(f"$JS.API.STREAM.UPDATE.{STREAM}", orjson.dumps(config))
            first = await made.ask("acme.change", body, id="once")
            await made.ask("acme.change", {"patch": {"name": "C"}})
            await window_is_over(made)
            again = await asyncio.gather(
                *(made.ask("acme.change", body, id="once") for _ in range(1000))
            )
            assert {answer["sequence"] for answer in again} == {first["sequence"]} == {2}
        async with desk(nats_server.url) as made:
            answer = await made.ask("acme.change", body, id="once")
            assert (answer["sequence"], answer["repeated"]) == (2, True)
            # Durably as well: what the queue brings a second time is not done a second time.
            sender = CommandClient(made.control.log, made.token)
            command = ChangeTenant(id="acme", patch=body["patch"], command_id="once")
            await sender.store(command)
            await until(lambda: any("nats command" in note["detail"] for note in made.notes.taken))
            tenant = made.control.projection.tenant("acme")
            assert tenant is not None
            assert tenant.name == "C"
            ids = await stored_ids(made)
            assert ids.count("once") == 1

    asyncio.run(run())


async def window_is_over(desk: Desk) -> None:
    """Return when the server takes an id of the log as a new one: seen by what it refuses."""
    headers = {
        "Nats-Msg-Id": "once",
        "Nats-Expected-Stream": STREAM,
        "Nats-Expected-Last-Subject-Sequence": "1",
    }
    async with asyncio.timeout(20):
        while True:
            subject = f"{SUBJECT_PREFIX}tenant.acme"
            answer = await desk.client.request(subject, b"", timeout=5, headers=dict(headers))
            if "error" in orjson.loads(answer.data):
                return
            assert orjson.loads(answer.data)["duplicate"]
            await asyncio.sleep(0.02)


async def stored_ids(desk: Desk) -> list[str]:
    found: list[str] = []

    def take(each: Stored) -> None:
        found.append(commit_of(each).id)

    await desk.control.log.scan(take)
    return found
