from __future__ import annotations

import numpy as np
import pytest

from worldline.data.checks import Severity
from worldline.data.formats.reading import check_known, mark_missing, partly_missing
from worldline.errors import DataError

NAN = float("nan")


def test_the_last_known_value_fills_a_gap():
    values, observed = mark_missing(np.array([[NAN, 1], [2, NAN], [NAN, NAN], [3, 4]]))
    assert values.tolist() == [[2, 1], [2, 1], [2, 1], [3, 4]]
    assert observed is not None
    assert observed.tolist() == [False, False, False, True]


def test_what_was_never_known_is_zero_and_masked():
    values, observed = mark_missing(np.array([NAN, NAN]))
    assert values.tolist() == [0, 0]
    assert observed is not None
    assert not observed.any()


def test_whole_arrays_are_left_alone():
    for values in (np.array([1.0, np.inf]), np.array([1, 2]), np.empty((0, 2))):
        filled, observed = mark_missing(values)
        assert filled is values
        assert observed is None


def test_rows_of_which_a_part_is_missing_are_a_warning():
    (finding,) = partly_missing(np.array([[1, 2], [NAN, NAN], [3, NAN]]), "place")
    assert (finding.severity, finding.signal, finding.step) == (Severity.WARNING, "place", 2)
    assert partly_missing(np.array([[1, 2], [NAN, NAN]]), "place") == []


def test_inputs_must_be_known():
    check_known(np.array([1.0, np.inf]), "push")
    with pytest.raises(DataError, match=r"'push', step 1: the value is missing \(2 steps\)"):
        check_known(np.array([[1.0], [NAN], [NAN]]), "push")
