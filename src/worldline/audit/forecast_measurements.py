"""Measurements that show predictions: sample forecasts, decoded images, and how far each signal can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from worldline.audit.measured import Trusted
from worldline.audit.measurement import Measurement, ReportFinding
from worldline.audit.queries import window_forecasts
from worldline.data.windows import forecast_windows
from worldline.episode import Episode
from worldline.formatting import clock, number, plural, quantity, round_percent, span, with_interval, with_unit
from worldline.plots import images
from worldline.plots.charts import ChartLine, LineChart
from worldline.plots.images import Frames
from worldline.plots.parts import Captioned, Group, Legend, Note, PageImage, PagePart, Table
from worldline.schema import Signal
from worldline.stats import Curve
from worldline.world.base import World

_MAX_SHARP_SIZE: Final = 128
"""Largest side in pixels of a frame with visible pixels; larger frames are scaled smoothly."""
_MAX_SIZE: Final = 256
_MAX_ROWS: Final = 8
"""Further components of signals with charts."""
_CURVES: Final = {"imagined": "predicted", "persistence": "persistence", "decoder": "decoder alone"}
_DECODER: Final = (
    "The decoder serves visualisation only: it was fitted to the trained model, and planning does not use it. "
    "There is no observation after \u201cnow\u201d; the predicted frame at \u201cnow\u201d is decoded from the latent "
    "of that frame. Persistence: the last observed frame. Decoder alone: decoded from the latents of the true frames."
)


@dataclass(frozen=True, kw_only=True)
class DecodedWindow:
    """True and decoded frames of a held-out window.

    Args:
        real: [1+F, height, width, channels] uint8, the last observed frame and the frames of F later steps.
        drawn: decoded frames of the same shape: the first from the latent of the observation, the others from
            predicted latents.
    """

    real: Frames
    drawn: Frames


@dataclass(frozen=True, kw_only=True)
class Decoded(Measurement):
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

    chapter = "Images"

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

    def sentence(self) -> ReportFinding:
        """Error of the decoded predictions at the last step, compared with persistence and the decoder alone."""
        own, stays, alone = (curve.value[-1] for curve in (self.imagined, self.persistence, self.decoder))
        text = (
            f"Decoded predictions {span(self.steps[-1], self.step_s)} ahead have an error of {number(own)} grey "
            f"levels. Persistence has an error of {number(stays)}, and the decoder alone of {number(alone)}."
        )
        if self.saved is None or self.saved.low[-1] > 0:
            return ReportFinding(text, "plain")
        if alone >= stays:
            return ReportFinding(f"{text} The decoder error is too large to grade the predictions.", "plain")
        if self.saved.high[-1] < 0:
            return ReportFinding(f"{text} The predictions are worse than persistence.", "bad")
        return ReportFinding(f"{text} The difference from persistence is not significant.", "unclear")

    def figure(self) -> Sequence[PagePart]:
        """Errors of decoded predictions at each step."""
        unit_name, ahead = self._ahead()
        curves: list[Curve] = [getattr(self, name) for name in _CURVES]
        rows = [[when, *(with_interval(curve.at(k)) for curve in curves)] for k, when in enumerate(ahead, 1)]
        counted = f"{plural(self.num_windows, 'window')} of {plural(self.num_episodes, 'episode')}, held out"
        figures = "error (RMSE) in grey levels of 0 to 255 with 95\u00a0% bootstrap intervals over episodes"
        caption = f"{self.camera}: {figures}, over {counted}"
        return [Table(caption, [f"{unit_name} ahead", *_CURVES.values()], rows), Note(_DECODER)]

    def frames(self) -> Captioned:
        """Frames of a few windows, true above predicted, one column per step."""
        unit_name, ahead = self._ahead()
        moments = ["now", *(f"{time} {unit_name} ahead" for time in ahead)]
        rows: list[list[str | PagePart]] = []
        for window in self.windows:
            rows += [["true", *_frames("true", window.real, moments)]]
            rows += [["predicted", *_frames("predicted", window.drawn, moments)]]
        title = f"{self.camera}: true and predicted frames"
        return Captioned(title, [Table(title, [f"{unit_name} ahead", "now", *ahead], rows, style="frames")], "decoded")

    def _ahead(self) -> tuple[str, list[str]]:
        """The unit of time, and the steps in this unit."""
        unit, unit_name = clock(self.steps[-1], self.step_s)
        return unit_name, [number(unit * step) for step in self.steps]


def _frames(name: str, frames: Frames, moments: Sequence[str]) -> list[PageImage]:
    style = "pixels" if max(frames.shape[1:3]) <= _MAX_SHARP_SIZE else "smooth"
    small = [images.png(images.thumbnail(frame, _MAX_SIZE, _MAX_SIZE, enlarge=False)) for frame in frames]
    return [images.picture(image, f"{name}, {moment}", style) for image, moment in zip(small, moments, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Forecasts(Measurement):
    """Sample forecasts of a few held-out episodes.

    Args:
        charts: for each component of a signal, one chart per episode.
        level: nominal level of the bands; None without bands.
        has_rival: whether the charts show the best linear baseline.
    """

    chapter = "All signals in these episodes"

    charts: Mapping[str, tuple[LineChart, ...]]
    level: float | None
    has_rival: bool

    def sentence(self) -> ReportFinding:
        """Number of the shown components."""
        count, shown = len(self.charts), min(len(self.charts), 1 + _MAX_ROWS)
        text = f"Forecasts of {shown} of {plural(count, 'component')} are shown, the first one at the top of the page."
        return ReportFinding(text, "plain")

    def figure(self) -> Sequence[PagePart]:
        """One row of charts for every component after the first."""
        return [Group.gallery(charts) for charts in list(self.charts.values())[1 : 1 + _MAX_ROWS]]

    def first(self) -> list[PagePart]:
        """The charts of the first component, with a legend for all."""
        band = "" if self.level is None else f", with its {round_percent(self.level)} band"
        rival = [("best linear baseline", "soft")] if self.has_rival else []
        legend = Legend([("measured", "real"), (f"predicted{band}", "world"), *rival])
        return [Group.gallery(next(iter(self.charts.values()))), legend]


def sample_forecasts(
    world: World,
    cases: Mapping[str, tuple[Episode, int]],
    signals: Sequence[Signal],
    *,
    context: int,
    horizon: int,
    level: float,
    rivals: Mapping[str, World] | None = None,
) -> Forecasts:
    """Forecasts of every component of some vector signals.

    Args:
        world: world to query.
        cases: a held-out episode and the present in it for each shown case, by its name.
        signals: predicted vectors, in the order of the page.
        context: H, observations given.
        horizon: T, steps.
        level: level of the band.
        rivals: the best linear model of each signal; signals without one have no rival.

    Raises:
        InputError: an episode is too short.
    """
    windows = forecast_windows(list(cases.values()), length=context, horizon=horizon)
    predicted, step_s = window_forecasts(world, windows, level=level), world.describe().schema.step_s
    others = {name: window_forecasts(rival, windows)[name].mean for name, rival in (rivals or {}).items()}
    charts: dict[str, list[LineChart]] = {}
    for row, (case, (episode, now)) in enumerate(cases.items()):
        first = max(0, now + 1 - max(context, horizon // 3))
        for signal in signals:
            forecast, other = predicted[signal.name], others.get(signal.name)
            curves = {
                "past": episode.observations[signal.name][first : now + 1],
                "real": windows.truth[signal.name][row],
                "mean": forecast.mean[row],
                **({} if other is None else {"rival": other[row]}),
            }
            if forecast.low is not None and forecast.high is not None and np.isfinite(forecast.high[row]).all():
                curves |= {"low": forecast.low[row], "high": forecast.high[row]}
            for k in range(signal.size):
                part = f" · {signal.components[k] if signal.components else k}" if signal.size > 1 else ""
                columns = {name: curve[:, k].tolist() for name, curve in curves.items()}
                chart = _forecast_chart(case, signal.name + part, signal.unit, step_s, columns)
                charts.setdefault(signal.name + part, []).append(chart)
    banded = any(line.style == "world" and len(line.low) for row in charts.values() for c in row for line in c.lines)
    rows = {name: tuple(row) for name, row in charts.items()}
    return Forecasts(charts=rows, level=level if banded else None, has_rival=bool(others))


def _forecast_chart(case: str, name: str, unit: str, step_s: float | None, curves: dict[str, list[float]]) -> LineChart:
    """Past, forecast and ground truth of one component; the curves after the present begin with the present."""
    unit_s, unit_name = clock(len(curves["real"]), step_s)
    ahead = [unit_s * k for k in range(len(curves["real"]) + 1)]
    before = [unit_s * (k - len(curves["past"]) + 1) for k in range(len(curves["past"]))]
    now, parts = curves["past"][-1], ("mean", "low", "high", "rival")
    mean, low, high, rival = ([now, *curves[part]] if part in curves else [] for part in parts)
    lines = [ChartLine(label="best linear baseline", style="soft", x=ahead, y=rival)] if rival else []
    lines.append(ChartLine(label="predicted", style="world", x=ahead, y=mean, low=low, high=high))
    measured = [*curves["past"], *curves["real"]]
    lines.append(ChartLine(label="measured", style="real", x=[*before, *ahead[1:]], y=measured))
    ends = [quantity(values[-1], unit) for values in (mean, measured)]
    return LineChart(
        title=case,
        alt=f"{name}, {case}, at the last step: predicted {ends[0]}, measured {ends[1]}",
        x_label=f"{unit_name} from now",
        y_label=with_unit(name, unit),
        lines=lines,
        now=0.0,
        style="unkeyed",
    )


@dataclass(frozen=True, kw_only=True)
class TrustedHorizons:
    """How far each signal can be trusted on the held-out episodes, for the table of signals.

    Args:
        trusted: one per signal that varies.
        deviation: standard deviation of each signal, in its unit; 0 for a constant signal.
        unseen: signals that the baselines see and the world does not, so that their errors cannot be compared.
    """

    trusted: tuple[Trusted, ...]
    deviation: Mapping[str, float]
    unseen: tuple[str, ...] = ()
