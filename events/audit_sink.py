"""Where everybody notes what the audit must know: cheap, never waiting, never failing.

The wire calls `note` on the path of a statement, so this module knows no event loop and no NATS.
A plain `AuditSink` forgets everything: for tests, and for whoever runs without an audit.
"""

from __future__ import annotations

import hashlib
from typing import Final

# What happened. The first group says the same again and again when a client insists, so equal ones
# within a while become one event with a count; each of the second group is told by itself.
LOGIN: Final = "login"
LOGIN_FAILED: Final = "login_failed"
REFUSAL: Final = "refusal"  # the guard said no
LIMIT: Final = "limit"  # a rate, size, time or number was over its limit
OPERATOR_STATEMENT: Final = "operator_statement"  # SQL of an operator in a tenant's data
FOLDED_KINDS: Final = frozenset({LOGIN, LOGIN_FAILED, REFUSAL, LIMIT, OPERATOR_STATEMENT})

# Accepted or refused: somebody asked for a change. Refused ones are folded as the first group is.
COMMAND: Final = "command"
CONFIG_CHANGE: Final = "config_change"  # a change took effect here
OVERRIDE: Final = "override"  # an operator acted across tenants
SERVICE: Final = "service"  # a part of Tenantry started or stopped

# Noted by the audit itself.
CHAIN_OPEN: Final = "chain_open"
CHAIN_CLOSE: Final = "chain_close"
LOST: Final = "lost"  # `count` events found no room

KINDS: Final = (
    *(LOGIN, LOGIN_FAILED, REFUSAL, LIMIT, OPERATOR_STATEMENT, COMMAND, CONFIG_CHANGE),
    *(OVERRIDE, SERVICE, CHAIN_OPEN, CHAIN_CLOSE, LOST),
)

# How it ended.
OK: Final = "ok"
REFUSED: Final = "refused"
FAILED: Final = "failed"


class AuditSink:
    """Takes notes. This one throws them away."""

    def note(
        self,
        kind: str,
        tenant: str,
        *,
        actor: str = "",
        address: str = "",
        fingerprint: str = "",
        statement_kind: str = "",
        outcome: str = "",
        reason: str = "",
        sqlstate: str = "",
        trace_id: str = "",
        span_id: str = "",
        detail: str = "",
    ) -> None:
        """Something happened that the audit must know.

        kind            one of KINDS
        tenant          its id; "" when none is concerned, or none is known by that name
        actor           user name, operator, "configuration file"; what was claimed when it failed
        address         where the client comes from
        fingerprint     of the statement's template (`fingerprint`), never of its literals
        statement_kind  SELECT, INSERT …
        outcome         OK, REFUSED or FAILED
        reason          a sentence or the name of a limit; the same for equal causes, no literals
        detail          what tells one event from the next (a command's id, a sequence); it is not
                        compared when equal events become one
        """


def fingerprint(template: bytes) -> str:
    """16 hex digits that statements have in common when only their literals differ.

    `template` is the text with its literals lifted (wire.sql.template), so nothing of them is in
    it. The same everywhere and for ever, so that events of different times can be compared.
    """
    return hashlib.sha256(b"tenantry template 1\0" + template).hexdigest()[:16]
