"""The data directory: who uses it, and what later commands need to find the installation.

secret.key               seals secrets (events.secrets)
postgres/  nats/         the embedded engines, when they are used
run/supervisor.lock      locked as long as a supervisor runs; holds its process id
run/installation.json    where the log is and where clients connect; secrets are sealed
run/worker-<n>.sock      cancel requests from one worker to another
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import orjson

from admin.cli.failure import Failure
from admin.engines.process import write_private
from events.secrets import Vault

# sockaddr_un holds 107 bytes; the name of a worker's socket takes up to 16.
SOCKET_FOLDER_BYTES: Final = 90
_PURPOSE: Final = "addresses of NATS"


@dataclass(frozen=True)
class Remembered:
    """What installation.json holds. Without `servers` the log is in the embedded NATS, whose files
    are beneath `events_dir` (the data directory when empty)."""

    servers: tuple[str, ...] = field(default=(), repr=False)
    events_dir: str = ""
    host: str = ""
    port: int = 0
    pid: int = 0


class DataDir:
    """The data directory at `path`. Making one touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.run = self.path / "run"
        self._lock: int | None = None

    # --- one supervisor at a time ----------------------------------------------------------------

    def lock(self) -> None:
        """Take the directory for this process until it ends. Raises Failure when it is taken."""
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            self.run.chmod(0o700)
            lock = os.open(self.run / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise Failure(
                f"The data directory {self.path} cannot be used ({error.strerror}): "
                "choose another with --data-dir."
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode().strip()
            os.close(lock)
            raise Failure(
                f"Another Tenantry (process {holder}) already runs in {self.path}: "
                "stop it, or choose another --data-dir."
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def unlock(self) -> None:
        """Let others use it. The file stays: removing it would let two processes lock two files."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def holder(self) -> int | None:
        """The process id of the supervisor that runs here, None when there is none."""
        try:
            lock = os.open(self.run / "supervisor.lock", os.O_RDWR)
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(ValueError):
                return int(os.pread(lock, 32, 0))
            return None
        finally:
            os.close(lock)
        return None

    # --- what is remembered ----------------------------------------------------------------------

    def remember(self, what: Remembered, vault: Vault) -> None:
        """Write installation.json; addresses of NATS may hold passwords, so they are sealed."""
        values = asdict(what)
        values["servers"] = [vault.seal(server, _PURPOSE) for server in what.servers]
        write_private(self.run / "installation.json", orjson.dumps(values).decode() + "\n")

    def recall(self, vault: Vault) -> Remembered | None:
        """What the last supervisor remembered, or None. Raises Failure, SecretError."""
        path = self.run / "installation.json"
        try:
            values = orjson.loads(path.read_bytes())
            values["servers"] = tuple(vault.open(each, _PURPOSE) for each in values["servers"])
            return Remembered(**values)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError):
            raise Failure(
                f"{path} cannot be read: start once with --config FILE, and it is made anew."
            ) from None

    def has_key(self) -> bool:
        """Whether this installation's key is here; without it nothing sealed can be read."""
        return (self.path / "secret.key").exists()


def socket_folder(data_dir: Path) -> Path:
    """Where sockets of workers are: in run/, unless its name is too long for a socket's."""
    inside = data_dir.absolute() / "run"
    if len(os.fsencode(inside)) <= SOCKET_FOLDER_BYTES:
        return inside
    digest = hashlib.sha256(os.fsencode(inside)).hexdigest()[:16]
    folder = Path(f"/tmp/tenantry-{os.geteuid()}-{digest}")  # noqa: S108 - checked below
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if info.st_uid != os.geteuid() or info.st_mode & 0o077 or folder.is_symlink():
        raise Failure(f"{folder} belongs to somebody else: choose a shorter --data-dir.")
    return folder
