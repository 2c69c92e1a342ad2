"""U3: whether a world knows when it is lost: when the law is no longer the one that it has learned.

A puck is pushed in gusts. A world sees 41 observations (4 s) and predicts the next 10 steps, in scenes of five levels.
In half of a level's scenes the law has changed, the more the higher the level: a friction beyond the range of the logs,
another mass, another spring, stronger gusts, a tilted table (each its own way), faster time, in turn. The other half is
harmless: the law is that of the logs. In both, how strongly the puck is set going and how strongly it is pushed are
drawn alike, weaker or stronger than in the logs. Each harmless scene is chosen for a harmful one so that their
histories are equally unusual as inputs: the mean squared Mahalanobis distance of position, velocity and push together,
and of each alone. So who only tells what is seldom seen is at chance.

Uncertainty is 1 - `Prediction.trust`, what the contract gives: the p-value of the history, its steps included. The
width of the band is no part of it, as a band is calibrated on ordinary scenes and as wide in any. The error is the
world's own, squared in units of each signal's spread, its mean over eight twins with this scene's law and fresh gusts:
against one of them the luck of its gusts, which nobody can foresee, would drown what can be ranked.

Two cells:

* harmful from harmless: 2 AUROC - 1 of the uncertainty, over all levels, between 0 for the best trivial model and 1 for
  who knows the law of the logs. Both have the toolkit's trust, and so has any world: it fits a regression of its own,
  and tells harmful from harmless by 0.7 to 0.9 whatever model it is given, persistence included. What is scored is what
  a model adds to that. Which trivial model is the floor is chosen on the pilot's scenes.
* ranks errors: Spearman's correlation of uncertainty and error within a level, the mean over the levels; as a share of
  the correlation that is reached by who is told the level and what has changed, if anything, and ranks by the mean rank
  of this world's own errors in such scenes. Where that is below 0.2 the cell is undefined: such errors are as large
  where the law has stayed. 1 is no limit: who tells scenes of one kind apart may pass it, as linear regression does
  (0.93 to 1.16), whose errors depend on the friction, which its trust sees. Nor has this cell a floor of the
  toolkit's trust: what is ranked are a model's own errors. So it says less than the first.

Deviations: a level holds both halves. Among harmful scenes of one severity alone the oracle's correlation was -0.1 to
0.1, that of a learned world 0.0 to 0.2: trust would have to rank what it calls impossible by how impossible it is, and
a p-value has a smallest; among harmless ones errors are equal but for chance. For the same reason the correlation with
both is at most about 0.75, so that it is taken as a share; the share of who is only told whether the law has changed,
as it was at first, was passed by linear regression (1.15) more than by the oracle (0.86). The floor of the first cell
was chance at first, above which persistence had 0.81. The mildest shifts that were tried (a mass of 1.15 times, a tilt
of 0.06 N) were seen by no model, the oracle among them, and were left out. Gravity is the tilt of the table; texture is
left out: vectors have none, and a picture of another colour is harmful to a world of pictures though the law is the
same.

Must fail: persistence with the toolkit's trust; input novelty, of the whole history, and as the trust of a world that
judges the present alone; how usual the pushes are, alone and with the trust of the floor; a constant. Who goes by
inputs alone is held against chance and not against the floor, since scenes are matched so that nothing of it tells. The
oracle knows the law of the logs, and is calibrated as any world; the ceiling is calibrated on episodes of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from worldline.audit import (
    BATCH,
    GATE,
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
from worldline.world import World, calibrate, worlds_of
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
)

Floats = NDArray[np.floating]

SEEN: Final = 41
AHEAD: Final = 10
BEFORE: Final = 5
"""Steps of an episode that are not shown."""
NUM_TWINS: Final = 8
NUM_LEVELS: Final = 5
CANDIDATES: Final = 20
"""Harmless scenes that are drawn for each that is chosen."""
LEAST_STRENGTH: Final = 0.2
MAX_STRENGTH: Final = 1.8
"""How strongly a puck is set going, and how strongly it is pushed, as a share of what is usual."""
LEAST_POSSIBLE: Final = 0.2
"""Rank correlation of the error with what has changed, below which there is nothing to rank by."""
TRUST_STEPS: Final = 32
"""Of a history that are looked at, as by the trust of a sitter: the most that its logs of 60 steps allow."""
TRIVIAL: Final = "persistence with the toolkit's trust"
APART: Final = "harmful from harmless"
NOVELTY: Final = "input novelty"
PUSHES: Final = "how usual the pushes are"
PRESENT: Final = "novelty of the present"
CONSTANT: Final = "a constant"
NOVELTIES: Final = (NOVELTY, PUSHES, PRESENT, CONSTANT)
USUAL: Final = 400
"""Episodes that say what is usual as an input."""

KINDS: Final = ("friction", "mass", "spring", "gust", "tilt", "speed")
SEVERITY: Final[Mapping[str, tuple[float, ...]]] = {
    "friction": (1.2, 1.4, 1.7, 2.1, 2.6),
    "mass": (1.3, 1.5, 1.8, 2.2, 2.8),
    "spring": (1.5, 1.9, 2.4, 3.0, 4.0),
    "gust": (1.3, 1.5, 1.8, 2.3, 3.0),
    "tilt": (0.1, 0.17, 0.25, 0.37, 0.5),
    "speed": (1.08, 1.15, 1.25, 1.4, 1.6),
}
"""By level: of the tilt the force in N, else what the setting is multiplied by; of the friction its upper end."""


@final
@dataclass(frozen=True, kw_only=True)
class OODDetectionTest(ExamTest):
    """The test.

    Args:
        num_each: harmful scenes of each level, and as many harmless ones.
    """

    code: ClassVar[str] = "U3"
    section: ClassVar[Section] = Section.CONFIDENCE
    title: ClassVar[str] = "It knows when it is lost"
    claim: ClassVar[str] = (
        "It notices that the world no longer follows the law that it has learned, and is not alarmed by what is merely "
        "unusual."
    )
    calibrated: ClassVar[bool] = True

    declared_ceiling: ClassVar[float] = 0.8
    """In ranking errors: the mildest shifts are not always seen in 40 steps, even by who knows the law."""

    num_each: int = 100

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """See `ExamTest`."""
        return (dataset(self.pool, pixels=self.pixels),)

    def generate(self, seed: int) -> Arrays:
        """Scenes of each level, the harmful ones first, the harmless ones in the same order; see `ExamTest`."""
        rng, lab = np.random.default_rng([7, seed]), puck(self.pool)
        usual = _Usual.of(lab)
        num = NUM_LEVELS * self.num_each
        level, kind = np.repeat(np.arange(NUM_LEVELS), self.num_each), np.arange(num) % len(KINDS)
        harmful = _shifted(self.pool, level, kind, rng)
        calm = _harmless(lab, usual, usual.unusual(_history(harmful)), rng)
        scenes = {name: np.concatenate([value, calm[name]]) for name, value in harmful.items()}
        return {
            **scenes,
            "level": np.tile(level, 2),
            "kind": np.concatenate([kind, np.full(num, -1)]),
            "novelty": usual.novelty(_history(scenes)),
        }

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Means and trust; see `ExamTest`.

        Raises:
            UnsupportedError: the world tells no trust.
        """
        return _asked(only(worlds), scenes)

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """See `ExamTest`. The trivial models are calibrated on the last episodes of the logs, fitted on the others."""
        lab, episodes = puck(self.pool), next(iter(logs.values()))
        num = min(NUM_CALIBRATION, len(episodes) // 2)
        held, knows = episodes[-num:], PuckOracle(lab=lab)
        trivial = {name: _trusted(one, held) for name, one in engines(episodes[:-num], lab.schema).items()}
        apart = {name: _apart(_asked(world, pilot), pilot) for name, world in trivial.items()}
        best = max(apart, key=lambda name: apart[name])
        own = recorded(lab, NUM_CALIBRATION, np.random.default_rng(9))
        oracle = _asked(_trusted(knows, held), scenes)
        usual = _Usual.of_logs(episodes)
        novelty, pushed = usual.novelty(_history(scenes)), usual.parts(_history(scenes))[:, -1]
        oddity = 1 - np.exp(-np.abs(np.log(pushed / 2)))
        floor = _asked(trivial[best], scenes)
        return References(
            floor=floor,
            ceiling=_asked(_trusted(knows, own), scenes),
            oracle=oracle,
            must_fail={
                TRIVIAL: floor if best == "persistence" else _asked(trivial["persistence"], scenes),
                NOVELTY: {**oracle, "trust": 1 / (1 + novelty)},
                PUSHES: {**oracle, "trust": oddity},
                f"{PUSHES}, beside the floor": {**oracle, "trust": floor["trust"] * oddity},
                PRESENT: _asked(_trusted(knows, held, steps=0), scenes),
                CONSTANT: {**oracle, "trust": np.full(len(novelty), 0.5)},
            },
            floor_name=f"{best} with the toolkit's trust",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """The two cells; see `ExamTest`."""
        doubt, error, level = _doubt(answers), _error(scenes, answers), scenes["level"].astype(int)
        told = _told(error, level, scenes["kind"].astype(int))
        telling = {
            "apart": _apart(answers, scenes),
            "floor": _apart(references.floor, scenes),
            "ceiling": _apart(references.ceiling, scenes),
        }
        every = np.ones((1, len(doubt)))
        ranking = {
            "correlation": float(_spearman(doubt, error, level)(every)[0]),
            "possible": float(_possible(told, error, level)(every)[0]),
        }
        return Grade(
            cells=(
                cell(APART, _telling(scenes, answers, references), len(doubt),
                     raw=rounded(**telling)),
                cell("ranks errors", _ranking(doubt, error, told, level), len(doubt), raw=rounded(**ranking)),
            )
        )  # fmt: skip

    def grade_must_fail(self, name: str, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """Who goes by inputs alone is at chance, and not only below the floor: scenes are matched for that."""
        if name not in NOVELTIES:
            return self.grade(scenes, answers, references)
        doubt = _doubt(answers)
        return Grade(cells=(cell(f"{APART}, against chance", auroc(doubt, _harmful(scenes)), len(doubt)),))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Trust over the levels, and error against trust; see `ExamTest`."""
        harmful, level = scenes["kind"].astype(int) >= 0, scenes["level"].astype(int)
        steps = tuple(float(one + 1) for one in range(NUM_LEVELS))
        panels = []
        for name, one in (("this world", answers), (references.floor_name, references.floor)):
            lines = []
            for group, rows in (("harmful", harmful), ("harmless", ~harmful)):
                parts = [one["trust"][rows & (level == number)].astype(float) for number in range(NUM_LEVELS)]
                low, middle, high = (
                    tuple(float(np.quantile(part, share)) for part in parts) for share in (0.25, 0.5, 0.75)
                )
                lines.append(FigureLine(name=group, x=steps, y=middle, low=low, high=high))
            panels.append(
                FigurePanel(
                    title=f"Trust: {name}", x_label="severity of the shift", y_label="trust", lines=tuple(lines)
                )
            )
        doubt, error = _doubt(answers), _error(scenes, answers)
        points = tuple(
            FigureLine(
                name=group,
                x=tuple(doubt[rows].tolist()),
                y=tuple(np.log10(np.maximum(error[rows], 1e-12)).tolist()),
                points=True,
            )
            for group, rows in (("harmful", harmful), ("harmless", ~harmful))
        )
        panels.append(
            FigurePanel(title="Error and doubt", x_label="1 - trust", y_label="log10 of the error", lines=points)
        )
        return ExamFigure(
            caption="Harmful scenes follow another law; harmless ones follow the law of the logs and are as unusual as "
            "inputs. Trust has to fall in the first and stay in the second, more than it does around a trivial model; "
            "bands hold half of the scenes.",
            panels=tuple(panels),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Usual:
    """How inputs are spread in ordinary episodes.

    Args:
        centre: [6], of position, velocity and push.
        inverse: [6, 6], of their covariance.
    """

    centre: Floats
    inverse: Floats

    @classmethod
    def of(cls, lab: GustyPuck) -> _Usual:
        """Of a lab."""
        draws = draw(lab, USUAL, SEEN + BEFORE, np.random.default_rng(8))
        return cls._of_rows(_rows({n: v[:, :-1] for n, v in paths(lab, draws).items()}, draws.pushes))

    @classmethod
    def of_logs(cls, episodes: Sequence[Episode]) -> _Usual:
        """Of episodes."""
        rows = [
            _rows({name: one.observations[name][None, :-1] for name in SIGNALS}, one.actions["push"][None])
            for one in episodes
        ]
        return cls._of_rows(np.concatenate(rows, 1))

    @classmethod
    def _of_rows(cls, rows: Floats) -> _Usual:
        flat = rows.reshape(-1, rows.shape[-1])
        return cls(centre=flat.mean(0), inverse=np.linalg.inv(np.cov(flat.T)))

    def novelty(self, history: History) -> Float[np.ndarray, "E"]:
        """The mean squared Mahalanobis distance of the inputs of each history."""
        rows = _rows({name: history.observations[name][:, :-1] for name in SIGNALS}, history.actions["push"])
        return _squared(rows - self.centre, self.inverse)

    def parts(self, history: History) -> Float[np.ndarray, "E 3"]:
        """The same of position, velocity and push, each by itself; 2 is usual."""
        rows = _rows({name: history.observations[name][:, :-1] for name in SIGNALS}, history.actions["push"])
        away, covariance = rows - self.centre, np.linalg.inv(self.inverse)
        pairs = [slice(first, first + 2) for first in range(0, rows.shape[-1], 2)]
        return np.asarray(np.stack([_squared(away[..., one], np.linalg.inv(covariance[one, one])) for one in pairs], 1))

    def unusual(self, history: History) -> Float[np.ndarray, "E 4"]:
        """The logarithms of all four, by which scenes are matched."""
        return np.asarray(np.log(np.concatenate([self.novelty(history)[:, None], self.parts(history)], 1)))


def _squared(away: Float[np.ndarray, "E T F"], inverse: Float[np.ndarray, "F F"]) -> Float[np.ndarray, "E"]:
    """The mean over steps of the squared distance."""
    return np.asarray(np.einsum("etf,fg,etg->et", away, inverse, away).mean(1))


def _rows(observations: Arrays, pushes: NDArray[np.generic]) -> Float[np.ndarray, "E T 6"]:
    return np.concatenate([*(observations[name] for name in SIGNALS), pushes], -1, dtype=np.float64)


def _history(scenes: Arrays) -> History:
    return history_of(scenes)


def _shifted(pool: Any, level: Int[np.ndarray, "E"], kind: Int[np.ndarray, "E"], rng: np.random.Generator) -> Arrays:
    """Scenes of changed labs, one for each level and kind, and for each scene of a tilt."""
    draws = _drawn(puck(pool), len(level), rng)
    parts: list[tuple[NDArray[np.integer], Arrays]] = []
    for severity in range(NUM_LEVELS):
        for number, name in enumerate(KINDS):
            every = np.flatnonzero((level == severity) & (kind == number))
            each = list(every[:, None]) if name == "tilt" else [every]  # every table is tilted its own way
            for rows in (one for one in each if len(one)):
                changed = _changed(pool, name, SEVERITY[name][severity], rng)
                some = draws.at(rows)
                if name == "friction":
                    some = _with_friction(some, changed.friction[1])
                parts.append((rows, _scenes(changed, some, rng)))
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return {name: np.concatenate([one[name] for _, one in parts])[order] for name in parts[0][1]}


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
    """As the explorer's episodes, but set going and pushed weaker or stronger, each by a factor of its own."""
    usual = draw(lab, num_scenes, BEFORE + SEEN - 1 + AHEAD, rng)
    going, pushed = rng.uniform(LEAST_STRENGTH, MAX_STRENGTH, (2, num_scenes, 1))
    return EpisodeDraws(
        start={name: going * value.astype(float) for name, value in usual.start.items()},
        pushes=np.clip(pushed[..., None] * usual.pushes, -MAX_PUSH, MAX_PUSH).astype(np.float32),
        friction=usual.friction,
        gusts=usual.gusts,
    )


def _with_friction(draws: EpisodeDraws, friction: float) -> EpisodeDraws:
    return EpisodeDraws(
        start=draws.start,
        pushes=draws.pushes,
        friction=np.full(len(draws.friction), friction),
        gusts=draws.gusts,
    )


def _harmless(lab: GustyPuck, usual: _Usual, wanted: Float[np.ndarray, "E 4"], rng: np.random.Generator) -> Arrays:
    """Scenes of the unchanged lab, each about as unusual as is wanted, see `_Usual.unusual`; none twice."""
    candidates = _drawn(lab, CANDIDATES * len(wanted), rng)
    offered = usual.unusual(_past(lab, candidates))
    chosen = np.zeros(len(wanted), int)
    for place in np.argsort(-wanted[:, 0]):  # the most unusual first: those have the fewest candidates
        chosen[place] = np.argmin(((offered - wanted[place]) ** 2).sum(1))
        offered[chosen[place]] = np.inf
    return _scenes(lab, candidates.at(chosen), rng)


def _past(lab: GustyPuck, draws: EpisodeDraws) -> History:
    """What is shown of episodes."""
    last = BEFORE + SEEN - 1
    return History(
        observations={name: value[:, BEFORE : last + 1] for name, value in paths(lab, draws).items()},
        actions={"push": draws.pushes[:, BEFORE:last]},
    )


def _scenes(lab: GustyPuck, draws: EpisodeDraws, rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
    """Histories, the next pushes, and twins of what may come [E, S, T, 2]."""
    history, future = _past(lab, draws), draws.pushes[:, BEFORE + SEEN - 1 :]
    start = {name: np.repeat(value[:, -1], NUM_TWINS, 0) for name, value in history.observations.items()}
    pushes = np.repeat(future, NUM_TWINS, 0)
    gusts = lab.gust * rng.standard_normal(pushes.shape)
    twins = lab.simulate(start, {"push": pushes}, np.repeat(draws.friction, NUM_TWINS), gusts)
    truth = {name: value.reshape(-1, NUM_TWINS, *value.shape[1:]) for name, value in twins.items()}
    return {**packed_history(history), "future": future, **packed("truth", truth)}


def _asked(world: World, scenes: Arrays) -> dict[str, NDArray[np.generic]]:
    """Means and trust of a world, asked in batches."""
    check_readable(world, SIGNALS)
    history, num = history_of(scenes), len(scenes["future"])
    parts = []
    for first in range(0, num, BATCH):
        rows = np.arange(num) // BATCH == first // BATCH
        parts.append(world.predict(worlds_of(history, rows), {"push": scenes["future"][rows]}))
    trust = np.concatenate([np.atleast_1d(part.trust) for part in parts])
    if np.isnan(trust).any():
        raise UnsupportedError(f"{world.describe().name} tells no trust. Calibrate it on held-out episodes.")
    means = {name: np.concatenate([part.signals[name].mean for part in parts]).astype(np.float64) for name in SIGNALS}
    check_numbers(world, means, {"push": scenes["future"]})
    return {**packed("mean", means), "trust": trust}


def _doubt(answers: Arrays) -> Float[np.ndarray, "E"]:
    return np.asarray(1 - answers["trust"].astype(float))


def _error(scenes: Arrays, answers: Arrays) -> Float[np.ndarray, "E"]:
    """The squared error of each scene, the mean over its twins."""
    return squared_error(
        {name: value[:, None] for name, value in unpacked(answers, "mean").items()}, unpacked(scenes, "truth")
    )


def _trusted(engine: Engine, held: Sequence[Episode], *, steps: int = TRUST_STEPS) -> World:
    """A world over an engine, with the trust that the toolkit gives any."""
    found = calibrate(engine, held, horizon=AHEAD, num_windows=4, seed=0, trust_steps=steps, with_causes=False)
    return as_world(engine, found)


def _apart(answers: Arrays, scenes: Arrays) -> float:
    """2 AUROC - 1 of the doubt, of harmful scenes against harmless ones."""
    doubt = _doubt(answers)
    return float(auroc(doubt, _harmful(scenes))(np.ones((1, len(doubt))))[0])


def _harmful(scenes: Arrays) -> Bool[np.ndarray, "E"]:
    return np.asarray(scenes["kind"].astype(int) >= 0)


def _telling(scenes: Arrays, answers: Arrays, references: References) -> Statistic:
    """2 AUROC - 1 between that of the floor, 0, and of the ceiling, 1; NaN where those are too near each other."""
    own, floor, ceiling = (
        auroc(_doubt(one), _harmful(scenes)) for one in (answers, references.floor, references.ceiling)
    )

    def statistic(weights: Floats) -> Floats:
        least = floor(weights)
        possible = ceiling(weights) - least
        return ratio(own(weights) - least, np.where(possible >= GATE, possible, 0.0))

    return statistic


def _told(error: Floats, level: Int[np.ndarray, "E"], kind: Int[np.ndarray, "E"]) -> Float[np.ndarray, "E"]:
    """What is expected by who is told what has changed, and how much: the mean rank of such errors within the level."""
    found = np.zeros(len(error))
    for number in np.unique(level):
        rows = np.flatnonzero(level == number)
        rank = _ranks(error[rows], np.ones((1, len(rows))))[0]
        for one in np.unique(kind[rows]):
            found[rows[kind[rows] == one]] = rank[kind[rows] == one].mean()
    return found


def _ranking(doubt: Floats, error: Floats, told: Floats, level: Int[np.ndarray, "E"]) -> Statistic:
    """The correlation of doubt and error as a share of that of `_told` and error; NaN where that is too small.

    NaN as well where any error is: ranked, it would be the smallest.
    """
    own, best = _spearman(doubt, error, level), _possible(told, error, level)
    known = bool(np.isfinite(error).all())

    def statistic(weights: Floats) -> Floats:
        possible = best(weights) if known else np.zeros(len(weights))
        return ratio(own(weights), np.where(possible >= LEAST_POSSIBLE, possible, 0.0))

    return statistic


def _possible(told: Floats, error: Floats, level: Int[np.ndarray, "E"]) -> Statistic:
    """The correlation of `_told` and error, less the luck of means that were taken from these very errors.

    Source: Ezekiel 1930, the adjusted share of what is explained.
    """
    found, num_levels = _spearman(told, error, level), len(np.unique(level))
    spare = len(error) - len(np.unique(np.stack([level, told], 1), axis=0))
    luck = (len(error) - num_levels) / max(spare, 1)

    def statistic(weights: Floats) -> Floats:
        return np.asarray(np.sqrt(np.maximum(0.0, 1 - (1 - found(weights) ** 2) * luck)))

    return statistic


def _spearman(first: Floats, second: Floats, group: Int[np.ndarray, "E"]) -> Statistic:
    """Spearman's rank correlation within each group, the mean over the groups; 0 where one of the two is constant."""
    members = [np.flatnonzero(group == number) for number in np.unique(group)]

    def statistic(weights: Floats) -> Floats:
        found = []
        for rows in members:
            w = weights[:, rows]
            a, b = (_ranks(values[rows], w) for values in (first, second))
            a, b = (one - ratio((w * one).sum(-1), w.sum(-1))[:, None] for one in (a, b))
            size = np.sqrt((w * a**2).sum(-1) * (w * b**2).sum(-1))
            found.append(np.where(size > 0, ratio((w * a * b).sum(-1), size), 0.0))
        return np.asarray(np.mean(found, axis=0))

    return statistic


def _ranks(values: Float[np.ndarray, "E"], weights: Float[np.ndarray, "D E"]) -> Float[np.ndarray, "D E"]:
    """The rank of each value where each counts as often as it was drawn; ties share theirs."""
    below = (values[:, None] < values[None]) + 0.5 * (values[:, None] == values[None])
    return np.asarray(weights @ below)
