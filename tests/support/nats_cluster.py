"""Three nats-servers that keep one log together, and what can happen to one of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from support.nats import SERVER, free_port
from support.nats_routes import Routes

from admin.engines.nats import TESTS_STORE_MAX

NODES = 3
START_SECONDS = 30.0


class Node:
    """One server. It keeps its ports and files over kill() and start()."""

    def __init__(
        self, directory: Path, name: str, ports: list[int], routes: list[str], advertised: int
    ) -> None:
        self.name = name
        self.port, self.route_port, self.monitor_port = ports
        self.url = f"nats://127.0.0.1:{self.port}"
        self.folder = directory / name
        self.folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self.folder / "nats.log"
        self._config = self.folder / "nats.conf"
        self._config.write_text(
            json.dumps(
                {
                    "server_name": name,
                    "listen": f"127.0.0.1:{self.port}",
                    "http": f"127.0.0.1:{self.monitor_port}",
                    "jetstream": {
                        "store_dir": str(self.folder / "store"),
                        "max_file_store": TESTS_STORE_MAX,
                        "sync_interval": "always",
                    },
                    "cluster": {
                        "name": "tenantry-test",
                        "listen": f"127.0.0.1:{self.route_port}",
                        "routes": routes,
                        "advertise": f"127.0.0.1:{advertised}",
                        # Pooled and compressed routes only slow a test's start.
                        "pool_size": -1,
                        "no_advertise": True,
                    },
                }
            )
        )

    def start(self) -> None:
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [SERVER, "-c", self._config], stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )

    def kill(self) -> None:
        """As a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def pause(self) -> None:
        """Its connections stay open, and nobody answers."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def wipe(self) -> None:
        """Its disk is lost. It must not run."""
        assert self._process is None
        shutil.rmtree(self.folder / "store")

    def listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def has_leader(self) -> bool:
        """Whether it knows who leads the cluster: streams can be made then."""
        try:
            return bool((self._tells("").get("meta_cluster") or {}).get("leader"))
        except OSError:
            return False

    def _tells(self, query: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.monitor_port}/jsz{query}"
        with urllib.request.urlopen(url, timeout=2) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def streams(self) -> dict[str, dict[str, Any]]:
        """What the node itself says of its copies: name → state and cluster."""
        told = self._tells("?streams=true&accounts=true")
        accounts = told.get("account_details") or ()
        return {each["name"]: each for one in accounts for each in one.get("stream_detail") or ()}

    def log_text(self) -> str:
        return self._log.read_text()


class NatsCluster:
    """Started with `start`, gone with `stop`. `routes` are the lines between the nodes."""

    def __init__(self, directory: Path) -> None:
        ports = [[free_port() for _ in range(3)] for _ in range(NODES)]
        self.routes = Routes()
        relays = [self.routes.open(f"n{number}", each[1]) for number, each in enumerate(ports)]
        # In a ring: were all to dial all, half of the lines would be given up again at the start.
        self.nodes = [
            Node(
                directory,
                f"n{number}",
                each,
                [f"nats://127.0.0.1:{relays[(number + 1) % NODES]}"],
                relays[number],
            )
            for number, each in enumerate(ports)
        ]

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        deadline = time.monotonic() + START_SECONDS
        while not all(node.listens() and node.has_leader() for node in self.nodes):
            if time.monotonic() > deadline:
                raise RuntimeError("\n".join(node.log_text()[-2000:] for node in self.nodes))
            time.sleep(0.02)

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
        self.routes.close()

    def leader(self, stream: str) -> Node:
        """The node that leads the stream now."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for node in self.nodes:
                try:
                    name = node.streams()[stream]["cluster"].get("leader")
                except (OSError, KeyError):
                    continue
                for each in self.nodes:
                    if each.name == name:
                        return each
            time.sleep(0.05)
        raise RuntimeError(f"{stream} has no leader")

    def last(self, stream: str) -> int:
        """The last sequence of the stream, by its leader's account; 0 when there is none."""
        found = [0]
        for node in self.nodes:
            with contextlib.suppress(OSError, KeyError):
                found.append(int(node.streams()[stream]["state"]["last_seq"]))
        return max(found)

    def wait_for_copies(self, stream: str, last: int) -> None:
        """Return when each node has the stream up to `last`, by its own account."""
        deadline = time.monotonic() + START_SECONDS
        found: list[int] = []
        while time.monotonic() < deadline:
            found = []
            for node in self.nodes:
                try:
                    found.append(int(node.streams()[stream]["state"]["last_seq"]))
                except (OSError, KeyError):
                    found.append(-1)
            if min(found) >= last:
                return
            time.sleep(0.05)
        raise RuntimeError(f"{stream} is at {found} instead of {last}")
