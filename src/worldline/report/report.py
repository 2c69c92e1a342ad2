"""The report of a trained world as a self-contained HTML page.

Build a `Report` from evidence in any order; `render` returns the page. It has sections only for the given evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from worldline.audit import findings
from worldline.audit import report_evidence as evidence
from worldline.audit.diagnostics import Diagnostics
from worldline.audit.findings import ReportFinding
from worldline.formatting import between, duration, label, number, percent, plural, quantity, round_percent
from worldline.report import evidence_blocks as blocks
from worldline.report.decoded_block import decoded_block
from worldline.report.markup import Html, tag
from worldline.report.measured_blocks import coverage_block, gaps_block, open_loop_block, skill_block, skill_chart
from worldline.report.page import chapter, facts, header, render_page

PREDICTIONS, TRAINING, OPEN_LOOP = "Predictions and readouts", "Training", "Open-loop error"
CALIBRATION, PLANNING = "Use of actions and calibration", "Planning"
_CHAPTERS: Final = (PREDICTIONS, TRAINING, OPEN_LOOP, CALIBRATION, PLANNING)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Content of a report.

    Args:
        title: title of the page.
        subtitle: model and data in one line; empty for none.
        facts: details in order, such as data, device, wall time, seeds, versions, hashes.
        sections: evidence in any order.
    """

    title: str
    subtitle: str
    facts: Mapping[str, str]
    sections: tuple[evidence.Evidence, ...]


def render(report: Report) -> str:
    """A self-contained UTF-8 page; deterministic."""
    sections = sorted(report.sections, key=lambda one: list(_BLOCKS).index(type(one)))
    tiles = {text: value for one in sections for text, value in _tiles(one).items()}
    top = header(report.title, report.subtitle, tiles, _hero(sections))
    methods = dict.fromkeys(text for one in sections for text in _methods(one))
    details = chapter("Methods and details", facts(list(report.facts.items())), *map(blocks.note, methods))
    return render_page(report.title, top, *_chapters(sections), details)


def _hero(sections: Sequence[evidence.Evidence]) -> Html:
    """The headline: success rate of planning if measured, else the number of signals with skill."""
    for one in sections:
        if isinstance(one, evidence.Planning):
            rate = one.planner.all
            small = f"of {plural(rate.trials, 'goal')} reached · 95\u00a0% interval {between(rate)}"
            return _headline(percent(rate.value), small, blocks.outcomes_chart(one, None), findings.planning(one))
    for one in sections:
        if isinstance(one, Diagnostics) and one.skills and one.horizons:
            signals = list(dict.fromkeys(skill.signal for skill in one.skills))
            won = sum(findings.wins(one, name) for name in signals)
            small = "signals predicted better than by every baseline at every reported horizon"
            return _headline(f"{won} of {len(signals)}", small, skill_chart(one), findings.skills(one))
    return Html("")


def _headline(big: str, small: str, chart: Html, finding: ReportFinding) -> Html:
    """The headline number with its chart."""
    number_ = tag("p", {"class": f"big {finding.verdict}"}, big)
    figure = tag("div", {"class": "figure"}, number_, tag("p", {"class": "small"}, small))
    return tag("section", {"class": "hero"}, figure, chart, tag("p", {"class": "lede"}, finding.text))


def _tiles(one: evidence.Evidence) -> dict[str, str]:
    """Key figures by label."""
    if isinstance(one, evidence.Learning) and one.learn_s is not None:
        return {"training time": duration(one.learn_s)}
    if isinstance(one, evidence.Planning) and one.plan_ms is not None:
        return {"per plan": quantity(one.plan_ms, "ms")}
    if isinstance(one, evidence.ReadoutQuality) and any(row.r2 is not None for row in one.rows):
        worst, r2 = min(((row, row.r2.value) for row in one.rows if row.r2 is not None), key=lambda pair: pair[1])
        return {f"R² of {label(worst.signal)}, the worst readout": number(r2, 4)}
    return _measured_tiles(one) if isinstance(one, Diagnostics) else {}


def _measured_tiles(found: Diagnostics) -> dict[str, str]:
    """The smallest growth of the error under wrong actions, and the worst coverage."""
    tiles = {}
    gaps = [gap for gap in found.gaps if gap.signal is None]
    if gaps:
        weakest = min(gaps, key=lambda gap: gap.increase.low)
        tiles[f"change of the error with actions {weakest.change}"] = percent(weakest.increase.value, signed=True)
    if found.bands:
        bands = findings.headline_bands(found.bands)
        worst = max(bands, key=lambda band: abs(band.coverage.value - band.level))
        title = f"coverage of the {round_percent(worst.level)} band ({label(worst.signal)})"
        tiles[title] = percent(worst.coverage.value)
    return tiles


def _chapters(sections: Sequence[evidence.Evidence]) -> list[Html]:
    """The chapters with content, in reading order."""
    found: dict[str, list[Html]] = {title: [] for title in _CHAPTERS}
    for one in sections:
        for title, make in _BLOCKS[type(one)]:
            found[title].append(make(one))
    return [chapter(title, *blocks_) for title, blocks_ in found.items()]


def _reported_skill(found: Diagnostics) -> Html:
    return skill_block(found) if found.skills and found.horizons else Html("")


_BLOCKS: Final[Mapping[type, Sequence[tuple[str, Callable[[Any], Html]]]]] = {
    evidence.Planning: [(PLANNING, blocks.planning_block)],
    evidence.Learning: [(TRAINING, blocks.learning_block)],
    evidence.LatentHealth: [(TRAINING, blocks.health_block)],
    evidence.ReadoutQuality: [(PREDICTIONS, blocks.readout_block)],
    Diagnostics: [
        (PREDICTIONS, _reported_skill),
        (OPEN_LOOP, open_loop_block),
        (CALIBRATION, gaps_block),
        (CALIBRATION, coverage_block),
    ],
    evidence.Forecasts: [(PREDICTIONS, blocks.forecasts_block)],
    evidence.Decoded: [(OPEN_LOOP, decoded_block)],
    evidence.PredictedPaths: [(OPEN_LOOP, blocks.imagined_block)],
    evidence.Films: [(PLANNING, blocks.films_block)],
}
"""Chapters and blocks of each kind of evidence, in the order within a chapter and in the row of key figures."""


def _methods(one: evidence.Evidence) -> list[str]:
    """How this evidence was measured."""
    if isinstance(one, evidence.Planning):
        return [
            "Success rates have 95\u00a0% Wilson score intervals; a difference is significant if they do not overlap."
        ]
    if not isinstance(one, Diagnostics):
        return []
    short = f" {plural(one.num_short, 'episode')} were too short and left out." if one.num_short else ""
    windows, episodes = plural(one.num_windows, "window"), plural(one.num_episodes, "episode")
    cut = f"{windows} of {plural(one.horizon, 'step')} from {episodes}"
    return [
        f"Errors, use of actions and coverage were measured on {cut}, which were not used for training or "
        f"calibration.{short}",
        "Intervals are 95\u00a0% bootstrap intervals over episodes (2,000 draws). Intervals of the coverage are Wilson "
        "intervals, corrected for the dependence of windows of one episode.",
    ]
