"""Evidence that a report can contain; a report has sections only for the evidence that is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worldline.audit.audit_evidence import Trusted
from worldline.audit.diagnostics import Diagnostics
from worldline.audit.queries import window_forecasts
from worldline.data.windows import forecast_windows
from worldline.episode import Episode
from worldline.stats import Curve, Estimate, Floats, Rate, r_squared
from worldline.world.base import World

Image = NDArray[np.uint8]
"""One image [height, width, 3], or several."""


@dataclass(frozen=True, kw_only=True)
class GoalOutcome:
    """Success rate of one method of choosing actions.

    Args:
        name: name in the report, such as "inverse head alone".
        role: the planner under test, a peer, "floor" for a baseline, or "ceiling" for an upper bound.
        all: over all pairs.
        split: the same by kind of pair, such as "same room"; empty for none.
    """

    name: str
    role: Literal["planner", "peer", "floor", "ceiling"]
    all: Rate
    split: Mapping[str, Rate]


@dataclass(frozen=True, kw_only=True)
class Planning:
    """Goals reached in the true environment.

    Args:
        task: criterion of success; completes "A pair counts as solved when ...".
        outcomes: exactly one of them has the role "planner".
        plan_ms: median milliseconds for a single plan; None if not measured.
        plan_batched_ms: milliseconds per plan in one batch; None if not measured.
    """

    task: str
    outcomes: tuple[GoalOutcome, ...]
    plan_ms: float | None
    plan_batched_ms: float | None

    @property
    def planner(self) -> GoalOutcome:
        """The planner under test."""
        return next(outcome for outcome in self.outcomes if outcome.role == "planner")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate of a choice between models.

    Args:
        name: of the recipe.
        errors: at each compared step, mean over the signals of the root mean square error / standard deviation.
        relative: to the errors of the reference, mean over the steps; below 1 is better.
        learn_s: seconds of the trial.
    """

    name: str
    errors: tuple[float, ...]
    relative: Estimate
    learn_s: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A choice between models, by block cross-validation if the reference is the linear one.

    Args:
        chosen: name of the recipe.
        reason: completes "... was chosen: ".
        steps: compared steps ahead.
        step_s: seconds per step; None if unknown.
        num_episodes: compared episodes; no fit that predicts one has seen it.
        trials: the candidates in the order of trial.
        failed: per candidate that could not be tried, the reason.
        reference: name of the recipe that the errors are relative to.
        compared: what the errors are of.
        goals: whether the last error of a trial is that of the order of predicted distances.
    """

    chosen: str
    reason: str
    steps: tuple[int, ...]
    step_s: float | None
    num_episodes: int
    trials: tuple[Trial, ...]
    failed: Mapping[str, str]
    reference: str = "linear"
    compared: Literal["vectors", "images"] = "vectors"
    goals: bool = False


@dataclass(frozen=True, kw_only=True)
class Series:
    """A figure over training.

    Args:
        name: name such as "prediction".
        steps: optimiser steps, increasing.
        values: one per step.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Learning:
    """Training and validation losses.

    Args:
        terms: unweighted terms of the training loss.
        validation: total loss on validation episodes; None if not measured.
        learn_s: seconds of training, heads included; None if unknown.
    """

    terms: tuple[Series, ...]
    validation: Series | None
    learn_s: float | None


@dataclass(frozen=True, kw_only=True)
class Vital:
    """A measure of latent collapse; larger is better.

    Args:
        series: values over training, such as "effective rank".
        threshold: value below which the collapse guard stops training; None without a guard.
        most: largest possible value, such as the latent size; None if unbounded.
    """

    series: Series
    threshold: float | None
    most: float | None


@dataclass(frozen=True, kw_only=True)
class LatentHealth:
    """Measures of latent collapse over training.

    Args:
        vitals: such as effective rank, standard deviation, straightness.
    """

    vitals: tuple[Vital, ...]


@dataclass(frozen=True, kw_only=True)
class ReadoutRow:
    """Quality of the readout of one signal from the latent, on held-out episodes.

    Args:
        signal: name of the signal.
        unit: its unit.
        r2: explained share of the variance; None for a constant signal.
        rmse: root mean square error, in its unit.
    """

    signal: str
    unit: str
    r2: Estimate | None
    rmse: float


@dataclass(frozen=True, kw_only=True)
class ReadoutQuality:
    """Quality of all readouts.

    Args:
        rows: one per signal.
    """

    rows: tuple[ReadoutRow, ...]


@dataclass(frozen=True, kw_only=True)
class DecodedWindow:
    """True and decoded frames of a held-out window.

    Args:
        real: [1+F, height, width, channels] uint8, the last observed frame and the frames of F later steps.
        drawn: decoded frames of the same shape: the first from the latent of the observation, the others from
            predicted latents.
    """

    real: Image
    drawn: Image


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Decoded open-loop predictions under the logged actions; the decoder serves visualisation only.

    Errors are root mean squares over windows, pixels and colours, in grey levels of 0 to 255.

    Args:
        camera: image signal.
        step_s: seconds per step; None if unknown.
        steps: [F], steps after the last observation, increasing.
        windows: a few windows, chosen independently of the results.
        num_windows: number of windows behind the errors.
        num_episodes: number of episodes of these windows.
        imagined: [F], error of frames decoded from predicted latents.
        persistence: [F], error of the last observed frame.
        decoder: [F], error of frames decoded from latents of the true frames, which is the loss of the decoder itself.
        saved: [F], relative reduction of the error of persistence; None if that error is 0.
    """

    camera: str
    step_s: float | None
    steps: tuple[int, ...]
    windows: tuple[DecodedWindow, ...]
    num_windows: int
    num_episodes: int
    imagined: Curve
    persistence: Curve
    decoder: Curve
    saved: Curve | None


@dataclass(frozen=True, kw_only=True)
class Film:
    """Frames of one executed plan.

    Args:
        frames: [F, height, width, 3] uint8, from start to end.
        goal: goal image; None if the goal is not an image.
        reached: whether the goal was reached.
    """

    frames: Image
    goal: Image | None
    reached: bool


@dataclass(frozen=True, kw_only=True)
class Films:
    """Executed plans.

    Args:
        films: a few plans, chosen independently of the results.
    """

    films: tuple[Film, ...]


@dataclass(frozen=True, kw_only=True)
class ForecastSample:
    """One component of a forecast with its ground truth.

    Args:
        signal: name of the signal.
        component: name of its component; empty for a scalar.
        unit: its unit.
        case: the shown episode, such as "typical".
        past: [P], measured values, the last one at the present.
        real: [T], ground truth.
        mean: [T].
        low: [T] or None.
        high: [T] or None.
        rival: [T], the best linear model; empty for none.
    """

    signal: str
    component: str
    unit: str
    case: str
    past: tuple[float, ...]
    real: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    rival: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Forecasts:
    """Sample forecasts of a few held-out episodes.

    Args:
        samples: one per case and component.
        level: nominal level of the bands.
        step_s: seconds per step; None if unknown.
    """

    samples: tuple[ForecastSample, ...]
    level: float
    step_s: float | None


@dataclass(frozen=True, kw_only=True)
class TrustedHorizons:
    """How far each signal can be trusted on the held-out episodes.

    Args:
        trusted: one per signal that varies.
        deviation: standard deviation of each signal, in its unit; 0 for a constant signal.
        unseen: signals that the baselines see and the world does not, so that their errors cannot be compared.
    """

    trusted: tuple[Trusted, ...]
    deviation: Mapping[str, float]
    unseen: tuple[str, ...] = ()


Evidence = (
    Planning
    | Choice
    | Learning
    | LatentHealth
    | ReadoutQuality
    | Diagnostics
    | TrustedHorizons
    | Decoded
    | Films
    | Forecasts
)


def readout_row(
    signal: str, unit: str, truth: Floats, read: Floats, episode: NDArray[np.integer], *, seed: int
) -> ReadoutRow:
    """Quality of the readout `read` of the ground truth `truth`.

    Args:
        signal: name of the signal.
        unit: its unit.
        truth: [n, components], held out.
        read: [n, components], read out from latents.
        episode: [n], episode of each row, from 0.
        seed: seed of the bootstrap over episodes.
    """
    truth, read = truth.astype(float), read.astype(float)
    error = float(np.sqrt(((truth - read) ** 2).mean()))
    return ReadoutRow(signal=signal, unit=unit, r2=r_squared(truth, read, episode, seed=seed), rmse=error)


def sample_forecasts(
    world: World,
    cases: Mapping[str, tuple[Episode, int]],
    *,
    context: int,
    horizon: int,
    level: float,
    rivals: Mapping[str, World] | None = None,
) -> Forecasts:
    """Forecasts of every component of every vector signal.

    Args:
        world: world to query.
        cases: a held-out episode and the present in it for each shown case, by its name.
        context: H, observations given.
        horizon: T, steps.
        level: level of the band.
        rivals: the best linear model of each signal; signals without one have no rival.

    Raises:
        InputError: an episode is too short.
    """
    windows = forecast_windows(list(cases.values()), length=context, horizon=horizon)
    schema = world.describe().schema
    others = {name: window_forecasts(rival, windows)[name].mean for name, rival in (rivals or {}).items()}
    samples = []
    for name, forecast in window_forecasts(world, windows, level=level).items():
        signal = schema[name]
        for row, (case, (episode, now)) in enumerate(cases.items()):
            past = episode.observations[name][max(0, now + 1 - max(context, horizon // 3)) : now + 1]
            for k in range(signal.size):
                part = signal.components[k] if signal.components else str(k)
                samples.append(
                    ForecastSample(
                        signal=name,
                        component="" if signal.size == 1 else part,
                        unit=signal.unit,
                        case=case,
                        past=_floats(past[:, k]),
                        real=_floats(windows.truth[name][row, :, k]),
                        mean=_floats(forecast.mean[row, :, k]),
                        low=_edge(forecast.low, row, k),
                        high=_edge(forecast.high, row, k),
                        rival=_floats(others[name][row, :, k]) if name in others else (),
                    )
                )
    return Forecasts(samples=tuple(samples), level=level, step_s=schema.step_s)


def _edge(band: NDArray[np.floating] | None, row: int, component: int) -> tuple[float, ...] | None:
    """Edge of the band [W, T, size] in one window; None without a finite band."""
    return None if band is None or not np.isfinite(band[row]).all() else _floats(band[row, :, component])


def _floats(values: NDArray[np.generic]) -> tuple[float, ...]:
    return tuple(map(float, values))
