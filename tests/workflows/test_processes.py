from __future__ import annotations

import os
from contextlib import suppress
from threading import Event

import pytest

from worldline.workflows.processes import workers


def test_a_process_that_is_killed_takes_its_own_task_with_it_and_no_other() -> None:
    with workers(2) as pool:
        found = [pool.submit(abs, -1), pool.submit(os.abort), pool.submit(abs, -2), pool.submit(pow, 2, exp=3)]
        with pytest.raises(ChildProcessError, match="memory"):
            found.pop(1).result()
        assert [one.result() for one in found] == [1, 2, 8]


def test_an_error_of_a_task_is_that_of_the_task() -> None:
    with workers(2) as pool, pytest.raises(ValueError, match="invalid literal"):
        pool.submit(int, "x").result()


def test_one_worker_is_this_process() -> None:
    with workers(1) as pool:
        assert pool.submit(os.getpid).result() == os.getpid()


def test_what_has_not_begun_is_left_undone_after_ctrl_c() -> None:
    with suppress(KeyboardInterrupt), workers(1) as pool:
        found = [pool.submit(Event().wait, 0.2), pool.submit(abs, -1)]
        raise KeyboardInterrupt
    assert found[1].cancelled()
