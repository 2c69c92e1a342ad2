"""One thread of time in a world: what was seen so far, bands that learn from outcomes, and an alarm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.errors import ConfigError, InputError
from worldline.schema import Signal
from worldline.world.base import Forecast, Prediction, World
from worldline.world.compatibility import differences
from worldline.world.validation import check_history

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """The world is no longer what it was.

    Args:
        step: the observation, counted from 0, at which it was raised.
        since: the observation from which on the evidence was gathered.
    """

    step: int
    since: int


@final
class Session:
    """Keeps the history of one running world, and holds its predictions against what came.

    Each new observation is an outcome: what the world would have said of it from the observations before, under the
    actions that were taken, is compared with it. Where trajectories leave their bands more often than they should the
    bands of `predict` widen, and where less often they narrow, so that in the long run they hold their level whatever
    the world does. Steps that are too surprising too often raise an alarm: in ordinary times at most once in
    `patience` steps on average, if surprises come independently.

    The history is all that a session holds, so the world may be exchanged at any time (`use`).

    Args:
        world: anything calibrated; of one that is not, predictions are passed on as they are and nothing is watched.
        num_kept: observations that are kept, more than `Card.context` + `horizon`.
        level: of the bands, between 0 and 1.
        horizon: T, steps of the trajectories that are held against their bands; at most as many as were calibrated.
        rate: how fast bands change: a miss multiplies their width by exp(rate * level). 0 never changes them.
        patience: steps between two false alarms on average, at least 2.

    Raises:
        ConfigError: an argument is out of range.

    Source: Gibbs, Candès 2021 (2106.00170), section 2, with the width itself tracked instead of the level, as in
        Angelopoulos, Candès, Tibshirani 2023 (2307.16895), section 2; the alarm is Page's test on the bets of Vovk,
        Nouretdinov, Gammerman 2003, section 4.
    """

    def __init__(
        self,
        world: World,
        *,
        num_kept: int = 128,
        level: float = 0.9,
        horizon: int = 1,
        rate: float = 0.05,
        patience: float = 1000.0,
    ) -> None:
        context = world.describe().context
        if num_kept <= context + horizon or horizon < 1:
            raise ConfigError(
                f"num_kept {num_kept} must be above context {context} + horizon {horizon}, and that at least 1."
            )
        if not 0 < level < 1 or not 0 <= rate < math.inf or not 2 <= patience < math.inf:
            raise ConfigError(f"level {level} must be in (0, 1), rate {rate} at least 0, patience {patience} above 2.")
        self.world, self.num_kept, self.level, self.horizon = world, num_kept, level, horizon
        self.rate, self.patience = rate, patience
        self._episode: Episode | None = None
        self._num_seen, self._alarms = 0, list[Alarm]()
        self._widening: dict[str, float] = {}
        self._evidence, self._since = 1.0, 0

    @property
    def history(self) -> History:
        """What was observed last, at most `num_kept` observations, for any verb of the world.

        Raises:
            InputError: nothing was observed yet.
        """
        if self._episode is None:
            raise InputError("nothing was observed yet. Call observe with the first observation.")
        return self._episode.history(self._episode.num_steps, self._episode.num_steps + 1)

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """All so far, in order of time."""
        return tuple(self._alarms)

    @property
    def widening(self) -> Mapping[str, float]:
        """Per predicted vector signal what its calibrated band is multiplied by now."""
        return dict(self._widening)

    def observe(
        self,
        observations: Arrays,
        *,
        actions: Arrays | None = None,
        exogenous: Arrays | None = None,
        observed: Mapping[str, bool] | None = None,
    ) -> None:
        """Takes in one step.

        Args:
            observations: what is seen now, per signal [*shape]; the same signals each time.
            actions: what was done since the observation before, per action signal [*shape]; None at the first.
            exogenous: what acted from outside since then; None at the first, and where the schema has none.
            observed: per signal, whether its value is one; a name that is left out was observed.

        Raises:
            InputError: a signal is missing, is new, or does not fit the schema. The step is then not taken in.
        """
        episode = self._longer(observations, actions or {}, exogenous or {}, observed or {})
        check_history(self.world.describe().schema, episode.history(episode.num_steps, episode.num_steps + 1))
        if self._episode is not None:
            self._compare(episode)
        self._episode = _episode(episode.history(episode.num_steps, min(self.num_kept, episode.num_steps + 1)))
        self._num_seen += 1

    def predict(self, actions: Arrays, *, exogenous: Arrays | None = None) -> Prediction:
        """As `World.predict` from the history so far at the session's level, with bands as wide as outcomes ask for."""
        found = self.world.predict(self.history, actions, exogenous=exogenous, level=self.level)
        signals = {name: _widened(one, self._widening.get(name, 1.0)) for name, one in found.signals.items()}
        return replace(found, signals=signals)

    def use(self, world: World) -> None:
        """Goes on with another world: it sees the same history, and its bands begin as it was calibrated.

        Raises:
            InputError: it takes or predicts other signals than the application has been using.
        """
        old, new = self.world.describe(), world.describe()
        found = differences(old, new)
        if found:
            raise InputError(f"{new.name} cannot take the place of {old.name}: {'; '.join(found)}.")
        if self.num_kept <= new.context + self.horizon:
            raise InputError(f"{new.name} wants {new.context} observations, and {self.num_kept} are kept. Keep more.")
        self.world, self._widening, self._evidence, self._since = world, {}, 1.0, self._num_seen

    def _longer(
        self, observations: Arrays, actions: Arrays, exogenous: Arrays, observed: Mapping[str, bool]
    ) -> Episode:
        """What is kept with one step more."""
        schema, before = self.world.describe().schema, self._episode
        if before is None:
            if actions or exogenous:
                raise InputError("the first observation has nothing before it. Leave actions and exogenous out.")
            return Episode(
                observations={name: np.asarray(value)[None] for name, value in observations.items()},
                actions={s.name: np.zeros((0, *s.shape), s.dtype) for s in schema.actions},
                exogenous={s.name: np.zeros((0, *s.shape), s.dtype) for s in schema.exogenous},
                observed={name: np.array([observed.get(name, True)]) for name in observations},
            )
        if observations.keys() != before.observations.keys():
            raise InputError(
                f"observations are {sorted(observations)}, and were {sorted(before.observations)}. Give the same ones; "
                "what was not seen is said in `observed`."
            )
        return Episode(
            observations=_appended(before.observations, observations),
            actions=_appended(before.actions, actions),
            exogenous=_appended(before.exogenous, exogenous),
            observed={name: np.append(value, observed.get(name, True)) for name, value in before.observed.items()},
        )

    def _compare(self, episode: Episode) -> None:
        """Holds the last trajectory against its band, and the last step against what is usual."""
        card, now = self.world.describe(), episode.num_steps
        if now < card.context:
            return
        steps = min(self.horizon, now)
        said = self.world.predict(
            episode.history(now - steps, now - steps + 1),
            {name: value[now - steps :] for name, value in episode.actions.items()},
            exogenous={name: value[now - steps :] for name, value in episode.exogenous.items()} or None,
            level=self.level,
        )
        if not said.calibrated:
            return
        # Everything is asked before anything changes: a step on which the world fails is not taken in.
        p_value = self._surprise(card, episode)
        if steps == self.horizon:
            for name, forecast in said.signals.items():
                self._adjust(card.schema[name], forecast, episode)
        if p_value is None:
            return
        if self._evidence <= 1:
            self._evidence, self._since = 1.0, self._num_seen
        self._evidence *= _bet(p_value)
        if self._evidence >= self.patience:
            self._alarms.append(Alarm(step=self._num_seen, since=self._since))
            self._evidence = 1.0

    def _surprise(self, card: Card, episode: Episode) -> float | None:
        """The p-value of the last step; None where it is evidence of nothing.

        That is where nothing that is predicted was seen after it, and where nothing at all was seen before it: what is
        foretold then is no better than a guess, and p-values are not those of guesses.
        """
        before = [seen[-2] for seen in episode.observed.values()]
        after = [episode.observed[name][-1] for name in card.predicts if name in episode.observed]
        if not (any(before) and any(after)):
            return None
        recent = _episode(episode.history(episode.num_steps, card.context + 1))
        return float(self.world.surprise(recent).steps[-1])

    def _adjust(self, signal: Signal, forecast: Forecast, episode: Episode) -> None:
        """The width of one signal's band, now that the outcome of its forecast is known."""
        if forecast.high is None or signal.name not in episode.observations:
            return
        known = episode.observed[signal.name][-self.horizon :].astype(bool)
        if not known.any():
            return
        truth = episode.observations[signal.name][-self.horizon :].astype(np.float64)
        mean = forecast.mean.astype(np.float64)
        error, half = np.abs(signal.difference(truth, mean)), forecast.high - mean
        width = self._widening.get(signal.name, 1.0)
        missed = bool((error > half * width)[known].any())
        self._widening[signal.name] = width * math.exp(self.rate * (missed - (1 - self.level)))


def _appended(before: Arrays, one: Arrays) -> dict[str, NDArray[np.generic]]:
    """Arrays [T, *shape] with one step [*shape] more."""
    for name, value in before.items():
        if name not in one or np.shape(one[name]) != value.shape[1:]:
            came = np.shape(one[name]) if name in one else "nothing"
            raise InputError(f"{name!r}: shape {value.shape[1:]} is due for one step, {came} came.")
    return {name: np.concatenate([value, np.asarray(one[name])[None]]) for name, value in before.items()}


def _episode(history: History) -> Episode:
    """The history as an episode."""
    return Episode(
        observations=history.observations,
        actions=history.actions,
        exogenous=history.exogenous,
        observed=history.observed,
    )


def _bet(p_value: float) -> float:
    """What a bet on small p-values pays, 1 on average where they are uniform: the mean over e of e * p^(e - 1)."""
    p = min(max(p_value, 1e-12), 1 - 1e-6)
    return (1 - p + p * math.log(p)) / (p * math.log(p) ** 2)


def _widened(forecast: Forecast, width: float) -> Forecast:
    """The forecast with its band `width` times as wide."""
    if forecast.low is None or forecast.high is None:
        return forecast
    mean = forecast.mean.astype(np.float64)
    return replace(forecast, low=mean + width * (forecast.low - mean), high=mean + width * (forecast.high - mean))
