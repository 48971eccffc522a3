"""Personal data is sealed in the log, and gone for ever when its key is."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
from support.nats import NatsServer

from admin.control import Control
from events import codec
from events.answer import Answer
from events.bus import Request
from events.bus_client import CommandClient
from events.bus_durable import DurableBus
from events.commands import ChangeTenant, DeleteTenant, PurgeTenant, PutTenant, PutUser, RemoveUser
from events.keys import STREAM, KeyRing
from events.log import ConfigLog
from events.model import Settings
from events.personal import DataKey, is_erasable
from events.projection import Projection
from events.reader import Stored
from events.secrets import Vault

VAULT = Vault(bytes(range(32)))
VERIFIER = "SCRAM-SHA-256$4096:c2FsdA==$a2V5:a2V5"
PERSONAL: Settings = {
    "name": "Zebediah Quux GmbH",
    "metadata": {"contact": "zoe.zander@example.org"},
    "users": [{"name": "zoltan_zimmer", "scram": VERIFIER}],
}
WORDS = (b"Zebediah", b"zoe.zander", b"zoltan_zimmer", b"contact")


async def fold(log: ConfigLog, vault: Vault = VAULT) -> Projection:
    """What somebody else folds from the same log."""
    ring = KeyRing(log, vault)
    await ring.load()
    made = Projection()
    ring.serve(made)
    await log.read_all(1, made.apply)
    return made


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_personal_data_is_nowhere_in_clear_and_gone_with_its_key(
    own_nats: NatsServer, tmp_path: Path
) -> None:
    async def run() -> bytes:
        control = await Control.open([own_nats.url], VAULT)
        execute = control.commander.execute
        # Others around it, so that no file goes as a whole.
        await execute(PutTenant(id="before", settings={"name": "B"}), "ann")
        await execute(PutTenant(id="acme", settings=PERSONAL), "ann")
        await execute(PutTenant(id="behind", settings={"name": "B"}), "ann")
        await execute(ChangeTenant(id="acme", patch={"metadata": {"more": "Zwetschge"}}), "ann")
        other = await fold(control.log)
        tenant = other.tenant("acme")
        assert tenant is not None
        assert tenant.name == "Zebediah Quux GmbH"
        assert tenant.metadata == {"contact": "zoe.zander@example.org", "more": "Zwetschge"}
        assert [user.name for user in tenant.users] == ["zoltan_zimmer"]
        assert other.digest() == control.projection.digest()

        raw: list[Stored] = []
        await control.log.scan(raw.append)
        stored = await control.log.fetch(STREAM, {"last_by_subj": "tenantry.keys.acme"})
        assert stored is not None
        await execute(DeleteTenant(id="acme"), "ann")
        await execute(PurgeTenant(id="acme", force=True), "ann")
        assert await control.log.fetch(STREAM, {"last_by_subj": "tenantry.keys.acme"}) is None
        after = await fold(control.log)
        record = after.record("acme")
        assert record is not None
        assert (record.settings, record.purged) == ({}, True)
        await control.close()

        # A copy of the log from before, and the installation's key: nothing opens any more.
        copy = Projection((await _ring_of_nothing()).open)
        for message in raw:
            copy.apply(message.sequence, message.kind, message.id, codec.decode(message.data))
        erased = copy.tenant("acme")
        assert erased is not None
        assert (erased.name, erased.users, erased.metadata) == ("", (), {})
        return base64.b64decode(stored["data"])

    sealed_key = asyncio.run(run())
    assert b"sealed:1:" in sealed_key
    own_nats.stop()
    written = files(tmp_path / "store")
    assert b"acme" in written
    for word in (*WORDS, b"Zwetschge", sealed_key):
        assert word not in written, word


async def _ring_of_nothing() -> KeyRing:
    class Nothing:
        nats = None

    return KeyRing(Nothing(), VAULT)  # type: ignore[arg-type]


def test_users_are_added_to_those_that_are_sealed(own_nats: NatsServer) -> None:
    async def run() -> None:
        control = await Control.open([own_nats.url], VAULT)
        await control.commander.execute(PutTenant(id="acme", settings=PERSONAL), "ann")
        await control.close()
        # Another process, which has not read the keys: it fetches the one that it needs.
        log = await ConfigLog.connect([own_nats.url])
        late = Control(log, VAULT)
        await late.commander.execute(PutUser(id="acme", name="b", scram=VERIFIER), "bob")
        await late.commander.execute(RemoveUser(id="acme", name="zoltan_zimmer"), "bob")
        tenant = late.projection.tenant("acme")
        assert tenant is not None
        assert [user.name for user in tenant.users] == ["b"]
        assert tenant.name == "Zebediah Quux GmbH"
        await late.close()

    asyncio.run(run())


def test_a_purge_cut_short_is_finished_by_the_next_process(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        control = await Control.open([own_nats.url], VAULT)
        execute = control.commander.execute
        await execute(PutTenant(id="acme", settings=PERSONAL), "ann")
        await execute(DeleteTenant(id="acme"), "ann")

        async def killed(self: KeyRing, id: str) -> None:
            raise SystemError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(KeyRing, "destroy", killed)
            with pytest.raises(SystemError):
                await execute(PurgeTenant(id="acme", force=True), "ann")
        await control.close()
        control = await Control.open([own_nats.url], VAULT)
        assert control.keys.leftover == {"acme"}
        await control.serve_commands()
        async with asyncio.timeout(10):
            while control.keys.leftover:
                await asyncio.sleep(0.01)
        assert await control.log.fetch(STREAM, {"last_by_subj": "tenantry.keys.acme"}) is None
        await control.close()

    asyncio.run(run())


def test_a_sealed_field_opens_in_its_own_place_only() -> None:
    key, other = DataKey("acme", bytes(32)), DataKey("widgetco", bytes(32))
    sealed = key.seal("name", "Acme")
    assert is_erasable(sealed)
    assert key.open("name", sealed) == "Acme"
    assert key.open("metadata", sealed) is None
    assert other.open("name", sealed) is None
    assert key.open("name", sealed[:-4]) is None
    assert key.open_all({"name": sealed, "users": "erasable:1:?", "pool": {}}) == {
        "name": "Acme",
        "pool": {},
    }


def test_a_durable_command_leaves_no_personal_data_behind(
    own_nats: NatsServer, tmp_path: Path
) -> None:
    async def run() -> None:
        control = await Control.open([own_nats.url], VAULT)
        token, _ = control.service.signer.make("ann", "operator")
        sender = CommandClient(control.log, token)
        # Another one behind it, so that the file does not go as a whole.
        for id in ("acme", "behind"):
            await sender.store(PutTenant(id=id, settings=PERSONAL if id == "acme" else {}))
        assert b"Zebediah" in files(tmp_path / "store")

        async def first(request: Request) -> Answer:
            while request.tenant != "acme":
                await asyncio.sleep(1)
            return await control.service.handle(request)

        queue = DurableBus(control.log, first)
        work = asyncio.get_running_loop().create_task(queue.run())
        async with asyncio.timeout(10):
            while not queue.done:
                await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert control.projection.tenant("acme") is not None
        await control.close()

    asyncio.run(run())
    own_nats.stop()
    written = files(tmp_path / "store")
    for word in WORDS:
        assert word not in written, word
