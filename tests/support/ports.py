"""Free ports on the loopback interface, and waiting for a server to listen."""

from __future__ import annotations

import socket
import time

LISTEN_SECONDS = 20.0


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_listening(port: int, host: str = "127.0.0.1", seconds: float = LISTEN_SECONDS) -> None:
    """Return once something accepts connections on `port`; TimeoutError otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing listens on {host}:{port}") from None
            time.sleep(0.02)
        else:
            return
