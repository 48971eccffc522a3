"""What an installation needs of its NATS servers, and whether it holds: for `tenantry doctor`.

Nothing is changed. What cannot be asked over a client's connection is said to be unknown rather
than taken for good: above all `sync_interval`, which decides whether an acknowledged change
survives a power failure. With the default of two minutes it may not (Jepsen on NATS 2.12.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from events import audit, bus_durable, keys, stream, usage
from events.log import COMMIT_BYTES_MAX, ConfigLog
from events.nats_login import tls_context
from events.stream import NO_STREAM_FOUND, ApiError, LogMisconfigured, LogUnavailable, check_stream

# Per-subject expected sequences 2.3.1, deny_delete and deny_purge 2.6.2, filtered purge and
# max_msgs_per_subject 2.4, "last sequence" errors of clusters and consumer create by name 2.9.
VERSION_MIN: Final = (2, 10)
# Fewer replicas of a stream lose it together with one server's disk.
REPLICAS_SAFE: Final = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `holds` is None when it cannot be told from here."""

    name: str
    holds: bool | None
    message: str
    hint: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "holds": self.holds,
            "message": self.message,
            "hint": self.hint,
        }


async def examine(
    source: ConfigLog,
    *,
    replicas: int = 1,
    embedded: bool = False,
    sync_interval: str | None = None,
) -> list[Finding]:
    """All findings, the worst not first: in the order in which they are best mended.

    `replicas` is what the installation asks for; `embedded` says that the server is our own, and
    `sync_interval` what that was started with, as far as it is known.
    Raises LogUnavailable when the server does not answer.
    """
    info = source.nats._server_info
    findings = [_version(info), _transport(source, embedded), _payload(info)]
    account = await _account(source)
    findings.append(_jetstream(account))
    findings.append(_sync(embedded, sync_interval))
    if account is None:
        return findings
    findings.append(_storage(account))
    found = await _config(source, stream.STREAM)
    findings += _log_stream(found, replicas)
    commands = await _config(source, bus_durable.STREAM)
    findings += _commands_stream(commands, replicas)
    findings += _keys_stream(await _config(source, keys.STREAM), replicas)
    for name, what in ((usage.STREAM, "usage"), (audit.STREAM, "the audit")):
        other = await _config(source, name)
        if other is not None:
            findings.append(_replicas(name, what, other, replicas))
    findings.append(await _requests(source))
    return findings


# --- the server ----------------------------------------------------------------------------------


def _version(info: Mapping[str, Any]) -> Finding:
    text = str(info.get("version", ""))
    try:
        found = tuple(int(part) for part in text.split("-")[0].split(".")[:2])
    except ValueError:
        found = ()
    least = ".".join(map(str, VERSION_MIN))
    return Finding(
        "server version",
        found >= VERSION_MIN,
        f"nats-server {text or '(unknown)'}; {least} or later is needed",
        "" if found >= VERSION_MIN else "Upgrade nats-server.",
    )


def _transport(source: ConfigLog, embedded: bool) -> Finding:
    uri = source.nats.connected_url
    host = "" if uri is None else uri.hostname or ""
    if source.connection.login.tls and tls_context(source.connection.login) is not None:
        return Finding("transport", True, "TLS to the servers, with their certificates checked")
    if embedded or host in ("127.0.0.1", "::1", "localhost"):
        return Finding("transport", True, "no TLS, on this machine only")
    return Finding(
        "transport",
        False,
        f"no TLS to {host}: commands, tokens and facts can be read and changed on the way",
        "Write tls:// in [events] servers, and ca_path if the authority is your own.",
    )


def _payload(info: Mapping[str, Any]) -> Finding:
    most = int(info.get("max_payload", 0))
    # Room for headers besides the largest commit.
    enough = most >= COMMIT_BYTES_MAX + 16 * 1024
    return Finding(
        "max_payload",
        enough,
        f"messages may have {most} bytes; commits have up to {COMMIT_BYTES_MAX}",
        "" if enough else "Raise max_payload of the servers to 1MB, the default.",
    )


async def _account(source: ConfigLog) -> dict[str, Any] | None:
    try:
        return await source.connection.ask("$JS.API.INFO", b"", 2.0)
    except ApiError:
        return None
    except Exception as error:
        if source.connected:
            return None
        raise LogUnavailable(f"NATS does not answer: {error!r}") from error


def _jetstream(account: Mapping[str, Any] | None) -> Finding:
    if account is None:
        hint = "Enable JetStream in the servers and for this account."
        return Finding("JetStream", False, "is not enabled for this account", hint)
    domain = account.get("domain")
    return Finding("JetStream", True, f"enabled{f', domain {domain}' if domain else ''}")


def _sync(embedded: bool, interval: str | None) -> Finding:
    if embedded and interval == "always":
        text = "sync_interval is always: the embedded server was started with it"
        return Finding("sync_interval", True, text)
    if embedded and interval is not None:
        text = f"is {interval}: a power failure can lose changes that were acknowledged"
        hint = "Start the engines again without --fast-engines, which is for tests."
        return Finding("sync_interval", False, text, hint)
    return Finding(
        "sync_interval",
        None,
        "cannot be read from here. With the default (2m) a power failure can lose changes that "
        "were acknowledged",
        "Set jetstream { sync_interval: always } on each server; see it in /varz on the "
        "monitoring port, under jetstream.config.sync_interval (sync_always).",
    )


def _storage(account: Mapping[str, Any]) -> Finding:
    limits = account.get("limits", {})
    most, used = int(limits.get("max_storage", -1)), int(account.get("storage", 0))
    if most < 0:
        return Finding("storage", True, f"{used} bytes used; the account has no limit of its own")
    # Below a tenth that is left, somebody should hear of it before changes are refused.
    enough = used < most * 0.9
    return Finding(
        "storage",
        enough,
        f"{used} of {most} bytes used",
        "" if enough else "Raise the account's max_storage: when it is full, changes fail.",
    )


# --- streams -------------------------------------------------------------------------------------


async def _config(source: ConfigLog, name: str) -> dict[str, Any] | None:
    async def once(wait: float) -> dict[str, Any] | None:
        try:
            return await source.connection.ask(f"$JS.API.STREAM.INFO.{name}", b"", wait)
        except ApiError as error:
            if error.code == NO_STREAM_FOUND:
                return None
            raise

    return await source.connection.persist(once, f"the stream {name}", writing=False)


def _missing(name: str) -> Finding:
    return Finding(name, None, "is not there yet; it is made when Tenantry runs")


def _log_stream(info: dict[str, Any] | None, replicas: int) -> list[Finding]:
    if info is None:
        return [_missing(stream.STREAM)]
    config = info["config"]
    try:
        check_stream(config, config["num_replicas"])
    except LogMisconfigured as error:
        hint = "Stop Tenantry, export the log, and let it make the stream anew."
        return [Finding(stream.STREAM, False, str(error), hint)]
    text = "on disk, nothing expires, messages cannot be deleted or purged"
    return [
        Finding(stream.STREAM, True, text),
        _replicas(stream.STREAM, "the configuration", info, replicas),
    ]


def _commands_stream(info: dict[str, Any] | None, replicas: int) -> list[Finding]:
    name = bus_durable.STREAM
    if info is None:
        return [_missing(name)]
    wrong = bus_durable.misfits(info["config"])
    waiting = info.get("state", {}).get("messages", 0)
    if wrong:
        hint = f"Delete the stream {name} when it is empty; it is made anew."
        return [Finding(name, False, ", ".join(wrong), hint)]
    return [
        Finding(name, True, f"a work queue on disk; {waiting} commands wait"),
        _replicas(name, "durable commands", info, replicas),
    ]


def _keys_stream(info: dict[str, Any] | None, replicas: int) -> list[Finding]:
    name = keys.STREAM
    if info is None:
        return [_missing(name)]
    config = info["config"]
    wrong = [
        f"{setting} is {config.get(setting)!r}"
        for setting, right in (
            ("subjects", ([f"{keys.SUBJECT_PREFIX}*"],)),
            ("storage", ("file",)),
            ("max_msgs_per_subject", (1,)),
            ("max_age", (0, None)),
            ("deny_delete", (False, None)),
        )
        if config.get(setting) not in right
    ]
    copied = [what for what in ("mirror", "sources", "republish") if config.get(what)]
    if wrong or copied:
        text = ", ".join(
            wrong + [f"{what} makes copies that erasing does not reach" for what in copied]
        )
        return [Finding(name, False, text, "Change the stream with the nats tool.")]
    return [
        Finding(name, True, "on disk; a key can be erased"),
        _replicas(name, "the keys of personal data", info, replicas),
    ]


def _replicas(name: str, what: str, info: dict[str, Any], wanted: int) -> Finding:
    found = int(info["config"].get("num_replicas", 1))
    behind = [
        peer["name"]
        for peer in info.get("cluster", {}).get("replicas") or ()
        if not peer.get("current") or peer.get("offline")
    ]
    if behind:
        text = f"{what}: {', '.join(behind)} is not up to date"
        return Finding(f"{name} replicas", False, text, "Look after those servers.")
    if found != wanted:
        text = f"{what}: {found} copies, and [events] replicas is {wanted}"
        hint = f"nats stream edit {name} --replicas {wanted}"
        return Finding(f"{name} replicas", False, text, hint)
    if found < REPLICAS_SAFE:
        text = f"{what}: {found} {'copy' if found == 1 else 'copies'}; its disk is all there is"
        hint = "In production: three servers, and [events] replicas = 3. Back the log up."
        return Finding(f"{name} replicas", None, text, hint)
    return Finding(f"{name} replicas", True, f"{what}: {found} copies, all up to date")


async def _requests(source: ConfigLog) -> Finding:
    """No stream may hold the subjects of requests: it would answer in our place."""
    question = orjson.dumps({"subject": "tenantry.request.>"})
    found = await source.request("$JS.API.STREAM.NAMES", question)
    names = found.get("streams") or []
    if names:
        text = f"the stream {names[0]} stores tenantry.request.>, and answers in Tenantry's place"
        return Finding("requests", False, text, "Take those subjects out of the stream.")
    return Finding("requests", True, "no stream stores tenantry.request.>")
