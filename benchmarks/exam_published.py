"""Parts of the exam against published metrics: matched sets, copying baselines, and split conformal prediction.

Used by exam_harness.py.

* Matched sets. IntPhys (Riochet et al., arXiv 1803.07616, equation 1): a set has two possible and two impossible
  movies. It is an error if the plausibilities of the possible movies sum to less than those of the impossible ones, as
  in the authors' scoring script. A tie counts half, as on their leaderboard since 2020. The plausibility of a movie is
  here minus the surprise of a world's stored answers to P1. Our metric is stricter: in each context separately, the
  impossible outcome must be more surprising. (Outcomes at another time are left out here.) Both metrics agree exactly
  in every set that is not split between its contexts. So the accuracies differ by at most half the share of split sets.

* Copying. CoPhy (Baradel et al., arXiv 1909.12000): A became B; what would C have become? The error is the mean squared
  error of positions over objects and time, as in the authors' code. "Copy C" keeps C constant, as there. "Copy B" is
  not defined in their code; here it is the observed continuation of the episode. C is the puck at the branch, and the
  pushes change. A model that ignores the episode knows A and C alone, like the published networks without a
  counterfactual. Friction is the confounder; a model with known friction stands for those with known confounders.

* Conformal prediction (Vovk 2012, proposition 2a): see `chance.tails`, which U1 uses to judge counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from exam_rates import Figures, Rng, kept_draws, rate
from numpy.typing import NDArray

from worldline.audit.baselines import as_world
from worldline.audit.queries import unpacked
from worldline.audit.verdicts import ALPHA, holm
from worldline.engines.baselines import Linear
from worldline.episode import Arrays, Episode
from worldline.stats import tails
from worldline.world.calibration import SCALE_SHARE
from worldline.world.fit_calibration import calibrate
from worldline_exam.base import References
from worldline_exam.exam_tests.counterfactual import AT, WINDOWS, CounterfactualTest
from worldline_exam.exam_tests.coverage import GATED_LEVEL, LEVELS
from worldline_exam.exam_tests.coverage import WINDOWS as WINDOWS_EACH
from worldline_exam.exam_tests.violation import DECIMALS, PARTS, ViolationOfExpectationTest
from worldline_exam.scenes.puck import NUM_CALIBRATION, SIGNALS, puck

Floats = NDArray[np.floating]

NUM_TESTED: Final = 300
BAND: Final = (0.853, 0.940)
LEVEL: Final = LEVELS[GATED_LEVEL]
NUM_REFERENCE: Final = 20_000
"""Draws of the law itself, as the reference distribution of the distance."""
FRICTIONS: Final = 141
"""Grid points for inferring the friction of an episode."""


def published_right(surprise: Floats) -> Floats:
    """Score of each set [E] from surprises [E, context, outcome]: 1 if right by equation 1, 0.5 for a tie."""
    total = np.round(surprise, DECIMALS)
    possible, impossible = np.trace(total, axis1=1, axis2=2), np.trace(total[:, :, ::-1], axis1=1, axis2=2)
    apart = np.round(impossible - possible, DECIMALS)
    return np.asarray((apart > 0) + 0.5 * (apart == 0))


def our_hits(surprise: Floats) -> Floats:
    """Score of each context [E, 2] from the same: 1 if the impossible outcome is more surprising, 0.5 for a tie."""
    total = np.round(surprise, DECIMALS)
    apart = np.stack([total[:, 0, 1] - total[:, 0, 0], total[:, 1, 0] - total[:, 1, 1]], 1)
    return np.asarray((apart > 0) + 0.5 * (apart == 0))


def compared(surprise: Floats) -> Figures:
    """Both metrics of the same answers, and whether their relation holds."""
    ours, theirs = our_hits(surprise), published_right(surprise)
    split = np.abs(ours[:, 0] - ours[:, 1]) == 1
    due = 0.5 + 0.5 * np.sign(ours.sum(1) - 1)
    accuracy = float(ours.mean())
    return {
        "published error": round(1 - float(theirs.mean()), 4),
        "our pair error": round(1 - accuracy, 4),
        "our both right": round(float(ours.prod(1).mean()), 4),
        "split": round(float(split.mean()), 4),
        "holds": bool((theirs == due)[~split].all())
        and abs(float(theirs.mean()) - _untied(ours)) <= 0.5 * float(split.mean()) + 1e-9,
    }


def _untied(ours: Floats) -> float:
    """The mean of our scores; a set with one tie counts like its other context."""
    return float((0.5 + 0.5 * np.sign(ours.sum(1) - 1)).mean())


def constructed(rng: Rng) -> dict[str, Figures]:
    """Constructed answers with known results."""
    small, large = rng.random((1000, 1, 1)), 1 + rng.random((1000, 1, 1))
    same = np.eye(2)[None]
    judged = rng.random((1000, 1, 2))  # depends on the outcome only
    return {
        "always right": compared(small * same + large * (1 - same)),
        "always wrong": compared(large * same + small * (1 - same)),
        "one outcome always more surprising": compared(np.repeat(judged, 2, 1)),
        "no surprise": compared(np.zeros((1000, 2, 2))),
        "at random": compared(rng.random((1000, 2, 2))),
        # Far right in one context, slightly wrong in the other: right as a set, half right in pairs.
        "right by much, wrong by little": compared(np.array([[[0.0, 1.0], [0.0, 0.1]]]) + np.zeros((1000, 1, 1))),
    }


def matched_sets(seeds: Sequence[int], logs: Mapping[str, Sequence[Episode]]) -> dict[str, dict[str, Figures]]:
    """Results by model and principle, over the sets of all seeds."""
    test, found = ViolationOfExpectationTest(), dict[str, dict[str, list[Floats]]]()
    for seed in seeds:
        scenes = test.generate(seed)
        references = test.references(scenes, scenes, logs)
        for model, answers in {"oracle": references.oracle, **references.must_fail}.items():
            for part in PARTS:
                found.setdefault(model, {}).setdefault(part.name, []).append(_sets(answers, part.name))
    return {
        model: {part: compared(np.concatenate(sets)) for part, sets in parts.items()} for model, parts in found.items()
    }


def of_stored(exam: Path) -> dict[str, dict[str, Figures]]:
    """Results by training and principle, from the surprises of a subject's worlds in an exam."""
    found: dict[str, dict[str, Figures]] = {}
    for path in sorted(exam.glob("answers/P1/answers-*.npz")):
        answers = dict(np.load(path))
        found[path.stem] = {part.name: compared(_sets(answers, part.name)) for part in PARTS}
    return found


def _sets(answers: Arrays, part: str) -> Floats:
    """Surprises [2 E, context, outcome] of the accelerated and of the delayed sets."""
    surprise = answers[f"{part}.surprise"].astype(float).sum(-1)
    return np.concatenate([surprise[:, quadruplet, quadruplet] for quadruplet in (slice(0, 2), slice(2, 4))])


def inferred_friction(scenes: Arrays, test: CounterfactualTest) -> Floats:
    """The friction of each scene [E] that makes the episode's steps least surprising, on a grid."""
    lab, seen = puck(test.pool), unpacked(scenes, "factual")
    start = {name: seen[name][:, :-1].reshape(-1, 2) for name in SIGNALS}
    speed = seen["puck_velocity"][:, 1:].astype(float)
    pushes = {"push": scenes["taken"].reshape(-1, 1, 2)}
    grid, misses = np.linspace(*lab.friction, FRICTIONS), []
    for friction in grid:
        told = lab.expected(start, pushes, {"friction": np.full(len(pushes["push"]), friction)})["puck_velocity"]
        apart = told[:, 0].astype(float).reshape(speed.shape) - speed
        misses.append((apart**2).sum((1, 2)))
    return np.asarray(grid[np.argmin(misses, axis=0)])


def copying(seed: int, num_scenes: int, logs: Mapping[str, Sequence[Episode]]) -> Figures:
    """Errors of copying, of ignoring the episode, and of inferring the hidden friction; and their ranking."""
    test = CounterfactualTest(num_scenes=num_scenes)
    scenes = test.generate(seed)
    references = test.references(scenes, scenes, logs)
    truth = unpacked(scenes, "truth")["puck_position"].astype(float)
    told = _rows(test, scenes, references, logs)
    errors = {name: ((path - truth) ** 2).mean((1, 2)) for name, path in told.items()}
    weights = kept_draws(num_scenes, 0)

    def below(one: str, other: str) -> Figures:
        apart = errors[other] - errors[one]
        low, high = np.quantile(weights @ apart / num_scenes, (0.025, 0.975))
        return {"smaller": one, "larger": other, "by": float(apart.mean()), "low": float(low), "high": float(high),
                "met": bool(low > 0)}  # fmt: skip

    copies, lookers = ("copy B", "copy C"), ("friction inferred", "linear, all inferred", "oracle")
    pairs = [below(one, other) for one in (*lookers, "unknown friction", "no look at the episode") for other in copies]
    pairs += [below(one, "unknown friction") for one in lookers]
    pairs += [below("linear, all inferred", "episode of another scene")]
    return {
        "scenes": num_scenes,
        "mean squared error of places [m2]": {name: float(one.mean()) for name, one in errors.items()},
        "friction inferred, mean miss [1/s]": float(
            np.abs(inferred_friction(scenes, test) - scenes["friction"].astype(float)).mean()
        ),
        "pairs": pairs,
        "met": all(one["met"] for one in pairs),
    }


def _rows(
    test: CounterfactualTest, scenes: Arrays, references: References, logs: Mapping[str, Sequence[Episode]]
) -> dict[str, Floats]:
    """Predicted positions [E, T, 2] by model."""
    lab, (name,) = puck(test.pool), (one.name for one in test.datasets())
    episodes = logs[name]
    engine = Linear.fit(episodes[: len(episodes) // 2], lab.schema, context=1)
    fitted = calibrate(engine, episodes[len(episodes) // 2 :], horizon=1, num_windows=WINDOWS, seed=0, trust_steps=0)
    start = {signal: unpacked(scenes, "factual")[signal][:, AT] for signal in SIGNALS}
    friction = {"friction": inferred_friction(scenes, test)}
    answers = {
        "copy B": references.must_fail["copy of the episode"],
        "no look at the episode": references.must_fail["no look at the episode"],
        "episode of another scene": references.must_fail["episode of another scene"],
        "unknown friction": references.floor,
        "known friction": references.ceiling,
        "linear, all inferred": test.ask({name: as_world(engine, fitted)}, scenes),
        "oracle": references.oracle,
    }
    found = {row: one["path.puck_position"].astype(float) for row, one in answers.items()}
    found["copy C"] = np.repeat(start["puck_position"][:, None].astype(float), test.num_steps - AT, 1)
    found["friction inferred"] = lab.expected(start, {"push": scenes["others"]}, friction)["puck_position"].astype(
        float
    )
    return found


def law() -> Floats:
    """The probability of each count of 300 by `tails`."""
    lows = np.array([tails(k, NUM_TESTED, LEVEL, NUM_CALIBRATION).low for k in range(NUM_TESTED + 1)])
    return np.diff(lows, prepend=0.0)


def split_conformal(runs: int, rng: Rng) -> Figures:
    """Counts of exchangeable scores inside the calibrated band, compared with the law."""
    rank = math.ceil(LEVEL * (NUM_CALIBRATION + 1) - 1e-9)
    edge = np.sort(rng.random((runs, NUM_CALIBRATION)), 1)[:, rank - 1]
    counts = (rng.random((runs, NUM_TESTED)) <= edge[:, None]).sum(1)
    chances, every = law(), np.arange(NUM_TESTED + 1)
    reference = rng.multinomial(runs, chances / chances.sum(), NUM_REFERENCE).astype(float)
    seen = np.bincount(counts, minlength=NUM_TESTED + 1).astype(float)
    distances = {"chi-square": _chi_square, "Kolmogorov-Smirnov": _ks}
    low, high = (math.ceil(BAND[0] * NUM_TESTED), math.floor(BAND[1] * NUM_TESTED))
    return {
        "p-values": {
            name: round(float((1 + (measure(reference, chances) >= measure(seen[None], chances)).sum())
                              / (1 + NUM_REFERENCE)), 4)
            for name, measure in distances.items()
        },
        "mean": float(counts.mean()), "mean by the law": float(chances @ every),
        "deviation": float(counts.std()),
        "deviation by the law": float(np.sqrt(chances @ (every - chances @ every) ** 2)),
        "band": [low, high],
        "in the band": rate(int(((counts >= low) & (counts <= high)).sum()), runs),
        "in the band by the law": float(chances[low : high + 1].sum()),
        "below by the law": float(chances[:low].sum()), "above by the law": float(chances[high + 1 :].sum()),
    }  # fmt: skip


def _chi_square(counts: Floats, chances: Floats) -> Floats:
    """Chi-square test of counts [n, 301], over bins with at least five expected runs."""
    runs = counts[0].sum()
    bins = np.minimum.accumulate(np.floor(np.cumsum(chances[::-1])[::-1] * runs / 5)).astype(int)
    groups = np.unique(bins, return_inverse=True)[1]
    member = np.eye(groups.max() + 1)[groups]
    expected = chances @ member * runs
    return np.asarray(((counts @ member - expected) ** 2 / expected).sum(1))


def _ks(counts: Floats, chances: Floats) -> Floats:
    return np.asarray(np.abs(np.cumsum(counts, 1) / counts[0].sum() - np.cumsum(chances)).max(1))


def met(counts: Mapping[str, int]) -> bool:
    """Whether the counts by signal meet U1's condition."""
    p_values = {}
    for name, count in counts.items():
        chance = tails(count, NUM_TESTED, LEVEL, NUM_CALIBRATION)
        p_values[name] = min(1.0, 2 * min(chance.low, chance.high))
    return not holm(p_values, ALPHA)


def as_calibrated(num_episodes: int, runs: int, rng: Rng) -> list[Figures]:
    """The same with scores as `calibrate` uses them: three quarters of the episodes, four correlated windows each.

    Two independent signals; at most one world in twenty may miss U1's condition.
    """
    episodes = num_episodes - num_episodes // SCALE_SHARE
    rank = math.ceil(LEVEL * (episodes + 1) * WINDOWS_EACH - 1e-9)
    rows = []
    for alike in (0.0, 0.5, 1.0):
        unmet, spread = 0, []
        for _ in range(runs):
            counts = {}
            for name in SIGNALS:
                shared, own = rng.standard_normal((episodes, 1)), rng.standard_normal((episodes, WINDOWS_EACH))
                scores = (np.sqrt(alike) * shared + np.sqrt(1 - alike) * own).ravel()
                edge = np.partition(scores, rank - 1)[rank - 1]
                counts[name] = int((rng.standard_normal(NUM_TESTED) <= edge).sum())
            spread += list(counts.values())
            unmet += not met(counts)
        row: Figures = {"episodes": num_episodes, "correlation within an episode": alike}
        row |= {"mean": float(np.mean(spread)), "deviation": float(np.std(spread)), "not met": rate(unmet, runs)}
        rows.append(row)
    return rows
