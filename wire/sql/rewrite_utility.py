"""COPY and EXPLAIN of tables whose rows many tenants own, and the statements that none may run."""

from __future__ import annotations

from typing import Final

from wire.errors import Forbidden, NotSupported, TenantryError
from wire.sql.catalog import GUARDED, Relation
from wire.sql.commands import DDL, SYSTEM
from wire.sql.rewrite_splice import quote
from wire.sql.rewrite_state import Node, Rewriter, Scope
from wire.sql.rewrite_text import Text

PLAIN: Final = frozenset(
    [
        *("CallStmt", "ClosePortalStmt", "ConstraintsSetStmt", "DeallocateStmt", "DiscardStmt"),
        *("DeclareCursorStmt", "ExecuteStmt", "FetchStmt", "ListenStmt", "NotifyStmt"),
        *("PrepareStmt", "TransactionStmt", "UnlistenStmt", "VariableSetStmt"),
        "VariableShowStmt",
    ]
)
"""Statements that need nothing by themselves; what they wrap may."""

_OPERATOR: Final = "Migrations of shared tables are run by the operator."
_NAMES: Final = {
    "TruncateStmt": ("TRUNCATE", "Use DELETE."),
    "LockStmt": ("LOCK TABLE", "Use SELECT … FOR UPDATE: it locks your own rows only."),
    "DoStmt": ("DO", "Send the statements themselves."),
    "RefreshMatViewStmt": ("REFRESH MATERIALIZED VIEW", _OPERATOR),
    "CreateTableAsStmt": ("CREATE TABLE AS", _OPERATOR),
    "ViewStmt": ("CREATE VIEW", _OPERATOR),
}

# Options of EXPLAIN that run the statement, or tell figures that other tenants' rows are in.
_TELLING: Final = frozenset(
    ["analyze", "buffers", "wal", "timing", "summary", "memory", "serialize", "generic_plan"]
)
_HARMLESS: Final = frozenset(["format", "verbose", "settings"])
_OFF: Final = frozenset([b"off", b"false", b"none"])


def refusal(kind: str, node: Node) -> TenantryError:
    """Why row tenants may not run a statement of this kind."""
    if kind in _NAMES:
        name, hint = _NAMES[kind]
    elif kind == "VacuumStmt":
        name, hint = "VACUUM" if node.get("is_vacuumcmd") else "ANALYZE", _OPERATOR
    else:
        other = "ALTER" if kind.startswith("Alter") else kind.removesuffix("Stmt").upper()
        name, hint = SYSTEM.get(kind) or DDL.get(kind, other), _OPERATOR
    return Forbidden(f"permission denied for {name} on tables that tenants share", hint=hint)


def explain(rewriter: Rewriter, node: Node, scope: Scope) -> None:
    """Leaves a plan without figures: they come from the rows of all tenants."""
    rewriter.push(node["query"], scope)
    text = rewriter.text
    index = text.expect(0, b"explain")
    options = [each["DefElem"] for each in node.get("options", [])]
    if not options:
        rewriter.splice.insert(text.ends[0], 0, b" (COSTS OFF)")
        return
    if text.word(index) != b"(":
        if any(each["defname"] != "verbose" for each in options):
            raise _told("analyze")
        place = text.starts[index], text.ends[index]
        rewriter.splice.replace(*place, b"(COSTS OFF, VERBOSE)")
        return
    first, last = text.group(index)
    removed = False
    for option, (begin, end) in zip(options, text.split(first, last), strict=True):
        name = option["defname"]
        if name in _HARMLESS:
            continue
        if name in _TELLING:
            # Only by these words: the guard takes texts that differ in literals for one.
            if text.word(begin + 1) not in _OFF:
                raise _told(name)
        elif name != "costs":
            raise NotSupported(
                f"EXPLAIN option {name} is not supported", hint="VERBOSE and FORMAT are."
            )
        rewriter.splice.replace(text.starts[begin], text.ends[end - 1], b"COSTS OFF")
        removed = True
    if not removed:
        rewriter.splice.insert(text.ends[index], 0, b"COSTS OFF, ")


def _told(name: str) -> Forbidden:
    return Forbidden(
        f"permission denied for EXPLAIN ({name.upper()})",
        hint="It would tell of other tenants' rows; EXPLAIN alone shows the plan.",
    )


def copy(rewriter: Rewriter, node: Node, scope: Scope) -> None:
    if node.get("is_program"):
        raise Forbidden("permission denied for COPY with PROGRAM", hint="Use STDIN or STDOUT.")
    if "filename" in node:
        raise Forbidden(
            "permission denied for COPY with a file of the server", hint="Use STDIN or STDOUT."
        )
    rewriter.push_fields(node, scope, "relation", "options")
    target = node.get("relation")
    if target is None:
        return
    text = rewriter.text
    first = text.at(target["location"])
    last = text.name_end(first)
    if node.get("is_from"):
        _copy_from(rewriter, rewriter.target(target), node, first, last)
        return
    relation = rewriter.lookup(target, scope)
    if relation is None or relation.use != GUARDED:
        return
    end = text.group(last + 1)[1] if "attlist" in node else last
    if text.word(first - 1) != b"copy" or _old_delimiters(text, end):
        if not rewriter.on:
            return
        raise NotSupported(
            "the old forms COPY BINARY and COPY … DELIMITERS are not supported",
            hint="Use COPY … TO STDOUT WITH (FORMAT binary) or WITH (DELIMITER …).",
        )
    _copy_to(rewriter, relation, node, first, end)


def _old_delimiters(text: Text, end: int) -> bool:
    """Whether USING DELIMITERS follows the TO STDOUT behind a token."""
    return text.word(end + 3) in (b"using", b"delimiters")


def _plain_columns(relation: Relation) -> bytes:
    """The columns that COPY takes when it names none."""
    names = [each for each in relation.columns if each not in relation.generated]
    return b", ".join(map(quote, names))


def _copy_from(rewriter: Rewriter, relation: Relation, node: Node, first: int, last: int) -> None:
    if relation.staging is None:
        raise NotSupported(
            f"COPY FROM into table {relation.name} is not supported",
            hint="Use INSERT, or let the operator run `tenantry protect` for the table again.",
        )
    text = rewriter.text
    schema, name = relation.staging
    listed = b"" if "attlist" in node else b" (" + _plain_columns(relation) + b")"
    place = text.starts[first], text.ends[last]
    rewriter.splice.replace(*place, quote(schema) + b"." + quote(name) + listed)


def _copy_to(rewriter: Rewriter, relation: Relation, node: Node, first: int, end: int) -> None:
    """COPY of a table, the tokens from `first` to `end`, becomes COPY of a query.

    Also where the database alone enforces: of a partitioned table under row-level security
    PostgreSQL copies no row, and says nothing.
    """
    text = rewriter.text
    names = b", ".join(quote(each["String"]["sval"]) for each in node.get("attlist", []))
    schema = quote(relation.schema) + b"." + quote(relation.name)
    rewriter.splice.replace(
        text.starts[first],
        text.ends[end],
        b"(SELECT " + (names or _plain_columns(relation)) + b" FROM " + schema,
        *((b" WHERE ", *rewriter.predicate(relation, schema)) if rewriter.on else ()),
        b")",
    )
