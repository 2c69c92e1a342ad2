"""U3, out-of-distribution detection.

Question: does a world notice that the law has changed, without alarms for inputs that are merely unusual?

Scenes: a puck is pushed in gusts. A world observes 41 frames (4 s) and predicts the next 10 steps. There are five
levels of shift. In half of a level's scenes the law has changed, more strongly at higher levels: friction beyond the
range of the logs, mass, spring, stronger gusts, a tilted table (each in a random direction), faster time, in turn. The
other half is harmless and follows the law of the logs. Initial speeds and the strength of pushes are drawn alike in
both, weaker or stronger than in the logs. Each harmful scene has a harmless partner with equally unusual inputs. They
match in the mean squared Mahalanobis distance of position, velocity and push together, and of each alone. So input
novelty is at chance.

Uncertainty is 1 - `Prediction.trust`, the p-value of the history with its steps. Band widths are not used, since bands
are calibrated on ordinary scenes and equally wide in all. The error is the world's own, squared in units of each
signal's spread. It is averaged over eight twins with the law of the scene and fresh gusts. With a single twin the
unpredictable gusts would dominate the ranking.

Score, two cells:

* harmful from harmless: 2 AUROC - 1 of the uncertainty over all levels. The floor is the best trivial model, chosen on
  the pilot. The ceiling knows the law of the logs. Both have the toolkit's trust, like any world. That trust fits its
  own regression and scores 0.7 to 0.9 for any model, persistence included. The cell scores what a model adds.
* ranks errors: Spearman's correlation of uncertainty and error within a level, averaged over levels. It is divided by
  the correlation of a reference that knows the level and kind of change. The reference ranks scenes by the mean rank of
  this world's errors in such scenes. If its correlation is below 0.2, the cell is undefined: then a changed law does
  not enlarge the errors. A world that separates scenes of one kind can exceed 1. Linear regression does (0.93 to 1.16),
  because its errors depend on the friction, which its trust detects. This cell has no floor of the toolkit's trust,
  since it ranks a model's own errors. So it shows less than the first.

There are no further pass conditions.

Must fail: persistence with the toolkit's trust; input novelty of the whole history; the trust of a world that judges
the last observation only; typicality of the pushes, alone and with the trust of the floor; a constant. Models of inputs
alone are compared with chance and not with the floor, since the scenes are matched for them. The oracle knows the law
of the logs and is calibrated like any world. The ceiling is calibrated on separate episodes.

Deviations from the specification:

* A level holds harmful and harmless scenes. Within harmful scenes of one severity the correlation of the oracle was
  -0.1 to 0.1, and of a learned world 0.0 to 0.2. Trust is a p-value with a smallest value, so it cannot rank impossible
  histories. Errors in harmless scenes differ only by chance.
* For the same reason the correlation over both is at most about 0.75, so it is divided by that of a reference. The
  first reference only knew whether the law had changed. Linear regression exceeded it (1.15) more than the oracle
  (0.86).
* The first floor of the first cell was chance, above which persistence had 0.81.
* The mildest shifts that were tried (a mass of 1.15 times, a tilt of 0.06 N) were detected by no model, the oracle
  included, and were removed.
* Gravity is the tilt of the table. Texture is left out: vectors have none. A picture in another colour is harmful to a
  world of pictures although the law is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from worldline.audit import (
    BATCH,
    GATE,
    Floats,
    Grade,
    Statistic,
    as_world,
    auroc,
    cell,
    check_numbers,
    check_readable,
    engines,
    history_of,
    only,
    packed,
    packed_history,
    rounded,
    unpacked,
)
from worldline.engines import Engine
from worldline.episode import Arrays, Episode, History
from worldline.errors import UnsupportedError
from worldline.stats import ratio
from worldline.world import World, calibrate
from worldline_exam.base import DatasetSpec, ExamTest, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.gusty_puck import MAX_PUSH, GustyPuck
from worldline_exam.references.puck_oracle import PuckOracle
from worldline_exam.scenes.puck import (
    NUM_CALIBRATION,
    SIGNALS,
    EpisodeDraws,
    dataset,
    draw,
    paths,
    puck,
    recorded,
    squared_error,
    twins,
)

HISTORY: Final = 41
AHEAD: Final = 10
BEFORE: Final = 5
"""Steps of an episode before the history."""
NUM_TWINS: Final = 8
NUM_LEVELS: Final = 5
CANDIDATES: Final = 20
"""Harmless scenes that are drawn for each selected one."""
MIN_STRENGTH: Final = 0.2
MAX_STRENGTH: Final = 1.8
"""Range of initial speed and of pushes, relative to the logs."""
MIN_REFERENCE_CORRELATION: Final = 0.2
"""Smallest rank correlation of the reference for which the cell is defined."""
TRUST_STEPS: Final = 32
"""Steps of a history that enter trust, as for an exam subject: the maximum for logs of 60 steps."""
TRIVIAL: Final = "persistence with the toolkit's trust"
APART: Final = "harmful from harmless"
NOVELTY: Final = "input novelty"
PUSHES: Final = "how usual the pushes are"
PRESENT: Final = "novelty of the present"
CONSTANT: Final = "a constant"
NOVELTIES: Final = (NOVELTY, PUSHES, PRESENT, CONSTANT)
NUM_ORDINARY: Final = 400
"""Number of episodes for the distribution of ordinary inputs."""

KINDS: Final = ("friction", "mass", "spring", "gust", "tilt", "speed")
SEVERITY: Final[Mapping[str, tuple[float, ...]]] = {
    "friction": (1.2, 1.4, 1.7, 2.1, 2.6),
    "mass": (1.3, 1.5, 1.8, 2.2, 2.8),
    "spring": (1.5, 1.9, 2.4, 3.0, 4.0),
    "gust": (1.3, 1.5, 1.8, 2.3, 3.0),
    "tilt": (0.1, 0.17, 0.25, 0.37, 0.5),
    "speed": (1.08, 1.15, 1.25, 1.4, 1.6),
}
"""By level: the force of the tilt in N, else the factor of the setting (for friction, of its upper end)."""


@final
@dataclass(frozen=True, kw_only=True)
class OODDetectionTest(ExamTest):
    """Test of out-of-distribution detection; the module docstring specifies it.

    Args:
        num_each: number of harmful scenes of each level, and of harmless ones.
    """

    code: ClassVar[str] = "U3"
    section: ClassVar[Section] = Section.CONFIDENCE
    title: ClassVar[str] = "It knows when it is lost"
    claim: ClassVar[str] = (
        "It notices that the system no longer follows the learned law, and raises no alarm for merely unusual inputs."
    )
    calibrated: ClassVar[bool] = True

    declared_ceiling: ClassVar[float] = 0.8
    """For the cell "ranks errors": even the true law does not always detect the mildest shifts in 40 steps."""

    num_each: int = 100

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """One dataset: the gusty puck."""
        return (dataset(self.pool, pixels=self.pixels),)

    def generate(self, seed: int) -> Arrays:
        """Scenes of each level: all harmful ones, then the harmless ones in the same order."""
        rng, lab = np.random.default_rng([7, seed]), puck(self.pool)
        ordinary = _InputDistribution.of(lab)
        num = NUM_LEVELS * self.num_each
        level, kind = np.repeat(np.arange(NUM_LEVELS), self.num_each), np.arange(num) % len(KINDS)
        harmful = _shifted(self.pool, level, kind, rng)
        harmless = _harmless(lab, ordinary, ordinary.unusual(history_of(harmful)), rng)
        scenes = {name: np.concatenate([value, harmless[name]]) for name, value in harmful.items()}
        return {
            **scenes,
            "level": np.tile(level, 2),
            "kind": np.concatenate([kind, np.full(num, -1)]),
            "novelty": ordinary.novelty(history_of(scenes)),
        }

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Means and trust.

        Raises:
            UnsupportedError: the world gives no trust.
        """
        return _answers(only(worlds), scenes)

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """All references; trivial models are calibrated on the last logged episodes and fitted on the others."""
        lab, episodes = puck(self.pool), next(iter(logs.values()))
        num = min(NUM_CALIBRATION, len(episodes) // 2)
        held_out, lawful = episodes[-num:], PuckOracle(lab=lab)
        trivial = {name: _trusted(engine, held_out) for name, engine in engines(episodes[:-num], lab.schema).items()}
        apart = {name: _detection(_answers(world, pilot), pilot) for name, world in trivial.items()}
        best = max(apart, key=lambda name: apart[name])
        own = recorded(lab, NUM_CALIBRATION, np.random.default_rng(9))
        oracle = _answers(_trusted(lawful, held_out), scenes)
        ordinary = _InputDistribution.of_logs(episodes)
        novelty, push_distance = ordinary.novelty(history_of(scenes)), ordinary.parts(history_of(scenes))[:, -1]
        atypicality = 1 - np.exp(-np.abs(np.log(push_distance / 2)))
        floor = _answers(trivial[best], scenes)
        return References(
            floor=floor,
            ceiling=_answers(_trusted(lawful, own), scenes),
            oracle=oracle,
            must_fail={
                TRIVIAL: floor if best == "persistence" else _answers(trivial["persistence"], scenes),
                NOVELTY: {**oracle, "trust": 1 / (1 + novelty)},
                PUSHES: {**oracle, "trust": atypicality},
                f"{PUSHES}, beside the floor": {**oracle, "trust": floor["trust"] * atypicality},
                PRESENT: _answers(_trusted(lawful, held_out, steps=0), scenes),
                CONSTANT: {**oracle, "trust": np.full(len(novelty), 0.5)},
            },
            floor_name=f"{best} with the toolkit's trust",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """The cells "harmful from harmless" and "ranks errors"."""
        uncertainty, error, level = _uncertainty(answers), _error(scenes, answers), scenes["level"].astype(int)
        reference_rank = _reference_rank(error, level, scenes["kind"].astype(int))
        detection = {
            "apart": _detection(answers, scenes),
            "floor": _detection(references.floor, scenes),
            "ceiling": _detection(references.ceiling, scenes),
        }
        every = np.ones((1, len(uncertainty)))
        ranking = {
            "correlation": float(_spearman(uncertainty, error, level)(every)[0]),
            "possible": float(_reference_correlation(reference_rank, error, level)(every)[0]),
        }
        return Grade(
            cells=(
                cell(APART, _detection_skill(scenes, answers, references), len(uncertainty),
                     raw=rounded(**detection)),
                cell("ranks errors", _ranking(uncertainty, error, reference_rank, level), len(uncertainty),
                     raw=rounded(**ranking)),
            )
        )  # fmt: skip

    def grade_must_fail(self, name: str, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """Models of inputs alone are compared with chance, since scenes are matched for them."""
        if name not in NOVELTIES:
            return self.grade(scenes, answers, references)
        uncertainty = _uncertainty(answers)
        return Grade(cells=(cell(f"{APART}, against chance", auroc(uncertainty, _harmful(scenes)), len(uncertainty)),))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Trust over the levels."""
        harmful, level = _harmful(scenes), scenes["level"].astype(int)
        groups = (("harmful", harmful), ("harmless", ~harmful))
        panels = []
        for name, predicted in (("this world", answers), (references.floor_name, references.floor)):
            lines = []
            for group, rows in groups:
                parts = [predicted["trust"][rows & (level == number)].astype(float) for number in range(NUM_LEVELS)]
                low, middle, high = ([np.quantile(part, share) for part in parts] for share in (0.25, 0.5, 0.75))
                lines.append(FigureLine.of(group, range(1, NUM_LEVELS + 1), middle, low=low, high=high))
            panels.append(FigurePanel.of(f"Trust: {name}", "severity of the shift", "trust", lines))
        return ExamFigure(
            caption="Harmful scenes follow another law. Harmless ones follow the law of the logs with equally unusual "
            "inputs. Trust has to fall in the first and stay in the second, more clearly than for a trivial model. "
            "Bands hold half of the scenes.",
            panels=tuple(panels),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _InputDistribution:
    """Distribution of inputs in ordinary episodes.

    Args:
        centre: [6], mean of position, velocity and push.
        inverse: [6, 6], inverse of their covariance.
    """

    centre: Floats
    inverse: Floats

    @classmethod
    def of(cls, lab: GustyPuck) -> _InputDistribution:
        """The distribution of a lab."""
        draws = draw(lab, NUM_ORDINARY, HISTORY + BEFORE, np.random.default_rng(8))
        return cls._of_rows(_rows({n: v[:, :-1] for n, v in paths(lab, draws).items()}, draws.pushes))

    @classmethod
    def of_logs(cls, episodes: Sequence[Episode]) -> _InputDistribution:
        """The distribution of logged episodes."""
        rows = [
            _rows({name: episode.observations[name][None, :-1] for name in SIGNALS}, episode.actions["push"][None])
            for episode in episodes
        ]
        return cls._of_rows(np.concatenate(rows, 1))

    @classmethod
    def _of_rows(cls, rows: Floats) -> _InputDistribution:
        flat = rows.reshape(-1, rows.shape[-1])
        return cls(centre=flat.mean(0), inverse=np.linalg.inv(np.cov(flat.T)))

    def novelty(self, history: History) -> Float[np.ndarray, "E"]:
        """The mean squared Mahalanobis distance of the inputs of each history."""
        rows = _rows({name: history.observations[name][:, :-1] for name in SIGNALS}, history.actions["push"])
        return _squared(rows - self.centre, self.inverse)

    def parts(self, history: History) -> Float[np.ndarray, "E 3"]:
        """The mean squared distance of position, velocity and push separately; 2 is the expectation."""
        rows = _rows({name: history.observations[name][:, :-1] for name in SIGNALS}, history.actions["push"])
        away, covariance = rows - self.centre, np.linalg.inv(self.inverse)
        pairs = [slice(first, first + 2) for first in range(0, rows.shape[-1], 2)]
        return np.asarray(np.stack([_squared(away[..., xy], np.linalg.inv(covariance[xy, xy])) for xy in pairs], 1))

    def unusual(self, history: History) -> Float[np.ndarray, "E 4"]:
        """The logarithms of all four distances, by which scenes are matched."""
        return np.asarray(np.log(np.concatenate([self.novelty(history)[:, None], self.parts(history)], 1)))


def _squared(away: Float[np.ndarray, "E T F"], inverse: Float[np.ndarray, "F F"]) -> Float[np.ndarray, "E"]:
    """The squared distance, averaged over steps."""
    return np.asarray(np.einsum("etf,fg,etg->et", away, inverse, away).mean(1))


def _rows(observations: Arrays, pushes: NDArray[np.generic]) -> Float[np.ndarray, "E T 6"]:
    return np.concatenate([*(observations[name] for name in SIGNALS), pushes], -1, dtype=np.float64)


def _shifted(pool: Any, level: Int[np.ndarray, "E"], kind: Int[np.ndarray, "E"], rng: np.random.Generator) -> Arrays:
    """Scenes of changed labs: one lab for each level and kind, and one for each scene with a tilt."""
    draws = _drawn(puck(pool), len(level), rng)
    parts: list[tuple[NDArray[np.integer], Arrays]] = []
    for severity in range(NUM_LEVELS):
        for number, name in enumerate(KINDS):
            every = np.flatnonzero((level == severity) & (kind == number))
            each = list(every[:, None]) if name == "tilt" else [every]  # each scene has its own direction of tilt
            for rows in (part for part in each if len(part)):
                changed = _changed(pool, name, SEVERITY[name][severity], rng)
                some = draws.at(rows)
                if name == "friction":
                    some = replace(some, friction=np.full(len(rows), changed.friction[1]))
                parts.append((rows, _scenes(changed, some, rng)))
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return {name: np.concatenate([part[name] for _, part in parts])[order] for name in parts[0][1]}


def _changed(pool: Any, name: str, size: float, rng: np.random.Generator) -> GustyPuck:
    """The lab of a pool with one setting changed."""
    lab = puck(pool)
    if name == "tilt":
        turn = rng.uniform(0, 2 * np.pi)
        return puck(pool, tilt=(float(size * np.cos(turn)), float(size * np.sin(turn))))
    if name == "friction":
        return puck(pool, friction=(lab.friction[1], size * lab.friction[1]))
    settings: dict[str, Any] = {name: size * float(getattr(lab, name))}
    return puck(pool, **settings)


def _drawn(lab: GustyPuck, num_scenes: int, rng: np.random.Generator) -> EpisodeDraws:
    """Episodes like the explorer's, with initial speed and pushes scaled by random factors."""
    ordinary = draw(lab, num_scenes, BEFORE + HISTORY - 1 + AHEAD, rng)
    speed_factor, push_factor = rng.uniform(MIN_STRENGTH, MAX_STRENGTH, (2, num_scenes, 1))
    return replace(
        ordinary,
        start={name: speed_factor * value.astype(float) for name, value in ordinary.start.items()},
        pushes=np.clip(push_factor[..., None] * ordinary.pushes, -MAX_PUSH, MAX_PUSH).astype(np.float32),
    )


def _harmless(
    lab: GustyPuck, ordinary: _InputDistribution, wanted: Float[np.ndarray, "E 4"], rng: np.random.Generator
) -> Arrays:
    """Distinct scenes of the unchanged lab that match the `wanted` distances, see `unusual`."""
    candidates = _drawn(lab, CANDIDATES * len(wanted), rng)
    offered = ordinary.unusual(_past(lab, candidates))
    chosen = np.zeros(len(wanted), int)
    for place in np.argsort(-wanted[:, 0]):  # most unusual first, since those have the fewest candidates
        chosen[place] = np.argmin(((offered - wanted[place]) ** 2).sum(1))
        offered[chosen[place]] = np.inf
    return _scenes(lab, candidates.at(chosen), rng)


def _past(lab: GustyPuck, draws: EpisodeDraws) -> History:
    """The histories of episodes."""
    last = BEFORE + HISTORY - 1
    return History(
        observations={name: value[:, BEFORE : last + 1] for name, value in paths(lab, draws).items()},
        actions={"push": draws.pushes[:, BEFORE:last]},
    )


def _scenes(lab: GustyPuck, draws: EpisodeDraws, rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
    """Histories, the next pushes, and twins [E, S, T, 2] with fresh gusts."""
    history, future = _past(lab, draws), draws.pushes[:, BEFORE + HISTORY - 1 :]
    truth = twins(lab, history, future, draws.friction, NUM_TWINS, rng)
    return {**packed_history(history), "future": future, **packed("truth", truth)}


def _answers(world: World, scenes: Arrays) -> dict[str, NDArray[np.generic]]:
    """Means and trust of a world, queried in batches."""
    check_readable(world, SIGNALS)
    history, num = history_of(scenes), len(scenes["future"])
    parts = []
    for first in range(0, num, BATCH):
        rows = slice(first, first + BATCH)
        parts.append(world.predict(history.worlds(rows), {"push": scenes["future"][rows]}))
    trust = np.concatenate([np.atleast_1d(part.trust) for part in parts])
    if np.isnan(trust).any():
        raise UnsupportedError(f"{world.describe().name} gives no trust. Calibrate it on held-out episodes.")
    means = {name: np.concatenate([part.signals[name].mean for part in parts]).astype(np.float64) for name in SIGNALS}
    check_numbers(world, means, {"push": scenes["future"]})
    return {**packed("mean", means), "trust": trust}


def _uncertainty(answers: Arrays) -> Float[np.ndarray, "E"]:
    return np.asarray(1 - answers["trust"].astype(float))


def _error(scenes: Arrays, answers: Arrays) -> Float[np.ndarray, "E"]:
    """The squared error of each scene, averaged over its twins."""
    return squared_error(
        {name: value[:, None] for name, value in unpacked(answers, "mean").items()}, unpacked(scenes, "truth")
    )


def _trusted(engine: Engine, held_out: Sequence[Episode], *, steps: int = TRUST_STEPS) -> World:
    """An engine as a world with the toolkit's trust."""
    fitted = calibrate(engine, held_out, horizon=AHEAD, num_windows=4, seed=0, trust_steps=steps, with_causes=False)
    return as_world(engine, fitted)


def _detection(answers: Arrays, scenes: Arrays) -> float:
    """2 AUROC - 1 of the uncertainty for harmful against harmless scenes."""
    uncertainty = _uncertainty(answers)
    return float(auroc(uncertainty, _harmful(scenes))(np.ones((1, len(uncertainty))))[0])


def _harmful(scenes: Arrays) -> Bool[np.ndarray, "E"]:
    return np.asarray(scenes["kind"].astype(int) >= 0)


def _detection_skill(scenes: Arrays, answers: Arrays, references: References) -> Statistic:
    """2 AUROC - 1 rescaled so that the floor is 0 and the ceiling 1; NaN if those are too close."""
    own, floor, ceiling = (
        auroc(_uncertainty(answer), _harmful(scenes)) for answer in (answers, references.floor, references.ceiling)
    )

    def statistic(weights: Floats) -> Floats:
        lowest = floor(weights)
        possible = ceiling(weights) - lowest
        return ratio(own(weights) - lowest, np.where(possible >= GATE, possible, 0.0))

    return statistic


def _reference_rank(error: Floats, level: Int[np.ndarray, "E"], kind: Int[np.ndarray, "E"]) -> Float[np.ndarray, "E"]:
    """Mean rank of the errors within each level and kind of change: the reference ranking."""
    ranks = np.zeros(len(error))
    for number in np.unique(level):
        rows = np.flatnonzero(level == number)
        rank = _ranks(error[rows], np.ones((1, len(rows))))[0]
        for change_kind in np.unique(kind[rows]):
            ranks[rows[kind[rows] == change_kind]] = rank[kind[rows] == change_kind].mean()
    return ranks


def _ranking(uncertainty: Floats, error: Floats, reference_rank: Floats, level: Int[np.ndarray, "E"]) -> Statistic:
    """Correlation of uncertainty and error over that of the reference ranking; NaN if the latter is too small.

    Also NaN if any error is NaN, which would rank as the smallest.
    """
    own, best = _spearman(uncertainty, error, level), _reference_correlation(reference_rank, error, level)
    known = bool(np.isfinite(error).all())

    def statistic(weights: Floats) -> Floats:
        possible = best(weights) if known else np.zeros(len(weights))
        return ratio(own(weights), np.where(possible >= MIN_REFERENCE_CORRELATION, possible, 0.0))

    return statistic


def _reference_correlation(reference_rank: Floats, error: Floats, level: Int[np.ndarray, "E"]) -> Statistic:
    """Correlation of the reference ranking and error, adjusted because its means come from the same errors.

    Source: Ezekiel 1930, adjusted coefficient of determination.
    """
    correlation, num_levels = _spearman(reference_rank, error, level), len(np.unique(level))
    degrees_of_freedom = len(error) - len(np.unique(np.stack([level, reference_rank], 1), axis=0))
    inflation = (len(error) - num_levels) / max(degrees_of_freedom, 1)

    def statistic(weights: Floats) -> Floats:
        return np.asarray(np.sqrt(np.maximum(0.0, 1 - (1 - correlation(weights) ** 2) * inflation)))

    return statistic


def _spearman(first: Floats, second: Floats, group: Int[np.ndarray, "E"]) -> Statistic:
    """Spearman's rank correlation within groups, averaged over groups; 0 if one of the two is constant."""
    members = [np.flatnonzero(group == number) for number in np.unique(group)]

    def statistic(weights: Floats) -> Floats:
        correlations = []
        for rows in members:
            w = weights[:, rows]
            a, b = (_ranks(values[rows], w) for values in (first, second))
            a, b = (ranks - ratio((w * ranks).sum(-1), w.sum(-1))[:, None] for ranks in (a, b))
            size = np.sqrt((w * a**2).sum(-1) * (w * b**2).sum(-1))
            correlations.append(np.where(size > 0, ratio((w * a * b).sum(-1), size), 0.0))
        return np.asarray(np.mean(correlations, axis=0))

    return statistic


def _ranks(values: Float[np.ndarray, "E"], weights: Float[np.ndarray, "D E"]) -> Float[np.ndarray, "D E"]:
    """Ranks with bootstrap counts as weights; ties share their rank."""
    below = (values[:, None] < values[None]) + 0.5 * (values[:, None] == values[None])
    return np.asarray(weights @ below)
