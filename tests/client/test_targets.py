"""Which of several servers a client uses."""

from __future__ import annotations

import pytest

from stip_client.errors import RequestError
from stip_client.transport.targets import Targets


def test_servers_are_given_with_commas_or_as_a_list() -> None:
    for given in ("a:1, b:2", ["a:1", "b:2"], ("a:1", "b:2")):
        targets = Targets(given)
        assert len(targets) == 2 and targets.current.target == "a:1"
    with pytest.raises(RequestError, match="no server"):
        Targets([])


def test_the_next_is_taken_in_turn() -> None:
    targets = Targets("a:1,b:2")
    seen = []
    for _ in range(3):
        seen.append(targets.current.target)
        targets.leave(targets.current)
    assert seen == ["a:1", "b:2", "a:1"]


def test_a_server_that_has_been_left_is_not_left_again() -> None:
    """Sessions that lose the same server move to the same one, rather than past it."""
    targets = Targets("a:1,b:2,c:3")
    lost = targets.current
    targets.leave(lost)
    targets.leave(lost)
    assert targets.current.target == "b:2"


def test_a_token_goes_to_none_of_them_in_plain_text_over_the_network() -> None:
    with pytest.raises(RequestError, match=r"gpu\.example\.org:1 in plain text"):
        Targets("localhost:1,gpu.example.org:1", token="a" * 20)
