"""Several worlds as one: the first one that can answer does."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, final

import numpy as np

from worldline.engines.base import Card
from worldline.episode import Episode, History
from worldline.errors import ConfigError, InputError, UnavailableError, UnknownNameError, UnsupportedError
from worldline.planning.base import Goal
from worldline.planning.calls import Call, PlanCall, ScoreCall, SurpriseCall, WhatIfCall
from worldline.world.base import Plan, PlanStatus, Prediction, Surprise, WhatIf, World
from worldline.world.compatibility import clashes

Answer = TypeVar("Answer")
Value = TypeVar("Value")


@final
class FallbackWorld(World):
    """Calls worlds in order, until one has the ability, can be reached, returns finite values and trusts the history.

    The application sees the same signals from every world: those that all predict. An `InputError` is raised at once,
    because it is the mistake of the caller. One world answers for a whole batch: the first that trusts every history.

    Costs and constraints see all signals that the answering world predicts, which may be more than the common ones.

    Args:
        worlds: in order, at least one. Each must be reachable now, because its card is read.
        min_trust: smallest trust in the history for an answer, 0 to 1; 0 accepts any. Above 0 an uncalibrated
            world never answers, except to `what_if` and `surprise`, which have no trust.

    Raises:
        ConfigError: there is no world, `min_trust` is out of range, or the signals of the worlds differ.
    """

    def __init__(self, worlds: Sequence[World], *, min_trust: float = 0.0) -> None:
        if not worlds or not 0 <= min_trust <= 1:
            raise ConfigError(
                f"expected at least 1 world and min_trust in [0, 1], got {len(worlds)} worlds, min_trust {min_trust}."
            )
        self._worlds, self._min_trust = tuple(worlds), min_trust
        self._cards = tuple(world.describe() for world in worlds)
        self._names = _distinct([card.name for card in self._cards])
        self._card = _common_card(self._cards, self._names)
        self._lock, self._counts = threading.Lock(), Counter(dict.fromkeys(self._names, 0))

    def describe(self) -> Card:
        """The card: schema of the first world, signals that all predict, abilities of any.

        The notes list the order and the worlds with each ability. `call` is that of the first world.
        """
        return self._card

    def tally(self) -> Mapping[str, int]:
        """The number of calls that each world answered, by name."""
        with self._lock:
            return dict(self._counts)

    def answer(self, call: Call) -> Any:
        """See `World`. The budget of a plan is shared by all worlds. It is refused if no world trusts the history.

        Worlds with the ability "abducts" are called first for `what_if`. In a `Surprise`, entities, moments and steps
        cover all signals of the answering world.

        Raises:
            UnsupportedError: no world can answer, or none trusts the history. The message has the reason of each.
            UnavailableError: no world can be reached.
        """
        if isinstance(call, PlanCall):
            return self._planned(call)
        order = list(range(len(self._cards)))
        if isinstance(call, WhatIfCall):
            order.sort(key=lambda number: "abducts" not in self._cards[number].abilities)
        ask = self._ask if isinstance(call, WhatIfCall | SurpriseCall) else self._trusted
        return self._first(lambda number: ask(number, call), order)

    def _ask(self, number: int, call: Call) -> Any:
        """The common signals of the answer of one world."""
        if isinstance(call, ScoreCall | PlanCall):
            self._check_goal(number, call.goal)
        answer: Any = self._worlds[number].answer(self._known(number, call))
        return self._common(answer)

    def _planned(self, call: PlanCall) -> Plan:
        """The plan of the first world that does not refuse it."""
        started_s = time.monotonic()
        call = replace(call, min_trust=max(call.min_trust, self._min_trust))
        refusals: list[Plan] = []

        def ask(number: int) -> Plan:
            left_s = None if call.budget_s is None else max(1e-3, call.budget_s - (time.monotonic() - started_s))
            plan: Plan = self._ask(number, replace(call, budget_s=left_s))
            if plan.status is PlanStatus.REFUSED:
                refusals.append(plan)
                raise UnsupportedError(plan.reason)
            return plan

        try:
            plan = self._first(ask)
        except (UnsupportedError, UnavailableError) as error:
            if not refusals:
                raise
            plan = replace(refusals[0], reason=str(error))
        return replace(plan, elapsed_s=time.monotonic() - started_s)

    def _first(self, ask: Callable[[int], Answer], order: Sequence[int] | None = None) -> Answer:
        """The first answer, in the order of the worlds or in `order`."""
        failures: dict[str, UnsupportedError | UnavailableError] = {}
        for number in range(len(self._names)) if order is None else order:
            try:
                answer = ask(number)
            except (UnsupportedError, UnavailableError) as error:
                failures[self._names[number]] = error
                continue
            with self._lock:
                self._counts[self._names[number]] += 1
            return answer
        raise _combined_error(failures) from next(iter(failures.values()))

    def _trusted(self, number: int, call: Call) -> Any:
        """The answer of one world, which must trust every history."""
        answer = self._ask(number, call)
        smallest = float(np.min(answer.trust))  # NaN if one is NaN
        if self._min_trust and not smallest >= self._min_trust:
            why = "it is not calibrated" if np.isnan(smallest) else f"its trust in the history is {smallest:.3g}"
            raise UnsupportedError(f"{why}, but min_trust is {self._min_trust}.")
        return answer

    def _common(self, answer: Any) -> Any:
        """The answer with the common signals only."""
        match answer:
            case Prediction():
                return replace(answer, signals=self._among(answer.signals))
            case Plan(prediction=Prediction() as path):
                return replace(answer, prediction=self._common(path))
            case WhatIf():
                return replace(answer, signals=self._among(answer.signals), factual=self._among(answer.factual))
            case Surprise():
                return replace(answer, p_values=self._among(answer.p_values))
        return answer

    def _among(self, signals: Mapping[str, Value]) -> dict[str, Value]:
        """The common ones of the signals of an answer."""
        if missing := [name for name in self._card.predicts if name not in signals]:
            raise UnsupportedError(f"it no longer predicts {', '.join(missing)}. Create the FallbackWorld again.")
        return {name: signals[name] for name in self._card.predicts}

    def _knows(self, number: int, name: str) -> bool:
        """Whether a world knows an observation signal. True if the first does not: then the caller is wrong."""
        world, first = ({s.name for s in card.schema.observations} for card in (self._cards[number], self._card))
        return name in world or name not in first

    def _known(self, number: int, call: Call) -> Call:
        """The call without observations that are unknown to the world."""
        field = "episode" if isinstance(call, WhatIfCall | SurpriseCall) else "history"
        past: History | Episode = getattr(call, field)
        known = replace(
            past,
            observations={n: v for n, v in past.observations.items() if self._knows(number, n)},
            observed={n: v for n, v in past.observed.items() if self._knows(number, n)},
        )
        changes: dict[str, Any] = {field: known}
        return replace(call, **changes)

    def _check_goal(self, number: int, goal: Goal) -> None:
        """Raises if a target is not common and this world has no distance to it."""
        known = [signal.name for signal in self._card.schema.observations]
        for name in goal.targets:
            if name not in known:
                raise InputError(f"target: {UnknownNameError('signal', name, known)}")
            reaches = "reaches" in self._cards[number].abilities
            if not self._knows(number, name) or not (reaches or name in self._card.predicts):
                raise UnsupportedError(
                    f"a goal on {name!r} needs a distance head, which this world lacks. Use targets that all worlds "
                    f"predict: {', '.join(self._card.predicts)}."
                )


def _combined_error(failures: Mapping[str, UnsupportedError | UnavailableError]) -> UnsupportedError | UnavailableError:
    """All reasons in one error: unavailable if no world could be reached, else unsupported. One reason is unchanged."""
    first, *others = failures.values()
    if not others:
        return first
    reasons = "; ".join(f"{name}: {str(error).rstrip('.')}" for name, error in failures.items())
    gone = all(isinstance(error, UnavailableError) for error in failures.values())
    kind = UnavailableError if gone else UnsupportedError
    return kind(f"no world answers. {reasons}.")


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with their position if two are equal."""
    return tuple(name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1))


def _common_card(cards: Sequence[Card], names: Sequence[str]) -> Card:
    """The card of all worlds; see `FallbackWorld.describe`.

    Raises:
        ConfigError: their signals differ.
    """
    first = cards[0]
    for card, name in zip(cards[1:], names[1:], strict=True):
        _check_same(first, names[0], card, name)
    predicts = tuple(name for name in first.predicts if all(name in card.predicts for card in cards))
    if not predicts:
        each = "; ".join(f"{name}: {', '.join(card.predicts)}" for name, card in zip(names, cards, strict=True))
        raise ConfigError(f"no signal is predicted by all worlds ({each}). Remove the world that differs.")
    abilities = sorted({ability for card in cards for ability in card.abilities})
    named = dict(zip(names, cards, strict=True))
    able = {f"who {a}": ", ".join(n for n, card in named.items() if a in card.abilities) for a in abilities}
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
        band_horizon=min(card.band_horizon for card in cards),
        band_level=min(card.band_level for card in cards),
        max_batch=min(card.max_batch for card in cards),
        max_candidates=min(card.max_candidates for card in cards),
        bytes_per_candidate=max(card.bytes_per_candidate for card in cards),
        notes={"order": ", ".join(names), **able},
    )


def _check_same(first: Card, first_name: str, card: Card, name: str) -> None:
    """Raises if the signals of a world differ from those of the first."""
    names = {signal.name for signal in first.schema.observations}
    differences = clashes(first.schema, card.schema, names)
    differences += tuple(f"it takes {n!r}, which {first_name!r} does not know" for n in card.inputs if n not in names)
    if differences:
        problem = f"{name!r} cannot replace {first_name!r}: {'; '.join(differences)}"
        raise ConfigError(f"{problem}. Create it with the schema of {first_name!r}.")
