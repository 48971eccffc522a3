"""The parts of the supervisor, each alone: lock, memory, port, patience, what needs a restart."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
from pathlib import Path

import orjson
import pytest
from support.engines import Nats
from support.serving import COMMAND, CONFIG, Home, environment, prepared_home, serving, until

from admin.cli.failure import Failure
from admin.data_dir import DataDir, Remembered, socket_folder
from admin.engines.both import EmbeddedNats, engines_status
from admin.find_log import servers
from admin.listen_port import hold_port, split_address
from admin.reconfigure import needs, tls_files
from admin.restarts import COOL_DOWN, RESTARTS_MAX, WINDOW, Restarts
from admin.telemetry.logs import HumanLines, JsonLines
from admin.worker import Assignment
from admin.worker_keeper import WorkerKeeper
from events.installation import Installation
from events.secrets import Vault

SECRET = "nats://operator:not-to-be-seen@nats.example:4222"


def test_the_lock_is_held_by_one_and_forgotten_with_its_process(tmp_path: Path) -> None:
    first, second = DataDir(tmp_path / "data"), DataDir(tmp_path / "data")
    assert first.holder() is None
    first.lock()
    assert second.holder() == os.getpid()
    with pytest.raises(Failure, match=rf"Another Tenantry \(process {os.getpid()}\)"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


def test_addresses_of_nats_are_remembered_sealed(tmp_path: Path) -> None:
    data, vault = DataDir(tmp_path), Vault(b"k" * 32)
    assert data.recall(vault) is None
    data.lock()
    data.remember(Remembered(servers=(SECRET,), port=6432), vault)
    data.unlock()
    kept = tmp_path / "run" / "installation.json"
    assert "not-to-be-seen" not in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
    assert data.recall(vault) == Remembered(servers=(SECRET,), port=6432)
    assert servers(data, None, vault) == [SECRET]
    kept.write_text("{")
    with pytest.raises(Failure, match="start once with --config FILE"):
        data.recall(vault)


def test_a_deep_data_directory_has_its_sockets_elsewhere(tmp_path: Path) -> None:
    assert socket_folder(tmp_path) == tmp_path / "run"
    deep = tmp_path / ("deep" * 30)
    elsewhere = socket_folder(deep)
    assert len(os.fsencode(elsewhere)) < 50
    assert elsewhere == socket_folder(deep)
    assert elsewhere.stat().st_mode & 0o777 == 0o700
    elsewhere.chmod(0o755)
    with pytest.raises(Failure, match="choose a shorter --data-dir"):
        socket_folder(deep)
    elsewhere.rmdir()


def test_a_held_port_is_closed_to_strangers_and_open_to_workers() -> None:
    held = hold_port("127.0.0.1", 0)
    with pytest.raises(Failure, match=f"Port {held.port} on 127.0.0.1 is taken"):
        hold_port("127.0.0.1", held.port)
    following = hold_port("127.0.0.1", held.port, next_free=True)
    assert held.port < following.port <= held.port + 100
    with socket.socket() as worker:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", held.port))
        worker.listen()
        # The one that only holds the port is never given a client.
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", held.port), timeout=5):
                worker.settimeout(5)
                worker.accept()[0].close()
    held.close()
    following.close()


def test_addresses_are_split_as_people_write_them() -> None:
    assert split_address("127.0.0.1:6432") == ("127.0.0.1", 6432)
    assert split_address("[::1]:6432") == ("::1", 6432)
    with pytest.raises(Failure, match=r"256\.1\.1\.1:1 is no address to listen on"):
        hold_port("256.1.1.1", 1)


def test_patience_doubles_has_an_end_and_comes_back() -> None:
    restarts = Restarts()
    pauses = [restarts.pause(0.0) for _ in range(RESTARTS_MAX + 1)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, COOL_DOWN]
    assert restarts.pause(1.0) == COOL_DOWN
    assert restarts.pause(2 * WINDOW) == 0.1


@pytest.mark.parametrize(
    ("change", "workers", "restart"),
    [
        ({"defaults": {"pool": {"min_idle": 3}}}, [], []),
        ({"pool": {"max_connections": 7}}, ["pool"], []),
        ({"listen_address": "127.0.0.1:1"}, ["listen_address"], []),
        ({"events": {"max_staleness_secs": 5}}, ["events.max_staleness_secs"], []),
        ({"events": {"servers": ["nats://a"]}}, [], ["events.servers"]),
        ({"nodes": [{"embedded": True}]}, ["nodes"], ["nodes.embedded"]),
    ],
)
def test_what_a_change_needs(change: dict, workers: list[str], restart: list[str]) -> None:
    old, new = Installation(), Installation.model_validate(change)
    found = needs(old, new)
    assert (found.workers, found.restart) == (workers, restart)
    alone = needs(old, new, one_process=True)
    assert (alone.workers, alone.restart) == ([], workers + restart)


def test_a_new_certificate_in_the_old_place_is_noticed(tmp_path: Path) -> None:
    files = {"cert_path": str(tmp_path / "c"), "key_path": str(tmp_path / "k")}
    installation = Installation.model_validate({"tls": {"enabled": True, **files}})
    assert tls_files(Installation()) == ()
    for name in files.values():
        Path(name).write_text("old")
    before = tls_files(installation)
    assert tls_files(installation) == before
    Path(files["cert_path"]).write_text("newer")
    assert tls_files(installation) != before


def test_log_lines_never_hold_the_password_of_an_address() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "lost %s", (SECRET,), None)
    human, json = HumanLines("worker 1").format(record), JsonLines("worker 1").format(record)
    assert human.endswith("ERROR worker 1: lost nats://operator:********@nats.example:4222")
    assert orjson.loads(json)["process"] == "worker 1"
    assert "not-to-be-seen" not in human + json


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    def assign(number: int) -> Assignment:
        return Assignment(str(tmp_path), ["nats://127.0.0.1:1"], "127.0.0.1", 0, worker=number)

    (tmp_path / "secret.key").write_text("no key")

    async def start() -> None:
        keeper = WorkerKeeper(3, assign)
        try:
            await keeper.start()
        finally:
            await keeper.stop(0.0)

    with pytest.raises(Failure, match=r"Worker 3 cannot start: .*secret\.key"):
        asyncio.run(start())


@pytest.mark.engine
def test_told_to_stop_while_it_starts_it_leaves_nothing_behind() -> None:
    home = Home()
    try:
        command = [*COMMAND, "serve", "--config", str(home.config), "--data-dir", str(home.data)]
        with subprocess.Popen([*command, "--fast-engines"], env=environment()) as process:
            until(lambda: EmbeddedNats(home.data).pid() is not None, "to start NATS")
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0
        assert not any(engine.running for engine in engines_status(home.data))
    finally:
        home.remove()


@pytest.mark.engine
def test_an_external_log_is_found_again_without_the_file(nats_server: Nats) -> None:
    config = CONFIG.replace("[pool]", f'[events]\nservers = ["{nats_server.url}"]\n\n[pool]', 1)
    with prepared_home(config) as home:
        with serving(home, "--workers", "0"):
            assert "acme" in home.run("tenants", "list").stdout
        password = nats_server.url.split("@")[0].rpartition(":")[2]
        files = [path for path in (home.data / "run").iterdir() if path.is_file()]
        assert files
        assert not any(password in path.read_text() for path in files)
        with serving(home, "--workers", "0", file=False) as proxy, proxy.connect() as client:
            assert client.execute("SELECT 1").fetchone() == (1,)
            assert password not in proxy.log()
