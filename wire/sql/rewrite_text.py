"""A statement's text as the rewriting sees it: tokens with their brackets, and its clauses.

PostgreSQL's reserved words make the search for clauses safe: outside of brackets, and behind
neither a dot nor AS, such a word is what it looks like, and no name or string looks like one. The
few that are otherwise (FROM in IS DISTINCT FROM, GROUP in WITHIN GROUP) are told apart here.
"""

from __future__ import annotations

from typing import Final

from wire.errors import NotSupported
from wire.sql.lexer import OPERATOR, PUNCTUATION, QUOTED, UQUOTED, WORD, tokens
from wire.sql.rewrite_splice import lost

# What ends the FROM clause, and after it the WHERE clause, of any statement.
CLAUSES: Final = frozenset(
    [
        *(b"where", b"group", b"having", b"window", b"order", b"limit", b"offset", b"fetch"),
        *(b"for", b"union", b"intersect", b"except", b"returning"),
    ]
)
_TARGETS_END: Final = CLAUSES | {b"from", b"into"}
_JOINS: Final = frozenset([b"left", b"right", b"full", b"inner", b"cross", b"natural"])
_JOIN_NEXT: Final = frozenset([b"join", b"outer", b"inner", b"left", b"right", b"full"])
_QUERIES: Final = frozenset([b"select", b"values", b"with", b"table"])
_AFTER_QUERY: Final = CLAUSES | {b")"}
_SETS: Final = frozenset([b"union", b"intersect", b"except"])


class Text:
    """The tokens of sql[start:end]; all numbers but starts[] and ends[] are indexes of tokens.

    words  key word in lower case, or the sign itself; b"" for anything else and names in quotes
    pairs  for a bracket the index of its partner, else -1
    halts  tokens that end whatever clause stands before them: the ON of ON CONFLICT
    """

    def __init__(self, sql: bytes, start: int, end: int) -> None:
        found = tokens(sql[start:end])
        if not found:
            lost("anything")
        while found and found[-1][0] == PUNCTUATION and sql[start + found[-1][1]] == 0x3B:
            found.pop()
        self.kinds = [kind for kind, _, _ in found]
        self.starts = [start + each for _, each, _ in found]
        self.ends = [start + each for _, _, each in found]
        self.words: list[bytes] = [
            sql[start + a : start + b].lower() if kind in (WORD, OPERATOR, PUNCTUATION) else b""
            for kind, a, b in found
        ]
        self.size = len(found)
        self.halts: set[int] = set()
        self._places = {place: index for index, place in enumerate(self.starts)}
        self.pairs = self._paired()

    def _paired(self) -> list[int]:
        pairs = [-1] * self.size
        opened: list[int] = []
        for index, word in enumerate(self.words):
            if word in (b"(", b"["):
                opened.append(index)
            elif word in (b")", b"]"):
                if not opened:
                    lost("a bracket")
                pairs[index] = opened.pop()
                pairs[pairs[index]] = index
        if opened:
            lost("a bracket")
        return pairs

    def at(self, place: int) -> int:
        """The token that starts at a byte position of the text."""
        index = self._places.get(place)
        if index is None:
            lost("a name")
        return index

    def word(self, index: int) -> bytes:
        return self.words[index] if 0 <= index < self.size else b""

    def is_key(self, index: int, word: bytes) -> bool:
        """Whether the token is that key word, not a name spelt like it."""
        return self.word(index) == word and not self.named(index)

    def named(self, index: int) -> bool:
        """Whether a word is a name because of what is before it: a column, or a label."""
        before = self.word(index - 1)
        return before == b"." or (before == b"as" and not self.named(index - 1))

    def expect(self, index: int, word: bytes) -> int:
        """The token behind this one, which must be `word`."""
        if self.word(index) != word:
            lost(word.decode().upper())
        return index + 1

    def _stops(self, index: int, stops: frozenset[bytes]) -> bool:
        word = self.words[index]
        if word not in stops or self.named(index):
            return False
        if word == b"group":
            return self.word(index + 1) == b"by"
        return word != b"from" or not self._compares(index)

    def _compares(self, index: int) -> bool:
        """Whether the FROM is that of IS [NOT] DISTINCT FROM (DISTINCT may be a label, too)."""
        if self.word(index - 1) != b"distinct":
            return False
        before = index - 3 if self.word(index - 2) == b"not" else index - 2
        return self.is_key(before, b"is")

    def forward(self, index: int, stops: frozenset[bytes], *, cases: bool = False) -> int:
        """The first of `stops` outside of brackets from a token on, or what ends all around it.

        `cases`: what stands between CASE and END is passed by as well. Only where no label can be
        spelt CASE: not in lists of results.
        """
        open_cases = 0
        while index < self.size:
            word = self.words[index]
            if word in (b"(", b"["):
                index = self.pairs[index]
            elif word in (b")", b"]"):
                return index
            elif cases and self.is_key(index, b"case"):
                open_cases += 1
            elif open_cases:
                open_cases -= self.is_key(index, b"end")
            elif index in self.halts or self._stops(index, stops):
                return index
            index += 1
        return index

    def split(self, index: int, end: int) -> list[tuple[int, int]]:
        """The pieces of [index, end) between its commas, each as [first, last)."""
        out: list[tuple[int, int]] = []
        first = index
        while index < end:
            if self.words[index] in (b"(", b"["):
                index = self.pairs[index]
            elif self.words[index] == b",":
                out.append((first, index))
                first = index + 1
            index += 1
        if first < end:
            out.append((first, end))
        if any(start >= stop for start, stop in out):
            lost("a list")
        return out

    def group(self, index: int) -> tuple[int, int]:
        """The inside of the parentheses that open at a token, as [first, last)."""
        self.expect(index, b"(")
        return index + 1, self.pairs[index]

    def identifier_end(self, index: int) -> int:
        """The last token of the identifier at a token: U&"…" may have its UESCAPE."""
        if index >= self.size or self.kinds[index] not in (WORD, QUOTED, UQUOTED):
            lost("a name")
        if self.kinds[index] == UQUOTED and self.word(index + 1) == b"uescape":
            return index + 2
        return index

    def name_end(self, index: int) -> int:
        """The last token of the name at a token: a.b.c"""
        index = self.identifier_end(index)
        while self.word(index + 1) == b".":
            index = self.identifier_end(index + 2)
        return index

    def from_clause(self, inside: int) -> int:
        """The first token behind FROM of the SELECT whose FROM clause a table's token is in."""
        index = inside - 1
        while index >= 0 and not (self.words[index] == b"select" and self.word(index - 1) != b"."):
            index = (self.pairs[index] if self.words[index] in (b")", b"]") else index) - 1
        found = self.forward(index + 1, _TARGETS_END - {b"into"})
        if index < 0 or self.word(found) != b"from" or found >= inside:
            lost("FROM")
        return found + 1

    def targets(self, select: int) -> tuple[int, int]:
        """The list of results of the SELECT at a token, as [first, last)."""
        index = select + 1
        if self.word(index) == b"all":
            index += 1
        elif self.word(index) == b"distinct":
            index += 1
            if self.word(index) == b"on":
                index = self.pairs[self.expect(index, b"on")] + 1
        return index, self.forward(index, _TARGETS_END)

    def _joins(self, index: int) -> bool:
        """Whether a join begins here (LEFT is a function as well)."""
        if self.named(index):
            return False
        word = self.words[index]
        return word == b"join" or (word in _JOINS and self.word(index + 1) in _JOIN_NEXT)

    def _is_query(self, index: int) -> bool:
        """Whether the parentheses at a token of FROM hold a query, not tables."""
        inner = index
        while self.word(inner) == b"(":
            inner += 1
        if self.word(inner) not in _QUERIES:
            return False
        # ((SELECT 1) UNION SELECT 2) is a query, ((SELECT 1) AS a JOIN b …) is not.
        while inner - 1 > index:
            inner -= 1
            if self.word(self.pairs[inner] + 1) not in _AFTER_QUERY:
                return False
        return True

    def conditions(self, index: int, end: int) -> list[tuple[bool, int, int]]:
        """The join conditions of a FROM clause in their order, each as (is ON, first, last).

        That is the order in which PostgreSQL's parser completes the joins.
        """
        out: list[tuple[bool, int, int]] = []
        table = True  # a table comes next
        begun = -1  # first token of the condition that we are in
        while index < end:
            word = self.words[index]
            join = self._joins(index)
            clause = word in (b"on", b"using") and not self.named(index)
            if begun >= 0 and (join or clause or word in (b",", b")")):
                out.append((True, begun, index))
                begun = -1
            if clause:
                if word == b"on":
                    begun = index + 1
                else:
                    out.append((False, index, index))
            if word == b"(" and table and not self._is_query(index):
                index += 1  # tables in parentheses: in we go
                continue
            if word in (b"(", b"["):
                index = self.pairs[index]
            # Between LEFT and JOIN no parenthesis can stand, so it does not matter there.
            table = join or word == b"," or (table and word == b"lateral")
            index += 1
        if begun >= 0:
            out.append((True, begun, end))
        return out

    def arms(self, index: int, end: int) -> list[int]:
        """The SELECT, VALUES or TABLE of each query that set operations join, in their order."""
        out: list[int] = []
        query = True  # a query comes next
        while index < end:
            word = self.words[index]
            if query:
                if word == b"with":
                    index = self._with_end(index)
                elif word == b"(":
                    index += 1
                elif word in _QUERIES:
                    out.append(index)
                    query = False
                    index += 1
                else:
                    lost("a query")
                continue
            if word in (b"(", b"["):
                index = self.pairs[index]
            elif word in _SETS and not self.named(index):
                query = True
                if self.word(index + 1) in (b"all", b"distinct"):
                    index += 1
            index += 1
        return out

    def _with_end(self, index: int) -> int:
        """The token behind the WITH clause that begins at a token."""
        index += 1
        if self.word(index) == b"recursive" and self.word(index + 1) not in (b"as", b"("):
            index += 1
        while True:
            index = self.identifier_end(index) + 1
            if self.word(index) == b"(":
                index = self.pairs[index] + 1
            index = self.expect(index, b"as")
            while self.word(index) in (b"not", b"materialized"):
                index += 1
            index = self.group(index)[1] + 1
            if self.word(index) in (b"search", b"cycle"):
                raise NotSupported(
                    "SEARCH and CYCLE are not supported within INSERT … SELECT",
                    hint="Write WITH before INSERT.",
                )
            if self.word(index) != b",":
                return index
            index += 1
