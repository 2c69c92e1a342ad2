"""The page of a trained world: the main finding in units, then the details.

Build a `Report` from evidence in any order; `render` returns the page. It has sections only for the given evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from worldline.audit import findings
from worldline.audit import report_evidence as evidence
from worldline.audit.diagnostics import Diagnostics
from worldline.formatting import (
    between,
    clock,
    label,
    listing,
    number,
    percent,
    plural,
    quantity,
    round_percent,
    with_interval,
    with_unit,
)
from worldline.plots import images
from worldline.plots.charts import ChartLine, Dot, IntervalChart, LineChart, share_chart
from worldline.plots.images import thumbnail
from worldline.plots.parts import (
    Animation,
    Captioned,
    Chapter,
    Commands,
    Facts,
    FindingBlock,
    Group,
    Header,
    Items,
    Legend,
    Note,
    PageImage,
    PagePart,
    Table,
)
from worldline.report.measured_blocks import block, coverage_block, gaps_block, open_loop_block, skill_block, verdict
from worldline.report.page import render_page
from worldline.report.signal_rows import comparable, first_of_kind, headline, sentences, signal_table, weaknesses
from worldline.report.trial_rows import failures, trial_cells, trial_figures, trial_head

MAX_FINDINGS: Final = 3
_MAX_SHARP_SIZE: Final = 128
"""Largest side in pixels of a frame with visible pixels; larger frames are scaled smoothly."""
_MAX_SIZE: Final = 256
_MAX_ROWS: Final = 8
"""Further components of signals with charts."""
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Content of a report.

    Args:
        title: title of the page.
        subtitle: model and data in one line; empty for none.
        facts: details in order, such as data, device, wall time, seeds, versions, hashes.
        sections: evidence in any order.
        notices: remarks on the logs and the training, the most important first.
        commands: what to type next.
    """

    title: str
    subtitle: str
    facts: Mapping[str, str]
    sections: tuple[evidence.Evidence, ...]
    notices: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


def render(report: Report) -> str:
    """A self-contained UTF-8 page; deterministic."""
    content = _Content(report)
    top = content.headline or Header(title=report.title)
    eyebrow = " · ".join(dict.fromkeys(text for text in (report.title, report.subtitle) if text))
    facts = Facts(list(report.facts.items())) if report.facts else None
    columns: list[PagePart | None] = [
        Items("Worth knowing", content.weak, MAX_FINDINGS) if content.weak else None,
        Commands(report.commands) if report.commands else None,
    ]
    return render_page(
        report.title,
        Header(title=top.title, eyebrow=eyebrow, lede=top.lede, parts=_first_figures(content)),
        content.signals,
        Group(columns, "columns"),
        *_chapters(content),
        Chapter("Methods and details", [facts, *map(Note, content.methods)], folded=True),
    )


class _Content:
    """The evidence of a report by kind."""

    def __init__(self, report: Report) -> None:
        self.sections = report.sections
        self.trust = first_of_kind(report.sections, evidence.TrustedHorizons)
        self.diagnostics = first_of_kind(report.sections, Diagnostics)
        forecasts = first_of_kind(report.sections, evidence.Forecasts)
        self.samples: tuple[evidence.ForecastSample, ...] = () if forecasts is None else forecasts.samples
        if self.trust is not None:
            deviation = self.trust.deviation
            self.samples = tuple(sample for sample in self.samples if deviation.get(sample.signal))
            self.diagnostics = None if self.diagnostics is None else comparable(self.diagnostics, self.trust)
        self.level, self.step_s = (forecasts.level, forecasts.step_s) if forecasts else (0.0, None)
        self.planning = first_of_kind(report.sections, evidence.Planning)
        self.decoded = list(self.all(evidence.Decoded))
        self.weak = weaknesses(self.sections, self.diagnostics, self.trust, report.notices)
        self.signals = None if self.diagnostics is None else signal_table(self.diagnostics, self.trust)

    def all(self, kind: type[_T]) -> Iterable[_T]:
        return (section for section in self.sections if isinstance(section, kind))

    @property
    def headline(self) -> Header | None:
        if self.planning is not None:
            return sentences(findings.planning(self.planning))
        if self.diagnostics is not None and self.diagnostics.horizons:
            return headline(self.diagnostics, self.trust)
        return sentences(findings.decoded(self.decoded[0])) if self.decoded else None

    @property
    def methods(self) -> list[str]:
        texts = []
        if self.planning is not None:
            intervals = "Success rates have 95\u00a0% Wilson score intervals"
            texts.append(f"{intervals}; a difference is significant if they do not overlap.")
        if self.diagnostics is not None:
            measured = self.diagnostics
            left_out = plural(measured.num_short, "episode")
            short = f" {left_out} were too short and left out." if measured.num_short else ""
            cut = f"{plural(measured.num_windows, 'window')} of {plural(measured.horizon, 'step')}"
            texts += [
                f"Errors, use of actions and coverage were measured on {cut} from "
                f"{plural(measured.num_episodes, 'episode')}, which were not used for training or calibration.{short}",
                "Intervals are 95\u00a0% bootstrap intervals over episodes (2,000 draws). Intervals of the coverage "
                "are Wilson intervals, corrected for the dependence of windows of one episode.",
            ]
        return texts


def _first_figures(content: _Content) -> list[PagePart]:
    """Imagined beside real pictures if the world sees images, then forecasts of the first component."""
    parts: list[PagePart] = [_outcomes(content.planning, None)] if content.planning is not None else []
    parts += map(_decoded_figure, content.decoded)
    if content.samples:
        any_band, any_rival = (any(getattr(sample, part) for sample in content.samples) for part in ("low", "rival"))
        band = f", with its {round_percent(content.level)} band" if any_band else ""
        rival = [("best linear baseline", "soft")] if any_rival else []
        parts += [next(iter(_galleries(content).values()))]
        parts += [Legend([("measured", "real"), (f"predicted{band}", "world"), *rival])]
    return parts


def _galleries(content: _Content) -> dict[str, Group]:
    """Measured against predicted in a few held-out episodes, for each component."""
    rows: dict[str, list[PagePart]] = {}
    for sample in content.samples:
        rows.setdefault(_component(sample), []).append(_forecast_chart(sample, content.step_s))
    return {name: Group.gallery(charts) for name, charts in rows.items()}


def _forecast_chart(sample: evidence.ForecastSample, step_s: float | None) -> LineChart:
    """Past, forecast and ground truth of one component."""
    unit, unit_name = clock(len(sample.real), step_s)
    ahead = [unit * k for k in range(len(sample.real) + 1)]
    before = [unit * (k - len(sample.past) + 1) for k in range(len(sample.past))]
    present = sample.past[-1:]
    low, high = (() if edge is None else (*present, *edge) for edge in (sample.low, sample.high))
    lines = [
        ChartLine(label="predicted", style="world", x=ahead, y=(*present, *sample.mean), low=low, high=high),
        ChartLine(label="measured", style="real", x=[*before, *ahead[1:]], y=(*sample.past, *sample.real)),
    ]
    if sample.rival:
        lines.insert(0, ChartLine(label="best linear baseline", style="soft", x=ahead, y=(*present, *sample.rival)))
    name = _component(sample)
    ends = [quantity(values[-1], sample.unit) for values in (sample.mean, sample.real)]
    return LineChart(
        title=sample.case,
        alt=f"{name}, {sample.case}, at the last step: predicted {ends[0]}, measured {ends[1]}",
        x_label=f"{unit_name} from now",
        y_label=with_unit(name, sample.unit),
        lines=lines,
        now=0.0,
        style="unkeyed",
    )


def _component(sample: evidence.ForecastSample) -> str:
    return sample.signal + (f" · {sample.component}" if sample.component else "")


def _chapters(content: _Content) -> list[Chapter]:
    """The chapters in reading order; latents, ranks and losses are folded."""
    measured: list[PagePart | None] = []
    errors: list[PagePart | None] = []
    if (diagnostics := content.diagnostics) is not None:
        measured = [gaps_block(diagnostics), coverage_block(diagnostics)]
        errors = [skill_block(diagnostics) if diagnostics.skills else None, open_loop_block(diagnostics)]
    planning = [] if content.planning is None else [_planning_block(content.planning)]
    training = [
        *map(_learning_block, content.all(evidence.Learning)),
        *map(_health_block, content.all(evidence.LatentHealth)),
        *map(_readout_block, content.all(evidence.ReadoutQuality)),
    ]
    return [
        Chapter("Choice of the model", list(map(_choice_block, content.all(evidence.Choice)))),
        Chapter("Planning", [*planning, *map(_films_block, content.all(evidence.Films))]),
        Chapter("Images", list(map(_decoded_block, content.decoded))),
        Chapter("Use of actions and calibration", measured),
        Chapter("All signals in these episodes", _all_forecasts(content), folded=True),
        Chapter("Errors and baselines", errors, folded=True),
        Chapter("Training, latents and readouts", training, folded=True),
    ]


def _all_forecasts(content: _Content) -> list[PagePart]:
    """One row of charts for every further component."""
    galleries = _galleries(content)
    further = list(galleries)[1:]
    left = [Note(f"Not shown: {listing(further[_MAX_ROWS:])}.")] if further[_MAX_ROWS:] else []
    return [*(galleries[name] for name in further[:_MAX_ROWS]), *left]


def _outcomes(planning: evidence.Planning, kind: str | None) -> IntervalChart:
    """Success rate of every method with its interval, over all pairs or one kind."""
    rates = [(outcome, outcome.all if kind is None else outcome.split.get(kind)) for outcome in planning.outcomes]
    known = [(outcome.name, outcome.role, rate) for outcome, rate in rates if rate is not None]
    rows = [
        Dot.of(name, rate, percent(rate.value), "world" if role == "planner" else role) for name, role, rate in known
    ]
    texts = [f"{name} {percent(rate.value)} ({between(rate)})" for name, _, rate in known]
    title = f"Goals reached, {kind or 'all pairs'} ({known[0][2].trials} each)"
    return share_chart(title, rows, alt=f"{title}: {'; '.join(texts)}")


def _choice_block(choice: evidence.Choice) -> FindingBlock:
    """The compared models with their errors in the order of trial, and what won."""
    styles = {choice.chosen: "good"}
    rows: list[list[str | PagePart]] = [
        [verdict(styles.get(trial.name, "soft"), trial.name), *trial_cells(trial)] for trial in choice.trials
    ]
    caption = (
        f"{trial_figures(choice).capitalize()}. The ratio to {choice.reference} is a mean over the columns, in which "
        "an excess of over 10 % counts twice; below 1 is better."
    )
    if choice.reference == "linear":
        caption += " The linear baselines of other tables are plain regressions on the last observations."
    notes = map(Note, failures(choice))
    tables = [Table(caption, trial_head(choice), rows, style="number")] if rows else []
    return FindingBlock(f"The model {choice.chosen} was chosen: {choice.reason}.", [*tables, *notes])


def _planning_block(planning: evidence.Planning) -> FindingBlock:
    """Success rate by kind of pair, and time per plan."""
    details = Note(f"A pair counts as solved when {planning.task}. Bars are 95\u00a0% Wilson intervals.")
    figures = [_outcomes(planning, kind) for kind in planning.planner.split]
    return block(findings.splits(planning), Group.gallery(figures) if figures else None, details)


def _films_block(films: evidence.Films) -> FindingBlock:
    """Executed plans as animations; still frames if the reader prefers reduced motion."""
    return block(findings.films(films), Group.gallery([_film(film, k) for k, film in enumerate(films.films)]))


def _film(film: evidence.Film, index: int) -> Animation:
    steps, ending = plural(len(film.frames) - 1, "step"), "reached" if film.reached else "not reached"
    alt = f"Executed plan of {steps}, goal {ending}"
    strip = images.strip(film.frames, 6)
    return Animation(
        title=f"{steps}, {ending}",
        moving=images.picture(images.animation(film.frames), f"{alt}, playing in a loop.", "pixels moving"),
        still=images.picture(strip, f"{alt}, as a strip of frames.", "pixels still"),
        goal=None if film.goal is None else images.picture(images.png(film.goal), "Goal image.", "pixels"),
        key=f"still-{index}",
    )


def _learning_block(learning: evidence.Learning) -> FindingBlock:
    """Losses over training steps."""
    terms = [_series_line(term, f"other{k % 6}") for k, term in enumerate(learning.terms)]
    charts = [_loss_chart("Training loss, by term (unweighted)", terms)] if terms else []
    if learning.validation is not None:
        charts.append(_loss_chart("Validation loss", [_series_line(learning.validation, "world")]))
    return block(findings.learning(learning), Group.gallery(charts))


def _series_line(series: evidence.Series, style: str) -> ChartLine:
    return ChartLine(label=label(series.name), style=style, x=series.steps, y=series.values)


def _loss_chart(title: str, lines: Sequence[ChartLine]) -> LineChart:
    """Losses, on a logarithmic axis if all are positive."""
    positive = all(y > 0 for line in lines for y in line.y)
    alt = "; ".join(f"{line.label} from {number(line.y[0])} to {number(line.y[-1])}" for line in lines)
    scale = "loss, logarithmic" if positive else "loss"
    return LineChart(title=title, alt=f"{title}: {alt}", x_label="step", y_label=scale, lines=lines, log=positive)


def _health_block(health: evidence.LatentHealth) -> FindingBlock:
    """Measures of latent collapse over training steps, with the thresholds of the guard."""
    return block(findings.latent_health(health), Group.gallery([_vital_chart(vital) for vital in health.vitals]))


def _vital_chart(vital: evidence.Vital) -> LineChart:
    series, title = vital.series, label(vital.series.name)
    levels = [] if vital.threshold is None else [("guard threshold", vital.threshold)]
    levels += [] if vital.most is None else [("maximum", vital.most)]
    alt = f"{title}: from {number(series.values[0])} to {number(series.values[-1])}"
    alt += "".join(f"; {name} {number(height)}" for name, height in levels)
    lines = [_series_line(series, "world")]
    return LineChart(title=title, alt=alt, x_label="step", y_label=title, lines=lines, levels=levels)


def _readout_block(readout: evidence.ReadoutQuality) -> FindingBlock:
    """R² and error of the readout of each signal that varies."""
    share = findings.share_explained
    rows = [
        [
            row.signal,
            share(row.r2.value),
            "" if row.r2.low > findings.NEARLY_ALL else f"{share(row.r2.low)} to {share(row.r2.high)}",
            quantity(row.rmse, row.unit),
        ]
        for row in readout.rows
        if row.r2 is not None
    ]
    caption = "Readouts from the latent of a single step, on held-out episodes"
    table = Table(caption, ["signal", "R²", "95\u00a0% interval", "error (RMSE)"], rows) if rows else None
    return block(findings.readout(readout), table)


def _decoded_figure(decoded: evidence.Decoded) -> Captioned:
    """Frames of a few windows, true above predicted, one column per step."""
    unit_name, ahead = _ahead(decoded)
    moments = ["now", *(f"{time} {unit_name} ahead" for time in ahead)]
    rows: list[list[str | PagePart]] = []
    for window in decoded.windows:
        rows += [["true", *_frames("true", window.real, moments)]]
        rows += [["predicted", *_frames("predicted", window.drawn, moments)]]
    title = f"{decoded.camera}: true and predicted frames"
    return Captioned(title, [Table(title, [f"{unit_name} ahead", "now", *ahead], rows, style="frames")], "decoded")


def _ahead(decoded: evidence.Decoded) -> tuple[str, list[str]]:
    """The unit of time, and the steps in this unit."""
    unit, unit_name = clock(decoded.steps[-1], decoded.step_s)
    return unit_name, [number(unit * step) for step in decoded.steps]


def _frames(name: str, frames: evidence.Image, moments: Sequence[str]) -> list[PageImage]:
    style = "pixels" if max(frames.shape[1:3]) <= _MAX_SHARP_SIZE else "smooth"
    return [
        images.picture(images.png(thumbnail(frame, _MAX_SIZE, _MAX_SIZE, enlarge=False)), f"{name}, {moment}", style)
        for frame, moment in zip(frames, moments, strict=True)
    ]


def _decoded_block(decoded: evidence.Decoded) -> FindingBlock:
    """Errors of decoded predictions."""
    unit_name, ahead = _ahead(decoded)
    curves = {"predicted": decoded.imagined, "persistence": decoded.persistence, "decoder alone": decoded.decoder}
    rows = [[when, *(with_interval(curve.at(k)) for curve in curves.values())] for k, when in enumerate(ahead, 1)]
    counted = f"{plural(decoded.num_windows, 'window')} of {plural(decoded.num_episodes, 'episode')}, held out"
    caption = (
        f"{decoded.camera}: error (RMSE) in grey levels of 0 to 255 with 95\u00a0% bootstrap intervals over "
        f"episodes, over {counted}"
    )
    details = (
        "The decoder serves visualisation only: it was fitted to the trained model, and planning does not use it. "
        "There is no observation after \u201cnow\u201d; the predicted frame at \u201cnow\u201d is decoded from the "
        "latent of that frame. Persistence: the last observed frame. Decoder alone: decoded from the latents of the "
        "true frames."
    )
    return block(findings.decoded(decoded), Table(caption, [f"{unit_name} ahead", *curves], rows), Note(details))
