"""T4, order and arrow of time.

Question: does a world recognise the direction of time where there is one, and no direction where there is none?

Scenes: clips of three balls on a table (exam/src/worldline_exam/labs/clips.py), without actions, forwards and
backwards. Backward clips have their positions in reverse order and their velocities negated. So each frame is
consistent in itself, and one frame suffices to predict the next. One world learns the dissipative table (drag, cushions
that lose energy). It should be less surprised by forward clips. Another world learns the frictionless table. There the
right accuracy is chance.

Score: `(2 * acc_diss - 1) - 2 * |acc_rev - 1/2|`, over the same number of pairs for each table. The surprise of a clip
is the sum of -log p of `World.surprise` over all steps and signals. Its steps are paired with those of the other
direction between the same two frames. A pair is decided if the mean difference exceeds `MIN_STANDARD_ERRORS` standard
errors. Otherwise it is a tie, which counts half. There are no further pass conditions.

Must fail: a symmetric statistic of frame differences; persistence and constant velocity, queried like worlds.

Deviations from the specification:

* The specification counts ties half but does not define a tie. With every pair forced, 200 fair coins cost a right
  "don't know" 0.06 on average and up to 0.14, and no oracle passes for certain. Undecided pairs gain nothing. On the
  dissipative table a tie costs half a hit. On the frictionless one it gives what a fair coin gives on average.
  Accuracies with every pair forced are raw figures.
* Velocities are observed, and negated in backward clips, so that worlds with a context of one observation can answer.
* On the frictionless table forward and backward clips have the same distribution, so no world can beat chance there.
  That half checks the harness (clips cut differently, velocities not negated). A world loses by it only by chance.

A world of pictures observes no signals, so it has no surprise. It predicts one step at a time instead. Each step counts
log(1 + z^2), where z is the error over half the width of the world's 90 % band, summed over components. These heavy
tails limit a missed bounce to about one step. References are evaluated in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.audit import (
    HALF,
    Floats,
    Grade,
    Statistic,
    as_world,
    cell,
    check_readable,
    forecasts,
    packed,
    rounded,
    unpacked,
)
from worldline.engines import ConstantVelocity, Engine, Persistence
from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError, UnsupportedError
from worldline.stats import ratio
from worldline.world import Forecast, World, calibrate
from worldline_exam.base import DatasetSpec, ExamTest, Pool, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.clips import BALLS, Clips, shown
from worldline_exam.references.lab_oracle import oracle_of

TABLES: Final = ("dissipative", "frictionless")
SIGNALS: Final = tuple(f"{ball}_{what}" for ball in BALLS for what in ("position", "velocity"))
MIN_STANDARD_ERRORS: Final = 2.0
"""Standard errors by which the surprise of the two directions has to differ."""
MIN_HISTORY: Final = 3
"""Smallest number of frames given to a world of pictures; more if its card asks for a longer context."""
DECIMALS: Final = 6
"""Decimals to which differences of surprise are rounded."""
NUM_CALIBRATION: Final = 100
"""Logged episodes on which references are calibrated."""


@final
@dataclass(frozen=True, kw_only=True)
class ArrowOfTimeTest(ExamTest):
    """Test of the arrow of time; the module docstring specifies it.

    Args:
        num_pairs: number of clips of each table.
        num_steps: length of a clip, steps.
        num_episodes: number of episodes in each dataset.
    """

    code: ClassVar[str] = "T4"
    section: ClassVar[Section] = Section.TIME
    title: ClassVar[str] = "Order and arrow"
    declared_ceiling: ClassVar[float] = 0.95
    """Some of 200 clips without an arrow exceed `MIN_STANDARD_ERRORS` by chance."""
    claim: ClassVar[str] = "It recognises the direction of time in a clip by the loss of energy."
    calibrated: ClassVar[bool] = True

    num_pairs: int = 200
    num_steps: int = 30
    num_episodes: int = 400

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """One dataset for each table."""
        return tuple(
            DatasetSpec(
                name=self._name(table),
                make_lab=partial(self._lab, table, pictures=self.pixels),
                asked=SIGNALS,
                num_episodes=self.num_episodes,
                num_steps=self.num_steps,
            )
            for table in TABLES
        )

    def generate(self, seed: int) -> Arrays:
        """Per table the forward clips `<table>.<signal>` [E, T + 1, 2]."""
        scenes: dict[str, NDArray[np.generic]] = {}
        for number, table in enumerate(TABLES):
            lab, rng = self._lab(table), np.random.default_rng([seed, number])
            states = [lab.starts(self.num_pairs, rng)]
            for _ in range(self.num_steps):
                states.append(lab.advance(states[-1], np.zeros((self.num_pairs, 2))))
            scenes |= packed(table, shown(lab.noisy(np.stack(states, 1), rng)))
        return scenes

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Per table `<table>.forward` and `<table>.backward` [E, T]: surprise at each step, in the clip's own order."""
        by_table = {table: self._name(table) for table in TABLES}
        missing = [name for name in by_table.values() if name not in worlds]
        if missing:
            raise InputError(f"no world for {', '.join(missing)}. Pass one world for each dataset of the test.")
        return self._surprises({table: worlds[name] for table, name in by_table.items()}, scenes)

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The oracle knows drag and cushions and observes the same noise. The floor is chance."""
        del pilot  # no trivial model is chosen: chance is the floor
        schema = self._lab(TABLES[0]).schema
        worlds: dict[str, dict[str, World]] = {"oracle": {}, "persistence": {}, "constant velocity": {}}
        for table in TABLES:
            episodes = logs[self._name(table)]
            engines: tuple[Engine, ...] = (
                oracle_of(self._lab(table)),
                Persistence.fit(episodes, schema),
                ConstantVelocity.fit(episodes, schema),
            )
            for by_table, engine in zip(worlds.values(), engines, strict=True):
                by_table[table] = _calibrated(engine, episodes)
        surprises = {name: self._surprises(by_table, scenes) for name, by_table in worlds.items()}
        return References(
            oracle=surprises.pop("oracle"),
            must_fail={"frame differences": _frame_differences(scenes), **surprises},
            floor_name="chance",
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """One cell: the arrow on the dissipative table, less any on the frictionless one."""
        del scenes, references
        hits = {table: _hits(answers, table) for table in TABLES}
        forced = {table: _hits(answers, table, min_standard_errors=0.0) for table in TABLES}
        raw = rounded(
            **{f"acc_{table}": hits[table].mean() for table in TABLES},
            **{f"told_{table}": (hits[table] != HALF).mean() for table in TABLES},
            **{f"forced_acc_{table}": forced[table].mean() for table in TABLES},
        )
        return Grade(cells=(cell("arrow", _arrow(*hits.values()), len(hits[TABLES[0]]), raw=raw),))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Surprise of both directions of each clip."""
        del scenes  # unused
        others = {"oracle": references.oracle, "persistence": references.must_fail["persistence"]}
        return ExamFigure(
            caption=(
                "Each point is a clip. Points above the diagonal are more surprising backwards. With drag all points "
                "should be there, and without drag they should lie on both sides."
            ),
            panels=tuple(_scatter(table, answers, others) for table in TABLES),
        )

    def _name(self, table: str) -> str:
        return f"clips-{table}-{self.pool}{'-pixels' if self.pixels else ''}"

    def _lab(self, table: str, *, pictures: bool = False) -> Clips:
        drag, bounce, noise = (0.3, 0.8, 0.02) if self.pool is Pool.DEVELOPMENT else (0.36, 0.86, 0.024)
        if table == "frictionless":
            drag, bounce = 0.0, 1.0
        return Clips(drag=drag, bounce=bounce, noise=noise, pictures=pictures)

    def _surprises(self, worlds: Mapping[str, World], scenes: Arrays) -> dict[str, NDArray[np.generic]]:
        answers: dict[str, NDArray[np.generic]] = {}
        for table, world in worlds.items():
            check_readable(world, SIGNALS)
            clips = unpacked(scenes, table)
            for direction, ways in (("forward", clips), ("backward", backwards(clips))):
                _next_step(world, ways, 0)  # raises if the world predicts no signals, which p-values would not show
                answers[f"{table}.{direction}"] = (
                    _band_errors(world, ways)
                    if self.pixels
                    else np.stack([_surprise(world, ways, e) for e in range(len(clips[SIGNALS[0]]))])
                )
        return answers


def backwards(clips: Arrays) -> dict[str, NDArray[np.generic]]:
    """Clips [E, T + 1, 2] in the reverse order, with their velocities reversed."""
    signs = {name: np.float32(-1 if name.endswith("velocity") else 1) for name in clips}
    return {name: signs[name] * value[:, ::-1].astype(np.float32) for name, value in clips.items()}


def _surprise(world: World, clips: Arrays, number: int) -> Float[np.ndarray, "T"]:
    """-log p of each step of one clip, summed over the signals."""
    shows = {name: value[number] for name, value in clips.items()}
    num_steps = len(shows[SIGNALS[0]]) - 1
    episode = Episode(observations=shows, actions={"push": np.zeros((num_steps, 2), np.float32)})
    p_values = world.surprise(episode).p_values
    return np.asarray(-np.log(np.stack([p_values[name] for name in SIGNALS])).sum(0))


def _band_errors(world: World, clips: Arrays) -> Float[np.ndarray, "E T"]:
    """The error of the prediction of each step, in units of the world's bands; raises if it has no bands."""
    steps = list[Floats]()
    for now in range(clips[SIGNALS[0]].shape[1] - 1):
        forecast = _next_step(world, clips, now)
        steps.append(np.sum([_log_error(forecast[name], clips[name][:, now + 1]) for name in SIGNALS], axis=0))
    return np.stack(steps, 1)


def _next_step(world: World, clips: Arrays, now: int) -> dict[str, Forecast]:
    """The world's forecast of the step after observation `now`."""
    num_clips, length = clips[SIGNALS[0]].shape[:2]
    shown, still = max(MIN_HISTORY, world.describe().context), np.zeros((num_clips, length, 2), np.float32)
    past = slice(max(0, now + 1 - shown), now + 1)
    history = History(
        observations={name: value[:, past] for name, value in clips.items()},
        actions={"push": still[:, past.start : now]},
    )
    return forecasts(world, history, {"push": still[:, :1]}, signals=SIGNALS)


def _log_error(forecast: Forecast, came: NDArray[np.generic]) -> Float[np.ndarray, "E"]:
    """log(1 + z^2) of both components, z being the error over half the band's width."""
    if forecast.low is None or forecast.high is None:
        raise UnsupportedError("the world gives no bands, which T4 needs with pictures. Calibrate the world.")
    half = np.maximum((forecast.high - forecast.low)[:, 0].astype(float) / 2, np.finfo(float).tiny)
    return np.asarray(np.log1p(((came - forecast.mean[:, 0].astype(float)) / half) ** 2).sum(-1))


def _calibrated(engine: Engine, episodes: Sequence[Episode]) -> World:
    kept = episodes[:NUM_CALIBRATION]
    calibration = calibrate(engine, kept, horizon=1, num_windows=8, seed=0, trust_steps=0, with_causes=False)
    return as_world(engine, calibration)


def _hits(answers: Arrays, table: str, *, min_standard_errors: float = MIN_STANDARD_ERRORS) -> Float[np.ndarray, "E"]:
    """1 where a clip is significantly less surprising forwards, 0 where backwards, 0.5 for a tie."""
    forward, backward = (answers[f"{table}.{way}"].astype(float) for way in ("forward", "backward"))
    apart = np.round(backward[:, ::-1] - forward, DECIMALS)
    error = apart.std(1, ddof=1) / np.sqrt(apart.shape[1])
    decided = np.abs(apart.mean(1)) > min_standard_errors * error
    return np.asarray(np.where(decided, (1 + np.sign(apart.mean(1))) / 2, HALF))


def _arrow(with_drag: Float[np.ndarray, "E"], without: Float[np.ndarray, "E"]) -> Statistic:
    def statistic(weights: Floats) -> Floats:
        diss, rev = (ratio(weights @ hits, weights.sum(-1)) for hits in (with_drag, without))
        return np.asarray((2 * diss - 1) - 2 * np.abs(rev - HALF))

    return statistic


def _frame_differences(scenes: Arrays) -> dict[str, NDArray[np.generic]]:
    """The squared change of all positions from frame to frame, which is the same in both directions."""
    answers: dict[str, NDArray[np.generic]] = {}
    for table in TABLES:
        clips = unpacked(scenes, table)
        for way, played in (("forward", clips), ("backward", backwards(clips))):
            places = np.concatenate([played[f"{ball}_position"] for ball in BALLS], -1).astype(float)
            answers[f"{table}.{way}"] = (np.diff(places, axis=1) ** 2).sum(-1)
    return answers


def _scatter(table: str, answers: Arrays, others: Mapping[str, Arrays]) -> FigurePanel:
    """Total surprise of each clip, forwards and backwards."""

    def points(name: str, surprises: Arrays) -> FigureLine:
        x, y = (surprises[f"{table}.{way}"].astype(float).sum(-1) for way in ("forward", "backward"))
        return FigureLine.of(name, x, y, points=True)

    lines = tuple(points(name, surprises) for name, surprises in {**others, "this world": answers}.items())
    edge = max(max(*line.x, *line.y) for line in lines)
    diagonal = FigureLine.of("no difference", (0.0, edge), (0.0, edge))
    forwards, backwards = (f"surprise {way} [nat]" for way in ("forwards", "backwards"))
    return FigurePanel.of(f"{table} table", forwards, backwards, (diagonal, *lines), equal=True)
