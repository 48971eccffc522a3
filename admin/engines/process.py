"""What both embedded engines need of the machine: accounts, ports, secrets, processes by pid.

Engines are never our children: they are started detached and found again by their pid files, so
that a supervisor that was killed finds them where it left them.
"""

from __future__ import annotations

# asyncio is imported where it is used: `tenantry version` needs it not, and takes half as long.
import os
import pwd
import secrets
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Say = Callable[[str], None]

LOOPBACK: Final = "127.0.0.1"
SECRET_BYTES: Final = 24  # 192 bits: beyond guessing, and short enough for a URL
POLL_SECONDS: Final = 0.05  # how often a starting or stopping engine is looked at
GONE_SECONDS: Final = 0.2  # how soon a supervisor notices that an engine died
LOG_TAIL_LINES: Final = 5  # enough of an engine's log to tell why it did not start

# Accounts that PostgreSQL may run as when we are root; it needs one with a name.
UNPRIVILEGED: Final = ("postgres", "nobody", "daemon", "bin")


class EngineError(Exception):
    """An engine cannot start or stop; the text says in a sentence what is lacking."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the operating system that a process runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What `tenantry engines status` tells of one engine."""

    name: str
    running: bool
    pid: int | None
    host: str
    port: int | None
    directory: str
    log: str


def silent(_: str) -> None:
    """A `Say` for callers that want no progress."""


def unprivileged_account(existing: Path) -> Account | None:
    """The account to run PostgreSQL as, or None when we may run it as ourselves.

    The owner of `existing` data wins, so that a restart never changes the account.
    """
    if os.geteuid() != 0:
        return None
    if existing.exists() and (owner := existing.stat().st_uid) != 0:
        return _account(pwd.getpwuid(owner))
    for name in UNPRIVILEGED:
        try:
            return _account(pwd.getpwnam(name))
        except KeyError:
            continue
    raise EngineError(
        "PostgreSQL does not run as root, and this machine has no account named "
        f"{', '.join(UNPRIVILEGED)}: add one, or run Tenantry as a plain user."
    )


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def can_reach(account: Account, path: Path) -> bool:
    """Whether `account` may walk down to `path`, judged by permission bits alone."""
    for folder in (path, *path.parents):
        info = folder.stat()
        if info.st_uid == account.uid:
            allowed = info.st_mode & stat.S_IXUSR
        elif info.st_gid == account.gid:
            allowed = info.st_mode & stat.S_IXGRP
        else:
            allowed = info.st_mode & stat.S_IXOTH
        if not allowed:
            return False
    return True


def make_folder(path: Path, mode: int, owner: Account | None = None) -> None:
    """Create `path` with exactly `mode`, whatever the umask, and give it to `owner`."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)


def write_private(path: Path, text: str) -> None:
    """Write `text` so that only we can read it, in one step: a crash leaves old or new."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def remembered_secret(path: Path) -> str:
    """The secret kept in `path`, made on first use."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(SECRET_BYTES) + "\n")
    return path.read_text().strip()


def remembered_port(path: Path, say: Say) -> int:
    """The port kept in `path` if it is still free, otherwise a new one, kept for next time."""
    try:
        known = int(path.read_text())
    except (FileNotFoundError, ValueError):
        known = 0
    if known and port_is_free(known):
        return known
    port = free_port()
    if known:
        say(f"port {known} is taken by another program; using {port}")
    write_private(path, f"{port}\n")
    return port


def free_port() -> int:
    """A TCP port that nothing on the loopback interface uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket() as probe:
        # As servers do: without it the remains of closed connections look like a listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def is_running(pid: int, mark: str) -> bool:
    """Whether `pid` lives and is ours: its command line contains `mark`.

    Pids are reused, so a live pid proves nothing; a zombie's command line is empty.
    """
    proc = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self/cmdline").exists():
        try:
            return mark in proc.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return False
    seen = subprocess.run(
        ["/bin/ps", "-ww", "-o", "args=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return mark in seen.stdout


def pid_exists(pid: int) -> bool:
    """Whether any process, zombies included, has this pid; as PostgreSQL looks at it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def shared_memory_users(segment: str) -> int:
    """How many processes are attached to a System V segment, 0 when it is gone.

    Read from /proc/sysvipc/shm (proc_sysvipc(5)); where that does not exist we cannot know and
    count one, for the careful answer is that it is in use.
    """
    try:
        lines = Path("/proc/sysvipc/shm").read_text().splitlines()
    except OSError:
        return 1
    head = lines[0].split()
    identity, attached = head.index("shmid"), head.index("nattch")
    rows = [line.split() for line in lines[1:]]
    return sum(int(row[attached]) for row in rows if row[identity] == segment)


def run_as(account: Account | None, command: list[str], **environment: str) -> str:
    """Run `command` to its end as `account`; return what it printed, or raise with its words."""
    done = subprocess.run(
        command,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        start_new_session=True,  # a Ctrl-C meant for us must not reach it
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", **environment},
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    if done.returncode != 0:
        said = done.stdout.strip().splitlines()[-LOG_TAIL_LINES:]
        raise EngineError(f"{Path(command[0]).name} failed: {' | '.join(said) or 'no message'}")
    return done.stdout


def wait_until(met: Callable[[], bool], seconds: float) -> bool:
    """Poll `met` until it is true or `seconds` have passed; tell which."""
    deadline = time.monotonic() + seconds
    while not met():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


async def until_gone(pid_of: Callable[[], int | None]) -> None:
    """Return once `pid_of` finds no process; polled, for it is no child of ours to wait for."""
    import asyncio

    while pid_of() is not None:  # noqa: ASYNC110
        await asyncio.sleep(GONE_SECONDS)


class Engine:
    """One embedded server. `up` and `down` block; `start` and `stop` are for the event loop."""

    def up(self, say: Say) -> None:
        """Start it, or find it running; return when it answers. Raises EngineError."""
        raise NotImplementedError

    def down(self, say: Say) -> None:
        """Stop it, by force if need be. Raises EngineError."""
        raise NotImplementedError

    def pid(self) -> int | None:
        """The process id of our running server, None when it does not run."""
        raise NotImplementedError

    async def start(self, say: Say = silent) -> None:
        """As `up`, without blocking the event loop; `say` is called from a helper thread."""
        import asyncio

        await asyncio.to_thread(self.up, say)

    async def stop(self, say: Say = silent) -> None:
        """As `down`, without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.down, say)

    async def wait_gone(self) -> None:
        """Return once the server no longer runs, for a supervisor that restarts it."""
        await until_gone(self.pid)


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that is already gone is as good as stopped."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except PermissionError:
        raise EngineError(
            f"Process {pid} belongs to another user: stop it as that user or as root."
        ) from None


def log_tail(path: Path) -> str:
    """The last lines of an engine's log, on one line, for an error message."""
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    return " | ".join(lines[-LOG_TAIL_LINES:]) or "empty log"
