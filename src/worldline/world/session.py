"""A session with one running world: its history, adaptive bands and a change alarm."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, final, overload

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, Episode, History, require_mapping
from worldline.errors import ConfigError, InputError
from worldline.planning.base import Goal
from worldline.planning.calls import PlanCall, PredictCall
from worldline.schema import Signal
from worldline.world.base import Forecast, Plan, Prediction, World
from worldline.world.compatibility import differences
from worldline.world.local import LocalWorld, WorldBelief
from worldline.world.validation import check_history

Floats = NDArray[np.floating]

MAX_ALARMS: Final = 100
"""Alarms that a session keeps. A world that has changed for good raises one every few steps."""

NO_HISTORY: Final = History(observations={})
"""The history of a call to a session, which fills in its own."""

FILLED_IN: Final[Mapping[str, Any]] = {"history": NO_HISTORY, "level": None}
"""Fields of calls that a session fills in."""

_WIDEST: Final = 1e6
"""Largest factor on a band. Without it, a band of width 0 that is always missed would have an infinite one."""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """An alarm that the world has changed.

    Args:
        step: observation, from 0, at which the alarm was raised.
        since: observation from which on evidence was gathered.
    """

    step: int
    since: int


@final
@dataclass(frozen=True, kw_only=True)
class SessionState:
    """What a session knows, without its world, so that it can continue in another process.

    Args:
        episode: the kept steps; None before the first observation.
        num_seen: observations so far.
        widening: as `Session.widening`.
        evidence: for a change of the world, since observation `since`.
        since: see `evidence`.
        alarms: as `Session.alarms`.
    """

    episode: Episode | None
    num_seen: int
    widening: Mapping[str, float]
    evidence: float
    since: int
    alarms: tuple[Alarm, ...]


@final
@dataclass(frozen=True, kw_only=True)
class SessionView:
    """A session of a service as its caller sees it.

    Args:
        id: names the session.
        world: name of the world.
        version: of the world at the last observation; None for a folder.
        step: number of observations so far. The next observation has this step number.
        expires: seconds since 1970 (UTC) after which an unused session ends.
        alarms: the last alarms, at most 100: the world no longer behaves as its model predicts.
        widening: per signal the current factor on its calibrated band.
    """

    id: str
    world: str
    version: int | None
    step: int
    expires: float
    alarms: tuple[Alarm, ...]
    widening: Mapping[str, float]


class SessionVerbs(ABC):
    """The verbs of a session, in this process or at a service: those of `World`, from the session's present."""

    @overload
    @abstractmethod
    def answer(self, call: PredictCall) -> Prediction: ...
    @overload
    @abstractmethod
    def answer(self, call: PlanCall) -> Plan: ...
    @abstractmethod
    def answer(self, call: PredictCall | PlanCall) -> Any:
        """The answer to a call. The session fills in its history, and the level of its bands."""

    def predict(
        self, actions: Arrays, *, exogenous: Arrays | None = None, num_samples: int = 0, images: bool = False
    ) -> Prediction:
        """`World.predict` at the level of the session, with adapted bands and samples."""
        num = num_samples
        call = PredictCall(history=NO_HISTORY, actions=actions, exogenous=exogenous, num_samples=num, images=images)
        return self.answer(call)

    def plan(self, goal: Goal, **options: Any) -> Plan:
        """`World.plan` with the same arguments, but without a history.

        Args:
            goal: defines the cost.
            options: further fields of `PlanCall`; `horizon` is required.
        """
        return self.answer(PlanCall(history=NO_HISTORY, goal=goal, **options))


@final
class Session(SessionVerbs):
    """Keeps the history of one running world, and compares its predictions with the outcomes.

    Each new observation is compared with its prediction from the observations before, under the actions taken. The
    bands of `predict` widen if trajectories leave them too often, and narrow if too rarely. In the long run they keep
    their level, however the world changes. Steps that are too surprising too often raise an alarm. Without a
    change, there is at most one alarm in `patience` steps on average, if surprises are independent.

    A world in this process is followed by one belief update per step, so `observe` encodes one observation, and
    `predict` and `plan` encode none. The answers equal those of updates since the session began. Other worlds get the
    kept history. The world can be replaced at any time (`use`).

    Args:
        world: any world. Without a calibration, predictions are returned unchanged and nothing is monitored.
        num_kept: number of kept observations, more than `Card.context` + `horizon`.
        level: probability of the bands, in (0, 1). None: as in `World.predict`.
        horizon: T, steps of the trajectories that are compared with their bands.
        rate: speed of adaptation, at least 0. A miss multiplies the width by exp(rate * level). 0 never adapts, and
            saves a prediction per step of a `LocalWorld`.
        patience: mean number of steps between false alarms, at least 2.

    Raises:
        ConfigError: an argument is out of range.

    Source: Gibbs, Candès 2021 (2106.00170), section 2, with the width tracked instead of the level, as in
        Angelopoulos, Candès, Tibshirani 2023 (2307.16895), section 2. The alarm is Page's test on the bets of Vovk,
        Nouretdinov, Gammerman 2003, section 4.
    """

    def __init__(
        self,
        world: World,
        *,
        num_kept: int = 128,
        level: float | None = None,
        horizon: int = 1,
        rate: float = 0.05,
        patience: float = 1000.0,
    ) -> None:
        context = world.describe().context
        valid = num_kept > context + horizon and horizon >= 1 and (level is None or 0 < level < 1)
        if not (valid and 0 <= rate < math.inf and 2 <= patience < math.inf):
            raise ConfigError(
                f"num_kept {num_kept} must be above context {context} + horizon {horizon}, horizon at least 1, level "
                f"{level} in (0, 1), rate {rate} at least 0, patience {patience} at least 2."
            )
        self.num_kept, self.level, self.horizon = num_kept, level, horizon
        self.rate, self.patience = rate, patience
        self._episode: Episode | None = None
        self._follow(world, None)
        self._num_seen, self._alarms = 0, deque[Alarm](maxlen=MAX_ALARMS)
        self._widening: dict[str, float] = {}
        self._evidence, self._since = 1.0, 0

    @property
    def history(self) -> History:
        """The last observations, at most `num_kept`, as an argument for any verb of the world.

        Raises:
            InputError: there is no observation yet.
        """
        if self._episode is None:
            raise InputError("nothing was observed yet. Call observe with the first observation.")
        return self._episode.history()

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """The last alarms, at most 100, in order of time."""
        return tuple(self._alarms)

    @property
    def widening(self) -> Mapping[str, float]:
        """Per predicted vector signal the current factor on its calibrated band; empty for 1, as with `rate` 0."""
        return dict(self._widening)

    @property
    def state(self) -> SessionState:
        """What the session knows now."""
        return SessionState(
            episode=self._episode,
            num_seen=self._num_seen,
            widening=self.widening,
            evidence=self._evidence,
            since=self._since,
            alarms=self.alarms,
        )

    def resume(self, state: SessionState) -> None:
        """Continues from a state of another session with the same settings.

        The present is inferred from the kept steps. A model with longer memory may give slightly other answers than the
        session that saw all steps.
        """
        self._follow(self.world, state.episode)
        self._episode, self._num_seen = state.episode, state.num_seen
        self._widening, self._evidence, self._since = dict(state.widening), state.evidence, state.since
        self._alarms = deque(state.alarms, MAX_ALARMS)

    def observe(
        self,
        observations: Arrays,
        *,
        actions: Arrays | None = None,
        exogenous: Arrays | None = None,
        observed: Mapping[str, bool] | None = None,
    ) -> None:
        """Adds one step.

        Args:
            observations: per signal [*shape]; the same signals each time.
            actions: actions since the last observation, per action signal [*shape]; None at the first step.
            exogenous: exogenous inputs since then; None at the first step, or if the schema has none.
            observed: per signal, whether its value was observed; True if left out.

        Raises:
            InputError: a signal is missing, new or does not fit the schema. The step is then not added.
        """
        for what, arrays in (("observations", observations), ("actions", actions), ("exogenous", exogenous)):
            require_mapping({} if arrays is None else arrays, what)
        episode = self._grown(observations, actions or {}, exogenous or {}, observed or {})
        self._update(episode)
        try:
            self._test(episode, step=self._num_seen)
        except BaseException:
            if self._beliefs:
                self._beliefs.pop()  # a step on which the world fails is not added
            raise
        self._episode = episode.last(self.num_kept)
        self._num_seen += 1

    def answer(self, call: PredictCall | PlanCall) -> Any:
        """See `SessionVerbs`."""
        if isinstance(call, PredictCall):
            return self._adapted(self._answered(replace(call, history=self.history, level=self.level)))
        plan = self._answered(replace(call, history=self.history))
        return plan if plan.prediction is None else replace(plan, prediction=self._adapted(plan.prediction))

    def _answered(self, call: PredictCall | PlanCall) -> Any:
        """The answer of the world, from its belief if the session holds it."""
        world = self.world
        return world.answer(call, self._beliefs[-1]) if isinstance(world, LocalWorld) else world.answer(call)

    def _follow(self, world: World, episode: Episode | None) -> None:
        """Begins to follow a world that has seen `episode`; None for nothing.

        The beliefs at the last `horizon` observations are kept, so that the next trajectory is compared with its band.
        """
        beliefs = deque[WorldBelief](maxlen=self.horizon + 1)
        if episode is not None and isinstance(world, LocalWorld):
            first = max(episode.num_steps - self.horizon + 1, 0) if self.rate > 0 else episode.num_steps
            beliefs.append(world.encode(episode.history(first)))
            for now in range(first + 1, episode.num_steps + 1):
                before, recent = beliefs[-1], episode.history(now, 2)
                beliefs.append(world.test(before, world.update(before, recent), recent))
        self.world, self._beliefs = world, beliefs

    def _update(self, episode: Episode) -> None:
        """Adds the last step of `episode`: one update of the belief. If the world fails, nothing is added."""
        world = self.world
        if not isinstance(world, LocalWorld):  # each of its calls gets the history
            check_history(world.describe().schema, episode.history(length=min(2, episode.num_steps + 1)))
        elif self._beliefs:
            self._beliefs.append(world.update(self._beliefs[-1], episode.history(length=2)))
        else:
            self._beliefs.append(world.encode(episode.history()))

    def _test(self, episode: Episode, *, step: int) -> None:
        """Compares the last step of `episode`, number `step`, with its prediction."""
        world, num_steps = self.world, episode.num_steps
        context = world.describe().context
        predicted, p_value = None, None
        if isinstance(world, LocalWorld):
            if len(self._beliefs) < 2:
                return
            before, untested = self._beliefs[-2], self._beliefs[-1]
            self._beliefs[-1] = replace(untested, trust=np.full_like(untested.trust, np.nan))  # if the test fails
            tested = world.test(before, untested, episode.history(length=2))
            ready = tested.num_observed > context
            if ready and self.rate > 0 and len(self._beliefs) > self.horizon:
                predicted = world.answer(self._taken(episode), self._beliefs[-self.horizon - 1])
            self._beliefs[-1], p_value = tested, tested.p_value if ready else None
        elif num_steps >= context:
            if num_steps >= self.horizon:
                predicted = world.answer(self._taken(episode))
                if not predicted.calibrated:
                    return
            p_value = float(world.surprise(episode.last(context + 1)).steps[-1])
        self._compare(episode, predicted, p_value, step=step)

    def _taken(self, episode: Episode) -> PredictCall:
        """The prediction of the last `horizon` steps under the inputs that were taken."""
        first = episode.num_steps - self.horizon
        exogenous = {name: value[first:] for name, value in episode.exogenous.items()}
        return PredictCall(
            history=episode.history(first),
            actions={name: value[first:] for name, value in episode.actions.items()},
            exogenous=exogenous or None,
            level=self.level,
        )

    def _adapted(self, forecast: Prediction) -> Prediction:
        """The prediction with adapted bands."""
        schema, width = self.world.describe().schema, self._widening
        signals = {name: _widened(schema[name], band, width.get(name, 1.0)) for name, band in forecast.signals.items()}
        return replace(forecast, signals=signals)

    def use(self, world: World) -> None:
        """Continues with another world: same history, with bands as calibrated.

        Raises:
            InputError: the new world takes or predicts other signals than the application uses.
        """
        old, new = self.world.describe(), world.describe()
        changes = differences(old, new)
        if changes:
            raise InputError(f"{new.name} cannot replace {old.name}: {'; '.join(changes)}.")
        if self.num_kept <= new.context + self.horizon:
            raise InputError(
                f"{new.name} needs num_kept above {new.context + self.horizon}, got {self.num_kept}. Use a new session."
            )
        self._follow(world, self._episode)
        self._widening, self._evidence, self._since = {}, 1.0, self._num_seen

    def _grown(self, observations: Arrays, actions: Arrays, exogenous: Arrays, observed: Mapping[str, bool]) -> Episode:
        """The kept episode with one more step."""
        schema, before = self.world.describe().schema, self._episode
        _check_known(observed, observations)
        if before is None:
            if actions or exogenous:
                raise InputError("the first observation has nothing before it. Leave out actions and exogenous.")
            return Episode(
                observations={name: np.asarray(value)[None] for name, value in observations.items()},
                actions={s.name: np.zeros((0, *s.shape), s.dtype) for s in schema.actions},
                exogenous={s.name: np.zeros((0, *s.shape), s.dtype) for s in schema.exogenous},
                observed={name: np.array([observed.get(name, True)]) for name in observations},
            )
        if observations.keys() != before.observations.keys():
            raise InputError(
                f"expected observations {sorted(before.observations)}, got {sorted(observations)}. Pass the same "
                "signals and mark missing values in `observed`."
            )
        return Episode(
            observations=_appended(before.observations, observations),
            actions=_appended(before.actions, actions),
            exogenous=_appended(before.exogenous, exogenous),
            observed={name: np.append(value, observed.get(name, True)) for name, value in before.observed.items()},
        )

    def _compare(self, episode: Episode, predicted: Prediction | None, p_value: float | None, *, step: int) -> None:
        """Compares the last trajectory with its band, and tests the last step, number `step`, for surprise."""
        if predicted is not None and predicted.calibrated:
            schema = self.world.describe().schema
            for name, forecast in predicted.signals.items():
                self._adjust(schema[name], forecast, predicted.level, episode)
        if p_value is None or not self._is_evidence(episode):
            return
        if self._evidence <= 1:
            self._evidence, self._since = 1.0, step
        self._evidence *= _bet(p_value)
        if self._evidence >= self.patience:
            self._alarms.append(Alarm(step=step, since=self._since))
            self._evidence = 1.0

    def _is_evidence(self, episode: Episode) -> bool:
        """Whether something was observed before and after the last step.

        A prediction without any observation is a guess, and its p-values are not calibrated.
        """
        predicts = self.world.describe().predicts
        before = [seen[-2] for seen in episode.observed.values()]
        after = [episode.observed[name][-1] for name in predicts if name in episode.observed]
        return any(before) and any(after)

    def _adjust(self, signal: Signal, forecast: Forecast, level: float, episode: Episode) -> None:
        """Adapts the width of one signal's band to the outcome of its forecast."""
        half = forecast.half_width
        if half is None or signal.name not in episode.observations or np.isinf(half).all():
            return
        known = episode.observed[signal.name][-self.horizon :].astype(bool)
        if not known.any():
            return
        truth = episode.observations[signal.name][-self.horizon :].astype(np.float64)
        error = np.abs(signal.difference(truth, forecast.mean.astype(np.float64)))
        width = self._widening.get(signal.name, 1.0)
        missed = bool((error > half * width)[known].any())
        # The exponent is cut too, because exp of a large one is an error.
        width *= math.exp(min(self.rate * (missed - (1 - level)), math.log(_WIDEST)))
        self._widening[signal.name] = min(max(width, 1 / _WIDEST), _WIDEST)


def _appended(before: Arrays, step: Arrays) -> dict[str, NDArray[np.generic]]:
    """Arrays [T, *shape] with one more step [*shape]."""
    _check_known(step, before)
    for name, value in before.items():
        if name not in step or np.shape(step[name]) != value.shape[1:]:
            problem = f", got {np.shape(step[name])}" if name in step else "; the signal is missing"
            raise InputError(f"{name!r}: expected shape {value.shape[1:]} for one step{problem}.")
    return {name: np.concatenate([value, np.asarray(step[name])[None]]) for name, value in before.items()}


def _check_known(arrays: Mapping[str, object], known: Mapping[str, object]) -> None:
    for name in arrays:
        if name not in known:
            raise InputError(
                f"{name[:100]!r} is not a signal here. Leave it out; known are: {', '.join(known) or 'none'}."
            )


def _bet(p_value: float) -> float:
    """The payoff of a bet on small p-values, 1 on average if they are uniform: the mean over e of e * p^(e - 1)."""
    p = min(max(p_value, 1e-12), 1 - 1e-6)  # the formula is infinite at 0, and 0 / 0 at 1
    return (1 - p + p * math.log(p)) / (p * math.log(p) ** 2)


def _widened(signal: Signal, forecast: Forecast, width: float) -> Forecast:
    """The forecast with its band and samples `width` times as wide."""
    half, samples = forecast.half_width, forecast.samples
    if half is None:
        return forecast
    mean = forecast.mean.astype(np.float64)
    low, high = Forecast.band(signal, mean, width * half)
    if samples is not None:
        samples = signal.bounded(mean + width * signal.difference(samples, mean))
    return replace(forecast, low=low, high=high, samples=samples)
