"""The first screen of a report: the main finding in units, and a row per signal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Final, Literal, TypeVar

from worldline.audit.diagnostics import Band, Diagnostics, ErrorCurve
from worldline.audit.forecast_measurements import TrustedHorizons
from worldline.audit.measured import Trusted
from worldline.audit.measurement import Measurement, ReportFinding, compare_errors
from worldline.formatting import MAX_GROWTH, NBSP, first_of, listing, number, pretty_unit, round_percent, span
from worldline.plots.parts import Header, PagePart, Phrase, Table

MAX_TIE_SHARE: Final = 0.01
"""Share of a signal's standard deviation below which a difference of two errors counts as a tie."""
_PERSISTENCE: Final = ("persistence",)
_LINEAR: Final = ("linear", "action_blind")
"""The linear models among the baselines."""
_T = TypeVar("_T")


Section = Measurement | Diagnostics | TrustedHorizons
"""What a report shows."""
Rivalry = float | Literal["tie"] | None
"""The error of the world compared with that of a baseline at the last reported step: the skill, or a tie.

None without such a baseline or a finite skill.
"""


def _rivalry_cell(rivalry: Rivalry) -> Phrase | str:
    """A cell of the table: "40 %" below, "tie", "30 % above" or "×24"."""
    if rivalry is None or rivalry == "tie":
        return "–" if rivalry is None else Phrase("tie", "verdict soft")
    if rivalry > 0:
        return Phrase(_share(rivalry), "verdict good")
    return Phrase(f"{_share(-rivalry)} above" if -rivalry < MAX_GROWTH else f"×{number(1 - rivalry, 2)}", "verdict bad")


def _rivalry_text(skill: float, name: str) -> str:
    """A part of a sentence: "40 % below the best linear model"."""
    if skill > 0:
        return f"{_share(skill)} below {name}"
    return f"{_share(-skill)} above {name}" if -skill < MAX_GROWTH else f"{number(1 - skill, 2)} times that of {name}"


def comparable(measured: Diagnostics, trust: TrustedHorizons) -> Diagnostics:
    """The diagnostics without constant signals, and without baselines on signals that only these see."""
    names = {name for name, deviation in trust.deviation.items() if deviation}
    seen = names.difference(trust.unseen)
    return replace(
        measured,
        errors=tuple(error for error in measured.errors if error.signal in (seen if error.world else names)),
        skills=tuple(curve for curve in measured.skills if curve.signal in seen),
        gaps=tuple(gap for gap in measured.gaps if gap.signal in {None, *names}),
        bands=tuple(band for band in measured.bands if band.signal in names),
    )


def best_linear(measured: Diagnostics, signal: str, step: int) -> str | None:
    """Name of the linear model with the smallest error after `step` steps; None without one."""
    return _strongest(measured, signal, step, _LINEAR)


def _strongest(measured: Diagnostics, signal: str, step: int, names: Iterable[str]) -> str | None:
    """The world with the smallest error after `step` steps, among those of `names` that predict the signal."""
    errors = measured.errors_of(signal)
    return min((name for name in names if name in errors), key=lambda name: errors[name].at(step).value, default=None)


def _rivalry(measured: Diagnostics, trust: TrustedHorizons | None, signal: str, names: Sequence[str]) -> Rivalry:
    step = measured.horizons[-1] if measured.horizons else measured.horizon
    name, skills = _strongest(measured, signal, step, names) or "", measured.skills_of(signal)
    if name not in skills or not isfinite(skills[name].at(step).value):
        return None
    skill, errors = skills[name].at(step), measured.errors_of(signal)
    close = MAX_TIE_SHARE * (trust.deviation.get(signal, 0.0) if trust else 0.0)
    is_tied = compare_errors(skill) in ("equivalent", "unclear")
    is_tied = is_tied or abs(errors[""].at(step).value - errors[name].at(step).value) < close
    return "tie" if is_tied else skill.value


def _share(share: float) -> str:
    """A share without decimals; 100 % and 0 % only if it is exact."""
    return f"over 99{NBSP}%" if 0.995 <= share < 1 else round_percent(round(share, 2) if share > 0.005 else share)


def signal_table(measured: Diagnostics, trust: TrustedHorizons | None) -> Table | None:
    """The errors of each signal in units, its skill, coverage and trusted horizon."""
    if not measured.own or not measured.horizons:
        return None
    bands = {band.signal: band for band in measured.bands}
    trusted = {horizon.signal: horizon for horizon in trust.trusted} if trust else {}
    level = measured.bands[0].level if measured.bands else 0.0
    ahead = [f"after {span(step, measured.step_s)}" for step in measured.horizons]
    inside = f"inside {round_percent(level)} band"
    head = ["signal", *ahead, "below persistence", "below best linear baseline", inside, "trusted until"]
    cells: list[list[str | PagePart]] = []
    for error in measured.own:
        name, errors = error.signal, [_error(error, step, measured) for step in measured.horizons]
        rivals = [_rivalry_cell(_rivalry(measured, trust, name, baselines)) for baselines in (_PERSISTENCE, _LINEAR)]
        end = _trusted(trusted.get(name), measured.step_s)
        cells.append([name, *errors, *rivals, _inside(bands.get(name)), end])
    caption = (
        f"Error (RMSE) on {measured.num_windows} held-out windows. Comparisons {ahead[-1]}; "
        "a tie is a difference that is not significant or below 1\u00a0% of the standard deviation of the signal."
    )
    if trust is not None and trust.unseen:
        unseen = listing(trust.unseen)
        caption += f" The world does not see {unseen}: baselines that do are left out."
    kept = [k for k in range(len(head)) if any(row[k] != "–" for row in cells)]
    return Table(caption, [head[k] for k in kept], [[row[k] for k in kept] for row in cells], style="number signals")


def _inside(band: Band | None) -> Phrase | str:
    """The measured coverage, in the colour of its verdict."""
    if band is None:
        return "–"
    narrow, wide = band.coverage.high < band.level, band.coverage.low > band.level
    return Phrase(_share(band.coverage.value), "verdict bad" if narrow else "verdict unclear" if wide else "")


def _trusted(horizon: Trusted | None, step_s: float | None) -> Phrase | str:
    if horizon is None:
        return "–"
    style = "" if horizon.steps == horizon.of else "verdict unclear" if horizon.steps else "verdict bad"
    return Phrase(span(horizon.steps, step_s) if horizon.steps else "not trusted", style)


def headline(measured: Diagnostics, trust: TrustedHorizons | None) -> Header | None:
    """The error of the first signal in units, compared with the baselines; None if no signal varies."""
    if not measured.own:
        return None
    first, step = measured.own[0], measured.horizons[-1]
    baselines = {"persistence": _PERSISTENCE, "the best linear baseline": _LINEAR}
    rivals = {text: _rivalry(measured, trust, first.signal, names) for text, names in baselines.items()}
    parts = [f"error {_error(first, step, measured)} after {span(step, measured.step_s)}"]
    parts += [_rivalry_text(skill, name) for name, skill in rivals.items() if isinstance(skill, float)]
    tied = [name for name, rivalry in rivals.items() if rivalry == "tie"]
    parts += [f"tied with {listing(tied)}"] if tied else []
    return Header(title=f"{first.signal}: {', '.join(parts)}.", lede=_lede(measured, trust))


def _lede(measured: Diagnostics, trust: TrustedHorizons | None) -> str:
    """Coverage of the first signal, and the signals that are trusted over the whole horizon."""
    names, texts = [error.signal for error in measured.own], []
    for band in [band for band in measured.bands if band.signal == names[0]]:
        inside, level = band.coverage, round_percent(band.level)
        texts.append(f"{_share(inside.value)} of {inside.trials} held-out paths stay inside their {level} band.")
    trusted = {horizon.signal for horizon in trust.trusted if horizon.steps == horizon.of} if trust else ()
    if whole := [name for name in names if name in trusted]:
        which = listing(whole) if len(whole) <= 4 else first_of(whole, 4)
        which = "All signals" if len(whole) == len(names) > 1 else which
        texts.append(f"{which} can be trusted for all of the {span(measured.horizon, measured.step_s)}.")
    return " ".join(texts)


def sentences(finding: ReportFinding) -> Header:
    """A finding whose first sentence is the title."""
    first, _, rest = finding.text.partition(". ")
    return Header(title=first.removesuffix(".") + ".", lede=rest)


def measured_signals(sections: Iterable[Section]) -> tuple[Diagnostics | None, TrustedHorizons | None]:
    """The diagnostics of the signals that vary, and their trusted horizons; None if there are none."""
    sections = list(sections)
    measured, trust = first_of_kind(sections, Diagnostics), first_of_kind(sections, TrustedHorizons)
    return measured if measured is None or trust is None else comparable(measured, trust), trust


def first_of_kind(sections: Iterable[object], kind: type[_T]) -> _T | None:
    """The first section of this kind; None without one."""
    return next((section for section in sections if isinstance(section, kind)), None)


def _error(curve: ErrorCurve, step: int, measured: Diagnostics) -> str:
    """The error after `step` steps, with two digits and its unit."""
    return f"{number(curve.rmse.at(step).value, 2)}{NBSP}{pretty_unit(measured.units[curve.signal])}".rstrip()
