"""Attacks on the control plane: what somebody with NATS, a token or an API may try."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest
from support.desk import VAULT, Desk, at_desk
from support.engines import Nats
from support.nats import NatsServer
from support.world import World

from admin import command_service
from admin.api.limits import Rate
from admin.cli import event_text
from admin.cli.tables import print_table
from admin.console import calls
from admin.console.calls import Call, Caller, Place, Responder
from events.audit import AuditEvent, Chain, iso
from events.audit_fold import Fold
from events.audit_verify import Verifier
from events.bus_client import CommandClient
from events.commands_model import (
    ChangeTenant,
    EnableTenant,
    IssueToken,
    PutOperator,
    PutTenant,
    PutUser,
    RevokeToken,
)
from events.facts import Commit, TenantChanged
from events.history import moment_of
from events.keys import stream_config as keys_config
from events.named import EXPIRED_TOKENS_KEPT_SECONDS
from events.operators import Principal
from events.reader import Stored
from events.spool import Spool
from events.tokens import TokenChecker, TokenRefused, TokenSigner
from wire.postgres.scram import make_verifier

SIGNER = TokenSigner(VAULT)
VERIFIER = make_verifier("x", iterations=1)


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsServer]:
    """One without users, for those who speak its protocol themselves."""
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.stop()


def raw(subject: bytes, headers: bytes = b"", body: bytes = b"{}", reply: bytes = b"") -> bytes:
    """A message as no library would send it; the server hands it on."""
    to = subject + (b" " + reply if reply else b"")
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (to, len(body), body)
    sizes = b"%d %d" % (len(headers), len(headers) + len(body))
    return b"HPUB %b %b\r\n%b%b\r\n" % (to, sizes, headers, body)


async def send_raw(server: NatsServer, *messages: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n')
        writer.write(b"".join(messages) + b"PING\r\n")
        async with asyncio.timeout(20):
            assert b"PONG" in await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()


# --- NATS ----------------------------------------------------------------------------------------

UNREADABLE = [
    b"\r\n",
    b"NATS/1.0",
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    b"NATS/1.0 503 \xff\xff\r\n\r\n",
    b"NATS/1.0\r\nTenantry-Token: \xff\r\nnonsense\r\n\xff: x\r\n\r\n",
]


@pytest.mark.parametrize("way", ["request", "commands"])
def test_a_message_that_nobody_can_read_does_not_deafen_us(way: str, own_nats: NatsServer) -> None:
    """In the library each of these ends the loop that reads: connected, and deaf. A durable one
    would do it again after each reconnect."""
    to = f"tenantry.{way}.".encode()

    async def test(desk: Desk) -> None:
        await desk.ask("acme.create")
        client = desk.control.log.connection.client
        await send_raw(
            own_nats,
            *(raw(to + b"acme.change", headers) for headers in UNREADABLE),
            raw(to + b"\xff\xfe.change"),
            raw(to + b"acme.\xff"),
            raw(to + b"acme.change", reply=b"\xff"),
            raw(to + b"*.change"),
        )
        answer = await desk.ask("acme.change", {"patch": {"rate_limits": {"qps_limit": 5}}})
        assert answer["accepted"]
        sender = CommandClient(desk.control.log, desk.token)
        await sender.store(ChangeTenant(id="acme", patch={"rate_limits": {"qps_limit": 6}}))
        async with asyncio.timeout(20):
            while True:
                tenant = desk.control.projection.tenant("acme")
                if tenant is not None and tenant.rate_limits.qps_limit == 6:
                    break
                await asyncio.sleep(0.01)
        assert client.is_connected
        assert client.stats["reconnects"] == 0

    at_desk(own_nats, test)


def deep(levels: int) -> Any:
    found: Any = {"a": 1}
    for _ in range(levels):
        found = {"a": found}
    return found


def test_deep_json_is_refused_before_anything_walks_through_it(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        await desk.ask("acme.create")
        for levels in (30, 250, 900):
            body = b'{"patch":{"metadata":%b}}' % (b'{"a":' * levels + b"1" + b"}" * levels)
            answer = await desk.ask("acme.change", body)
            assert answer["code"] == "malformed", levels
            assert "levels deep" in answer["mistakes"][0]["message"]

    at_desk(nats_server, test)


def test_a_key_of_personal_data_cannot_be_written_over(nats_server: Nats) -> None:
    """Who may publish there could otherwise erase any tenant's personal data with one message."""

    async def test(desk: Desk) -> None:
        await desk.ask("acme.create", {"settings": {"name": "Acme"}})
        forged = orjson.dumps({"v": 1, "sealed": "sealed:nonsense"})
        answer = await desk.client.request("tenantry.keys.acme", forged, timeout=20)
        assert orjson.loads(answer.data)["error"]["code"] in (400, 503)
        fetched = await desk.control.log.fetch(
            "TENANTRY_KEYS", {"last_by_subj": "tenantry.keys.acme"}
        )
        assert fetched is not None
        assert base64.b64decode(fetched["data"]) != forged

    assert keys_config(1)["discard_new_per_subject"]
    at_desk(nats_server, test)


def test_a_forged_time_is_not_believed_beyond_its_digits(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        await desk.ask("acme.create")
        commit = b'{"v":1,"id":"x","actor":"m","time":"","events":[]}'
        for digits in (20, 5000):
            headers = {"Tenantry-Stored-At": "9" * digits}
            await desk.client.request(
                "tenantry.config.tenant.other", commit, timeout=20, headers=headers
            )
        await desk.control.commander.catch_up()
        assert desk.control.projection.position == await desk.stored()
        for sequence in (2, 3):
            found = await desk.control.log.get(sequence)
            assert found is not None
            assert abs(moment_of(found).timestamp() - time.time()) < 3600

    at_desk(nats_server, test)


# --- tokens --------------------------------------------------------------------------------------


class Listener:
    """Answers calls as a worker would, and remembers who gave them."""

    def __init__(self) -> None:
        self.did: list[tuple[str, str]] = []

    async def handle(self, call: Call, principal: Principal) -> list[dict[str, Any]]:
        self.did.append((call.do, principal.name))
        return [{"did": call.do}]


def test_the_token_of_a_call_is_good_for_that_call_only(nats_server: Nats) -> None:
    """Calls go to all workers, so whoever may listen there sees their tokens."""

    async def test(desk: Desk) -> None:
        await desk.ask("acme.create")
        connection = desk.control.log.connection
        worker = Listener()
        checker = TokenChecker(SIGNER.public_key, desk.control.projection)
        responder = Responder(connection, Place("n"), checker, worker.handle)
        await responder.start()
        spied = await desk.client.subscribe(calls.SUBJECT)
        await desk.client.flush()
        try:
            caller = Caller(connection, SIGNER)
            found = await caller.ask(Call("pause", tenant="acme"), "ann")
            assert [row["did"] for row in found.rows] == ["pause"]
            message = await spied.next_msg(timeout=20)
            token = (message.headers or {})["Tenantry-Token"]

            async def says(body: bytes) -> str:
                answer = await desk.client.request(
                    calls.SUBJECT, body, timeout=20, headers={"Tenantry-Token": token}
                )
                error: str = orjson.loads(answer.data)["error"]
                return error

            assert "already" in await says(message.data)
            assert "not valid" in await says(message.data + b" ")
            assert "not valid" in await says(message.data.replace(b"pause", b"kill"))
            answer = await desk.ask("acme.delete", token=token)
            assert answer["code"] == "unauthenticated"
            assert worker.did == [("pause", "ann")]
            # Nor the other way round.
            token = desk.token
            assert "not valid" in await says(message.data)
        finally:
            await spied.unsubscribe()
            await responder.stop()

    at_desk(nats_server, test)


def test_a_body_that_is_no_text_fits_no_call() -> None:
    claims = {"iss": "tenantry", "aud": "tenantry-calls", "sub": "ann", "role": "operator"}
    now = int(time.time())
    checker = TokenChecker(SIGNER.public_key, World().projection)
    for body in (None, 5, "", "é", ["x"]):
        made = {**claims, "iat": now, "exp": now + 60, "jti": "j" * 32, "body": body}
        token = jwt.encode(made, SIGNER._key, algorithm="EdDSA")
        with pytest.raises(TokenRefused):
            checker.check_for(token, b"x")


def test_a_command_id_of_somebody_else_is_taken(nats_server: Nats) -> None:
    """Otherwise a tenant's own administrator, who guesses the id of the operator's next command,
    would have it answered "done already"."""

    async def test(desk: Desk) -> None:
        await desk.ask("acme.create")
        admin = desk.make("tad", "tenant-admin", "acme")
        burnt = await desk.ask(
            "acme.change", {"patch": {"metadata": {"a": "b"}}}, id="disable-acme", token=admin
        )
        assert burnt["accepted"]
        refused = await desk.ask("acme.disable", id="disable-acme")
        assert (refused["accepted"], refused.get("code")) == (False, "reused")
        # From another process, which has only the log to know it from, too.
        again = await desk.ask(
            "acme.change", {"patch": {"metadata": {"a": "b"}}}, id="disable-acme", token=admin
        )
        assert again["repeated"]

    at_desk(nats_server, test)


def test_two_who_use_one_id_at_once_are_not_taken_for_one(nats_server: Nats) -> None:
    async def test(desk: Desk) -> None:
        made = await desk.ask("acme.create")
        log = desk.control.log

        def commit(actor: str) -> Commit:
            return Commit("same", actor, "", (TenantChanged(changes={"tier": None}),))

        first = await log.append("tenant", "acme", commit("tad"), made["sequence"])
        assert await log.append("tenant", "acme", commit("tad"), made["sequence"]) == first
        with pytest.raises(Exception, match=r"moved on|something else"):
            await log.append("tenant", "acme", commit("ann"), made["sequence"])
        with pytest.raises(Exception, match="something else"):
            await log.append("tenant", "acme", commit("ann"), first)

    at_desk(nats_server, test)


def test_an_operator_made_a_viewer_changes_nothing_with_its_other_tokens() -> None:
    admin, _ = SIGNER.make("ann", "tenant-admin", tenant="acme")
    world = World(PutTenant(id="acme"), PutOperator(name="ann", role="viewer"))
    found = TokenChecker(SIGNER.public_key, world.projection).check(admin)
    assert found.role == "viewer"
    assert found.may_read("acme")
    # And it reads no more than the token said.
    assert not found.may_read("widgetco")
    assert not found.may_read("")


def test_a_revocation_is_not_forgotten_before_its_token_has_expired() -> None:
    """Whoever revokes a token that was never noted may be wrong about its end."""
    token, noted = SIGNER.make("ann", "operator", seconds=30 * 86400)
    world = World(PutTenant(id="acme"))
    checker = TokenChecker(SIGNER.public_key, world.projection)
    world.does(RevokeToken(jti=noted.jti, expires_at=1))
    for days in (2, 27):
        world.now += timedelta(days=days, seconds=EXPIRED_TOKENS_KEPT_SECONDS)
        other = IssueToken(jti=f"{days:032}", name="a", role="viewer", issued_at=1, expires_at=2)
        world.does(other)
        with pytest.raises(TokenRefused):
            checker.check(token)


# --- terminals -----------------------------------------------------------------------------------

ESCAPES = "\x1b[2J\x1b]0;mine\x07\x9b31m\r\u202e"


def test_names_that_would_move_a_cursor_are_refused() -> None:
    world = World(PutTenant(id="acme"))
    assert "name" in world.refuses(PutUser(id="acme", name=f"x{ESCAPES}", scram=VERIFIER))
    assert "name" in world.refuses(ChangeTenant(id="acme", patch={"name": "x\x1b[2J"}))
    users = [{"name": "x\n", "scram": VERIFIER}]
    assert "users.0.name" in world.refuses(ChangeTenant(id="acme", patch={"users": users}))
    assert world.does(ChangeTenant(id="acme", patch={"name": "Łódź \u200d👩\u200d🔬 שלום"}))


def test_what_was_stored_before_does_not_move_it_either(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(("A",), [(f"x{ESCAPES}y",)], "")
    stored = Stored(1, 0, "tenantry.config.tenant.acme\x1b[2J", b"", {})
    commit = Commit("c", f"ann{ESCAPES}", "", (TenantChanged(changes={f"a{ESCAPES}": {}}),))
    print(event_text.describe(stored, commit))
    out = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x9b", "\r", "\u202e"} & set(out)


# --- files ---------------------------------------------------------------------------------------


def test_nobody_else_sees_what_waits_on_disk(tmp_path: Path) -> None:
    folder = tmp_path / "audit" / "spool"
    Spool(folder).close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700


# --- floods --------------------------------------------------------------------------------------


def test_commands_that_change_nothing_do_not_push_others_out_of_the_audit() -> None:
    fold = Fold()
    for number in range(5000):
        fold.add(command_note("refused", "forbidden", f"ChangeTenant c{number}"), 1000.0)
    for number in range(3):
        fold.add(command_note("ok", "", f"ChangeTenant d{number}"), 1000.0)
    told = fold.due(1001.0)
    assert sorted((event.outcome, event.count) for event in told) == [
        *[("ok", 1)] * 3,
        ("refused", 5000),
    ]
    # Those who say something else each time have a budget.
    for number in range(5000):
        fold.add(command_note("refused", f"reason {number}", ""), 1002.0)
    assert len(fold.due(1003.0)) < 1100


def command_note(outcome: str, reason: str, detail: str) -> AuditEvent:
    return AuditEvent("command", "acme", "tad", outcome=outcome, reason=reason, detail=detail)


def test_the_administrators_of_a_tenant_cannot_fill_the_log(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_service, "TENANT_ADMIN_RATE", Rate(0.0001, 2))

    async def test(desk: Desk) -> None:
        await desk.ask("acme.create")
        await desk.ask("widgetco.create")
        admins = [desk.make(name, "tenant-admin", "acme") for name in ("tad", "tess")]
        answers = [
            await desk.ask(
                "acme.change", {"patch": {"metadata": {"n": f"{n}"}}}, token=admins[n % 2]
            )
            for n in range(3)
        ]
        assert [answer.get("code") for answer in answers] == [None, None, "busy"]
        other = desk.make("wes", "tenant-admin", "widgetco")
        body = {"patch": {"metadata": {}}}
        assert (await desk.ask("widgetco.change", body, token=other))["accepted"]
        assert (await desk.ask("acme.disable"))["accepted"]
        # A stored one does not hold up those behind it.
        sender = CommandClient(desk.control.log, admins[0])
        await sender.store(ChangeTenant(id="acme", patch={"metadata": {"n": "x"}}))
        await CommandClient(desk.control.log, desk.token).store(EnableTenant(id="acme"))
        record = desk.control.projection.record("acme")
        assert record is not None
        async with asyncio.timeout(20):
            while not record.enabled:
                await asyncio.sleep(0.01)
                record = desk.control.projection.record("acme")
                assert record is not None

    at_desk(nats_server, test)


def test_a_forged_chain_of_the_future_is_no_chain_under_way() -> None:
    """Who may write to the stream can make hashes but no seals; the last events of a chain may
    lack one for a while, by the time that they say themselves."""
    for said, whole in ((990.0, True), (1_000_000_000.0, False)):
        chain = Chain("worker-0.f", "worker-0", b"another key")
        event = AuditEvent("command", "acme", "ann", outcome="ok", time=iso(said))
        (_, data), *_ = chain.link([event, AuditEvent("command", time=iso(said))])
        verifier = Verifier(b"k" * 32, expired=False)
        verifier.take(1, "tenantry.audit.acme", data)
        assert (verifier.finish(now=1000.0) == []) is whole
