"""Asking worlds: arrays by dotted names in, arrays out; the same questions to every world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit.cases import joined
from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError, NoGoodAnswerError, UnreadableError, UnsupportedError
from worldline.world.base import Forecast, World

BATCH: Final = 256
"""Worlds asked at once; bounds memory, changes no figure."""

Array = NDArray[np.generic]


def packed(group: str, arrays: Arrays) -> dict[str, Array]:
    """`arrays` by the names "group.signal", as scenes and answers hold them."""
    return {f"{group}.{name}": np.asarray(value) for name, value in arrays.items()}


def unpacked(arrays: Arrays, group: str) -> dict[str, Array]:
    """The arrays of one group, by their own names; empty where there are none."""
    return {name.removeprefix(f"{group}."): v for name, v in arrays.items() if name.startswith(f"{group}.")}


def history_of(scenes: Arrays, group: str = "history") -> History:
    """The history [E, H, *shape] that `packed_history` put into scenes."""
    observed = {name: value.astype(bool) for name, value in unpacked(scenes, f"{group}.observed").items()}
    return History(
        observations=unpacked(scenes, f"{group}.observations"),
        actions=unpacked(scenes, f"{group}.actions"),
        exogenous=unpacked(scenes, f"{group}.exogenous"),
        observed=observed,
    )


def packed_history(history: History, group: str = "history") -> dict[str, Array]:
    """A history [E, H, *shape] by dotted names; see `history_of`."""
    return {
        **packed(f"{group}.observations", history.observations),
        **packed(f"{group}.actions", history.actions),
        **packed(f"{group}.exogenous", history.exogenous),
        **packed(f"{group}.observed", history.observed),
    }


def forecasts(
    world: World,
    history: History,
    actions: Arrays,
    *,
    signals: Sequence[str],
    exogenous: Arrays | None = None,
    level: float = 0.9,
    checked: bool = True,
) -> dict[str, Forecast]:
    """What a world predicts of E scenes, asked in batches.

    Args:
        world: to ask.
        history: [E, H, *shape].
        actions: per signal [E, T, *shape].
        signals: that the test needs.
        exogenous: per signal [E, T, *shape]; None for none.
        level: of the joint band.
        checked: whether means have to be numbers.

    Raises:
        UnreadableError: the world does not predict one of `signals`.
        NoGoodAnswerError: see `check_numbers`.
    """
    check_readable(world, signals)
    num_scenes = len(next(iter(history.observations.values())))
    parts = []
    for first in range(0, num_scenes, BATCH):
        rows = slice(first, first + BATCH)
        past = History(
            observations=_rows(history.observations, rows),
            actions=_rows(history.actions, rows),
            exogenous=_rows(history.exogenous, rows),
            observed=_rows(history.observed, rows),
        )
        given = None if exogenous is None else _rows(exogenous, rows)
        parts.append(world.predict(past, _rows(actions, rows), exogenous=given, level=level).signals)
    found = {name: joined([part[name] for part in parts]) for name in signals}
    if checked:
        check_numbers(world, {name: one.mean for name, one in found.items()}, actions)
    return found


def means(
    world: World, history: History, actions: Arrays, *, signals: Sequence[str], exogenous: Arrays | None = None
) -> dict[str, NDArray[np.floating]]:
    """The mean [E, T, *shape] of each signal, as `forecasts` gives it, in float64."""
    found = forecasts(world, history, actions, signals=signals, exogenous=exogenous)
    return {name: one.mean.astype(np.float64) for name, one in found.items()}


def counterfactuals(
    world: World, episodes: Sequence[Episode], at: int, actions: Arrays, *, signals: Sequence[str]
) -> dict[str, NDArray[np.floating]]:
    """What a world says would have followed observation `at` of each episode [E, T, *shape], in float64.

    Args:
        world: to ask.
        episodes: E of them.
        at: of the branch.
        actions: per signal [E, T, *shape], the other actions.
        signals: that the test needs.

    Raises:
        UnreadableError: the world does not predict one of `signals`.
        NoGoodAnswerError: see `check_numbers`.
        UnsupportedError: it does not heed actions; whatever it answers is not its model's.
    """
    check_readable(world, signals)
    card = world.describe()
    if not card.action_conditioned:
        raise UnsupportedError(f"{card.name} does not heed actions, so it cannot tell what others would have led to.")
    asked = [world.what_if(one, at, {k: v[e] for k, v in actions.items()}) for e, one in enumerate(episodes)]
    found: dict[str, NDArray[np.floating]] = {
        name: np.stack([one.signals[name] for one in asked]).astype(np.float64) for name in signals
    }
    check_numbers(world, found, actions)
    return found


def check_readable(world: World, signals: Sequence[str]) -> None:
    """Raises an error unless the world predicts every one of `signals`.

    Raises:
        UnreadableError: names those that it does not predict.
    """
    card = world.describe()
    lacking = [name for name in signals if name not in card.predicts]
    if lacking:
        raise UnreadableError(
            f"{card.name} predicts {', '.join(card.predicts) or 'nothing'}, and the test needs {', '.join(lacking)}. "
            "Have it predict them, or fit a readout."
        )


def check_numbers(world: World, answers: Arrays, actions: Arrays) -> None:
    """Raises an error unless each answer is a number for each step and component: no score is made of anything else.

    Args:
        world: that answered.
        answers: per signal, [E, T, *shape] being due.
        actions: per signal [E, T, *shape], that it was asked about.

    Raises:
        NoGoodAnswerError: an answer has another shape, or is NaN or infinite somewhere.
    """
    card, lead = world.describe(), next(iter(actions.values())).shape[:2]
    for name, values in answers.items():
        due = (*lead, *card.schema[name].shape)
        if values.shape != due:
            raise NoGoodAnswerError(f"{card.name} answers {name} as {values.shape}, and {due} is due. Mend the world.")
        lost = ~np.isfinite(values.astype(float)).reshape(lead[0], -1).all(1)
        if lost.any():
            raise NoGoodAnswerError(
                f"{card.name} answers {name} in {int(lost.sum())} of {len(lost)} scenes with what is no finite number. "
                "Mend the world, or have it refuse what it cannot answer."
            )


def only(worlds: Mapping[str, World]) -> World:
    """The one world of a test with one curriculum.

    Raises:
        InputError: there is not exactly one.
    """
    if len(worlds) != 1:
        raise InputError(f"{len(worlds)} worlds were given ({', '.join(worlds)}), and the test asks one.")
    return next(iter(worlds.values()))


def _rows(arrays: Arrays, rows: slice) -> dict[str, Array]:
    return {name: value[rows] for name, value in arrays.items()}
