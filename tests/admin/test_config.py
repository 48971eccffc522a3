"""A configuration file becomes models: the upstream example, variables, paths, secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from admin.config.load import Loaded, load
from admin.config.rules import resolve
from events.model import Tenant
from wire.postgres.scram import make_verifier

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "config"

MINIMAL = """
[[nodes]]
embedded = true

[[multi_tenancy.tenants]]
id = "acme"
"""


def load_text(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> Loaded:
    file = tmp_path / "proxy.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, env or {})


def told(loaded: Loaded) -> list[str]:
    return [mistake.text("proxy.toml") for mistake in loaded.mistakes]


def tenant(loaded: Loaded, id: str) -> Tenant:
    assert loaded.installation is not None, told(loaded)
    return resolve(id, dict(loaded.tenants)[id], loaded.installation.defaults)


def test_the_upstream_example_loads_unchanged() -> None:
    loaded = load(FIXTURES / "heliosproxy-example.toml", {})

    assert told(loaded) == []
    installation = loaded.installation
    assert installation is not None
    assert installation.listen_address == "0.0.0.0:6432"
    assert (installation.pool.min_connections, installation.pool.max_connections) == (2, 100)
    assert installation.pool_mode.mode == "transaction"
    assert installation.pool_mode.reset_query == "DISCARD ALL"
    assert installation.load_balancer.read_write_split
    assert installation.health.failure_threshold == 3
    assert [(node.name, node.role) for node in installation.nodes] == [
        ("primary", "primary"),
        ("standby-1", "standby"),
    ]
    assert installation.identification.methods == ("username_prefix",)
    assert installation.max_tenants == 100

    acme = tenant(loaded, "acme")
    assert (acme.name, acme.database, acme.schema_name) == ("Acme Corporation", "shared_db", "acme")
    assert (acme.pool.max_connections, acme.pool.min_idle, acme.pool.dedicated_pool) == (
        50,
        2,
        False,
    )
    assert acme.rate_limits.qps_limit == 1000
    assert acme.rate_limits.max_query_duration == 60.0
    assert acme.rate_limits.max_result_size == 100 * 1024 * 1024
    assert acme.permissions.allow_ddl

    widgetco = tenant(loaded, "widgetco")
    assert widgetco.isolation.strategy == "database"
    assert widgetco.database == "widgetco_db"
    assert widgetco.pool.dedicated_pool
    assert widgetco.rate_limits.burst_multiplier == 1.5
    assert not widgetco.permissions.allow_ddl
    assert widgetco.permissions.max_tables_per_query == 5


def test_what_the_example_asks_for_in_vain_is_said_with_its_path() -> None:
    warnings = load(FIXTURES / "heliosproxy-example.toml", {}).warnings

    by_path = {warning.path: warning for warning in warnings}
    split = by_path["load_balancer.read_write_split"]
    assert split.message == "accepted, not used yet: read/write split is not part of this version"
    assert split.line == 29
    assert {"admin_address", "tr_enabled", "health.check_query", "nodes[1].role"} <= set(by_path)
    # What asks for just what happens anyway needs no warning.
    assert "pool_mode.prepared_statement_mode" not in by_path
    assert "multi_tenancy.cross_tenant_analytics" not in by_path


def test_the_documented_example_loads() -> None:
    loaded = load(ROOT / "docs" / "example.toml", {})

    assert told(loaded) == []
    assert [warning.path for warning in loaded.warnings] == []
    assert [id for id, _ in loaded.tenants] == ["acme", "widgetco"]
    assert tenant(loaded, "acme").rate_limits.max_rows_per_query is None
    assert tenant(loaded, "acme").database == "shared_db"  # from [multi_tenancy.default]


def test_only_what_is_set_becomes_settings(tmp_path: Path) -> None:
    loaded = load_text(
        tmp_path,
        MINIMAL
        + """
        [multi_tenancy.tenants.rate_limits]
        max_result_size = "100MB"
        max_query_duration = "unlimited"
        qps_limit = inf
        """,
    )

    assert loaded.tenants == [
        (
            "acme",
            {
                "rate_limits": {
                    "max_result_size": 104857600,
                    "max_query_duration": "unlimited",
                    "qps_limit": "unlimited",
                }
            },
        )
    ]
    assert tenant(loaded, "acme").rate_limits.qps_limit is None


def test_defaults_stand_between_the_tenant_and_the_built_in_values(tmp_path: Path) -> None:
    loaded = load_text(
        tmp_path,
        """
        [[nodes]]
        embedded = true
        [multi_tenancy.default.pool]
        max_connections = 33
        min_idle = 0
        [[multi_tenancy.tenants]]
        id = "acme"
        pool = { min_idle = 7 }
        """,
    )

    pool = tenant(loaded, "acme").pool
    assert (pool.max_connections, pool.min_idle, pool.idle_timeout) == (33, 7, 600.0)


def test_without_a_word_about_the_log_it_is_embedded(tmp_path: Path) -> None:
    embedded = load_text(tmp_path, MINIMAL).installation
    elsewhere = load_text(
        tmp_path, MINIMAL + '[events]\nservers = ["nats://10.0.0.1:4222"]'
    ).installation

    assert embedded is not None
    assert embedded.events.embedded
    assert elsewhere is not None
    assert not elsewhere.events.embedded


@pytest.mark.parametrize("written", ['method = "username_prefix"', 'methods = ["username_prefix"]'])
def test_one_method_or_a_list_of_methods(tmp_path: Path, written: str) -> None:
    loaded = load_text(tmp_path, f"{MINIMAL}\n[multi_tenancy.identification]\n{written}")

    assert loaded.installation is not None
    assert loaded.installation.identification.methods == ("username_prefix",)


def test_variables_are_filled_in(tmp_path: Path) -> None:
    loaded = load_text(
        tmp_path,
        """
        listen_address = "${HOST:-127.0.0.1}:${PORT}"
        [[nodes]]
        host = "db"
        port = "${PGPORT:-5433}"
        enabled = "${DB_ON:-true}"
        password = "a$${b}"
        [events]
        servers = "${NATS}"
        """,
        {"PORT": "7000", "HOST": "", "NATS": "nats://a:4222, nats://b:4222"},
    )

    assert told(loaded) == []
    installation = loaded.installation
    assert installation is not None
    assert installation.listen_address == "127.0.0.1:7000"
    node = installation.nodes[0]
    assert (node.port, node.enabled, node.password) == (5433, True, "a${b}")
    assert installation.events.servers == ("nats://a:4222", "nats://b:4222")


def test_a_variable_cannot_bring_keys_into_the_file(tmp_path: Path) -> None:
    loaded = load_text(
        tmp_path,
        '[[nodes]]\nembedded = true\nname = "${NAME}"',
        {"NAME": 'x"\nuser = "mallory" # ${PATH}'},
    )

    assert loaded.installation is not None
    node = loaded.installation.nodes[0]
    assert node.name == 'x"\nuser = "mallory" # ${PATH}'
    assert node.user == "postgres"


def test_an_unset_variable_is_named_once_with_its_place(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, '[[nodes]]\nembedded = true\nport = "${PG_PORT}"')

    assert told(loaded) == [
        "proxy.toml:3: nodes[0].port: the environment variable PG_PORT is not set. "
        'Set it, or give a default: "${PG_PORT:-…}".'
    ]


def test_a_value_from_the_environment_is_not_shown(tmp_path: Path) -> None:
    loaded = load_text(
        tmp_path, 'listen_address = "${WRONG}"\n[[nodes]]\nembedded = true', {"WRONG": "s3cret"}
    )

    assert told(loaded)[0].startswith('proxy.toml:1: listen_address: "${WRONG}" is not an address')
    assert "s3cret" not in repr(loaded)


def test_paths_count_from_the_file(tmp_path: Path) -> None:
    for name in ("server.crt", "server.key"):
        (tmp_path / name).write_text("")
    loaded = load_text(
        tmp_path,
        MINIMAL + '[tls]\nenabled = true\ncert_path = "server.crt"\nkey_path = "server.key"',
    )

    assert loaded.installation is not None
    assert loaded.installation.tls.cert_path == str(tmp_path / "server.crt")


def test_passwords_are_kept_apart_and_never_shown(tmp_path: Path) -> None:
    verifier = make_verifier("other-hunter2")
    loaded = load_text(
        tmp_path,
        f"""
        [[nodes]]
        host = "db"
        password = "node-hunter2"
        [[multi_tenancy.tenants]]
        id = "acme"
        [[multi_tenancy.tenants.users]]
        name = "appuser"
        password = "user-hunter2"
        [[multi_tenancy.tenants.users]]
        name = "other"
        scram = "{verifier}"
        """,
    )

    assert told(loaded) == []
    assert loaded.passwords == {("acme", "appuser"): "user-hunter2"}
    assert loaded.tenants == [
        ("acme", {"users": [{"name": "appuser"}, {"name": "other", "scram": verifier}]})
    ]
    assert loaded.installation is not None
    assert loaded.installation.nodes[0].password == "node-hunter2"
    assert "hunter2" not in repr(loaded) + str(loaded)
