"""Messages wait on disk in order, within a bound, and outlive whoever wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest

from events import spool as module
from events.spool import Message, Spool, waiting_in


def messages(*numbers: int) -> list[Message]:
    return [Message("some.subject", f"id.{n}", b"x" * n) for n in numbers]


def test_what_is_appended_is_taken_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.take() is None
    assert spool.append(messages(1, 2))
    assert spool.append(messages(3))
    segment = spool.take()
    assert segment is not None
    assert segment.messages() == messages(1, 2, 3)
    assert spool.append(messages(4)), "there is room beside the one being sent"
    assert spool.take() is segment, "until it is done"
    spool.done()
    segment = spool.take()
    assert segment is not None
    assert segment.messages() == messages(4)
    spool.done()
    assert not spool.waiting()
    assert list(tmp_path.iterdir()) == []
    spool.close()


def test_long_waits_take_several_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES_MAX", 100)
    spool = Spool(tmp_path)
    for n in range(20):
        assert spool.append(messages(n))
    assert len(list(tmp_path.iterdir())) > 5
    assert sorted(waiting_in(tmp_path)) == sorted(messages(*range(20)))
    found: list[Message] = []
    while (segment := spool.take()) is not None:
        found += segment.messages()
        spool.done()
    assert found == messages(*range(20))
    spool.close()


def test_all_or_nothing_within_the_bound(tmp_path: Path) -> None:
    spool, other = Spool(tmp_path, bytes_max=250), Spool(tmp_path, bytes_max=250)
    assert spool.append(messages(100))
    assert not other.append(messages(40, 40)), "the bound is for all writers together"
    assert other.append(messages(40))
    assert spool.used() <= 250
    assert len(list(waiting_in(tmp_path))) == 2
    spool.close()
    other.close()


def test_a_living_writers_segments_are_its_own(tmp_path: Path) -> None:
    writer, heir = Spool(tmp_path), Spool(tmp_path)
    writer.append(messages(1))
    assert heir.take() is None
    writer.close()
    segment = heir.take()
    assert segment is not None
    assert segment.messages() == messages(1)
    heir.close()
    third = Spool(tmp_path)
    segment = third.take()
    assert segment is not None, "the heir left without sending it"
    third.done()
    third.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_record_cut_off_by_a_crash_ends_the_segment(tmp_path: Path, cut: int) -> None:
    writer = Spool(tmp_path)
    writer.append(messages(10, 20, 30))
    writer.close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-cut])
    heir = Spool(tmp_path)
    segment = heir.take()
    assert segment is not None
    assert segment.messages() == messages(10, 20)
    heir.close()


def test_a_changed_record_is_not_sent(tmp_path: Path) -> None:
    writer = Spool(tmp_path)
    writer.append(messages(10, 20, 30))
    writer.close()
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[60] ^= 1
    file.write_bytes(data)
    heir = Spool(tmp_path)
    segment = heir.take()
    assert segment is not None
    assert segment.messages() == messages(10)
    heir.close()


def test_a_full_disk_keeps_nothing_of_what_it_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(messages(1))
    segment = spool.take()
    assert segment is not None
    segment.close()
    spool._current = segment  # its handle is closed: every write fails
    spool._taken = None
    assert not spool.append(messages(2))
    assert sorted(waiting_in(tmp_path)) == messages(1)
    spool._current = None
    spool.close()
