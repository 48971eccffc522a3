"""Judges texts: by the exact text, else by its template, else by parsing it once.

Two layers of caches. What a text does (facts) is the same for all tenants and kept in one Analyser
per worker; what a tenant may do (verdicts) is kept in its Guard, which is made anew whenever the
tenant's policy changes. Where rewriting of row-isolated statements comes, it comes between the two.
"""

from __future__ import annotations

from typing import Final

from events.model import Permissions, RateLimits
from wire.errors import TenantryError, TooLarge
from wire.sql.analyse import analyse
from wire.sql.facts import Facts
from wire.sql.policy import Policy
from wire.sql.template import template
from wire.sql.verdict import NONE, Effect, Verdict

# Longer texts are parsed in a helper process: parsing 16 KiB takes at most about 2 ms, and at most
# 2 MB of the 8 MB stack of a main thread (see analyse.py).
PARSE_HERE_MAX: Final = 16 * 1024
# Longer texts are known by their exact text only: their template would take over 1 ms.
TEMPLATE_MAX: Final = 64 * 1024
# Per tenant and generation (there are two): what the busiest of applications repeats, with 100
# active tenants below 100 MB.
VERDICT_ENTRIES: Final = 512
VERDICT_BYTES: Final = 256 * 1024
# Per worker and generation: a parsed statement's facts take about 2 kB.
FACTS_ENTRIES: Final = 2048
FACTS_BYTES: Final = 2 * 1024 * 1024
# Texts whose second coming is noticed; one number each.
SEEN_SLOTS: Final = 2048


class Verdicts:
    """A bounded cache in two generations: when the young one is full, it becomes the old one."""

    def __init__(self, entries: int, size: int) -> None:
        self._entries = entries
        self._limit = size
        self._size = 0
        self._young: dict[bytes, Verdict] = {}
        self._old: dict[bytes, Verdict] = {}

    def get(self, key: bytes) -> Verdict | None:
        found = self._young.get(key)
        if found is None and self._old:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: bytes, verdict: Verdict) -> None:
        # One text may not throw out all others.
        if len(key) > self._limit // 4:
            return
        if len(self._young) >= self._entries or self._size + len(key) > self._limit:
            self._old = self._young
            self._young = {}
            self._size = 0
        self._young[key] = verdict
        self._size += len(key)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


class Analyser:
    """The facts of texts, remembered for all tenants of a worker. Bounded like Verdicts."""

    def __init__(self) -> None:
        self._young: dict[bytes, Facts] = {}
        self._old: dict[bytes, Facts] = {}
        self._size = 0
        self._seen: list[int] = [0] * SEEN_SLOTS

    def seen(self, sql: bytes) -> bool:
        """Whether this text came before, not long ago; remembers that it came now."""
        number = hash(sql)
        slot = number % SEEN_SLOTS
        if self._seen[slot] == number:
            return True
        self._seen[slot] = number
        return False

    def known(self, sql: bytes, key: bytes | None) -> Facts | None:
        """The facts of a text whose template is `key`, if they are remembered."""
        for name in (sql, key):
            if name is None:
                continue
            facts = self._young.get(name) or self._old.get(name)
            if facts is not None and (name is sql or not facts.exact):
                return facts
        return None

    def remember(self, sql: bytes, key: bytes | None, facts: Facts) -> None:
        name = sql if key is None or facts.exact else key
        if len(name) > FACTS_BYTES // 16:
            return
        if len(self._young) >= FACTS_ENTRIES or self._size + len(name) > FACTS_BYTES:
            self._old = self._young
            self._young = {}
            self._size = 0
        self._young[name] = facts
        self._size += len(name)


class Guard:
    """Judges one tenant's texts under one version of its policy."""

    def __init__(
        self, permissions: Permissions, limits: RateLimits, analyser: Analyser | None = None
    ) -> None:
        """Raises ValueError when permissions.blocked_tables holds what is not a table's name."""
        self._policy = Policy(permissions)
        self._analyser = analyser if analyser is not None else Analyser()
        self._exact = Verdicts(VERDICT_ENTRIES, VERDICT_BYTES)
        self._templates = Verdicts(VERDICT_ENTRIES, VERDICT_BYTES)
        limit = limits.max_statement_size
        # -1: the largest message of the protocol is smaller anyway.
        self._max_size = limit if limit is not None else 2**31
        self._too_large = Verdict(
            TooLarge(f"statement is larger than {limit} bytes (rate_limits.max_statement_size)")
        )

    def judge(self, sql: bytes) -> Verdict | None:
        """The verdict of a text seen before, by its text or its template; None: learn it."""
        if len(sql) > self._max_size:
            return self._too_large
        found = self._exact.get(sql)
        if found is not None:
            return found
        if len(sql) > TEMPLATE_MAX:
            return None
        key = template(sql)
        if key is None:
            return None
        found = self._templates.get(key)
        if found is not None and self._analyser.seen(sql):
            # Texts that never come again (a new literal each time) must not fill the cache.
            self._exact.put(sql, found)
        return found

    def must_offload(self, sql: bytes) -> bool:
        """Whether the text is too large to be parsed here: submit it to a Helper, then adopt."""
        return len(sql) > PARSE_HERE_MAX and self._known(sql) is None

    def learn(self, sql: bytes) -> Verdict:
        """Parses the text now and remembers the verdict. Not for texts that must be offloaded.

        Errors of the parser are refusals: no text is forwarded that we could not read.
        """
        if len(sql) > self._max_size:
            return self._too_large
        facts = self._known(sql)
        if facts is None:
            if len(sql) > PARSE_HERE_MAX:
                raise ValueError("a text of this size is parsed in a helper process")
            try:
                facts = analyse(sql)
            except TenantryError as error:
                return Verdict(error, statements=0)
        return self.adopt(sql, facts)

    def adopt(self, sql: bytes, facts: Facts) -> Verdict:
        """Judges a text by its facts and remembers both."""
        key = template(sql) if len(sql) <= TEMPLATE_MAX else None
        self._analyser.remember(sql, key, facts)
        verdict = self._verdict(sql, facts)
        if facts.exact or key is None or key == sql:
            self._exact.put(sql, verdict)
        if key is not None and not facts.exact:
            self._templates.put(key, verdict)
        return verdict

    def _known(self, sql: bytes) -> Facts | None:
        return self._analyser.known(sql, template(sql) if len(sql) <= TEMPLATE_MAX else None)

    def _verdict(self, sql: bytes, facts: Facts) -> Verdict:
        pin = ""
        unsure = unpin = block = acts = False
        effects: list[Effect] = []
        for statement in facts.statements:
            refusal = self._policy.check(statement)
            if refusal is not None:
                return Verdict(refusal, statements=len(facts.statements))
            pin = pin or statement.pin
            unsure = unsure or statement.unsure
            unpin = unpin or statement.unpin
            block = block or statement.block
            acts = acts or statement.effect != NONE
            text = sql[statement.start : statement.end]
            effects.append(Effect(statement.effect, statement.key, text))
        return Verdict(
            effects=tuple(effects) if acts else (),
            statements=len(facts.statements),
            pin=pin,
            unsure=unsure,
            unpin=unpin,
            block=block,
        )
