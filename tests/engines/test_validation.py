from __future__ import annotations

import numpy as np
import pytest

from worldline.engines.validation import check_future, check_inputs, check_observations
from worldline.episode import Future, History
from worldline.errors import InputError
from worldline.testing.toys import Integrator

SCHEMA = Integrator(camera=False).schema


def test_sizes_are_read_off() -> None:
    history = History(
        observations={"position": np.zeros((3, 4, 2))},
        actions={"push": np.zeros((3, 3, 2))},
        exogenous={"wind": np.zeros((3, 3, 2))},
    )
    assert check_observations(history, SCHEMA.observations) == (3, 4)
    check_inputs(history, SCHEMA, 3)
    future = Future(actions={"push": np.zeros((3, 2, 5, 2))}, exogenous={"wind": np.zeros((3, 5, 2))})
    size = check_future(future, SCHEMA)
    assert (size.num_worlds, size.num_versions, size.horizon) == (3, 2, 5)


@pytest.mark.parametrize(
    ("future", "message"),
    [
        (Future(actions={}), "action signal 'push' is missing"),
        (Future(actions={"push": np.zeros((3, 2, 5))}), r"'push' has shape \(3, 2, 5\)"),
        (Future(actions={"push": np.zeros((3, 2, 5, 2))}), "exogenous signal 'wind' is missing"),
        (
            Future(actions={"push": np.zeros((3, 2, 5, 2))}, exogenous={"wind": np.zeros((3, 4, 2))}),
            r"'wind' has shape \(3, 4, 2\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(future: Future, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_future(future, SCHEMA)


def test_a_history_that_does_not_fit_is_named() -> None:
    history = History(observations={"position": np.zeros((3, 4, 2))}, actions={"push": np.zeros((3, 3, 2))})
    with pytest.raises(InputError, match="'push' has shape"):
        check_inputs(history, SCHEMA, 4)
    with pytest.raises(InputError, match="exogenous signal 'wind' is missing"):
        check_inputs(history, SCHEMA, 3)
    with pytest.raises(InputError, match="'position' is missing"):
        check_observations(History(observations={}, actions={}), SCHEMA.observations)
