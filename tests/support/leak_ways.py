"""The ways in which a client's server goes to somebody else, for the matrix of leaks.

A way is called with a `Scene`, makes the state in it at the right moment, and lets go. Where it
ends with the client gone it says so. Answers are taken as they come: what a way is about has
happened whether or not a statement in it was refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from support.raw import Gone, Raw, outcome
from support.transcript import CopyData, CopyFail, Parse, Query, Sync, one

SECRET = "acme-secret"
PATIENCE_SECONDS = 15.0
# The limits of time that some ways run into are a fraction of this. What is no transaction any more
# (a COPY breaks off with the next statement) runs into none.
LIMIT_SECONDS = 2.0
# Between two looks at whether a cancel request, which may come before its query, has been heard.
AGAIN_SECONDS = 0.05
FAILED = re.compile(rb"V(ERROR|FATAL)\0")
# Longer than any limit, shorter than our patience: a cancel may meet the query before it.
LONG = "select pg_sleep(8)"
COPY = "copy orders (id, note) from stdin"
# 30 MB that nobody reads: the sockets between hold far less.
LARGE = f"select repeat('{SECRET}', 1000) from generate_series(1, 3000)"


class Scene(Protocol):
    """What a way has at hand."""

    a: Raw

    def make(self) -> None:
        """Make the state."""

    def terminate(self) -> None:
        """An administrator ends the server process that the state is on."""

    def change(self) -> None:
        """The tenant gets another configuration."""

    def intrude(self) -> None:
        """A tenant of another database needs the room that the server takes."""

    def neighbour(self, then: Callable[[], None]) -> None:
        """The next client asks, and waits for the server while `then` is done."""


def say(a: Raw, sql: str) -> str:
    """Ask, and take any answer: of the query, or of a COPY that it has broken off."""
    found = "nothing"
    with contextlib.suppress(Gone, BrokenPipeError, ConnectionResetError):
        found = a.ask(sql)
    return "gone" if found == "nothing" else found


def plain(scene: Scene) -> bool:
    scene.make()
    return True


def commit(scene: Scene) -> bool:
    say(scene.a, "begin")
    scene.make()
    say(scene.a, "commit")
    return True


def rollback(scene: Scene) -> bool:
    say(scene.a, "begin")
    scene.make()
    say(scene.a, "rollback")
    return True


def rollback_to_savepoint(scene: Scene) -> bool:
    say(scene.a, "begin; savepoint s")
    scene.make()
    say(scene.a, "rollback to s")
    say(scene.a, "commit")
    return True


def error(scene: Scene) -> bool:
    scene.make()
    say(scene.a, "select 1/0")
    return True


def error_in_a_block(scene: Scene) -> bool:
    say(scene.a, "begin")
    scene.make()
    say(scene.a, "select 1/0")
    say(scene.a, "commit")
    return True


def refusal_in_a_block(scene: Scene) -> bool:
    say(scene.a, "begin")
    scene.make()
    say(scene.a, "select from from")
    say(scene.a, "commit")
    return True


def cancel(scene: Scene) -> bool:
    scene.make()
    _ = scene.a >> Query(LONG)
    stop(scene.a)
    return True


def cancel_in_a_block(scene: Scene) -> bool:
    say(scene.a, "begin")
    scene.make()
    _ = scene.a >> Query(LONG)
    stop(scene.a)
    say(scene.a, "commit")
    return True


def stop(a: Raw) -> None:
    """Cancel until there is an answer: the first request may come before the query."""
    patience = a.sock.gettimeout()
    a.sock.settimeout(AGAIN_SECONDS)
    deadline = monotonic() + PATIENCE_SECONDS
    while not FAILED.search(a.buffer) and monotonic() < deadline:
        a.cancel()
        with contextlib.suppress(TimeoutError):
            a.buffer += a.receive()
    a.sock.settimeout(patience)
    a.answers()


def query_too_long(scene: Scene) -> bool:
    scene.make()
    say(scene.a, LONG)
    return True


def transaction_too_long(scene: Scene) -> bool:
    say(scene.a, "begin")
    scene.make()
    deadline = monotonic() + LIMIT_SECONDS
    while say(scene.a, "select pg_sleep(0.02)") != "gone":
        if monotonic() > deadline:
            return True
    return False


def idle_in_transaction(scene: Scene) -> bool:
    say(scene.a, "begin")
    scene.make()
    scene.a.sock.settimeout(LIMIT_SECONDS)
    try:
        while True:
            scene.a.receive()
    except Gone:
        return False
    except TimeoutError:
        return True


def crash(scene: Scene) -> bool:
    scene.make()
    scene.a.crash()
    return False


def crash_in_a_block(scene: Scene) -> bool:
    say(scene.a, "begin")
    scene.make()
    scene.a.crash()
    return False


def crash_in_a_query(scene: Scene) -> bool:
    scene.make()
    _ = scene.a >> Query(LONG)
    scene.a.crash()
    return False


def crash_in_a_result(scene: Scene) -> bool:
    scene.make()
    _ = scene.a >> Query(LARGE)
    with contextlib.suppress(Gone):
        scene.a.receive(1)
    scene.a.crash()
    return False


def crash_in_a_copy(scene: Scene) -> bool:
    scene.make()
    begin_copy(scene.a)
    # The start of a message whose end never comes.
    _ = scene.a >> CopyData(b"2\tx\n" * 2000)[:3000]
    scene.a.crash()
    return False


def begin_copy(a: Raw) -> str:
    """Begin a COPY and send it half a row; "" or the error that there was instead."""
    _ = a >> Query(COPY)
    heard = b""
    while True:
        try:
            kind, body = a.message()
        except Gone:
            return "gone"
        if kind == "G":
            _ = a >> CopyData(f"999\t{SECRET}".encode())
            return ""
        heard += kind.encode() + (len(body) + 4).to_bytes(4, "big") + body
        if kind == "Z":
            return outcome(heard)


def copy_that_fails(scene: Scene) -> bool:
    scene.make()
    if not begin_copy(scene.a):
        _ = scene.a >> CopyFail("no")
        scene.a.answers()
    return True


def pipeline_that_fails(scene: Scene) -> bool:
    scene.make()
    _ = scene.a >> one("select 1") + one("select 1/0") + one("select 2") + Sync
    scene.a.answers()
    return True


def crash_without_sync(scene: Scene) -> bool:
    scene.make()
    _ = scene.a >> one("select 1") + Parse("leak_open", f"select '{SECRET}'")
    scene.a.crash()
    return False


def goodbye(scene: Scene) -> bool:
    scene.make()
    scene.a.close()
    return False


def goodbye_in_a_block(scene: Scene) -> bool:
    say(scene.a, "begin")
    scene.make()
    scene.a.close()
    return False


def goodbye_without_sync(scene: Scene) -> bool:
    scene.make()
    _ = scene.a >> one("select 1") + Parse("leak_open", f"select '{SECRET}'")
    scene.a.close()
    return False


def server_ended(scene: Scene) -> bool:
    scene.make()
    scene.terminate()
    return True


def server_ended_in_a_block(scene: Scene) -> bool:
    say(scene.a, "begin")
    scene.make()
    scene.terminate()
    return True


def configuration_changed(scene: Scene) -> bool:
    say(scene.a, "begin")
    scene.make()
    scene.change()
    say(scene.a, "commit")
    return True


def evicted(scene: Scene) -> bool:
    scene.make()
    scene.intrude()
    return True


def a_neighbour_waits(scene: Scene) -> bool:
    say(scene.a, "begin")
    scene.make()
    scene.neighbour(lambda: _end_block(scene.a))
    return True


def _end_block(a: Raw) -> None:
    say(a, "commit")


def discard_all(scene: Scene) -> bool:
    scene.make()
    say(scene.a, "discard all")
    return True


def reset_all(scene: Scene) -> bool:
    scene.make()
    say(scene.a, "reset all")
    return True


WAYS: dict[str, Callable[[Scene], bool]] = {
    "end of statement": plain,
    "commit": commit,
    "rollback": rollback,
    "rollback to savepoint": rollback_to_savepoint,
    "error": error,
    "error in a block": error_in_a_block,
    "refusal in a block": refusal_in_a_block,
    "cancel": cancel,
    "cancel in a block": cancel_in_a_block,
    "query over its time": query_too_long,
    "transaction over its time": transaction_too_long,
    "idle in transaction over its time": idle_in_transaction,
    "client crash, idle": crash,
    "client crash in a block": crash_in_a_block,
    "client crash in a query": crash_in_a_query,
    "client crash in a result": crash_in_a_result,
    "client crash in a COPY": crash_in_a_copy,
    "COPY broken off": copy_that_fails,
    "pipeline that fails": pipeline_that_fails,
    "client crash without Sync": crash_without_sync,
    "goodbye": goodbye,
    "goodbye in a block": goodbye_in_a_block,
    "goodbye without Sync": goodbye_without_sync,
    "server process ended": server_ended,
    "server process ended in a block": server_ended_in_a_block,
    "configuration changed in a block": configuration_changed,
    "eviction by another tenant": evicted,
    "a neighbour waits": a_neighbour_waits,
    "DISCARD ALL": discard_all,
    "RESET ALL": reset_all,
}
# Ways that need a tenant whose limits of time are short.
HASTY = (
    "query over its time",
    "transaction over its time",
    "idle in transaction over its time",
)
