"""Clauses that engines and worlds share: the card, the inputs, and what a prediction may depend on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np

from worldline.data.windows import ForecastWindows, forecast_windows
from worldline.engines.base import Abducts, Decodes, GoalDistance, Novelty
from worldline.episode import Arrays
from worldline.errors import InputError, WorldlineError
from worldline.schema import Kind, Signal
from worldline.testing.cases import PredictionCase
from worldline.testing.clauses import clause
from worldline.testing.comparing import (
    Floats,
    Wanted,
    accepts,
    difference,
    equal,
    has_shape,
    holds,
    refusal_of,
    refuses,
)
from worldline.testing.log_edits import hide, some_hidden, squared_error, wider, without

BASE_CLASSES: Final = {"abducts": Abducts, "decodes": Decodes, "reaches": GoalDistance, "novelty": Novelty}
"""The base classes of abilities."""

ABILITIES: Final = {*BASE_CLASSES, "differentiable", "linear"}
"""Abilities that a card may list."""

ROUNDS: Final = 4
"""Windows of each episode on which timing and horizon are measured."""

Mistake = tuple[str, ForecastWindows, tuple[Wanted, ...], bool]
"""An invalid query: its description, history and inputs, parts of the message, and whether it must be refused."""


@clause("engine world", "describe; a Card with existing names and valid numbers")
def card_honest(case: PredictionCase) -> None:
    """The card is constant, names existing signals and abilities, and has valid numbers."""
    card = case.card
    known, unknown = {signal.name for signal in card.schema.observations}, sorted(set(card.abilities) - ABILITIES)
    holds(bool(card.name and card.engine), f"name {card.name!r} or engine {card.engine!r} is empty")
    holds(bool(card.predicts), "Card.predicts is empty")
    for label, names in (("predicts", card.predicts), ("inputs", card.inputs)):
        holds(set(names) <= known, f"{label} {names}, expected a subset of the observations {sorted(known)}")
        holds(len(set(names)) == len(names), f"{label} {names}; a name occurs twice")
    least = {"context": 1, "band_horizon": 0, "band_level": 0, "max_batch": 1, "max_candidates": 1}
    for label, value in {**least, "bytes_per_candidate": 0}.items():
        holds(getattr(card, label) >= value, f"{label} is {getattr(card, label)}, expected at least {value}")
    valid = card.band_level < 1 and (card.band_horizon > 0) == (card.band_level > 0)
    holds(valid, f"bands of {card.band_horizon} steps up to level {card.band_level}")
    holds(not unknown, f"the card lists unknown abilities {unknown}; known are {sorted(ABILITIES)}")
    if (call := card.call) is not None:
        valid = bool(re.fullmatch("[A-Z]{3}", call.currency)) if call.price else not call.currency
        rule = "expected three capital letters if and only if there is a price"
        holds(valid, f"a call costs {call.price} in the currency {call.currency!r}; {rule}")
    holds(case.card == case.card, "two calls of describe returned different cards")


@clause("engine world", "Card.inputs; every listed signal is required, no other signal is read")
def inputs_honest(case: PredictionCase) -> None:
    """A missing input signal is refused; a missing signal that is no input does not change the prediction."""
    windows = case.windows()
    history, expected = windows.history, case.means(windows)
    for name in history.observations:
        every = (*history.observations, *history.actions, *history.exogenous)
        fewer = history.select([other for other in every if other != name])
        ask = partial(case.means, replace(windows, history=fewer))
        if name in case.card.inputs:
            refuses(f"the history lacks {name!r}, an input of the card", ask, name)
        elif len(history.observations) > 1:
            problem = f"the prediction changes without {name!r}, which is not an input of the card"
            equal(accepts(problem, ask), expected, problem)


@clause("engine world", "World.predict and Engine.imagine; finite up to the longest horizon of the logs")
def long_horizon(case: PredictionCase) -> None:
    """The prediction is finite up to the longest horizon that all episodes have."""
    longest = min(episode.num_steps for episode in case.episodes) - case.length + 1
    long = replace(case, horizon=max(longest, case.horizon))
    for name, mean in long.means(long.windows()).items():
        expected = (len(case.episodes), long.horizon, *case.card.schema[name].shape)
        has_shape(f"{name!r} of {long.horizon} steps", mean, expected)


@clause("engine world", "Card.context; shorter histories are accepted and only cost accuracy")
def short_history(case: PredictionCase) -> None:
    """Histories shorter than `Card.context` are accepted, down to one observation."""
    windows = case.windows()
    for length in range(1, case.card.context):
        asked = f"{length} of the {case.card.context} observations that the card states as context"
        short = replace(windows, history=windows.history.last(length, axis=1))
        for name, mean in accepts(asked, partial(case.means, short)).items():
            holds(np.isfinite(mean), f"{asked}: the mean of {name!r} is not finite")


@clause("engine world", "History.observed; values where it is False, NaN too, have no effect")
def masks_hide(case: PredictionCase) -> None:
    """Unobserved values, NaN too, do not change the prediction, and are not taken for 0."""
    windows = case.windows()
    hidden = some_hidden(windows.num_worlds, case.length)

    def means(values: str) -> Arrays:
        return case.means(replace(windows, history=hide(windows.history, hidden, values)))

    expected = case.ignores_masked(means, "the prediction")
    # A world sets unobserved values to 0 before its engine sees them, so only this finds an engine without masks.
    try:
        zero = means("zero")
    except InputError:  # 0 is no valid observation
        return
    matters = max(difference(value, zero[name]) for name, value in case.means(windows).items())
    same = all(np.array_equal(value, zero[name]) for name, value in expected.items())
    holds(not (same and matters), "the prediction is the same as if masked values were 0: masks are ignored")


@clause("engine world", "World.predict and Engine.imagine; step k may depend on inputs 0 to k only")
def no_peek(case: PredictionCase) -> None:
    """Inputs from step k on do not change the prediction before k."""
    windows = case.windows()
    others, before = case.turned(windows), case.means(windows)

    def spliced(first: Arrays, second: Arrays, step: int) -> Arrays:
        return {n: np.concatenate([value[:, :step], second[n][:, step:]], 1) for n, value in first.items()}

    for step in range(1, case.horizon):
        actions = spliced(windows.actions, others.actions, step)
        exogenous = spliced(windows.exogenous, others.exogenous, step)
        after = case.means(replace(windows, actions=actions, exogenous=exogenous))
        first, second = ({name: value[:, :step] for name, value in means.items()} for means in (before, after))
        case.equal(first, second, f"the prediction before step {step} changed with later inputs")


@clause("engine world", "the transition convention; action t leads from observation t to t+1")
def timing(case: PredictionCase) -> None:
    """The logged actions fit the log better than actions that are shifted by a step.

    Not checked if actions have no effect on the prediction.
    """
    windows = case.windows()
    logged, other = case.means(windows), case.means(replace(windows, actions=case.turned(windows).actions))
    if all(difference(value, other[name]) <= case.tolerance for name, value in logged.items()):
        return
    errors: dict[int, list[Floats]] = {-1: [], 0: [], 1: []}
    for number in range(ROUNDS):
        at = replace(case, seed=case.seed + number).places(margin=1)
        cut = partial(forecast_windows, length=case.length, horizon=case.horizon)
        for shift, rounds in errors.items():
            moved = replace(cut(at), actions=cut([(episode, now + shift) for episode, now in at]).actions)
            rounds.append(np.mean([squared_error(moved, *mean) for mean in case.means(moved).items()], axis=0))
    joined = {shift: np.concatenate(rounds) for shift, rounds in errors.items()}
    for shift in (-1, 1):
        gain = joined[0] - joined[shift]
        holds(np.isfinite(gain), "predictions are not finite")
        doubt = 2 * float(gain.std()) / len(gain) ** 0.5
        pair = f"{joined[0].mean():.4g} with the logged actions, {joined[shift].mean():.4g} shifted by {shift:+}"
        holds(float(gain.mean()) <= doubt, f"the error is {pair}")


@clause(
    "engine world",
    "InputError if an input does not fit the schema; it names the signal, the expected and the given value",
)
def invalid_inputs_refused(case: PredictionCase) -> None:
    """A missing or invalid signal is refused, and the message names it; a signal that is never read may be ignored."""
    windows = case.windows()
    hidden = some_hidden(windows.num_worlds, case.length)  # makes past inputs relevant
    windows = replace(windows, history=hide(windows.history, hidden, "kept"))
    expected = case.means(windows)
    for what, wrong, wanted, required in _mistakes(case, windows):
        ask = partial(case.means, wrong)
        if required:
            refuses(what, ask, *wanted)
        elif not isinstance(answer := refusal_of(what, ask), WorldlineError):
            case.equal(answer, expected, f"{what}: no InputError, but another prediction")


def _mistakes(case: PredictionCase, windows: ForecastWindows) -> Iterator[Mistake]:
    """Invalid queries; those about signals that the contract requires are not optional."""
    schema, history, validates = case.card.schema, windows.history, case.kind == "world"

    def put(group: str, new: Arrays, *, past: bool) -> ForecastWindows:
        changed: dict[str, Any] = {group: new}
        if not past:
            return replace(windows, **changed)
        observed = {n: mask for n, mask in history.observed.items() if group != "observations" or n in new}
        return replace(windows, history=replace(history, **{"observed": observed, **changed}))

    yield "no observation at all", put("observations", {}, past=True), (), True
    yield "no action at all", put("actions", {}, past=False), (), True
    known = tuple(signal for signal in schema.observations if signal.name in history.observations)
    for place, group, past, signals in (
        ("history", "observations", True, known),
        ("past actions", "actions", True, schema.actions),
        ("past exogenous inputs", "exogenous", True, schema.exogenous),
        ("plan", "actions", False, schema.actions),
        ("exogenous inputs", "exogenous", False, schema.exogenous),
    ):
        arrays: Arrays = getattr(history if past else windows, group)
        for signal in signals:
            required = not past or (signal.name in case.card.inputs if group == "observations" else validates)
            for what, wrong, wanted in _wrong(signal, arrays, validates=validates):
                yield f"{what} in the {place}", put(group, wrong, past=past), (signal.name, *wanted), required
        if signals and validates:
            name, new = signals[0].name, {**arrays, "nonsense": arrays[signals[0].name]}
            yield f"an unknown signal in the {place}", put(group, new, past=past), ("nonsense", name), True


def _wrong(signal: Signal, arrays: Arrays, *, validates: bool) -> Iterator[tuple[str, Arrays, tuple[Wanted, ...]]]:
    """A description, arrays with one wrong signal, and the parts of the message in addition to its name."""
    name, value = signal.name, arrays[signal.name]
    yield f"no {name!r}", without(arrays, name), ()
    wide = wider(value, signal)
    yield f"{name!r} misshapen", {**arrays, name: wide}, (signal.shape, wide.shape)
    if validates and signal.kind is Kind.VECTOR:
        yield f"NaN as {name!r}", {**arrays, name: np.full_like(value, np.nan)}, ("nan",)
    elif validates:
        halves = np.asarray(value, dtype=np.float64) / 2
        yield f"{name!r} of floats", {**arrays, name: halves}, (signal.dtype, "float64")
