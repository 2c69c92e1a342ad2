"""How often an actor reaches logged goals in a Gymnasium environment.

A start is brought about by replaying its episode from the reset seed, and compared with the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldline.control.controller import Actor, ControlRound, ReplanningController
from worldline.control.goal_pairs import Reached, StartGoalPair
from worldline.episode import Arrays, History
from worldline.errors import DataError, InputError, UnknownNameError
from worldline.labs.spaces import AnyEnv, from_signals, schema_of, to_signals
from worldline.schema import Kind, Role
from worldline.stats import Rate, wilson

ROUNDING = 1e-4
"""How far a replayed vector may be from the logged one, absolute and relative; a picture: one grey level on average."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """How one pair went.

    Args:
        success: whether the goal was reached within the budget.
        num_steps: steps taken: until the goal was reached, the budget was used up, or the environment ended.
        path: per tracked signal [num_steps + 1, *shape], from the start on.
    """

    success: bool
    num_steps: int
    path: Arrays


@dataclass(frozen=True, kw_only=True, eq=False)
class GoalReaching:
    """How often goals were reached.

    Args:
        success: over all pairs.
        groups: for each group.
        attempts: one for each pair, in their order.
        rounds: each call of the actor, for several pairs at once.
    """

    success: Rate
    groups: Mapping[str, Rate]
    attempts: tuple[Attempt, ...]
    rounds: tuple[ControlRound, ...]

    @property
    def plan_s(self) -> float:
        """Seconds that one answer for one pair took on average, in batches as large as there were pairs left."""
        return sum(each.elapsed_s for each in self.rounds) / sum(each.num_worlds for each in self.rounds)


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
    progress: Callable[[int, int], None] | None = None,
) -> GoalReaching:
    """How often `actor` reaches the goals of `pairs`, all of them acted on side by side.

    Args:
        actor: says what to do, for all unfinished pairs at once.
        make_environment: makes the environment that the log came from, once for each pair.
        pairs: from `draw_pairs`, with the same context.
        reached: decides on success, after every step.
        goal_signals: what the actor is shown of the goal.
        context: the most observations that the actor is shown, the past of the start among them.
        replan_every: steps that are taken of each answer.
        track: observation signals whose paths are kept; none by default.
        seed: of every draw of the actor.
        progress: takes the number of finished pairs and of all, after every step; None for no report.

    Raises:
        InputError: there is no pair or goal signal, or a start has less past than the context.
        UnknownNameError: a goal or tracked signal was not logged.
        DataError: an environment, replayed to a start, shows something else than the log.
    """
    if not pairs:
        raise InputError("there are no pairs. Draw some with draw_pairs.")
    if not goal_signals:
        raise InputError("goal_signals is empty. Name the signals that the actor is shown of the goal.")
    for name in (*goal_signals, *track):
        if name not in pairs[0].goal:
            raise UnknownNameError("observation signal", name, pairs[0].goal)
    shortest = min(pair.at for pair in pairs) + 1
    if shortest < context:
        raise InputError(
            f"a start has {shortest} observations where {context} are shown. Draw pairs with this context."
        )
    with ExitStack() as stack:
        runs = [_Run(pair, stack.enter_context(closing(make_environment())), track) for pair in pairs]
        pasts = [run.replay(context) for run in runs]
        controller = ReplanningController(actor, runs[0].schema, context=context, replan_every=replan_every, seed=seed)
        goals = _stack([{name: pair.goal[name] for name in goal_signals} for pair in pairs])
        controller.reset(goals, _past(pasts) if context > 1 else None)
        going = runs
        while going:
            going = _step(controller, going, reached)
            if progress is not None:
                progress(len(runs) - len(going), len(runs))
    return _result(runs, controller.rounds)


def _step(controller: ReplanningController, going: list[_Run], reached: Reached) -> list[_Run]:
    """One step in each environment; those that are not finished."""
    actions = controller.act(_stack([run.observation for run in going]))
    for row, run in enumerate(going):
        run.step({name: value[row] for name, value in actions.items()}, reached)
    kept = [row for row, run in enumerate(going) if not run.finished]
    controller.keep(np.array(kept, dtype=int))
    return [going[row] for row in kept]


class _Run:
    """One environment on its way from a start to a goal."""

    def __init__(self, pair: StartGoalPair, environment: AnyEnv, track: Sequence[str]) -> None:
        self.pair, self.environment, self.schema = pair, environment, schema_of(environment)
        self.success, self.finished, self.num_steps = False, False, 0
        self.observation: Arrays = {}
        self._track = track
        self._path: list[Arrays] = []

    def replay(self, context: int) -> Sequence[tuple[Arrays, Arrays]]:
        """Brings the start about; gives the context - 1 observations before it, each with the action taken then.

        Raises:
            DataError: the environment shows something else than the log.
        """
        raw, _ = self.environment.reset(seed=self.pair.seed)
        self._see(raw)
        past: deque[tuple[Arrays, Arrays]] = deque(maxlen=context - 1)
        for step in range(self.pair.at):
            action = {name: value[step] for name, value in self.pair.replay.items()}
            past.append((self.observation, action))
            self._see(self._apply(action)[0])
        self._verify()
        self._path = [self._tracked()]
        return past

    def step(self, action: Arrays, reached: Reached) -> None:
        """Takes one step towards the goal."""
        raw, ended = self._apply(action)
        self._see(raw)
        self._path.append(self._tracked())
        self.num_steps += 1
        self.success = reached(self.observation, self.pair.goal)
        self.finished = self.success or ended or self.num_steps == self.pair.budget

    def attempt(self) -> Attempt:
        """How it went."""
        path = {name: np.stack([each[name] for each in self._path]) for name in self._track}
        return Attempt(success=self.success, num_steps=self.num_steps, path=path)

    def _apply(self, action: Arrays) -> tuple[object, bool]:
        taken = from_signals(action, self.environment.action_space, Role.ACTION)
        raw, _, terminated, truncated, _ = self.environment.step(taken)
        return raw, bool(terminated or truncated)

    def _see(self, raw: object) -> None:
        self.observation = to_signals(raw, self.environment.observation_space, Role.OBSERVATION)

    def _tracked(self) -> Arrays:
        return {name: self.observation[name] for name in self._track}

    def _verify(self) -> None:
        for name, logged in self.pair.start.items():
            shown = self.observation.get(name)
            if shown is None or not _same(shown, logged, self.schema[name].kind):
                problem = "shows no such signal" if shown is None else "shows another value than the log"
                raise DataError(
                    f"the environment, replayed from seed {self.pair.seed}, {problem}",
                    fix="Check that it is the one that was logged, and that it is deterministic once reset.",
                    episode=self.pair.episode,
                    signal=name,
                    step=self.pair.at,
                )


def _same(shown: NDArray[np.generic], logged: NDArray[np.generic], kind: Kind) -> bool:
    if shown.shape != logged.shape:
        return False
    first, second = shown.astype(float), logged.astype(float)
    if kind is Kind.IMAGE:
        return bool(np.abs(first - second).mean() <= 1)
    return bool(np.allclose(first, second, rtol=ROUNDING, atol=ROUNDING))


def _stack(rows: Sequence[Arrays]) -> Arrays:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _past(pasts: Sequence[Sequence[tuple[Arrays, Arrays]]]) -> History:
    """The pasts of W starts [W, H-1, *shape], H at least 2."""
    seen, taken = ([_stack([step[part] for step in past]) for past in pasts] for part in (0, 1))
    return History(observations=_stack(seen), actions=_stack(taken))


def _result(runs: Sequence[_Run], rounds: Sequence[ControlRound]) -> GoalReaching:
    labels = dict.fromkeys(run.pair.group for run in runs)
    members = {label: [run.success for run in runs if run.pair.group == label] for label in labels}
    return GoalReaching(
        success=wilson(sum(run.success for run in runs), len(runs)),
        groups={label: wilson(sum(successes), len(successes)) for label, successes in members.items()},
        attempts=tuple(run.attempt() for run in runs),
        rounds=tuple(rounds),
    )
