"""Clauses that engines and worlds share: the card, the inputs, and what a prediction may depend on."""

from __future__ import annotations

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
from worldline.testing.comparing import Floats, accepts, difference, equal, has_shape, holds, refusal_of, refuses
from worldline.testing.log_edits import hide, some_hidden, squared_error, wider, without

BASE_CLASSES: Final = {"abducts": Abducts, "decodes": Decodes, "reaches": GoalDistance, "novelty": Novelty}
"""The base classes of abilities."""

ABILITIES: Final = {*BASE_CLASSES, "differentiable", "linear"}
"""Abilities that a card may list."""

ROUNDS: Final = 4
"""Windows of each episode on which timing is measured."""

Mistake = tuple[str, ForecastWindows, tuple[str | float, ...], bool]
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


@clause("engine world", "Card.context and the horizon; short histories only cost accuracy, long predictions are finite")
def any_length(case: PredictionCase) -> None:
    """Histories are accepted down to one observation, and predictions are finite up to the end of the logs."""
    windows = case.windows()
    longest = min(episode.num_steps for episode in case.episodes) - case.length + 1
    long = replace(case, horizon=max(longest, case.horizon))
    asked = {f"{case.length} observations": long.windows()}
    for length in range(1, case.card.context):
        what = f"{length} of the {case.card.context} observations that the card states as context"
        asked[what] = replace(windows, history=windows.history.last(length, axis=1))
    for what, query in asked.items():
        for name, mean in accepts(what, partial(case.means, query)).items():
            expected = (len(case.episodes), query.horizon, *case.card.schema[name].shape)
            has_shape(f"{what}: the mean of {name!r} over {query.horizon} steps", mean, expected)


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
    yield "no action at all", replace(windows, actions={}), (), True
    for place, group, past, signals in (
        ("history", "observations", True, [s for s in schema.observations if s.name in history.observations]),
        ("past actions", "actions", True, schema.actions),
        ("past exogenous inputs", "exogenous", True, schema.exogenous),
        ("plan", "actions", False, schema.actions),
        ("exogenous inputs", "exogenous", False, schema.exogenous),
    ):
        arrays: Arrays = getattr(history if past else windows, group)
        for signal in signals:
            required = not past or (signal.name in case.card.inputs if group == "observations" else validates)
            for what, wrong, wanted in _wrong(signal, arrays, validates=validates):
                masks = {name: mask for name, mask in history.observed.items() if past and name in wrong}
                masks = masks if group == "observations" else dict(history.observed)
                changed: dict[str, Any] = {group: wrong}
                bad = replace(history, observed=masks, **changed) if past else history
                query = replace(windows, history=bad, **({} if past else changed))
                yield f"{what} in the {place}", query, wanted, required


def _wrong(signal: Signal, arrays: Arrays, *, validates: bool) -> Iterator[tuple[str, Arrays, tuple[str | float, ...]]]:
    """A description, arrays with one wrong signal, and the parts of the message."""
    name, value = signal.name, arrays[signal.name]
    yield f"no {name!r}", without(arrays, name), (name,)
    wide = wider(value, signal)
    yield f"{name!r} misshapen", {**arrays, name: wide}, (name, *signal.shape, *wide.shape)
    if not validates:
        return
    yield "an unknown signal", {**arrays, "nonsense": value}, ("nonsense",)
    if signal.kind is Kind.VECTOR:
        yield f"NaN as {name!r}", {**arrays, name: np.full_like(value, np.nan)}, (name, "nan")
    else:
        halves = np.asarray(value, dtype=np.float64) / 2
        yield f"{name!r} of floats", {**arrays, name: halves}, (name, signal.dtype, "float64")
