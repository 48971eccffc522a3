"""What this version does with keys and values of the file that it knows but cannot serve.

Three answers, in this one place: a warning (understood, without effect, harmless), a mistake (to
ignore it would be dangerous or surprising), or another spelling that means the same.
Whoever builds a feature takes its lines out here.
"""

from __future__ import annotations

from typing import Any, Final

from admin.config.mistakes import Key, Mistake, dotted
from admin.config.source import Source
from events.model import Ai

_REPLAY = "replay of transactions is not part of this version"
_SPREAD = "read/write split is not part of this version"
_CHECKS = "regular health checks are not part of this version; a node is judged by its use"
_AI = "the AI plane is not part of this version"
_BUDGET = "the same key in [pool] counts"

# Key → (the value that changes nothing and needs no warning, why it is not used).
UNUSED: Final[dict[str, tuple[Any, str]]] = {
    "tr_enabled": (False, _REPLAY),
    "tr_mode": ("none", _REPLAY),
    "write_timeout_secs": (None, "clients that take no bytes are not timed out in this version"),
    "pool.min_connections": (0, "idle connections are kept for each tenant (its pool.min_idle)"),
    "pool.test_on_acquire": (False, "a connection that dies while idle is noticed without a test"),
    "pool_mode.max_pool_size": (None, '"max_connections" in [pool] counts'),
    "pool_mode.min_idle": (None, '"min_connections" in [pool] counts'),
    "pool_mode.idle_timeout_secs": (None, _BUDGET),
    "pool_mode.max_lifetime_secs": (None, _BUDGET),
    "pool_mode.acquire_timeout_secs": (None, _BUDGET),
    "pool_mode.reset_query": (None, "Tenantry resets connections itself, and more completely"),
    "pool_mode.prepared_statement_mode": ("track", "prepared statements are always tracked"),
    "load_balancer.read_strategy": (None, _SPREAD),
    "load_balancer.read_write_split": (False, _SPREAD),
    "load_balancer.latency_threshold_ms": (None, _SPREAD),
    "health.check_interval_secs": (None, _CHECKS),
    "health.check_timeout_secs": (None, _CHECKS),
    "health.failure_threshold": (None, _CHECKS),
    "health.success_threshold": (None, _CHECKS),
    "health.check_query": (None, _CHECKS),
    "nodes.weight": (100, _SPREAD),
}
# What a tenant, a tier and the defaults can say alike.
UNUSED.update(
    {
        f"multi_tenancy.{table}.ai.{name}": (info.default, _AI)
        for table in ("default", "tiers", "tenants")
        for name, info in Ai.model_fields.items()
    }
)

# Parts of the other documented files that this version lacks. A table that says `enabled = false`
# asks for nothing, and is a warning.
NOT_AVAILABLE: Final = frozenset(
    {
        "admin_token", "hba", "rate_limit", "circuit_breaker",
        "analytics.max_fingerprints",
        "anomaly", "lag_routing", "topology", "routing_hints", "schema_routing", "cache",
        "query_rewrite", "plugins", "mcp", "agent_contracts", "http_gateway", "graphql_gateway",
        "mirror", "branch", "edge",
        "multi_tenancy.admin_user_pattern",
        "multi_tenancy.identification.header_name", "multi_tenancy.identification.header",
        "multi_tenancy.identification.claim_name", "multi_tenancy.identification.jwt",
        "multi_tenancy.tenants.ai_config",
    }
)  # fmt: skip

METHODS_NOT_AVAILABLE: Final = frozenset(
    {"header", "jwt", "jwt_claim", "sql_context", "sni", "client_cert", "path", "domain", "api_key"}
)
METHOD_SPELLINGS: Final = {"database": "database_name", "option": "startup_option"}

NOT_IN_THIS_VERSION: Final = "is not available in this version"


def take_out_unavailable(data: dict[str, Any], source: Source) -> None:
    """Remove from `data` what this version lacks, each removal told."""
    _walk(data, (), "", source)


def _walk(value: Any, key: Key, name: str, source: Source) -> None:
    if isinstance(value, list):
        for at, item in enumerate(value):
            _walk(item, (*key, at), name, source)
    if not isinstance(value, dict):
        return
    for part in list(value):
        below = f"{name}.{part}" if name else part
        if below not in NOT_AVAILABLE:
            _walk(value[part], (*key, part), below, source)
            continue
        item = value.pop(part)
        if isinstance(item, dict) and item.get("enabled") is False:
            warn(source, (*key, part), NOT_IN_THIS_VERSION)
        else:
            source.mistake((*key, part), NOT_IN_THIS_VERSION, "Remove it.")


def settle_methods(data: dict[str, Any], source: Source) -> None:
    """Bring `method = "x"` and other spellings to `methods = [...]`."""
    tenancy = data.get("multi_tenancy")
    table = tenancy.get("identification") if isinstance(tenancy, dict) else None
    if not isinstance(table, dict):
        return
    key: Key = ("multi_tenancy", "identification")
    if isinstance(table.get("method"), str):
        if "methods" in table:
            source.mistake((*key, "method"), 'stands beside "methods"', "Keep one of the two.")
            del table["method"]
        else:
            table["methods"] = [table.pop("method")]
            if (line := source.line((*key, "method"))) > 0:
                source.lines[(*key, "methods")] = line
    methods = table.get("methods")
    if not isinstance(methods, list):
        return
    key = (*key, "methods")
    if not methods:
        source.mistake(key, "names no method", 'Write e.g. methods = ["username_prefix"].')
    for method in methods:
        if isinstance(method, str) and method in METHODS_NOT_AVAILABLE:
            source.mistake(
                key,
                f'identification by "{method}" {NOT_IN_THIS_VERSION}',
                'Use "username_prefix", "database_name" or "startup_option".',
            )
    table["methods"] = [
        METHOD_SPELLINGS.get(method, method) if isinstance(method, str) else method
        for method in methods
        if not isinstance(method, str) or method not in METHODS_NOT_AVAILABLE
    ]


def warn_unused(settings: Any, source: Source, key: Key = (), name: str = "") -> None:
    """A warning for each value in `settings` (only what was set) that has no effect."""
    if isinstance(settings, dict) and key == ("multi_tenancy", "tiers"):
        for tier, below in settings.items():
            warn_unused(below, source, (*key, tier), name)
    elif isinstance(settings, dict):
        for part, below in settings.items():
            warn_unused(below, source, (*key, part), f"{name}.{part}" if name else part)
    elif isinstance(settings, list | tuple) and name in ("nodes", "multi_tenancy.tenants"):
        for at, item in enumerate(settings):
            warn_unused(item, source, (*key, at), name)
    elif name in UNUSED:
        without_effect, reason = UNUSED[name]
        if settings != without_effect:
            warn(source, key, f"accepted, not used yet: {reason}")


def warn(source: Source, key: Key, message: str) -> None:
    source.warnings.append(Mistake(dotted(key), source.line(key), message))
