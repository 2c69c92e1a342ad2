from __future__ import annotations

import numpy as np
import pytest

from worldline.engines.base import Card
from worldline.engines.baselines import Linear
from worldline.episode import History
from worldline.errors import InputError, UnavailableError, UnknownNameError, UnsupportedError, WorldlineError
from worldline.planning.base import Goal, PlanRequest
from worldline.planning.planners.cem import CrossEntropy
from worldline.serve.service import MAX_STEPS, Reply, reply
from worldline.testing.toys import Integrator
from worldline.world.base import World
from worldline.world.local import LocalWorld
from worldline.world.wire import Call, decode_answer, encode_call

TOY = Integrator(camera=False, wind=False)
HISTORY = History(observations={"position": np.zeros((1, 2), np.float32)}, actions={"push": np.zeros((0, 2))})

ASK = encode_call(Call("describe", {}))


@pytest.fixture(scope="module")
def world() -> World:
    return LocalWorld(Linear.fit(TOY.episodes(9, 20, seed=0), TOY.schema), None, CrossEntropy())


def error_of(found: Reply) -> WorldlineError:
    """The error in a reply."""
    error = decode_answer(Card, found.body)
    assert isinstance(error, WorldlineError)
    assert found.error is not None
    assert str(found.error) == str(error)
    return error


def test_a_request_is_answered(world: World) -> None:
    found = reply(world, "describe", ASK)
    assert found.error is None
    assert decode_answer(Card, found.body) == world.describe()


def test_an_error_of_the_world_is_told(world: World) -> None:
    call = Call("predict", {"history": HISTORY, "actions": {}})
    error = error_of(reply(world, "predict", encode_call(call)))
    assert type(error) is InputError
    assert "action 'push' is missing" in str(error)


def test_a_request_that_cannot_be_read_is_told(world: World) -> None:
    assert type(error_of(reply(world, "describe", b"\xc1"))) is InputError
    assert type(error_of(reply(world, "descibe", b""))) is UnknownNameError


def test_a_plan_of_any_length_cannot_be_asked_for(world: World) -> None:
    goal = Goal(targets={"position": np.zeros(2)}, tolerance={"position": 1.0})
    call = Call("plan", {"history": HISTORY, "request": PlanRequest(goal=goal, horizon=MAX_STEPS + 1)})
    error = error_of(reply(world, "plan", encode_call(call)))
    assert type(error) is UnsupportedError
    assert "plans at most 10000 steps" in str(error)


class Broken(World):
    """Raises what it is given."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def describe(self) -> Card:
        raise self.error

    predict = score = answer_plan = what_if = surprise = None


def test_too_much_for_the_memory_is_a_limit_of_the_server() -> None:
    found = reply(Broken(MemoryError()), "describe", ASK)
    assert type(found.error) is UnsupportedError
    assert "describe needs more memory than the server has" in str(error_of(found))


def test_a_world_that_cannot_be_reached_itself_says_so() -> None:
    found = reply(Broken(UnavailableError("gone.")), "describe", ASK)
    assert type(error_of(found)) is UnavailableError


def test_a_fault_of_the_world_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        reply(Broken(ZeroDivisionError()), "describe", ASK)
