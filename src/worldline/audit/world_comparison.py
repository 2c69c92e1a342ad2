"""Results of the comparison of two worlds, which `worldline.workflows.compare_worlds` computes.

Pairs hold the figure of the first world, then that of the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from worldline.stats import Estimate, Rate

WorldVerdict = Literal["better", "worse", "not distinguishable"]
"""The errors of the first world compared with those of the second."""


@final
@dataclass(frozen=True, kw_only=True)
class ErrorComparison:
    """Errors of two worlds on one signal in the same windows.

    Args:
        step: steps ahead; None for all steps up to the horizon together.
        errors: root mean square errors in the signal's unit; None if nothing was observed.
        ratio: first error divided by the second; below 1, the first world is better. None if nothing was observed.
            Errors below 1e-4 of the signal's standard deviation count as this value.
        skills: 1 - error / error of persistence; None if persistence has no error.
    """

    step: int | None
    errors: tuple[float | None, ...]
    ratio: Estimate | None
    skills: tuple[float | None, ...]


@final
@dataclass(frozen=True, kw_only=True)
class ComparedBand:
    """Coverage and size of the bands of one world on one signal.

    Args:
        coverage: share of whole trajectories inside the band.
        half_width: mean half-width over windows, steps and components, in the signal's unit.
    """

    coverage: Rate
    half_width: float


@final
@dataclass(frozen=True, kw_only=True)
class SignalComparison:
    """Two worlds compared on one signal.

    Args:
        signal: name of the signal.
        unit: of errors and half-widths.
        verdict: on the first world, from the interval of the ratio over all steps.
        errors: over all steps, then at 1 step, at a quarter of the horizon, and at the horizon.
        bands: of both worlds; None without a finite band in every window.
    """

    signal: str
    unit: str
    verdict: WorldVerdict
    errors: tuple[ErrorComparison, ...]
    bands: tuple[ComparedBand | None, ...]


@final
@dataclass(frozen=True, kw_only=True)
class ComparedWorld:
    """One of two compared worlds.

    Args:
        name: folder, reference or URL, or the name on the card.
        engine: registered name of the engine.
        trust: median over windows, 0 to 1; None without a calibration.
        latency_s: median seconds of a prediction from one history over the horizon.
        num_refused: windows without a finite prediction. Errors of both worlds leave them out.
        held_out: whether no compared episode was used in its training, as far as is known.
        only: signals that only this world predicts.
    """

    name: str
    engine: str
    trust: float | None
    latency_s: float
    num_refused: int
    held_out: bool
    only: tuple[str, ...]


@final
@dataclass(frozen=True, kw_only=True)
class WorldComparison:
    """Two worlds compared on the same windows.

    All intervals of ratios hold together with 95 % probability: a max-t bootstrap over episodes corrects for the number
    of signals and steps.

    Args:
        worlds: the two worlds.
        logs: name of the logs.
        step_s: seconds per step; None if unknown.
        horizon: steps that were predicted.
        context: observations in each history, the larger context of both worlds.
        num_episodes: number of episodes.
        num_windows: number of windows.
        level: nominal coverage of the bands.
        signals: vectors that both predict and the logs contain.
    """

    worlds: tuple[ComparedWorld, ...]
    logs: str
    step_s: float | None
    horizon: int
    context: int
    num_episodes: int
    num_windows: int
    level: float
    signals: tuple[SignalComparison, ...]
