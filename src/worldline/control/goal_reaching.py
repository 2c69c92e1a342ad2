"""Evaluation of goal reaching: the success rate of an actor on logged goals in a Gymnasium environment.

Pairs of a start and a goal come from logged episodes. The goal is the observation `offset` steps after the start, no
pair is solved at its start, and an attempt may take 2 * `offset` steps. Groups of pairs have equal size.

A start is reached by replaying its episode from the reset seed. It is then compared with the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np

from worldline.control.controller import Actor, ControlRound, ReplanningController
from worldline.data.store import Store
from worldline.engines.simulator import differs
from worldline.episode import Arrays, History
from worldline.errors import DataError, InputError, UnknownNameError
from worldline.labs.spaces import AnyEnv, SpaceLayout, schema_of
from worldline.progress import OnProgress, tell
from worldline.schema import Role
from worldline.stats import Rate, wilson

Reached = Callable[[Arrays, Arrays], bool]
"""Whether an observation is close enough to a goal; both are {signal: [*shape]}."""

Grouping = Callable[[Arrays, Arrays], str]
"""The label of the pair of a start and a goal; both are {signal: [*shape]}."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StartGoalPair:
    """A start and a goal.

    Args:
        episode: number of the episode that holds both.
        seed: reset seed of the episode.
        replay: per action signal [at, *shape], the actions from the reset to the start.
        start: per observation signal [*shape], as logged.
        goal: per observation signal [*shape], as logged.
        offset: steps from start to goal in the log.
        group: label of the group.
    """

    episode: int
    seed: int
    replay: Arrays
    start: Arrays
    goal: Arrays
    offset: int
    group: str

    @property
    def at(self) -> int:
        """The step of the start in its episode."""
        return len(next(iter(self.replay.values())))

    @property
    def budget(self) -> int:
        """The largest number of steps of an attempt, twice the offset."""
        return 2 * self.offset


def draw_pairs(
    store: Store,
    episodes: Sequence[int],
    *,
    offset: int,
    num_pairs: int,
    reached: Reached,
    group: Grouping,
    groups: Sequence[str],
    context: int = 1,
    seed: int,
) -> tuple[StartGoalPair, ...]:
    """Pairs drawn without replacement from all possible starts, sorted by group.

    Args:
        store: of episodes with reset seeds.
        episodes: held out from training.
        offset: steps from start to goal, at least 1.
        num_pairs: a multiple of the number of groups.
        reached: decides whether a pair is solved at its start; such pairs are left out.
        group: returns the label of a pair.
        groups: the wanted labels, in equal numbers; pairs with another label are left out.
        context: number of observations up to and including the start that must exist; the default needs no past.
        seed: of the draw.

    Raises:
        InputError: `num_pairs` is not a multiple of the number of groups, or a number is too small.
        DataError: an episode has no reset seed, or there are too few pairs; the message gives their number.
    """
    if min(offset, context, num_pairs, len(groups)) < 1 or num_pairs % len(groups):
        raise InputError(
            f"offset {offset}, context {context} and num_pairs {num_pairs} must be at least 1, and num_pairs a "
            f"multiple of the number of groups, {len(groups)}."
        )
    seeds = _reset_seeds(store, episodes)
    starts = [(e, at) for e in episodes for at in range(context - 1, int(store.num_steps[e]) - offset + 1)]
    drawn: dict[str, list[StartGoalPair]] = {label: [] for label in groups}
    quota = num_pairs // len(groups)
    for number in np.random.default_rng(seed).permutation(len(starts)):
        if all(len(pairs) == quota for pairs in drawn.values()):
            break
        episode, at = starts[number]
        start, goal = (_observation(store, episode, step) for step in (at, at + offset))
        if start is None or goal is None or reached(start, goal):
            continue
        label = group(start, goal)
        if label in drawn and len(drawn[label]) < quota:
            pair = StartGoalPair(
                episode=episode,
                seed=seeds[episode],
                replay={signal.name: store.read(signal.name, episode, 0, at) for signal in store.schema.actions},
                start=start,
                goal=goal,
                offset=offset,
                group=label,
            )
            drawn[label].append(pair)
    if missing := [f"{len(pairs)} of group {label!r}" for label, pairs in drawn.items() if len(pairs) < quota]:
        raise DataError(
            f"each group needs {quota} pairs, but there are only {' and '.join(missing)} among {len(starts)} starts in "
            f"{len(episodes)} episodes",
            fix="Log more or longer episodes, or reduce num_pairs or offset.",
        )
    return tuple(pair for label in groups for pair in drawn[label])


def _reset_seeds(store: Store, episodes: Sequence[int]) -> dict[int, int]:
    seeds = {}
    for episode in episodes:
        if (seed := store.entry(episode).seed) is None:
            fix = "Log reset seeds: a start is reached by replaying its episode."
            raise DataError("no reset seed was logged", fix=fix, episode=episode)
        seeds[episode] = seed
    return seeds


def _observation(store: Store, episode: int, step: int) -> Arrays | None:
    """The logged observation {signal: [*shape]}, or None if a signal is missing."""
    names = [signal.name for signal in store.schema.observations]
    if not all(store.observed(name, episode, step, step + 1).all() for name in names):
        return None
    return {name: store.read(name, episode, step, step + 1)[0] for name in names}


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """The attempt on one pair.

    Args:
        success: whether the goal was reached within the budget.
        num_steps: steps until the goal was reached, the budget was used up, or the environment ended.
        path: per tracked signal [num_steps + 1, *shape], from the start on.
    """

    success: bool
    num_steps: int
    path: Arrays


@dataclass(frozen=True, kw_only=True, eq=False)
class GoalReaching:
    """The result of an evaluation.

    Args:
        success: success rate over all pairs.
        groups: success rate of each group.
        attempts: one for each pair, in their order.
        rounds: each call of the actor, for several pairs in parallel.
    """

    success: Rate
    groups: Mapping[str, Rate]
    attempts: tuple[Attempt, ...]
    rounds: tuple[ControlRound, ...]

    @property
    def plan_s(self) -> float:
        """Mean time of one answer for one pair in seconds, with all unfinished pairs in one batch."""
        return sum(call.elapsed_s for call in self.rounds) / sum(call.num_worlds for call in self.rounds)


def evaluate(
    actor: Actor,
    make_environment: Callable[[], AnyEnv],
    pairs: Sequence[StartGoalPair],
    *,
    reached: Reached,
    goal_signals: Sequence[str],
    context: int,
    replan_every: int,
    track: Sequence[str] = (),
    seed: int,
    progress: OnProgress | None = None,
) -> GoalReaching:
    """The success rate of `actor` on the goals of `pairs`, all attempted in parallel.

    Args:
        actor: chooses the actions of all unfinished pairs in one call.
        make_environment: creates the environment of the log, once for each pair.
        pairs: from `draw_pairs`, with the same context.
        reached: decides on success, after every step.
        goal_signals: signals of the goal that the actor receives.
        context: largest number of observations that the actor receives, including those before the start.
        replan_every: steps that are taken of each answer.
        track: observation signals whose paths are kept; none by default.
        seed: of every draw of the actor.
        progress: called after every step; counts the finished pairs. None for no report.

    Raises:
        InputError: there is no pair or goal signal, or a start has fewer observations than the context.
        UnknownNameError: a goal or tracked signal was not logged.
        DataError: an environment that was replayed to a start differs from the log.
    """
    if not pairs:
        raise InputError("pairs is empty. Draw some with draw_pairs.")
    if not goal_signals:
        raise InputError("goal_signals is empty. Name the signals of the goal that the actor receives.")
    for name in (*goal_signals, *track):
        if name not in pairs[0].goal:
            raise UnknownNameError("observation signal", name, pairs[0].goal)
    length = min(pair.at for pair in pairs) + 1
    if length < context:
        raise InputError(f"a start has {length} observations, but context is {context}. Draw pairs with this context.")
    with ExitStack() as stack:
        runs = [_Run(pair, stack.enter_context(closing(make_environment())), track) for pair in pairs]
        pasts = [run.replay(context) for run in runs]
        controller = ReplanningController(actor, runs[0].schema, context=context, replan_every=replan_every, seed=seed)
        goals = _stack([{name: pair.goal[name] for name in goal_signals} for pair in pairs])
        controller.reset(goals, _past(pasts) if context > 1 else None)
        unfinished = runs
        while unfinished:
            unfinished = _step(controller, unfinished, reached)
            tell(progress, "reach goals", len(runs) - len(unfinished), len(runs))
    return _result(runs, controller.rounds)


def _step(controller: ReplanningController, runs: list[_Run], reached: Reached) -> list[_Run]:
    """Takes one step in each environment; returns the unfinished runs."""
    actions = controller.act(_stack([run.observation for run in runs]))
    for row, run in enumerate(runs):
        run.step({name: value[row] for name, value in actions.items()}, reached)
    kept = [row for row, run in enumerate(runs) if not run.finished]
    controller.keep(np.array(kept, dtype=int))
    return [runs[row] for row in kept]


class _Run:
    """One environment on its way from a start to a goal."""

    def __init__(self, pair: StartGoalPair, environment: AnyEnv, track: Sequence[str]) -> None:
        self.pair, self.environment, self.schema = pair, environment, schema_of(environment)
        self.success, self.finished, self.num_steps = False, False, 0
        self.observation: Arrays = {}
        self._track = track
        self._path: list[Arrays] = []

    def replay(self, context: int) -> Sequence[tuple[Arrays, Arrays]]:
        """Replays to the start; returns the context - 1 observations before it, each with its action.

        Raises:
            DataError: the environment differs from the log.
        """
        raw, _ = self.environment.reset(seed=self.pair.seed)
        self._observe(raw)
        past: deque[tuple[Arrays, Arrays]] = deque(maxlen=context - 1)
        for step in range(self.pair.at):
            action = {name: value[step] for name, value in self.pair.replay.items()}
            past.append((self.observation, action))
            self._observe(self._apply(action)[0])
        self._verify()
        self._path = [self._tracked()]
        return past

    def step(self, action: Arrays, reached: Reached) -> None:
        """Takes one step and checks whether the goal is reached."""
        raw, ended = self._apply(action)
        self._observe(raw)
        self._path.append(self._tracked())
        self.num_steps += 1
        self.success = reached(self.observation, self.pair.goal)
        self.finished = self.success or ended or self.num_steps == self.pair.budget

    def attempt(self) -> Attempt:
        """The result of this run."""
        path = {name: np.stack([step[name] for step in self._path]) for name in self._track}
        return Attempt(success=self.success, num_steps=self.num_steps, path=path)

    def _apply(self, action: Arrays) -> tuple[object, bool]:
        taken = SpaceLayout(self.environment.action_space, Role.ACTION).write(action)
        raw, _, terminated, truncated, _ = self.environment.step(taken)
        return raw, bool(terminated or truncated)

    def _observe(self, raw: object) -> None:
        self.observation = SpaceLayout(self.environment.observation_space, Role.OBSERVATION).read(raw)

    def _tracked(self) -> Arrays:
        return {name: self.observation[name] for name in self._track}

    def _verify(self) -> None:
        for name, logged in self.pair.start.items():
            value = self.observation.get(name)
            fits = value is not None and value.shape == logged.shape
            if value is not None and fits and not differs(value[None], logged[None], self.schema[name].kind).any():
                continue
            problem = "has no such signal" if value is None else "has another value than the log"
            raise DataError(
                f"the environment, replayed from seed {self.pair.seed}, {problem}",
                fix="Check that it is the environment of the log, and that it is deterministic after a reset.",
                episode=self.pair.episode,
                signal=name,
                step=self.pair.at,
            )


def _stack(rows: Sequence[Arrays]) -> Arrays:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _past(pasts: Sequence[Sequence[tuple[Arrays, Arrays]]]) -> History:
    """The history before W starts [W, H-1, *shape], H at least 2."""
    observations, actions = ([_stack([step[part] for step in past]) for past in pasts] for part in (0, 1))
    return History(observations=_stack(observations), actions=_stack(actions))


def _result(runs: Sequence[_Run], rounds: Sequence[ControlRound]) -> GoalReaching:
    labels = dict.fromkeys(run.pair.group for run in runs)
    members = {label: [run.success for run in runs if run.pair.group == label] for label in labels}
    return GoalReaching(
        success=wilson(sum(run.success for run in runs), len(runs)),
        groups={label: wilson(sum(successes), len(successes)) for label, successes in members.items()},
        attempts=tuple(run.attempt() for run in runs),
        rounds=tuple(rounds),
    )
