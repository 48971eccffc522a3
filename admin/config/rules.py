"""What must hold between the values of a configuration file, beyond what each may be alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from admin.config.mistakes import Key
from admin.config.models import FileConfig, FileTenant, FileUser
from admin.config.places import check_places
from admin.config.source import Source
from admin.config.support import NOT_IN_THIS_VERSION, warn
from admin.listen_port import is_loopback, split_address
from events.installation import OFF, Node
from events.model import DDL_OPERATIONS, Settings, Tenant
from events.nats_login import LoginError, parse
from events.settings import canonical, merge, with_strategy_defaults
from wire.postgres.scram import parse_verifier

# Stands for an id or a name that was wrong itself, so that the rest can still be judged.
UNNAMED: Final = "unnamed"

# Files that [events] names: how to log in to NATS.
EVENTS_FILES: Final = ("ca_path", "cert_path", "key_path", "credentials_path", "nkey_path")

_TENANCY: Final = "multi_tenancy"


def check(file: FileConfig, source: Source) -> None:
    """Tell `source` of every broken rule."""
    _check_nodes(file, source)
    _check_pool(file, source)
    _check_tls(file, source)
    _check_admin(file, source)
    _check_events(file, source)
    _check_switches(file, source)
    _check_tenants(file, source)


def resolve(id: str, settings: Settings, defaults: Settings) -> Tenant:
    """The tenant with every value: built-in < defaults < settings. Users without a verifier are
    left out. Raises pydantic.ValidationError."""
    merged = with_strategy_defaults(merge(defaults, settings))
    users = [user for user in merged.get("users", ()) if "scram" in user]
    return Tenant.model_validate({**merged, "users": users, "id": id})


def _check_nodes(file: FileConfig, source: Source) -> None:
    key: Key = ("nodes",)
    if not file.nodes:
        source.mistake(
            key, "there is no PostgreSQL to use", "Add [[nodes]] with host and port, or embedded."
        )
        return
    primaries = [at for at, node in enumerate(file.nodes) if node.role == "primary"]
    if not primaries:
        source.mistake(key, "no node is the primary", 'Give one node role = "primary".')
    for at in primaries[1:]:
        source.mistake(
            (*key, at, "role"), "is a second primary", 'Use role = "standby" for all but one.'
        )
    if primaries and not any(file.nodes[at].enabled for at in primaries):
        source.mistake((*key, primaries[0], "enabled"), "the primary is disabled", "Enable it.")
    seen: set[tuple[str, int]] = set()
    for at, node in enumerate(file.nodes):
        if not node.embedded and (node.host, node.port) in seen:
            source.mistake((*key, at), f"{node.host}:{node.port} is listed twice", "Remove one.")
        seen.add((node.host, node.port))
        _check_node(node, (*key, at), source)
    for at in [at for at, node in enumerate(file.nodes) if node.embedded][1:]:
        source.mistake((*key, at, "embedded"), "there is only one embedded node", "Remove one.")


def _check_node(node: Node, key: Key, source: Source) -> None:
    if not node.host:
        source.mistake((*key, "host"), "is empty", "Name a host.")
    if node.sslrootcert and node.sslrootcert != "system":
        _check_file(node.sslrootcert, (*key, "sslrootcert"), source)
    if node.role != "primary":
        reason = "read/write split is not part of this version, so this node gets no queries"
        warn(source, (*key, "role"), f"accepted, not used yet: {reason}")
    if node.embedded and {"host", "port"} & node.model_fields_set:
        warn(source, (*key, "embedded"), "host and port of an embedded node are not used")


def _check_pool(file: FileConfig, source: Source) -> None:
    pool = file.pool
    if pool.min_connections > pool.max_connections:
        source.mistake(
            ("pool", "min_connections"),
            f"{pool.min_connections} is more than max_connections ({pool.max_connections})",
            "Lower it, or raise max_connections.",
        )


def _check_tls(file: FileConfig, source: Source) -> None:
    tls = file.tls
    if not tls.enabled:
        for name in ("require", "require_client_cert"):
            if getattr(tls, name):
                source.mistake(("tls", name), "needs TLS", "Set enabled = true and a certificate.")
        return
    for name in ("cert_path", "key_path"):
        if not getattr(tls, name):
            source.mistake(("tls", name), "is needed when TLS is enabled", "Name a PEM file.")
    if tls.require_client_cert and not tls.ca_path:
        source.mistake(
            ("tls", "ca_path"), "is needed to check client certificates", "Name a PEM file."
        )
    for name in ("cert_path", "key_path", "ca_path"):
        if path := getattr(tls, name):
            _check_file(path, ("tls", name), source)


def _check_admin(file: FileConfig, source: Source) -> None:
    """How the admin API listens. What it would refuse at its start is told here too, as a warning:
    clients are served all the same."""
    admin = file.admin
    for name in ("cert_path", "key_path", "ca_path"):
        if path := getattr(admin, name):
            _check_file(path, ("admin", name), source)
    if bool(admin.cert_path) != bool(admin.key_path):
        source.mistake(("admin",), "cert_path and key_path belong together", "Set both.")
    if admin.ca_path and not admin.cert_path:
        source.mistake(("admin", "ca_path"), "needs TLS", "Set cert_path and key_path.")
    if file.admin_allow_insecure:
        text = "DANGEROUS: whoever reaches the admin API may change everything, without a token"
        warn(source, ("admin_allow_insecure",), text)
    elif file.admin_address != OFF and not admin.cert_path and not admin.allow_plaintext:
        host, _ = split_address(file.admin_address)
        if not is_loopback(host):
            text = (
                "the admin API will not listen there: tokens would cross the network in clear "
                "text. Give [admin] a certificate, or use a loopback address"
            )
            warn(source, ("admin_address",), text)


def _check_file(path: str, key: Key, source: Source) -> None:
    try:
        with Path(path).open("rb"):
            return
    except OSError as error:
        source.mistake(key, f"{path}: {error.strerror}", "Name a file that can be read.")


def _check_events(file: FileConfig, source: Source) -> None:
    events = file.events
    if events.embedded and events.servers:
        source.mistake(
            ("events", "servers"), "stands beside embedded = true", "Keep one of the two."
        )
    if not events.embedded and not events.servers and "embedded" in events.model_fields_set:
        source.mistake(
            ("events",), "there is no log", "Set embedded = true, or name the NATS servers."
        )
    for name in EVENTS_FILES:
        if path := getattr(events, name):
            _check_file(path, ("events", name), source)
            if not events.servers:
                source.mistake(
                    ("events", name), "is for a NATS of your own", "Name its servers, or remove it."
                )
    if bool(events.cert_path) != bool(events.key_path):
        source.mistake(("events",), "cert_path and key_path belong together", "Set both.")
    if events.credentials_path and events.nkey_path:
        source.mistake(
            ("events", "nkey_path"), "stands beside credentials_path", "Keep one of the two."
        )
    try:
        parse(events.servers)
    except LoginError as error:
        source.mistake(("events", "servers"), str(error), "Correct the address.")
    if events.replicas > 1 and not events.servers:
        source.mistake(
            ("events", "replicas"), "the embedded log is one server", "Use 1, or name servers."
        )


def _check_switches(file: FileConfig, source: Source) -> None:
    """Switches of the upstream file of which only one side is right here."""
    tenancy = file.multi_tenancy
    if not tenancy.enabled:
        source.mistake(
            (_TENANCY, "enabled"), "tenants are always kept apart", "Use true, or remove it."
        )
    for name in ("allow_unknown_tenants", "auto_create_tenants"):
        if getattr(tenancy, name):
            source.mistake((_TENANCY, name), NOT_IN_THIS_VERSION, "Use false, or remove it.")


def _check_tenants(file: FileConfig, source: Source) -> None:
    tenancy = file.multi_tenancy
    tenants = tenancy.tenants
    key: Key = (_TENANCY, "tenants")
    first: dict[str, int] = {}
    for at, tenant in enumerate(tenants):
        if tenant.id in first and tenant.id != UNNAMED:
            where = source.line((*key, first[tenant.id]))
            source.mistake(
                (*key, at, "id"), f'"{tenant.id}" is used before, in line {where}', "Rename one."
            )
        first.setdefault(tenant.id, at)
    if tenancy.max_tenants is not None and len(tenants) > tenancy.max_tenants:
        source.mistake(
            (_TENANCY, "max_tenants"),
            f"the file has {len(tenants)} tenants, and the limit is {tenancy.max_tenants}",
            "Raise the limit, or remove tenants.",
        )
    fallback = tenancy.identification.fallback
    if fallback is not None and fallback not in first:
        source.mistake(
            (_TENANCY, "identification", "fallback"),
            f'there is no tenant "{fallback}"',
            "Name a tenant of this file.",
        )
    defaults = canonical(tenancy.default)
    tiers = {name: canonical(tier) for name, tier in tenancy.tiers.items()}
    resolved: list[tuple[Key, Tenant]] = []
    for at, tenant in enumerate(tenants):
        here: Key = (*key, at)
        _check_users(tenant, here, source)
        settings = canonical(tenant.model_copy(update={"users": ()}))
        del settings["id"]
        if tenant.tier is not None and tenant.tier not in tiers:
            text = f'this file has no tier "{tenant.tier}": it must be there from before'
            warn(source, (*here, "tier"), text)
        try:
            full = resolve(tenant.id, settings, merge(defaults, tiers.get(tenant.tier or "", {})))
        except ValidationError as error:  # valid alone, not on top of the defaults
            for found in error.errors(include_input=False):
                source.mistake((*here, *found["loc"]), found["msg"], "Change the value.")
            continue
        _check_tenant(full, tenant, here, source)
        resolved.append((here, full))
    check_places(resolved, source)


def _check_users(tenant: FileTenant, key: Key, source: Source) -> None:
    if not tenant.users:
        remedy = "add [[multi_tenancy.tenants.users]]"
        warn(source, (*key, "id"), f"has no users, so nobody can log in; {remedy}")
    seen: set[str] = set()
    for at, user in enumerate(tenant.users):
        here: Key = (*key, "users", at)
        if user.name in seen and user.name != UNNAMED:
            source.mistake((*here, "name"), f'user "{user.name}" is listed twice', "Remove one.")
        seen.add(user.name)
        _check_credentials(user, here, source)
        given = {"password", "scram"} & user.model_fields_set
        if len(given) == 2:
            source.mistake(here, "has both password and scram", "Keep one of the two.")
        elif not given and not {(*here, "password"), (*here, "scram")} & source.told:
            source.mistake(
                here, f'user "{user.name}" has no password', "Add password, or scram (a verifier)."
            )


def _check_credentials(user: FileUser, key: Key, source: Source) -> None:
    try:
        if user.scram is not None:
            parse_verifier(user.scram)
    except ValueError:
        source.mistake((*key, "scram"), "is not a SCRAM-SHA-256 verifier", "Copy it whole.")


def _check_tenant(full: Tenant, tenant: FileTenant, key: Key, source: Source) -> None:
    """Rules within one tenant, on its resolved values."""
    pool = full.pool
    if pool.min_idle > pool.max_connections:
        source.mistake(
            (*key, "pool", "min_idle"),
            f"{pool.min_idle} is more than max_connections ({pool.max_connections})",
            "Lower it, or raise max_connections.",
        )
    permissions = full.permissions
    if not permissions.allowed_operations:
        source.mistake(
            (*key, "permissions", "allowed_operations"),
            "the tenant could do nothing",
            "Name operations, or use enabled = false for the tenant.",
        )
    own = tenant.permissions
    named = DDL_OPERATIONS.intersection(own.allowed_operations)
    if named and not own.allow_ddl and "allow_ddl" in own.model_fields_set:
        source.mistake(
            (*key, "permissions", "allow_ddl"),
            f"is false, but allowed_operations names {', '.join(sorted(named))}",
            "Remove one of the two.",
        )
