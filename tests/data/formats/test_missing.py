from __future__ import annotations

import numpy as np
import pytest

from worldline.data.checks import Severity
from worldline.data.formats.reading import EpisodeDraft
from worldline.errors import DataError
from worldline.schema import Kind, Role, Signal

NAN = float("nan")
PLACE = Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,))
PUSH = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,))


@pytest.mark.parametrize(
    ("values", "filled", "observed", "first_partly"),
    [
        ([[NAN, NAN], [2, 1], [NAN, 5], [3, 4]], [[2, 1], [2, 1], [2, 1], [3, 4]], [False, True, False, True], 2),
        ([[NAN, NAN], [NAN, NAN]], [[0, 0], [0, 0]], [False, False], None),
        ([[1, np.inf]], [[1, np.inf]], None, None),
        (np.array([[1, 2]]), [[1, 2]], None, None),
    ],
)
def test_missing_observations_are_masked_and_hold_the_last_known_row(values, filled, observed, first_partly):
    draft = EpisodeDraft()
    draft.add(PLACE, np.array(values))
    assert draft.values["place"].tolist() == filled
    mask = draft.observed.get("place")
    assert (None if mask is None else mask.tolist()) == observed
    expected = [] if first_partly is None else [(Severity.WARNING, "place", first_partly)]
    assert [(finding.severity, finding.signal, finding.step) for finding in draft.findings] == expected


def test_inputs_must_be_known():
    EpisodeDraft().add(PUSH, np.array([1.0, np.inf]))
    with pytest.raises(DataError, match=r"'push', step 1: the value is missing \(2 steps\)"):
        EpisodeDraft().add(PUSH, np.array([[1.0], [NAN], [NAN]]))
