"""A throw-away PostgreSQL from Debian's packages, which can do TLS; the packaged 18 cannot.

    with debian_postgres(hba=["hostssl all all all md5"]) as server: ...

Tests skip with the reason when no such PostgreSQL is installed.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.engines import Postgres
from support.ports import free_port

from admin.engines.process import run_as, unprivileged_account

PASSWORD = "debian-superuser"
TRUST_OWN_LOGIN = "host all postgres 127.0.0.1/32 scram-sha-256"


def debian_programs() -> Path:
    """The newest installed version's programs; skips the test when there is none."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not found:
        pytest.skip("no TLS-capable PostgreSQL at /usr/lib/postgresql/*/bin")
    return max(found, key=lambda path: float(path.parent.name))


@contextlib.contextmanager
def debian_postgres(
    *,
    hba: Sequence[str] = ("host all all 127.0.0.1/32 scram-sha-256",),
    ssl: bool = True,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Postgres]:
    """Run a cluster with these pg_hba lines and settings; the certificate names localhost.

    `hba` may not lock the superuser out: a line for it is put first unless one names it. The
    certificate is `server_certificate(server)`, its own authority.
    """
    programs = debian_programs()
    account = unprivileged_account(Path("/nonexistent"))
    folder = Path(tempfile.mkdtemp(prefix="tenantry-debian-"))
    port = free_port()
    data = folder / "data"
    try:
        (folder / "password").write_text(PASSWORD)
        data.mkdir(mode=0o700)
        _give(account, folder, folder / "password", data)
        init = ["initdb", "-D", str(data), "-U", "postgres", "-A", "scram-sha-256"]
        init += ["--pwfile", str(folder / "password"), "-E", "UTF8", "--locale=C", "--no-sync"]
        run_as(account, [str(programs / init[0]), *init[1:]])
        own = [] if any(" postgres " in line for line in hba) else [TRUST_OWN_LOGIN]
        (data / "pg_hba.conf").write_text("\n".join([*own, *hba]) + "\n")
        all_settings = {"listen_addresses": "127.0.0.1", "port": str(port), "fsync": "off"}
        all_settings["unix_socket_directories"] = ""
        if ssl:
            certificate(data / "server.crt", data / "server.key")
            _give(account, data / "server.crt", data / "server.key")
            all_settings["ssl"] = "on"
        all_settings |= settings or {}
        lines = (f"{key} = '{value}'\n" for key, value in all_settings.items())
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(lines)
        control = [str(programs / "pg_ctl"), "-D", str(data), "-l", str(folder / "log"), "-w"]
        run_as(account, [*control, "start"])
        try:
            pid = int((data / "postmaster.pid").read_text().split()[0])
            yield Postgres("127.0.0.1", port, "postgres", PASSWORD, pid)
        finally:
            with contextlib.suppress(Exception):  # a test may have killed it
                run_as(account, [*control, "-m", "immediate", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def server_certificate(server: Postgres) -> str:
    """Ask the running server for the path of its certificate, for sslrootcert."""
    folder = server.execute("SHOW data_directory")[0][0]
    return os.path.join(folder, "server.crt")


def certificate(cert: Path, key: Path, *names: str) -> None:
    """Write a self-signed certificate for `names` (localhost and 127.0.0.1 without any)."""
    secret = ec.generate_private_key(ec.SECP256R1())
    alternatives = [x509.DNSName(name) for name in names] or [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (*names, "localhost")[0])])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(secret, hashes.SHA256())
    )
    cert.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.touch(mode=0o600)
    key.write_bytes(secret.private_bytes(pem, pkcs8, serialization.NoEncryption()))


def debian_psql(server: Postgres, statement: str, **options: object) -> str:
    """What Debian's psql prints for one statement, unaligned, tuples only."""
    command = [str(debian_programs() / "psql"), "-XAtq", "-d", server.dsn(**options)]
    done = subprocess.run([*command, "-c", statement], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _give(account, *paths: Path) -> None:
    """Let the account that PostgreSQL runs as own these, when that is not us."""
    for path in paths if account else ():
        os.chown(path, account.uid, account.gid)
