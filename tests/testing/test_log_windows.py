from __future__ import annotations

import pytest

from worldline.errors import InputError
from worldline.testing.log_windows import places
from worldline.testing.toys import Integrator

EPISODES = Integrator().episodes(5, 10, seed=0)


def test_places_refuse_what_is_too_short() -> None:
    with pytest.raises(InputError, match=r"\[0, 1, 2, 3, 4\] have fewer than the 12 steps"):
        places(EPISODES, length=3, horizon=10, seed=0)
    with pytest.raises(InputError, match="at least two"):
        places(EPISODES[:1], length=1, horizon=1, seed=0)
