"""Clauses that engines and worlds share: the card, the inputs, and what a prediction may depend on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np

from worldline.data.windows import ForecastWindows
from worldline.engines.base import Abducts, Decodes, Engine, GoalDistance, Novelty
from worldline.episode import Arrays
from worldline.errors import InputError, WorldlineError
from worldline.schema import Kind, Signal
from worldline.testing.clauses import (
    Wanted,
    accepts,
    all_equal,
    clause,
    difference,
    has_shape,
    holds,
    refusal_of,
    refuses,
    without,
)
from worldline.testing.log_windows import alignment_errors, hide, some_hidden, wider
from worldline.testing.prediction_case import PredictionCase

ABILITIES: Final[dict[str, type]] = {
    "abducts": Abducts,
    "decodes": Decodes,
    "differentiable": Engine,
    "linear": Engine,
    "reaches": GoalDistance,
    "novelty": Novelty,
}
"""Abilities that a card may list, with their base classes."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An invalid query.

    Args:
        what: description of the error.
        windows: history and inputs.
        wanted: parts of the message.
        optional: whether the signal may be ignored instead.
    """

    what: str
    windows: ForecastWindows
    wanted: tuple[Wanted, ...] = ()
    optional: bool = False


@clause("describe; a Card with existing names and valid numbers")
def card_honest(case: PredictionCase) -> None:
    """The card is constant, names existing signals and abilities, and has valid numbers."""
    card = case.card
    known = {signal.name for signal in card.schema.observations}
    holds(bool(card.name and card.engine), f"name {card.name!r} or engine {card.engine!r} is empty")
    holds(bool(card.predicts), "Card.predicts is empty")
    for label, names in (("predicts", card.predicts), ("inputs", card.inputs)):
        holds(set(names) <= known, f"{label} {names}, expected a subset of the observations {sorted(known)}")
        holds(len(set(names)) == len(names), f"{label} {names}; a name occurs twice")
    holds(card.context >= 1, f"context is {card.context}, expected at least 1")
    valid = card.band_horizon >= 0 and 0 <= card.band_level < 1 and (card.band_horizon > 0) == (card.band_level > 0)
    holds(valid, f"bands of {card.band_horizon} steps up to level {card.band_level}")
    limits = {name: vars(card)[name] for name in ("max_batch", "max_candidates")}
    holds(min(limits.values()) >= 1 and card.bytes_per_candidate >= 0, f"{limits}, {card.bytes_per_candidate} bytes")
    unknown = sorted(set(card.abilities) - set(ABILITIES))
    holds(not unknown, f"the card lists unknown abilities {unknown}; known are {sorted(ABILITIES)}")
    if (call := card.call) is not None:
        valid = re.fullmatch("[A-Z]{3}", call.currency) is not None if call.price else not call.currency
        rule = "expected three capital letters if and only if there is a price"
        holds(valid, f"a call costs {call.price} in the currency {call.currency!r}; {rule}")
    holds(case.card == case.card, "two calls of describe returned different cards")


@clause("Card.inputs; every listed signal is required, no other signal is read")
def inputs_honest(case: PredictionCase) -> None:
    """A missing input signal is refused; a missing signal that is no input does not change the prediction."""
    windows = case.windows()
    history, expected = windows.history, case.means(windows)
    for name in history.observations:
        observations, observed = without(history.observations, name), without(history.observed, name)
        fewer = replace(history, observations=observations, observed=observed)
        ask = partial(case.means, replace(windows, history=fewer))
        if name in case.card.inputs:
            refuses(f"the history lacks {name!r}, an input of the card", ask, name)
        elif len(history.observations) > 1:
            problem = f"the prediction changes without {name!r}, which is not an input of the card"
            all_equal(accepts(problem, ask), expected, problem)


@clause("World.predict and Engine.imagine; finite up to the longest horizon of the logs")
def long_horizon(case: PredictionCase) -> None:
    """The prediction is finite up to the longest horizon that all episodes have."""
    longest = min(episode.num_steps for episode in case.episodes) - case.length + 1
    if longest <= case.horizon:
        return
    long = replace(case, horizon=longest)
    for name, mean in long.means(long.windows()).items():
        expected = (len(case.episodes), longest, *case.card.schema[name].shape)
        has_shape(f"{name!r} of {longest} steps", mean, expected)


@clause("Card.context; shorter histories are accepted and only cost accuracy")
def short_history(case: PredictionCase) -> None:
    """Histories shorter than `Card.context` are accepted, down to one observation."""
    windows = case.windows()
    for length in range(1, case.card.context):
        asked = f"{length} of the {case.card.context} observations that the card states as context"
        short = replace(windows, history=windows.history.last(length, axis=1))
        for name, mean in accepts(asked, partial(case.means, short)).items():
            holds(bool(np.isfinite(mean).all()), f"{asked}: the mean of {name!r} is not finite")


@clause("History.observed; values where it is False, NaN too, have no effect")
def masks_hide(case: PredictionCase) -> None:
    """Unobserved values, NaN too, do not change the prediction, and are not taken for 0."""
    windows = case.windows()
    hidden = some_hidden(windows.num_worlds, case.length)
    expected, *others = (
        case.means(replace(windows, history=hide(windows.history, hidden, values)))
        for values in ("kept", "other", "nan")
    )
    for values, means in zip(("other", "nan"), others, strict=True):
        problem = f"masked values (filled with {values!r}) change the prediction"
        all_equal(means, expected, problem, within=case.tolerance)
    # A world sets unobserved values to 0 before its engine sees them, so only this finds an engine without masks.
    try:
        zero = case.means(replace(windows, history=hide(windows.history, hidden, "zero")))
    except InputError:  # 0 is no valid observation
        return
    matters = max(difference(value, zero[name]) for name, value in case.means(windows).items())
    same = all(np.array_equal(value, zero[name]) for name, value in expected.items())
    holds(not (same and matters), "the prediction is the same as if masked values were 0: masks are ignored")


@clause("World.predict and Engine.imagine; step k may depend on inputs 0 to k only")
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
        all_equal(first, second, f"the prediction before step {step} changed with later inputs", within=case.tolerance)


@clause("the transition convention; action t leads from observation t to t+1")
def timing(case: PredictionCase) -> None:
    """The logged actions fit the log better than actions that are shifted by a step.

    Not checked if actions have no effect on the prediction.
    """
    windows = case.windows()
    logged, other = case.means(windows), case.means(replace(windows, actions=case.turned(windows).actions))
    if all(difference(value, other[name]) <= case.tolerance for name, value in logged.items()):
        return
    errors = alignment_errors(case.means, case.episodes, length=case.length, horizon=case.horizon, seed=case.seed)
    for shift in (-1, 1):
        finite = bool(np.isfinite(errors[0]).all() and np.isfinite(errors[shift]).all())
        holds(finite, "predictions are not finite")
        gain = errors[0] - errors[shift]
        doubt = 2 * float(gain.std()) / len(gain) ** 0.5
        pair = f"{errors[0].mean():.4g} with the logged actions, {errors[shift].mean():.4g} shifted by {shift:+}"
        holds(float(gain.mean()) <= doubt, f"the error is {pair}")


@clause("InputError if an input does not fit the schema; it names the signal, the expected and the given value")
def invalid_inputs_refused(case: PredictionCase) -> None:
    """A missing or invalid signal is refused, and the message names it; a signal that is never read may be ignored."""
    windows = case.windows()
    hidden = some_hidden(windows.num_worlds, case.length)  # makes past inputs relevant
    windows = replace(windows, history=hide(windows.history, hidden, "kept"))
    expected = case.means(windows)
    for mistake in _mistakes(case, windows):
        ask = partial(case.means, mistake.windows)
        if not mistake.optional:
            refuses(mistake.what, ask, *mistake.wanted)
            continue
        answer = refusal_of(mistake.what, ask)
        if not isinstance(answer, WorldlineError):
            problem = f"{mistake.what}: no InputError, but another prediction"
            all_equal(answer, expected, problem, within=case.tolerance)


def _mistakes(case: PredictionCase, windows: ForecastWindows) -> Iterator[Mistake]:
    """Invalid queries; those about signals that the contract requires are not optional."""
    schema, history = case.card.schema, windows.history

    def put(group: str, new: Arrays, *, past: bool) -> ForecastWindows:
        changed: dict[str, Any] = {group: new}
        if not past:
            return replace(windows, **changed)
        observed = {n: mask for n, mask in history.observed.items() if group != "observations" or n in new}
        return replace(windows, history=replace(history, **{"observed": observed, **changed}))

    yield Mistake(what="no observation at all", windows=put("observations", {}, past=True))
    yield Mistake(what="no action at all", windows=put("actions", {}, past=False))
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
            required = not past or (signal.name in case.card.inputs if group == "observations" else case.validates)
            for what, wrong, wanted in _wrong(signal, arrays, validates=case.validates):
                yield Mistake(
                    what=f"{what} in the {place}",
                    windows=put(group, wrong, past=past),
                    wanted=(signal.name, *wanted),
                    optional=not required,
                )
        if signals and case.validates:
            what, new = f"an unknown signal in the {place}", {**arrays, "nonsense": arrays[signals[0].name]}
            yield Mistake(what=what, windows=put(group, new, past=past), wanted=("nonsense", signals[0].name))


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
