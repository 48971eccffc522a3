"""Nothing of one client's session is seen by the next one, of another tenant or of the same.

Kinds of state × ways to let go × kinds of pools; see support/leak_house.py for what a cell is, and
docs/leak-matrix.md for what comes of each. An ordinary run plays some, with all kinds and all ways
in each kind of pool; `make soak` plays all. LEAK_MATRIX=record writes down what came of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest
from support import leak_page
from support.engines import Postgres
from support.leak_house import House, house
from support.leak_kinds import KINDS
from support.leak_matrix import LETTERS, POOLS, agree, record, recorded, thinned
from support.leak_ways import WAYS
from support.provisioning import lone_postgres

__all__ = ["lone_postgres"]

RECORDING = os.environ.get("LEAK_MATRIX") == "record"


@pytest.fixture(scope="module")
def houses(lone_postgres: Postgres) -> Iterator[Callable[[str], House]]:
    """The house of a kind of pool; each is built when it is first asked for."""
    built: dict[str, House] = {}
    with contextlib.ExitStack() as stack:

        def of(pool: str) -> House:
            if pool not in built:
                built[pool] = stack.enter_context(house(lone_postgres, POOLS[pool]))
            return built[pool]

        yield of


@pytest.mark.engine
@pytest.mark.parametrize(
    ("pool", "kind", "way"), [(pool, *cell) for pool in POOLS for cell in thinned(pool)]
)
def test_nothing_is_left(houses: Callable[[str], House], pool: str, kind: str, way: str) -> None:
    played = houses(pool)
    letter = played.letter(played.play(kind, way))
    assert agree(way, letter, recorded()[pool][kind][list(WAYS).index(way)])


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("pool", POOLS)
def test_the_whole_matrix(houses: Callable[[str], House], pool: str) -> None:
    played = houses(pool)
    found: dict[str, str] = {}
    faults: list[str] = []
    for kind in KINDS:
        letters = ""
        for way in WAYS:
            try:
                letters += played.letter(played.play(kind, way))
            except AssertionError as error:
                faults.append(f"{kind}, {way}: {error}")
                letters += "!"
        found[kind] = letters
    assert not faults, "\n".join(faults)
    if RECORDING:
        record(pool, found)
    known = recorded()[pool]
    differing = [
        f"{kind}, {way}: {letter}, not {before}"
        for kind, letters in found.items()
        for way, letter, before in zip(WAYS, letters, known[kind], strict=True)
        if not agree(way, letter, before)
    ]
    assert not differing, "\n".join(differing)


def test_ordinary_cells_cover_every_kind_and_every_way() -> None:
    for pool in POOLS:
        cells = list(thinned(pool))
        assert {kind for kind, _ in cells} == set(KINDS)
        assert {way for _, way in cells} == set(WAYS)


def test_every_cell_is_recorded() -> None:
    known = recorded()
    assert list(known) == list(POOLS)
    for rows in known.values():
        assert list(rows) == list(KINDS)
        for letters in rows.values():
            assert len(letters) == len(WAYS)
            assert set(letters) <= set(LETTERS)


def test_the_page_is_up_to_date() -> None:
    written = leak_page.PAGE.read_text(encoding="utf-8")
    assert written == leak_page.page(), "in tests/, run: python -m support.leak_page"
