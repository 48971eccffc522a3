"""The oracle's tables and rows: after TPC-H, small, with three tenants whose keys are the same.

The rows hold what goes wrong: NULLs, duplicates, rows that two tenants have in common, quotes,
columns and a table with quoted names, arrays, JSON, and values of others that a cast fails on.
"""

from __future__ import annotations

import datetime
import json
import random
from decimal import Decimal
from typing import Any, Final

TENANTS: Final = ("acme", "globex", "initech")
SHARED: Final = ("region", "nation")

# {tenant} is the tenant column with its default. It stands in another place in each table.
SCHEMA: Final = """
CREATE TABLE region (r_regionkey int PRIMARY KEY, r_name text NOT NULL, r_comment text);
CREATE TABLE nation (n_nationkey int PRIMARY KEY, n_name text NOT NULL,
  n_regionkey int REFERENCES region, n_comment text);
CREATE TABLE supplier ({tenant}, s_suppkey int, s_name text, s_address text, s_nationkey int,
  s_phone text, s_acctbal numeric(12,2), s_comment text,
  PRIMARY KEY (tenant_id, s_suppkey), UNIQUE (tenant_id, s_name));
CREATE TABLE part (p_partkey int, p_name text, p_mfgr text, p_brand text, p_type text, p_size int,
  p_container text, p_retailprice numeric(12,2), p_comment text, {tenant},
  PRIMARY KEY (tenant_id, p_partkey));
CREATE TABLE partsupp (ps_partkey int, ps_suppkey int, {tenant}, ps_availqty int,
  ps_supplycost numeric(12,2), ps_comment text);
CREATE TABLE customer ({tenant}, c_custkey int, c_name text, c_address text, c_nationkey int,
  c_phone text, c_acctbal numeric(12,2), c_mktsegment char(10), c_comment text,
  PRIMARY KEY (tenant_id, c_custkey));
CREATE TABLE orders (o_orderkey int, o_custkey int, o_orderstatus char(1) DEFAULT 'O',
  o_totalprice numeric(12,2) CHECK (o_totalprice >= 0), o_orderdate date, o_orderpriority text,
  o_clerk text, o_shippriority int DEFAULT 0, o_comment text, {tenant},
  PRIMARY KEY (tenant_id, o_orderkey),
  FOREIGN KEY (tenant_id, o_custkey) REFERENCES customer ON DELETE SET NULL (o_custkey));
CREATE TABLE lineitem ({tenant}, l_orderkey int, l_partkey int, l_suppkey int, l_linenumber int,
  l_quantity numeric(12,2) CHECK (l_quantity > 0), l_extendedprice numeric(12,2),
  l_discount numeric(4,2), l_tax numeric(4,2), l_returnflag char(1), l_linestatus char(1),
  l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct text, l_shipmode text,
  l_comment text,
  l_net numeric GENERATED ALWAYS AS (l_extendedprice * (1 - l_discount)) STORED,
  PRIMARY KEY (tenant_id, l_orderkey, l_linenumber),
  FOREIGN KEY (tenant_id, l_orderkey) REFERENCES orders ON DELETE CASCADE)
  PARTITION BY HASH (l_orderkey);
CREATE TABLE lineitem_0 PARTITION OF lineitem FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE lineitem_1 PARTITION OF lineitem FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE "Notes" ("Key" int, {tenant}, "Body ""x"" text" text, tags text[], doc jsonb);
CREATE VIEW open_orders WITH (security_invoker) AS
  SELECT tenant_id, o_orderkey, o_custkey, o_totalprice, o_orderdate FROM orders
  WHERE o_orderstatus = 'O';
"""

# Columns that the generators use, by kind of type.
COLUMNS: Final[dict[str, dict[str, str]]] = {
    "region": {"r_regionkey": "int", "r_name": "text", "r_comment": "text"},
    "nation": {"n_nationkey": "int", "n_name": "text", "n_regionkey": "int", "n_comment": "text"},
    "supplier": {
        "tenant_id": "text",
        "s_suppkey": "int",
        "s_name": "text",
        "s_address": "text",
        "s_nationkey": "int",
        "s_phone": "text",
        "s_acctbal": "num",
        "s_comment": "text",
    },
    "part": {
        "p_partkey": "int",
        "p_name": "text",
        "p_mfgr": "text",
        "p_brand": "text",
        "p_type": "text",
        "p_size": "int",
        "p_container": "text",
        "p_retailprice": "num",
        "p_comment": "text",
        "tenant_id": "text",
    },
    "partsupp": {
        "ps_partkey": "int",
        "ps_suppkey": "int",
        "tenant_id": "text",
        "ps_availqty": "int",
        "ps_supplycost": "num",
        "ps_comment": "text",
    },
    "customer": {
        "tenant_id": "text",
        "c_custkey": "int",
        "c_name": "text",
        "c_address": "text",
        "c_nationkey": "int",
        "c_phone": "text",
        "c_acctbal": "num",
        "c_mktsegment": "text",
        "c_comment": "text",
    },
    "orders": {
        "o_orderkey": "int",
        "o_custkey": "int",
        "o_orderstatus": "text",
        "o_totalprice": "num",
        "o_orderdate": "date",
        "o_orderpriority": "text",
        "o_clerk": "text",
        "o_shippriority": "int",
        "o_comment": "text",
        "tenant_id": "text",
    },
    "lineitem": {
        "tenant_id": "text",
        "l_orderkey": "int",
        "l_partkey": "int",
        "l_suppkey": "int",
        "l_linenumber": "int",
        "l_quantity": "num",
        "l_extendedprice": "num",
        "l_discount": "num",
        "l_tax": "num",
        "l_returnflag": "text",
        "l_linestatus": "text",
        "l_shipdate": "date",
        "l_commitdate": "date",
        "l_receiptdate": "date",
        "l_shipinstruct": "text",
        "l_shipmode": "text",
        "l_comment": "text",
        "l_net": "num",
    },
    '"Notes"': {
        '"Key"': "int",
        "tenant_id": "text",
        '"Body ""x"" text"': "text",
        "tags": "arr",
        "doc": "json",
    },
    "open_orders": {
        "tenant_id": "text",
        "o_orderkey": "int",
        "o_custkey": "int",
        "o_totalprice": "num",
        "o_orderdate": "date",
    },
}
# What orders a tenant's rows of a table totally; tables without are not here.
KEYS: Final[dict[str, tuple[str, ...]]] = {
    "region": ("r_regionkey",),
    "nation": ("n_nationkey",),
    "supplier": ("s_suppkey",),
    "part": ("p_partkey",),
    "customer": ("c_custkey",),
    "orders": ("o_orderkey",),
    "lineitem": ("l_orderkey", "l_linenumber"),
    "open_orders": ("o_orderkey",),
}
WRITTEN: Final = (
    *("supplier", "part", "partsupp", "customer", "orders", "lineitem"),
    '"Notes"',
)
TEXTS: Final = (
    *("plain", "it's quoted", 'say "hi"', "back\\slash", "ünïcödé", "100% sure", "a_b", ""),
    *("special requests", "Customer Complaints", "green", "forest", "-- no comment", "$$", "12"),
)

REGIONS: Final = ("AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST")
NATIONS: Final = (
    *(("ALGERIA", 0), ("ARGENTINA", 1), ("BRAZIL", 1), ("CANADA", 1), ("EGYPT", 4)),
    *(("FRANCE", 3), ("GERMANY", 3), ("INDIA", 2), ("JAPAN", 2), ("SAUDI ARABIA", 4)),
)
SEGMENTS: Final = ("BUILDING", "AUTOMOBILE", "MACHINERY")
PRIORITIES: Final = ("1-URGENT", "2-HIGH", "3-MEDIUM", "5-LOW")
MODES: Final = ("MAIL", "SHIP", "AIR", "AIR REG", "RAIL")
TYPES: Final = ("PROMO BRUSHED STEEL", "ECONOMY ANODIZED STEEL", "MEDIUM POLISHED BRASS")
CONTAINERS: Final = ("SM CASE", "MED BOX", "MED BAG", "LG BOX", "JUMBO PKG")
FIRST_DAY: Final = datetime.date(1993, 1, 1)
DAYS: Final = 1500

Row = list[Any]


def _maybe(rng: random.Random, value: Any, share: float = 0.12) -> Any:
    return None if rng.random() < share else value


def _money(rng: random.Random, low: int, high: int) -> Decimal:
    return Decimal(rng.randint(low * 100, high * 100)) / 100


def _day(rng: random.Random) -> datetime.date:
    return FIRST_DAY + datetime.timedelta(rng.randrange(DAYS))


def _things(rng: random.Random, tenant: str) -> dict[str, list[Row]]:
    """Suppliers, parts, what suppliers have, and customers."""

    def note() -> Any:
        return _maybe(rng, rng.choice(TEXTS))

    def phone() -> str:
        return f"{rng.randint(10, 19)}-{rng.randint(100, 999)}"

    suppliers = [
        [
            tenant,
            key,
            f"Supplier#{key}",
            note(),
            _maybe(rng, rng.randrange(10)),
            phone(),
            _maybe(rng, _money(rng, -500, 5000)),
            note(),
        ]
        for key in range(1, 8)
    ]
    parts = [
        [
            key,
            f"{rng.choice(('green', 'forest', 'red'))} part {key}",
            f"Manufacturer#{key % 3}",
            f"Brand#{rng.randint(1, 3)}{rng.randint(1, 3)}",
            rng.choice(TYPES),
            rng.randint(1, 15),
            rng.choice(CONTAINERS),
            _money(rng, 900, 1100),
            note(),
            tenant,
        ]
        for key in range(1, 11)
    ]
    offers = [
        [
            rng.randint(1, 10),
            rng.randint(1, 7),
            tenant,
            _maybe(rng, rng.randint(1, 900)),
            _money(rng, 1, 1000),
            note(),
        ]
        for _ in range(18)
    ]
    offers += [list(row) for row in offers[:3]]
    customers = [
        [
            tenant,
            key,
            f"Customer#{key}",
            note(),
            rng.randrange(10),
            phone(),
            _maybe(rng, _money(rng, -900, 9000)),
            rng.choice(SEGMENTS),
            note(),
        ]
        for key in range(1, 11)
    ]
    return {"supplier": suppliers, "part": parts, "partsupp": offers, "customer": customers}


def _sales(rng: random.Random, tenant: str) -> dict[str, list[Row]]:
    orders, lines = [], []
    for key in range(1, 25):
        day = _day(rng)
        status = rng.choice("OFP")
        orders.append(
            [
                key,
                _maybe(rng, rng.randint(1, 9)),
                status,
                _money(rng, 100, 9000),
                day,
                rng.choice(PRIORITIES),
                f"Clerk#{rng.randint(1, 4)}",
                rng.randint(0, 1),
                _maybe(rng, rng.choice(TEXTS)),
                tenant,
            ]
        )
        for number in range(1, rng.randint(1, 4)):
            shipped = day + datetime.timedelta(rng.randint(1, 90))
            lines.append(
                [
                    tenant,
                    key,
                    rng.randint(1, 10),
                    _maybe(rng, rng.randint(1, 7)),
                    number,
                    rng.randint(1, 50),
                    _maybe(rng, _money(rng, 10, 5000), 0.05),
                    Decimal(rng.randint(0, 10)) / 100,
                    Decimal(rng.randint(0, 8)) / 100,
                    rng.choice("RAN"),
                    rng.choice("OF"),
                    shipped,
                    _day(rng),
                    shipped + datetime.timedelta(rng.randint(1, 30)),
                    "DELIVER IN PERSON",
                    rng.choice(MODES),
                    _maybe(rng, rng.choice(TEXTS)),
                ]
            )
    return {"orders": orders, "lineitem": lines}


def _notes(rng: random.Random, tenant: str) -> list[Row]:
    out: list[Row] = []
    for key in range(1, 9):
        tags = rng.sample(["red", "o'hara", 'q"t', "green", "x y"], rng.randint(0, 3))
        doc = {"a": rng.randint(1, 5), "b": rng.choice(TEXTS), "list": [1, key], "of": key % 3}
        out.append([key, tenant, rng.choice(TEXTS), _maybe(rng, tags), _maybe(rng, doc)])
    return [*out, list(out[0])]


def rows(tenant: str) -> dict[str, list[Row]]:
    """A tenant's rows by table, parents first; the same in every run."""
    number = TENANTS.index(tenant)
    made = _things(random.Random(100 + number), tenant)
    made |= _sales(random.Random(200 + number), tenant)
    made['"Notes"'] = _notes(random.Random(300 + number), tenant)
    # What two tenants have in common but for the tenant, and what only the others have: a name that
    # is no number, a size that some divide by, a day that others lack.
    common = [99, 3, "O", Decimal("777.77"), datetime.date(1995, 5, 5), "5-LOW", "Clerk#1", 0]
    made["orders"].append([*common, "the same", tenant])
    if tenant != "acme":
        made["part"].append([11, "not a number", "0", "0", "0", 0, "0", Decimal(0), "NaN?", tenant])
    return made


def reference() -> dict[str, list[Row]]:
    nations = [[key, name, where, f"of {name}"] for key, (name, where) in enumerate(NATIONS)]
    regions = [[key, name, None] for key, name in enumerate(REGIONS)]
    return {"region": regions, "nation": nations}


def insert_rows(connection: Any, made: dict[str, list[Row]]) -> None:
    """Fill tables, as somebody whom row-level security does not hold."""
    for table, values in made.items():
        columns = ", ".join(name for name in COLUMNS[table] if name != "l_net")
        with connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
            for row in values:
                copy.write_row([json.dumps(v) if isinstance(v, dict) else v for v in row])
