"""The attack corpus: whatever a hostile tenant sends, another tenant's things stay its own.

Each combination of strategy, enforcement and pool gets a house with a victim full of canaries
(support/attack_house.py); every attack of attacks.toml is run in it by simple query, by the unnamed
statement, and by a named one that outlives the visits of another tenant. With one layer off the
rows must be safe all the same; with both off the attacks must succeed, or the canaries are worth
nothing. The ordinary run takes the ways by turns, `make soak` takes all of them everywhere.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import psycopg
import pytest
from support.attack_client import WAYS
from support.attack_house import ME, OTHER, Combination, House, house
from support.attacks import Attack, load
from support.engines import Postgres
from support.provisioning import lone_postgres

__all__ = ["lone_postgres"]

CORPUS = load()
ATTACKS_MIN = 200
# Of the attacks that hope for rows or changes, so many must succeed where nothing protects: the
# rest needs what only other places have (a function, a schema, an error of the guard).
OPENED_MIN = 150
SECURITY = Path(__file__).resolve().parents[2] / "docs" / "security.md"

# Each once in the ordinary run, the ways by turns.
ORDINARY = [
    Combination("row"),
    Combination("row", "seal"),
    Combination("row", "rewrite"),
    Combination("row", dedicated=True),
    Combination("row", mode="session"),
    Combination("schema"),
    Combination("database"),
]
# Past the proxy: what the database alone does. Few ways, for there is no guard to confuse.
DIRECT = [
    Combination("row", dedicated=True, direct=True),
    Combination("row", direct=True),
    Combination("schema", direct=True),
]
EVERYTHING = [
    Combination("database", direct=True),
    *(
        Combination("row", enforcement, dedicated, mode)
        for enforcement in ("both", "seal", "rewrite")
        for dedicated, mode in [(False, "transaction"), (True, "transaction"), (False, "session")]
    ),
    *(
        Combination(strategy, mode=mode)
        for strategy in ("schema", "database", "branch")
        for mode in ("transaction", "session")
    ),
]


def attack_all(server: Postgres, combination: Combination, *, all_ways: bool) -> list[str]:
    """Every attack in this combination; what went wrong."""
    found: list[str] = []
    with house(server, combination) as made:
        for number, attack in enumerate(CORPUS.attacks):
            ways = WAYS if all_ways else (WAYS[number % len(WAYS)],)
            found += made.run(attack, ways)
        found += made.close()
    return found


def test_the_corpus_is_in_order() -> None:
    assert CORPUS.mistakes == []
    assert len(CORPUS.attacks) >= ATTACKS_MIN
    texts = Counter((each.sql, each.values, each.data, each.call) for each in CORPUS.attacks)
    assert [text for text, count in texts.items() if count > 1] == []


def test_what_remains_is_named_in_the_documentation() -> None:
    told = " ".join(SECURITY.read_text().lower().split())
    assert [a.name for a in CORPUS.attacks if a.residual and a.residual.lower() not in told] == []


def test_an_accepted_key_makes_others_wait_and_tells_nothing_else(lone_postgres: Postgres) -> None:
    """The one lock on another's row that remains: docs/security.md names it."""
    taking = (
        "INSERT INTO codes (code) VALUES ('guessed') ON CONFLICT (code) DO UPDATE SET note = 'x'"
    )
    with (
        house(lone_postgres, Combination("row", still=True)) as made,
        made.made.connect(ME) as attacker,
        made.made.connect(OTHER) as victim,
    ):
        attacker.execute("BEGIN")
        assert attacker.execute(f"{taking} RETURNING note").fetchall() == []
        victim.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            victim.execute("UPDATE codes SET note = note WHERE code = 'guessed'")
        attacker.execute("ROLLBACK")
        victim.execute("UPDATE codes SET note = note WHERE code = 'guessed'")


@pytest.mark.parametrize("combination", ORDINARY, ids=str)
def test_attacks(lone_postgres: Postgres, combination: Combination) -> None:
    assert attack_all(lone_postgres, combination, all_ways=False) == []


@pytest.mark.parametrize("combination", DIRECT, ids=str)
def test_the_database_alone(lone_postgres: Postgres, combination: Combination) -> None:
    assert attack_all(lone_postgres, combination, all_ways=False) == []


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("combination", EVERYTHING, ids=str)
def test_attacks_in_every_way(lone_postgres: Postgres, combination: Combination) -> None:
    assert attack_all(lone_postgres, combination, all_ways=True) == []


def test_attacks_succeed_where_nothing_protects(lone_postgres: Postgres) -> None:
    """The guard's rewriting is off, and so is row-level security: the canaries must be seen."""
    won: Counter[str] = Counter()
    with house(lone_postgres, Combination("row", opened=True)) as made:
        for number, attack in enumerate(CORPUS.attacks):
            if attack.gain in ("rows", "change"):
                won[attack.family] += bool(made.run(attack, (WAYS[number % len(WAYS)],)))
    assert won.total() >= OPENED_MIN, won
    for family in ("predicates", "shapes", "writes", "copy", "errors", "statements"):
        assert won[family] > 0, family


@pytest.mark.parametrize(
    "enforcement", ["both", "rewrite", pytest.param("seal", marks=pytest.mark.soak)]
)
def test_answers_do_not_depend_on_others_rows(lone_postgres: Postgres, enforcement: str) -> None:
    """Each attack in two worlds that differ in the victim's rows only: by no error, no count and no
    plan may the attacker know in which it is."""
    attacks = [each for each in CORPUS.attacks if comparable(each)]
    with house(lone_postgres, Combination("row", enforcement, still=True)) as made:
        assert differing(made, attacks) == []


def test_answers_do_depend_on_others_rows_where_nothing_protects(lone_postgres: Postgres) -> None:
    attacks = [a for a in CORPUS.attacks if comparable(a) and a.family in ("predicates", "errors")]
    with house(lone_postgres, Combination("row", opened=True)) as made:
        assert len(differing(made, attacks)) > len(attacks) // 2


def differing(made: House, attacks: list[Attack]) -> list[tuple[str, object, object]]:
    """The attacks whose answers are others when the victim's rows are."""
    before = [made.answer(each) for each in attacks]
    made.swap()
    after = [made.answer(each) for each in attacks]
    return [
        (attack.name, one, other)
        for attack, one, other in zip(attacks, before, after, strict=True)
        if one != other
    ]


def comparable(attack: Attack) -> bool:
    return not (attack.noisy or attack.residual or attack.call)


# What a client may ask for before it is anybody: libpq's `options`, and whole parameters.
STARTUP = (
    "-c backtrace_functions=tenantry_766578696c6c756d",
    "-c role=tenantry_vexillum",
    "-c session_authorization=tenantry_vexillum",
    "-c row_security=off",
    "-c search_path=tenantry,public",
    "-c search_path=pg_temp,public",
    "-c session_replication_role=replica",
    "-c session_preload_libraries=dblink",
    "-c standard_conforming_strings=off",
    "-c client_encoding=SJIS",
    "-c helios.tenant_id=vexillum",
    "-c app.tenant_id=vexillum",
    "-c default_transaction_isolation=serializable",
    "--backtrace-functions=tenantry_766578696c6c756d",
    "-cbacktrace_functions=tenantry_766578696c6c756d -c search_path=public",
    "tenant=vexillum",
)


@pytest.mark.parametrize(
    "combination",
    [Combination("row"), Combination("row", "seal"), Combination("row", mode="session")],
    ids=str,
)
def test_startup_parameters(lone_postgres: Postgres, combination: Combination) -> None:
    with house(lone_postgres, combination) as made:
        for options in STARTUP:
            try:
                client = made.made.connect(ME, options=options)
            except psycopg.OperationalError:
                continue
            with client:
                try:
                    rows = client.execute("SELECT DISTINCT tenant_id FROM orders").fetchall()
                except psycopg.Error:
                    continue
                assert rows in ([(ME,)], []), options
        for name in (OTHER, "postgres", "template1", "@attacked"):
            with pytest.raises(psycopg.OperationalError):
                made.made.connect(ME, dbname=name)
        for extra in ({"replication": "database"}, {"replication": "true"}):
            with pytest.raises(psycopg.OperationalError):
                made.made.connect(ME, **extra)
