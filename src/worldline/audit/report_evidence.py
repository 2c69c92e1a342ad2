"""What a report can show. Give what was measured; what is not given is not shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worldline.audit.cases import cut, forecasts
from worldline.audit.diagnostics import Diagnostics
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.schema import Kind
from worldline.stats import Curve, Estimate, Floats, Rate, r_squared
from worldline.world.base import World

Image = NDArray[np.uint8]
"""A picture [height, width, 3], or several."""


@dataclass(frozen=True, kw_only=True)
class GoalOutcome:
    """How often one way of choosing actions reached its goals.

    Args:
        name: as the reader should see it, such as "inverse head alone".
        role: the planner under test, a peer of it, a floor (must be beaten) or a ceiling (the best there is).
        all: over all pairs.
        split: the same by kind of pair, such as "same room"; empty for none.
    """

    name: str
    role: Literal["planner", "peer", "floor", "ceiling"]
    all: Rate
    split: Mapping[str, Rate]


@dataclass(frozen=True, kw_only=True)
class Planning:
    """Goals reached by acting in the true environment.

    Args:
        task: what counts as a success, completing "A pair counts as solved when ...".
        outcomes: exactly one of them has the role "planner".
        plan_ms: milliseconds for one plan alone, median; None where not measured.
        plan_batched_ms: milliseconds a plan when all are planned together; None where not measured.
    """

    task: str
    outcomes: tuple[GoalOutcome, ...]
    plan_ms: float | None
    plan_batched_ms: float | None

    def __post_init__(self) -> None:
        roles = [outcome.role for outcome in self.outcomes]
        if roles.count("planner") != 1:
            raise InputError(f"roles are {roles}. Give exactly one outcome the role 'planner'.")

    @property
    def planner(self) -> GoalOutcome:
        """The one under test."""
        return next(outcome for outcome in self.outcomes if outcome.role == "planner")


@dataclass(frozen=True, kw_only=True)
class Series:
    """A figure followed through training.

    Args:
        name: such as "prediction".
        steps: optimiser steps, increasing.
        values: one for each.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values) or not self.steps:
            raise InputError(f"series {self.name!r} has {len(self.steps)} steps and {len(self.values)} values.")


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How the losses went.

    Args:
        terms: of the training loss, unweighted.
        validation: the total on held-back episodes; None where it was not measured.
        learn_s: seconds that learning took, heads included; None where unknown.
    """

    terms: tuple[Series, ...]
    validation: Series | None
    learn_s: float | None


@dataclass(frozen=True, kw_only=True)
class Vital:
    """A measure of the latent's health; more is better.

    Args:
        series: its course, such as "effective rank".
        threshold: below this the collapse guard stops training; None where it does not watch this measure.
        most: the largest possible value, such as the latent size; None where unbounded.
    """

    series: Series
    threshold: float | None
    most: float | None


@dataclass(frozen=True, kw_only=True)
class LatentHealth:
    """Whether the latent stayed alive.

    Args:
        vitals: effective rank, deviation, straightness, or whatever was watched.
    """

    vitals: tuple[Vital, ...]


@dataclass(frozen=True, kw_only=True)
class ReadoutRow:
    """How well one signal can be read from the latent, on held-out episodes.

    Args:
        signal: its name.
        unit: its unit.
        r2: share of its variance that is explained; None where the signal does not vary.
        rmse: root mean square error, in its unit.
    """

    signal: str
    unit: str
    r2: Estimate | None
    rmse: float


@dataclass(frozen=True, kw_only=True)
class ReadoutQuality:
    """What the latent knows.

    Args:
        rows: one a signal.
    """

    rows: tuple[ReadoutRow, ...]


@dataclass(frozen=True, kw_only=True)
class ImaginedPath:
    """A real episode, and what the world imagined of it from its start.

    Args:
        frames: [F, height, width, 3] uint8, F of the real pictures, the first and the last among them.
        frame_steps: [F], the step of each, from 0.
        real: [T+1, 2], true path (x right, y down) in pixels of the frames, from the start.
        imagined: [T+1, 2], imagined path, from the same start.
    """

    frames: Image
    frame_steps: tuple[int, ...]
    real: Floats
    imagined: Floats

    def __post_init__(self) -> None:
        if self.real.shape != self.imagined.shape or self.real.shape[1:] != (2,):
            raise InputError(f"paths of shape {self.real.shape} and {self.imagined.shape}; both must be [T+1, 2].")
        if len(self.frames) != len(self.frame_steps):
            raise InputError(f"{len(self.frames)} frames but {len(self.frame_steps)} frame_steps.")


@dataclass(frozen=True, kw_only=True)
class PredictedPaths:
    """Imagined beside real paths: the signal that is read from imagined latents, drawn on real pictures.

    Args:
        signal: what is drawn, such as "position".
        unit: of the paths' axes.
        paths: a few episodes, chosen before looking.
    """

    signal: str
    unit: str
    paths: tuple[ImaginedPath, ...]


@dataclass(frozen=True, kw_only=True)
class DecodedWindow:
    """A held-out window as it was seen, and as the decoder draws it.

    Args:
        real: [1+F, height, width, channels] uint8, the last seen frame and the frames of F steps after it.
        drawn: the same, decoded: the first from the latent of what was seen, the others from imagined latents.
    """

    real: Image
    drawn: Image

    def __post_init__(self) -> None:
        if self.real.shape != self.drawn.shape or self.real.ndim != 4:
            raise InputError(f"frames of shape {self.real.shape} and {self.drawn.shape}; both must be [1+F, h, w, c].")


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Imagination as pictures, open loop under the logged actions. The decoder is for eyes only.

    Errors are root mean squares over windows, pixels and colours, in grey levels of 0 to 255.

    Args:
        camera: the image signal.
        step_s: seconds a step; None where unknown.
        steps: [F], ahead of the last observation, increasing.
        windows: a few, chosen before looking.
        num_windows: that the errors were measured on.
        num_episodes: that they are from.
        imagined: [F], of the frames decoded from imagined latents.
        persistence: [F], of the last seen frame.
        decoder: [F], of the frames decoded from the latents of the real frames: what the decoder itself loses.
        saved: [F], share of persistence's error that imagination saves; None where persistence errs nowhere.
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

    def __post_init__(self) -> None:
        counts = [len(window.real) - 1 for window in self.windows]
        counts += [len(one.value) for one in (self.imagined, self.persistence, self.decoder)]
        if any(count != len(self.steps) for count in counts):
            raise InputError(f"{len(self.steps)} steps, but frames and errors of {counts}. Give one for each step.")


@dataclass(frozen=True, kw_only=True)
class Film:
    """One executed plan, as it was seen.

    Args:
        frames: [F, height, width, 3] uint8, from the start to the end.
        goal: the picture that was to be reached; None where the goal was no picture.
        reached: whether it was.
    """

    frames: Image
    goal: Image | None
    reached: bool


@dataclass(frozen=True, kw_only=True)
class Films:
    """Executed plans.

    Args:
        films: a few, chosen before looking.
    """

    films: tuple[Film, ...]


@dataclass(frozen=True, kw_only=True)
class ForecastSample:
    """One component of one forecast beside what happened.

    Args:
        label: the signal, with its component where it has several.
        unit: its unit.
        past: [H], ends with the present.
        real: [T].
        mean: [T].
        low: [T] or None.
        high: [T] or None.
    """

    label: str
    unit: str
    past: tuple[float, ...]
    real: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class Forecasts:
    """Sample forecasts.

    Args:
        samples: one a component.
        level: that the bands were calibrated for.
        step_s: seconds a step; None where unknown.
    """

    samples: tuple[ForecastSample, ...]
    level: float
    step_s: float | None


Evidence = (
    Planning | Learning | LatentHealth | ReadoutQuality | Diagnostics | PredictedPaths | Decoded | Films | Forecasts
)


def readout_row(
    signal: str, unit: str, truth: Floats, read: Floats, episode: NDArray[np.integer], *, seed: int
) -> ReadoutRow:
    """How well `read` says what `truth` is.

    Args:
        signal: its name.
        unit: its unit.
        truth: [n, components], held out.
        read: [n, components].
        episode: [n], which episode each row is from, from 0.
        seed: of the bootstrap over episodes.
    """
    truth, read = truth.astype(float), read.astype(float)
    error = float(np.sqrt(((truth - read) ** 2).mean()))
    return ReadoutRow(signal=signal, unit=unit, r2=r_squared(truth, read, episode, seed=seed), rmse=error)


def sample_forecasts(
    world: World, episodes: Sequence[Episode], *, index: int, context: int, horizon: int, level: float
) -> Forecasts:
    """The forecast from the first possible moment of `episodes[index]`, every component of every vector signal.

    Args:
        world: to ask.
        episodes: held out, each of at least `context + horizon` observations.
        index: which of them to show.
        context: H, observations given and drawn.
        horizon: T, steps.
        level: of the joint band.

    Raises:
        InputError: an episode is too short.
    """
    cases = cut([episodes[index], episodes[index]], context=context, horizon=horizon, per_episode=1)
    schema = world.describe().schema
    samples = []
    for name, forecast in forecasts(world, cases, cases.actions, level=level).items():
        signal, past = schema[name], cases.history.observations[name][0]
        for k in range(signal.size if signal.kind is Kind.VECTOR else 0):
            part = signal.components[k] if signal.components else str(k)
            samples.append(
                ForecastSample(
                    label=name if signal.size == 1 else f"{name} · {part}",
                    unit=signal.unit,
                    past=_floats(past[:, k]),
                    real=_floats(cases.truth[name][0, :, k]),
                    mean=_floats(forecast.mean[0, :, k]),
                    low=_edge(forecast.low, k),
                    high=_edge(forecast.high, k),
                )
            )
    return Forecasts(samples=tuple(samples), level=level, step_s=schema.step_s)


def _edge(band: NDArray[np.floating] | None, component: int) -> tuple[float, ...] | None:
    """An edge of the first case's band [W, T, size]; None where there is none to draw."""
    return None if band is None or not np.isfinite(band).all() else _floats(band[0, :, component])


def _floats(values: NDArray[np.generic]) -> tuple[float, ...]:
    """Plain numbers."""
    return tuple(map(float, values))
