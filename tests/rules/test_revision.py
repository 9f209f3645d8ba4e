"""What a changed graph breaks."""

from __future__ import annotations

import pytest

from holdfast.rules.revision import UNKNOWN, Revision, broken, lost

THEN = Revision(["ask", "talk"], {"log": "DeltaChannel[list]", "note": "LastValue[str]"})


def changed(**channels: str) -> Revision:
    return Revision(THEN.nodes, {**THEN.channels, **channels})


def test_the_fingerprint_follows_from_nodes_and_channels_in_any_order() -> None:
    same = Revision(["talk", "ask"], dict(reversed(THEN.channels.items())))
    assert same.fingerprint == THEN.fingerprint
    others = [Revision(["talk"], THEN.channels), changed(note="LastValue[int]"), changed(more="LastValue[int]")]
    assert len({revision.fingerprint for revision in (THEN, *others)}) == 4


@pytest.mark.parametrize("note", ["LastValue[str|None]", "LastValue[Any]", "BinaryOperatorAggregate[str]"])
def test_a_channel_that_takes_what_it_held_breaks_nothing(note: str) -> None:
    assert broken(THEN, changed(note=note), {"ask"}) == []


@pytest.mark.parametrize("note", ["LastValue[int]", "EphemeralValue[str]", "Topic[str]"])
def test_a_channel_that_does_not_is_named(note: str) -> None:
    assert broken(THEN, changed(note=note), {"ask"}) == [f"channel 'note' was LastValue[str] and is {note} now"]


def test_a_thread_that_waits_in_nothing_is_not_broken() -> None:
    assert broken(THEN, Revision([], {}), set()) == []


def test_a_node_that_is_gone_is_named_even_where_the_old_revision_is_not_known() -> None:
    assert broken(UNKNOWN, Revision(["talk"], {}), {"ask"}) == ["node 'ask' is gone, and the thread waits in it"]


def test_a_delta_channel_may_go_or_come_and_may_not_turn_plain() -> None:
    assert lost(THEN, Revision([], {})) == []
    assert lost(changed(log="LastValue[list]"), THEN) == []
    assert lost(THEN, changed(log="LastValue[list]")) == ["channel 'log' was a DeltaChannel and is a LastValue now"]
