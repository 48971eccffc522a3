"""Splicing keeps what it does not change: generated queries, written in every manner."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from support.rewriting import KINDS, catalog, edits, literal, statements

from wire.errors import SyntaxRefused
from wire.sql.analyse import parse
from wire.sql.edits import apply
from wire.sql.lexer import tokens
from wire.sql.rewrite_check import check

KIND = KINDS["text"]
KNOWN = catalog(KIND, sealed=True)
ALONE = catalog(KIND)
VALUE = literal(KIND)

GAPS = [" ", "\n", "\t", " /* FROM x WHERE */ ", " -- ) OR (\n", " /* /* ' */ $$ */ ", "\r\n "]
CONDITIONS = [
    *("true", "a . id = 1 OR b . id = 2", "left ( 'x' , 1 ) = 'x'", "x IS NOT DISTINCT FROM 1"),
    *("CASE WHEN a . id = 1 THEN true END", "E'\\'' = $$'$$", 'a . "where" = 1', "( ( a . x ) )"),
    *(
        "x IN ( SELECT id FROM items )",
        "EXISTS ( TABLE orders )",
        "a . from = 'AND' AND b . on = 1",
    ),
]
TABLES = ["orders", "items", "customers", "countries", "public . orders", "countries", '"orders"']
ALIASES = ["", "a", "AS b", 'AS "left"', "AS c ( p , q )", "d"]
RESULTS = ["*", "id AS from", "1 select", "count ( * )", "a . where , b . *", "x distinct"]
TAILS = [
    *(
        "",
        "",
        "GROUP BY id",
        "ORDER BY 1 LIMIT 3",
        "FOR UPDATE OF z",
        "HAVING true",
        "OFFSET 1 ROWS",
    ),
    *("WINDOW w AS ( ORDER BY id )", "FETCH FIRST ROW ONLY"),
]

conditions = st.sampled_from(CONDITIONS)


@st.composite
def joined(draw: st.DrawFn, depth: int) -> str:
    """A table, a sub-query, or a join of two."""
    kind = draw(st.integers(0, 9 if depth else 4))
    if kind < 4:
        table, alias = draw(st.sampled_from(TABLES)), draw(st.sampled_from(ALIASES))
        only = draw(st.sampled_from(["", "", "", "ONLY"]))
        sample = draw(st.sampled_from(["", "", "", "TABLESAMPLE system ( 9 ) REPEATABLE ( 1 )"]))
        return f"{only} {table} {alias} {sample}"
    if kind == 4:
        inner = draw(queries(depth - 1)) if depth else "VALUES ( 1 )"
        return f"{draw(st.sampled_from(['', 'LATERAL']))} ( {inner} ) AS s{draw(st.integers(0, 9))}"
    left, right = draw(joined(depth - 1)), draw(joined(depth - 1))
    join = draw(
        st.sampled_from(["", "INNER", "LEFT", "RIGHT OUTER", "FULL", "CROSS", "NATURAL LEFT"])
    )
    if join in ("CROSS", "NATURAL LEFT"):
        clause = ""
    else:
        clause = draw(st.sampled_from(["ON", "ON", "USING ( id )", "USING ( id ) AS u"]))
        clause = f"ON {draw(conditions)}" if clause == "ON" else clause
    if draw(st.booleans()):
        right = f"( {right} )" if "JOIN" in right else right
    text = f"{left} {join} JOIN {right} {clause}"
    return draw(st.sampled_from([text, text, f"( {text} )", f"( {text} ) AS j"]))


@st.composite
def queries(draw: st.DrawFn, depth: int) -> str:
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return f"TABLE {draw(st.sampled_from(TABLES))}"
    if kind == 1 and depth:
        sets = draw(st.sampled_from(["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]))
        return f"( {draw(queries(depth - 1))} ) {sets} ( {draw(queries(depth - 1))} )"
    if kind == 2 and depth:
        inner = draw(queries(depth - 1))
        return f"WITH orders AS ( {inner} ) SELECT * FROM orders , items"
    items = draw(st.lists(joined(depth), min_size=1, max_size=3))
    where = f"WHERE {draw(conditions)}" if draw(st.booleans()) else ""
    result, tail = draw(st.sampled_from(RESULTS)), draw(st.sampled_from(TAILS))
    return f"SELECT {result} FROM {' , '.join(items)} {where} {tail}"


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A query, with anything that separates words between its words."""
    words = draw(queries(2)).split()
    return "".join(word + draw(st.sampled_from(GAPS)) for word in words)


def plain(node: Any) -> Any:
    """A tree without positions, and without what rewriting puts in."""
    if isinstance(node, list):
        return [plain(each) for each in node]
    if not isinstance(node, dict):
        return node
    if "RangeSubselect" in node and (table := own_select(node["RangeSubselect"])) is not None:
        return plain(table)
    out = {key: plain(each) for key, each in node.items() if key not in ("location", "stmt_len")}
    for key in ("whereClause", "quals"):
        if key in out:
            rest = [each for each in conjuncts(out[key]) if not is_mine(each)]
            del out[key]
            if rest:
                out[key] = rest[0] if len(rest) == 1 else {"AND": rest}
    return out


def conjuncts(node: Any) -> list[Any]:
    if isinstance(node, dict) and node.get("BoolExpr", {}).get("boolop") == "AND_EXPR":
        return [part for each in node["BoolExpr"]["args"] for part in conjuncts(each)]
    return node["AND"] if isinstance(node, dict) and "AND" in node else [node]


def is_mine(node: Any) -> bool:
    words = node.get("A_Expr", {}).get("name", [])
    return len(words) == 2 and words[0]["String"]["sval"] == "pg_catalog"


def own_select(node: Any) -> Any:
    """The table that a sub-select of ours stands for."""
    query = node["subquery"]["SelectStmt"]
    source = query.get("fromClause", [{}])
    where = query.get("whereClause")
    if len(source) != 1 or where is None or "A_Expr" not in where or not is_mine(where):
        return None
    if "alias" not in node or source[0].keys() - {"RangeVar", "RangeTableSample"}:
        return None
    table = source[0].get("RangeVar") or source[0]["RangeTableSample"]["relation"]["RangeVar"]
    if table.get("alias", {}).get("aliasname") != node["alias"]["aliasname"]:
        return None
    copied = orjson.loads(orjson.dumps(source[0]))
    inner = copied.get("RangeVar") or copied["RangeTableSample"]["relation"]["RangeVar"]
    inner["alias"] = node["alias"]
    return copied


def tree(sql: bytes) -> Any:
    return plain([each["stmt"] for each in parse(sql)])


def unaliased(node: Any) -> Any:
    """Without aliases that are the table's own name: sub-selects of ours give it."""
    if isinstance(node, list):
        return [unaliased(each) for each in node]
    if not isinstance(node, dict):
        return node
    out = {key: unaliased(each) for key, each in node.items()}
    if "relname" in out and out.get("alias") == {"aliasname": out["relname"]}:
        del out["alias"]
    return out


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts(), st.booleans())
def test_a_rewritten_query_is_the_query_with_our_conditions(sql: str, sealed: bool) -> None:
    text = sql.encode()
    try:
        parse(text)
    except SyntaxRefused:
        reject()
    known = KNOWN if sealed else ALONE
    changes = edits(text, known)
    outcome = apply(text, changes, [VALUE])
    assert unaliased(tree(outcome)) == unaliased(tree(text))
    assert check(outcome, known, VALUE) is None


def test_the_statements_of_the_corpus_keep_all_bytes_and_tokens() -> None:
    for sql in statements(KIND):
        text = sql.encode()
        changes = edits(text, KNOWN)
        outcome = apply(text, changes, [VALUE])
        kept = []
        before = after = 0
        for change in changes:
            kept.append((text[before : change.start], outcome[after:]))
            assert kept[-1][1].startswith(kept[-1][0])
            after += len(kept[-1][0]) + len(change.filled([VALUE]))
            before = change.end
        assert outcome[after:] == text[before:]
        # No edit splits a token, or joins two.
        ends = {end for _, _, end in tokens(text) or []}
        starts = {start for _, start, _ in tokens(text) or []}
        for change in changes:
            assert change.start in starts | ends
            assert change.end in starts | ends
