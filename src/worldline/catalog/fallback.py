"""Several worlds as one: who is asked first, and who answers where that one cannot."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldline.engines.base import CallCost, Card
from worldline.episode import Arrays, Episode, History
from worldline.errors import ConfigError, InputError, UnavailableError, UnknownNameError, UnsupportedError
from worldline.planning.base import Constraint, Goal
from worldline.world.base import Plan, PlanStatus, Prediction, Scores, Surprise, WhatIf, World
from worldline.world.compatibility import clashes

Answer = TypeVar("Answer")
Judged = TypeVar("Judged", Prediction, Scores)
Value = TypeVar("Value")
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a world did not answer.

    Args:
        name: of the world.
        error: that it raised, or that says what it lacks.
    """

    name: str
    error: UnsupportedError | UnavailableError


@final
class FallbackWorld(World):
    """Asks the first world; where it lacks the ability, cannot be reached, or does not trust the history, the next.

    The application sees the same signals whoever answers: those that all predict. Whatever is the caller's own mistake
    (`InputError`) is raised at once. In a batch each of the W worlds gets the first answer that is trusted; only a
    plan is made by one for all W, and bands are left out where one of those who answered has none.

    Costs and constraints see what the world that answers predicts, which may be more than is common to all.

    Args:
        worlds: in the order in which they are asked, at least one. Each is asked for its card now, so each has to be
            there now.
        min_trust: smallest p-value of the history for which an answer is taken, 0 to 1; 0 for any. Above 0 an
            uncalibrated world never answers, except to `what_if` and `surprise`, which tell no trust.

    Raises:
        ConfigError: there is no world, `min_trust` is out of range, or the worlds do not speak the same signals.
    """

    def __init__(self, worlds: Sequence[World], *, min_trust: float = 0.0) -> None:
        if not worlds or not 0 <= min_trust <= 1:
            raise ConfigError(f"{len(worlds)} worlds must be at least 1, min_trust {min_trust} in [0, 1].")
        self._worlds, self._min_trust = tuple(worlds), min_trust
        self._cards = tuple(world.describe() for world in worlds)
        self._names = _distinct([card.name for card in self._cards])
        self._card = _common_card(self._cards, self._names)
        self._lock, self._counts = threading.Lock(), Counter(dict.fromkeys(self._names, 0))

    def describe(self) -> Card:
        """The schema of the first world, the signals that all predict, and what any of them is able to.

        Whoever has an ability answers where it is needed; the notes say who that is, in which order they are asked,
        and what a call of each costs. `call` is that of the first.
        """
        return self._card

    def tally(self) -> Mapping[str, int]:
        """How many calls each world has answered so far, by name; a batch may be answered by several."""
        with self._lock:
            return dict(self._counts)

    def predict(
        self, history: History, actions: Arrays, *, exogenous: Arrays | None = None, level: float = 0.9
    ) -> Prediction:
        """See `World`.

        Raises:
            UnsupportedError: no world can, or none trusts the history; tells the reason of each.
            UnavailableError: likewise, and none could be reached.
        """

        def ask(number: int, rows: Mask | None) -> Prediction:
            found = self._worlds[number].predict(
                self._known(number, _rows_of(history, rows)),
                _rows(actions, rows),
                exogenous=None if exogenous is None else _rows(exogenous, rows),
                level=level,
            )
            return replace(found, signals=self._common(found.signals))

        return self._trusted(ask, _merged_prediction)

    def score(
        self,
        history: History,
        actions: Arrays,
        goal: Goal,
        constraints: Sequence[Constraint] = (),
        *,
        exogenous: Arrays | None = None,
    ) -> Scores:
        """See `World`.

        Raises:
            UnsupportedError: as in `predict`.
            UnavailableError: likewise.
        """

        def ask(number: int, rows: Mask | None) -> Scores:
            self._check_goal(number, goal)
            return self._worlds[number].score(
                self._known(number, _rows_of(history, rows)),
                _rows(actions, rows),
                replace(goal, targets=_rows(goal.targets, rows)),
                constraints,
                exogenous=None if exogenous is None else _rows(exogenous, rows),
            )

        return self._trusted(ask, _merged_scores)

    def plan(
        self,
        history: History,
        goal: Goal,
        *,
        constraints: Sequence[Constraint] = (),
        horizon: int,
        exogenous: Arrays | None = None,
        proposals: Arrays | None = None,
        pending: Arrays | None = None,
        budget_s: float | None = None,
        min_trust: float = 0.0,
        seed: int = 0,
    ) -> Plan:
        """See `World`. The budget is for all together. Refused where no world trusts the history enough.

        Raises:
            UnsupportedError: no world can; tells the reason of each.
            UnavailableError: likewise, and none could be reached.
        """
        started_s = time.monotonic()
        refusals: list[Plan] = []

        def ask(number: int) -> Plan:
            self._check_goal(number, goal)
            left_s = budget_s
            if budget_s is not None and budget_s > 0:  # one that is no budget is for a world to refuse
                left_s = max(1e-3, budget_s - (time.monotonic() - started_s))
            found = self._worlds[number].plan(
                self._known(number, history),
                goal,
                constraints=constraints,
                horizon=horizon,
                exogenous=exogenous,
                proposals=proposals,
                pending=pending,
                budget_s=left_s,
                min_trust=max(min_trust, self._min_trust),
                seed=seed,
            )
            if found.status is PlanStatus.REFUSED:
                refusals.append(found)
                raise UnsupportedError(found.reason)
            return found

        try:
            found = self._first(ask)
        except (UnsupportedError, UnavailableError) as error:
            if not refusals:
                raise
            found = replace(refusals[0], reason=str(error))
        return replace(found, elapsed_s=time.monotonic() - started_s)

    def what_if(self, episode: Episode, at: int, actions: Arrays) -> WhatIf:
        """See `World`. Asked first are those that infer what was hidden in the episode.

        Raises:
            UnsupportedError: as in `predict`.
            UnavailableError: likewise.
        """
        infer = sorted(range(len(self._cards)), key=lambda number: "abducts" not in self._cards[number].abilities)

        def ask(number: int) -> WhatIf:
            found = self._worlds[number].what_if(self._shown(number, episode), at, actions)
            return replace(found, signals=self._common(found.signals), factual=self._common(found.factual))

        return self._first(ask, infer)

    def surprise(self, episode: Episode) -> Surprise:
        """See `World`. Entities and steps are judged by all signals that the world which answers predicts.

        Raises:
            UnsupportedError: as in `predict`.
            UnavailableError: likewise.
        """
        names = set(self._card.predicts)
        entities = {self._card.schema[name].entity for name in names}

        def ask(number: int) -> Surprise:
            found = self._worlds[number].surprise(self._shown(number, episode))
            return replace(
                found,
                p_values=self._common(found.p_values),
                entities={name: value for name, value in found.entities.items() if name in entities},
                moments=tuple(
                    replace(moment, signals=tuple(name for name in moment.signals if name in names))
                    for moment in found.moments
                ),
            )

        return self._first(ask)

    def _first(self, ask: Callable[[int], Answer], order: Sequence[int] | None = None) -> Answer:
        """The answer of the first world that can, in their own order or this one."""
        failures: list[Failure] = []
        for number in range(len(self._names)) if order is None else order:
            try:
                found = ask(number)
            except (UnsupportedError, UnavailableError) as error:
                failures.append(Failure(name=self._names[number], error=error))
                continue
            self._count(number)
            return found
        raise _together(failures) from failures[0].error

    def _trusted(
        self, ask: Callable[[int, Mask | None], Judged], merge: Callable[[Judged, Judged, Mask], Judged]
    ) -> Judged:
        """The answer of the first world that can and trusts the history; in a batch, of the first for each of W.

        Args:
            ask: takes a world's number, and which of W are asked about; None for all.
            merge: puts the second answer in the place of these rows of the first.
        """
        failures: list[Failure] = []
        answer: Judged | None = None
        left: Mask | None = None
        for number, name in enumerate(self._names):
            try:
                found = ask(number, left)
            except (UnsupportedError, UnavailableError) as error:
                failures.append(Failure(name=name, error=error))
                continue
            trusted = self._trusts(found.trust)
            if not trusted.all():
                failures.append(Failure(name=name, error=self._doubt(found.trust)))
            if not trusted.any():
                continue
            self._count(number)
            answer = found if answer is None or left is None else merge(answer, found, left)
            if trusted.all():
                return answer
            if left is None:
                left = ~trusted
            else:
                left[left] = ~trusted
        raise _together(failures) from failures[0].error

    def _trusts(self, trust: float | NDArray[np.floating]) -> Mask:
        """Whether each history [W], or the one [], is trusted."""
        values = np.asarray(trust)
        return np.asarray(values >= self._min_trust) if self._min_trust else np.ones(values.shape, bool)

    def _doubt(self, trust: float | NDArray[np.floating]) -> UnsupportedError:
        least = float(np.min(trust))  # NaN where one is
        why = "it is not calibrated" if np.isnan(least) else f"its trust in the history is {least:.3g}"
        return UnsupportedError(f"{why}, and min_trust is {self._min_trust}.")

    def _count(self, number: int) -> None:
        with self._lock:
            self._counts[self._names[number]] += 1

    def _common(self, found: Mapping[str, Value]) -> dict[str, Value]:
        """What all predict, of one answer."""
        lacking = [name for name in self._card.predicts if name not in found]
        if lacking:
            raise UnsupportedError(f"it no longer predicts {', '.join(lacking)}. Build the fallback again.")
        return {name: found[name] for name in self._card.predicts}

    def _speaks(self, number: int, name: str) -> bool:
        """Whether a world knows an observation signal, if the first does: what nobody knows is the caller's mistake."""
        world, first = (
            {signal.name for signal in card.schema.observations} for card in (self._cards[number], self._card)
        )
        return name in world or name not in first

    def _known(self, number: int, history: History) -> History:
        """`history` without the signals that a world does not know."""
        return replace(
            history,
            observations={n: v for n, v in history.observations.items() if self._speaks(number, n)},
            observed={n: v for n, v in history.observed.items() if self._speaks(number, n)},
        )

    def _shown(self, number: int, episode: Episode) -> Episode:
        """As `_known`."""
        return replace(
            episode,
            observations={n: v for n, v in episode.observations.items() if self._speaks(number, n)},
            observed={n: v for n, v in episode.observed.items() if self._speaks(number, n)},
        )

    def _check_goal(self, number: int, goal: Goal) -> None:
        """Refuses a target that not all predict, unless this world knows how far it is."""
        known = [signal.name for signal in self._card.schema.observations]
        for name in goal.targets:
            if name not in known:
                raise InputError(f"target: {UnknownNameError('signal', name, known)}")
            reaches = "reaches" in self._cards[number].abilities
            if not self._speaks(number, name) or not (reaches or name in self._card.predicts):
                raise UnsupportedError(
                    f"a goal on {name!r} takes a distance head, which it lacks: all worlds predict "
                    f"{', '.join(self._card.predicts)} only."
                )


def _together(failures: Sequence[Failure]) -> UnsupportedError | UnavailableError:
    """The reasons of all: unavailable where nobody could be asked, else unsupported."""
    first, *others = failures
    if not others:
        return first.error
    reasons = "; ".join(f"{failure.name}: {str(failure.error).rstrip('.')}" for failure in failures)
    gone = all(isinstance(failure.error, UnavailableError) for failure in failures)
    kind = UnavailableError if gone else UnsupportedError
    return kind(f"no world answers. {reasons}.")


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with their place in the order where two are equal."""
    return tuple(name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1))


def _common_card(cards: Sequence[Card], names: Sequence[str]) -> Card:
    """The card of all together; see `FallbackWorld.describe`.

    Raises:
        ConfigError: they do not speak the same signals.
    """
    first = cards[0]
    for card, name in zip(cards[1:], names[1:], strict=True):
        _check_same(first, names[0], card, name)
    predicts = tuple(name for name in first.predicts if all(name in card.predicts for card in cards))
    if not predicts:
        each = "; ".join(f"{name}: {', '.join(card.predicts)}" for card, name in zip(cards, names, strict=True))
        raise ConfigError(f"no signal is predicted by all worlds ({each}). Leave out the one that differs.")
    abilities = sorted({ability for card in cards for ability in card.abilities})
    able = {a: ", ".join(n for n, card in zip(names, cards, strict=True) if a in card.abilities) for a in abilities}
    return Card(
        name="fallback",
        engine="fallback",
        schema=first.schema,
        inputs=tuple(s.name for s in first.schema.observations if any(s.name in card.inputs for card in cards)),
        predicts=predicts,
        context=max(card.context for card in cards),
        deterministic=all(card.deterministic for card in cards),
        action_conditioned=any(card.action_conditioned for card in cards),
        abilities=tuple(abilities),
        call=first.call,
        notes={
            "order": ", ".join(names),
            **{f"call of {name}": _price(card.call) for name, card in zip(names, cards, strict=True)},
            **{f"who {ability}": who for ability, who in able.items()},
        },
    )


def _price(call: CallCost | None) -> str:
    if call is None:
        return "not measured"
    return f"{call.latency_s:.3g} s, " + (f"{call.price:.3g} {call.currency}" if call.price else "free")


def _check_same(first: Card, first_name: str, card: Card, name: str) -> None:
    """Refuses a world that does not speak the signals of the first."""
    names = {signal.name for signal in first.schema.observations}
    found = clashes(first.schema, card.schema, names)
    found += tuple(f"it takes {n!r}, which {first_name!r} does not know" for n in card.inputs if n not in names)
    if found:
        fix = f"Build it on the schema of {first_name!r}."
        raise ConfigError(f"{name!r} cannot stand behind {first_name!r}: {'; '.join(found)}. {fix}")


def _rows(arrays: Arrays, rows: Mask | None) -> Arrays:
    """Of arrays [W, ...] these worlds; all where there is no mask."""
    return arrays if rows is None else {name: np.asarray(value)[rows] for name, value in arrays.items()}


def _rows_of(history: History, rows: Mask | None) -> History:
    return History(
        observations=_rows(history.observations, rows),
        actions=_rows(history.actions, rows),
        exogenous=_rows(history.exogenous, rows),
        observed=_rows(history.observed, rows),
    )


def _merged_prediction(first: Prediction, other: Prediction, rows: Mask) -> Prediction:
    """`first`, with `other` in the place of these worlds."""
    signals = {}
    for name, forecast in first.signals.items():
        instead = other.signals[name]
        signals[name] = replace(
            forecast,
            mean=_put(forecast.mean, instead.mean, rows),
            low=None if forecast.low is None or instead.low is None else _put(forecast.low, instead.low, rows),
            high=None if forecast.high is None or instead.high is None else _put(forecast.high, instead.high, rows),
            horizon=_put(forecast.horizon, instead.horizon, rows),
        )
    return replace(
        first,
        signals=signals,
        trust=_put(first.trust, other.trust, rows),
        calibrated=first.calibrated and other.calibrated,
    )


def _merged_scores(first: Scores, other: Scores, rows: Mask) -> Scores:
    """As `_merged_prediction`."""
    return replace(
        first,
        cost=_put(first.cost, other.cost, rows),
        violation=_put(first.violation, other.violation, rows),
        trust=_put(first.trust, other.trust, rows),
    )


def _put(values: ArrayLike, instead: ArrayLike, rows: Mask) -> NDArray[Any]:
    """`values` [W, ...] with `instead` in these rows."""
    old, new = np.asarray(values), np.asarray(instead)
    found = old.astype(np.result_type(old, new))
    found[rows] = new
    return found
