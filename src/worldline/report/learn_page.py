"""The page of a trained world: the main finding in units, then the details.

Build a `Report` from measurements; `render` returns the page. It has chapters only for the given measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from worldline.audit.diagnostics import Diagnostics
from worldline.audit.errors import ActionUse, error_measurements
from worldline.audit.forecast_measurements import Decoded, Forecasts, TrustedHorizons
from worldline.audit.measurement import Measurement
from worldline.audit.planning_measurements import Planning
from worldline.audit.signal_table import Section, first_of_kind, headline, measured_signals, sentences, signal_table
from worldline.audit.training_measurements import Learning
from worldline.formatting import plural
from worldline.plots.parts import Chapter, Commands, Facts, Group, Header, Items, Note, PagePart
from worldline.report.page import render_page

MAX_FINDINGS: Final = 3
OPEN: Final = ("Choice of the model", "Planning", "Images", "Use of actions", "Prediction bands")
FOLDED: Final = ("All signals in these episodes", "Errors and baselines", "Training and latents")
"""Titles of the chapters in reading order; those of other measurements follow and are open."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Content of a report.

    Args:
        title: title of the page.
        subtitle: model and data in one line; empty for none.
        facts: details in order, such as data, device, wall time, seeds, versions, hashes.
        sections: measurements, in the order of a chapter; diagnostics and trusted horizons of the signals.
        notices: remarks on the logs and the training, the most important first.
        commands: what to type next.
    """

    title: str
    subtitle: str
    facts: Mapping[str, str]
    sections: tuple[Section, ...]
    notices: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


def render(report: Report) -> str:
    """A self-contained UTF-8 page; deterministic."""
    diagnostics, trust = measured_signals(report.sections)
    parts = [section for section in report.sections if isinstance(section, Measurement)]
    parts += [] if diagnostics is None else error_measurements(diagnostics)
    top = _headline(parts, diagnostics, trust) or Header(title=report.title)
    eyebrow = " · ".join(dict.fromkeys(text for text in (report.title, report.subtitle) if text))
    findings = [part.sentence() for kind in (ActionUse, Learning) for part in parts if isinstance(part, kind)]
    weak = [*(finding.text for finding in findings if finding.verdict == "bad"), *report.notices]
    facts = Facts(list(report.facts.items())) if report.facts else None
    return render_page(
        report.title,
        Header(title=top.title, eyebrow=eyebrow, lede=top.lede, parts=_first_figures(parts)),
        None if diagnostics is None else signal_table(diagnostics, trust),
        Group([Items("Worth knowing", weak, MAX_FINDINGS), Commands(report.commands)], "columns"),
        *(
            Chapter(title, [part.block() for part in parts if part.chapter == title], folded=title in FOLDED)
            for title in dict.fromkeys([*OPEN, *FOLDED, *(part.chapter for part in parts)])
        ),
        Chapter("Methods and details", [facts, *map(Note, _methods(parts, diagnostics))], folded=True),
    )


def _headline(parts: list[Measurement], measured: Diagnostics | None, trust: TrustedHorizons | None) -> Header | None:
    planning, decoded = first_of_kind(parts, Planning), first_of_kind(parts, Decoded)
    if planning is not None:
        return sentences(planning.headline())
    if measured is not None and measured.horizons:
        return headline(measured, trust)
    return None if decoded is None else sentences(decoded.sentence())


def _methods(parts: list[Measurement], measured: Diagnostics | None) -> list[str]:
    texts = []
    if first_of_kind(parts, Planning) is not None:
        intervals = "Success rates have 95\u00a0% Wilson score intervals"
        texts.append(f"{intervals}; a difference is significant if they do not overlap.")
    if measured is not None:
        short = f" {plural(measured.num_short, 'episode')} were too short and left out." if measured.num_short else ""
        cut = f"{plural(measured.num_windows, 'window')} of {plural(measured.horizon, 'step')}"
        texts += [
            f"Errors, use of actions and coverage were measured on {cut} from "
            f"{plural(measured.num_episodes, 'episode')}, which were not used for training or calibration.{short}",
            "Intervals are 95\u00a0% bootstrap intervals over episodes (2,000 draws). Intervals of the coverage "
            "are Wilson intervals, corrected for the dependence of windows of one episode.",
        ]
    return texts


def _first_figures(parts: list[Measurement]) -> list[PagePart]:
    """Success rates, then true and decoded images, then forecasts of the first component."""
    figures: list[PagePart] = [part.chart() for part in parts if isinstance(part, Planning)]
    figures += [part.frames() for part in parts if isinstance(part, Decoded)]
    forecasts = first_of_kind(parts, Forecasts)
    return figures if forecasts is None else [*figures, *forecasts.first()]
