"""Report blocks for each kind of evidence: a finding, then figures with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from worldline.audit import findings
from worldline.audit import report_evidence as evidence
from worldline.audit.findings import ReportFinding
from worldline.formatting import between, clock, label, listing, number, percent, plural, quantity, with_unit
from worldline.report import images
from worldline.report.charts import ChartLine, Dot, LineChart, line_chart, share_chart
from worldline.report.markup import Html, table, tag

_MARKS: Final = {"good": "✓", "bad": "✗", "unclear": "?"}
_SPOKEN: Final = {"good": "holds", "bad": "does not hold", "unclear": "unclear"}


def block(finding: ReportFinding, *figures: str) -> Html:
    """A finding with its figures."""
    mark = Html("")
    if finding.verdict != "plain":
        spoken = {"class": f"mark {finding.verdict}", "role": "img", "aria-label": _SPOKEN[finding.verdict]}
        mark = tag("span", spoken, _MARKS[finding.verdict])
    return tag("div", {"class": "block"}, tag("p", {"class": "finding"}, mark, finding.text), *figures)


def gallery(figures: Sequence[str]) -> Html:
    """Figures, side by side on wide screens."""
    kinds = {1: "gallery alone", 3: "gallery three"}
    return tag("div", {"class": kinds.get(len(figures), "gallery")}, *figures)


def verdict(style: str, text: str) -> Html:
    """A verdict in a table, in the colour of `style`: "good", "bad", "unclear" or "soft"."""
    return tag("span", {"class": f"verdict {style}"}, text)


def note(text: str) -> Html:
    """A note in small text; empty for an empty text."""
    return tag("p", {"class": "note"}, text) if text else Html("")


def outcomes_chart(planning: evidence.Planning, kind: str | None) -> Html:
    """Success rate of every method with its interval, over all pairs or one kind."""
    rates = [(one, one.all if kind is None else one.split.get(kind)) for one in planning.outcomes]
    chosen = [(one, rate) for one, rate in rates if rate is not None]
    rows = [
        Dot.of(one.name, rate, percent(rate.value), "world" if one.role == "planner" else one.role)
        for one, rate in chosen
    ]
    alt = "; ".join(f"{one.name} {percent(rate.value)} ({between(rate)})" for one, rate in chosen)
    title = f"Goals reached, {kind or 'all pairs'} ({chosen[0][1].trials} each)"
    return share_chart(title, ("method", "goals reached"), rows, alt=f"{title}: {alt}")


def planning_block(planning: evidence.Planning) -> Html:
    """Success rate by kind of pair, and time per plan."""
    kinds: Sequence[str | None] = [*planning.planner.split] or [None]
    figures = [outcomes_chart(planning, kind) for kind in kinds]
    details = f"A pair counts as solved when {planning.task}. Bars are 95\u00a0% Wilson intervals."
    return block(findings.splits(planning), gallery(figures), note(details))


def films_block(films: evidence.Films) -> Html:
    """Executed plans as animations; still frames if the reader prefers reduced motion."""
    return block(findings.films(films), gallery([_film(one, k) for k, one in enumerate(films.films)]))


def _film(film: evidence.Film, index: int) -> Html:
    """An animation with a pause switch, and a strip of frames for reduced motion."""
    steps, ending = plural(len(film.frames) - 1, "step"), "reached" if film.reached else "not reached"
    alt, switch = f"Executed plan of {steps}, goal {ending}", f"still-{index}"
    shown = [
        images.picture(images.animation(film.frames), f"{alt}, playing in a loop.", kind="pixels moving"),
        images.picture(images.strip(film.frames, 6), f"{alt}, as a strip of frames.", kind="pixels still"),
    ]
    goal = []
    if film.goal is not None:
        image = images.picture(images.png(film.goal), "Goal image.", kind="pixels")
        goal = [tag("div", {"class": "goal"}, tag("span", {}, "goal"), image)]
    return tag(
        "figure",
        {"class": "film"},
        tag("figcaption", {}, f"{steps}, {ending}"),
        tag("input", {"type": "checkbox", "id": switch, "class": "switch"}),
        tag("label", {"for": switch}, "Pause"),
        tag("div", {"class": "screen"}, tag("div", {"class": "executed"}, tag("span", {}, "executed"), *shown), *goal),
    )


def learning_block(learning: evidence.Learning) -> Html:
    """Losses over training steps."""
    terms = [_series_line(one, f"other{k % 6}") for k, one in enumerate(learning.terms)]
    charts = [_loss_chart("Training loss, by term (unweighted)", terms)] if terms else []
    if learning.validation is not None:
        charts.append(_loss_chart("Validation loss", [_series_line(learning.validation, "world")]))
    return block(findings.learning(learning), gallery(charts))


def _series_line(series: evidence.Series, style: str) -> ChartLine:
    return ChartLine(label=label(series.name), style=style, x=series.steps, y=series.values)


def _loss_chart(title: str, lines: Sequence[ChartLine]) -> Html:
    """Losses, on a logarithmic axis if all are positive."""
    positive = all(y > 0 for line in lines for y in line.y)
    alt = "; ".join(f"{line.label} from {number(line.y[0])} to {number(line.y[-1])}" for line in lines)
    scale = "loss, logarithmic" if positive else "loss"
    chart = LineChart(title=title, alt=f"{title}: {alt}", x_label="step", y_label=scale, lines=lines, log=positive)
    return line_chart(chart)


def health_block(health: evidence.LatentHealth) -> Html:
    """Measures of latent collapse over training steps, with the thresholds of the guard."""
    return block(findings.latent_health(health), gallery([_vital_chart(vital) for vital in health.vitals]))


def _vital_chart(vital: evidence.Vital) -> Html:
    series, title = vital.series, label(vital.series.name)
    levels = [] if vital.threshold is None else [("guard threshold", vital.threshold)]
    levels += [] if vital.most is None else [("maximum", vital.most)]
    alt = f"{title}: from {number(series.values[0])} to {number(series.values[-1])}"
    alt += "".join(f"; {name} {number(height)}" for name, height in levels)
    lines = [_series_line(series, "world")]
    return line_chart(LineChart(title=title, alt=alt, x_label="step", y_label=title, lines=lines, levels=levels))


def readout_block(readout: evidence.ReadoutQuality) -> Html:
    """R² and error of each readout."""
    rows = [
        [
            label(row.signal),
            "constant" if row.r2 is None else number(row.r2.value, 4),
            "–" if row.r2 is None else f"{number(row.r2.low, 4)} to {number(row.r2.high, 4)}",
            quantity(row.rmse, row.unit),
        ]
        for row in readout.rows
    ]
    caption = "Readouts from the latent of a single step, on held-out episodes"
    head = ["signal", "R²", "95\u00a0% interval", "error (RMSE)"]
    return block(findings.readout(readout), table(head, rows, caption=caption))


def forecasts_block(found: evidence.Forecasts) -> Html:
    """Sample forecasts with bands and ground truth."""
    return block(findings.sampled(found), gallery([_forecast_chart(one, found) for one in found.samples]))


def _forecast_chart(sample: evidence.ForecastSample, found: evidence.Forecasts) -> Html:
    """Past, forecast and ground truth of one component."""
    unit, unit_name = clock(len(sample.real), found.step_s)
    ahead = [unit * k for k in range(len(sample.real) + 1)]
    before = [unit * (k - len(sample.past) + 1) for k in range(len(sample.past))]
    present = sample.past[-1:]
    low, high = (() if edge is None else (*present, *edge) for edge in (sample.low, sample.high))
    name = "forecast with band" if low else "forecast"
    lines = [
        ChartLine(label=name, style="world", x=ahead, y=(*present, *sample.mean), low=low, high=high),
        ChartLine(label="ground truth", style="real", x=[*before, *ahead[1:]], y=(*sample.past, *sample.real)),
    ]
    title = label(sample.label)
    ends = [quantity(values[-1], sample.unit) for values in (sample.mean, sample.real)]
    alt = f"{title} at the last step: forecast {ends[0]}, ground truth {ends[1]}"
    y_label, x_label = with_unit(title, sample.unit), f"{unit_name} from now"
    return line_chart(LineChart(title=title, alt=alt, x_label=x_label, y_label=y_label, lines=lines, now=0.0))


def imagined_block(found: evidence.PredictedPaths) -> Html:
    """Predicted and true paths over the last true frame, and a strip of frames."""
    figures = [_imagined_figure(path, found) for path in found.paths]
    keys = [
        tag("span", {"class": "key"}, tag("i", {"class": f"swatch {style}-swatch"}), text)
        for style, text in (("real", "true path"), ("imagined", "predicted path"))
    ]
    key = tag("div", {"class": "legend", "aria-hidden": "true"}, *keys)
    details = f"Drawn over the last true frame. The predicted {label(found.signal)} is read out from predicted latents."
    return block(findings.imagined(found), key, gallery(figures), note(details))


def _imagined_figure(path: evidence.ImaginedPath, found: evidence.PredictedPaths) -> Html:
    miss = float(((path.real[-1] - path.imagined[-1]) ** 2).sum() ** 0.5)
    title = f"error {quantity(miss, found.unit)} after {plural(len(path.real) - 1, 'step')}"
    alt = f"True and predicted path of {label(found.signal)} over the last true frame: {title}."
    steps = listing([str(step) for step in path.frame_steps])
    strip = images.strip(path.frames, len(path.frames))
    row = images.picture(strip, f"True frames at steps {steps}.", kind="pixels strip")
    over = images.overlay(path.frames[-1], path.real, path.imagined, alt)
    return tag("figure", {"class": "paths"}, tag("figcaption", {}, title), over, row)
