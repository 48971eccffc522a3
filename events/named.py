"""What the log holds besides tenants and the installation: tiers, operators and command tokens.

Each is small and few, each fact carries all of it, so folding is replacing.

    kind       settings when it exists
    tier       what tenants of the tier get that set nothing themselves
    operator   role (viewer or operator), disabled; scram and tenants if it may log in over SQL
    token      name, role, tenant, issued_at, expires_at (Unix seconds), revoked
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

from events.facts import (
    KIND_OPERATOR,
    KIND_TIER,
    KIND_TOKEN,
    Fact,
    OperatorDeleted,
    OperatorSet,
    TierDeleted,
    TierSet,
    TokenIssued,
    TokenRevoked,
    Undecodable,
)
from events.model import Settings, Tenant
from events.settings import read_leniently

NAMED_KINDS: Final = (KIND_TIER, KIND_OPERATOR, KIND_TOKEN)
# Who needs a token for longer makes another: a forgotten one must die by itself.
TOKEN_SECONDS_MAX: Final = 90 * 86400
# An expired token is refused by its own date; this long after it nothing needs to be known of it.
EXPIRED_TOKENS_KEPT_SECONDS: Final = 86400.0


class Misfit(Exception):
    """A fact that contradicts the state it should change."""


class Named(NamedTuple):
    """`version` is the last sequence of the subject."""

    settings: Settings
    version: int
    deleted: bool


def fold_named(kind: str, id: str, known: Named | None, fact: Fact) -> Named:
    """What follows on `known`. Raises Misfit, pydantic.ValidationError."""
    if kind == KIND_TIER and isinstance(fact, TierSet):
        # Judged when folded and not when used: later there would be no last good state.
        read_leniently(Tenant, {**fact.settings, "id": "a"})
        return Named(fact.settings, 0, False)
    if kind == KIND_OPERATOR and isinstance(fact, OperatorSet):
        return Named(operator_settings(fact), 0, False)
    if kind == KIND_TOKEN and isinstance(fact, TokenIssued):
        return Named({**fact.model_dump(), "revoked": False}, 0, False)
    if kind == KIND_TOKEN and isinstance(fact, TokenRevoked):
        before = known.settings if known is not None else {}
        expires = max(fact.expires_at, before.get("expires_at", 0))
        return Named({**before, "expires_at": expires, "revoked": True}, 0, False)
    if isinstance(fact, TierDeleted | OperatorDeleted) and known is not None:
        return Named({}, 0, True)
    raise Misfit(misfit(fact, f"the {kind} {id}"))


def operator_settings(fact: OperatorSet) -> Settings:
    """What is kept of an operator: what was never set is left out."""
    settings: Settings = {"role": fact.role, "disabled": fact.disabled}
    if fact.scram:
        settings["scram"] = fact.scram
    if fact.tenants:
        settings["tenants"] = list(fact.tenants)
    return settings


def forget_expired(kind: str, known: dict[str, Named], time: str) -> None:
    """Tokens that have long expired at `time`, that of a commit: equal wherever it is folded."""
    if kind != KIND_TOKEN:
        return
    try:
        now = datetime.fromisoformat(time).timestamp() - EXPIRED_TOKENS_KEPT_SECONDS
    except ValueError:
        return
    for id in [id for id, each in known.items() if each.settings.get("expires_at", now) < now]:
        # The version stays, because the subject does; it is all that is kept.
        known[id] = Named({}, known[id].version, True)


def misfit(fact: Fact, state: str) -> str:
    return fact.reason if isinstance(fact, Undecodable) else f"{fact.TYPE} does not fit {state}"
