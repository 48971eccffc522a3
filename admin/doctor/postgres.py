"""Looks at the PostgreSQL server that tenants are on, and at the isolation in it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from admin.doctor.finding import Finding, ok
from admin.doctor.log import skew
from admin.find_node import Found
from admin.isolation.audit import audit
from admin.protect.protect import connected
from admin.provision.tenant import MAINTENANCE_DATABASE
from events.installation import Installation

# backtrace_functions, which the seal of shared tables uses, can be granted since 15.
VERSION_MIN: Final = 150_000
# The last of each major version; what is older misses corrections of security.
SETTINGS: Final = (
    *("server_version_num", "server_version", "max_connections", "reserved_connections"),
    *("superuser_reserved_connections", "ssl", "password_encryption", "fsync"),
    *("full_page_writes", "synchronous_commit", "log_statement", "log_min_duration_statement"),
    *("log_min_duration_sample", "log_parameter_max_length", "log_parameter_max_length_on_error"),
    *("debug_print_parse", "debug_print_plan", "debug_print_rewritten", "track_activities"),
    *("default_transaction_read_only", "data_directory_mode"),
)
# Connections that people and backups need beside the pools.
OTHERS: Final = 5


async def postgres(found: Found, installation: Installation) -> AsyncIterator[Finding]:
    """Raises Failure, psycopg.Error."""
    node = found.node
    async with connected(found, MAINTENANCE_DATABASE) as conn:
        before = time.time()
        row = await (await conn.execute("SELECT extract(epoch FROM clock_timestamp())")).fetchone()
        after = time.time()
        assert row is not None
        yield skew("PostgreSQL", float(row[0]) - (before + after) / 2, (after - before) / 2)
        cursor = await conn.execute(
            "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY(%s)",
            (list(SETTINGS),),
        )
        settings: dict[str, str] = dict(await cursor.fetchall())
    for finding in (
        *_version(settings),
        *_connections(settings, found, installation),
        *_transport(settings, node.host, node.embedded),
        *_durability(settings, node.embedded),
        *_logging(settings),
    ):
        yield finding


def _version(settings: Mapping[str, str]) -> Iterator[Finding]:
    number = int(settings["server_version_num"])
    text = f"PostgreSQL {settings['server_version']}"
    if number < VERSION_MIN:
        why = "tenants of shared tables cannot be sealed from each other"
        yield Finding("error", "postgres: version", text, why, "Upgrade to 15 or later.")
    else:
        yield ok("postgres: version", text)


def _connections(
    settings: Mapping[str, str], found: Found, installation: Installation
) -> Iterator[Finding]:
    area = "postgres: max_connections"
    kept = int(settings["superuser_reserved_connections"]) + int(
        settings.get("reserved_connections", "0")
    )
    room = int(settings["max_connections"]) - kept
    own = dedicated(found)
    wanted = installation.pool.max_connections + own + OTHERS
    text = (
        f"{room} can be had; the pools may take {installation.pool.max_connections} shared and "
        f"{own} dedicated ones, and a few are for you"
    )
    if wanted > room:
        yield Finding(
            "warning",
            area,
            text,
            "under load PostgreSQL refuses connections, and clients get errors",
            f"Set max_connections to {wanted + kept} or more, or lower [pool] max_connections. "
            "Several proxies on one server need so many each.",
        )
    else:
        yield ok(area, text)


def dedicated(found: Found) -> int:
    """Connections that tenants with a pool of their own may have together."""
    return sum(
        tenant.pool.max_connections or 0
        for tenant in found.tenants
        if tenant.pool.dedicated_pool and tenant.enabled
    )


def _transport(settings: Mapping[str, str], host: str, embedded: bool) -> Iterator[Finding]:
    local = embedded or host.startswith("/") or host in ("127.0.0.1", "::1", "localhost")
    if settings["ssl"] != "on" and not local:
        why = "what tenants ask and get can be read between the proxy and the server"
        fix = "Set ssl = on there, and sslmode = verify-full in [[nodes]]."
        yield Finding("warning", "postgres: ssl", f"no TLS to {host}", why, fix)
    else:
        yield ok("postgres: ssl", "on this machine" if local else "TLS is on")
    if settings["password_encryption"] != "scram-sha-256":  # noqa: S105 - a setting's value
        why = "passwords set from now on are kept as md5, which can be guessed fast"
        fix = "ALTER SYSTEM SET password_encryption = 'scram-sha-256'; SELECT pg_reload_conf();"
        what = f"is {settings['password_encryption']}"
        yield Finding("warning", "postgres: password_encryption", what, why, fix)


def _durability(settings: Mapping[str, str], embedded: bool) -> Iterator[Finding]:
    for name in ("fsync", "full_page_writes"):
        if settings[name] != "on":
            why = "after a power failure the whole cluster may be unreadable"
            fix = f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();"
            if embedded:
                fix = "It was started for tests (--fast-engines): start it without that."
            yield Finding("error", f"postgres: {name}", "is off", why, fix)
    if settings["synchronous_commit"] == "off":
        why = "the last commits may be lost after a crash, though clients were told they are in"
        fix = "Set it to on, unless that is what you want."
        yield Finding("note", "postgres: synchronous_commit", "is off", why, fix)


def _logging(settings: Mapping[str, str]) -> Iterator[Finding]:
    """What writes parameters into the server's log: there, tokens of the seal are parameters."""
    length = settings.get("log_parameter_max_length", "-1")
    slow = int(settings["log_min_duration_statement"])
    sample = int(settings.get("log_min_duration_sample", "-1"))
    everything = settings["log_statement"] == "all" or slow == 0
    some = everything or slow > 0 or sample >= 0
    area = "postgres: log_parameter_max_length"
    why = (
        "values of all tenants' statements and the tokens of the seal get into the server's log; "
        "a token is good for 30 s, on one connection"
    )
    fix = "ALTER SYSTEM SET log_parameter_max_length = 0; SELECT pg_reload_conf();"
    if some and length != "0":
        level = "warning" if everything else "note"
        what = f"is {length} while log_statement is {settings['log_statement']} and "
        what += f"log_min_duration_statement {slow}"
        yield Finding(level, area, what, why, fix)  # type: ignore[arg-type]
    else:
        yield ok(area, "parameters of statements are not logged")
    if settings.get("log_parameter_max_length_on_error", "0") != "0":
        fix = fix.replace("length = 0", "length_on_error = 0")
        what = "is not 0"
        yield Finding("note", f"{area}_on_error", what, "values get into the server's log", fix)
    for name in ("debug_print_parse", "debug_print_plan", "debug_print_rewritten"):
        if settings.get(name) == "on":
            yield Finding("warning", f"postgres: {name}", "is on", "statements are logged", "")


async def isolation(found: Found) -> AsyncIterator[Finding]:
    """The audit of isolation, in short. Raises Failure, psycopg.Error."""
    report = await audit(found, lambda text: None)
    fix = "Run `tenantry audit isolation`: it says how to correct each."
    for each in report.findings[:10]:
        where = f"{each.database}: {each.object}" if each.database else each.object
        level = {"hole": "error", "risk": "warning"}.get(each.severity, "note")
        yield Finding(level, "isolation", f"{where}: {each.what}", "", each.fix or fix)  # type: ignore[arg-type]
    if len(report.findings) > 10:
        more = f"and {len(report.findings) - 10} findings more"
        yield Finding("warning", "isolation", more, "", fix)
    for database, why in report.failed.items():
        yield Finding("warning", "isolation", f"{database} could not be examined: {why}")
    if not report.findings and not report.failed:
        yield ok("isolation", f"{len(report.examined)} databases examined, no way out was found")
