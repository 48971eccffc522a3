"""What protecting cannot put right by itself: some is told, some must be accepted by name. Pure.

An acceptance holds for the definition that was accepted: a constraint that is made anew with other
columns under the same name has to be accepted again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from psycopg import sql

from admin.protect.facts import Facts, Table, label
from admin.protect.names import GUARD_POLICY, ROWS_POLICY
from admin.provision.steps import Row

_ACTIONS: Final = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT", "r": "RESTRICT"}
_KEYS: Final = {
    "primary": "primary key",
    "unique": "unique key",
    "exclusion": "exclusion constraint",
}
# What PostgreSQL writes at the end of a constraint's definition.
_DEFERRABLE: Final = re.compile(r" DEFERRABLE( INITIALLY DEFERRED)?(?=( NOT VALID)?$)")
_NAME_MAX: Final = 63


@dataclass(frozen=True)
class Concern:
    """`table` stays closed to tenants while a concern about it `blocks`; "" is about no table.

    key         what `--accept` takes
    definition  what an acceptance holds for; "" when it cannot be accepted
    generated   a key whose values are generated: `--accept-primary-keys` accepts it
    """

    table: str
    key: str
    kind: str
    what: str
    fix: str = ""
    definition: str = ""
    generated: bool = False
    serious: bool = True
    accepted: bool = False

    @property
    def blocks(self) -> bool:
        return self.serious and not self.accepted

    def as_dict(self) -> dict[str, Any]:
        told = asdict(self)
        told["acceptable"] = bool(told.pop("definition"))
        del told["serious"], told["generated"]
        return told | {"blocks": self.blocks}


def concerns(
    facts: Facts, shared: Sequence[str], accepting: frozenset[str] = frozenset()
) -> list[Concern]:
    """All of them, the accepted ones too."""
    found = [
        *(each for table in facts.tables for each in _of_table(table, facts)),
        # Corrected in this order: a primary key stays while foreign keys refer to it alone.
        *_foreign_keys(facts, shared),
        *_keys(facts),
        *_attached(facts),
        *_views(facts, shared),
        *_open_others(facts, shared),
        *_shared(facts, shared),
        *_elsewhere(facts),
    ]
    return [_judged(each, facts, accepting) for each in found]


def _judged(concern: Concern, facts: Facts, accepting: frozenset[str]) -> Concern:
    if not concern.definition:
        return concern
    remembered = facts.accepted.get(concern.key) == concern.definition
    if not remembered and concern.key not in accepting:
        return concern
    return Concern(**{**asdict(concern), "accepted": True})


def chosen(
    found: Iterable[Concern], names: Iterable[str], primary_keys: bool
) -> tuple[frozenset[str], list[str]]:
    """The keys of concerns that are accepted by `names` (with or without the schema `public`), and
    the names that fit nothing that can be accepted."""
    acceptable = {each.key for each in found if each.definition}
    keys = {each.key for each in found if primary_keys and each.generated}
    unknown: list[str] = []
    for name in names:
        short = name.removeprefix("public.")
        if name in acceptable or short in acceptable:
            keys.add(name if name in acceptable else short)
        else:
            unknown.append(name)
    return frozenset(keys), unknown


# --- of one table --------------------------------------------------------------------------------


def _of_table(table: Table, facts: Facts) -> Iterator[Concern]:
    name = table.label
    if table.usable:
        yield Concern(name, name, "type", table.usable)
    if table.tenant_owned:
        yield Concern(
            name,
            name,
            "owner",
            f'its owner "{table.owner}" is a tenant\'s role and can switch protection off',
            _text("ALTER TABLE {} OWNER TO CURRENT_USER", table.identifier),
        )
    if table.nulls:
        yield Concern(
            name, name, "nulls", "has rows without a tenant, which nobody sees", serious=False
        )
    if table.default_value is not None and "current_tenant" not in table.default_value:
        what = f"the tenant column's default is {table.default_value}: tenants must name their own"
        yield Concern(name, f"{name}.{facts.column}", "column default", what, serious=False)
    for policy in table.policies:
        if policy.name not in (GUARD_POLICY, ROWS_POLICY):
            what = (
                f'policy "{policy.name}" of others: it cannot widen what tenants see'
                if policy.permissive
                else f'policy "{policy.name}" of others narrows what tenants see'
            )
            yield Concern(name, f"{name}.{policy.name}", "policy", what, serious=False)


def _keys(facts: Facts) -> Iterator[Concern]:
    for oid, name, kind, definition, constraint, _, generated in facts.keys:
        table = facts.table(oid)
        assert table is not None, "keys are found by their tables"
        what = f"{_KEYS[kind]} {name} without the tenant column: tells whether others have a value"
        yield Concern(
            table.label,
            f"{table.label}.{name}",
            kind,
            what,
            _key_fix(table, name, kind, constraint, definition, facts.column),
            definition,
            generated=generated and kind == "primary",
        )


def _key_fix(
    table: Table, name: str, kind: str, constraint: bool, definition: str, tenant: str
) -> str:
    """The same key behind the tenant column: whatever else its definition says stays."""
    if kind == "exclusion":
        return ""
    column = sql.Identifier(tenant).as_string(None)
    if not constraint:
        before, using, rest = definition.partition(" USING btree (")
        index = sql.Identifier(table.schema, name)
        made = sql.SQL(f"{before}{using}{column}, {rest}")
        return _text("DROP INDEX {}; {}", index, made)
    words, _, rest = definition.partition("(")
    made = sql.SQL(f"{words}({column}, {rest}")
    text = "ALTER TABLE {} DROP CONSTRAINT {}, ADD CONSTRAINT {} {}"
    return _text(text, table.identifier, sql.Identifier(name), sql.Identifier(name), made)


def _foreign_keys(facts: Facts, shared: Sequence[str]) -> Iterator[Concern]:
    for row in facts.foreign_keys:
        oid, other, name, definition, columns, others, *_, referenced = row
        table = facts.table(oid)
        assert table is not None, "foreign keys are found by their tables"
        target = facts.table(other)
        if target is None:
            known = {label(each[1], each[2]) for each in facts.others if each[0] == other}
            if not known & set(shared):
                what = f"foreign key {name} tells which values {referenced} has"
                key = f"{table.label}.{name}"
                yield Concern(table.label, key, "foreign", what, serious=False)
        elif (facts.column, facts.column) not in zip(columns, others, strict=True):
            yield Concern(
                table.label,
                f"{table.label}.{name}",
                "foreign",
                f"foreign key {name} without the tenant column: tenants can point at rows of "
                f"others in {target.label}, and are reached by their cascades",
                _foreign_fix(table, target, row, facts),
                definition,
            )


def _foreign_fix(table: Table, target: Table, row: Row, facts: Facts) -> str:
    _, _, name, definition, columns, others, on_delete, on_update, _ = row
    own = _columns([facts.column, *columns])
    theirs = _columns([facts.column, *others])
    actions = ""
    if on_delete in _ACTIONS:
        actions += f" ON DELETE {_ACTIONS[on_delete]}"
        # SET NULL would take the tenant away too.
        actions += f" {_columns(columns).as_string(None)}" if on_delete in "nd" else ""
    if on_update in _ACTIONS:
        actions += f" ON UPDATE {_ACTIONS[on_update]}"
    # Foreign keys that refer to the same columns need one index only.
    index = sql.Identifier(f"{target.name}_{facts.column}_{'_'.join(others)}_key"[:_NAME_MAX])
    unique = _text(
        "CREATE UNIQUE INDEX IF NOT EXISTS {} ON {} {}", index, target.identifier, theirs
    )
    found = _DEFERRABLE.search(definition)
    changed = _text(
        "ALTER TABLE {} DROP CONSTRAINT {}, ADD CONSTRAINT {} FOREIGN KEY {} REFERENCES {} {}{}",
        *(table.identifier, sql.Identifier(name), sql.Identifier(name), own),
        *(target.identifier, theirs, sql.SQL(actions + (found[0] if found else ""))),
    )
    return f"{unique} {changed}"


def _attached(facts: Facts) -> Iterator[Concern]:
    for oid, kind, name, definition, function in facts.attached:
        table = facts.table(oid)
        assert table is not None, "all of these are found by their tables"
        key = f"{table.label}.{name}"
        if kind == "trigger":
            what = f"trigger {name} runs {function} with its owner's rights, on rows of all tenants"
            fix = f"ALTER FUNCTION {function} SECURITY INVOKER;"
            yield Concern(table.label, key, kind, what, fix, definition)
        elif kind == "rule":
            what = f"rule {name} runs with the rights of the table's owner"
            fix = _text("DROP RULE {} ON {}", sql.Identifier(name), table.identifier)
            yield Concern(table.label, key, kind, what, fix, definition)
        elif kind == "default":
            what = f"column {name} is computed by {function}: see that it reads no other rows"
            yield Concern(table.label, key, kind, what, serious=False)
        else:
            what = f"publication {name}: its subscribers get the rows of all tenants"
            yield Concern(table.label, key, kind, what, serious=False)


# --- of others -----------------------------------------------------------------------------------


def is_reachable(facts: Facts, oid: int) -> bool:
    """Whether tenants, or PUBLIC and so tenants, have any privilege on it."""
    return bool(facts.grants.get(oid))


def _views(facts: Facts, shared: Sequence[str]) -> Iterator[Concern]:
    for oid, schema, name, materialized, invoker, _, bases, digest in facts.views:
        if invoker:
            continue
        over = ", ".join(bases)
        shown = sql.Identifier(schema, name)
        key = label(schema, name)
        if materialized:
            what = f"materialized view over {over} holds rows of all tenants"
            fix = _text("REVOKE ALL ON {} FROM PUBLIC", shown)
        else:
            what = f"view over {over} reads with its owner's rights"
            fix = _text("ALTER VIEW {} SET (security_invoker = true)", shown)
        reached = is_reachable(facts, oid)
        what += ", and tenants may read it" if reached else "; no tenant may read it"
        # What is named as shared is about to be opened: it must not be one of these unnoticed.
        serious = reached or key in shared
        yield Concern(key, key, "view", what, fix, digest, serious=serious)


def _open_others(facts: Facts, shared: Sequence[str]) -> Iterator[Concern]:
    views = {row[0] for row in facts.views}
    for oid, schema, name, _ in facts.others:
        key = label(schema, name)
        if oid in views or key in shared or not is_reachable(facts, oid):
            continue
        whom = ", ".join(sorted(grantee or "PUBLIC" for grantee in facts.grants[oid]))
        fix = "; ".join(
            _text(
                "REVOKE ALL ON {} FROM {}",
                sql.Identifier(schema, name),
                sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC"),
            ).rstrip(";")
            for grantee in sorted(facts.grants[oid])
        )
        what = f"has no tenant column, is not shared, and is open to {whom}"
        yield Concern(key, key, "open", what, f"{fix};")


def _elsewhere(facts: Facts) -> Iterator[Concern]:
    what = "has the tenant column, in a schema that was not asked for"
    for name in facts.elsewhere:
        yield Concern("", name, "elsewhere", what, serious=False)


def _shared(facts: Facts, shared: Sequence[str]) -> Iterator[Concern]:
    known = {label(row[1], row[2]) for row in facts.others}
    protected = {each.label for each in facts.tables}
    for name in shared:
        if name in protected:
            what = "is to be shared, but has the tenant column: it is protected instead"
            yield Concern(name, name, "shared", what, serious=False)
        elif name not in known:
            yield Concern(name, name, "shared", "is to be shared, but there is no such table")


# --- SQL for people ------------------------------------------------------------------------------


def _text(text: str, *parts: sql.Composable) -> str:
    return sql.SQL(text).format(*parts).as_string(None) + ";"


def _columns(names: Sequence[str]) -> sql.Composed:
    listed = sql.SQL(", ").join(sql.Identifier(name) for name in dict.fromkeys(names))
    return sql.SQL("({})").format(listed)
