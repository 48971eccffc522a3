"""The examples of the OpenAPI document: those of the source documents where they have one.

Tests check them against the schemas beside them, and their names against real answers.
"""

from __future__ import annotations

from typing import Any, Final

# FastAPI leaves out of its document what is null, in examples too: `with_nulls` brings it back.
NULL: Final = "\x00null"

MISTAKE: Final = {
    "path": "rate_limits.qps_limit",
    "message": "Input should be greater than or equal to 0",
    "hint": "",
}
DRY_RUN: Final = {
    "accepted": True,
    "command_id": "2f7c4fce3b9a4ab2a0f1c9f6f0b5d0de",
    "sequence": 0,
    "events": [
        {
            "type": "TenantChanged",
            "version": 1,
            "data": {"changes": {"rate_limits": {"qps_limit": 1000.0}}},
        }
    ],
    "repeated": False,
    "dry_run": True,
}
DONE: Final = {**DRY_RUN, "sequence": 18, "dry_run": False}

# --- tenants -------------------------------------------------------------------------------------

# As both source documents write them.
CREATE: Final[dict[str, dict[str, Any]]] = {
    "flat": {
        "id": "tenant_e",
        "name": "Echo Inc",
        "isolation": "schema",
        "database": "shared_db",
        "schema": "tenant_e",
        "max_connections": 20,
        "qps_limit": 300,
    },
    "nested": {
        "id": "new-tenant",
        "name": "New Tenant",
        "rate_limits": {"requests_per_second": 500},
        "upstream": "shared-backend",
    },
}
PUT: Final = {
    "flat": {key: value for key, value in CREATE["flat"].items() if key != "id"},
    "of a tier": {"name": "Startup", "tier": "starter", "metadata": {"contact": "ann"}},
}
PATCH: Final = {
    "rate": {"rate_limits": {"requests_per_second": 1000}},
    "back to the default": {"rate_limits": {"qps_limit": NULL}},
}
PUT_LIMITS: Final = {"both": {"max_connections": 100, "qps_limit": 2000}}
LIMITS: Final = {
    "qps_limit": 2000.0,
    "burst_multiplier": 2.0,
    "max_connections": 100,
    "max_concurrent_queries": "unlimited",
    "max_query_duration": 60.0,
    "max_transaction_duration": "unlimited",
    "max_idle_in_transaction": 300.0,
    "max_pinned_servers": 5,
    "max_statement_size": 1048576,
    "max_result_size": 104857600,
    "max_rows_per_query": 100000,
}
TENANT: Final[dict[str, Any]] = {
    "id": "tenant_e",
    "name": "Echo Inc",
    "enabled": True,
    "isolation": {
        "strategy": "schema",
        "database_name": "shared_db",
        "schema_name": "tenant_e",
        "tenant_column": "tenant_id",
        "enforcement": "both",
        "shared_tables": [],
        "allowed_functions": [],
        "setting_names": [],
    },
    "pool": {
        "max_connections": 20,
        "min_idle": 1,
        "dedicated_pool": False,
        "idle_timeout": 600.0,
        "max_lifetime": 3600.0,
        "acquire_timeout": 5.0,
    },
    "rate_limits": {**LIMITS, "qps_limit": 300.0, "max_connections": 20},
    "permissions": {
        "allowed_operations": ["SELECT", "INSERT", "UPDATE", "DELETE"],
        "blocked_tables": [],
        "read_only": False,
        "allow_ddl": False,
        "allow_explain": True,
        "allow_system_access": False,
        "max_tables_per_query": 10,
        "allowed_addresses": [],
    },
    "users": [{"name": "appuser"}],
    "metadata": {},
    "tier": NULL,
    "features": {},
    "ai": {
        "retrieval_limit": 10,
        "daily_token_budget": "unlimited",
        "agent_workspace_enabled": False,
        "max_concurrent_agents": "unlimited",
    },
    "status": "active",
    "status_reason": "",
    "provisioned": {"role": "tenantry_tenant_e", "node": ""},
    "settings": {
        "name": "Echo Inc",
        "isolation": {
            "strategy": "schema",
            "database_name": "shared_db",
            "schema_name": "tenant_e",
        },
        "rate_limits": {"max_connections": 20, "qps_limit": 300.0},
        "pool": {"max_connections": 20},
        "users": [{"name": "appuser"}],
    },
    "version": 17,
}
TENANTS: Final = {
    "tenants": [
        {
            "id": "tenant_a",
            "name": "Acme Corp",
            "isolation": "database",
            "active_connections": 25,
            "qps_current": 456,
            "qps_limit": 1000,
            "enabled": True,
            "tier": NULL,
            "status": "active",
        }
    ],
    "total": 1,
    "next_cursor": NULL,
}
DIFF: Final = {
    "tenant": "acme",
    "from": {"sequence": 12, "standing": "there"},
    "to": {"sequence": 17, "standing": "there"},
    "changes": [{"path": "rate_limits.qps_limit", "before": 100.0, "after": 1000.0}],
}
UNDO: Final = {"one": {"sequence": 17}, "although it changed since": {"sequence": 9, "force": True}}
USERS: Final = {"users": [{"name": "appuser"}]}
USER: Final = {"name": "reports"}
ADD_USER: Final = {"password": {"name": "reports", "password": "a long one"}}
PUT_USER: Final = {"password": {"password": "a long one"}}

# --- tiers and defaults --------------------------------------------------------------------------

TIER: Final = {
    "name": "starter",
    "settings": {
        "rate_limits": {"qps_limit": 1000.0},
        "features": {"graphql": True, "websockets": False},
    },
    "tenants": 12,
    "version": 9,
}
TIERS: Final = {"tiers": [TIER], "total": 1, "next_cursor": NULL}
PUT_TIER: Final = {
    "starter": {
        "rate_limits": {"requests_per_second": 1000},
        "features": {"graphql": True, "websockets": False},
    }
}
PATCH_TIER: Final = {"burst": {"rate_limits": {"burst": 3000}}}
DEFAULTS: Final = {
    "rate_limits": {"max_connections": 10, "qps_limit": 100.0},
    "pool": {"max_connections": 10},
}
PUT_DEFAULTS: Final = {
    "flat": {"isolation": "schema", "max_connections": 10, "qps_limit": 100},
}
PATCH_DEFAULTS: Final = {"rate": {"qps_limit": 200}}

# --- operators and tokens ------------------------------------------------------------------------

OPERATOR: Final = {
    "name": "ann",
    "role": "operator",
    "disabled": False,
    "sql": True,
    "tenants": ["acme", "globex"],
    "version": 21,
}
OPERATORS: Final = {"operators": [OPERATOR], "total": 1, "next_cursor": NULL}
PUT_OPERATOR: Final = {
    "only reads": {"role": "viewer"},
    "over SQL too": {"role": "operator", "tenants": ["acme", "globex"], "password": "a long one"},
    "shut out": {"role": "operator", "disabled": True},
}
_TOKEN: Final = {
    "jti": "5b4e3d0c6a7f4f0c9f9d8a1b2c3d4e5f",
    "name": "grafana",
    "role": "viewer",
    "tenant": "",
    "issued_at": 1764576000,
    "expires_at": 1767168000,
}
TOKENS: Final = {"tokens": [{**_TOKEN, "revoked": False}], "total": 1, "next_cursor": NULL}
TOKEN_MADE: Final = {"token": "eyJhbGciOiJFZERTQSJ9.e30.c2ln", **_TOKEN}
MAKE_TOKEN: Final = {
    "viewer": {"name": "grafana", "role": "viewer", "ttl": "30d"},
    "one tenant": {"name": "ann@example.org", "role": "tenant-admin", "tenant": "acme"},
}
NOTE_TOKEN: Final = {
    "viewer": {key: value for key, value in _TOKEN.items() if key not in ("jti", "tenant")}
}

# --- usage and analytics -------------------------------------------------------------------------

STATS: Final[dict[str, Any]] = {
    "tenant_id": "tenant_a",
    "tenant": "tenant_a",
    "connections": {"active": 25, "idle": 10, "max": 50},
    "queries": {"total": 150000, "qps_current": 456, "qps_limit": 1000, "slow_queries": 12},
    "data": {
        "rows_read": 5000000,
        "rows_written": 50000,
        "bytes_read": "1.2GB",
        "bytes_written": "50MB",
    },
    "stats": {
        "requests_total": 150000,
        "requests_per_second": 456,
        "bandwidth_used": "1.2GB",
        "bandwidth_limit": NULL,
        "active_connections": 25,
        "rate_limit_exceeded": 0,
    },
    "quotas": {
        "bandwidth": {"used": 1250000000, "limit": NULL, "reset_at": "2026-12-01T00:00:00Z"}
    },
}
ALL_STATS: Final = {
    "tenants": [STATS],
    "total": {
        "tenants": 1,
        "active_tenants": 1,
        "requests_total": 150000,
        "requests_per_second": 456,
        "active_connections": 25,
        "rate_limit_exceeded": 0,
    },
    "next_cursor": NULL,
}
_RATES: Final = {
    "queries": 450.5,
    "errors": 0,
    "refused": 0.02,
    "rows_read": 12000,
    "rows_written": 80.5,
    "bytes_read": 2400000,
    "bytes_written": 41000,
    "compute": 0.8,
    "limit_hits": 0,
}
_MEASURED: Final[dict[str, Any]] = {
    "qps_current": 456,
    "connections": {"clients": 25, "servers": 12, "servers_idle": 10},
    "totals": {
        "queries": 150000,
        "errors": 7,
        "refused": 3,
        "rows_written": 50000,
        "transactions": 149000,
        "connections": 40,
        "slow_queries": 12,
        "limit_hits": 0,
        "compute_time_ms": 25000,
        "rows_read": 5000000,
        "bytes_read": 1200000000,
        "bytes_written": 50000000,
        "connection_seconds": 90000,
    },
    "rates": {"1m": _RATES, "5m": _RATES},
    "latency": {"p50_ms": 0.41, "p95_ms": 1.2, "p99_ms": 4.9, "average_ms": 0.55},
    "limit_hits": {"qps": 7},
    "last_used": "2026-11-21T10:30:00Z",
}
TENANT_METRICS: Final = {"tenant_id": "tenant_a", "name": "Acme Corp", **_MEASURED}
METRICS: Final = {
    "tenants": 150,
    "active_tenants": 87,
    **_MEASURED,
    "usage_messages": {
        "folded": 5200,
        "repeats": 1,
        "unreadable": 0,
        "missing": 0,
        "lag_seconds": 1.3,
    },
}
CROSS_TENANT: Final = {
    "summary": {"total_tenants": 150, "active_tenants": 87, "total_qps": 45000},
    "top_tenants_by_usage": [{"tenant": "tenant_a", "qps": 5000, "connections": 45}],
    "resource_distribution": {
        "connections_used_pct": 0.65,
        "qps_used_pct": 0.78,
        "tenants_by_tenth": {
            "connections": [63, 10, 10, 10, 10, 10, 10, 10, 10, 7, 0],
            "qps": [63, 10, 10, 10, 10, 10, 10, 10, 10, 7, 0],
        },
        "unlimited_tenants": {"connections": 0, "qps": 0},
    },
    "as_of": "2026-11-21T10:30:00Z",
}
TOP: Final = {
    "by": "bytes_read",
    "seconds": NULL,
    "tenants": [{"tenant": "tenant_a", "qps": 456, "connections": 25, "bytes_read": 1200000000}],
}
HISTORY: Final = {
    "tenant": "acme",
    "step": "hour",
    "history": [{"time": "2026-11-21T10:00:00Z", "queries": 50000, "bytes_read": 500000000}],
}
_COST: Final = {
    "queries": 0.15,
    "rows": 0.0,
    "bytes_read": 1.2,
    "bytes_written": 0.0,
    "connections": 0.0,
    "compute": 0.5,
    "total": 1.85,
}
COSTS: Final = {"currency": "EUR", "tenants": [{"tenant": "acme", **_COST}], "total": _COST}
NOISY: Final = {
    "window_seconds": 300,
    "active_tenants": 4,
    "fair_share": 0.25,
    "compute_seconds": 120,
    "noisy": [
        {
            "tenant": "acme",
            "compute_share": 0.8,
            "queries_share": 0.4,
            "times": 3.2,
            "limit_hits": 12,
        }
    ],
}
LIMIT_HITS: Final = {
    "by_limit": {"qps": 7},
    "tenants": [{"tenant": "acme", "total": 7, "last_5_minutes": 2, "by_limit": {"qps": 7}}],
}
METERING: Final = {
    "events": [
        {
            "tenant_id": "acme",
            "timestamp": "2024-01-15T10:30:00Z",
            "period": "hourly",
            "metrics": {
                "requests": 50000,
                "bandwidth_ingress_bytes": 100000000,
                "bandwidth_egress_bytes": 500000000,
                "compute_time_ms": 25000,
            },
        }
    ]
}

# --- the log, the audit, the installation --------------------------------------------------------

EVENT: Final = {
    "sequence": 17,
    "kind": "tenant",
    "id": "acme",
    "time": "2026-11-21T10:30:00.123456+00:00",
    "actor": "ann",
    "command_id": "2f7c4fce3b9a4ab2a0f1c9f6f0b5d0de",
    "written_at": "2026-11-21T10:30:00.121000+00:00",
    "events": DRY_RUN["events"],
}
EVENTS: Final = {"events": [EVENT], "next_cursor": "16"}
STREAM: Final = 'retry: 2000\n\nid: 17\ndata: {"sequence":17,"kind":"tenant"}\n\n'
EVENT_SHOWN: Final = {**EVENT, "headers": {"Tenantry-Surface": "http"}}
AUDIT: Final = {
    "events": [
        {
            "sequence": 204,
            "kind": "command",
            "time": "2026-11-21T10:30:00.130Z",
            "tenant": "acme",
            "actor": "ann",
            "address": "127.0.0.1",
            "outcome": "ok",
            "detail": "ChangeTenant 2f7c4fce3b9a4ab2a0f1c9f6f0b5d0de 17 http",
        }
    ],
    "next_cursor": "203",
}
AUDIT_VERIFIED: Final = {
    "whole": True,
    "chains": 3,
    "events": 204,
    "stands_for": 210,
    "lost": 0,
    "breaks": [],
}
CONFIG: Final = {
    "installation": {"listen_address": "0.0.0.0:6432", "admin_address": "127.0.0.1:9090"},
    "settings": {"admin_address": "127.0.0.1:9090"},
    "version": 3,
    "sequence": 17,
}
VERSION: Final = {"name": "tenantry", "version": "0.1.0", "python": "3.11.9"}
READY: Final = {
    "ready": True,
    "log_connected": True,
    "staleness_seconds": 0.4,
    "position": 17,
    "workers": {"alive": 2, "wanted": 2},
    "provisioning_pending": 0,
    "provisioning_failing": 0,
    "analytics_ready": True,
    "reasons": [],
}
NOT_READY: Final = {
    "ready": False,
    "reasons": ["1 of 2 workers serve"],
    "workers": {"alive": 1, "wanted": 2},
}
PROMETHEUS: Final = (
    "# TYPE tenantry_tenant_requests_total counter\n"
    'tenantry_tenant_requests_total{tenant="acme"} 150000\n'
)


def with_nulls(part: Any) -> Any:
    """A part of the document, with null where NULL stands."""
    if isinstance(part, dict):
        return {name: with_nulls(value) for name, value in part.items()}
    if isinstance(part, list):
        return [with_nulls(value) for value in part]
    return None if part == NULL else part
