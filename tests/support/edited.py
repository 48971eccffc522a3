"""Texts of one template, and edits at places that every text of a template has."""

from __future__ import annotations

from zlib import crc32

from hypothesis import strategies as st

from wire.sql import lexer as t
from wire.sql.edits import VALUE, Edit
from wire.sql.lexer import tokens

VALUES = (b"'acme'", b"acme:", b"42")

GAPS = [b" ", b"  ", b"\n", b"\t ", b" /* c */ ", b"-- 'x\n", b"/* /* n */ $$ */", b"\r\n  ", b"\f"]
LITERALS: dict[str, list[bytes]] = {
    "string": [b"''", b"'a'", b"'it''s'", b"E'\\''", b"$$x$$", b"$q$ $$ ; $q$", "'é京'".encode()],
    "number": [b"0", b"7", b"42", b"1.5", b".5", b"1e10", b"0xFF", b"1_000", b"12345678901234"],
    "bits": [b"B'0'", b"b'0101'"],
    "hex": [b"X'1F'", b"x''"],
}
WORDS = [b"select", b"FROM", b"t", b"a.b", b'"T x"', b"where", b"and", b"$1", b"e", b"\xc3\xa9t"]
SIGNS = [b"=", b",", b"(", b")", b"::", b"<@", b"-", b"*", b";", b".", b"[", b"]", b"->>"]

LISTS = [
    *([b"string"], [b"number"], [b"-", b"number"], [b"string", b"number"]),
    [b"(", b"number", b",", b"string", b")"],
]


@st.composite
def skeletons(draw: st.DrawFn) -> list[list[bytes]]:
    """The parts that all texts have: fixed tokens, kinds of literals, and lists with their item."""
    parts: list[list[bytes]] = []
    for _ in range(draw(st.integers(1, 12))):
        choice = draw(st.integers(0, 9))
        if choice < 4:
            parts.append([b"word", draw(st.sampled_from(WORDS))])
        elif choice < 6:
            parts.append([b"word", draw(st.sampled_from(SIGNS))])
        elif choice < 8:
            parts.append([b"literal", draw(st.sampled_from(sorted(LITERALS))).encode()])
        elif choice < 9:
            parts.append([b"list", *draw(st.sampled_from(LISTS))])
        else:
            parts.append([b"rows", *draw(st.sampled_from(LISTS))])
    return parts


def gap(draw: st.DrawFn) -> bytes:
    return draw(st.sampled_from(GAPS))


def item(draw: st.DrawFn, kinds: list[bytes]) -> bytes:
    out = b""
    for kind in kinds:
        choices = LITERALS.get(kind.decode(), [kind])
        out += draw(st.sampled_from(choices)) + draw(st.sampled_from([b"", *GAPS]))
    return out


def rendered(draw: st.DrawFn, parts: list[list[bytes]], rows: bool) -> bytes:
    """One of the texts that have the skeleton's template. `rows`: their number may differ."""
    out = [draw(st.sampled_from([b"", *GAPS]))]
    for kind, *what in parts:
        if kind == b"word":
            out.append(what[0])
        elif kind == b"literal":
            out.append(draw(st.sampled_from(LITERALS[what[0].decode()])))
        else:
            items = draw(st.integers(1, 4))
            if kind == b"list":
                inside = b",".join(item(draw, what) for _ in range(items))
                out.append(b"in" + gap(draw) + b"(" + inside + b")")
            else:
                count = items if rows else 2
                inside = [b"(" + item(draw, what) + b")" for _ in range(count)]
                out.append(b"VALUES" + gap(draw) + b",".join(inside))
        out.append(gap(draw))
    return b"".join(out)


def collapsed(sql: bytes, rows: bool) -> list[tuple[int, int]]:
    """Where the lists of literals are, which a template makes short: found in the obvious way."""
    found = tokens(sql)
    assert found is not None
    regions: list[tuple[int, int]] = []
    for number, (kind, start, end) in enumerate(found):
        word = sql[start:end].lower()
        if kind != t.WORD or word not in ((b"in", b"values") if rows else (b"in",)):
            continue
        at = number + 1
        begin = stop = -1
        while at < len(found) and sql[found[at][1] : found[at][2]] == b"(":
            depth = 0
            first = at
            while at < len(found):
                sign = sql[found[at][1] : found[at][2]]
                depth += (sign == b"(") - (sign == b")")
                if depth == 0 or found[at][0] in (t.WORD, t.QUOTED):
                    break
                at += 1
            if at == len(found) or depth:
                begin = -1  # names stand in it, or it never ends
                break
            if word == b"in":
                begin, stop = found[first][2], found[at][1]
                break
            begin = found[first][1] if begin < 0 else begin
            stop = found[at][2]
            at += 1
            if at == len(found) or sql[found[at][1] : found[at][2]] != b",":
                break
            at += 1
        if begin >= 0:
            regions.append((begin, stop))
    return regions


def edits_of(sql: bytes, rows: bool, seed: int) -> list[Edit]:
    """Edits that depend on nothing but the tokens outside of literals, blanks and lists."""
    regions = collapsed(sql, rows)
    found = tokens(sql)
    assert found is not None
    edits: list[Edit] = []
    number = 0
    before = -1  # where a word begins that no edit is at
    for kind, start, end in found:
        if any(begin <= start < stop for begin, stop in regions):
            before = -1
            continue
        fixed = kind in (t.WORD, t.QUOTED, t.OPERATOR, t.PUNCTUATION, t.PARAM)
        number += 1
        action = crc32(b"%d %d" % (number, seed)) % 6
        after = rows and any(end == stop for _, stop in regions)
        if action == 1:
            edits.append(Edit(start, start, (b"(%d " % number, b" x "), (VALUE,)))
        elif action == 2 and not after:
            edits.append(Edit(end, end, (b" y", b" AND b%d)" % number), (VALUE,)))
        elif action == 3 and fixed and kind != t.PUNCTUATION and b" " not in sql[start:end]:
            edits.append(Edit(start, end, (b"r" + sql[start:end],)))
        elif action == 4 and fixed and before >= 0:
            edits.append(Edit(before, end, (b"two words",)))
        before = start if action == 0 and fixed else -1
    return edits
