from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from threading import Event

import pytest

from worldline.errors import UnavailableError
from worldline_exam.worker_pool import workers


def test_a_process_that_is_killed_ends_the_exam_with_the_way_to_continue() -> None:
    with pytest.raises(UnavailableError, match=r"Continue with --resume"), workers(2) as pool:
        pool.submit(os.abort).result()


def test_processes_end_with_the_one_that_asked() -> None:
    """Also where it is killed and can tell nobody."""
    asks = (
        "import os, time\n"
        "from worldline_exam.worker_pool import workers\n"
        "with workers(2) as pool:\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 600), pool.submit(time.sleep, 600)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", asks], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        assert asking.stdout.readline()
        asking.kill()
        asking.communicate(timeout=60)  # waits for all who could still write there


def test_what_has_not_begun_is_left_undone_after_ctrl_c() -> None:
    with suppress(KeyboardInterrupt), workers(1) as pool:
        found = [pool.submit(Event().wait, 0.2), pool.submit(abs, -1)]
        raise KeyboardInterrupt
    assert found[1].cancelled()
