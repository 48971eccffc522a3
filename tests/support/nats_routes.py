"""The lines between the nodes of a NATS cluster, which can be cut for one of them.

Each node is reached by the others through a relay of its own, and tells them so (`advertise`). Who
dials is known by what it says first (INFO with `server_name`), so all of one node's lines can be
cut, whichever side has dialled. Its clients still reach it: that is what a partition is.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading

_NAME = re.compile(rb'"server_name":"([^"]+)"')
# Both sides introduce themselves within the first few hundred bytes.
SNIFFED_BYTES = 16 * 1024


class Routes:
    """Relays in front of the nodes' route ports. `open` for each, `close` at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alone = ""
        self._listeners: list[socket.socket] = []
        self._lines: set[_Line] = set()
        self._threads: list[threading.Thread] = []

    def open(self, name: str, port: int) -> int:
        """The port by which others reach the node `name`, which listens on `port`."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._listeners.append(listener)
        self._start(self._accept, listener, name, port)
        found: int = listener.getsockname()[1]
        return found

    def cut(self, name: str) -> None:
        """Nobody in the cluster hears `name`, and it hears nobody, until `mend`."""
        with self._lock:
            self._alone = name
            lines = [line for line in self._lines if name in line.names]
        for line in lines:
            line.close()

    def mend(self) -> None:
        with self._lock:
            self._alone = ""

    def close(self) -> None:
        for listener in self._listeners:
            # A close alone does not wake the one that accepts.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            line.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, name: str, port: int) -> None:
        while True:
            try:
                here = listener.accept()[0]
            except OSError:
                return
            try:
                there = socket.create_connection(("127.0.0.1", port), 5)
            except OSError:
                here.close()
                continue
            there.settimeout(None)
            line = _Line(here, there, name)
            with self._lock:
                self._lines.add(line)
            self._start(self._pump, line, here, there)
            self._start(self._pump, line, there, here)

    def _pump(self, line: _Line, source: socket.socket, sink: socket.socket) -> None:
        heard, named = b"", None
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not named and len(heard) < SNIFFED_BYTES:
                    heard += data
                    # Only the first is its own: later it tells of others.
                    named = _NAME.search(heard)
                    if named:
                        line.names |= {named[1].decode()}
                with self._lock:
                    alone = self._alone in line.names
                if alone:
                    break
                sink.sendall(data)
        line.close()
        with self._lock:
            self._lines.discard(line)


class _Line:
    """One connection and its continuation; `names` are those of its ends, as far as known."""

    def __init__(self, here: socket.socket, there: socket.socket, name: str) -> None:
        self.names = {name}
        self._ends = (here, there)

    def close(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
