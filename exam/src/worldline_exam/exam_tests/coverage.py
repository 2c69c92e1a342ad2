"""U1, joint coverage and sharpness.

Question: do bands hold whole paths as often as they claim, and are they no wider than necessary?

Scenes: a world observes 16 frames of a puck in gusts and gets the next 20 pushes. It gives a mean and, at several
levels, a joint band for each signal. 500 episodes of the logs are meant for calibration at 20 steps. There are 300
fresh episodes, each with a window at a random place (16 observations before, 20 steps ahead). A world with a shorter
context is also calibrated at earlier windows, where the friction cannot yet be inferred and errors are larger. Its
bands then hold about 0.01 more than they claim.

Pass condition (a gate): the number of paths that lie inside the 90 % band at every step is compatible with the
beta-binomial law of split conformal prediction, 254 to 284 of 300. P-values are exact, with Holm over the two signals
at 5 % (256 to 282 would be 5 % for each).

Score, a cell for each signal: skill of the energy score E|X - y| - E|X - X'| / 2 of the forecast X against the true
path y. The floor is the best trivial model with bands calibrated likewise. The ceiling is samples of the true law given
the history. The energy score is proper: the true law has the best expected score.

A world gives bands and no samples, so its scored forecast is 64 paths `mean + w * h(u)`, in the same way for every
world:

* h(u) is the distance to the edge of the band with probability u, linear between the levels, and u is evenly spaced in
  (0, 1).
* w are random walks over their standard deviation. Each is divided by its largest absolute value over steps and
  components, so a path touches the edge of one band once and is inside elsewhere.

That is the meaning of a joint band: a share u of paths lies inside the band of level u, with errors that accumulate.

The samples of the true law are paths of the lab with fresh gusts and known friction. Position and velocity are two
equations in the gust and the friction of a step, so 16 observations determine the friction to three digits.

The oracle knows the law and infers the friction from the velocities. It is calibrated like any world, on 2,000 separate
episodes, so that chance in its calibration does not void the test. It scores 0.98, since its bands are equally wide for
any friction and its paths do not bend like gusts. With w drawn once for a path it scored 0.97, while narrower bands
with too little coverage scored 0.98. With random walks, bands with the right coverage score best.

Must fail: bands that hold 90 % at each step separately, around the oracle's means (they miss joint coverage);
persistence with calibrated bands; climatology, the mean of the logs with calibrated bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, final

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from worldline.audit import (
    ALPHA,
    Cell,
    Condition,
    Floats,
    Grade,
    as_world,
    best_of,
    engines,
    forecasts,
    history_of,
    holm,
    only,
    packed,
    packed_history,
    skill_cell,
)
from worldline.engines import Engine
from worldline.episode import Arrays, Episode, History
from worldline.errors import UnsupportedError
from worldline.stats import tails
from worldline.world import Calibration, World, calibrate
from worldline_exam.base import DatasetSpec, ExamTest, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.references.puck_oracle import PuckOracle
from worldline_exam.scenes.puck import (
    AHEAD,
    NUM_CALIBRATION,
    NUM_STEPS,
    SIGNALS,
    dataset,
    draw,
    paths,
    puck,
    recorded,
    twins,
    window,
)

LEVELS: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
"""Levels at which bands are queried."""
STEPWISE_BANDS: Final = "bands of each step"
GATED_LEVEL: Final = LEVELS.index(0.9)
NUM_PATHS: Final = 64
WINDOWS: Final = 4
"""Calibration windows of each episode."""
HISTORY: Final = 16


@final
@dataclass(frozen=True, kw_only=True)
class JointCoverageTest(ExamTest):
    """Test of joint coverage and sharpness; the module docstring specifies it.

    Args:
        num_scenes: number E of scenes.
        num_own: number of episodes on which the oracle is calibrated.
    """

    code: ClassVar[str] = "U1"
    section: ClassVar[Section] = Section.CONFIDENCE
    title: ClassVar[str] = "Joint coverage and sharpness"
    claim: ClassVar[str] = "Its bands hold whole paths as often as they claim, and are no wider than necessary."
    calibrated: ClassVar[bool] = True
    fail_by_gate: ClassVar[tuple[str, ...]] = (STEPWISE_BANDS,)

    num_scenes: int = 300
    num_own: int = 2000

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """One dataset: the gusty puck."""
        return (dataset(self.pool, pixels=self.pixels),)

    def generate(self, seed: int) -> Arrays:
        """Windows of fresh episodes, and samples of the true law."""
        lab, rng = puck(self.pool), np.random.default_rng([5, seed])
        draws = draw(lab, self.num_scenes, NUM_STEPS, rng)
        path, first = paths(lab, draws), rng.integers(0, NUM_STEPS - AHEAD - HISTORY + 2, self.num_scenes)
        history = History(
            observations={name: window(value, first, HISTORY) for name, value in path.items()},
            actions={"push": window(draws.pushes, first, HISTORY - 1)},
        )
        future = window(draws.pushes, first + HISTORY - 1, AHEAD)
        return {
            **packed_history(history),
            "future": future,
            "friction": draws.friction,
            **packed("truth", {name: window(value, first + HISTORY, AHEAD) for name, value in path.items()}),
            **packed("law", twins(lab, history, future, draws.friction, NUM_PATHS, rng)),
        }

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Means, and the edges of the bands at each level [E, L, T, 2].

        Raises:
            UnsupportedError: the world gives no bands.
        """
        return _answers(only(worlds), scenes)

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """All references; trivial models are calibrated on the last logged episodes and fitted on the others."""
        lab, episodes = puck(self.pool), next(iter(logs.values()))
        num = min(NUM_CALIBRATION, len(episodes) // 2)
        bank = {
            name: as_world(engine, _calibrated(engine, episodes[-num:]))
            for name, engine in engines(episodes[:-num], lab.schema).items()
        }
        best = best_of({name: _answers(world, pilot) for name, world in bank.items()}, lambda a: _loss(a, pilot))
        trivial = {name: _answers(world, scenes) for name, world in bank.items()}
        oracle = PuckOracle(lab=lab, context=HISTORY)
        # Drawn with a seed of their own, separate from `logs`.
        own_logs = recorded(lab, self.num_own, np.random.default_rng([6, self.num_own]))
        calibration = _calibrated(oracle, own_logs)
        return References(
            floor=trivial[best]
            | {f"marginal.{name}": _energies(trivial["marginal mean"], scenes, name) for name in SIGNALS},
            ceiling={f"energy.{name}": _law_energy(scenes, name) for name in SIGNALS},
            oracle=_answers(as_world(oracle, calibration), scenes),
            must_fail={
                STEPWISE_BANDS: _answers(as_world(oracle, _stepwise(calibration)), scenes),
                "persistence": trivial["persistence"],
                "climatology": trivial["marginal mean"],
            },
            floor_name=best,
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell for each signal, and the condition on the coverage of both."""
        cells = tuple(_cell(name, scenes, answers, references) for name in SIGNALS)
        counts = {name: int(_inside(answers, scenes, name)[:, GATED_LEVEL].sum()) for name in SIGNALS}
        return Grade(cells=cells, conditions=(_coverage(counts, len(scenes["friction"])),))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Reliability diagrams."""
        rows = {
            "this world": answers,
            references.floor_name: references.floor,
            STEPWISE_BANDS: references.must_fail[STEPWISE_BANDS],
        }
        panels = []
        for name in SIGNALS:
            shares = {row: _inside(bands, scenes, name).mean(0) for row, bands in rows.items()}
            lines = [FigureLine.of("truth", (0.0, 1.0), (0.0, 1.0))]
            lines += [FigureLine.of(row, LEVELS, share) for row, share in shares.items()]
            labels = (f"Joint coverage, {name}", "claimed level", "share inside at every step")
            panels.append(FigurePanel.of(*labels, lines, equal=True))
        return ExamFigure(
            caption="A calibrated world lies on the diagonal. The skill also counts how narrow its bands are.",
            panels=tuple(panels),
        )


def _cell(name: str, scenes: Arrays, answers: Arrays, references: References) -> Cell:
    """The cell of a signal."""
    if not all(np.isfinite(answers[f"{edge}.{name}"].astype(float)).all() for edge in ("low", "high")):
        return Cell(name=name, score=None, note="undefined: a band is infinite")
    return skill_cell(
        name,
        _energies(answers, scenes, name),
        _energies(references.floor, scenes, name),
        references.ceiling[f"energy.{name}"].astype(float),
        marginal=references.floor[f"marginal.{name}"].astype(float),
    )


def _answers(world: World, scenes: Arrays) -> dict[str, NDArray[np.generic]]:
    """Means and bands of a world at all levels."""
    history, actions = history_of(scenes), {"push": scenes["future"]}
    by_level = [forecasts(world, history, actions, signals=SIGNALS, level=level) for level in LEVELS]
    arrays: dict[str, NDArray[np.generic]] = {}
    for name in SIGNALS:
        lows, highs = [by_signal[name].low for by_signal in by_level], [by_signal[name].high for by_signal in by_level]
        if any(edge is None for edge in (*lows, *highs)):
            raise UnsupportedError(
                f"{world.describe().name} gives no band of {name}. Calibrate it on held-out episodes."
            )
        arrays[f"mean.{name}"] = by_level[0][name].mean.astype(np.float64)
        arrays[f"low.{name}"] = np.stack([edge for edge in lows if edge is not None], 1)
        arrays[f"high.{name}"] = np.stack([edge for edge in highs if edge is not None], 1)
    return arrays


def _calibrated(engine: Engine, episodes: Sequence[Episode]) -> Calibration:
    return calibrate(engine, episodes, horizon=AHEAD, num_windows=WINDOWS, seed=0, trust_steps=0, with_causes=False)


def _stepwise(calibration: Calibration) -> Calibration:
    """Bands that hold at each step separately, for Gaussian errors in units of their mean size."""
    num = calibration.num_episodes * calibration.num_windows
    # |z| of a standard Gaussian over its mean, as evenly spaced quantiles
    sizes = np.sort(np.abs(np.random.default_rng(0).standard_normal((num, 101))), axis=0).mean(1) / np.sqrt(2 / np.pi)
    return replace(
        calibration, scores={name: np.broadcast_to(sizes, value.shape) for name, value in calibration.scores.items()}
    )


def _inside(answers: Arrays, scenes: Arrays, name: str) -> Bool[np.ndarray, "E L"]:
    """Whether the whole path lies inside the band of each level."""
    truth = scenes[f"truth.{name}"].astype(float)[:, None]
    return np.asarray(((answers[f"low.{name}"] <= truth) & (truth <= answers[f"high.{name}"])).all((2, 3)))


def _coverage(counts: Mapping[str, int], num_scenes: int) -> Condition:
    """Condition: the number of paths inside is compatible with the claimed level for both signals."""
    p_values = {}
    for name, count in counts.items():
        chance = tails(count, num_scenes, LEVELS[GATED_LEVEL], NUM_CALIBRATION)
        p_values[name] = min(1.0, 2 * min(chance.low, chance.high))
    return Condition(
        name="joint coverage at 90 % within the beta-binomial law of 500 episodes (Holm)",
        met=not holm(p_values, ALPHA),
        found=", ".join(f"{name} {counts[name] / num_scenes:.3f}, p = {p:.3g}" for name, p in p_values.items()),
        gate=True,
    )


def _shapes() -> Float[np.ndarray, "S T 2"]:
    """Random walks over their deviation at each step, with mirror images, scaled to a largest size of 1."""
    steps = np.random.default_rng(0).standard_normal((NUM_PATHS // 2, AHEAD, 2)).cumsum(1)
    walks = steps / np.sqrt(np.arange(1, AHEAD + 1))[:, None]
    walks /= np.abs(walks).max((1, 2), keepdims=True)
    return np.asarray(np.stack([walks, -walks], 1).reshape(NUM_PATHS, AHEAD, 2))


def _ensemble(answers: Arrays, name: str) -> Float[np.ndarray, "E S T 2"]:
    """The paths that represent a mean and its bands; see the module docstring."""
    mean = answers[f"mean.{name}"].astype(float)[:, None]
    above, below = answers[f"high.{name}"] - mean, mean - answers[f"low.{name}"]
    shares = np.repeat((np.arange(NUM_PATHS // 2) + 0.5) / (NUM_PATHS // 2), 2)  # one for a walk and its mirror image
    place = np.searchsorted(LEVELS[:-1], shares)  # the last segment is extrapolated
    ends = np.array([0.0, *LEVELS])
    part = ((shares - ends[place]) / (ends[place + 1] - ends[place]))[:, None, None]

    def edge_distance(edge: Floats) -> Floats:
        every = np.concatenate([np.zeros_like(edge[:, :1]), edge], 1)
        return np.asarray(every[:, place] + part * (every[:, place + 1] - every[:, place]))

    w = _shapes()
    return np.asarray(mean + np.where(w > 0, w * edge_distance(above), w * edge_distance(below)))


def _energies(answers: Arrays, scenes: Arrays, name: str) -> Float[np.ndarray, "E"]:
    """The energy score of the paths that represent an answer."""
    return _energy(_ensemble(answers, name), scenes[f"truth.{name}"].astype(float), NUM_PATHS**2)


def _law_energy(scenes: Arrays, name: str) -> Float[np.ndarray, "E"]:
    """The energy score of the true law. Its paths are independent draws, so pairs are of two different paths."""
    return _energy(
        scenes[f"law.{name}"].astype(float), scenes[f"truth.{name}"].astype(float), NUM_PATHS * (NUM_PATHS - 1)
    )


def _energy(paths_: Float[np.ndarray, "E S T C"], truth: Float[np.ndarray, "E T C"], num_pairs: int) -> Floats:
    """The energy score E|X - y| - E|X - X'| / 2 of whole paths.

    Source: Gneiting and Raftery (2007), section 4.3.
    """
    flat, came = paths_.reshape(*paths_.shape[:2], -1), truth.reshape(len(truth), 1, -1)
    square = (flat**2).sum(-1)
    apart = square[:, :, None] + square[:, None] - 2 * flat @ np.swapaxes(flat, 1, 2)
    spread = np.sqrt(np.maximum(apart, 0.0)).sum((1, 2)) / num_pairs
    return np.asarray(np.linalg.norm(flat - came, axis=-1).mean(1) - spread / 2)


def _loss(answers: Arrays, scenes: Arrays) -> Floats:
    """Loss over both signals, each in units of its spread."""
    return np.asarray(np.sum([_energies(answers, scenes, n) / scenes[f"truth.{n}"].std() for n in SIGNALS], axis=0))
