"""A real nats-server with JetStream, and a way to disturb the line to it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from admin.engines.nats import TESTS_STORE_MAX

SERVER = Path(sys.executable).with_name("nats-server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class NatsServer:
    """One nats-server on loopback. It keeps its port and files over kill() and start()."""

    def __init__(self, directory: Path, *, sync_always: bool = True) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._config = directory / "nats.conf"
        self._log = directory / "nats.log"
        sync = "always" if sync_always else "2m"
        self._config.write_text(
            f"listen: 127.0.0.1:{self.port}\n"
            f'jetstream {{ store_dir: "{directory}/store", sync_interval: {sync}, '
            f"max_file_store: {TESTS_STORE_MAX} }}\n"
        )

    def start(self) -> None:
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [SERVER, "-c", self._config], stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(self._log.read_text()) from None
                time.sleep(0.02)

    def kill(self) -> None:
        """As a crash: no good-bye to anybody."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)
            self._process.wait(10)
            self._process = None


class Line:
    """A TCP line to the server that can be cut, or go deaf in one direction."""

    def __init__(self, url: str, port: int) -> None:
        self.url = url
        self._target = port
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self.drop_requests = False
        self.drop_answers = False
        self.swallowed = 0

    async def __aenter__(self) -> Line:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        here = self._server.sockets[0].getsockname()[1]
        self.url = self.url.replace(f":{self._target}", f":{here}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        while self._pumps:
            await asyncio.wait(tuple(self._pumps))
        await self._server.wait_closed()

    def cut(self) -> None:
        """Reset all connections; new ones get through, and nothing is dropped any more."""
        self.drop_requests = self.drop_answers = False
        for writer in tuple(self._writers):
            writer.transport.abort()

    def say(self, data: bytes) -> None:
        """Put words into the server's mouth, on every connection."""
        for writer in self._clients:
            writer.write(data)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there[1]}
        self._clients.add(writer)
        for source, sink, requests in ((reader, there[1], True), (there[0], writer, False)):
            task = asyncio.get_running_loop().create_task(self._pump(source, sink, requests))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, requests: bool
    ) -> None:
        try:
            while data := await source.read(65536):
                if self.drop_requests if requests else self.drop_answers:
                    self.swallowed += len(data)
                    continue
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.transport.abort()
            self._writers.discard(sink)
            self._clients.discard(sink)
