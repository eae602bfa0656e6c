"""Ctrl-C on a reply: nothing that has come is lost, and nothing more is waited for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

from stip_client import Piece
from stip_client.cli.signals import InterruptibleReply


def pieces(*texts: str) -> Iterator[Piece]:
    for number, text in enumerate(texts):
        yield Piece(text, number, 0.0, None)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_piece_that_has_come_is_dealt_with_to_its_end() -> None:
    dealt_with = []
    with InterruptibleReply() as reply:
        for piece in reply.pieces(pieces("a", "b", "c")):
            if piece.text == "b":
                press_ctrl_c()
            dealt_with.append(piece.text)
    assert dealt_with == ["a", "b"]
    assert reply.stopped


def test_a_wait_ends_at_once() -> None:
    def waiting() -> Iterator[Piece]:
        yield from pieces("a")
        press_ctrl_c()
        yield from pieces("too late")

    with InterruptibleReply() as reply:
        assert [piece.text for piece in reply.pieces(waiting())] == ["a"]
    assert reply.stopped


def test_a_reply_that_nobody_stops_comes_whole_and_ctrl_c_is_what_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    with InterruptibleReply() as reply:
        assert [piece.text for piece in reply.pieces(pieces("a", "b"))] == ["a", "b"]
    assert not reply.stopped
    assert signal.getsignal(signal.SIGINT) is before


def test_where_ctrl_c_is_ignored_it_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with InterruptibleReply() as reply:
            press_ctrl_c()
            assert [piece.text for piece in reply.pieces(pieces("a"))] == ["a"]
        assert not reply.stopped
    finally:
        signal.signal(signal.SIGINT, before)
