"""Export and import: what comes back is what was, or nothing is written."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson
import pytest
from support.engines import Nats, ask
from support.nats import Line

from admin.control import Control
from events import archive
from events.archive import ArchiveError, Result, export, import_, sealing_keys, verify
from events.archive_keys import stored_keys
from events.commands import DeleteTenant, PurgeTenant, PutTenant
from events.facts import Commit, TenantChanged, TenantCreated, TenantProvisioned
from events.history import moment_of, sequence_at, state_at
from events.log import ConfigLog
from events.reader import Stored
from events.secrets import Vault
from events.stream import SUBJECT_PREFIX, Conflict
from wire.tasks import spawn

VAULT = Vault(bytes(range(32)))


async def fill(log: ConfigLog, count: int = 6) -> None:
    for number in range(count):
        facts = (TenantCreated(settings={"name": f"☃ {number}"}),)
        headers = {"traceparent": f"00-{number}"}
        await log.append("tenant", f"t{number}", Commit(f"c{number}", "ann", "", facts), 0, headers)
    # What no version can read is part of the log all the same.
    await log.nats.jetstream().publish(f"{SUBJECT_PREFIX}tenant.odd", b"\xff\x00 no commit")


async def everything(log: ConfigLog) -> list[Stored]:
    found: list[Stored] = []
    await log.scan(found.append)
    return found


def between(server: Nats, test: Callable[[ConfigLog, ConfigLog], Awaitable[None]]) -> None:
    """`test` gets a log with something in it, and an empty one."""

    async def run() -> None:
        full, empty = (
            await ConfigLog.connect([server.url]),
            await ConfigLog.connect([Nats(**ask("nats")).url]),
        )
        try:
            await fill(full)
            await test(full, empty)
        finally:
            await full.close()
            await empty.close()

    asyncio.run(run())


def test_an_imported_log_is_the_exported_one(nats_server: Nats, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"

    async def test(full: ConfigLog, empty: ConfigLog) -> None:
        written = await export(full, file)
        assert (written.messages, file.stat().st_mode & 0o777) == (7, 0o600)
        assert list(tmp_path.iterdir()) == [file], "no draft is left"
        assert verify(file) == written
        result = await import_(empty, file)
        assert (result.messages, result.added) == (7, 7)
        before, after = await everything(full), await everything(empty)
        assert [each[:4] for each in after] == [each[:4] for each in before]
        assert after[0].headers["traceparent"] == "00-0"
        assert (await state_at(empty, 7)).digest() == (await state_at(full, 7)).digest()
        # Times are those of the first log, so the past can be asked for as before.
        assert await sequence_at(empty, moment_of(after[3])) in (3, 4)
        # The same command sent once more is still known as stored.
        again = Commit("c1", "ann", "", (TenantCreated(settings={"name": "☃ 1"}),))
        assert await empty.append("tenant", "t1", again, 0) == 2
        with pytest.raises(Conflict):
            await empty.append("tenant", "t1", Commit("other", "", "", again.events), 0)
        # And a copy of the copy is the same again.
        second = tmp_path / "second.jsonl"
        await export(empty, second)
        assert sha_of_messages(second) == sha_of_messages(file)

    between(nats_server, test)


def sha_of_messages(file: Path) -> str:
    """Without the header's date and the ids that only the server read."""
    lines = [orjson.loads(line) for line in file.read_bytes().splitlines()[1:-1]]
    for line in lines:
        line["headers"].pop("Nats-Msg-Id", None)
    return hashlib.sha256(orjson.dumps(lines)).hexdigest()


def test_the_import_of_an_import_continues(nats_server: Nats, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"

    async def test(full: ConfigLog, empty: ConfigLog) -> None:
        await export(full, file)
        first = (await everything(full))[:3]
        await archive._add(empty, first)
        result = await import_(empty, file)
        assert (result.messages, result.added) == (7, 4)
        assert (await import_(empty, file)).added == 0
        assert len(await everything(empty)) == 7

    between(nats_server, test)


def test_a_log_with_other_content_is_left_alone(nats_server: Nats, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"

    async def test(full: ConfigLog, other: ConfigLog) -> None:
        await export(full, file)
        facts = (TenantCreated(settings={}),)
        await other.append("tenant", "mine", Commit("mine", "", "", facts), 0)
        with pytest.raises(ArchiveError, match="at sequence 1 it holds something other"):
            await import_(other, file)
        assert len(await everything(other)) == 1
        for number in range(9):
            await other.append("tenant", f"t{number}", Commit(f"x{number}", "", "", facts), 0)
        with pytest.raises(ArchiveError, match="the log holds 10 messages, the file 7"):
            await import_(other, file)

    between(nats_server, test)


def cut(text: bytes) -> bytes:
    return text[: len(text) // 2]


def without_end(text: bytes) -> bytes:
    return b"".join(line + b"\n" for line in text.splitlines()[:-1])


def another_word(text: bytes) -> bytes:
    return text.replace(b"00-3", b"00-7")


def swapped(text: bytes) -> bytes:
    lines = text.splitlines(keepends=True)
    lines[2], lines[3] = lines[3], lines[2]
    return b"".join(lines)


def one_less(text: bytes) -> bytes:
    """Whoever recomputes the checksum has to fool the count as well."""
    lines = text.splitlines(keepends=True)
    lines = lines[:-2]
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    return b"".join(lines) + orjson.dumps({"messages": 6, "sha256": digest}) + b"\n"


def newer(text: bytes) -> bytes:
    return text.replace(b'"version":1', b'"version":3', 1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (cut, "cut off"),
        (without_end, "cut off"),
        (another_word, "its checksum is wrong"),
        (swapped, "sequence 3 is out of order"),
        (one_less, "messages are missing"),
        (newer, "version 3 of the format is not known here"),
        (lambda text: text + b"more\n", "something follows its end"),
        (lambda text: b"", "cut off"),
        (lambda text: b"[]\n", "line 1 cannot be read"),
        (lambda text: b"{}\n", "not an export of events"),
        (lambda text: text.replace(b"config.tenant.t0", b"audit.t0"), "is no subject of the log"),
        (lambda text: text.replace(b'"text"', b'"test"', 1), "line 2 cannot be read"),
    ],
)
def test_a_broken_file_is_refused_before_anything_is_written(
    nats_server: Nats, tmp_path: Path, change: Callable[[bytes], bytes], complaint: str
) -> None:
    file = tmp_path / "log.jsonl"

    async def test(full: ConfigLog, empty: ConfigLog) -> None:
        await export(full, file)
        file.write_bytes(change(file.read_bytes()))
        with pytest.raises(ArchiveError, match=complaint):
            verify(file)
        with pytest.raises(ArchiveError, match=complaint):
            await import_(empty, file)
        assert await empty.last_sequence() == 0

    between(nats_server, test)


def test_an_import_over_a_line_that_breaks_is_whole(
    nats_server: Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "IN_FLIGHT_MAX", 10)
    file = tmp_path / "log.jsonl"

    async def test(full: ConfigLog, _: ConfigLog) -> None:
        for number in range(100):
            change = TenantChanged(changes={"name": str(number)})
            await full.append("tenant", "t0", Commit(f"m{number}", "", "", (change,)), 1 if not
                              number else number + 7)  # fmt: skip
        await export(full, file)
        server = Nats(**ask("nats"))
        async with Line(server.url, server.port) as line:
            empty = await ConfigLog.connect([line.url])
            task = spawn(import_(empty, file), name="test")
            for _round in range(4):
                line.drop_answers = True
                swallowed = line.swallowed
                async with asyncio.timeout(10):
                    while line.swallowed == swallowed and not task.done():
                        await asyncio.sleep(0.001)
                line.cut()
                async with asyncio.timeout(10):
                    while not empty.connected:
                        await asyncio.sleep(0.01)
            assert (await task).messages == 107
            assert [each[:4] for each in await everything(empty)] == [
                each[:4] for each in await everything(full)
            ]
            await empty.close()

    between(nats_server, test)


def test_somebody_who_writes_meanwhile_stops_the_import(nats_server: Nats, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"

    async def test(full: ConfigLog, other: ConfigLog) -> None:
        await export(full, file)
        messages = await everything(full)
        await archive._add(other, messages[:2])
        facts = (TenantCreated(settings={}),)
        await other.append("tenant", "rival", Commit("rival", "", "", facts), 0)
        with pytest.raises(ArchiveError, match="somebody else wrote to the log at sequence 3"):
            await archive._add(other, messages[2:])

    between(nats_server, test)


def test_the_file_holds_sealed_secrets_and_tells_which_key_they_need(
    nats_server: Nats, tmp_path: Path
) -> None:
    file = tmp_path / "log.jsonl"

    async def test(full: ConfigLog, _: ConfigLog) -> None:
        fact = TenantProvisioned(role="r", secret="sealed:1:0badcafe:xyz")
        await full.append("tenant", "t0", Commit("p", "", "", (fact,)), 1)
        await export(full, file)
        assert sealing_keys(file) == {"0badcafe"}

    between(nats_server, test)


def test_keys_come_along_when_asked_for_and_erased_ones_stay_erased(
    nats_server: Nats, tmp_path: Path
) -> None:
    plain, whole = tmp_path / "plain.jsonl", tmp_path / "whole.jsonl"
    target = Nats(**ask("nats"))

    async def fill_in() -> None:
        control = await Control.open([nats_server.url], VAULT)
        execute = control.commander.execute
        try:
            for id in ("acme", "gone", "late"):
                await execute(PutTenant(id=id, settings={"name": f"Name of {id}"}), "ann")
            await execute(DeleteTenant(id="gone"), "ann")
            await execute(PurgeTenant(id="gone", force=True), "ann")
            await export(control.log, plain)
            written = await export(control.log, whole, with_keys=True)
            assert (written.keys, whole.stat().st_mode & 0o777) == (2, 0o600)
            assert verify(whole).keys == 2
        finally:
            await control.close()
        assert b"Name of" not in whole.read_bytes()
        assert b"key_of" not in plain.read_bytes()
        assert sealing_keys(whole) == {VAULT.key_id}

    async def import_file(file: Path) -> Result:
        log = await ConfigLog.connect([target.url])
        try:
            return await import_(log, file)
        finally:
            await log.close()

    async def names() -> dict[str, str]:
        control = await Control.open([target.url], VAULT)
        try:
            found = {id: control.projection.tenant(id) for id in control.projection.ids()}
            return {id: each.name for id, each in found.items() if each is not None}
        finally:
            await control.close()

    async def run() -> None:
        await fill_in()
        assert (await import_file(plain)).keys == 0
        assert "Name of acme" not in (await names()).values()
        # A file made while the key of a tenant was not erased yet, though the tenant was purged.
        lines = whole.read_bytes().splitlines(keepends=True)
        again = orjson.loads(lines[-2]) | {"key_of": "gone"}
        lines[0] = orjson.dumps(orjson.loads(lines[0]) | {"keys": 3}) + b"\n"
        lines.insert(-1, orjson.dumps(again) + b"\n")
        digest = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
        lines[-1] = orjson.dumps(orjson.loads(lines[-1]) | {"sha256": digest}) + b"\n"
        whole.write_bytes(b"".join(lines))
        result = await import_file(whole)
        assert (result.added, result.keys, result.keys_added) == (0, 3, 2)
        assert await names() == {"acme": "Name of acme", "late": "Name of late"}
        log = await ConfigLog.connect([target.url])
        assert sorted(await stored_keys(log)) == ["acme", "late"]
        # Once more: what is there stays as it is.
        assert (await import_(log, whole)).keys_added == 0
        await log.close()
        whole.write_bytes(b"".join([*lines[:-2], lines[-1]]))
        with pytest.raises(ArchiveError):
            verify(whole)

    asyncio.run(run())
