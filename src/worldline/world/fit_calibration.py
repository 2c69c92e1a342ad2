"""Fits a calibration: measures an engine in windows of held-out episodes, for each length of the history.

A prediction from one observation has larger errors than one from a whole context. Bands and p-values are therefore
calibrated for `SHORT_LENGTHS` observations too, each in windows that begin so many observations before the present.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows, Places, forecast_windows, random_places
from worldline.engines.base import Card, Engine, Novelty
from worldline.episode import Episode
from worldline.errors import DataError, InputError
from worldline.schema import Kind
from worldline.world.calibration import SCALE_SHARE, Calibration
from worldline.world.error_scores import (
    combined_scores,
    design_effect,
    mean_error,
    one_step_scores,
    running_scores,
    score_unit,
    sorted_scores,
)
from worldline.world.input_novelty import InputNovelty, fit_input_novelty
from worldline.world.logged_range import observed_values, ranges_of
from worldline.world.ood import LENGTHS, StepErrors, fit_ood_score, novelty_of, step_errors_at
from worldline.world.prediction_errors import errors, residuals, vectors_of
from worldline.world.sampled_paths import residual_paths
from worldline.world.skill import last_skilled_step
from worldline.world.what_if import causes_of

Floats = NDArray[np.floating]
EngineOf = Mapping[int, Engine]
"""The engine for each episode, by the identity of the episode."""

SCALE_WINDOWS: Final = 256
"""Total number of windows that set the shape. They need not be independent."""
MIN_EPISODES: Final = 20
"""With fewer episodes that engines were fitted without, all of them set both the shape and the width of the bands. With
fewer episodes for p-values, the windows of an episode count as one."""
SHORT_LENGTHS: Final = (1, 2, 3, 5, 8, 12)
"""Numbers of observations below the context for which bands and p-values are calibrated; every other one of them for
images, which take long to encode."""


def calibrate(
    engine: Engine,
    episodes: Sequence[Episode],
    *,
    horizon: int,
    num_windows: int,
    seed: int,
    trust_steps: int = LENGTHS[-1],
    with_causes: bool = True,
    out_of_fold: Sequence[Engine] | None = None,
    logged_range: Mapping[str, Floats] | None = None,
) -> Calibration:
    """Calibrates `engine` on held-out episodes.

    Bands and p-values hold for histories like the windows: any number of observations, followed by at least `horizon`
    steps. If `horizon` is most of an episode, all windows lie near its beginning.

    Args:
        engine: frozen. A later change of it invalidates the calibration.
        episodes: in the schema's dtypes, held out from fitting (see `out_of_fold`). Short ones are left out.
        horizon: T, longest prediction with a band, at least 1.
        num_windows: k, windows at random places of each episode, at least 1. More windows reduce the variance of the
            result. They raise the highest level as far as they differ from each other; see `design_effect`.
        seed: seed of the windows and of the engine's draws. Draws for trust always use seed 0, as `World` verbs do.
        trust_steps: number of history steps beyond the context that trust tests, at most. Each costs one prediction
            per window. Use 0 for slow engines: only the present is tested, and all histories count as `Card.context`
            observations.
        with_causes: whether to learn how episodes differ, for `World.what_if`. It predicts every step of every
            episode, which may be too expensive for a slow engine.
        out_of_fold: per episode an engine of the same kind that was fitted without it; None for `engine`.
        logged_range: as in `Calibration`, of all logs; None for that of `episodes`.

    Raises:
        InputError: `horizon` or `num_windows` is below 1.
        DataError: fewer than two episodes are long enough.
    """
    if horizon < 1 or num_windows < 1:
        raise InputError(f"horizon {horizon} and num_windows {num_windows} must both be at least 1.")
    card, rng = engine.describe(), np.random.default_rng(seed)
    each = [engine] * len(episodes) if out_of_fold is None else out_of_fold
    engines = {id(episode): own for episode, own in zip(episodes, each, strict=True)}
    usable = _long_enough(episodes, card.context, horizon)
    order = [usable[i] for i in rng.permutation(len(usable))]  # logs are ordered in time, and must be exchangeable
    # Some episodes shape the bands and scores, and the others set their widths: conformal scores need both apart.
    num_steps = _trust_steps(card, order, trust_steps)
    num_scale = max(1, len(order) // SCALE_SHARE)
    cuts = _Cuts(
        shaping=order[:num_scale],
        scoring=order[num_scale:],
        num_windows=num_windows,
        horizon=horizon,
        seed=seed,
    )
    # Few episodes set both the shape and the width of bands. The shape has too few parameters to fit the widths.
    shared = replace(cuts, shaping=order, scoring=order)
    banded = shared if out_of_fold is not None and len(order) < MIN_EPISODES else cuts
    # Bands need a whole horizon after each place. Trust needs earlier steps instead, so its places differ.
    places = banded.places(card.context, horizon, rng)
    pasts = cuts.places(card.context + num_steps, 1, rng)
    windows = _windows(card, places, card.context, horizon)
    measure = None if isinstance(engine, Novelty) else fit_input_novelty(card.schema, windows[0].history)
    images = any(card.schema[name].kind is Kind.IMAGE for name in card.inputs)
    lengths = SHORT_LENGTHS[:: 2 if images else 1] if trust_steps else ()
    return Calibration(
        num_windows=num_windows,
        length=card.context,
        input_novelty=measure,
        causes=causes_of(engine, usable, seed=seed) if with_causes else None,
        logged_range=ranges_of(card.schema, episodes) if logged_range is None else logged_range,
        **_error_parts(engines, card, places, windows, banded, rng),
        **_trust(engines, card, measure, pasts, num_steps, cuts),
        shorter={
            length: _shorter(engines, card, measure, length, (banded, cuts), rng)
            for length in lengths
            if length < card.context
        },
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cuts:
    """How windows are cut from calibration episodes.

    Args:
        shaping: episodes that set the shape of bands or of the out-of-distribution score.
        scoring: episodes that set the width or the p-values.
        num_windows: k, windows of each of the second ones.
        horizon: T.
        seed: of the engine's draws.
    """

    shaping: Sequence[Episode]
    scoring: Sequence[Episode]
    num_windows: int
    horizon: int
    seed: int

    def places(self, length: int, ahead: int, rng: np.random.Generator) -> tuple[Places, Places]:
        """Random places for shape and width, with `length` observations up to them and `ahead` steps after them."""
        counts = max(self.num_windows, -(-SCALE_WINDOWS // len(self.shaping))), self.num_windows
        parts = zip((self.shaping, self.scoring), counts, strict=True)
        shape, width = (
            random_places(part, length=length, horizon=ahead, count=count, rng=rng) for part, count in parts
        )
        return shape, width


def _ask(
    engines: EngineOf, places: Places, question: Callable[[Engine, Sequence[int]], Mapping[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """The answers at all places in their order; arrays with a row per place.

    Args:
        engines: of the episodes.
        places: in these episodes.
        question: gets an engine and the indices of its places.
    """
    # One question per engine, with all of its places, because batches are faster.
    rows, asked = dict[int, list[int]](), dict[int, Engine]()
    for row, (episode, _) in enumerate(places):
        engine = engines[id(episode)]
        rows.setdefault(id(engine), []).append(row)
        asked[id(engine)] = engine
    answers = [question(asked[key], part) for key, part in rows.items()]
    order = np.argsort(np.concatenate(list(rows.values())))
    return {name: np.concatenate([answer[name] for answer in answers])[order] for name in answers[0]}


def _windows(
    card: Card, places: Sequence[Places], length: int, horizon: int
) -> tuple[ForecastWindows, ForecastWindows]:
    """The windows of two sets of places."""
    targets = [signal.name for signal in vectors_of(card)]
    shape, width = (
        forecast_windows(part, length=length, horizon=horizon, schema=card.schema, targets=targets) for part in places
    )
    return shape, width


def _shorter(
    engines: EngineOf,
    card: Card,
    measure: InputNovelty | None,
    length: int,
    both: tuple[_Cuts, _Cuts],
    rng: np.random.Generator,
) -> Calibration:
    """The calibration for histories of `length` observations, fewer than the context; cuts for bands and for trust."""
    banded, cuts = both
    places = banded.places(length, cuts.horizon, rng)
    short = replace(card, context=length)
    windows = _windows(card, places, length, cuts.horizon)
    parts = _error_parts(engines, short, places, windows, banded, rng) | {"residuals": {}}
    trust = _trust(engines, short, measure, cuts.places(length, 1, rng), 0, cuts)
    return Calibration(num_windows=cuts.num_windows, input_novelty=None, **parts, **trust)


def _error_parts(
    engines: EngineOf,
    card: Card,
    places: Sequence[Places],
    windows: tuple[ForecastWindows, ForecastWindows],
    cuts: _Cuts,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """The fields of a calibration that come from errors of predictions.

    They are measured in two sets of windows, which begin at `places`: for the shape of bands, and for their width.
    """
    (shape, scored), num_windows, seed = windows, cuts.num_windows, cuts.seed
    # Errors of whole paths: the shape is their mean by step, which must not vanish where a signal is predicted exactly.
    values = {name: observed_values([*cuts.shaping, *cuts.scoring], name) for name in scored.truth}
    spread = {name: value.std(0) for name, value in values.items()}
    usual_left, left = (
        _ask(engines, part, partial(_residuals, cut, seed=seed)) for part, cut in zip(places, windows, strict=True)
    )
    scale = {
        name: np.maximum(mean_error(np.abs(error), shape.known[name]), 1e-3 * spread[name] + 1e-12)
        for name, error in usual_left.items()
    }
    sizes = {name: np.abs(value) for name, value in left.items()}
    # Errors of single steps, for `surprise`: each signal in its own unit, then per entity and together.
    usual, one_step = (_ask(engines, part, partial(_first_scores, card, part, scale, seed=seed)) for part in places)
    unit = {name: score_unit(score) for name, score in usual.items()}
    together = combined_scores(card.schema, one_step, unit)
    scores = {name: running_scores(error, scale[name], scored.known[name]) for name, error in sizes.items()}
    return {
        "scale": scale,
        "scores": {name: np.sort(score) for name, score in scores.items()},
        "design_effect": {name: design_effect(score, num_windows) for name, score in scores.items()},
        "one_step": {name: sorted_scores(score) for name, score in one_step.items()},
        "unit": unit,
        "entities": {name: sorted_scores(score) for name, score in together.entities.items()},
        "steps": sorted_scores(together.steps),
        "skill": {
            name: last_skilled_step(sizes[name], scored, card.schema[name], value, num_windows)
            for name, value in values.items()
        },
        "spread": spread,
        "residuals": {name: residual_paths(value, scored.known[name], rng) for name, value in left.items()},
    }


def _trust(
    engines: EngineOf, card: Card, measure: InputNovelty | None, pasts: Sequence[Places], num_steps: int, cuts: _Cuts
) -> dict[str, Any]:
    """The fields of a calibration that measure trust in a history.

    They are fitted on two sets of places, for the shape and for the p-values, with `num_steps` steps before each.
    """
    names, seed = {signal.name for signal in card.schema.observations}, cuts.seed
    lengths = [length for length in LENGTHS if length <= num_steps]

    def novelties(past: Places, engine: Engine, rows: Sequence[int]) -> dict[str, Floats]:
        part = [past[row] for row in rows]
        history = forecast_windows(part, length=card.context, horizon=1, schema=card.schema, targets=()).history
        return {"novelty": novelty_of(engine, measure, history, engine.observe(None, history, seed=seed))}

    def step_errors(past: Places, engine: Engine, rows: Sequence[int]) -> dict[str, NDArray[Any]]:
        return dict(vars(step_errors_at(engine, [past[row] for row in rows], num_steps, seed=seed)))

    # Novelty of presents and errors of the steps before them, at the places for the shape and for the p-values.
    usual, novelty = (_ask(engines, past, partial(novelties, past))["novelty"] for past in pasts)
    shaping, scoring = (
        StepErrors(**_ask(engines, past, partial(step_errors, past))) if num_steps else None for past in pasts
    )
    ood = fit_ood_score(shaping, usual, lengths)
    ood_scores = np.zeros((len(ood.lengths) - 1, len(novelty)))
    for row in range(len(ood_scores)):
        ood_scores[row] = ood.of(scoring, novelty, row + 1)
    effects = dict[str, Floats]()
    # Fewer episodes do not show how alike windows are in the tail, so the windows of an episode count as one.
    if len(cuts.scoring) >= MIN_EPISODES:
        effects["novelty"] = design_effect(novelty[None], cuts.num_windows)
        effects |= {"ood": design_effect(ood_scores, cuts.num_windows)} if len(ood_scores) else {}
    seen = [
        flags[at - card.context - num_steps + 1 : at + 1]
        for past in pasts
        for episode, at in past
        for name, flags in episode.observed.items()
        if name in names
    ]
    return {
        "ood": ood,
        "ood_scores": np.sort(ood_scores),
        "novelty": np.sort(novelty),
        "complete": all(flags.all() for flags in seen),
        "effects": effects,
    }


def _trust_steps(card: Card, episodes: Sequence[Episode], limit: int) -> int:
    """The number of tested steps beyond the context: the largest of `LENGTHS` that all episodes and `limit` allow."""
    has_vectors = all(s.name in episodes[0].observations for s in card.schema.observations if s.kind is Kind.VECTOR)
    spare = min(episode.num_steps for episode in episodes) - card.context
    usable = bool(vectors_of(card)) and has_vectors
    return max(length for length in LENGTHS if length <= (min(spare, limit) if usable else 0) or length == 0)


def _residuals(windows: ForecastWindows, engine: Engine, rows: Sequence[int], *, seed: int) -> dict[str, Floats]:
    """Observed minus predicted [W, T, *shape] of each target in some of the windows."""
    part = windows if len(rows) == windows.num_worlds else windows.select(rows)  # saves a copy with a single engine
    return residuals(engine, part, seed=seed)


def _first_scores(
    card: Card, places: Places, scale: Mapping[str, Floats], engine: Engine, rows: Sequence[int], *, seed: int
) -> dict[str, Floats]:
    """Per predicted signal the score [W] of the first step after some places; NaN if it was not observed."""
    part = [places[row] for row in rows]
    windows = forecast_windows(part, length=card.context, horizon=1, schema=card.schema, targets=card.predicts)
    first = errors(engine, windows, seed=seed)
    return {
        name: np.where(windows.known[name][:, 0], one_step_scores(error[:, 0], scale.get(name)), np.nan)
        for name, error in first.items()
    }


def _long_enough(episodes: Sequence[Episode], length: int, horizon: int) -> list[Episode]:
    """The episodes that are long enough for a window, at least two."""
    needed = length - 1 + horizon
    usable = [episode for episode in episodes if episode.num_steps >= needed]
    if len(usable) < 2:
        raise DataError(
            f"{len(usable)} of {len(episodes)} calibration episodes have the {needed} steps of a window ({length} "
            f"observations, {horizon} steps ahead); at least two are needed",
            fix="Hold out more episodes, or calibrate for a shorter horizon.",
        )
    return usable
