"""Looks at files: the key and who can read it, certificates, disk, open files."""

from __future__ import annotations

import datetime
import os
import resource
import shutil
import ssl
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from admin.data_dir import DataDir
from admin.doctor.finding import Finding, ok
from events.installation import Installation
from events.secrets import KEY_VARIABLE
from events.usage import USAGE_FOLDER

# Certificates are renewed by machines a month ahead, by people in the last week.
EXPIRES_SOON_DAYS: Final = 30
EXPIRES_NOW_DAYS: Final = 7
# PostgreSQL and NATS stop when a disk is full, and neither comes back by itself.
FREE_SHARE_LOW: Final = 0.1
FREE_BYTES_LOW: Final = 2 * 1024**3
FREE_BYTES_OUT: Final = 256 * 1024**2
# Descriptors of a worker that are neither clients nor servers.
OTHER_FILES: Final = 100
CLIENTS_WHEN_UNLIMITED: Final = 4000
# Usage that could not be handed in yet.
SPOOL_BYTES_NOTED: Final = 1024**2


def files(data: DataDir) -> Iterator[Finding]:
    """The data directory."""
    yield from _key(data)
    yield from _folder(data.path)
    yield from _disk(data.path)
    yield from _spool(data.path / USAGE_FOLDER)


def _key(data: DataDir) -> Iterator[Finding]:
    area = "secret.key"
    path = data.path / "secret.key"
    if not path.exists():
        if os.environ.get(KEY_VARIABLE):
            yield ok(area, f"the key is given in ${KEY_VARIABLE}")
        else:
            why = "nothing that is sealed can be read without it: passwords, tenants' data, tokens"
            yield Finding("error", area, f"{path} is missing", why, "Put it back from your backup.")
        return
    info = path.stat()
    if info.st_mode & 0o077:
        yield Finding(
            "error",
            area,
            f"others can read {path} (mode {stat.S_IMODE(info.st_mode):04o})",
            "whoever has it can read all secrets of the log and make operators' tokens",
            f"chmod 600 {path}",
        )
    elif info.st_uid != os.geteuid() and os.geteuid() != 0:
        fix = f"Run this as user {info.st_uid}."
        yield Finding("warning", area, f"{path} belongs to user {info.st_uid}", "", fix)
    else:
        yield ok(area, "only its owner can read it; keep a copy apart from the data")


def _folder(path: Path) -> Iterator[Finding]:
    area = "data directory"
    mode = path.stat().st_mode
    if mode & 0o022 and not mode & stat.S_ISVTX:
        why = "others could put another key, another log or another database there"
        yield Finding("error", area, f"others can write to {path}", why, f"chmod go-w {path}")
        return
    run = path / "run"
    if run.exists() and run.stat().st_mode & 0o077:
        why = "its sockets take orders, such as cancel requests"
        yield Finding("warning", area, f"others can enter {run}", why, f"chmod 700 {run}")
    else:
        yield ok(area, f"{path} is written by its owner only")


def _disk(path: Path) -> Iterator[Finding]:
    usage = shutil.disk_usage(path)
    free = f"{usage.free / 1024**3:.1f} GiB of {usage.total / 1024**3:.0f} GiB free at {path}"
    why = "when it is full, changes and usage can no longer be stored"
    fix = "Free some, or move the data directory."
    if usage.free < FREE_BYTES_OUT:
        yield Finding("error", "disk", free, why, fix)
    elif usage.free < FREE_BYTES_LOW or usage.free < usage.total * FREE_SHARE_LOW:
        yield Finding("warning", "disk", free, why, fix)
    else:
        yield ok("disk", free)


def _spool(folder: Path) -> Iterator[Finding]:
    waiting = sum(each.stat().st_size for each in folder.glob("*")) if folder.exists() else 0
    if waiting > SPOOL_BYTES_NOTED:
        yield Finding(
            "warning",
            "usage",
            f"{waiting / 1024**2:.1f} MiB of usage wait in {folder}",
            "NATS was away; what is beyond the spool's bound is lost to statistics and bills",
            "See that NATS is reachable; it is handed in by itself then.",
        )


# --- processes -----------------------------------------------------------------------------------


def open_files(pid: int | None, installation: Installation, dedicated: int) -> Iterator[Finding]:
    """Whether a worker may open as many files as it may have clients and servers."""
    area = "open files"
    soft = _soft_limit(pid)
    clients = installation.limits.max_clients or CLIENTS_WHEN_UNLIMITED
    needed = clients + installation.pool.max_connections + dedicated + OTHER_FILES
    if soft is None or soft >= needed:
        yield ok(area, f"{'no limit' if soft is None else soft} for a process; {needed} are enough")
        return
    yield Finding(
        "warning",
        area,
        f"a process may open {soft} files; {clients} clients and their servers need {needed}",
        "beyond it clients are refused at random, and servers cannot be opened",
        "Raise it: LimitNOFILE= in the systemd unit, or `ulimit -n` before the start.",
    )


def _soft_limit(pid: int | None) -> int | None:
    if pid is not None:
        try:
            for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
                if line.startswith("Max open files"):
                    text = line.split()[3]
                    return None if text == "unlimited" else int(text)
        except (OSError, ValueError, IndexError):
            pass
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


# --- certificates --------------------------------------------------------------------------------


def certificates(installation: Installation) -> Iterator[Finding]:
    """Of the listener, and the authorities that we trust."""
    tls, events = installation.tls, installation.events
    if tls.enabled:
        yield from _own(tls.cert_path, tls.key_path)
    elif not installation.listen_address.startswith(("127.", "localhost", "[::1]")):
        yield Finding(
            "warning",
            "tls",
            f"clients come to {installation.listen_address} without TLS",
            "their statements and results can be read on the way; passwords cannot (SCRAM)",
            "Set [tls] enabled, cert_path, key_path, and require.",
        )
    else:
        yield ok("tls", "no TLS, on this machine only")
    named = [("tls.ca_path", tls.ca_path), ("events.ca_path", events.ca_path)]
    named.append(("events.cert_path", events.cert_path))
    for node in installation.nodes:
        named.append((f"nodes {node.name or node.host}: sslrootcert", node.sslrootcert))
    for name, path in named:
        if path:
            yield from _expiry(name, Path(path))


def _own(cert: str, key: str) -> Iterator[Finding]:
    yield from _expiry("tls.cert_path", Path(cert))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError) as error:
        why = "workers cannot start with it"
        yield Finding("error", "tls", f"{cert} with {key}: {error}", why, "Correct the files.")
        return
    mode = Path(key).stat().st_mode
    if mode & 0o007:
        why = "whoever has it can pass for this server"
        yield Finding("error", "tls", f"anybody can read {key}", why, f"chmod 600 {key}")


def _expiry(name: str, path: Path) -> Iterator[Finding]:
    try:
        with warnings.catch_warnings():
            # Old authorities may have what newer rules forbid; their dates are all we want.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        yield Finding("error", "certificates", f"{name}: {path}: {error}", "", "Correct it.")
        return
    end = min(each.not_valid_after_utc for each in found)
    now = datetime.datetime.now(datetime.UTC)
    left = (end - now).days
    text = f"{name} ends on {end:%Y-%m-%d}, in {left} days"
    why = "from then on TLS fails, and with it every login that requires it"
    fix = "Put a new one in its place, then `tenantry reload`."
    if any(each.not_valid_before_utc > now for each in found):
        yield Finding("error", "certificates", f"{name} is not valid yet", why, "See the clock.")
    elif left < EXPIRES_NOW_DAYS:
        yield Finding("error", "certificates", text, why, fix)
    elif left < EXPIRES_SOON_DAYS:
        yield Finding("warning", "certificates", text, why, fix)
    else:
        yield ok("certificates", text)
