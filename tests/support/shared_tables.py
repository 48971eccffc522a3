"""A catalog of shared tables, and guards of tenants whose rows lie in them."""

from __future__ import annotations

from typing import Any

from events.model import Permissions, RateLimits
from wire.sql.catalog import GUARDED, SHARED, Catalog, Relation
from wire.sql.frame import Frame
from wire.sql.guard import Analyser, Guard
from wire.sql.verdict import Verdict

VALUES = (b"'acme'", b"acme_", b"424242")


def table(name: str, *columns: str, **more: Any) -> Relation:
    return Relation(
        "public", name, GUARDED, (*columns, "tenant_id"), column="tenant_id", type="text", **more
    )


def catalog(version: str = "1", **more: Any) -> Catalog:
    return Catalog(
        version,
        [
            table("orders", "id", "customer", "total", staging=("tenantry", "copy_1")),
            table("items", "id", "order_id", "name"),
            Relation("public", "currencies", SHARED, ("code", "rate")),
        ],
        **more,
    )


def row_guard(
    analyser: Analyser | None = None,
    values: tuple[bytes, bytes, bytes] = VALUES,
    **may: Any,
) -> Guard:
    if analyser is None:
        analyser = Analyser(Frame(catalog(), shared=True))
    return Guard(Permissions(**may), RateLimits(), analyser, values)


def ask(guard: Guard, sql: str | bytes) -> Verdict:
    text = sql.encode() if isinstance(sql, str) else sql
    verdict = guard.judge(text)
    return verdict if verdict is not None else guard.learn(text)


def forwarded(guard: Guard, sql: str | bytes) -> bytes:
    """What goes to the server, or why nothing does."""
    text = sql.encode() if isinstance(sql, str) else sql
    verdict = ask(guard, text)
    if verdict.refusal is not None:
        return b"refused: " + verdict.refusal.message.encode()
    return guard.rewritten(text, verdict) if verdict.edited else text
