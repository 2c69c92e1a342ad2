"""Checks an `Engine`: the clauses of `engines/base.py`, one function each; `CLAUSES` lists them all.

`check_engine(engine, episodes)` checks them all; `no_peek(EngineCase(engine=engine, episodes=episodes))` checks one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldline.data.windows import ForecastWindows as Cut
from worldline.engines.base import Abducts, Engine, EngineBelief, GoalDistance, Novelty
from worldline.engines.tensors import TensorEngine
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import InputError, UnsupportedError
from worldline.schema import Kind
from worldline.stats import separation
from worldline.testing.cards import ABILITIES, check_card
from worldline.testing.clauses import Clause, difference, run
from worldline.testing.engine_case import EngineCase
from worldline.testing.engine_inputs import fewer_observations, inputs_honest, messages_name_the_error
from worldline.testing.engine_parts import parts_restore
from worldline.testing.log_windows import (
    aligned,
    alignment_errors,
    hide,
    pick_versions,
    some_hidden,
    splice,
    squared_error,
    wider,
)
from worldline.testing.log_windows import windows_at as cut_at
from worldline.testing.world_case import corrupt
from worldline.training.batches import join

CARD = Clause(name="engine.card", look="Engine.describe; predicts and context must match imagine and observe")
ABILITY = Clause(name="engine.abilities", look="Card.abilities; exactly the optional base classes of the engine")
SAMPLES = Clause(name="engine.samples", look="Engine.imagine; each predicted signal is [W, N, S, T, *shape], finite")
DETERMINISTIC = Clause(name="engine.deterministic", look="Card.deterministic; whether all samples are equal")
ACTIONS = Clause(
    name="engine.action_conditioned", look="Card.action_conditioned; whether actions change the predicted signals"
)
SEEDED = Clause(name="engine.seeds", look="the seed arguments; equal seeds give equal draws, no other source is used")
VERSIONS = Clause(name="engine.versions_independent", look="Engine.imagine; the same draws for each of N candidates")
PEEK = Clause(name="engine.no_peek", look="Engine.imagine; [..., k, ...] may depend on inputs 0 to k only")
BELIEF = Clause(name="engine.belief_immutable", look="EngineBelief; imagine and observe must not change it")
FOLD = Clause(name="engine.observe_continues", look="Engine.observe; continuing a belief equals starting over")
ARGUMENTS = Clause(
    name="engine.arguments", look="observe and imagine; they must not change arguments or the global random state"
)
WORLDS = Clause(
    name="engine.worlds_independent", look="observe and imagine; a batch of W worlds equals W single worlds"
)
MASKS = Clause(name="engine.masks", look="History.observed; values where it is False, NaN too, have no effect")
INPUTS = Clause(name="engine.input_errors", look="observe and imagine; InputError if a signal is missing or misshapen")
TIMING = Clause(name="engine.timing", look="the transition convention; action t leads from observation t to t+1")
ABDUCTS = Clause(name="engine.abducts", look="Abducts.abduct; its noise replays the draws for every seed")
REACHES = Clause(
    name="engine.reaches",
    look="GoalDistance; steps [W, N, T] that vary, proposals inside the bounds, or UnsupportedError",
)
TENSORS = Clause(name="engine.tensors", look="TensorEngine.rollout; equals imagine, with its gradient")
NOVELTY = Clause(name="engine.novelty", look="Novelty; finite scores [W] and [W, N, T], larger out of distribution")


def check_engine(
    engine: Engine,
    episodes: Sequence[Episode],
    *,
    horizon: int = 4,
    num_versions: int = 3,
    num_samples: int = 3,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> None:
    """Checks all clauses; the arguments are those of `EngineCase`.

    Raises:
        AssertionError: lists each broken clause, the violation, and where to look.
        InputError: the episodes are too few or too short.
    """
    case = EngineCase(
        engine=engine,
        episodes=episodes,
        horizon=horizon,
        num_versions=num_versions,
        num_samples=num_samples,
        tolerance=tolerance,
        seed=seed,
    )
    run(type(engine).__name__, case, CLAUSES)


def card_honest(case: EngineCase) -> None:
    """The card is constant, names existing signals and abilities, and has valid numbers."""
    check_card(CARD, case.card)
    CARD.holds(case.card == case.card, "two calls of describe returned different cards")


def abilities_honest(case: EngineCase) -> None:
    """The card lists exactly the abilities of the engine; only `reaches` may be unlisted if it is refused."""
    listed = set(case.card.abilities)
    for name, ability in ABILITIES.items():
        if name in listed:
            has = isinstance(case.engine, ability)
            ABILITY.holds(has, f"the card lists {name!r}, but the engine is not a {ability.__name__}")
        elif name != "reaches":
            lacks = not isinstance(case.engine, ability)
            ABILITY.holds(lacks, f"the card does not list {name!r}, but the engine is a {ability.__name__}")
    measured = _distances(case)
    problem = f"the card {'lists' if 'reaches' in listed else 'does not list'} 'reaches'"
    ABILITY.holds(("reaches" in listed) == bool(measured), f"{problem}; distances are answered to {sorted(measured)}")


def samples_shape(case: EngineCase) -> None:
    """`imagine` returns finite samples of every predicted signal, in the signal's shape and dtype."""
    card, cut = case.card, case.cut()
    belief = case.observe(cut.history)
    num_samples = 1 if card.deterministic else case.num_samples
    for num_versions in (1, case.num_versions):
        found = case.imagine(belief, cut.future(num_versions, case.seed))
        SAMPLES.holds(set(found) == set(card.predicts), f"signals {sorted(found)}, the card predicts {card.predicts}")
        for name, value in found.items():
            signal = card.schema[name]
            expected = (cut.num_worlds, num_versions, num_samples, case.horizon, *signal.shape)
            SAMPLES.holds(value.shape == expected, f"{name!r} has shape {value.shape}, expected {expected}")
            SAMPLES.holds(value.dtype == signal.dtype, f"{name!r} has dtype {value.dtype}, expected {signal.dtype}")
            SAMPLES.holds(bool(np.isfinite(value).all()), f"{name!r} is not finite")


def deterministic_claim(case: EngineCase) -> None:
    """Results depend on the seed if and only if the card does not state deterministic."""
    cut = case.cut()
    future, claim = case.futures(cut)[0], case.card.deterministic
    first = case.imagine(case.observe(cut.history), future)
    other = replace(case, seed=case.seed + 1)
    second = other.imagine(other.observe(cut.history), future)
    differs = max(difference(first[name], second[name]) for name in first)
    if claim:
        DETERMINISTIC.holds(differs == 0, f"the card states deterministic, but two seeds differ by {differs:.3g}")
        return
    spread = max(difference(value, np.broadcast_to(value[:, :, :1], value.shape)) for value in first.values())
    DETERMINISTIC.holds(max(spread, differs) > 0, "the card does not state deterministic, but all samples are equal")


def action_conditioned(case: EngineCase) -> None:
    """Actions change the predicted signals if and only if the card states `action_conditioned`."""
    cut, claim = case.cut(), case.card.action_conditioned
    found = case.imagine(case.observe(cut.history), case.futures(cut)[0])
    differs = max(difference(value, np.broadcast_to(value[:, :1], value.shape)) for value in found.values())
    ACTIONS.holds((differs > 0) == claim, f"the card states {claim}, but actions change signals by {differs:.3g}")


def seeds_reproduce(case: EngineCase) -> None:
    """Equal seeds give equal results."""
    cut = case.cut()
    future = case.futures(cut)[0]
    found = [case.imagine(case.observe(cut.history), future) for _ in range(2)]
    SEEDED.all_equal(found[0], found[1], within=0.0, problem="equal seeds gave different results")


def versions_independent(case: EngineCase) -> None:
    """Each candidate gives the same result alone and in any order; equal candidates give equal results."""
    cut, num = case.cut(), case.num_versions
    belief, future = case.observe(cut.history), case.futures(cut)[0]
    together = case.imagine(belief, future)

    def compare(index: Sequence[int], problem: str) -> None:
        found = case.imagine(belief, pick_versions(future, index))
        expected = {name: value[:, list(index)] for name, value in together.items()}
        VERSIONS.all_equal(found, expected, within=case.tolerance, problem=problem)

    for number in range(num):
        compare([number], f"candidate {number} alone differs from its result in the batch")
    compare([*range(1, num), 0], "another order of candidates changes their results")
    compare([0] * num, "identical candidates give different results")


def no_peek(case: EngineCase) -> None:
    """Inputs from step k on do not change the signals before k."""
    cut = case.cut()
    belief, (future, others) = case.observe(cut.history), case.futures(cut)
    before = case.imagine(belief, future)
    for step in range(1, case.horizon):
        after = case.imagine(belief, splice(future, others, step))
        PEEK.all_equal(
            {name: value[:, :, :, :step] for name, value in before.items()},
            {name: value[:, :, :, :step] for name, value in after.items()},
            within=case.tolerance,
            problem=f"signals before step {step} changed with later inputs",
        )


def belief_immutable(case: EngineCase) -> None:
    """`imagine` and `observe` do not change a belief."""
    cut = case.cut()
    start, last = _split(cut.history)
    belief, (future, others) = case.observe(start), case.futures(cut)
    first = case.imagine(belief, future)
    case.imagine(belief, others)
    BELIEF.all_equal(case.imagine(belief, future), first, within=0.0, problem="imagine changed the belief")
    case.observe(last, belief)
    BELIEF.all_equal(case.imagine(belief, future), first, within=0.0, problem="observe changed the belief")


def observe_continues(case: EngineCase) -> None:
    """Updating a belief by one step equals observing the longer history (if deterministic)."""
    if not case.card.deterministic:
        return
    cut = case.cut()
    start, last = _split(cut.history)
    future = case.futures(cut)[0]
    folded = case.imagine(case.observe(last, case.observe(start)), future)
    whole = case.imagine(case.observe(cut.history), future)
    FOLD.all_equal(folded, whole, within=case.tolerance, problem="the updated belief differs from the whole history")


def arguments_unchanged(case: EngineCase) -> None:
    """Arguments and the global random state are not changed."""
    cut = case.cut()
    start, last = _split(cut.history)
    future = case.futures(cut)[0]
    with ARGUMENTS.unchanged(start, last, future):
        belief = case.observe(start)
        case.imagine(belief, future)
        case.imagine(case.observe(last, belief), future)


def worlds_independent(case: EngineCase) -> None:
    """The prediction for a world does not depend on the other worlds of the batch."""
    cut, num = case.cut(), case.num_versions
    future = case.futures(cut)[0]
    together = case.imagine(case.observe(cut.history), future)
    every = np.arange(cut.num_worlds)
    for kept in (0, cut.num_worlds - 1):
        chosen = [kept] if case.card.deterministic else np.where(every == kept, every, np.roll(every, -1)).tolist()
        piece, place = cut.select(chosen), 0 if case.card.deterministic else kept
        inputs = Future(
            actions={name: value[chosen] for name, value in future.actions.items()}, exogenous=piece.exogenous
        )
        found = case.imagine(case.observe(piece.history), inputs)
        WORLDS.all_equal(
            {name: value[place, :num] for name, value in found.items()},
            {name: value[kept, :num] for name, value in together.items()},
            within=case.tolerance,
            problem=f"the prediction of world {kept} changed with the other worlds of the batch",
        )


def masks_hide(case: EngineCase) -> None:
    """Unobserved values, NaN too, do not change the prediction."""
    cut = case.cut()
    future = case.futures(cut)[0]
    hidden = some_hidden(cut.num_worlds, case.length)

    def results(values: str) -> Arrays:
        return case.imagine(case.observe(hide(cut.history, hidden, values)), future)

    expected = results("kept")
    for values in ("other", "nan"):
        problem = f"masked values (filled with {values!r}) change the prediction"
        MASKS.all_equal(results(values), expected, within=case.tolerance, problem=problem)


def input_errors(case: EngineCase) -> None:
    """A missing or misshapen signal is refused with InputError, unless it is never read."""
    cut = case.cut()
    future = case.futures(cut)[0]
    history = hide(cut.history, some_hidden(cut.num_worlds, case.length), "kept")  # makes past inputs relevant
    belief = case.observe(history)
    expected = case.imagine(belief, future)
    nothing = replace(history, observations={}, observed={})
    _refused(case, "no observation at all", lambda: case.imagine(case.observe(nothing), future), None)
    _refused(case, "no action at all", lambda: case.imagine(belief, replace(future, actions={})), None)
    for name in history.observations:
        fewer = replace(
            history,
            observations=_without(history.observations, name),
            observed=_without(history.observed, name),
        )
        _refused(case, f"no {name!r} in the history", partial(case.answer, fewer, future), expected)
        double = {**history.observations, name: wider(history.observations[name], case.card.schema[name])}
        broken = replace(history, observations=double)
        _refused(case, f"{name!r} of another shape", partial(case.answer, broken, future), expected)
    for name in future.actions:
        less = replace(history, actions=_without(history.actions, name))
        _refused(case, f"no {name!r} in the history", partial(case.answer, less, future), expected)
        short = replace(future, actions=_without(future.actions, name))
        _refused(case, f"no {name!r} in the future", partial(case.answer, history, short), expected)
    for name in future.exogenous:
        calm = replace(history, exogenous=_without(history.exogenous, name))
        _refused(case, f"no {name!r} in the history", partial(case.answer, calm, future), expected)
        bare = replace(future, exogenous=_without(future.exogenous, name))
        _refused(case, f"no {name!r} in the future", partial(case.answer, history, bare), expected)


def timing(case: EngineCase) -> None:
    """The logged actions fit the log better than actions that are shifted by a step.

    Not checked if actions have no effect on the prediction.
    """
    cut = case.cut()
    imagined = case.imagine(case.observe(cut.history), case.futures(cut)[0])
    if all(difference(value[:, :1], value[:, 1:2]) <= case.tolerance for value in imagined.values()):
        return

    def answer(piece: Cut, actions: Arrays) -> Arrays:
        future = Future(actions={name: value[:, None] for name, value in actions.items()}, exogenous=piece.exogenous)
        found = case.imagine(case.observe(piece.history), future)
        return {name: value[:, 0].astype(np.float64).mean(1) for name, value in found.items()}

    errors = alignment_errors(answer, case.episodes, length=case.length, horizon=case.horizon, seed=case.seed)
    aligned(TIMING, errors)


def abducts(case: EngineCase) -> None:
    """The noise replays the draws for every seed, and abduction predicts the episode no worse than its past alone."""
    if not isinstance(case.engine, Abducts):
        return
    at = case.length - 1
    belief, noise = case.engine.abduct(case.episodes[0], at)
    piece = cut_at(case.episodes[:1], [at], length=case.length, horizon=case.horizon)
    future = piece.future(case.num_versions, case.seed)
    found = [
        case.engine.imagine(belief, future, num_samples=1, noise=noise, seed=seed).signals
        for seed in (case.seed, case.seed + 1)
    ]
    ABDUCTS.all_equal(found[0], found[1], within=0.0, problem="two seeds differ with the same noise")
    past = case.imagine(case.observe(piece.history), future)
    for name, value in found[0].items():
        errors = [
            squared_error(piece, name, each[:, 0].astype(np.float64).mean(1)).mean() for each in (value, past[name])
        ]
        problem = f"with the logged actions, the error of {name!r} after abduct is {errors[0]:.3g} variances"
        ABDUCTS.holds(errors[0] <= errors[1] * (1 + case.tolerance) + 1e-6, f"{problem}, before {errors[1]:.3g}")


def reaches(case: EngineCase) -> None:
    """Goal distances are steps that vary, and proposals lie inside the bounds; or both raise UnsupportedError."""
    if not isinstance(case.engine, GoalDistance):
        return
    cut = case.cut()
    expected = (cut.num_worlds, case.num_versions, case.horizon)
    distances = _distances(case)
    REACHES.all_equal(distances, _distances(case), within=0.0, problem="equal seeds gave different distances")
    for name, steps in distances.items():
        REACHES.holds(steps.shape == expected, f"the distance to {name!r} has shape {steps.shape}, expected {expected}")
        good = bool(np.isfinite(steps).all() and (steps >= 0).all())
        REACHES.holds(good, f"the distance to {name!r} is negative or not finite")
        REACHES.holds(float(np.ptp(steps)) > 0, f"the distance to {name!r} is always {steps.flat[0]:.4g}")
        _check_proposals(case, case.engine, case.observe(cut.history), _goals(cut)[name])


def tensors_agree(case: EngineCase) -> None:
    """`rollout` equals `imagine`, and its gradient a finite difference (if the engine computes with torch).

    Gradients are compared for deterministic engines only, because samples may be of values that jump.
    """
    if not isinstance(case.engine, TensorEngine):
        return
    cut, schema = case.cut(), case.card.schema
    belief, (future, _) = case.observe(cut.history), case.futures(cut)
    actions = join(schema.actions, future.actions)
    device = case.engine.device
    exogenous = join(schema.exogenous, future.exogenous, device) if schema.exogenous else None

    def signals(actions: Tensor) -> dict[str, Tensor]:
        assert isinstance(case.engine, TensorEngine)
        found = case.engine.rollout(belief, actions.to(device), exogenous, num_samples=case.num_samples, seed=case.seed)
        return {name: value.cpu() for name, value in found.signals.items()}

    with torch.no_grad():
        found = {name: value.numpy() for name, value in signals(actions).items()}
    TENSORS.all_equal(found, case.imagine(belief, future), within=case.tolerance, problem="rollout is not imagine")
    generator = torch.Generator().manual_seed(case.seed)
    weights = {
        name: torch.randn(value.shape, generator=generator) / (float(value.astype(float).std()) + 1e-6)
        for name, value in found.items()
        if schema[name].kind is Kind.VECTOR and schema[name].period is None
    }
    vectors = np.concatenate([np.full(signal.size, signal.kind is Kind.VECTOR) for signal in schema.actions])
    if not vectors.any() or not weights or not case.card.deterministic:
        return

    def weighted(actions: Tensor) -> Tensor:
        """A random linear function of the signals of each candidate, [W, N]."""
        path = signals(actions)
        return torch.stack([(value * path[name].double()).flatten(2).sum(2) for name, value in weights.items()]).sum(0)

    leaf = actions.clone().requires_grad_()
    with torch.enable_grad():
        total = weighted(leaf)
    TENSORS.holds(total.requires_grad, "the signals of rollout have no gradient in the actions")
    (slope,) = torch.autograd.grad(total.sum(), leaf)
    TENSORS.holds(bool(slope.isfinite().all()), "the gradient is not finite")
    way = torch.randn(actions.shape, generator=generator) * torch.from_numpy(vectors) * (float(actions.std()) or 1.0)
    small = 1e-2
    with torch.no_grad():
        measured = (weighted(actions + small * way) - weighted(actions - small * way)) / (2 * small)
    apart = (slope * way).sum((2, 3)) - measured
    share = float(apart.norm() / measured.norm().clamp(min=1e-6))
    TENSORS.holds(share <= 0.1, f"the gradient differs from finite differences by {share:.0%} of their size")


def novelty(case: EngineCase) -> None:
    """The score is finite, one per world, and differs between worlds (if the engine has the ability)."""
    if not isinstance(case.engine, Novelty):
        return
    cut = case.cut()
    score = case.engine.novelty(case.observe(cut.history))
    NOVELTY.holds(score.shape == (cut.num_worlds,), f"the score has shape {score.shape}, expected ({cut.num_worlds},)")
    NOVELTY.holds(bool(np.isfinite(score).all()), "a score is not finite")
    NOVELTY.holds(float(np.ptp(score)) > 0, f"the score is {score[0]:.4g} for every world")
    future = case.futures(cut)[0]
    belief = case.observe(cut.history)
    ahead, again = (case.engine.novelty_ahead(belief, future, seed=case.seed) for _ in range(2))
    expected = next(iter(future.actions.values())).shape[:3]
    NOVELTY.holds(ahead.shape == expected, f"the score of the future has shape {ahead.shape}, expected {expected}")
    NOVELTY.holds(bool(np.isfinite(ahead).all()), "a score of the future is not finite")
    NOVELTY.equal(ahead, again, within=0.0, problem="equal seeds gave different scores of the future")
    NOVELTY.holds(float(np.ptp(ahead, axis=(1, 2)).max()) > 0, "the score of the future is constant")


def novelty_grows(case: EngineCase) -> None:
    """The score is larger for corrupted histories than for real ones (if the engine has the ability)."""
    if not isinstance(case.engine, Novelty):
        return
    history = case.cut().history
    wild = replace(history, observations=corrupt(history.observations, case.seed))
    real, unlike = (np.asarray(case.engine.novelty(case.observe(each))) for each in (history, wild))
    share = separation(real, unlike)
    problem = f"the score of corrupted histories is above that of real ones in {share:.0%} of pairs (chance: 50%)"
    NOVELTY.holds(share >= 0.75, problem)


CLAUSES: tuple[Callable[[EngineCase], None], ...] = (
    card_honest,
    abilities_honest,
    samples_shape,
    deterministic_claim,
    action_conditioned,
    seeds_reproduce,
    versions_independent,
    no_peek,
    belief_immutable,
    observe_continues,
    arguments_unchanged,
    worlds_independent,
    masks_hide,
    inputs_honest,
    fewer_observations,
    input_errors,
    messages_name_the_error,
    timing,
    abducts,
    reaches,
    tensors_agree,
    novelty,
    novelty_grows,
    parts_restore,
)
"""Every clause, in the order in which a report lists them."""


def _split(history: History) -> tuple[History, History]:
    def steps(arrays: Arrays, part: slice) -> Arrays:
        return {name: value[:, part] for name, value in arrays.items()}

    early, late = slice(None, -1), slice(-1, None)
    parts = [
        History(
            observations=steps(history.observations, part),
            actions=steps(history.actions, part),
            exogenous=steps(history.exogenous, part),
            observed=steps(history.observed, part),
        )
        for part in (early, late)
    ]
    return parts[0], parts[1]


def _without(arrays: Arrays, name: str) -> Arrays:
    return {other: value for other, value in arrays.items() if other != name}


def _refused(case: EngineCase, what: str, ask: Callable[[], Arrays], expected: Arrays | None) -> None:
    """Raises AssertionError unless `ask` raises InputError or returns `due`."""
    try:
        found = ask()
    except InputError:
        return
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        INPUTS.holds(False, f"{what}: expected InputError, got {type(error).__name__} ({error})")
        return
    INPUTS.holds(expected is not None, f"{what}: expected InputError, got an answer")
    assert expected is not None  # for the type checker
    INPUTS.all_equal(found, expected, within=case.tolerance, problem=f"{what}: no InputError, but another result")


def _distances(case: EngineCase) -> dict[str, NDArray[np.floating]]:
    """Steps [W, N, T] to each goal of `_goals`, except the goals that are refused."""
    if not isinstance(case.engine, GoalDistance):
        return {}
    cut, found = case.cut(), {}
    belief, future = case.observe(cut.history), case.futures(cut)[0]
    for label, goal in _goals(cut).items():
        try:
            found[label] = case.engine.distance(belief, future, goal, seed=case.seed)
        except UnsupportedError:
            continue
    return found


def _goals(cut: Cut) -> dict[str, Arrays]:
    """The last true value of each observation signal as a goal, and of all of them together."""
    last = {name: value[:, -1] for name, value in cut.truth.items()}
    return {**{name: {name: value} for name, value in last.items()}, "+".join(last): last}


def _check_proposals(case: EngineCase, engine: GoalDistance, belief: EngineBelief, goal: Arrays) -> None:
    try:
        found = [engine.propose(belief, goal, case.horizon, num_proposals=5, seed=case.seed) for _ in range(2)]
    except UnsupportedError:
        return
    REACHES.all_equal(found[0], found[1], within=0.0, problem="equal seeds gave different proposals")
    pending = {name: value[:, :2] for name, value in case.cut().actions.items()}
    found[1] = engine.propose(belief, goal, case.horizon, num_proposals=5, pending=pending, seed=case.seed)
    found.append(engine.propose(belief, goal, case.horizon, num_proposals=5, budget_s=1e-9, seed=case.seed))
    vectors = [s.name for s in case.card.schema.actions if s.kind is Kind.VECTOR and found[0][s.name].size]
    same = [np.array_equal(found[0][name], found[1][name]) for name in vectors]
    REACHES.holds(not same or not all(same), "proposals do not depend on the pending actions")
    for signal, suggested in product(case.card.schema.actions, found):
        REACHES.holds(signal.name in suggested, f"no proposals for {signal.name!r}")
        value = suggested[signal.name]
        shape = (value.shape[0], value.shape[1], case.horizon, *signal.shape)
        problem = f"proposals of {signal.name!r} have shape {value.shape}, expected {shape} with at most 5 proposals"
        REACHES.holds(value.shape == shape and value.shape[1] <= 5, problem)
        low, high = np.asarray(signal.low or -np.inf), np.asarray(signal.high or np.inf)
        inside = difference(value, np.clip(value.astype(np.float64), low, high)) <= 1e-6
        REACHES.holds(inside, f"proposals of {signal.name!r} are outside {signal.low} to {signal.high}")
