"""Parses large texts in processes of their own, so that the worker's loop never waits for one.

A text that crashes the parser or takes too long costs its process and is refused; the next text
gets a new process. The processes end when the worker does: they read until the pipe is closed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import struct
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Final

import orjson

from wire.errors import (
    Forbidden,
    NotSupported,
    RateExceeded,
    SyntaxRefused,
    TenantryError,
    TooLarge,
)
from wire.sql.analyse import analyse_or_refuse
from wire.sql.facts import Facts, dump, load
from wire.sql.frame import DATABASE, Frame
from wire.sql.frame import load as load_frame

# Longer texts have a process of their own, so that the others never wait seconds. Among shared
# tables the worst text of this length takes 0.1 s.
LONG: Final = 16 * 1024
MAX_WAITING: Final = 64  # texts; at 1 MB each what we are ready to hold for parsing
CPU_SECONDS: Final = 3.0  # 100,000 ORs take 1.5; more is an attack or a mistake
READINGS: Final = 2  # as much again among shared tables: 1 MB of rows in VALUES takes 3 seconds
MEMORY: Final = 4 * 1024**3  # address space; 1 MB of "1+1+…" takes 150 MB for its tree
FRAMES: Final = 8  # that a child remembers; a catalog of 1,000 tables takes 1 MB
STACK: Final = 512 * 1024**2  # enough for the deepest tree of a text of 2 MB (see analyse.py)

_HEADER: Final = struct.Struct("!I")
_PROGRAM: Final = "from wire.sql.helper import serve; serve()"
_ERRORS: Final[dict[str, type[TenantryError]]] = {
    "Forbidden": Forbidden,
    "SyntaxRefused": SyntaxRefused,
    "TooLarge": TooLarge,
    "NotSupported": NotSupported,
}


class Helper:
    """Two processes that parse, one of them for long texts; each starts when it is needed.

    Close it, or its threads live as long as the interpreter.
    """

    def __init__(self, cpu_seconds: float = CPU_SECONDS) -> None:
        self._cpu_seconds = cpu_seconds
        self._threads = [ThreadPoolExecutor(1, f"sql-helper-{name}") for name in ("short", "long")]
        self._local = threading.local()
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._waiting = 0

    def submit(self, sql: bytes, frame: Frame = DATABASE) -> Future[Facts]:
        """The facts of a text, later; with a refusal where analyse raises one, for a text that
        costs too much, and when too many texts wait already. Raises RuntimeError once closed."""
        with self._lock:
            if self._waiting >= MAX_WAITING:
                full: Future[Facts] = Future()
                busy = RateExceeded("too many large statements are being read", hint="Try again.")
                full.set_result(Facts([], busy))
                return full
            self._waiting += 1
        try:
            return self._threads[len(sql) > LONG].submit(self._ask, sql, frame)
        except BaseException:
            self._done()
            raise

    def close(self) -> None:
        """Ends the processes; what is being parsed is refused, what waits is cancelled."""
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            children = list(self._children)
        for child in children:
            child.kill()
        for thread in self._threads:
            thread.shutdown(wait=True)
        for child in children:
            self._end(child)

    def _done(self) -> None:
        with self._lock:
            self._waiting -= 1

    def _ask(self, sql: bytes, frame: Frame) -> Facts:
        try:
            return self._exchange(sql, frame)
        finally:
            self._done()

    def _exchange(self, sql: bytes, frame: Frame) -> Facts:
        child: subprocess.Popen[bytes] | None = getattr(self._local, "child", None)
        if child is None or child.poll() is not None:
            if child is not None:
                self._end(child)
            child = self._local.child = self._start()
            self._local.frames = []
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            self._tell(child.stdin, frame)
            write_frame(child.stdin, sql)
            answer = read_frame(child.stdout)
        except BrokenPipeError:
            answer = None
        if answer is None:
            self._end(child)
            self._local.child = None
            return Facts([], TooLarge("statement is too complex to be judged"))
        return _result(orjson.loads(answer))

    def _tell(self, stream: IO[bytes], frame: Frame) -> None:
        """Says how the next text is to be read: by the frame's digest, if the child has it."""
        known: list[bytes] = self._local.frames
        digest = frame.digest()
        write_frame(stream, digest)
        if digest in known:
            write_frame(stream, b"")
            return
        write_frame(stream, frame.dump())
        known.append(digest)
        del known[:-FRAMES]  # as the child does

    def _start(self) -> subprocess.Popen[bytes]:
        # The helper must find the same modules; it needs no terminal and none of our signals.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        child = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(self._cpu_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
        with self._lock:
            self._children.add(child)
        return child

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        child.kill()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        child.wait()
        with self._lock:
            self._children.discard(child)


def _result(answer: dict[str, Any]) -> Facts:
    if "facts" in answer:
        return load(answer["facts"])
    kind = _ERRORS.get(answer["error"], NotSupported)
    if kind is SyntaxRefused:
        return Facts([], SyntaxRefused(answer["message"], position=answer["position"]))
    return Facts([], kind(answer["message"], hint=answer["hint"]))


_shared: Helper | None = None


def submit(sql: bytes, frame: Frame = DATABASE) -> Future[Facts]:
    """As Helper.submit, on the helper of this process, which starts with the first text."""
    global _shared
    if _shared is None:
        _shared = Helper()
        atexit.register(close)
    return _shared.submit(sql, frame)


def close() -> None:
    """Ends the helper of this process, if there is one; the next text starts another."""
    global _shared
    if _shared is not None:
        atexit.unregister(close)
        _shared.close()
        _shared = None


def write_frame(stream: IO[bytes], data: bytes) -> None:
    stream.write(_HEADER.pack(len(data)))
    stream.write(data)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next frame; None at the end of the stream, also in the middle of a frame."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (size,) = _HEADER.unpack(header)
    data = stream.read(size)
    return data if len(data) == size else None


def serve() -> None:
    """The helper's own main: answers texts with facts until its standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    threading.stack_size(STACK)
    thread = threading.Thread(target=_serve, args=(float(sys.argv[1]),), daemon=True)
    thread.start()
    thread.join()


def _serve(cpu_seconds: float) -> None:
    source = sys.stdin.buffer
    frames: dict[bytes, Frame] = {}
    while (digest := read_frame(source)) is not None:
        definition = read_frame(source)
        sql = read_frame(source)
        if definition is None or sql is None:
            return
        if definition:
            frames[digest] = load_frame(definition)
            while len(frames) > FRAMES:
                del frames[next(iter(frames))]
        used = resource.getrusage(resource.RUSAGE_SELF)
        frame = frames[digest]
        seconds = cpu_seconds if frame.catalog is None else cpu_seconds * READINGS
        limit = int(used.ru_utime + used.ru_stime + seconds) + 1
        # Past this the kernel ends the process, wherever it is.
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        try:
            answer = _answer(analyse_or_refuse(sql, frame))
        except MemoryError:
            answer = _answer(Facts([], TooLarge("statement is too complex to be judged")))
        write_frame(sys.stdout.buffer, orjson.dumps(answer))


def _answer(facts: Facts) -> dict[str, Any]:
    error = facts.refusal
    if error is None:
        return {"facts": dump(facts)}
    position = getattr(error, "position", 0)
    return {
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "position": position,
    }
