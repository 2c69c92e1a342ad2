"""Fits a calibration: measures an engine in windows of held-out episodes, for each length of the history.

A prediction from one observation has larger errors than one from a whole context. Bands and p-values are therefore
calibrated for `SHORT_LENGTHS` observations too, each in windows that begin so many observations before the present.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows, Places, forecast_windows, random_places
from worldline.engines.base import Card, Engine, Novelty
from worldline.episode import Arrays, Episode
from worldline.errors import DataError, InputError
from worldline.schema import Kind, Signal
from worldline.world.calibration import SCALE_SHARE, Calibration, combined_scores, one_step_scores
from worldline.world.logged_range import observed_values, ranges_of
from worldline.world.ood import LENGTHS, InputNovelty, StepErrors, fit_ood_score, novelty_of, step_errors_at
from worldline.world.prediction_errors import mean_of, residuals, vectors_of
from worldline.world.what_if import causes_of

Floats = NDArray[np.floating]

SCALE_WINDOWS: Final = 256
"""Total number of windows that set the shape. They need not be independent."""
MIN_EPISODES: Final = 20
"""With fewer episodes that engines were fitted without, all of them set both the shape and the width of the bands. With
fewer episodes for p-values, the windows of an episode count as one."""
SHORT_LENGTHS: Final = (1, 2, 3, 5, 8, 12)
"""Numbers of observations below the context for which bands and p-values are calibrated; every other one of them for
images, which take long to encode."""
MAX_PATHS: Final = 512
"""Largest number of stored residual paths; bounds the size of a bundle."""
BOUND_LEVEL: Final = 0.75
"""Confidence level of the upper bound of the correlation of windows."""
MIN_STANDARD_ERRORS: Final = 2.5
"""Standard errors by which the loss must be below the baseline to count as skill. High, as every step is tested."""


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
    lengths: Sequence[int] | None = None,
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
        lengths: numbers of observations for which bands and p-values are calibrated if they are below the context;
            None for `SHORT_LENGTHS`. With `trust_steps` 0 there are none.

    Raises:
        InputError: `horizon` or `num_windows` is below 1.
        DataError: fewer than two episodes are long enough.
    """
    if horizon < 1 or num_windows < 1:
        raise InputError(f"horizon {horizon} and num_windows {num_windows} must both be at least 1.")
    card, rng = engine.describe(), np.random.default_rng(seed)
    each = [engine] * len(episodes) if out_of_fold is None else out_of_fold
    usable = _long_enough(episodes, card.context, horizon)
    order = [usable[i] for i in rng.permutation(len(usable))]  # logs are ordered in time, and must be exchangeable
    # Some episodes shape the bands and scores, and the others set their widths: conformal scores need both apart.
    num_scale, num_steps = max(1, len(order) // SCALE_SHARE), _trust_steps(card, order, trust_steps)
    cuts = _Cuts(
        engines={id(episode): own for episode, own in zip(episodes, each, strict=True)},
        card=card,
        shaping=order[:num_scale],
        scoring=order[num_scale:],
        num_windows=num_windows,
        horizon=horizon,
        seed=seed,
        rng=rng,
    )
    # Few episodes set both the shape and the width of bands. The shape has too few parameters to fit the widths.
    shared = replace(cuts, shaping=order, scoring=order)
    banded = shared if out_of_fold is not None and len(order) < MIN_EPISODES else cuts
    shorter = _short_lengths(card) if lengths is None else [length for length in lengths if length < card.context]
    fitted = _fitted(engine, banded, cuts, num_steps, shorter if trust_steps else ())
    return replace(
        fitted,
        causes=causes_of(engine, usable, seed=seed) if with_causes else None,
        logged_range=ranges_of(card.schema, episodes) if logged_range is None else logged_range,
    )


def _fitted(engine: Engine, banded: _Cuts, cuts: _Cuts, num_steps: int, lengths: Sequence[int]) -> Calibration:
    """The calibration from cuts for bands and for trust, which tests `num_steps` steps, and for shorter `lengths`."""
    card = cuts.card
    # Bands need a whole horizon after each place. Trust needs earlier steps instead, so its places differ.
    places = banded.places(card.context, cuts.horizon)
    pasts = cuts.places(card.context + num_steps, 1)
    measure = None
    if not isinstance(engine, Novelty):
        measure = InputNovelty.fit(card.schema, cuts.windows(places[0], 1, ()).history)
    return Calibration(
        num_windows=cuts.num_windows,
        length=card.context,
        input_novelty=measure,
        **banded.error_parts(places),
        **cuts.trust_parts(measure, pasts, num_steps),
        shorter={
            length: _shorter(replace(banded, card=short), replace(cuts, card=short), measure)
            for length in lengths
            for short in (replace(card, context=length),)
        },
    )


def _short_lengths(card: Card) -> list[int]:
    """The numbers of observations below the context for which there are calibrations of their own."""
    images = any(card.schema[name].kind is Kind.IMAGE for name in card.inputs)
    return [length for length in SHORT_LENGTHS[:: 2 if images else 1] if length < card.context]


def _shorter(banded: _Cuts, cuts: _Cuts, measure: InputNovelty | None) -> Calibration:
    """The calibration for histories of `card.context` observations; cuts for bands and for trust."""
    length = cuts.card.context
    parts = banded.error_parts(banded.places(length, cuts.horizon)) | {"residuals": {}}
    trust = cuts.trust_parts(measure, cuts.places(length, 1), 0)
    return Calibration(num_windows=cuts.num_windows, input_novelty=None, **parts, **trust)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cuts:
    """How windows are cut from calibration episodes, and what is measured in them.

    Args:
        engines: for each episode, by its identity.
        card: of the engine, with the number of observations of the histories as context.
        shaping: episodes that set the shape of bands or of the out-of-distribution score.
        scoring: episodes that set the width or the p-values.
        num_windows: k, windows of each of the second ones.
        horizon: T.
        seed: of the engine's draws.
        rng: of the places of windows.
    """

    engines: Mapping[int, Engine]
    card: Card
    shaping: Sequence[Episode]
    scoring: Sequence[Episode]
    num_windows: int
    horizon: int
    seed: int
    rng: np.random.Generator

    def places(self, length: int, ahead: int) -> tuple[Places, Places]:
        """Random places for shape and width, with `length` observations up to them and `ahead` steps after them."""
        counts = max(self.num_windows, -(-SCALE_WINDOWS // len(self.shaping))), self.num_windows
        shape, width = (
            random_places(part, length=length, horizon=ahead, count=count, rng=self.rng)
            for part, count in zip((self.shaping, self.scoring), counts, strict=True)
        )
        return shape, width

    def windows(self, places: Places, horizon: int, targets: Sequence[str]) -> ForecastWindows:
        """The windows at some places."""
        length, schema = self.card.context, self.card.schema
        return forecast_windows(places, length=length, horizon=horizon, schema=schema, targets=targets)

    def ask(self, places: Places, question: Callable[[Engine, Places], Arrays]) -> dict[str, NDArray[Any]]:
        """The answers at all places in their order: arrays with a row per place."""
        # One question per engine, with all of its places, because batches are faster.
        rows, engines = dict[int, list[int]](), dict[int, Engine]()
        for row, (episode, _) in enumerate(places):
            engine = self.engines[id(episode)]
            rows.setdefault(id(engine), []).append(row)
            engines[id(engine)] = engine
        answers = [question(engines[key], [places[row] for row in part]) for key, part in rows.items()]
        order = np.argsort(np.concatenate(list(rows.values())))
        return {name: np.concatenate([answer[name] for answer in answers])[order] for name in answers[0]}

    def residuals(self, places: Places) -> dict[str, Floats]:
        """Observed minus predicted [W, T, *shape] of each predicted vector signal after some places."""
        targets = [signal.name for signal in vectors_of(self.card)]
        return self.ask(
            places, lambda engine, part: residuals(engine, self.windows(part, self.horizon, targets), seed=self.seed)
        )

    def first_scores(self, places: Places, scale: Mapping[str, Floats]) -> dict[str, Floats]:
        """Per predicted signal the score [W] of the first step after some places; NaN if it was not observed."""

        def question(engine: Engine, part: Places) -> dict[str, Floats]:
            windows = self.windows(part, 1, self.card.predicts)
            first = residuals(engine, windows, seed=self.seed)
            scores = {name: one_step_scores(np.abs(error[:, 0]), scale.get(name)) for name, error in first.items()}
            return {name: np.where(windows.known[name][:, 0], score, np.nan) for name, score in scores.items()}

        return self.ask(places, question)

    def error_parts(self, places: Sequence[Places]) -> dict[str, Any]:
        """The fields of a calibration that come from errors of predictions after places for shape and for width."""
        schema, targets = self.card.schema, [signal.name for signal in vectors_of(self.card)]
        shape, scored = (self.windows(part, self.horizon, targets) for part in places)
        values = {name: observed_values([*self.shaping, *self.scoring], name) for name in targets}
        spread = {name: value.std(0) for name, value in values.items()}
        # Errors of whole paths: the shape is their mean by step, which must not vanish where a signal is predicted
        # exactly.
        shaping, left = (self.residuals(part) for part in places)
        means = {name: mean_error(np.abs(error), shape.known[name]) for name, error in shaping.items()}
        scale = {name: np.maximum(mean, 1e-3 * spread[name] + 1e-12) for name, mean in means.items()}
        # Errors of single steps, for `surprise`: each signal in its own unit, then per entity and together.
        usual, one_step = (self.first_scores(part, scale) for part in places)
        unit = {name: score_unit(score) for name, score in usual.items()}
        entities, steps = combined_scores(schema, one_step, unit)
        scores = {name: running_scores(np.abs(error), scale[name], scored.known[name]) for name, error in left.items()}
        return {
            "scale": scale,
            "scores": {name: np.sort(score) for name, score in scores.items()},
            "design_effect": {name: design_effect(score, self.num_windows) for name, score in scores.items()},
            "one_step": {name: sorted_scores(score) for name, score in one_step.items()},
            "unit": unit,
            "entities": {name: sorted_scores(score) for name, score in entities.items()},
            "steps": sorted_scores(steps),
            "skill": {
                name: last_skilled_step(left[name], scored, schema[name], value, self.num_windows)
                for name, value in values.items()
            },
            "spread": spread,
            "residuals": {name: residual_paths(value, scored.known[name], self.rng) for name, value in left.items()},
        }

    def trust_parts(self, measure: InputNovelty | None, pasts: Sequence[Places], num_steps: int) -> dict[str, Any]:
        """The fields of a calibration that measure trust in a history.

        They are fitted on two sets of places, for the shape and for the p-values, with `num_steps` steps before each.
        """

        def novelty_at(engine: Engine, part: Places) -> dict[str, Floats]:
            history = self.windows(part, 1, ()).history
            return {"novelty": novelty_of(engine, measure, history, engine.observe(None, history, seed=self.seed))}

        def errors_at(engine: Engine, part: Places) -> dict[str, NDArray[Any]]:
            return dict(vars(step_errors_at(engine, part, num_steps, seed=self.seed)))

        # Novelty of presents and errors of the steps before them, at the places for the shape and for the p-values.
        usual, novelty = (self.ask(past, novelty_at)["novelty"] for past in pasts)
        shaping, scoring = (StepErrors(**self.ask(past, errors_at)) if num_steps else None for past in pasts)
        ood = fit_ood_score(shaping, usual, [length for length in LENGTHS if length <= num_steps])
        ood_scores = np.zeros((len(ood.lengths) - 1, len(novelty)))
        for row in range(len(ood_scores)):
            ood_scores[row] = ood.of(scoring, novelty, row + 1)
        effects = dict[str, Floats]()
        # Fewer episodes do not show how alike windows are in the tail, so the windows of an episode count as one.
        if len(self.scoring) >= MIN_EPISODES:
            effects["novelty"] = design_effect(novelty[None], self.num_windows)
            effects |= {"ood": design_effect(ood_scores, self.num_windows)} if len(ood_scores) else {}
        first, names = self.card.context + num_steps - 1, {signal.name for signal in self.card.schema.observations}
        places = [place for past in pasts for place in past]
        seen = (log.observed[name][at - first : at + 1] for log, at in places for name in names & log.observed.keys())
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


def running_scores(error: Floats, scale: Floats, known: NDArray[np.bool_]) -> Floats:
    """The scores [T, W] of errors [W, T, *shape]: the largest error over scale up to each step.

    NaN if nothing was `known` [W, T] up to that step. Unknown errors are 0.
    """
    largest = np.maximum.accumulate((error / scale).max(-1), axis=1)
    return np.asarray(np.where(np.logical_or.accumulate(known, axis=1), largest, np.nan).T)


def mean_error(error: Floats, known: NDArray[np.bool_]) -> Floats:
    """The mean [T, n] of errors [W, T, n] that are `known` [W, T]; the mean over all steps where none is."""
    count = known.sum(0)[:, None]
    overall = error.sum((0, 1)) / max(1, known.sum())
    return np.asarray(np.where(count > 0, error.sum(0) / np.maximum(count, 1), overall))


def sorted_scores(score: Floats) -> Floats:
    """The finite scores, sorted."""
    return np.sort(score[np.isfinite(score)])


def score_unit(score: Floats) -> Floats:
    """The 90 % quantile of scores [W]; 1 if it is 0 or there is none."""
    finite = sorted_scores(score)
    quantile = np.quantile(finite, 0.9) if len(finite) else 0.0
    return np.asarray(quantile if quantile > 0 else 1.0)


def design_effect(scores: Floats, num_windows: int) -> Floats:
    """The number of windows [T] of one episode that are worth one independent window: 1 + (k - 1) * correlation.

    The correlation is that of two windows of an episode: the intraclass correlation of the normal scores of the ranks,
    0 to 1. Few episodes determine it badly, so its upper confidence bound is used. Missing scores count as the mean of
    their episode. The correlation is 1 if there is one episode only, or no score of an episode.

    Args:
        scores: [T, K * k], episode by episode; NaN if missing.
        num_windows: k, windows per episode.

    Source: Kish 1965, Survey Sampling; Searle 1971, Linear Models, section 9.9, for the confidence bound.
    """
    from scipy.special import fdtri, ndtri  # imported here for the reason in `stats.student_quantile`
    from scipy.stats import rankdata

    num_steps, total = scores.shape
    num_episodes = total // num_windows
    effects = np.full(num_steps, float(num_windows))
    counts = np.isfinite(scores).reshape(num_steps, num_episodes, num_windows).sum(2)
    some = (counts > 0).all(1)
    if num_windows == 1 or num_episodes < 2 or not some.any():
        return effects
    # Normal scores of the ranks: the scores themselves have heavy tails, which would hide the correlation.
    policy = "omit" if np.isnan(scores[some]).any() else "propagate"  # omitting is slow
    ranks = rankdata(scores[some], axis=1, nan_policy=policy)
    normal = ndtri((ranks - 0.5) / np.isfinite(ranks).sum(1, keepdims=True)).reshape(-1, num_episodes, num_windows)
    normal = np.where(np.isfinite(normal), normal, np.nanmean(normal, axis=2, keepdims=True))
    # Analysis of variance between and within episodes; the quantile of F turns the ratio into its upper bound.
    means = normal.mean(2)
    between = num_windows * means.var(1, ddof=1)
    within = normal.var(2, ddof=1).mean(1)
    smallest = fdtri(num_episodes - 1, num_episodes * (num_windows - 1), 1 - BOUND_LEVEL)
    f_ratio = between / np.maximum(within, 1e-12) / smallest
    correlation = np.where(between + within > 0, (f_ratio - 1) / (f_ratio + num_windows - 1), 1.0)
    effects[some] = 1 + (num_windows - 1) * np.clip(correlation, 0.0, 1.0)
    return effects


def last_skilled_step(
    error: Floats, windows: ForecastWindows, signal: Signal, values: Floats, num_windows: int
) -> Floats:
    """The last step [] at which a signal is predicted with skill; see `Forecast.horizon`.

    Episodes that did not observe a step are left out of its average.

    Args:
        error: [W, T, *shape], observed minus predicted by the world.
        windows: the windows, `num_windows` from each episode, one episode after the other.
        signal: the signal.
        values: [n, *shape], every value in the log.
        num_windows: k.
    """
    # Two baselines: the last observed value (persistence), and the mean of the log where there is none.
    truth, known = windows.truth[signal.name], windows.known[signal.name]
    variance = max(float(values.var(0).sum()), 1e-12 * (1 + float(np.abs(values).max())) ** 2)
    mean = mean_of(signal, values[None])[0] if signal.period is not None else values.mean(0)
    last = np.broadcast_to(mean, truth[:, 0].shape)
    if signal.name in windows.history.observations:
        seen = windows.history.observed[signal.name][:, -1:]
        last = np.where(seen, windows.history.observations[signal.name][:, -1], mean)

    # Windows of one episode are averaged first, because they are not independent.
    count = known.reshape(-1, num_windows, known.shape[1]).sum(1)
    num_known = (count > 0).sum(0)
    enough = num_known >= min(2, len(count))

    def loss(apart: Floats) -> Floats:
        """Per episode and step the mean squared error over the variance; NaN if nothing was observed."""
        each = np.where(known, (apart**2).sum(-1) / variance, 0.0).reshape(-1, num_windows, known.shape[1]).sum(1)
        return np.where(enough, each / np.where(count > 0, count, np.nan), 0.0)

    apart = error, signal.difference(truth, last[:, None]), signal.difference(truth, mean)
    own, persistence, constant = map(loss, apart)
    # The better baseline of each step, and the paired gain over it, with its standard error over episodes.
    baseline = np.where(np.nanmean(persistence, 0) < np.nanmean(constant, 0), persistence, constant)
    gain = baseline - own
    # One episode gives no estimate of the variance between episodes.
    spread = np.nanstd(gain, axis=0, ddof=1) if len(gain) > 1 else math.inf
    significant = np.nanmean(gain, 0) > MIN_STANDARD_ERRORS * spread / np.sqrt(np.maximum(num_known, 1))
    good = np.flatnonzero(enough & (significant | (np.nanmean(own, 0) <= 0.05)))
    return np.asarray(good[-1] + 1 if len(good) else 0, dtype=np.float64)


def residual_paths(error: Floats, known: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Residuals [P, T, *shape] of evenly spaced windows [W, T, *shape]; float32, because only draws need them.

    A value that is not `known` [W, T] is drawn from the windows that know this step; 0 if none does.
    """
    filled = error.astype(np.float32)
    for step, (values, there) in enumerate(zip(error.swapaxes(0, 1), known.T, strict=True)):
        if there.any():
            filled[~there, step] = rng.choice(values[there], (~there).sum())
    kept = np.linspace(0, len(filled) - 1, min(MAX_PATHS, len(filled))).round().astype(int)
    return np.asarray(filled[kept])
