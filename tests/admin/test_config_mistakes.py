"""Every mistake is told at once, with its line, its path and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from admin.config.load import load

FIXTURES = Path(__file__).parents[1] / "fixtures" / "config"

NODE = "[[nodes]]\nembedded = true\n"


def check(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "proxy.toml"
    file.write_text(text, encoding="utf-8")
    loaded = load(file, {})
    assert (loaded.installation is None) == bool(loaded.mistakes)
    return [mistake.text("f") for mistake in loaded.mistakes]


def test_a_file_with_every_mistake() -> None:
    loaded = load(FIXTURES / "mistakes.toml", {})

    where = {(mistake.line, mistake.path) for mistake in loaded.mistakes}
    tenants = "multi_tenancy.tenants"
    assert where == {
        (2, "listen_address"),
        (3, "listen_adress"),
        (6, "pool.min_connections"),
        (8, "pool.idle_timeout_secs"),
        (11, "pool_mode.mode"),
        (13, "rate_limit"),
        (19, "tls.cert_path"),
        (21, "tls.key_path"),
        (25, "events.servers"),
        (29, "nodes[0].port"),
        (30, "nodes[0].password"),
        (34, "nodes[1].role"),
        (37, "multi_tenancy.allow_unknown_tenants"),
        (38, "multi_tenancy.max_tenants"),
        (42, "multi_tenancy.identification.methods"),
        (43, "multi_tenancy.identification.fallback"),
        (49, f"{tenants}[0].pool.min_idle"),
        (50, f"{tenants}[0].pool.max_conections"),
        (53, f"{tenants}[0].permissions.allowed_operations[1]"),
        (54, f"{tenants}[0].permissions.blocked_tables[0]"),
        (55, f"{tenants}[0].permissions.allowed_addresses[0]"),
        (59, f"{tenants}[0].users[0].password"),
        (61, f"{tenants}[0].users[1]"),
        (65, f"{tenants}[1].id"),
        (68, f"{tenants}[2].id"),
        (71, f"{tenants}[3].id"),
        (78, f"{tenants}[5].id"),
        (83, f"{tenants}[6].qps_limit"),
        (86, f"{tenants}[6].isolation.strategy"),
        (88, f"{tenants}[7].id"),
    }
    assert (16, "cache") in {(warning.line, warning.path) for warning in loaded.warnings}
    assert all(mistake.remedy for mistake in loaded.mistakes)
    assert loaded.installation is None
    assert loaded.tenants == []
    assert "12345" not in "".join(mistake.text("f") for mistake in loaded.mistakes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listen_adress = 1", 'f:1: listen_adress: unknown key. Did you mean "listen_address"?'),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\nqps_limit = 1',
            "f:5: multi_tenancy.tenants[0].qps_limit: unknown key. "
            'Did you mean "qps_limit" in the table "rate_limits"?',
        ),
        (
            '[multi_tenancy.identification]\nmethod = "jwt_claim"',
            'f:4: multi_tenancy.identification.methods: identification by "jwt_claim" is not '
            'available in this version. Use "username_prefix", "database_name" or '
            '"startup_option".',
        ),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\nisolation = "schema"',
            "f:5: multi_tenancy.tenants[0].isolation: must be a table. "
            "Write its keys below [multi_tenancy.tenants.isolation].",
        ),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\nisolation.schema_name = "public"',
            'f:5: multi_tenancy.tenants[0].isolation.schema_name: schema "public" is reserved. '
            "Choose another schema_name.",
        ),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\n'
            'isolation = { strategy = "database", database_name = "postgres" }',
            'f:4: multi_tenancy.tenants[0].id: database "postgres" is reserved. '
            "Choose another database_name.",
        ),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\n'
            '[[multi_tenancy.tenants]]\nid = "b"\n[multi_tenancy.tenants.isolation]\n'
            'schema_name = "a"',
            'f:8: multi_tenancy.tenants[1].isolation.schema_name: schema "a" of database '
            '"shared_db" already belongs to tenant "a". Choose another schema_name.',
        ),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\n'
            '[[multi_tenancy.tenants]]\nid = "b"\n[multi_tenancy.tenants.isolation]\n'
            'strategy = "database"\ndatabase_name = "shared_db"',
            'f:9: multi_tenancy.tenants[1].isolation.database_name: database "shared_db" also '
            "holds tenants that share it. Give this tenant a database of its own.",
        ),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\nisolation.strategy = "row"\n'
            '[[multi_tenancy.tenants]]\nid = "b"\n[multi_tenancy.tenants.isolation]\n'
            'strategy = "row"\ntenant_value = "a"',
            'f:10: multi_tenancy.tenants[1].isolation.tenant_value: the value "a" in database '
            '"shared_db" already belongs to tenant "a". Choose another tenant_value.',
        ),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\n'
            '[[multi_tenancy.tenants]]\nid = "b"\n[multi_tenancy.tenants.isolation]\n'
            'strategy = "row"\nschema_name = "a"',
            'f:9: multi_tenancy.tenants[1].isolation.schema_name: schema "a" belongs to tenant '
            '"a". Name the schema of the shared tables.',
        ),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\nisolation.strategy = "row"\n'
            '[[multi_tenancy.tenants]]\nid = "b"\n[multi_tenancy.tenants.isolation]\n'
            'strategy = "row"\nenforcement = "rewrite"',
            'f:10: multi_tenancy.tenants[1].isolation.enforcement: "rewrite" does not go with '
            '"both" of tenant "a" in the same database. '
            'Use "rewrite" for all row tenants of a database, or for none.',
        ),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\nisolation.strategy = "row"\n'
            'isolation.schema_name = "tenantry"',
            'f:6: multi_tenancy.tenants[0].isolation.schema_name: schema "tenantry" is reserved. '
            "Choose another schema_name.",
        ),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\nisolation.strategy = "branch"',
            "f:4: multi_tenancy.tenants[0].id: a branch needs a base. "
            "Set isolation.branch_base to the database to clone.",
        ),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\n'
            'isolation = { strategy = "branch", branch_base = "x", branch_name = "x" }',
            "f:4: multi_tenancy.tenants[0].id: a branch cannot be its own base. "
            "Choose another branch_name or branch_base.",
        ),
        (
            f'[[multi_tenancy.tenants]]\nid = "{"x" * 62}"\nisolation.strategy = "database"',
            f'f:4: multi_tenancy.tenants[0].id: database "{"x" * 62}_db" is longer than 63 bytes. '
            "Choose another database_name.",
        ),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\npermissions = { allow_ddl = false, '
            'allowed_operations = ["select", "create"] }',
            "f:5: multi_tenancy.tenants[0].permissions.allow_ddl: is false, but "
            "allowed_operations names CREATE. Remove one of the two.",
        ),
        (
            '[[multi_tenancy.tenants]]\nid = "a"\nusers = [{ name = "u", scram = "md5abc" }]',
            "f:5: multi_tenancy.tenants[0].users[0].scram: is not a SCRAM-SHA-256 verifier. "
            "Copy it whole.",
        ),
        (
            "tls = { require = true }",
            "f:1: tls.require: needs TLS. Set enabled = true and a certificate.",
        ),
        (
            "events = { embedded = false }",
            "f:1: events: there is no log. Set embedded = true, or name the NATS servers.",
        ),
        (
            "multi_tenancy = { enabled = false }",
            "f:1: multi_tenancy.enabled: tenants are always kept apart. Use true, or remove it.",
        ),
    ],
)
def test_a_mistake_and_its_remedy(tmp_path: Path, text: str, expected: str) -> None:
    # Keys of the top level stand before the first table, tables after it.
    whole = f"{NODE}{text}" if text.startswith("[") else f"{text}\n{NODE}"
    assert check(tmp_path, whole) == [expected]


def test_no_node(tmp_path: Path) -> None:
    assert check(tmp_path, "") == [
        "f: nodes: there is no PostgreSQL to use. Add [[nodes]] with host and port, or embedded."
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\nb = = 2", "f:2: column 5: not TOML: Invalid value. Texts stand in double quotes."),
        ("[a]\n[a]", "f:2: column 3: not TOML: Cannot declare ('a',) twice"),
        ('a = "x', "f:1: not TOML: "),
    ],
)
def test_broken_toml_is_told_with_line_and_column(tmp_path: Path, text: str, expected: str) -> None:
    mistakes = check(tmp_path, text)
    assert len(mistakes) == 1
    assert mistakes[0].startswith(expected)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = load(tmp_path / "none.toml", {})
    assert missing.mistakes[0].message == "cannot be read: No such file or directory"

    directory = load(tmp_path, {})
    assert directory.mistakes[0].message == "cannot be read: Is a directory"

    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'a = 1\nb = "\xe9"\n')
    assert load(latin, {}).mistakes[0].text("f") == "f:2: not UTF-8 text. Save the file as UTF-8."


def test_lines_are_found_behind_texts_and_comments_that_look_like_keys(tmp_path: Path) -> None:
    text = f'''{NODE}
name = """
[[multi_tenancy.tenants]]
wrong = 1
"""
# wrong = 2
[[multi_tenancy.tenants]]
id = "a"
[[multi_tenancy.tenants]]
id = "b"
[multi_tenancy.tenants.metadata]
x = "1"
[multi_tenancy.tenants . pool] # a comment
"wrong" = 3
'''
    assert [line.split(": ")[0] for line in check(tmp_path, text)] == ["f:16"]
