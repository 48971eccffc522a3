"""The mailbox: bounded, two lanes, a verdict instead of waiting."""

from __future__ import annotations

import pytest
from pykka._envelope import Envelope

from actors.mailbox import CONTROL, CONTROL_CAPACITY, OWED, Lane, Mailbox, MailboxFull, Verdict


def put(box: Mailbox, message: object, lane: Lane = Lane.WORK) -> Verdict:
    return box.offer(Envelope(message), lane)


def drain(box: Mailbox) -> list[object]:
    got = []
    while not box.empty():
        got.append(box.get().message)
    return got


def test_messages_come_out_in_the_order_they_came_in() -> None:
    box = Mailbox()
    for number in range(5):
        assert put(box, number) is Verdict.ACCEPTED
    assert len(box) == 5
    assert drain(box) == [0, 1, 2, 3, 4]
    assert box.empty()


def test_control_messages_overtake_work() -> None:
    box = Mailbox()
    put(box, "work 1")
    put(box, "control 1", CONTROL)
    put(box, "work 2")
    put(box, "control 2", CONTROL)
    assert drain(box) == ["control 1", "control 2", "work 1", "work 2"]


def test_a_full_lane_refuses_and_keeps_what_it_has() -> None:
    box = Mailbox(capacity=2)
    assert put(box, 1)
    assert put(box, 2)
    assert put(box, 3) is Verdict.FULL
    with pytest.raises(MailboxFull, match="full"):
        box.put(Envelope(4))
    assert drain(box) == [1, 2]
    assert put(box, 5)


def test_what_is_owed_is_taken_even_when_full_and_stays_in_order() -> None:
    box = Mailbox(capacity=1)
    put(box, "opened")
    assert put(box, "closed", OWED)
    assert put(box, "more") is Verdict.FULL
    assert drain(box) == ["opened", "closed"]


def test_a_mailbox_of_no_capacity_takes_only_what_is_owed() -> None:
    box = Mailbox(capacity=0)
    assert put(box, "work") is Verdict.FULL
    assert put(box, "closed", OWED)


def test_a_full_work_lane_leaves_room_for_control() -> None:
    box = Mailbox(capacity=1)
    put(box, "work")
    assert put(box, "control", CONTROL)


def test_the_control_lane_has_its_own_limit() -> None:
    box = Mailbox()
    for number in range(CONTROL_CAPACITY):
        assert put(box, number, CONTROL)
    assert put(box, "one more", CONTROL) is Verdict.FULL


def test_a_closed_mailbox_takes_nothing_but_can_be_emptied() -> None:
    box = Mailbox()
    put(box, "before")
    box.closed = True
    for lane in Lane:
        assert put(box, "after", lane) is Verdict.DEAD
    assert drain(box) == ["before"]


def test_get_never_waits() -> None:
    with pytest.raises(LookupError):
        Mailbox().get()


def test_only_an_accepted_message_is_true() -> None:
    assert [bool(verdict) for verdict in Verdict] == [True, False, False]
