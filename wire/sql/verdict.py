"""What the guard says of a text: refused, or passed with what it does to the session's state.

The session (wire/postgres) applies the effects after the server has confirmed each statement, so
that what a client sets is there again on the next server it gets.
"""

from __future__ import annotations

from typing import Final

from wire.errors import TenantryError
from wire.sql.splices import Splices

# Effect kinds.
NONE: Final = 0
SET: Final = 1  # key; sql is the statement to replay
RESET: Final = 2  # key
RESET_ALL: Final = 3  # every guc:… key (role and session_authorization stay, as in PostgreSQL)
PREPARE: Final = 4  # key; sql is the statement to replay
DEALLOCATE: Final = 5  # key
DEALLOCATE_ALL: Final = 6
DISCARD_ALL: Final = 7
BEGIN: Final = 8
COMMIT: Final = 9  # PREPARE TRANSACTION too: it ends the block and keeps what was set
ROLLBACK: Final = 10
SAVEPOINT: Final = 11  # key is the savepoint's name
RELEASE: Final = 12  # key is the savepoint's name
ROLLBACK_TO: Final = 13  # key is the savepoint's name

_CHARACTERISTICS: Final = (
    b"RESET default_transaction_isolation; RESET default_transaction_read_only; "
    b"RESET default_transaction_deferrable"
)


class Effect:
    """What one statement does to the session's state.

    `key` names the state: "guc:<name in lower case>", "characteristics", "role",
    "session_authorization", "prepare:<name>"; for savepoints it is their name.
    `sql` is the statement's own text, without the comments around it, in the client's encoding.
    """

    __slots__ = ("key", "kind", "sql")

    def __init__(self, kind: int, key: str = "", sql: bytes = b"") -> None:
        self.kind = kind
        self.key = key
        self.sql = sql


class Verdict:
    """The judgement of one text under one tenant's policy. Never changed once made, so shared.

    refusal     the error to answer with; when set, nothing else counts
    effects     one per top-level statement, or empty when none of them has an effect
    statements  how many statements the text holds (0: an empty query)
    pin         why the server must stay with this client from now on, or ""
    unsure      may change session state in ways that effects do not tell
    unpin       may have removed what pinned
    named       may make up a setting, whose name stays in the server's session for ever
    block       holds transaction control
    plain       none of the above: the text does its work and nothing to the session
    escapes     turns standard_conforming_strings off: later texts may read otherwise
    edited      what is forwarded is not the client's text: ask Guard.rewritten
    splices     what is changed in it, and `forward` the result if this is one text's verdict (both
                for the guard only)
    """

    __slots__ = (
        *("block", "edited", "effects", "escapes", "forward", "named", "pin", "plain"),
        *("refusal", "splices", "statements", "unpin", "unsure"),
    )

    def __init__(
        self,
        refusal: TenantryError | None = None,
        effects: tuple[Effect, ...] = (),
        statements: int = 1,
        pin: str = "",
        unsure: bool = False,
        unpin: bool = False,
        block: bool = False,
        escapes: bool = False,
        splices: Splices | None = None,
        forward: bytes = b"",
        named: bool = False,
    ) -> None:
        self.refusal = refusal
        self.effects = effects
        self.statements = statements
        self.pin = pin
        self.unsure = unsure
        self.unpin = unpin
        self.block = block
        self.escapes = escapes
        self.splices = splices
        self.forward = forward
        self.edited = splices is not None
        self.named = named
        self.plain = not (effects or pin or unsure or unpin or named)

    def of_text(self, forward: bytes) -> Verdict:
        """This verdict of a template as that of one of its texts, which becomes `forward`."""
        return Verdict(
            None,
            self.effects,
            self.statements,
            self.pin,
            self.unsure,
            self.unpin,
            self.block,
            self.escapes,
            self.splices,
            forward,
            self.named,
        )


def _quoted(name: str) -> bytes:
    return b'"' + name.replace('"', '""').encode() + b'"'


def undo_sql(key: str) -> bytes:
    """The statement (for "characteristics": three) that removes the state named by `key`.

    Raises ValueError for what is not the key of an effect.
    """
    if key.startswith("guc:"):
        # A setting of an extension has two parts, each an identifier.
        return b"RESET " + b".".join([_quoted(part) for part in key[4:].split(".")])
    if key.startswith("prepare:"):
        return b"DEALLOCATE " + _quoted(key[8:])
    if key == "role":
        return b"RESET ROLE"
    if key == "session_authorization":
        return b"RESET SESSION AUTHORIZATION"
    if key == "characteristics":
        return _CHARACTERISTICS
    raise ValueError(f"no session state is called {key!r}")
