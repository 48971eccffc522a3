"""Judges texts: by the exact text, else by its template, else by parsing it once.

Two layers of caches. What a text does (facts), and how it must be edited, is the same for all
tenants of a frame and kept in one Analyser per worker and frame; what a tenant may do (verdicts),
and with what its edits are filled, is kept in its Guard, which is made anew whenever the tenant's
policy or frame changes.
"""

from __future__ import annotations

import gc
from concurrent.futures import Future
from hashlib import sha256
from time import monotonic
from typing import Final

from events.model import Permissions, RateLimits
from wire.errors import TooLarge
from wire.sql import framed, helper
from wire.sql.analyse import analyse_or_refuse
from wire.sql.edits import HOLES, Edit, apply
from wire.sql.facts import Facts, Statement
from wire.sql.frame import DATABASE, Frame
from wire.sql.policy import Policy
from wire.sql.splices import Splices, lift
from wire.sql.template import marked_template, template
from wire.sql.verdict import NONE, Effect, Verdict

# Longer texts are parsed in a helper process: 8 KiB take at most 15 ms here (a typical text of that
# size 1 ms), and at most 2 MB of the 8 MB stack of a main thread (see analyse.py).
PARSE_HERE_MAX: Final = 8 * 1024
# Among shared tables a text is read three times, and 2 KiB take as long.
PARSE_ROWS_HERE_MAX: Final = 2 * 1024
# Of the worker's time, what a tenant may use for the reading of texts in the loop: a burst in
# seconds, and the share that it may go on with. Beyond it texts longer than SMALL are read by the
# helper too, so that a flood of hard texts slows down its own tenant only.
READING_BURST: Final = 0.1
READING_SHARE: Final = 0.05
SMALL: Final = 256
# Longer texts are known by their digest only: the template of 2,500 rows of VALUES takes a
# millisecond when compiled.
TEMPLATE_MAX: Final = 32 * 1024
# Per tenant and generation (there are two): what the busiest of applications repeats, with 100
# active tenants below 100 MB.
VERDICT_ENTRIES: Final = 512
VERDICT_BYTES: Final = 256 * 1024
# Per worker and generation.
FACTS_BYTES: Final = 12 * 1024 * 1024
STATEMENT_BYTES: Final = 1024  # what the facts of a statement take, roughly
NAME_BYTES: Final = 256  # and each relation or function that it names
EFFECT_BYTES: Final = 128
EDIT_BYTES: Final = 512
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
        cost = len(key) + EFFECT_BYTES * len(verdict.effects) + len(verdict.forward)
        if verdict.splices is not None:
            cost += verdict.splices.size
        # One text may not throw out all others.
        if cost > self._limit // 4:
            return
        if len(self._young) >= self._entries or self._size + cost > self._limit:
            self._old = self._young
            self._young = {}
            self._size = 0
        self._young[key] = verdict
        self._size += cost

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


class Analyser:
    """The facts of texts, remembered for all tenants of one frame. Bounded like Verdicts.

    They are kept under the template, or under the text where they hold for that only, or under the
    digest of a text that is too long for a template. What has just been put in is found at once:
    that is how a text that was parsed elsewhere comes back to be judged.
    """

    def __init__(self, frame: Frame = DATABASE) -> None:
        self.frame = frame
        framed.ready(frame)
        self._young: dict[bytes, Facts] = {}
        self._old: dict[bytes, Facts] = {}
        self._size = 0
        self._seen: list[int] = [0] * SEEN_SLOTS

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def seen(self, sql: bytes) -> bool:
        """Whether this text came before, not long ago; remembers that it came now."""
        number = hash(sql)
        slot = number % SEEN_SLOTS
        if self._seen[slot] == number:
            return True
        self._seen[slot] = number
        return False

    def known(self, sql: bytes, key: bytes | None) -> Facts | None:
        """The facts of a text whose template is `key` (None: it has none), if remembered."""
        name = _own_name(sql)
        facts = self._young.get(name) or self._old.get(name)
        if facts is not None and facts.lifted and key != sql:
            # The text looks like the template of other ones.
            facts = None
        if facts is None and key is not None:
            facts = self._young.get(key) or self._old.get(key)
            if facts is not None and (facts.exact or facts.refusal is not None):
                # They belong to a text that happens to look like this template.
                return None
        return facts

    def remember(self, sql: bytes, key: bytes | None, facts: Facts) -> None:
        name = key if key is not None and not facts.exact else _own_name(sql)
        cost = len(name) + STATEMENT_BYTES * (1 + facts.weight) + NAME_BYTES * facts.names
        cost += EDIT_BYTES * len(facts.edits)
        if self._size + cost > FACTS_BYTES:
            self._old = self._young
            self._young = {}
            self._size = 0
        self._young[name] = facts
        self._size += cost

    def forget(self, sql: bytes) -> None:
        """Drops what was remembered under the text itself."""
        name = _own_name(sql)
        self._young.pop(name, None)
        self._old.pop(name, None)


def _own_name(sql: bytes) -> bytes:
    return sql if len(sql) <= TEMPLATE_MAX else sha256(sql).digest()


OF_DATABASE: Final = Analyser(DATABASE)
"""The facts for all tenants that have their databases for themselves."""


class Guard:
    """Judges one tenant's texts under one version of its policy, and makes the edits they need."""

    def __init__(
        self,
        permissions: Permissions,
        limits: RateLimits,
        analyser: Analyser = OF_DATABASE,
        values: tuple[bytes, bytes, bytes] = (b"", b"", b""),
        schemas: frozenset[str] | None = None,
    ) -> None:
        """`values` fill the holes of edits, in the order of edits.HOLES, and are ASCII, since the
        client chooses the encoding. `schemas` are the only ones that may be named, besides
        PostgreSQL's own; None: any.

        Raises ValueError when permissions.blocked_tables holds what is not a table's name, or when
        a value is not ASCII.
        """
        assert len(values) == HOLES
        for value in values:
            if not value.isascii():
                raise ValueError("values of edits must be ASCII")
        self._policy = Policy(permissions, schemas)
        self._analyser = analyser
        self._values = values
        self._marked = analyser.frame.shared
        # A row of VALUES may get the tenant's value.
        self._rows = analyser.frame.catalog is None
        self._parse_max = PARSE_HERE_MAX if self._rows else PARSE_ROWS_HERE_MAX
        self._key_of = b""
        self._last_key: bytes | None = None
        self._last_marks: list[int] = []
        self._read_seconds = 0.0
        self._read_since = monotonic()
        self._exact = Verdicts(VERDICT_ENTRIES, VERDICT_BYTES)
        self._templates = Verdicts(VERDICT_ENTRIES, VERDICT_BYTES)
        limit = limits.max_statement_size
        # -1: the largest message of the protocol is smaller anyway.
        self._max_size = limit if limit is not None else 2**31
        self._too_large = Verdict(
            TooLarge(
                f"statement is larger than {limit} bytes (rate_limits.max_statement_size)",
                limit="statement_size",
            )
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
        key = self._key(sql)
        if key is None:
            return None
        found = self._templates.get(key)
        if found is not None and self._analyser.seen(sql):
            # Texts that never come again (a new literal each time) must not fill the cache.
            if found.edited:
                found = found.of_text(self.rewritten(sql, found))
            self._exact.put(sql, found)
        return found

    def rewritten(self, sql: bytes, verdict: Verdict) -> bytes:
        """The text to forward in place of `sql`, whose verdict says that it is edited."""
        splices = verdict.splices
        assert splices is not None
        return verdict.forward or splices.made(sql, self._marks(sql, splices))

    def original_position(self, sql: bytes, verdict: Verdict, position: int) -> int:
        """Where the character at `position` of the rewritten text is in the client's.

        Both count from 1, as the field P of an ErrorResponse does. 0: in the client's text there
        is no such place.
        """
        splices = verdict.splices
        if splices is None or position < 1:
            return position
        text = self.rewritten(sql, verdict)
        try:
            at = len(text.decode()[: position - 1].encode())
            found = splices.original(at, self._marks(sql, splices))
            return len(sql[:found].decode()) + 1 if found >= 0 else 0
        except UnicodeDecodeError:
            found = splices.original(position - 1, self._marks(sql, splices))
            return found + 1

    def _marks(self, sql: bytes, splices: Splices) -> list[int]:
        if not splices.lifted:
            return []
        if splices.rows == self._rows and self._marked:
            self._key(sql)
            return self._last_marks
        marks: list[int] = []  # the verdict comes from a guard with another frame
        marked_template(sql, marks, splices.rows)
        return marks

    def _key(self, sql: bytes) -> bytes | None:
        """The template, or None; a new text is asked for several times in a row."""
        if len(sql) > TEMPLATE_MAX:
            return None
        if sql != self._key_of:
            if self._marked:
                marks: list[int] = []
                self._last_key = marked_template(sql, marks, self._rows)
                self._last_marks = marks
            else:
                self._last_key = template(sql)
            self._key_of = sql
        return self._last_key

    def must_offload(self, sql: bytes) -> bool:
        """Whether the text must be parsed elsewhere: submit it to a helper, then `adopt`."""
        limit = SMALL if self._overdrawn() else self._parse_max
        return len(sql) > limit and self._known(sql) is None

    def submit(self, sql: bytes) -> Future[Facts]:
        """The text's facts as a helper process reads them, for `adopt`. Raises RuntimeError when
        the helper is being closed."""
        return helper.submit(sql, self._analyser.frame)

    def _overdrawn(self) -> bool:
        """Whether this tenant's texts have taken more of the loop's time than their share."""
        if self._read_seconds <= READING_BURST:
            return False
        now = monotonic()
        paid_back = (now - self._read_since) * READING_SHARE
        self._read_seconds = max(0.0, self._read_seconds - paid_back)
        self._read_since = now
        return self._read_seconds > READING_BURST

    def learn(self, sql: bytes) -> Verdict:
        """Parses the text now and remembers the verdict.

        Errors of the parser are refusals: no text is forwarded that we could not read.
        A text that must be offloaded is parsed by the helper while everybody waits: that is for
        the rare caller who cannot wait otherwise.
        """
        if len(sql) > self._max_size:
            return self._too_large
        facts = self._known(sql)
        if facts is None:
            if len(sql) > self._parse_max:
                facts = self.submit(sql).result()
            else:
                started = monotonic()
                facts = self._read(sql)
                self._read_seconds += monotonic() - started
            if facts.refusal is not None:
                return Verdict(facts.refusal, statements=0)
        elif facts.refusal is not None:
            # It was kept to be told once; the helper may have been busy only.
            self._analyser.forget(sql)
            return Verdict(facts.refusal, statements=0)
        return self.adopt(sql, facts)

    def _read(self, sql: bytes) -> Facts:
        """Parses the text here. Trees are thousands of objects that soon go all at once: to look
        for garbage among them meanwhile would take a quarter of the time."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            return analyse_or_refuse(sql, self._analyser.frame)
        finally:
            if collecting:
                gc.enable()

    def adopt(self, sql: bytes, facts: Facts) -> Verdict:
        """Judges a text by its facts. `learn` then knows it, here and in every other Guard."""
        if facts.refusal is not None:
            self._analyser.remember(sql, None, facts)
            return Verdict(facts.refusal, statements=0)
        key = self._key(sql)
        if facts.edits and key is not None and not facts.exact and not facts.lifted:
            lifted = lift(facts.edits, sql, self._last_marks)
            if lifted is None:
                facts.exact = True
            else:
                facts.edits = lifted
                facts.lifted = True
        self._analyser.remember(sql, key, facts)
        verdict = self._verdict(sql, facts)
        if facts.exact or key is None or key == sql:
            self._exact.put(sql, verdict)
        if key is not None and not facts.exact:
            self._templates.put(key, verdict)
        return verdict

    def _known(self, sql: bytes) -> Facts | None:
        return self._analyser.known(sql, self._key(sql))

    def _verdict(self, sql: bytes, facts: Facts) -> Verdict:
        pin = ""
        unsure = unpin = block = acts = escapes = named = False
        effects: list[Effect] = []
        last: Statement | None = None
        for statement in facts.statements:
            if statement is last:
                effects.append(effects[-1])
                continue
            last = statement
            refusal = self._policy.check(statement)
            if refusal is not None:
                return Verdict(refusal, statements=len(facts.statements))
            pin = pin or statement.pin
            unsure = unsure or statement.unsure
            unpin = unpin or statement.unpin
            block = block or statement.block
            escapes = escapes or statement.escapes
            named = named or statement.named
            acts = acts or statement.effect != NONE
            effects.append(Effect(statement.effect, statement.key, self._own_text(sql, statement)))
        splices: Splices | None = None
        forward = b""
        if facts.edits:
            splices = Splices(facts.edits, self._values, facts.lifted, self._rows)
            forward = b"" if facts.lifted else splices.made(sql, [])
        return Verdict(
            effects=tuple(effects) if acts else (),
            statements=len(facts.statements),
            pin=pin,
            unsure=unsure,
            unpin=unpin,
            block=block,
            escapes=escapes,
            splices=splices,
            forward=forward,
            named=named,
        )

    def _own_text(self, sql: bytes, statement: Statement) -> bytes:
        """What replays the statement: its own text, edited."""
        start = statement.start
        own = sql[start : statement.end]
        if not own or not statement.edits:
            return own
        moved = [Edit(e.start - start, e.end - start, e.parts, e.holes) for e in statement.edits]
        return apply(own, moved, self._values)
