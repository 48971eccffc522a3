"""The corpus of the rewriting, with other literals and blanks: by template as afresh."""

from __future__ import annotations

import random

import pytest
from support.edited import GAPS, LITERALS
from support.rewriting import KINDS, catalog, statements
from support.shared_tables import VALUES, ask, forwarded

from events.model import Permissions, RateLimits
from wire.sql import lexer as t
from wire.sql.frame import Frame
from wire.sql.guard import Analyser, Guard
from wire.sql.lexer import tokens

LIFTED = {t.STRING: "string", t.BITS: "bits", t.HEX: "hex", t.NUMBER: "number"}
FRAME = Frame(catalog(KINDS["text"]), shared=True)
CORPUS = statements(KINDS["text"])


def fresh() -> Guard:
    return Guard(Permissions(), RateLimits(), Analyser(FRAME), VALUES)


def varied(sql: bytes, rng: random.Random) -> bytes:
    """The statement with other literals of the same kinds, other blanks, and comments."""
    found = tokens(sql)
    assert found is not None
    out: list[bytes] = []
    last = 0
    before = b""
    for kind, start, end in found:
        gap = sql[last:start]
        token = sql[start:end]
        if kind in LIFTED and before.lower() != b"uescape":
            token = rng.choice(LITERALS[LIFTED[kind]])
        # A literal goes on behind a newline.
        quoted = token[-1:] == b"'" or before[-1:] == b"'"
        if gap:
            gap = rng.choice([each for each in GAPS if not (quoted and set(each) & set(b"\n\f"))])
        out += (gap, token)
        last = end
        before = token
    return b"".join(out)


def check(sql: str, rng: random.Random) -> bool:
    """Whether the second of two texts was known by the first's template; raises if it differs."""
    warm = fresh()
    if ask(warm, varied(sql.encode(), rng)).refusal is not None:
        return False
    text = varied(sql.encode(), rng)
    verdict = warm.judge(text)
    if verdict is None:
        return False
    afresh = forwarded(fresh(), text)
    if afresh.startswith(b"refused: syntax error"):
        return True  # FETCH 1.5: the server says so, too
    by_template = warm.rewritten(text, verdict) if verdict.edited else text
    assert by_template == afresh, text
    return True


def test_the_corpus_by_template_as_afresh() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    known = sum(check(sql, rng) for sql in CORPUS)
    assert known > len(CORPUS) * 0.8


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_the_corpus_by_template_as_afresh_for_long() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(100):
        for sql in CORPUS:
            check(sql, rng)
