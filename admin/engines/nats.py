"""The embedded NATS server with JetStream: one process, files in the data directory.

Source of the options: the nats-server configuration reference. `sync_interval: always` because the
default of two minutes loses acknowledged writes when the power fails.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Final

from admin.engines.process import (
    LOOPBACK,
    Engine,
    EngineError,
    EngineStatus,
    Say,
    is_running,
    log_tail,
    make_folder,
    remembered_port,
    remembered_secret,
    signal_process,
    silent,
    wait_until,
    write_private,
)
from admin.engines.programs import nats_server_binary

START_SECONDS: Final = 60.0  # replaying a large log from disk takes a while
STOP_SECONDS: Final = 15.0  # a clean stop writes its state first
PROBE_SECONDS: Final = 2.0  # one readiness probe; a server that is up answers in milliseconds
PROBE_BYTES: Final = 64 * 1024  # an INFO line and an answer are a few kB
START_ATTEMPTS: Final = 3  # another program can take the port between our look and the bind
MAX_PAYLOAD: Final = 8 * 1024**2  # one command with many events; nats-server warns above it
LOG_SIZE: Final = 10 * 1024**2  # bytes per log file
LOG_FILES: Final = 3

# Streams reserve their largest size, and one run of the tests makes hundreds that stay empty. The
# server's own limit, three quarters of the free disk, would refuse the later ones.
TESTS_STORE_MAX: Final = 2**50

USER: Final = "tenantry"


class EmbeddedNats(Engine):
    """A NATS server of our own, beneath `data_dir/nats`.

    `up` and `down` block; `start` and `stop` are the same for the event loop. `fast` gives up
    durability, for tests. `extra_accounts` (name → password, user named like the account) are
    further accounts, each with a JetStream of its own, which tests use to stay apart.
    """

    name: Final = "NATS"

    def __init__(
        self,
        data_dir: Path,
        *,
        fast: bool = False,
        extra_accounts: dict[str, str] | None = None,
    ) -> None:
        self.folder = data_dir.resolve() / "nats"
        self.fast = fast
        self.extra_accounts = extra_accounts or {}
        self.config_file = self.folder / "nats.conf"
        self.log_file = self.folder / "nats.log"
        self._pid_file = self.folder / "nats.pid"
        self._port_file = self.folder / "port"
        self._lock = threading.Lock()  # a stop waits for the start that it interrupts

    def up(self, say: Say = silent) -> None:
        """Start the server, or find it running; return when JetStream answers."""
        with self._lock:
            if self.pid() is not None:
                say(f"NATS is already running on port {self.port()}")
                self._wait_ready()
                return
            try:
                make_folder(self.folder, 0o700)
            except PermissionError:
                raise EngineError(
                    f"{self.folder} cannot be written: choose another --data-dir."
                ) from None
            for _ in range(START_ATTEMPTS):
                port = remembered_port(self._port_file, say)
                write_private(self.config_file, self._config(port))
                if self._launch():
                    say(f"NATS is ready on {LOOPBACK}:{port}")
                    return
            raise EngineError(f"NATS did not start: {log_tail(self.log_file)}")

    def down(self, say: Say = silent) -> None:
        """Stop the server: in order, then by force."""
        with self._lock:
            pid = self.pid()
            if pid is None:
                return
            signal_process(pid, signal.SIGTERM)
            if not wait_until(lambda: self.pid() is None, STOP_SECONDS):
                say("NATS does not stop; killing it")
                signal_process(pid, signal.SIGKILL)
                if not wait_until(lambda: self.pid() is None, STOP_SECONDS):
                    raise EngineError(f"NATS (process {pid}) cannot be killed.")
            say("NATS has stopped")

    def pid(self) -> int | None:
        """The process id of our running server, None when it does not run."""
        try:
            pid = int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if is_running(pid, str(self.config_file)) else None

    def port(self) -> int | None:
        """The port it listens on, or did last."""
        try:
            return int(self._port_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def nats_url(self, account: str = USER) -> str:
        """`nats://user:password@host:port`: contains the password, so never log it."""
        secret = self._secret() if account == USER else self.extra_accounts[account]
        return f"nats://{account}:{secret}@{LOOPBACK}:{self.port()}"

    def status(self) -> EngineStatus:
        """What runs now, by looking, not by remembering."""
        pid = self.pid()
        return EngineStatus(
            name=self.name,
            running=pid is not None,
            pid=pid,
            host=LOOPBACK,
            port=self.port(),
            directory=str(self.folder),
            log=str(self.log_file),
        )

    def _secret(self) -> str:
        return remembered_secret(self.folder / "password")

    def _config(self, port: int) -> str:
        """nats-server's configuration is a superset of JSON, so JSON quotes every path safely."""
        accounts = {USER: self._secret(), **self.extra_accounts}
        return json.dumps(
            {
                "listen": f"{LOOPBACK}:{port}",
                "server_name": "tenantry-embedded",
                "pid_file": str(self._pid_file),
                "log_file": str(self.log_file),
                "logfile_size_limit": LOG_SIZE,
                "logfile_max_num": LOG_FILES,
                "max_payload": MAX_PAYLOAD,
                "jetstream": {
                    "store_dir": str(self.folder / "store"),
                    "sync_interval": "2m" if self.fast else "always",
                    **({"max_file_store": TESTS_STORE_MAX} if self.fast else {}),
                },
                "accounts": {
                    name: {"jetstream": "enabled", "users": [{"user": name, "password": secret}]}
                    for name, secret in accounts.items()
                },
            },
            indent=1,
        )

    def _launch(self) -> bool:
        """Start the server detached; False when it died, say because its port was taken."""
        self._pid_file.unlink(missing_ok=True)
        # The shell leaves at once, so the server belongs to init and never becomes our zombie.
        command = [str(nats_server_binary()), "-c", str(self.config_file)]
        detach = '"$@" </dev/null >>"$0" 2>&1 & echo $!'
        shell = subprocess.run(
            ["/bin/sh", "-c", detach, str(self.log_file), *command],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            start_new_session=True,
        )
        pid = int(shell.stdout)
        ready = False

        def settled() -> bool:
            nonlocal ready
            ready = self.pid() is not None and self._answers()
            return ready or not is_running(pid, str(self.config_file))

        if not wait_until(settled, START_SECONDS):
            signal_process(pid, signal.SIGKILL)
        return ready

    def _wait_ready(self) -> None:
        if not wait_until(self._answers, START_SECONDS):
            raise EngineError(f"NATS runs but does not answer: {log_tail(self.log_file)}")

    def _answers(self) -> bool:
        """Log in and ask JetStream for its state, as a client would."""
        login = json.dumps({"user": USER, "pass": self._secret(), "verbose": False})
        ask = f"CONNECT {login}\r\nSUB _INBOX.probe 1\r\nPUB $JS.API.INFO _INBOX.probe 0\r\n\r\n"
        try:
            with socket.create_connection((LOOPBACK, self.port() or 0), PROBE_SECONDS) as peer:
                peer.sendall(ask.encode())
                heard = b""
                while len(heard) < PROBE_BYTES and (chunk := peer.recv(4096)):
                    heard += chunk
                    if b'"memory"' in heard:
                        return True
                    if b"-ERR" in heard or b'"error"' in heard:
                        return False
        except OSError:
            return False
        return False


def started_with(data_dir: Path) -> str | None:
    """The sync_interval of the embedded server in `data_dir`; None when that is not known."""
    try:
        text = (data_dir.resolve() / "nats" / "nats.conf").read_text("utf-8")
        interval = json.loads(text)["jetstream"]["sync_interval"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return interval if isinstance(interval, str) else None
