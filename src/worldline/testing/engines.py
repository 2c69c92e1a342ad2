"""Checks an `Engine`: the clauses of `engines/base.py`, one function each; `CLAUSES` lists them all.

`check_engine(engine, episodes)` checks them all; `samples_shape(EngineCase(engine=engine, episodes=episodes))` checks
one. The clauses that engines and worlds share are in `predictions.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldline.data.windows import ForecastWindows, forecast_windows
from worldline.engines.base import Abducts, Decodes, Engine, EngineBelief, GoalDistance, Novelty
from worldline.episode import Arrays, Episode, History
from worldline.errors import UnsupportedError
from worldline.schema import Kind
from worldline.stats import separation
from worldline.testing import engine_parts, predictions
from worldline.testing.clauses import (
    as_float,
    candidate_orders,
    clause,
    clauses_of,
    difference,
    equal,
    existing,
    has_shape,
    holds,
    inside_bounds,
    map_arrays,
    run,
    unchanged,
)
from worldline.testing.engine_case import EngineCase
from worldline.testing.log_windows import squared_error
from worldline.testing.prediction_case import corrupt
from worldline.testing.predictions import BASE_CLASSES
from worldline.training.batches import join, split


def check_engine(engine: Engine, episodes: Sequence[Episode], **settings: Any) -> None:
    """Checks all clauses of the contract.

    Args:
        engine: the engine.
        episodes: at least 2 of a world that it models.
        settings: other arguments of `EngineCase`, such as `horizon`.

    Raises:
        AssertionError: lists each broken clause, the violation, and where to look.
        InputError: the episodes are too few or too short.
    """
    run(type(engine).__name__, EngineCase(engine=engine, episodes=episodes, **settings), CLAUSES)


@clause("Card.abilities; exactly the optional base classes of the engine")
def abilities_honest(case: EngineCase) -> None:
    """The card lists exactly the abilities of the engine; `reaches` and `decodes` may be unlisted if refused."""
    listed = set(case.card.abilities)
    for name, ability in BASE_CLASSES.items():
        has = isinstance(case.engine, ability)
        if name in listed:
            holds(has, f"the card lists {name!r}, but the engine is not a {ability.__name__}")
        elif name not in ("reaches", "decodes"):
            holds(not has, f"the card does not list {name!r}, but the engine is a {ability.__name__}")
    for name, what, answered in (("decodes", "images", _images(case)), ("reaches", "distances", _distances(case))):
        lists = "lists" if name in listed else "does not list"
        answers = f"answered for {sorted(answered)}" if answered else "refused"
        holds((name in listed) == bool(answered), f"the card {lists} {name!r}, but {what} are {answers}")


@clause("Engine.imagine; each predicted signal is [W, N, S, T, *shape], finite")
def samples_shape(case: EngineCase) -> None:
    """`imagine` returns finite samples of every predicted signal, in the signal's shape and dtype."""
    card, (windows, belief, _) = case.card, case.ready()
    num_samples = 1 if card.deterministic else case.num_samples
    for num_versions in (1, case.num_versions):
        predicted = case.imagine(belief, windows.future(num_versions, case.seed))
        holds(set(predicted) == set(card.predicts), f"signals {sorted(predicted)}, the card predicts {card.predicts}")
        for name, value in predicted.items():
            signal = card.schema[name]
            has_shape(repr(name), value, (windows.num_worlds, num_versions, num_samples, case.horizon, *signal.shape))
            holds(value.dtype == signal.dtype, f"{name!r} has dtype {value.dtype}, expected {signal.dtype}")


@clause("Card.deterministic; whether all samples are equal")
def deterministic_claim(case: EngineCase) -> None:
    """Results depend on the seed if and only if the card does not state deterministic."""
    windows, _, future = case.ready()
    others = (replace(case, seed=case.seed + more) for more in (0, 1))
    first, second = (other.imagine(other.observe(windows.history), future) for other in others)
    differs = max(difference(first[name], second[name]) for name in first)
    if case.card.deterministic:
        holds(differs == 0, f"the card states deterministic, but two seeds differ by {differs:.3g}")
        return
    spread = max(difference(value, np.broadcast_to(value[:, :, :1], value.shape)) for value in first.values())
    holds(max(spread, differs) > 0, "the card does not state deterministic, but all samples are equal")


@clause("Card.action_conditioned; whether actions change the predicted signals")
def action_conditioned(case: EngineCase) -> None:
    """Actions change the predicted signals if and only if the card states `action_conditioned`."""
    predicted, claim = case.predicted(), case.card.action_conditioned
    differs = max(difference(value, np.broadcast_to(value[:, :1], value.shape)) for value in predicted.values())
    holds((differs > 0) == claim, f"the card states {claim}, but actions change signals by {differs:.3g}")


def _is_linear(case: EngineCase) -> bool:
    return "linear" in case.card.abilities


@clause("Card.abilities; 'linear' is for predictions that are affine in the actions", applies=_is_linear)
def linear_claim(case: EngineCase) -> None:
    """The mean of two action sequences gives the mean of their predictions (if the card lists `linear`)."""
    windows = case.windows()
    belief, future = case.observe(windows.history), windows.future(3, case.seed)
    for values in future.actions.values():
        values[:, 2] = as_float(values[:, :2]).mean(1)
    for name, value in case.imagine(belief, future).items():
        between, middle = as_float(value[:, :2]).mean(1), as_float(value[:, 2])
        case.equal(middle, between, f"{name!r} is not affine in the actions")


@clause("the seed arguments; equal seeds give equal draws, no other source is used")
def seeds_reproduce(case: EngineCase) -> None:
    """Equal seeds give equal results."""
    equal(case.predicted(), case.predicted(), "equal seeds gave different results")


@clause("Engine.imagine; the same draws for each of N candidates")
def versions_independent(case: EngineCase) -> None:
    """Each candidate gives the same result alone and in any order; equal candidates give equal results."""
    _, belief, future = case.ready()
    together = case.imagine(belief, future)
    for index, problem in candidate_orders(case.num_versions):
        chosen = itemgetter((slice(None), index))
        actions, expected = (map_arrays(arrays, chosen) for arrays in (future.actions, together))
        case.equal(case.imagine(belief, replace(future, actions=actions)), expected, problem)


@clause("EngineBelief; imagine and observe must not change it")
def belief_immutable(case: EngineCase) -> None:
    """`imagine` and `observe` do not change a belief."""
    windows = case.windows()
    start, last = _split(windows.history)
    belief, future = case.observe(start), case.future(windows)
    first = case.imagine(belief, future)
    case.imagine(belief, case.future(case.turned(windows)))
    equal(case.imagine(belief, future), first, "imagine changed the belief")
    case.observe(last, belief)
    equal(case.imagine(belief, future), first, "observe changed the belief")


@clause("Engine.observe; continuing a belief equals starting over")
def observe_continues(case: EngineCase) -> None:
    """Updating a belief by one step equals observing the longer history (if deterministic)."""
    if not case.card.deterministic:
        return
    windows = case.windows()
    start, last = _split(windows.history)
    folded = case.imagine(case.observe(last, case.observe(start)), case.future(windows))
    case.equal(folded, case.predicted(), "the updated belief differs from the whole history")


@clause("observe and imagine; they must not change arguments or the global random state")
def arguments_unchanged(case: EngineCase) -> None:
    """Arguments and the global random state are not changed."""
    windows = case.windows()
    start, last = _split(windows.history)
    future = case.future(windows)
    with unchanged(start, last, future):
        belief = case.observe(start)
        case.imagine(belief, future)
        case.imagine(case.observe(last, belief), future)


@clause("observe and imagine; a batch of W worlds equals W single worlds")
def worlds_independent(case: EngineCase) -> None:
    """The prediction for a world does not depend on the other worlds of the batch."""
    windows, _, future = case.ready()
    together, every = case.predicted(), np.arange(windows.num_worlds)
    for kept in (0, windows.num_worlds - 1):
        # The draws depend on the number of worlds.
        chosen = [kept] if case.card.deterministic else np.where(every == kept, every, np.roll(every, -1)).tolist()
        place = 0 if case.card.deterministic else kept
        inputs = map_arrays(future, partial(np.take, indices=chosen, axis=0))
        alone = map_arrays(case.imagine(case.observe(windows.history.worlds(chosen)), inputs), itemgetter(place))
        expected = map_arrays(together, itemgetter(kept))
        case.equal(alone, expected, f"the prediction of world {kept} changed with the other worlds of the batch")


@clause("Abducts.abduct; its noise replays the draws for every seed")
def abducts(case: EngineCase) -> None:
    """The noise replays the draws for every seed, and abduction predicts the episode no worse than its past alone."""
    if not isinstance(case.engine, Abducts):
        return
    at = case.length - 1
    belief, noise = case.engine.abduct(case.episodes[0], at)
    windows = forecast_windows([(case.episodes[0], at)], length=case.length, horizon=case.horizon)
    future = windows.future(case.num_versions, case.seed)
    replay = partial(case.engine.imagine, belief, future, num_samples=1, noise=noise)
    first, second = (replay(seed=seed).signals for seed in (case.seed, case.seed + 1))
    equal(first, second, "two seeds differ with the same noise")
    past = case.imagine(case.observe(windows.history), future)
    for name, value in first.items():
        means = (samples[:, 0].astype(np.float64).mean(1) for samples in (value, past[name]))
        after, before = (squared_error(windows, name, mean).mean() for mean in means)
        problem = f"with the logged actions, the error of {name!r} after abduct is {after:.3g} variances"
        holds(after <= before * (1 + case.tolerance) + 1e-6, f"{problem}, before {before:.3g}")


@clause("GoalDistance; steps [W, N, T] that vary, proposals inside the bounds, or UnsupportedError")
def reaches(case: EngineCase) -> None:
    """Goal distances are steps that vary, and proposals lie inside the bounds; or both raise UnsupportedError."""
    if not isinstance(case.engine, GoalDistance):
        return
    windows = case.windows()
    expected = (windows.num_worlds, case.num_versions, case.horizon)
    distances = _distances(case)
    equal(distances, _distances(case), "equal seeds gave different distances")
    for name, steps in distances.items():
        has_shape(f"the distance to {name!r}", steps, expected)
        holds(steps >= 0, f"the distance to {name!r} is negative")
        holds(float(np.ptp(steps)) > 0, f"the distance to {name!r} is always {steps.flat[0]:.4g}")
        _check_proposals(case, case.engine, case.observe(windows.history), _goals(windows)[name])


@clause("Engine.rollout; equals imagine, with its gradient")
def tensors_agree(case: EngineCase) -> None:
    """`rollout` equals `imagine`, and its gradient a finite difference (if the engine computes with torch).

    Gradients are compared for deterministic engines only, because samples may be of values that jump.
    """
    if "differentiable" not in case.card.abilities:
        return
    schema, (_, belief, future) = case.card.schema, case.ready()
    actions = join(schema.actions, future.actions)

    def signals(actions: Tensor) -> dict[str, Tensor]:
        return {name: value.cpu() for name, value in case.rollout(belief, future, actions).signals.items()}

    with torch.no_grad():
        rolled = signals(actions)
    case.equal(rolled, case.imagine(belief, future), "rollout is not imagine")
    generator = torch.Generator().manual_seed(case.seed)
    weights = {
        name: torch.randn(value.shape, generator=generator) / (float(as_float(value).std()) + 1e-6)
        for name, value in rolled.items()
        if schema[name].kind is Kind.VECTOR and schema[name].period is None
    }
    vectors = np.concatenate([np.full(signal.size, signal.kind is Kind.VECTOR) for signal in schema.actions])
    if not vectors.any() or not weights or not case.card.deterministic:
        return

    def weighted(actions: Tensor) -> Tensor:
        """A random linear function of the signals of each candidate, [W, N]."""
        path = signals(actions)
        sums = [(value * path[name].double()).flatten(2).sum(2) for name, value in weights.items()]
        return torch.stack(sums).sum(0)

    leaf = actions.clone().requires_grad_()
    with torch.enable_grad():
        total = weighted(leaf)
    holds(total.requires_grad, "the signals of rollout have no gradient in the actions")
    (slope,) = torch.autograd.grad(total.sum(), leaf)
    holds(slope.isfinite(), "the gradient is not finite")
    way = torch.randn(actions.shape, generator=generator) * torch.from_numpy(vectors) * (float(actions.std()) or 1.0)
    small = 1e-2
    with torch.no_grad():
        measured = (weighted(actions + small * way) - weighted(actions - small * way)) / (2 * small)
    apart = (slope * way).sum((2, 3)) - measured
    share = float(apart.norm() / measured.norm().clamp(min=1e-6))
    holds(share <= 0.1, f"the gradient differs from finite differences by {share:.0%} of their size")


@clause("Novelty; finite scores [W] and [W, N, T], larger out of distribution")
def novelty(case: EngineCase) -> None:
    """The score is finite, one per world, and differs between worlds (if the engine has the ability)."""
    if not isinstance(case.engine, Novelty):
        return
    windows, belief, future = case.ready()
    score = case.engine.novelty(belief)
    has_shape("the score", score, (windows.num_worlds,))
    holds(float(np.ptp(score)) > 0, f"the score is {score[0]:.4g} for every world")
    rollouts = [case.rollout(belief, future) for _ in range(2)]
    ahead, again = (as_float(existing(rollout.ood_score, "Rollout.ood_score is None")()) for rollout in rollouts)
    has_shape("the score of the future", ahead, next(iter(future.actions.values())).shape[:3])
    equal(ahead, again, "equal seeds gave different scores of the future")
    holds(float(np.ptp(ahead, axis=(1, 2)).max()) > 0, "the score of the future is constant")


@clause("Novelty; finite scores [W] and [W, N, T], larger out of distribution")
def novelty_grows(case: EngineCase) -> None:
    """The score is larger for corrupted histories than for real ones (if the engine has the ability)."""
    if not isinstance(case.engine, Novelty):
        return
    history = case.windows().history
    wild = replace(history, observations=corrupt(history.observations, case.seed))
    real, unlike = (np.asarray(case.engine.novelty(case.observe(past))) for past in (history, wild))
    share = separation(real, unlike)
    problem = f"the score of corrupted histories is above that of real ones in {share:.0%} of pairs (chance: 50%)"
    holds(share >= 0.75, problem)


def _images(case: EngineCase) -> Mapping[str, Tensor]:
    """The images that the engine draws, if any; raises BreachError if they have the wrong shape or dtype."""
    if not isinstance(case.engine, Decodes):
        return {}
    windows = case.windows()
    try:
        draw = case.rollout(case.observe(windows.history), windows.future(2, case.seed)).images
        images = {} if draw is None else draw()
    except UnsupportedError:
        return {}
    for name, value in images.items():
        has_shape(f"images of {name!r}", value, (windows.num_worlds, 2, case.horizon, *case.card.schema[name].shape))
        holds(value.dtype == torch.uint8, f"images of {name!r} have dtype {value.dtype}, expected torch.uint8")
    return images


def _distances(case: EngineCase) -> dict[str, NDArray[np.float64]]:
    """Steps [W, N, T] to each goal of `_goals`, except the goals that are refused."""
    if not isinstance(case.engine, GoalDistance):
        return {}
    distances, (windows, belief, future) = {}, case.ready()
    for label, goal in _goals(windows).items():
        try:
            encoded = case.engine.encode_goal(belief, goal)
            distance = case.rollout(belief, future).goal_distance
            if distance is not None:
                distances[label] = as_float(distance(encoded))
        except UnsupportedError:
            continue
    return distances


def _goals(windows: ForecastWindows) -> dict[str, Arrays]:
    """The last true value of each observation signal as a goal, and of all of them together."""
    last = {name: value[:, -1] for name, value in windows.truth.items()}
    return {**{name: {name: value} for name, value in last.items()}, "+".join(last): last}


def _check_proposals(case: EngineCase, engine: GoalDistance, belief: EngineBelief, goal: Arrays) -> None:
    signals, device = case.card.schema.actions, case.engine.device

    def propose(**settings: Any) -> Arrays:
        encoded = engine.encode_goal(belief, goal)
        sequences = engine.proposals(belief, encoded, case.horizon, num_proposals=5, seed=case.seed, **settings)
        return {} if sequences is None else {n: as_float(v) for n, v in split(signals, sequences).items()}

    try:
        plain, again = propose(), propose()
    except UnsupportedError:
        return
    equal(plain, again, "equal seeds gave different proposals")
    if not plain:
        return
    sent = {name: value[:, :2] for name, value in case.windows().actions.items()}
    after = propose(pending=join(signals, sent, device)) or plain
    vectors = [s.name for s in case.card.schema.actions if s.kind is Kind.VECTOR and plain[s.name].size]
    same = all(np.array_equal(plain[name], after[name]) for name in vectors)
    holds(not vectors or not same, "proposals do not depend on the pending actions")
    for signal, sequences in product(signals, filter(None, (plain, after, propose(budget_s=1e-9)))):
        value = sequences[signal.name]
        holds(value.shape[1] <= 5, f"{value.shape[1]} proposals of {signal.name!r}, expected at most 5")
        has_shape(f"proposals of {signal.name!r}", value, (*value.shape[:2], case.horizon, *signal.shape))
        inside_bounds(signal, value, "proposals: ")


def _split(history: History) -> tuple[History, History]:
    """All but the last step, and the last one."""
    return map_arrays(history, lambda value: value[:, :-1]), map_arrays(history, lambda value: value[:, -1:])


CLAUSES = clauses_of(vars(predictions), globals(), vars(engine_parts))
"""Every clause, in the order in which a report lists them."""
