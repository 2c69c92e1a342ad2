"""What planners share: evaluated sequences in order of quality, noise, a normal distribution and the search loop."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from worldline.errors import InputError, UnsupportedError
from worldline.planning.planners.base import ActionSpace, CostFunction, PlanCosts, PlannedActions, Planner, Proposals

Sequences = Float[Tensor, "B N T A"]
"""N action sequences for each of B problems."""


@dataclass(frozen=True, kw_only=True)
class Population:
    """N sequences for each of B problems, best first: sorted by total violation, then by cost (stable).

    Args:
        actions: within the bounds.
        cost: infinite if the cost or a violation was not finite.
        violation: as returned by the cost function.
    """

    actions: Sequences
    cost: Float[Tensor, "B N"]
    violation: Float[Tensor, "B N C"]

    def first(self, count: int) -> Population:
        """The best `count` of each problem, or all if there are fewer."""
        return Population(**{name: value[:, :count] for name, value in vars(self).items()})

    def merge(self, other: Population) -> Population:
        """Both populations together; ties keep their order, `self` first."""
        return _ranked(**{name: torch.cat([value, vars(other)[name]], 1) for name, value in vars(self).items()})

    def best(self, *, num_evaluated: int, finished: bool) -> PlannedActions:
        """The best sequence of each problem.

        Raises:
            InputError: a problem has no sequence of finite cost.
        """
        failed = self.cost[:, 0].isinf().nonzero().flatten().tolist()
        if failed:
            raise InputError(
                f"none of the {num_evaluated} sequences for problem {failed[0]} has a finite cost and violation "
                f"({len(failed)} of {len(self.cost)} problems). Check the cost function and its inputs."
            )
        first = {name: value[:, 0] for name, value in vars(self).items()}
        return PlannedActions(**first, num_evaluated=num_evaluated, finished=finished)


def inside(space: ActionSpace, actions: Float[Tensor, "*lead A"]) -> Float[Tensor, "*lead A"]:
    """`actions` clipped to the bounds; discrete actions become one-hot at their largest component."""
    # The continuous components before, between and after the choices, which are in order.
    parts, next_start = list[Tensor](), 0
    for start, stop in space.choices:
        chosen = one_hot(actions[..., start:stop].argmax(-1), stop - start).to(actions)
        numbers = slice(next_start, start)
        parts += [actions[..., numbers].clamp(space.low[numbers], space.high[numbers]), chosen]
        next_start = stop
    return torch.cat([*parts, actions[..., next_start:].clamp(space.low[next_start:], space.high[next_start:])], -1)


def initial(space: ActionSpace, proposals: Proposals, num_random: int, generator: torch.Generator) -> Sequences:
    """The proposals, and `num_random` uniformly random sequences, which all problems share; all within the space."""
    shape = (1, num_random, *proposals.shape[2:])
    shares = torch.rand(shape, generator=generator, device=generator.device).to(space.low)
    drawn = (space.low + shares * (space.high - space.low)).expand(len(proposals), -1, -1, -1)
    return inside(space, torch.cat([proposals, drawn], 1))


def evaluated(cost: CostFunction, space: ActionSpace, actions: Sequences) -> Population:
    """The population of `actions`, clipped to the space and evaluated in one call."""
    actions = inside(space, actions)
    return ranked(actions, cost(actions))


def ranked(actions: Sequences, value: PlanCosts) -> Population:
    """The population of sequences with these costs."""
    # A cost that is not finite marks a sequence that cannot be judged; infinity sorts it last.
    usable = value.cost.isfinite() & value.violation.isfinite().all(-1)
    return _ranked(actions, value.cost.detach().where(usable, torch.inf), value.violation.detach())


def spread_of(values: Float[Tensor, "B N C"]) -> Float[Tensor, "B C"]:
    """The standard deviation over N of the finite values; 0 if there are none."""
    known = values.isfinite()
    count = known.sum(1).clamp(min=1)
    mean = values.where(known, 0.0).sum(1) / count
    error = (values - mean[:, None]).where(known, 0.0)
    return torch.as_tensor((error.square().sum(1) / count).sqrt())


def check(
    space: ActionSpace, proposals: Proposals | None, *, batch: int, horizon: int, choices: bool = False
) -> Proposals:
    """The proposals, clipped to the space; P is 0 if there are none. Checks the arguments of `Planner.plan`.

    Args:
        space: the bounds.
        proposals: initial sequences.
        batch: B.
        horizon: T.
        choices: whether the planner supports discrete actions.

    Raises:
        InputError: proposals are misshapen or not finite.
        UnsupportedError: the space has a discrete action, and the planner supports continuous ones only.
    """
    if space.choices and not choices:
        start, stop = space.choices[0]
        raise UnsupportedError(
            f"components {start} to {stop - 1} of the actions are a choice between {stop - start} values, and this "
            "planner supports continuous actions only. Use the planner 'categorical'."
        )
    empty = space.low.new_zeros(batch, 0, horizon, len(space.low))
    if proposals is None:
        return empty
    expected = (batch, max(1, proposals.shape[1]), horizon, len(space.low))
    # Clipping keeps NaN, and a planner that continues from such a proposal would spread it to all sequences.
    if proposals.shape != expected or not proposals.isfinite().all():
        raise InputError(
            f"proposals have shape {tuple(proposals.shape)} or values that are not finite. Give finite sequences of "
            f"shape [B, P, T, A] = {expected}."
        )
    return inside(space, proposals.to(empty))


def _ranked(actions: Sequences, cost: Float[Tensor, "B N"], violation: Float[Tensor, "B N C"]) -> Population:
    # A sequence without a finite cost must not win by its violation.
    total = violation.sum(-1).where(cost.isfinite(), torch.inf)
    # Two stable sorts: by violation, and by cost among equal violations.
    by_cost = cost.argsort(dim=1, stable=True)
    order = by_cost.gather(1, total.gather(1, by_cost).argsort(dim=1, stable=True))
    problem = torch.arange(len(cost), device=cost.device)[:, None]
    return Population(actions=actions[problem, order], cost=cost[problem, order], violation=violation[problem, order])


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """An independent normal distribution per component and step, for each of B problems."""

    mean: Float[Tensor, "B T A"]
    deviation: Float[Tensor, "B T A"]

    @classmethod
    def over(cls, space: ActionSpace, like: Float[Tensor, "B P T A"], *, deviation: float) -> Gaussian:
        """Centred in the space, with the batch and horizon of `like`; `deviation` is a share of each range."""
        mean = ((space.low + space.high) / 2).expand(len(like), like.shape[2], -1)
        return cls(mean=mean, deviation=(deviation * (space.high - space.low)).expand_as(mean))

    def draw(self, noise: Float[Tensor, "1 N T A"]) -> Float[Tensor, "B N T A"]:
        """Sequences from standard normal `noise`, which all problems share."""
        return self.mean[:, None] + self.deviation[:, None] * noise.to(self.mean)

    def fit(
        self, population: Population, min_deviation: Float[Tensor, "A"], weight: Float[Tensor, "B N"] | None = None
    ) -> Gaussian:
        """The distribution fitted to a population.

        The mean needs one sequence of finite cost and the deviation two; with fewer they keep their values.

        Args:
            population: of the same problems.
            min_deviation: lower limit of the deviation.
            weight: of each sequence, at least 0; None for equal weights.
        """
        # A sequence without a finite cost has weight 0, whatever the caller's weight.
        usable = population.cost.isfinite().to(self.mean)
        weight = (usable if weight is None else weight * usable)[:, :, None, None]
        count, total = (weight > 0).sum(1), weight.sum(1)
        # Without any weight, `total` only has to avoid a division by 0: the values below are not used then.
        total = total.where(total > 0, 1.0)
        fitted = (weight * population.actions).sum(1) / total
        squares = (weight * (population.actions - fitted[:, None]) ** 2).sum(1)
        mean = torch.where(count >= 1, fitted, self.mean)
        # The deviation of a single sequence is 0, and a search would never leave it.
        deviation = torch.where(count >= 2, (squares / total).sqrt(), self.deviation)
        return Gaussian(mean=mean, deviation=deviation.maximum(min_deviation))


def persistent(shape: tuple[int, ...], correlation: float, generator: torch.Generator) -> Float[Tensor, "B N T A"]:
    """Standard normal noise; each component is a stationary AR(1) process over the steps.

    Args:
        shape: [B, N, T, A].
        correlation: of neighbouring steps, in [0, 1).
        generator: for the draws.
    """
    noise = torch.randn(shape, generator=generator, device=generator.device)
    for step in range(1, noise.shape[2]):
        # With this factor the variance stays 1.
        fresh = (1 - correlation**2) ** 0.5 * noise[:, :, step]
        noise[:, :, step] = correlation * noise[:, :, step - 1] + fresh
    return noise


def coloured(shape: tuple[int, ...], exponent: float, generator: torch.Generator) -> Float[Tensor, "B N T A"]:
    """Normal noise of variance 1 with a power spectrum f ** -exponent over the steps.

    Args:
        shape: [B, N, T, A].
        exponent: 0 for white noise, 1 for pink, 2 for red.
        generator: for the draws.

    Source: iCEM (2008.06389), section 3.1.
    """
    white = torch.randn(shape, generator=generator, device=generator.device)
    frequencies = torch.fft.fftfreq(shape[2], device=generator.device).abs()
    frequencies[0] = 1 / shape[2]  # avoids a division by 0: the constant counts as the lowest frequency
    gain = (frequencies ** (-exponent / 2))[:, None]
    spectrum = torch.fft.fft(white, dim=2) * gain
    noise = torch.fft.ifft(spectrum, dim=2).real
    return torch.as_tensor(noise / gain.square().mean().sqrt())


HEADROOM: Final = 1.5
"""Safety factor on the longest time that a batch of this size took: other processes share the machine."""


@final
class DeadlineBatcher:
    """Estimates how many sequences can be evaluated before a deadline.

    It assumes that a batch takes at most the time of a larger one, and that larger batches take time in proportion to
    their size. Both assumptions are conservative for batched evaluation.

    Args:
        limit_s: seconds from now; None for no limit.
        first: size of the first batch, which has no time limit; at least 1.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, limit_s: float | None, *, first: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ends_s = None if limit_s is None else clock() + limit_s
        self._first, self._clock = first, clock
        self._longest_s: dict[int, float] = {}
        self._count, self._since_s = 0, 0.0

    def next(self, count: int) -> int:
        """How many of `count` sequences to evaluate now; 0 if no time is left. The next call ends their timing."""
        if self._ends_s is None:
            return count
        now_s = self._clock()
        if self._count:
            self._longest_s[self._count] = max(now_s - self._since_s, self._longest_s.get(self._count, 0.0))
        self._since_s = now_s
        self._count = self._fitting(count, self._ends_s - now_s) if self._longest_s else min(count, self._first)
        return self._count

    def _fitting(self, count: int, left_s: float) -> int:
        """How many of `count` sequences can be evaluated in time."""
        fitting = [size for size, took_s in self._longest_s.items() if HEADROOM * took_s <= left_s]
        if left_s <= 0 or not fitting:
            return 0
        size = max(fitting)
        took_s = HEADROOM * self._longest_s[size]
        # Beyond the largest measured size, time is extrapolated. A larger measured size than this did not fit.
        if size == max(self._longest_s):
            size = max(size, int(size * left_s / took_s)) if took_s > 0 else count
        return min(count, size)


Candidates = Generator[Tensor, Population, None]
"""An algorithm: yields sequences [B, N, T, A], receives them evaluated and best first, and returns at its end."""


FIRST: Final = 16
"""Sequences that are evaluated even after the deadline; a batch of them takes hardly longer than one sequence."""


@dataclass(frozen=True, kw_only=True)
class SearchProblem:
    """The arguments of `Planner.plan`, checked.

    Args:
        cost: evaluates sequences.
        space: the bounds.
        starts: the proposals within the bounds, for B problems of T steps; P may be 0.
        generator: source of all random draws.
        deadline_s: time limit in seconds; None for none.
    """

    cost: CostFunction
    space: ActionSpace
    starts: Proposals
    generator: torch.Generator
    deadline_s: float | None


class CheckedPlanner(Planner):
    """Base class of planners that solve a `SearchProblem`."""

    chooses: ClassVar[bool] = False
    """Whether the planner supports discrete actions."""

    def plan(
        self,
        cost: CostFunction,
        space: ActionSpace,
        *,
        batch: int,
        horizon: int,
        proposals: Proposals | None = None,
        generator: torch.Generator,
        deadline_s: float | None = None,
    ) -> PlannedActions:
        """The best sequence found. The initial sequences are always evaluated, whatever the deadline.

        Raises:
            InputError: see `check` and `Population.best`.
            UnsupportedError: an action is discrete, and the planner supports continuous ones only.
        """
        starts = check(space, proposals, batch=batch, horizon=horizon, choices=self.chooses)
        return self.solve(
            SearchProblem(cost=cost, space=space, starts=starts, generator=generator, deadline_s=deadline_s)
        )

    @abstractmethod
    def solve(self, problem: SearchProblem) -> PlannedActions:
        """The best sequence found. The initial sequences are always evaluated, whatever the deadline.

        Raises:
            InputError: see `Population.best`.
        """


class PopulationPlanner(CheckedPlanner):
    """Base class of planners whose algorithm yields populations."""

    clock: ClassVar[Callable[[], float]] = time.monotonic
    """A monotonic clock in seconds."""

    @abstractmethod
    def candidates(self, space: ActionSpace, proposals: Proposals, generator: torch.Generator) -> Candidates:
        """The algorithm, for B problems of T steps.

        Args:
            space: the bounds.
            proposals: initial sequences within the bounds; P may be 0.
            generator: source of all random draws.
        """

    def solve(self, problem: SearchProblem) -> PlannedActions:
        """As in `CheckedPlanner`."""
        cost, space, starts = problem.cost, problem.space, problem.starts
        algorithm = self.candidates(space, starts, problem.generator)
        # Without a deadline each population is evaluated in one call, else in batches that fit into the remaining time.
        batcher = DeadlineBatcher(problem.deadline_s, first=max(FIRST, starts.shape[1]), clock=type(self).clock)
        best: Population | None = None
        num_evaluated, actions = 0, next(algorithm)
        while True:
            # Evaluates as much of the population as the deadline allows; `left` is the rest.
            population, left = None, actions
            while left.shape[1] and (count := batcher.next(left.shape[1])):
                sequences = inside(space, left[:, :count])
                part = ranked(sequences, cost(sequences))
                num_evaluated += count
                population = part if population is None else population.merge(part)
                left = left[:, count:]
            if population is not None:
                best = population.first(1) if best is None else best.merge(population).first(1)
            # An algorithm must not be fitted to a part of its population, so an incomplete one ends the search.
            if population is None or left.shape[1]:
                algorithm.close()
                break
            try:
                actions = algorithm.send(population)
            except StopIteration:
                break
        assert best is not None  # the first sequences are always evaluated
        return best.best(num_evaluated=num_evaluated, finished=population is not None and not left.shape[1])
