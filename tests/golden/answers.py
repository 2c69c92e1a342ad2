"""The questions that a golden world is asked, and its answers as plain arrays and text.

Used by `make.py`, which stores the answers, and by `test_golden.py`, which compares them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worldline.data.store import Store
from worldline.device import has_bfloat16
from worldline.engines.learned import LearnedEngine
from worldline.episode import Arrays, Episode, History
from worldline.errors import UnsupportedError
from worldline.models.base import Belief
from worldline.planning.base import Chance, Goal
from worldline.planning.costs import AtMost, OODPenalty, Price
from worldline.training.batches import join
from worldline.world.base import Plan, Prediction, Scores, Surprise, WhatIf
from worldline.world.local import LocalWorld
from worldline_exam.results import TestResult

HERE = Path(__file__).parent
BUNDLES, CASES, STORE, EXAM = HERE / "bundles", HERE / "cases", HERE / "store", HERE / "exam"
STORE_EXPECTED, VERDICTS = HERE / "store.json", HERE / "verdicts.json"
GROUPS = ("observations", "actions", "exogenous", "rewards", "observed")
LEVEL = 0.8
Array = NDArray[Any]
Answer = dict[str, Array]


@contextmanager
def float32() -> Iterator[None]:
    """Products in float32 on every processor. Some would otherwise multiply in bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", dict)
        has_bfloat16.cache_clear()
        yield
    has_bfloat16.cache_clear()


def ask(world: LocalWorld, inputs: Mapping[str, Array]) -> dict[str, Answer]:
    """The answer to every question, by its name; where a question is not supported, the name of the error.

    Args:
        world: an opened bundle.
        inputs: from `pack`.
    """
    found: dict[str, Answer] = {}
    for name, question in QUESTIONS.items():
        try:
            found[name] = question(world, _Inputs(inputs))
        except UnsupportedError as error:
            found[name] = {"error": np.array(type(error).__name__)}
    return found


def pack(
    episode: Episode, *, at: int, length: int, horizon: int, others: Arrays, candidates: Arrays, targets: Arrays
) -> dict[str, Array]:
    """Everything that the questions need, as arrays.

    Args:
        episode: that histories are cut from.
        at: the present.
        length: observations of a history.
        horizon: steps to predict.
        others: actions of `what_if` [horizon, *shape].
        candidates: plans to score [N, horizon, *shape].
        targets: the goal observation; may hold an image.
    """
    arrays = {f"{group}/{name}": value for group in GROUPS for name, value in getattr(episode, group).items()}
    arrays |= {f"others/{name}": value for name, value in others.items()}
    arrays |= {f"candidates/{name}": value for name, value in candidates.items()}
    arrays |= {f"targets/{name}": value for name, value in targets.items()}
    return {**arrays, "at": np.array(at), "length": np.array(length), "horizon": np.array(horizon)}


class _Inputs:
    """What `pack` packed."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = arrays
        self.at, self.length, self.horizon = (int(arrays[name]) for name in ("at", "length", "horizon"))
        self.episode = Episode(**{group: self.group(group) for group in GROUPS})

    def group(self, name: str) -> dict[str, Array]:
        return {k.partition("/")[2]: value for k, value in self.arrays.items() if k.startswith(f"{name}/")}

    @property
    def history(self) -> History:
        return self.episode.history(self.at, self.length)

    @property
    def ahead(self) -> slice:
        return slice(self.at, self.at + self.horizon)

    @property
    def actions(self) -> Arrays:
        return {name: value[self.ahead] for name, value in self.episode.actions.items()}

    @property
    def exogenous(self) -> Arrays:
        return {name: value[self.ahead] for name, value in self.episode.exogenous.items()}

    def goal(self, world: LocalWorld, **settings: Any) -> Goal:
        """The targets that the world predicts as signals."""
        predicts = world.describe().predicts
        return Goal(targets={k: v for k, v in self.group("targets").items() if k in predicts}, **settings)

    def goal_observation(self, world: LocalWorld) -> Goal:
        """The targets that the world takes as inputs, to be approached in steps."""
        taken = world.describe().inputs
        return Goal(targets={k: v for k, v in self.group("targets").items() if k in taken}, in_steps=True)


def _predict(world: LocalWorld, inputs: _Inputs) -> Answer:
    return _prediction(world.predict(inputs.history, inputs.actions, exogenous=inputs.exogenous, level=LEVEL))


def _predict_batch(world: LocalWorld, inputs: _Inputs) -> Answer:
    """Two worlds at once: the present, and one step earlier."""
    pair = [inputs.episode.history(at, inputs.length) for at in (inputs.at - 1, inputs.at)]
    history = History(**{g: _stack(*(getattr(one, g) for one in pair)) for g in vars(pair[0])})
    actions, exogenous = (_stack(one, one) for one in (inputs.actions, inputs.exogenous))
    return _prediction(world.predict(history, actions, exogenous=exogenous, level=LEVEL))


def _predict_with_gap(world: LocalWorld, inputs: _Inputs) -> Answer:
    """The last observation but one is missing."""
    history = inputs.history
    seen = {name: np.arange(inputs.length) != inputs.length - 2 for name in history.observations}
    history = replace(history, observed=seen)
    return _prediction(world.predict(history, inputs.actions, exogenous=inputs.exogenous, level=LEVEL))


def _score(world: LocalWorld, inputs: _Inputs) -> Answer:
    rules = (Chance(constraint=AtMost(signal="position", bound=0.5), level=LEVEL), AtMost(signal="position", bound=0.2))
    goal = inputs.goal(world, costs=(Price(signal="push", price=0.1),), discount=0.9)
    candidates = inputs.group("candidates")
    return _scores(world.score(inputs.history, candidates, goal, rules, exogenous=inputs.exogenous))


def _score_goal_observation(world: LocalWorld, inputs: _Inputs) -> Answer:
    goal = inputs.goal_observation(world)
    return _scores(world.score(inputs.history, inputs.group("candidates"), goal, exogenous=inputs.exogenous))


def _score_unfamiliar(world: LocalWorld, inputs: _Inputs) -> Answer:
    goal = Goal(costs=(OODPenalty(trust=0.2),))
    return _scores(world.score(inputs.history, inputs.group("candidates"), goal, exogenous=inputs.exogenous))


def _plan(world: LocalWorld, inputs: _Inputs) -> Answer:
    goal, rules = inputs.goal(world, costs=(Price(signal="push", price=0.1),)), (AtMost(signal="position", bound=2.0),)
    return _planned(
        world.plan(inputs.history, goal, constraints=rules, horizon=inputs.horizon, exogenous=inputs.exogenous, seed=1)
    )


def _plan_goal_observation(world: LocalWorld, inputs: _Inputs) -> Answer:
    goal = inputs.goal_observation(world)
    return _planned(world.plan(inputs.history, goal, horizon=inputs.horizon, exogenous=inputs.exogenous, seed=1))


def _what_if(world: LocalWorld, inputs: _Inputs) -> Answer:
    found: WhatIf = world.what_if(inputs.episode, inputs.at, inputs.group("others"))
    parts = {"signals": found.signals, "factual": found.factual}
    values = {f"{part}/{name}": np.asarray(value) for part, one in parts.items() for name, value in one.items()}
    return {**values, "abduction": np.array(str(found.abduction))}


def _surprise(world: LocalWorld, inputs: _Inputs) -> Answer:
    """One action is reversed, so that a step is surprising."""
    actions = {name: np.array(value) for name, value in inputs.episode.actions.items()}
    for value in actions.values():
        value[inputs.at] *= -1
    found: Surprise = world.surprise(replace(inputs.episode, actions=actions))
    values = {f"p_values/{name}": np.asarray(value) for name, value in found.p_values.items()}
    values |= {f"entities/{name}": np.asarray(value) for name, value in found.entities.items()}
    moments = [moment.step for moment in found.moments]
    return {**values, "steps": np.asarray(found.steps), "moments": np.array(moments, np.int64)}


def _outcomes(world: LocalWorld, inputs: _Inputs) -> Answer:
    """What the heads of reward and termination say, without a goal."""
    if not isinstance(world.engine, LearnedEngine):
        raise UnsupportedError("only learned engines have these heads")
    history = History(**{g: _stack(getattr(inputs.history, g)) for g in vars(inputs.history)})
    belief = world.engine.observe(None, history, seed=0)
    schema = world.engine.schema
    device = world.engine.device
    actions = join(schema.actions, _stack(inputs.group("candidates")), device)
    exogenous = join(schema.exogenous, _stack(inputs.exogenous), device) if schema.exogenous else None
    assert isinstance(belief, Belief)
    with torch.no_grad():
        samples = belief.features().shape[1]
        rollout = world.engine.rollout(belief, actions, exogenous, num_samples=samples, seed=0)
        if rollout.reward is None or rollout.termination is None:
            raise UnsupportedError("this world has no such head")
        return {"rewards": rollout.reward().cpu().numpy(), "termination": rollout.termination().cpu().numpy()}


QUESTIONS: Mapping[str, Callable[[LocalWorld, _Inputs], Answer]] = {
    "predict": _predict, "predict_batch": _predict_batch, "predict_with_gap": _predict_with_gap, "score": _score,
    "score_goal_observation": _score_goal_observation, "score_unfamiliar": _score_unfamiliar, "plan": _plan,
    "plan_goal_observation": _plan_goal_observation, "what_if": _what_if, "surprise": _surprise,
    "outcomes": _outcomes,
}  # fmt: skip


def _prediction(found: Prediction) -> Answer:
    values = {"trust": np.asarray(found.trust), "calibrated": np.array(found.calibrated)}
    for name, forecast in found.signals.items():
        parts = {part: getattr(forecast, part) for part in ("mean", "low", "high", "horizon")}
        values |= {f"{part}/{name}": np.asarray(value) for part, value in parts.items() if value is not None}
    return values


def _scores(found: Scores) -> Answer:
    return {"cost": np.asarray(found.cost), "violation": found.violation, "trust": np.asarray(found.trust)}


def _planned(found: Plan) -> Answer:
    return {
        "cost": np.asarray(found.cost),
        "violation": np.asarray(found.violation),
        "trust": np.asarray(found.trust),
        "status": np.array(str(found.status)),
    }


def _stack(*parts: Arrays) -> dict[str, Array]:
    return {name: np.stack([one[name] for one in parts]) for name in parts[0]}


def store_content(store: Store) -> dict[str, Any]:
    """Schema, ends, sources and a hash of each decoded array of a store; plain JSON values."""
    episodes = []
    for number, entry in enumerate(store.entries()):
        episode = store.episode(number)
        arrays = {f"{g}/{name}": value for g in GROUPS for name, value in getattr(episode, g).items()}
        if episode.step_s is not None:
            arrays["step_s"] = episode.step_s
        facts = {name: getattr(episode, name) for name in ("terminated", "truncated", "seed")}
        hashes = {name: _digest(value) for name, value in sorted(arrays.items())}
        episodes.append({**facts, "source": dict(entry.source), "arrays": hashes})
    signals = [
        {name: value if isinstance(value, int | None) else str(value) for name, value in sorted(vars(signal).items())}
        for signal in store.schema.signals
    ]
    return {"signals": signals, "step_s": store.schema.step_s, "episodes": episodes}


def _digest(value: Array) -> str:
    """Dtype, shape and content."""
    content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    return f"{value.dtype} {list(value.shape)} {content}"


def grades(results: Iterable[TestResult]) -> dict[str, Any]:
    """Per test of an exam its verdict, and value and ends of each score; plain JSON values."""
    found = {}
    for one in results:
        cells = [cell for seed in one.seeds if seed.grade is not None for cell in seed.grade.cells]
        scores = [[cell.score.value, cell.score.low, cell.score.high] for cell in cells if cell.score is not None]
        found[one.code] = {"verdict": str(one.verdict), "scores": scores}
    return found


def read_answers(path: Path) -> dict[str, Answer]:
    """Per question its answer, as `write_answers` wrote them."""
    found: dict[str, Answer] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            question, _, name = key.partition(":")
            found.setdefault(question, {})[name] = arrays[key]
    return found


def write_answers(path: Path, answers: Mapping[str, Answer]) -> None:
    """One file of arrays; the key is "question:name"."""
    arrays = {f"{question}:{name}": value for question, one in answers.items() for name, value in one.items()}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
