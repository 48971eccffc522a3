"""What `tenantry pools`, `reload`, `drain` and `version` do."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import orjson

from admin.cli.failure import FAILED, Failure
from admin.cli.send import me
from admin.cli.tables import print_table
from admin.console.calls import RELOAD_SECONDS, SUPERVISOR, Call, Caller, Gathered
from admin.console.node import summed
from admin.data_dir import DataDir
from admin.engines.nats import nats_server_binary
from admin.engines.process import EngineError
from admin.engines.programs import packaged_programs
from admin.find_log import connect_log
from events.tokens import TokenSigner

POLL_SECONDS: Final = 0.1
# Packages whose version matters when something does not work.
PACKAGES: Final = (
    *("cryptography", "nats-py", "orjson", "postgast", "psycopg", "pydantic", "pykka"),
    *("PyJWT", "rich", "sqlglot", "uvloop", "fastapi", "opentelemetry-sdk"),
)
_HEAD: Final = ("TENANT", "CLIENTS", "WAITING", "LONGEST", "ACTIVE", "IDLE", "MODE", "STATE")


async def ask(given: argparse.Namespace, call: Call, seconds: float = 2.0) -> Gathered:
    """All processes of the installation. Raises Failure, LogError, TenantryError."""
    async with connect_log(given.data_dir, given.config) as (source, vault):
        caller = Caller(source.connection, TokenSigner(vault))
        return await caller.ask(call, me(), seconds=seconds)


async def pools(given: argparse.Namespace) -> int:
    found = await ask(given, Call("look", tenant=given.tenant))
    if not found.answered:
        raise Failure("No worker answers: start `tenantry serve`.")
    rows = [row for _, row in sorted(summed(found.rows).items())]
    for row in rows:
        row.pop("client_rows", None)
        row.pop("server_rows", None)
    if given.json:
        told = {"pools": rows, "missing": found.missing}
        print(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
    else:
        print_table(_HEAD, [_line(row) for row in rows], "No tenant is in use.")
    for text in found.missing:
        print(f"{text} does not answer", file=sys.stderr)
    return FAILED if found.missing else 0


def _line(row: dict[str, Any]) -> tuple[object, ...]:
    longest = f"{row['wait_us'] / 1e6:.2f} s" if row["cl_waiting"] else "-"
    return (
        *(row["tenant"], row["clients"], row["cl_waiting"], longest),
        *(row["sv_active"], row["sv_idle"], row["pool_mode"]),
        "paused" if row["paused"] else "",
    )


async def reload(given: argparse.Namespace) -> int:
    found = await ask(given, Call("reload", to=SUPERVISOR), RELOAD_SECONDS)
    wrong = [row["error"] for row in found.rows if row["error"]] + found.errors
    if given.json:
        print(orjson.dumps({"reloaded": len(found.rows), "errors": wrong}).decode())
    if wrong:
        raise Failure("\n".join(wrong))
    if not found.answered:
        raise Failure("Nobody answers: start `tenantry serve`.")
    if not given.json:
        print(f"{len(found.rows)} have read their file again")
    return 0


def drain(given: argparse.Namespace) -> int:
    """Signals to the supervisor, which it takes as orders; waits until it has gone."""
    data = DataDir(given.data_dir)
    pid = data.holder()
    if pid is None:
        raise Failure(f"No Tenantry runs in {data.path}.", 3)
    _signal(pid)
    if given.now:
        # The second one stops it at once.
        time.sleep(POLL_SECONDS)
        _signal(pid)
    deadline = time.monotonic() + given.timeout
    while data.holder() == pid:
        if time.monotonic() >= deadline:
            raise Failure(
                f"Process {pid} still drains after {given.timeout} s: wait, "
                "or use `tenantry drain --now`."
            )
        time.sleep(POLL_SECONDS)
    print(f"process {pid} has stopped")
    return 0


def _signal(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(pid, signal.SIGTERM)
        except PermissionError:
            raise Failure(f"Process {pid} belongs to somebody else.", 5) from None


# --- versions ------------------------------------------------------------------------------------


def version(*, as_json: bool) -> int:
    told = versions()
    if as_json:
        print(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
        return 0
    for name, text in told.items():
        print(f"{name} {text}")
    return 0


def versions() -> dict[str, str]:
    """Tenantry first, then what it runs on, then what it consists of."""
    found = {
        "tenantry": _package("tenantry"),
        "compiled": "yes" if _compiled() else "no",
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "openssl": ssl.OPENSSL_VERSION,
    }
    found["postgresql (built in)"] = _engine(lambda: packaged_programs() / "postgres")
    found["nats-server (built in)"] = _engine(nats_server_binary)
    found.update({name: text for name in PACKAGES if (text := _package(name)) != "-"})
    return found


def _engine(where: Callable[[], Path]) -> str:
    try:
        return _program(str(where()))
    except EngineError:
        return "(not installed)"


def _package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)" if name == "tenantry" else "-"


def _compiled() -> bool:
    import wire.postgres.protocol

    return not str(wire.postgres.protocol.__file__).endswith(".py")


def _program(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "(does not run)"
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "(unknown)"
