from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.errors import InputError, UnknownNameError, UnsupportedError
from worldline.plots.result_series import ResultSeries
from worldline.schema import Kind, Role, Signal
from worldline.serve import mcp_results
from worldline.serve.mcp_results import (
    MAX_BYTES,
    ResultStore,
    fit,
)


def curve(name: str, values: Any, half: float | None = None, **facts: Any) -> ResultSeries:
    table = np.asarray(values, float)
    table = table[:, None] if table.ndim == 1 else table
    signal = Signal(name=name, role=Role.OBSERVATION, kind=Kind.VECTOR, shape=table.shape[1:], unit="m", **facts)
    others = {} if half is None else {"low": table - half, "high": table + half}
    return ResultSeries(signal=signal, values=table, others=others, first=1, heading="predicted observations")


def store(**limits: Any) -> ResultStore:
    return ResultStore(**{"count": 3, "num_bytes": 10_000, "lifetime_s": 60.0, **limits})


def test_what_cannot_be_shortened_is_an_error() -> None:
    with pytest.raises(UnsupportedError, match="2000 bytes"):
        fit(lambda detail: {"name": "x" * MAX_BYTES})


@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 700), steps=st.integers(1, 900))
def test_pages_are_small_and_together_complete(size: int, steps: int) -> None:
    values = np.arange(steps * size, dtype=float).reshape(steps, size) / 8
    kept = store(num_bytes=10**8)
    handle = kept.put("", {"place": curve("place", values, half=1.0)})
    assert handle is not None
    name = "place" if size < 8 else f"place.{size - 1}"
    first, found = 1, list[Any]()
    while first is not None:
        page = kept.page("", handle, name, first, None)
        assert len(json.dumps(page, separators=(",", ":")).encode()) <= MAX_BYTES
        found += page["mean"]
        first = page.get("next_first_step")
    assert np.allclose(np.reshape(found, (steps, -1)), values if size < 8 else values[:, -1:], rtol=1e-6)
    assert len(json.dumps(kept.page("", handle, "place", None, None), separators=(",", ":")).encode()) <= MAX_BYTES


def test_a_page_has_the_steps_that_were_asked_for() -> None:
    kept = store()
    handle = kept.put("", {"speed": curve("speed", range(9))})
    assert handle is not None
    assert kept.page("", handle, None, None, None)["signals"] == {"speed": {"first_step": 1, "last_step": 9}}
    page = kept.page("", handle, "speed", 3, 5)
    assert (page["mean"], page["first_step"], page["last_step"]) == ([2.0, 3.0, 4.0], 3, 5)
    assert "next_first_step" not in page
    with pytest.raises(InputError, match="has steps 1 to 9, got 10 to 9"):
        kept.page("", handle, "speed", 10, None)
    with pytest.raises(UnknownNameError, match="spead"):
        kept.page("", handle, "spead", None, None)


def test_old_results_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(mcp_results.time, "monotonic", lambda: now)
    kept, one = store(), {"speed": curve("speed", range(9))}
    first, second, _ = (str(kept.put("", one)) for _ in range(3))
    kept.page("", first, None, None, None)  # so the second is the least recently used
    kept.put("", one)
    kept.page("", first, None, None, None)
    with pytest.raises(InputError):
        kept.page("", second, None, None, None)
    now = 61.0
    with pytest.raises(InputError):
        kept.page("", first, None, None, None)


def test_the_memory_of_results_is_bounded() -> None:
    kept, large = store(count=100), {"speed": curve("speed", range(700))}  # 5,600 bytes
    first, second = str(kept.put("", large)), str(kept.put("", large))
    kept.page("", second, None, None, None)
    with pytest.raises(InputError):
        kept.page("", first, None, None, None)
    assert kept.put("", {"speed": curve("speed", range(2000))}) is None
