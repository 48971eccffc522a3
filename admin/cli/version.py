"""`tenantry version`: what this installation consists of. Imports little, so that it answers at
once; programs are asked all at the same time."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Final

# Packages whose version matters when something does not work.
PACKAGES: Final = (
    *("cryptography", "nats-py", "orjson", "postgast", "psycopg", "pydantic", "pykka"),
    *("PyJWT", "rich", "sqlglot", "uvloop", "fastapi", "opentelemetry-sdk"),
)
PROGRAM_SECONDS: Final = 10.0
_ABSENT: Final = "(not installed)"


def version(*, as_json: bool) -> int:
    """Print them; the exit code."""
    told = versions()
    if as_json:
        import orjson

        print(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
        return 0
    for name, text in told.items():
        print(f"{name} {text}")
    return 0


def versions() -> dict[str, str]:
    """Tenantry first, then what it runs on, then what it consists of."""
    postgres, nats = _started(_postgres), _started(_nats)
    found = {
        "tenantry": _package("tenantry"),
        "compiled": "yes" if _compiled() else "no",
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "openssl": _openssl(),
    }
    packages = {name: text for name in PACKAGES if (text := _package(name)) != _ABSENT}
    found["postgresql (built in)"] = _said(postgres)
    found["nats-server (built in)"] = _said(nats)
    return found | packages


def _postgres() -> Path:
    from admin.engines.programs import packaged_programs

    return packaged_programs() / "postgres"


def _nats() -> Path:
    from admin.engines.programs import nats_server_binary

    return nats_server_binary()


def _openssl() -> str:
    import ssl

    return ssl.OPENSSL_VERSION


def _package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return _ABSENT


def _compiled() -> bool:
    """Looked for, not imported: what it imports takes longer than all else here."""
    spec = importlib.util.find_spec("wire.postgres.protocol")
    return spec is not None and not str(spec.origin).endswith(".py")


def _started(where: Callable[[], Path]) -> subprocess.Popen[str] | str:
    """The program, asked for its version; or why it cannot be."""
    from admin.engines.process import EngineError

    try:
        program = str(where())
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            [program, "--version"], stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, text=True
        )
    except EngineError:
        return _ABSENT
    except OSError:
        return "(does not run)"


def _said(program: subprocess.Popen[str] | str) -> str:
    if isinstance(program, str):
        return program
    with program:
        try:
            text, _ = program.communicate(timeout=PROGRAM_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()
            return "(does not run)"
    if program.returncode:
        return "(does not run)"
    return text.strip().splitlines()[0] if text.strip() else "(unknown)"
