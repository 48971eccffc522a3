"""`tenantry audit search|tail|verify` and `tenantry stats`, on a real log."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import nats
import orjson
import pytest
from nats.aio.client import Client
from support.engines import Nats

from admin.cli import audit_log as cli_audit_log
from admin.cli import parts as cli_parts
from admin.cli import stats as cli_stats
from admin.cli.failure import Failure
from events.audit import KEY_PURPOSE, STREAM, AuditEvent, stream_config
from events.audit_publisher import AUDIT_FOLDER, AuditPublisher
from events.log import ConfigLog
from events.secrets import Vault
from events.usage import Delta, UsagePublisher

# Each test has an account of its own, and all reserve space on one server.
SMALL = 32 * 1024 * 1024


def run(data: Path, text: str) -> int:
    """`tenantry TEXT` as the command line runs it."""
    top = argparse.ArgumentParser()
    commands = top.add_subparsers()
    cli_audit_log.add_log_commands(cli_parts.group(commands, "audit", "look at the audit"))
    cli_stats.add_stats_command(commands)
    config = ["--config", str(data / "tenantry.toml"), "--data-dir", str(data)]
    given = top.parse_args([*text.split(), *config])
    code: int = given.run(given)
    return code


@pytest.fixture
def installation(nats_server: Nats, tmp_path: Path) -> Path:
    """A data directory whose log is the test's own NATS account; nothing is in it yet."""
    config = f'[events]\nservers = ["{nats_server.url}"]\n[[nodes]]\nhost = "127.0.0.1"\n'
    (tmp_path / "tenantry.toml").write_text(config)
    Vault.load(tmp_path)

    async def make() -> None:
        log = await ConfigLog.connect([nats_server.url])
        await log.close()

    asyncio.run(make())
    return tmp_path


async def publisher(client: Client, data: Path, writer: str = "worker-0") -> AuditPublisher:
    key = Vault.load(data).derive(KEY_PURPOSE)
    return AuditPublisher(
        client,
        data / AUDIT_FOLDER,
        writer,
        key,
        config=stream_config(max_bytes=SMALL),
    )


def write_some(url: str, data: Path) -> None:
    async def write() -> None:
        client = await nats.connect(url)
        audit = await publisher(client, data)
        audit.note("login", "acme", actor="app", address="10.0.0.1", outcome="ok")
        await audit.flush()
        for reason in ("DDL is not allowed", "the \x1b[31mtable is blocked"):
            audit.note(
                *("refusal", "acme"), actor="app", outcome="refused", reason=reason, trace_id="t1"
            )
            await audit.flush()
        audit.note("command", "widgetco", actor="root", outcome="ok", detail="id 7")
        await audit.close()
        await client.close()

    asyncio.run(write())


def lines(text: str) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("asked", "kinds"),
    [
        ("", ["chain_open", "login", "refusal", "refusal", "command", "chain_close"]),
        ("--tenant acme", ["login", "refusal", "refusal"]),
        ("--tenant _installation", ["chain_open", "chain_close"]),
        ("--kind refusal --actor app", ["refusal", "refusal"]),
        ("--actor root", ["command"]),
        ("--outcome refused --trace t1", ["refusal", "refusal"]),
        ("--address 10.0.0.1", ["login"]),
        ("--since 1h --kind login", ["login"]),
        ("--until 1h", []),
        ("--since 2099-01-01", []),
    ],
)
def test_search(
    installation: Path,
    nats_server: Nats,
    capsys: pytest.CaptureFixture[str],
    asked: str,
    kinds: list[str],
) -> None:
    write_some(nats_server.url, installation)
    assert run(installation, f"audit search {asked} --json") == 0
    assert [event["kind"] for event in lines(capsys.readouterr().out)] == kinds


def test_people_see_a_table_that_clients_cannot_draw_in(
    installation: Path, nats_server: Nats, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(installation, "audit search") == 0
    assert capsys.readouterr().out == "No event matches.\n"
    write_some(nats_server.url, installation)
    assert run(installation, "audit search --kind refusal") == 0
    shown = capsys.readouterr().out
    assert "TENANT" in shown
    assert "refusal  acme    app  refused" in shown
    assert "DDL is not allowed\n" in shown
    assert "\x1b" not in shown


def test_tail_shows_the_latest(
    installation: Path, nats_server: Nats, capsys: pytest.CaptureFixture[str]
) -> None:
    write_some(nats_server.url, installation)
    assert run(installation, "audit tail -n 2 --json") == 0
    assert [event["kind"] for event in lines(capsys.readouterr().out)] == ["command", "chain_close"]
    assert run(installation, "audit tail --kind login --json") == 0
    assert len(lines(capsys.readouterr().out)) == 1


def test_tail_follows(
    installation: Path, nats_server: Nats, capsys: pytest.CaptureFixture[str]
) -> None:
    write_some(nats_server.url, installation)
    seen: list[str] = []

    async def follow() -> None:
        given = argparse.Namespace(
            data_dir=installation,
            config=installation / "tenantry.toml",
            n=1,
            follow=True,
            json=True,
            kind="command",
            tenant=None,
            **dict.fromkeys(("actor", "address", "outcome", "fingerprint", "trace")),
        )
        task = asyncio.get_running_loop().create_task(cli_audit_log._tail(given))
        client = await nats.connect(nats_server.url)
        audit = await publisher(client, installation, "control")
        async with asyncio.timeout(10):
            while not seen:
                await asyncio.sleep(0.05)
                seen.extend(capsys.readouterr().out.splitlines())
            while not any("id 8" in line for line in seen):
                audit.note("command", "acme", actor="root", detail="id 8")
                await audit.flush()
                await asyncio.sleep(0.05)
                seen.extend(capsys.readouterr().out.splitlines())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await audit.close()
        await client.close()

    asyncio.run(follow())
    assert orjson.loads(seen[0])["detail"] == "id 7"


def test_verify_finds_the_audit_whole(
    installation: Path, nats_server: Nats, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(installation, "audit verify") == 0
    assert "The audit is empty." in capsys.readouterr().out
    write_some(nats_server.url, installation)
    write_some(nats_server.url, installation)
    assert run(installation, "audit verify") == 0
    shown = capsys.readouterr().out
    assert "12 events in 2 chains: whole." in shown
    assert run(installation, "audit verify --json") == 0
    report = orjson.loads(capsys.readouterr().out)
    assert report["whole"] is True
    assert [(each["events"], each["sealed"], each["closed"]) for each in report["chains"]] == [
        *((6, 6, True), (6, 6, True)),
    ]


def test_verify_counts_what_still_waits_on_this_disk(
    installation: Path, nats_server: Nats, capsys: pytest.CaptureFixture[str]
) -> None:
    async def write() -> None:
        client = await nats.connect(nats_server.url)
        audit = await publisher(client, installation)
        await audit.flush()
        await client.close()
        audit.note("command", "acme", detail="while NATS is away")
        await audit.close()

    asyncio.run(write())
    assert run(installation, "audit verify --json") == 0
    report = orjson.loads(capsys.readouterr().out)
    assert (report["events"], report["chains"][0]["events"]) == (1, 3)


@pytest.mark.parametrize("how", ["changed", "removed", "cut"])
def test_verify_finds_what_was_done_to_the_stream(
    installation: Path, nats_server: Nats, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    write_some(nats_server.url, installation)

    async def tamper() -> None:
        """As somebody would who has all rights on the stream: makes it anew."""
        client = await nats.connect(nats_server.url)
        jetstream = client.jetstream()
        last = (await jetstream.stream_info(STREAM)).state.last_seq
        kept = [await jetstream.get_msg(STREAM, n) for n in range(1, last + 1)]
        await jetstream.delete_stream(STREAM)
        await jetstream.add_stream(stream_config(max_bytes=SMALL))
        for n, message in enumerate(kept, 1):
            data = message.data or b""
            if how == "changed" and n == 3:
                data = data.replace(b"DDL is not allowed", b"DDL is so allowed")
            if (how == "removed" and n == 3) or (how == "cut" and n >= 5):
                continue
            await jetstream.publish(message.subject or "", data)
        await client.close()

    asyncio.run(tamper())
    assert run(installation, "audit verify") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert {
        "changed": "event 3: was changed: its hash is another (message 3 of the stream)",
        "removed": "event 3: events 3 to 3 are missing",
        "cut": "event 5: is cut off: it had 6 events",
    }[how] in shown


# --- stats ---------------------------------------------------------------------------------------


def use_some(url: str) -> None:
    async def use() -> None:
        client = await nats.connect(url)
        usage = UsagePublisher(client, "worker-0", stream_bytes=SMALL)
        for _ in range(3):
            usage.add("acme", Delta(queries=100, bytes_out=1_000_000, clients=5, limits={"qps": 1}))
            usage.add("widgetco", Delta(queries=10, busy_seconds=4.0, clients=1))
            await usage.flush()
        await client.close()

    asyncio.run(use())


def test_stats_of_all_and_of_one(
    installation: Path, nats_server: Nats, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(installation, "stats") == 0
    assert "No tenant uses anything now." in capsys.readouterr().out
    use_some(nats_server.url)
    assert run(installation, "stats --by requests --json") == 0
    found = orjson.loads(capsys.readouterr().out)
    assert [(row["tenant"], row["requests"]) for row in found["top_tenants_by_usage"]] == [
        *(("acme", 300), ("widgetco", 30)),
    ]
    assert run(installation, "stats --by compute_time --top 1") == 0
    shown = capsys.readouterr().out
    assert "widgetco" in shown
    assert "acme" not in shown
    assert run(installation, "stats --tenant acme --json") == 0
    found = orjson.loads(capsys.readouterr().out)
    assert (found["tenant_id"], found["metrics"]["totals"]["queries"]) == ("acme", 300)
    assert run(installation, "stats --tenant acme --history hour --json") == 0
    rows = orjson.loads(capsys.readouterr().out)
    assert sum(row["queries"] for row in rows) == 300


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("--cost", "acme 0.0003"),
        ("--tenant acme --cost", "total 0.00033"),
        ("--limits", "qps=3"),
        ("--noisy", "active_tenants 2"),
        ("--history day", "QUERIES"),
        ("--tenant acme", "metrics.connections.clients 5"),
    ],
)
def test_stats_for_people(
    installation: Path,
    nats_server: Nats,
    capsys: pytest.CaptureFixture[str],
    asked: str,
    expected: str,
) -> None:
    use_some(nats_server.url)
    assert run(installation, f"stats {asked}") == 0
    assert expected in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("asked", "told"),
    [("--by beauty", '"beauty" is not a measure'), ("--tenant nobody", 'no tenant "nobody"')],
)
def test_stats_of_what_is_not(installation: Path, asked: str, told: str) -> None:
    with pytest.raises(Failure, match=told):
        run(installation, f"stats {asked}")


def test_a_command_is_told_in_words() -> None:
    def told(kind: str, detail: str) -> str:
        event = AuditEvent(kind=kind, tenant="acme", detail=detail)
        return cli_audit_log._detail(event)

    assert told("command", "PutTenant 5c0f 14 nats request") == (
        "PutTenant over nats request, event 14"
    )
    assert told("command", "Undo 5c0f  http") == "Undo over http"
    assert told("config_change", "tenant acme 11") == "tenant acme 11"
    assert told("chain_open", '[["control.1",8,"6f21"]]') == "a process began to write"
