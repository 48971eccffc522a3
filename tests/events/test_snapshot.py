"""Snapshots: the same state as folding the log, and not used when anything about them is odd."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.engines import Nats

from events import codec, snapshot
from events.commander import Commander
from events.commands import (
    ChangeTenant,
    Command,
    DeleteTenant,
    DisableTenant,
    PutInstallation,
    PutTenant,
)
from events.dumped import copy, dump, dump_commands, restore, restore_commands
from events.facts import Commit, TenantChanged
from events.log import ConfigLog
from events.projection import Projection
from events.secrets import Vault
from events.snapshot import BUCKET, MANIFEST, PIECES, Manifest, load, save
from events.stream import STREAM, SUBJECT_PREFIX
from wire.tasks import spawn

VAULT = Vault(b"k" * 32)


class Site:
    """A log with some history, and its fold."""

    def __init__(self, log: ConfigLog) -> None:
        self.log = log
        self.projection = Projection()
        self.commander = Commander(log, self.projection)

    async def do(self, command: Command) -> None:
        await self.commander.execute(command, "ann")

    async def live(self) -> None:
        """Something of everything that the state can hold."""
        await self.do(PutInstallation(settings={"defaults": {"pool": {"min_idle": 3}}}))
        for id in ("acme", "widgetco", "initech", "umbrella"):
            await self.do(PutTenant(id=id, settings={"pool": {"max_connections": 7}}))
        await self.do(ChangeTenant(id="acme", patch={"rate_limits": {"qps_limit": "unlimited"}}))
        await self.do(DisableTenant(id="widgetco"))
        await self.do(DeleteTenant(id="initech"))
        # What a newer version wrote parks its tenant.
        raw = orjson.loads(codec.encode(Commit("new", "ann", "", (TenantChanged(changes={}),))))
        raw["events"][0]["type"] = "TenantBlessed"
        jetstream = self.log.nats.jetstream()
        await jetstream.publish(f"{SUBJECT_PREFIX}tenant.umbrella", orjson.dumps(raw))
        await self.commander.catch_up()

    async def stored(self, subject: str) -> dict[str, Any]:
        """The newest message of the bucket on `subject`, with its data as bytes."""
        message = await self.log.fetch(snapshot.STREAM, {"last_by_subj": subject})
        assert message is not None
        return {**message, "data": base64.b64decode(message["data"])}


def at_a_site(server: Nats, test: Callable[[Site], Awaitable[None]]) -> None:
    async def run() -> None:
        log = await ConfigLog.connect([server.url])
        try:
            await test(Site(log))
        finally:
            await log.close()

    asyncio.run(run())


def same(one: Projection, other: Projection) -> bool:
    """Whether every field is equal, whatever fields there are, but for what is made when asked."""
    hidden = ("_resolved", "_subscribers", "_places", "_tier_users")
    fields = [{k: v for k, v in vars(each).items() if k not in hidden} for each in (one, other)]
    return bare(fields[0]) == bare(fields[1])


def bare(value: Any) -> Any:
    """Objects as what they consist of."""
    if isinstance(value, dict):
        return {key: bare(below) for key, below in value.items()}
    if hasattr(value, "__slots__") and not dataclasses.is_dataclass(value) and value.__slots__:
        return {name: getattr(value, name) for name in value.__slots__}
    return bare(vars(value)) if type(value).__name__ == "SeenCommands" else value


def test_a_dumped_state_is_restored_in_every_field(nats_server: Nats) -> None:
    async def test(site: Site) -> None:
        await site.live()
        state = site.projection
        assert state.parked()
        small, lines = dump(state)
        noted, known = dump_commands(state)
        assert noted is not None
        again = orjson.loads(orjson.dumps({"small": small, "noted": noted}))
        commands = restore_commands(again["noted"], known)
        restored = restore(again["small"], list(lines), commands)
        assert same(restored, state)
        assert restored.digest() == state.digest()
        assert same(copy(state), state)
        # The copy stays as it is when the original goes on, and goes on by itself.
        before, digest = copy(state), state.digest()
        await site.do(PutTenant(id="late", settings={}))
        assert before.digest() == digest
        assert before.record("late") is None
        await site.log.read_all(before.position + 1, before.apply)
        assert same(before, state)

    at_a_site(nats_server, test)


def test_a_start_from_a_snapshot_is_as_a_start_from_the_log(nats_server: Nats) -> None:
    async def test(site: Site) -> None:
        assert await load(site.log, VAULT) is None, "there is no snapshot yet"
        await site.live()
        manifest = await save(site.log, VAULT, site.projection)
        assert manifest is not None
        assert (manifest.sequence, manifest.tenants) == (site.projection.position, 3)
        await site.do(PutTenant(id="late", settings={}))
        loaded = await load(site.log, VAULT)
        assert loaded is not None
        assert loaded.position == manifest.sequence
        await site.log.read_all(loaded.position + 1, loaded.apply)
        assert same(loaded, site.projection)
        # A worker does not decide, so it needs no command ids.
        worker = await load(site.log, VAULT, remember_commands=False)
        assert worker is not None
        assert worker.digest() == manifest.digest
        assert worker.seen("new") is None
        assert loaded.seen("new") is not None

    at_a_site(nats_server, test)


def test_large_states_are_cut_in_pieces(nats_server: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PIECE_BYTES", 64)
    monkeypatch.setattr(snapshot, "LINES_AT_ONCE", 2)

    async def test(site: Site) -> None:
        await site.live()
        manifest = await save(site.log, VAULT, site.projection)
        assert manifest is not None
        assert len(manifest.pieces) > 3
        assert len(manifest.command_pieces) > 3
        loaded = await load(site.log, VAULT)
        assert loaded is not None
        assert same(loaded, site.projection)

    at_a_site(nats_server, test)


def test_only_the_last_two_snapshots_are_kept(nats_server: Nats) -> None:
    async def test(site: Site) -> None:
        for number in range(4):
            await site.do(PutTenant(id=f"t{number}", settings={}))
            assert await save(site.log, VAULT, site.projection) is not None
        info = await site.log.request(
            f"$JS.API.STREAM.INFO.{snapshot.STREAM}",
            orjson.dumps({"subjects_filter": f"{PIECES}>"}),
        )
        assert len({subject.split(".")[3] for subject in info["state"]["subjects"]}) == 2
        # It is an ordinary key-value bucket for everybody's tools.
        bucket = await site.log.nats.jetstream().key_value(BUCKET)
        assert (await bucket.get("manifest")).revision is not None

    at_a_site(nats_server, test)


def test_of_two_that_save_at_once_one_gives_way(nats_server: Nats) -> None:
    async def test(site: Site) -> None:
        await site.live()
        outcomes = await asyncio.gather(*(save(site.log, VAULT, site.projection) for _ in range(5)))
        assert sum(outcome is not None for outcome in outcomes) == 1
        loaded = await load(site.log, VAULT)
        assert loaded is not None
        assert same(loaded, site.projection)

    at_a_site(nats_server, test)


async def tampered(site: Site, change: Callable[[dict[str, Any]], None], vault: Vault) -> None:
    """Replace the manifest by a changed one, sealed with the key of `vault`."""
    body = orjson.loads(orjson.loads((await site.stored(MANIFEST))["data"])["manifest"])
    change(body)
    body["pieces"], body["command_pieces"] = tuple(body["pieces"]), tuple(body["command_pieces"])
    await site.log.nats.jetstream().publish(MANIFEST, Manifest(**body).sealed(vault))


REASONS: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    ("a newer format", lambda it: it.update(format=2), "format 2 is not known here"),
    ("other code", lambda it: it.update(code="?"), "another version made it"),
    ("a replaced log", lambda it: it.update(stream_created="2020"), "a log that was replaced"),
    ("beyond the end", lambda it: it.update(sequence=9999), "has not come to yet"),
    ("other history", lambda it: it.update(message_sha256="00"), "has another message at"),
    ("another state", lambda it: it.update(digest="00"), "not the state that it claims"),
    ("another sequence", lambda it: it.update(sequence=1), "has another message at 1"),
    ("a wrong length", lambda it: it.update(raw_bytes=10), "longer or shorter than it claims"),
    ("an absurd length", lambda it: it.update(raw_bytes=10**15), "too large"),
    ("a missing piece", lambda it: it.update(id="gone"), "piece 0 of the state is missing"),
    ("another piece", lambda it: it.update(pieces=["00"]), "piece 0 of the state is missing or"),
]


@pytest.mark.parametrize(("change", "reason"), [each[1:] for each in REASONS],
                         ids=[each[0] for each in REASONS])  # fmt: skip
def test_a_doubtful_snapshot_is_not_used(
    nats_server: Nats,
    change: Callable[[dict[str, Any]], None],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(site: Site) -> None:
        await site.live()
        await save(site.log, VAULT, site.projection)
        await tampered(site, lambda it: None, VAULT)
        assert await load(site.log, VAULT) is not None, "unchanged it is fine"
        await tampered(site, change, VAULT)
        assert await load(site.log, VAULT) is None
        assert reason in caplog.text

    at_a_site(nats_server, test)


def test_whoever_lacks_the_key_cannot_make_one(
    nats_server: Nats, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(site: Site) -> None:
        await site.live()
        await save(site.log, VAULT, site.projection)
        await tampered(site, lambda it: None, Vault(b"x" * 32))
        assert await load(site.log, VAULT) is None
        assert "not sealed with this installation's key" in caplog.text
        # And the next save is not held up by it.
        assert await save(site.log, VAULT, site.projection) is not None
        assert await load(site.log, VAULT) is not None

    at_a_site(nats_server, test)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"manifest": 1}', b'{"manifest": "{}", "mac": 1}'])
def test_rubbish_in_the_bucket_is_no_accident(nats_server: Nats, data: bytes) -> None:
    async def test(site: Site) -> None:
        await site.live()
        await save(site.log, VAULT, site.projection)
        await site.log.nats.jetstream().publish(MANIFEST, data)
        assert await load(site.log, VAULT) is None

    at_a_site(nats_server, test)


def test_a_changed_piece_is_noticed(nats_server: Nats) -> None:
    async def test(site: Site) -> None:
        await site.live()
        manifest = await save(site.log, VAULT, site.projection)
        assert manifest is not None
        subject = f"{PIECES}{manifest.id}.state.0"
        data = bytearray((await site.stored(subject))["data"])
        data[len(data) // 2] ^= 1
        await site.log.nats.jetstream().publish(subject, bytes(data))
        assert await load(site.log, VAULT) is None

    at_a_site(nats_server, test)


def test_the_snapshot_of_a_deleted_log_is_not_used_for_its_successor(nats_server: Nats) -> None:
    async def test(site: Site) -> None:
        await site.live()
        await save(site.log, VAULT, site.projection)
        await site.log.nats.jetstream().delete_stream(STREAM)
        successor = Site(await ConfigLog.connect([nats_server.url]))
        await successor.live()
        assert await load(successor.log, VAULT) is None
        assert await save(successor.log, VAULT, successor.projection) is not None
        await successor.log.close()

    at_a_site(nats_server, test)


def test_snapshots_are_written_as_the_log_grows(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tenantry.snapshot")
    monkeypatch.setattr(snapshot, "EVERY_MESSAGES", 5)
    monkeypatch.setattr(snapshot, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(snapshot, "LOOK_SECONDS", 0.01)

    async def test(site: Site) -> None:
        task = spawn(snapshot.keep_saving(site.log, VAULT, site.projection), name="test")
        for number in range(12):
            await site.do(PutTenant(id=f"t{number}", settings={}))
            if number in (4, 9):
                async with asyncio.timeout(10):
                    while f"at sequence {number + 1}" not in caplog.text:
                        await asyncio.sleep(0.01)
        task.cancel()
        loaded = await load(site.log, VAULT)
        assert loaded is not None
        assert loaded.position == 10
        assert caplog.text.count("wrote a snapshot") == 2

    at_a_site(nats_server, test)


def test_the_code_that_folds_is_known_by_its_text(tmp_path: Path) -> None:
    assert len(snapshot.code()) == 16
    folder = Path(snapshot.__file__).parent
    assert (folder / "projection.py").is_file()
