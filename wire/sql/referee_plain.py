"""Makes a text easier for a parser that does not know all of PostgreSQL; only the referee reads it.

What is replaced names no relation, and is found with our own lexer, which splits as PostgreSQL
does: so the relations of the text made plain are those of the text itself.
"""

from __future__ import annotations

import re
from typing import Final

from wire.sql.lexer import (
    OPERATOR,
    PUNCTUATION,
    QUOTED,
    STRING,
    UQUOTED,
    USTRING,
    WORD,
    tokens,
)

Lexed = list[tuple[int, int, int]]

_KEYWORDS: Final = """
abort absent absolute access action add admin after aggregate all also alter always analyse
analyze and any array as asc asensitive assertion assignment asymmetric at atomic attach attribute
authorization backward before begin between bigint binary bit boolean both breadth by cache call
called cascade cascaded case cast catalog chain char character characteristics check checkpoint
class close cluster coalesce collate collation column columns comment comments commit committed
compression concurrently conditional configuration conflict connection constraint constraints
content continue conversion copy cost create cross csv cube current current_catalog current_date
current_role current_schema current_time current_timestamp current_user cursor cycle data database
day deallocate dec decimal declare default defaults deferrable deferred definer delete delimiter
delimiters depends depth desc detach dictionary disable discard distinct do document domain double
drop each else empty enable encoding encrypted end enforced enum error escape event except exclude
excluding exclusive execute exists explain expression extension external extract false family
fetch filter finalize first float following for force foreign format forward freeze from full
function functions generated global grant granted greatest group grouping groups handler having
header hold hour identity if ilike immediate immutable implicit import in include including
increment indent index indexes inherit inherits initially inline inner inout input insensitive
insert instead int integer intersect interval into invoker is isnull isolation join json
json_array json_arrayagg json_exists json_object json_objectagg json_query json_scalar
json_serialize json_table json_value keep key keys label language large last lateral leading
leakproof least left level like limit listen load local localtime localtimestamp location lock
locked logged mapping match matched materialized maxvalue merge merge_action method minute
minvalue mode month move name names national natural nchar nested new next nfc nfd nfkc nfkd no
none normalize normalized not nothing notify notnull nowait null nullif nulls numeric object
objects of off offset oids old omit on only operator option options or order ordinality others out
outer over overlaps overlay overriding owned owner parallel parameter parser partial partition
passing password path period placing plan plans policy position preceding precision prepare
prepared preserve primary prior privileges procedural procedure procedures program publication
quote quotes range read real reassign recursive ref references referencing refresh reindex
relative release rename repeatable replace replica reset restart restrict return returning returns
revoke right role rollback rollup routine routines row rows rule savepoint scalar schema schemas
scroll search second security select sequence sequences serializable server session session_user
set setof sets share show similar simple skip smallint snapshot some source sql stable standalone
start statement statistics stdin stdout storage stored strict string strip subscription substring
support symmetric sysid system system_user table tables tablesample tablespace target temp
template temporary text then ties time timestamp to trailing transaction transform treat trigger
trim true truncate trusted type types uescape unbounded uncommitted unconditional unencrypted
union unique unknown unlisten unlogged until update user using vacuum valid validate validator
value values varchar variadic varying verbose version view views virtual volatile when where
whitespace window with within without work wrapper write xml xmlattributes xmlconcat xmlelement
xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable year yes zone
"""
KEYWORDS: Final = frozenset(_KEYWORDS.encode().split())
"""All key words of PostgreSQL 18, as pg_get_keywords lists them."""

# Other operators are all made +, which stands between two operands and before one as well.
_KNOWN_OPERATORS: Final = frozenset(
    [b"*", b"+", b"-", b"/", b"=", b"<", b">", b"<=", b">=", b"<>", b"!=", b"=>", b"||"]
)
# Functions whose arguments are not just expressions with commas between them.
_CLAUSED: Final = frozenset(
    b"json json_array json_arrayagg json_exists json_object json_objectagg json_query json_scalar"
    b" json_serialize json_table json_value xmlexists xmlelement xmlparse xmlpi xmlserialize"
    b" xmltable".split()
)
_CLAUSES: Final = frozenset(
    b"absent as columns default empty error format keep omit passing returning with without".split()
)
_QUERIES: Final = (b"select", b"table", b"values")
_FORMS_BEFORE: Final = (b"content", b"document", b"name")
_JSON_KINDS: Final = (b"value", b"array", b"object", b"scalar")
_FORMS: Final = (b"nfc", b"nfd", b"nfkc", b"nfkd")
# \\, \+006100 or \0061, with whatever character escapes.
_ESCAPE: Final = re.compile(r"(.)(?:(\1)|\+([0-9a-fA-F]{6})|([0-9a-fA-F]{4}))", re.DOTALL)


def plain(text: str) -> str:
    """The text without what sqlglot does not read. Raises ValueError for broken escapes."""
    sql = text.encode()
    found = tokens(sql)
    if found is None:
        return text
    out: list[bytes] = []
    copied = at = 0
    inside: list[bool] = []  # for each open parenthesis, whether it is that of a _CLAUSED function
    while at < len(found):
        kind, start, _ = found[at]
        count, piece = _replacement(sql, found, at)
        if kind == PUNCTUATION and sql[start] in b"([":
            inside.append(at > 0 and _word(sql, found, at - 1) in _CLAUSED)
        elif kind == PUNCTUATION and sql[start] in b")]" and inside:
            inside.pop()
        elif inside and inside[-1]:
            clause = _clause(sql, found, at)
            if clause[0]:
                count, piece = clause
        if count:
            out.append(sql[copied : found[at][1]])
            out.append(b" " + piece + b" ")
            copied = found[at + count - 1][2]
            at += count
        else:
            at += 1
    out.append(sql[copied:])
    return b"".join(out).decode()


def _word(sql: bytes, found: Lexed, at: int) -> bytes:
    """The word at index `at` in lower case; empty for any other token."""
    kind, start, end = found[at]
    return sql[start:end].lower() if kind == WORD else b""


def _clause(sql: bytes, found: Lexed, at: int) -> tuple[int, bytes]:
    """What stands between or after the arguments of a _CLAUSED function, if no query is in it."""
    word = _word(sql, found, at)
    if word == b"value" or words(sql, found, at, b":"):
        return 1, b","
    if word in _FORMS_BEFORE and words(sql, found, at - 1, b"("):
        return 1, b""
    if word in _CLAUSES or words(sql, found, at, b"null", b"on"):
        end = at
        depth = 1
        while end < len(found):
            kind, start, _ = found[end]
            if kind == PUNCTUATION:
                depth += 1 if sql[start] in b"([" else -1 if sql[start] in b")]" else 0
                if depth == 0:
                    break
            elif _word(sql, found, end) in _QUERIES:
                return 0, b""
            end += 1
        return end - at, b""
    return 0, b""


def words(sql: bytes, found: Lexed, at: int, *expected: bytes) -> bool:
    """Whether these tokens (words in lower case, operators, punctuation) stand at index `at`."""
    if at < 0 or at + len(expected) > len(found):
        return False
    for each in expected:
        kind, start, end = found[at]
        if kind not in (WORD, PUNCTUATION, OPERATOR) or sql[start:end].lower() != each:
            return False
        at += 1
    return True


def closed(sql: bytes, found: Lexed, at: int) -> int:
    """The index after the parenthesis that closes the one at index `at`; the end if none does."""
    depth = 0
    while at < len(found):
        kind, start, _ = found[at]
        if kind == PUNCTUATION:
            depth += 1 if sql[start] in b"([" else -1 if sql[start] in b")]" else 0
            if depth == 0:
                return at + 1
        at += 1
    return at


def _replacement(sql: bytes, found: Lexed, at: int) -> tuple[int, bytes]:
    """How many tokens from index `at` on are replaced (0: none), and by what."""
    kind, start, end = found[at]
    if kind in (UQUOTED, USTRING):
        return _unicode(sql, found, at)
    if kind == OPERATOR:
        return (0, b"") if sql[start:end] in _KNOWN_OPERATORS else (1, b"+")
    if kind != WORD:
        return 0, b""
    word = sql[start:end].lower()
    following = found[at + 1][0] if at + 1 < len(found) else PUNCTUATION
    if word == b"bernoulli" and words(sql, found, at - 1, b"tablesample"):
        return 0, b""
    if word not in KEYWORDS or words(sql, found, at - 1, b"."):
        # What is no key word is a name, whatever it means to other dialects; before a literal it
        # is a type.
        return (1, b"") if following == STRING else (1, b'"' + word + b'"')
    return _phrase(sql, found, at, word)


def _phrase(sql: bytes, found: Lexed, at: int, word: bytes) -> tuple[int, bytes]:
    """What a key word begins, if sqlglot does not know it."""
    if word in _CLAUSED:
        return (1, b'"' + word + b'"') if words(sql, found, at + 1, b"(") else (0, b"")
    if word == b"values":
        # Of no INSERT: WITH … VALUES (…), (…), or (VALUES (…) UNION …). As expressions.
        query = words(sql, found, at - 1, b"(") or _ends_with(sql, found, at)
        return (1, b"select") if query else (0, b"")
    if word == b"lateral":
        # It changes which columns are seen, never which relations.
        return (1, b"") if words(sql, found, at + 1, b"(") else (0, b"")
    if word == b"collation":
        return (2, b'"for"') if words(sql, found, at + 1, b"for", b"(") else (0, b"")
    if word == b"bit":
        return (2, b'"varbit"') if words(sql, found, at + 1, b"varying") else (0, b"")
    if word == b"overriding":
        return (3, b"") if words(sql, found, at + 2, b"value") else (0, b"")
    if word == b"current":
        return (3, b"true") if words(sql, found, at - 1, b"where", b"current", b"of") else (0, b"")
    if word == b"operator":
        return (
            (closed(sql, found, at + 1) - at, b"+") if words(sql, found, at + 1, b"(") else (0, b"")
        )
    if word == b"only":
        return _only(sql, found, at) if words(sql, found, at + 1, b"(") else (0, b"")
    if word == b"at":
        return (2, b"") if words(sql, found, at + 1, b"local") else (0, b"")
    if word == b"is":
        return _tested(sql, found, at)
    if word == b"collate":
        end = at + 2
        while words(sql, found, end, b"."):
            end += 2
        return end - at, b""
    if word == b"using":
        return _using(sql, found, at)
    if word == b"returning" and words(sql, found, at + 1, b"with", b"("):
        return closed(sql, found, at + 2) - at, b"returning"
    return 0, b""


def _ends_with(sql: bytes, found: Lexed, at: int) -> bool:
    """Whether the query of WITH ends before index `at`: … AS [[NOT] MATERIALIZED] (…)."""
    if not words(sql, found, at - 1, b")"):
        return False
    depth = 0
    while at > 0:
        at -= 1
        kind, start, _ = found[at]
        if kind == PUNCTUATION:
            depth += 1 if sql[start] in b")]" else -1 if sql[start] in b"([" else 0
            if depth == 0:
                return _word(sql, found, at - 1) in (b"as", b"materialized")
    return False


def _using(sql: bytes, found: Lexed, at: int) -> tuple[int, bytes]:
    """ORDER BY … USING <, and JOIN … USING (a) AS b: without."""
    if at + 1 < len(found) and found[at + 1][0] == OPERATOR:
        return 2, b""
    if words(sql, found, at + 1, b"operator", b"("):
        return closed(sql, found, at + 2) - at, b""
    if words(sql, found, at + 1, b"("):
        end = closed(sql, found, at + 1)
        inside = found[at + 2 : end - 1]
        names = all(kind in (WORD, QUOTED) or sql[start] == 0x2C for kind, start, _ in inside)
        if names and words(sql, found, end, b"as"):
            return end + 2 - at, sql[found[at][1] : found[end - 1][2]]
    return 0, b""


def _tested(sql: bytes, found: Lexed, at: int) -> tuple[int, bytes]:
    """IS [NOT] JSON …, IS [NOT] … NORMALIZED, IS [NOT] DOCUMENT: as IS NULL."""
    end = at + 1
    if words(sql, found, end, b"not"):
        end += 1
    if words(sql, found, end, b"document") or words(sql, found, end, b"normalized"):
        return end + 1 - at, b"is null"
    if any(words(sql, found, end, form, b"normalized") for form in _FORMS):
        return end + 2 - at, b"is null"
    if not words(sql, found, end, b"json"):
        return 0, b""
    end += 1
    if any(words(sql, found, end, kind) for kind in _JSON_KINDS):
        end += 1
    if words(sql, found, end, b"with", b"unique") or words(sql, found, end, b"without", b"unique"):
        end += 2
        if words(sql, found, end, b"keys"):
            end += 1
    return end - at, b"is null"


def _only(sql: bytes, found: Lexed, at: int) -> tuple[int, bytes]:
    """ONLY (schema.name): without the parentheses."""
    end = closed(sql, found, at + 1)
    inside = found[at + 2 : end - 1]
    if not 1 <= len(inside) <= 5 or any(
        kind not in (WORD, QUOTED, PUNCTUATION) for kind, _, _ in inside
    ):
        return 0, b""
    return end - at, b"only " + sql[inside[0][1] : inside[-1][2]]


def _unicode(sql: bytes, found: Lexed, at: int) -> tuple[int, bytes]:
    """U&"…" [UESCAPE '…'] as an ordinary quoted identifier, U&'…' as an empty literal."""
    kind, start, end = found[at]
    count = 1
    escape = "\\"
    if words(sql, found, at + 1, b"uescape") and at + 2 < len(found):
        escape = sql[found[at + 2][1] : found[at + 2][2]].decode()[1:-1]
        count = 3
    if kind == USTRING:
        return count, b"''"
    raw = sql[start + 3 : end - 1].decode()
    return count, b'"' + unescaped(raw, escape).encode() + b'"'


def unescaped(raw: str, escape: str) -> str:
    """The text of U&"" between its quotes, which stay doubled. Raises ValueError."""
    if len(escape) != 1:
        raise ValueError("not an escape character")
    out: list[str] = []
    at = 0
    while (escaped := raw.find(escape, at)) >= 0:
        out.append(raw[at:escaped])
        match = _ESCAPE.match(raw, escaped)
        if match is None:
            raise ValueError("not an escape")
        char = escape if match[2] else chr(int(match[3] or match[4], 16))
        out.append('""' if char == '"' else char)
        at = match.end()
    out.append(raw[at:])
    # Two escapes may make one character, as in UTF-16.
    return "".join(out).encode("utf-16", "surrogatepass").decode("utf-16")
