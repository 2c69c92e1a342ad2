"""Shares: no caller, and no number of callers, leaves nothing for a further one."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from worldline.serve.problems import OverloadedError
from worldline.serve.shares import Shares


def grasp(shares: Shares, stack: ExitStack, caller: str) -> int:
    """Takes as much as is allowed, one at a time; returns how much."""
    for number in range(1000):
        try:
            stack.enter_context(shares.open(caller, 1))
        except OverloadedError:
            return number
    raise AssertionError("there is no limit")


def test_a_caller_gets_half_and_a_further_one_always_finds_something() -> None:
    shares = Shares(60, "sockets")
    with ExitStack() as stack:
        assert [grasp(shares, stack, caller) for caller in "abcde"] == [30, 15, 8, 4, 2]
        with pytest.raises(OverloadedError, match=r"31 sockets of this token .* 0 of 60"):
            shares.open("a", 1).__enter__()
    assert shares.used == 0
    with ExitStack() as stack:
        assert grasp(shares, stack, "b") == 30
