from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from worldline.errors import InputError, UnknownNameError
from worldline.labs.base import Policy
from worldline.labs.two_rooms import TwoRooms
from worldline.workflows.record import FunctionPolicy, RandomPolicy, policy_maker

CODE = """
import numpy as np
from worldline.labs.base import Policy

LIMIT = 2.0

def push(observation, generator):
    return generator.uniform(-LIMIT, LIMIT, 1)

class Swing(Policy):
    def __init__(self, level=1.5):
        self.level = level
    def reset(self, generator):
        pass
    def act(self, observation, generator):
        return [self.level]

class Stranger:
    pass

gentle = Swing(0.1)
"""


@pytest.fixture
def pendulum():
    with gymnasium.make("Pendulum-v1") as env:
        yield env


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "acting_for_a_test.py").write_text(CODE)
    (tmp_path / "broken_for_a_test.py").write_text("import no_such_package_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acting_for_a_test", raising=False)
    return "acting_for_a_test"


def first_action(policy: Policy, seed: int = 0) -> Any:
    generator = np.random.default_rng(seed)
    policy.reset(generator)
    return policy.act(np.zeros(3), generator)


def test_a_path_leads_to_a_function_a_class_or_a_policy(pendulum, module):
    push = policy_maker(f"{module}:push", pendulum)()
    assert isinstance(push, FunctionPolicy)
    assert -2 <= first_action(push)[0] <= 2
    assert first_action(policy_maker(f"{module}:Swing", pendulum)()) == [1.5]
    assert first_action(policy_maker(f"{module}:gentle", pendulum)()) == [0.1]


def test_random_actions_depend_on_the_generator_only(pendulum):
    one, two = (policy_maker(None, pendulum)() for _ in range(2))
    assert isinstance(one, RandomPolicy)
    assert first_action(one, 3) == first_action(two, 3) != first_action(one, 4)


def test_an_explorer_keeps_nothing_from_episode_to_episode():
    with TwoRooms() as lab:
        make, seen = policy_maker("explorer", lab), lab.reset(seed=0)[0]

    def moves(seed: int) -> list[list[float]]:
        generator, policy = np.random.default_rng(seed), make()
        policy.reset(generator)
        return [policy.act(seen, generator)["move"].tolist() for _ in range(30)]

    fresh = [moves(seed) for seed in range(6)]
    assert [moves(seed) for seed in reversed(range(6))] == fresh[::-1]


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("greedy", InputError, r"'greedy'. Use 'random', a subclass of"),
        ("explorer", InputError, r"'explorer'. Use 'random'"),
        (":push", InputError, r"':push'. Write module:name"),
        ("no_such_package_at_all.inner:push", InputError, r"there is no module 'no_such_package_at_all'"),
        ("acting_for_a_test:pusch", UnknownNameError, r"'pusch'. Did you mean 'push'"),
        ("acting_for_a_test:LIMIT", InputError, r"a function of observation and generator"),
        ("acting_for_a_test:Stranger", InputError, r"a subclass of worldline.labs.base.Policy"),
        ("broken_for_a_test:push", ModuleNotFoundError, r"no_such_package_at_all"),
    ],
)
def test_what_is_wrong_with_a_path_is_named(pendulum, module, path, error, words):
    with pytest.raises(error, match=words):
        policy_maker(path, pendulum)
