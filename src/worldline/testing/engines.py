"""Clauses on `Engine` (`engines/base.py`); `predictions.py` and `rollouts.py` hold those that it shares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from worldline.data.windows import ForecastWindows, forecast_windows
from worldline.engines.base import Abducts, Engine, GoalDistance, Novelty, Parts, Storable
from worldline.episode import Arrays
from worldline.errors import DataError, UnsupportedError
from worldline.schema import Kind
from worldline.stats import separation
from worldline.testing.cases import EngineCase
from worldline.testing.clauses import clause
from worldline.testing.comparing import (
    Floats,
    as_float,
    difference,
    equal,
    existing,
    has_shape,
    holds,
    inside_bounds,
    refuses,
)
from worldline.testing.log_edits import corrupt, squared_error, without
from worldline.testing.predictions import BASE_CLASSES
from worldline.training.batches import join, split


@clause("engine", "Card.abilities; exactly the optional base classes of the engine")
def abilities_honest(case: EngineCase) -> None:
    """The card lists exactly the abilities of the engine; `reaches` and `decodes` may be unlisted if refused."""
    listed, distances = set(case.card.abilities), _distances(case)
    for name, ability in BASE_CLASSES.items():
        has, lists = isinstance(case.engine, ability), f"the card {'lists' if name in listed else 'does not list'}"
        problem = f"{lists} {name!r}, but the engine is {'a' if has else 'not a'} {ability.__name__}"
        holds(has == (name in listed) or (has and name in ("decodes", "reaches")), problem)
    answers = f"answered for {sorted(distances)}" if distances else "refused"
    holds(("reaches" in listed) == bool(distances), f"'reaches' is in {sorted(listed)}, but its results are {answers}")


@clause("engine", "Engine.imagine; each predicted signal is [W, N, S, T, *shape], finite, the same as of rollout")
def samples_shape(case: EngineCase) -> None:
    """`imagine` and `rollout` return finite samples of every predicted signal, in the signal's shape and dtype."""
    card, windows = case.card, case.windows()
    belief = case.observe(windows.history)
    for num in (1, case.num_candidates):
        future = windows.future(num, case.seed)
        predicted = case.roll(belief, future)
        holds(set(predicted) == set(card.predicts), f"signals {sorted(predicted)}, the card predicts {card.predicts}")
        for name, value in predicted.items():
            signal, num_samples = card.schema[name], 1 if card.deterministic else case.num_samples
            has_shape(repr(name), value, (windows.num_worlds, num, num_samples, case.horizon, *signal.shape))
            holds(value.dtype == signal.dtype, f"{name!r} has dtype {value.dtype}, expected {signal.dtype}")
        if "differentiable" in card.abilities:
            case.equal(case.rollout(belief, future).signals, predicted, "rollout is not imagine")


@clause("engine", "Card.deterministic; whether all samples are equal")
def deterministic_claim(case: EngineCase) -> None:
    """Results depend on the seed if and only if the card does not state deterministic."""
    history, _, future = case.ready()
    others = (replace(case, seed=case.seed + more) for more in (0, 1))
    first, second = (other.roll(other.observe(history), future) for other in others)
    differs = max(difference(first[name], second[name]) for name in first)
    if case.card.deterministic:
        holds(differs == 0, f"the card states deterministic, but two seeds differ by {differs:.3g}")
        return
    spread = max(difference(value, np.broadcast_to(value[:, :, :1], value.shape)) for value in first.values())
    holds(max(spread, differs) > 0, "the card does not state deterministic, but all samples are equal")


@clause("engine", "Card.action_conditioned and abilities; what actions change, and whether as an affine function")
def action_conditioned(case: EngineCase) -> None:
    """Actions change the predicted signals if and only if the card states it, and linearly if it lists `linear`."""
    claim, windows = case.card.action_conditioned, case.windows()
    future = windows.future(3, case.seed)
    for values in future.actions.values():
        values[:, 2] = as_float(values[:, :2]).mean(1)
    predicted = case.roll(case.observe(windows.history), future)
    differs = max(difference(value, np.broadcast_to(value[:, :1], value.shape)) for value in predicted.values())
    holds((differs > 0) == claim, f"the card states {claim}, but actions change signals by {differs:.3g}")
    for name, value in predicted.items() if "linear" in case.card.abilities else ():
        # The last of the three candidates is the mean of the others.
        case.equal(value[:, 2], as_float(value[:, :2]).mean(1), f"{name!r} is not affine in the actions")


@clause("engine", "Engine.observe; continuing a belief equals starting over", applies=lambda c: c.card.deterministic)
def observe_continues(case: EngineCase) -> None:
    """Updating a belief by one step equals observing the longer history (if deterministic)."""
    history, belief, future = case.ready()
    start, last = case.split(history)
    folded = case.roll(case.observe(last, case.observe(start)), future)
    case.equal(folded, case.roll(belief, future), "the updated belief differs from the whole history")


@clause("engine", "Abducts.abduct; its noise replays the draws for every seed")
def abducts(case: EngineCase) -> None:
    """The noise replays the draws for every seed, and abduction predicts the episode no worse than its past alone."""
    if not isinstance(case.engine, Abducts):
        return
    at = case.length - 1
    belief, noise = case.engine.abduct(case.episodes[0], at)
    windows = forecast_windows([(case.episodes[0], at)], length=case.length, horizon=case.horizon)
    future = case.future(windows)
    replay = partial(case.engine.imagine, belief, future, num_samples=1, noise=noise)
    first, second = (replay(seed=seed).signals for seed in (case.seed, case.seed + 1))
    equal(first, second, "two seeds differ with the same noise")
    past = case.roll(case.observe(windows.history), future)
    for name, value in first.items():
        means = (as_float(samples[:, 0]).mean(1) for samples in (value, past[name]))
        after, before = (squared_error(windows, name, mean).mean() for mean in means)
        problem = f"with the logged actions, the error of {name!r} after abduct is {after:.3g} variances"
        holds(after <= before * (1 + case.tolerance) + 1e-6, f"{problem}, before {before:.3g}")


@clause("engine", "GoalDistance; steps [W, N, T] that vary, proposals inside the bounds, or UnsupportedError")
def reaches(case: EngineCase) -> None:
    """Goal distances are steps that vary, and proposals lie inside the bounds; or both raise UnsupportedError."""
    distances, goals = _distances(case), _goals(case.windows())
    equal(distances, _distances(case), "equal seeds gave different distances")
    for name, steps in distances.items():
        has_shape(f"the distance to {name!r}", steps, (case.batch, case.num_candidates, case.horizon))
        holds(steps >= 0, f"the distance to {name!r} is negative")
        holds(float(np.ptp(steps)) > 0, f"the distance to {name!r} is always {steps.flat[0]:.4g}")
        _check_proposals(case, goals[name])


@clause("engine", "Novelty; finite scores [W] and [W, N, T], larger out of distribution")
def novelty(case: EngineCase) -> None:
    """Scores are finite, and differ between worlds and over the future (if the engine has the ability)."""
    if not isinstance(case.engine, Novelty):
        return
    _, belief, future = case.ready()
    score = case.engine.novelty(belief)
    has_shape("the score", score, (case.batch,))
    holds(float(np.ptp(score)) > 0, f"the score is {score[0]:.4g} for every world")
    rollouts = [case.rollout(belief, future) for _ in range(2)]
    ahead, again = (as_float(existing(rollout.ood_score, "Rollout.ood_score is None")()) for rollout in rollouts)
    has_shape("the score of the future", ahead, (case.batch, case.num_candidates, case.horizon))
    equal(ahead, again, "equal seeds gave different scores of the future")
    holds(float(np.ptp(ahead, axis=(1, 2)).max()) > 0, "the score of the future is constant")


@clause("engine", "Novelty; finite scores [W] and [W, N, T], larger out of distribution")
def novelty_grows(case: EngineCase) -> None:
    """The score is larger for corrupted histories than for real ones (if the engine has the ability)."""
    if not isinstance(case.engine, Novelty):
        return
    history = case.windows().history
    wild = replace(history, observations=corrupt(history.observations, case.seed))
    share = separation(*(np.asarray(case.engine.novelty(case.observe(past))) for past in (history, wild)))
    problem = f"the score of corrupted histories is above that of real ones in {share:.0%} of pairs (chance: 50%)"
    holds(share >= 0.75, problem)


@clause("engine", "Storable; plain JSON and arrays; from_parts restores the engine or raises DataError")
def parts_restore(case: EngineCase) -> None:
    """The engine that is built from its parts gives bit for bit equal results; invalid parts are refused.

    Not checked if the engine is not `Storable`.
    """
    engine = case.engine
    if not isinstance(engine, Storable):
        return
    try:
        parts, schema = engine.to_parts(), case.card.schema
    except UnsupportedError:  # built from user code
        return
    config = json.loads(json.dumps(parts.config, allow_nan=False))
    holds(config == parts.config, "config changes by a round trip through JSON")
    again: Any = type(engine).from_parts(schema, Parts(config=config, arrays=parts.arrays))
    holds(isinstance(again, Engine) and again.describe() == case.card, "the restored engine has another card")
    first, second = (other.roll(*other.ready()[1:]) for other in (case, replace(case, engine=again)))
    equal(second, first, "the restored engine predicts something else")
    wrong = {f"without the array {name!r}": replace(parts, arrays=without(parts.arrays, name)) for name in parts.arrays}
    wrong["of another engine"] = Parts(config={"nonsense": 1}, arrays={})
    for what, bad in wrong.items():
        refuses(f"parts {what}", partial(type(engine).from_parts, schema, bad), expected=DataError)


def _distances(case: EngineCase) -> Mapping[str, Floats]:
    """Steps [W, N, T] to each goal of `_goals`, except the goals that are refused."""
    distances, (_, belief, future) = {}, case.ready()
    engine: Any = case.engine
    for label, goal in _goals(case.windows()).items() if isinstance(engine, GoalDistance) else ():
        try:
            encoded = engine.encode_goal(belief, goal)
            if (distance := case.rollout(belief, future).goal_distance) is not None:
                distances[label] = as_float(distance(encoded))
        except UnsupportedError:
            continue
    return distances


def _goals(windows: ForecastWindows) -> dict[str, Arrays]:
    """The last true value of each observation signal as a goal, and of all of them together."""
    last = {name: value[:, -1] for name, value in windows.truth.items()}
    return {**{name: {name: value} for name, value in last.items()}, "+".join(last): last}


def _check_proposals(case: EngineCase, goal: Arrays) -> None:
    """Raises BreachError if proposals have wrong shapes or bounds, or do not follow the seed and pending actions."""
    engine: Any = case.engine
    signals, windows, belief = case.card.schema.actions, case.windows(), case.ready()[1]

    def propose(**settings: Any) -> Arrays:
        encoded = engine.encode_goal(belief, goal)
        sequences = engine.proposals(belief, encoded, case.horizon, num_proposals=5, seed=case.seed, **settings)
        return {} if sequences is None else {n: as_float(v) for n, v in split(signals, sequences).items()}

    try:
        plain = propose()
    except UnsupportedError:
        return
    equal(plain, propose(), "equal seeds gave different proposals")
    if not plain:
        return
    sent = {name: value[:, :2] for name, value in windows.actions.items()}
    after = propose(pending=join(signals, sent, engine.device)) or plain
    vectors = [signal.name for signal in signals if signal.kind is Kind.VECTOR and plain[signal.name].size]
    same = all(np.array_equal(plain[name], after[name]) for name in vectors)
    holds(not vectors or not same, "proposals do not depend on the pending actions")
    for signal, sequences in product(signals, filter(None, (plain, after, propose(budget_s=1e-9)))):
        value = sequences[signal.name]
        has_shape(f"proposals of {signal.name!r}", value, (*value.shape[:2], case.horizon, *signal.shape))
        holds(value.shape[1] <= 5, f"{value.shape[1]} proposals of {signal.name!r}, expected at most 5")
        inside_bounds(signal, value, "proposals: ")
