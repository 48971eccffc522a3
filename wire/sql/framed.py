"""What a statement needs among other tenants: edits, or a refusal.

Refusals are raised, so that they hold for one text only: one tenant's literals must not decide what
all texts of a template may do.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from wire.errors import Forbidden, NotSupported
from wire.sql.allowed import (
    function_refused,
    is_system,
    relation_refused,
    search_path_refused,
    setting_refused,
    statistics_refused,
)
from wire.sql.catalog import Catalog
from wire.sql.edits import Edit
from wire.sql.effects import config_arguments, const
from wire.sql.facts import Statement
from wire.sql.fields import Fields
from wire.sql.frame import Frame
from wire.sql.masked import is_masked, mask
from wire.sql.namespaces import namespace
from wire.sql.qualified import Uses, split_path

# RESET and SET … TO DEFAULT, and what search_path then is (where no schema bears a role's name).
_TO_DEFAULT: Final = ("VAR_RESET", "VAR_SET_DEFAULT")
_DEFAULT_PATH: Final = ("public",)
_loaded = False
_CHANNELS: Final = frozenset({"ListenStmt", "UnlistenStmt", "NotifyStmt"})
# Prepared transactions outlive their session, and every client of a role may end them.
_TWO_PHASE: Final = frozenset(
    ["TRANS_STMT_PREPARE", "TRANS_STMT_COMMIT_PREPARED", "TRANS_STMT_ROLLBACK_PREPARED"]
)


def ready(frame: Frame) -> None:
    """Loads what texts of the frame are read with, before the first of them comes."""
    if frame.catalog is not None:
        load()


def is_loaded() -> bool:
    """Whether `load` has nothing left to do."""
    return _loaded


def load() -> None:
    """Load what texts among shared tables are read with. It takes 0.2 s and 40 MB, once: call it in
    a thread where a loop must go on. Threads that call it at once wait for the first of them."""
    global _loaded
    if _loaded:
        return
    from wire.sql import rows  # noqa: F401

    # The second parser stays for ever: full collections of garbage, else 5 ms longer, need not go
    # through it.
    gc.freeze()
    _loaded = True


def fit(
    statement: Statement,
    tree: dict[str, Any],
    text: bytes,
    start: int,
    end: int,
    frame: Frame,
    fields: Fields,
) -> None:
    """Adds to the facts what the frame asks for: schemas that are named, edits.

    tree    {kind: node} of the statement text[start:end], as libpg_query writes it
    fields  those of the statement

    Raises Forbidden and NotSupported.
    """
    kind, node = next(iter(tree.items()))
    if kind == "TransactionStmt" and node.get("kind") in _TWO_PHASE:
        raise Forbidden("prepared transactions are not available in a shared database")
    uses = Uses(statement, tree)
    catalog = frame.catalog
    for each in uses.sets:
        _setting(str(each.get("name", "")), catalog)
    for schema, name in statement.relations:
        if is_system(schema, name) and not is_masked(schema, name, row=catalog is not None):
            _refuse(relation_refused(schema, name, row=catalog is not None))
    own: list[Edit] = []
    if catalog is not None:
        from wire.sql import rows

        _check_rows(uses, catalog)
        _refuse(fields.refused(tree, catalog))
        own = rows.keep(statement, tree, text, start, end, catalog)
    else:
        for _, name, args in uses.calls:
            _refuse(statistics_refused(name))
            if name == "set_config":
                _setting(const(config_arguments(args)[0]) or "", None)
    named: list[Edit] = []
    if kind in _CHANNELS or statement.ddl or _calls_own(statement):
        named = namespace(tree, text, start, end)
    masks: list[Edit] = []
    if any(is_masked(*relation, row=catalog is not None) for relation in statement.relations):
        masks = mask(tree, text, start, end, row=catalog is not None)
    statement.edits = merged(own, named, masks)


def _calls_own(statement: Statement) -> bool:
    """Whether it may call one of the functions for channels and locks (all are pg_…)."""
    return any(name.rpartition(".")[2].startswith("pg_") for name in statement.functions)


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise Forbidden(reason)


def _setting(name: str, catalog: Catalog | None) -> None:
    if name:
        _refuse(setting_refused(name, catalog))


def _check_rows(uses: Uses, catalog: Catalog) -> None:
    """What only tenants may not do whose rows lie in shared tables."""
    for schema, name, args in uses.calls:
        if name != "set_config" or schema not in ("", "pg_catalog"):
            _refuse(function_refused(schema, name, catalog))
            continue
        setting = const(config_arguments(args)[0])
        if setting is None:
            raise Forbidden("permission denied for set_config of a computed name")
        _setting(setting, catalog)
        if setting.lower() == "search_path":
            value = const(config_arguments(args)[1])
            words = None if value is None else split_path(value)
            _search_path([None] if words is None else list(words), catalog)
    for node in uses.sets:
        if str(node.get("name", "")).lower() == "search_path":
            if node.get("kind") in _TO_DEFAULT and catalog.path != _DEFAULT_PATH:
                _search_path([None], catalog)
            _search_path([const(arg) for arg in node.get("args", [])], catalog)
    if uses.operators - {"pg_catalog"} or not uses.symbols.isdisjoint(catalog.operators):
        raise Forbidden("permission denied for operators that are not PostgreSQL's own")


def _search_path(values: Sequence[str | None], catalog: Catalog) -> None:
    """Names without a schema must go on meaning what the catalog finds by them."""
    _refuse(search_path_refused(values, catalog.path, row=True))
    named = [each for each in values if each not in ("", "pg_catalog")]
    if named and named != list(catalog.path):
        raise Forbidden(
            "search_path cannot be changed among shared tables",
            hint="Write the schema before the name of the table.",
        )


def finish(statements: list[Statement], text: bytes, frame: Frame) -> None:
    """Looks at all statements of a text together. Raises NotSupported."""
    if frame.catalog is not None:
        from wire.sql import rows

        rows.prove(statements, text, frame.catalog)


def merged(*lists: list[Edit]) -> list[Edit]:
    """All edits in order. Raises NotSupported where they overlap."""
    edits = sorted((edit for each in lists for edit in each), key=lambda e: (e.start, e.end))
    for one, other in pairwise(edits):
        if other.start < one.end:
            raise NotSupported("statement needs changes within changes")
    return edits
