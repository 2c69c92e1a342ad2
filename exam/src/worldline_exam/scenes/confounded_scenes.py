"""Scenes of the fleet for C2 and U2, the queries to a world, and reference models.

A scene is an episode of the lab's explorer up to the present, and then several motors of each boat for the next step.
One group of motors is drawn at random, the other as the explorer would have chosen them. The flag `drill` is up for
random motors and down for chosen ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.audit import forecasts, history_of, packed_history
from worldline.engines import Card, EngineBelief, check_inputs, check_observations, own_belief
from worldline.episode import Arrays, Episode, History
from worldline.errors import UnsupportedError
from worldline.labs import explore, stacked
from worldline.schema import Schema
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, Pool
from worldline_exam.labs.fleet import BOATS, DRILLED, STEADY, Fleet, leaning
from worldline_exam.references.base import ReferenceEngine, reference_card

Floats = NDArray[np.floating]

CURRICULUM: Final = "fleet"
NUM_EPISODES: Final = 400
NUM_STEPS: Final = 40
DRIFTS: Final = tuple(boat.drift for boat in BOATS)
GROUPS: Final = ("seen", "do")
"""Groups of motors: as the explorer would have chosen them, and drawn at random."""


def fleet(pool: Pool, *, pictures: bool = False) -> Fleet:
    """The lab of a pool. For development, wind and motor have the same sign and all effects are a fifth larger."""
    if pool is Pool.REPORT:
        return Fleet(pictures=pictures)
    return Fleet(motor_effect=1.2, wind_effect=1.8, noise=0.6, pictures=pictures)


@dataclass(frozen=True, kw_only=True)
class FleetTest(ExamTest):
    """Base of tests on the fleet, with every kind of boat in one log.

    Args:
        num_scenes: number E of scenes.
        num_motors: number K of motors in each scene and group, at least 2.
        num_steps: length of the history, steps.
    """

    reach: ClassVar[float]
    """Bound of random motors, m/s."""

    num_scenes: int = 400
    num_motors: int = 4
    num_steps: int = 16

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """One dataset: the fleet."""
        lab = partial(fleet, self.pool, pictures=self.pixels)
        return (
            DatasetSpec(name=CURRICULUM, make_lab=lab, asked=DRIFTS, num_episodes=NUM_EPISODES, num_steps=NUM_STEPS),
        )

    def generate(self, seed: int) -> Arrays:
        """Scenes of `scenes_of`."""
        return scenes_of(
            fleet(self.pool),
            seed,
            num_scenes=self.num_scenes,
            num_motors=self.num_motors,
            num_steps=self.num_steps,
            reach=self.reach,
        )


def scenes_of(lab: Fleet, seed: int, *, num_scenes: int, num_motors: int, num_steps: int, reach: float) -> Arrays:
    """Scenes: the history, and per group the `<group>.motors` and resulting `<group>.drifts` [E, K, B].

    Args:
        lab: whose explorer acts.
        seed: of all draws.
        num_scenes: number E of scenes.
        num_motors: number K of motors of each group.
        num_steps: length of the history, at least 1 step.
        reach: motors of the group "do" are uniform in [-reach, reach], m/s.
    """
    rng = np.random.default_rng([2, seed])
    seeds = [int(number) for number in rng.integers(2**31, size=num_scenes)]
    past = stacked([explore(lab, log_seed, num_steps) for log_seed in seeds])
    steady = np.array([[lab.hidden(log_seed).get(f"{boat.name}_wind", 0.0) for boat in BOATS] for log_seed in seeds])
    shape = (num_scenes, num_motors, len(BOATS))
    drawn: dict[str, NDArray[np.generic]] = {}
    for group in GROUPS:
        winds = np.where(STEADY, steady[:, None], rng.standard_normal(shape))
        motors = leaning(winds, rng.standard_normal(shape))
        if group == "do":
            motors = rng.uniform(-reach, reach, shape)
        motors = motors.astype(np.float32)
        drawn[f"{group}.motors"] = motors
        drawn[f"{group}.drifts"] = lab.move(motors.astype(float), winds) + lab.noise * rng.standard_normal(shape)
    history = History(observations=past.observations, actions=past.actions)
    return {**packed_history(history), **drawn}


def drift_forecasts(world: World, scenes: Arrays, *, groups: Sequence[str], bands: bool) -> Arrays:
    """Per group the `<group>.mean` [E, K, B] of the next drifts; with `bands` also `<group>.low` and `<group>.high`.

    Args:
        world: that is queried.
        scenes: see `scenes_of`.
        groups: some of `GROUPS`.
        bands: whether to return the 90 % bands.

    Raises:
        UnreadableError: the world does not predict the drifts.
        UnsupportedError: bands are requested and the world gives none.
    """
    drifts: dict[str, NDArray[np.generic]] = {}
    for group in groups:
        history, motors = _with_flag(scenes, group), scenes[f"{group}.motors"]
        parts = []
        for number in range(motors.shape[1]):
            actions = {boat.motor: motors[:, number, b][:, None, None] for b, boat in enumerate(BOATS)}
            parts.append(forecasts(world, history, actions, signals=DRIFTS))
        drifts[f"{group}.mean"] = np.stack(
            [np.stack([part[name].mean[:, 0, 0] for name in DRIFTS], -1) for part in parts], 1
        ).astype(np.float64)
        if not bands:
            continue
        for edge in ("low", "high"):
            edges = [[getattr(part[name], edge) for name in DRIFTS] for part in parts]
            if any(side is None for part in edges for side in part):
                raise UnsupportedError(
                    f"{world.describe().name} gives no bands, which this test needs. Calibrate the world."
                )
            drifts[f"{group}.{edge}"] = np.stack([np.stack([side[:, 0, 0] for side in part], -1) for part in edges], 1)
    return drifts


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Residuals:
    """The belief: residuals of each boat's past drifts.

    Args:
        total: [W, B], sum of the residuals so far, m.
        count: number of steps so far.
    """

    total: Floats
    count: int


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ConfoundedOracle(ReferenceEngine):
    """Predicts each boat's drift as slope * motor plus the shrunken mean of its past residuals.

    Args:
        schema: of the fleet's logs.
        slopes: [B], m per m/s.
        doubt: [B], number of past steps at which history and prior (mean 0) weigh the same; infinite to ignore history.
        context: number of observations on the card.
    """

    schema: Schema
    slopes: Float[np.ndarray, "B"]
    doubt: Float[np.ndarray, "B"]
    context: int

    @classmethod
    def lawful(cls, lab: Fleet, context: int) -> ConfoundedOracle:
        """Knows the law, but neither wind nor noise."""
        doubt = np.where(STEADY, (lab.noise / lab.wind_effect) ** 2, np.inf)
        return cls(schema=lab.schema, slopes=np.full(len(BOATS), lab.motor_effect), doubt=doubt, context=context)

    @classmethod
    def blind(cls, episodes: Sequence[Episode], schema: Schema) -> ConfoundedOracle:
        """Drift regressed on the motor over all steps of the log, without history."""
        rows = _rows(episodes)
        slopes = (rows.motors * rows.drifts).sum((0, 1)) / (rows.motors**2).sum((0, 1))
        return cls(schema=schema, slopes=slopes, doubt=np.full(len(BOATS), np.inf), context=1)

    @classmethod
    def undrilled(cls, episodes: Sequence[Episode], schema: Schema) -> ConfoundedOracle:
        """Like `blind`, over the steps without a drill."""
        rows = _rows(episodes)
        chosen = (1 - rows.drill)[..., None]
        slopes = (chosen * rows.motors * rows.drifts).sum((0, 1)) / (chosen * rows.motors**2).sum((0, 1))
        return cls(schema=schema, slopes=slopes, doubt=np.full(len(BOATS), np.inf), context=1)

    @classmethod
    def adjusted(cls, episodes: Sequence[Episode], schema: Schema, context: int) -> ConfoundedOracle:
        """Like `blind`, but within episodes for steady boats, and over drills for drilled boats."""
        rows = _rows(episodes)
        motors, drifts = rows.motors, rows.drifts
        within = [value - value.mean(1, keepdims=True) for value in (motors, drifts)]
        drill = rows.drill[..., None]
        sums = [
            ((a * b * w).sum((0, 1)), (a * a * w).sum((0, 1)))
            for a, b, w in ((*within, 1.0), (motors, drifts, drill), (motors, drifts, 1.0))
        ]
        inside, drilled, every = (top / np.maximum(bottom, 1e-12) for top, bottom in sums)
        slopes = np.where(STEADY, inside, np.where(DRILLED, drilled, every))
        off = drifts - slopes * motors
        noise = ((off - off.mean(1, keepdims=True)) ** 2).sum(1).mean(0) / (off.shape[1] - 1)
        between = np.maximum(off.mean(1).var(0) - noise / off.shape[1], 1e-12)
        doubt = np.where(STEADY, noise / between, np.inf)
        return cls(schema=schema, slopes=slopes, doubt=doubt, context=context)

    def describe(self) -> Card:
        """The card of this engine."""
        return reference_card("confounded oracle", self.schema, DRIFTS, context=self.context)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Residuals:
        """Adds up the residuals."""
        del seed  # nothing is drawn
        worlds, length = check_observations(steps, [self.schema[name] for name in DRIFTS])
        check_inputs(steps, self.schema, length - 1 if belief is None else length)
        motors = _motors(steps.actions)
        drifts = np.concatenate([steps.observations[name] for name in DRIFTS], -1).astype(float)
        off = drifts[:, length - motors.shape[1] :] - self.slopes * motors
        before = (
            Residuals(total=np.zeros((worlds, len(BOATS))), count=0)
            if belief is None
            else own_belief(belief, Residuals)
        )
        return Residuals(total=before.total + off.sum(1), count=before.count + motors.shape[1])

    def predict(self, belief: EngineBelief, actions: Arrays) -> Arrays:
        """The drifts under the motors and the mean residual."""
        past = own_belief(belief, Residuals)
        level = past.total / (past.count + self.doubt)
        drifts = self.slopes * _motors(actions) + level[:, None, None]
        return {name: drifts[..., [number]] for number, name in enumerate(DRIFTS)}


def _motors(actions: Arrays) -> Floats:
    """The motors [..., B] of all boats, m/s."""
    return np.concatenate([actions[boat.motor] for boat in BOATS], -1).astype(float)


@dataclass(frozen=True, kw_only=True, eq=False)
class _LoggedSteps:
    """Logged steps: motors and resulting drifts [N, T, B], and whether the step was a drill [N, T]."""

    motors: Floats
    drifts: Floats
    drill: Floats


def _rows(episodes: Sequence[Episode]) -> _LoggedSteps:
    every = stacked(list(episodes))
    return _LoggedSteps(
        motors=_motors(every.actions),
        drifts=np.concatenate([every.observations[name][:, 1:] for name in DRIFTS], -1).astype(float),
        drill=every.observations["drill"][:, :-1, 0].astype(float),
    )


def _with_flag(scenes: Arrays, group: str) -> History:
    """The history with the flag `drill` of this group."""
    history = history_of(scenes)
    drill = history.observations["drill"].copy()
    drill[:, -1] = float(group == "do")
    return History(observations={**history.observations, "drill": drill}, actions=history.actions)
