"""The first screen of a report: the main finding in units, a row per signal, and the weaknesses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Final

from worldline.audit import findings
from worldline.audit import report_evidence as evidence
from worldline.audit.audit_evidence import Trusted
from worldline.audit.diagnostics import HEADLINE_LEVEL, Band, Diagnostics
from worldline.formatting import (
    MAX_GROWTH,
    NBSP,
    baseline,
    first_of,
    listing,
    number,
    percent,
    pretty_unit,
    round_percent,
    span,
)
from worldline.report.parts import Header, PagePart, Phrase, Table

MAX_TIE_SHARE: Final = 0.01
"""Share of a signal's standard deviation below which a difference of two errors counts as a tie."""
_LINEAR: Final = ("linear", "action_blind")
"""The linear models among the baselines."""


@dataclass(frozen=True)
class Rivalry:
    """The error of the world compared with that of a baseline.

    Args:
        skill: 1 - error / error of the baseline; None for a tie.
    """

    skill: float | None

    @property
    def cell(self) -> Phrase:
        """Its cell in the table: "40 %" below, "tie", "30 % above" or "×24"."""
        if self.skill is None:
            return Phrase("tie", "verdict soft")
        if self.skill > 0:
            return Phrase(_share(self.skill), "verdict good")
        above = f"{_share(-self.skill)} above" if -self.skill < MAX_GROWTH else f"×{number(1 - self.skill, 2)}"
        return Phrase(above, "verdict bad")

    def sentence(self, name: str) -> str:
        """A part of a sentence: "40 % below the best linear model"; empty for a tie."""
        if self.skill is None:
            return ""
        if self.skill > 0:
            return f"{_share(self.skill)} below {name}"
        if -self.skill < MAX_GROWTH:
            return f"{_share(-self.skill)} above {name}"
        return f"{number(1 - self.skill, 2)} times that of {name}"


@dataclass(frozen=True, kw_only=True)
class SignalRow:
    """Measurements of one signal on held-out episodes.

    Args:
        signal: its name.
        unit: its unit.
        errors: root mean square error at each reported step.
        persistence: comparison at the last reported step; None without such a baseline or a finite skill.
        linear: comparison with the better linear model.
        band: its prediction band; None without one.
        trusted: trusted horizon; None if it was not measured.
    """

    signal: str
    unit: str
    errors: tuple[float, ...]
    persistence: Rivalry | None
    linear: Rivalry | None
    band: Band | None
    trusted: Trusted | None


def comparable(measured: Diagnostics, trust: evidence.TrustedHorizons) -> Diagnostics:
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


def signal_rows(measured: Diagnostics, trust: evidence.TrustedHorizons | None) -> list[SignalRow]:
    """One row per predicted signal."""
    bands = {band.signal: band for band in findings.headline_bands(measured.bands)} if measured.bands else {}
    trusted = {horizon.signal: horizon for horizon in trust.trusted} if trust else {}
    rows = []
    for error in measured.errors:
        if error.world:
            continue
        name = error.signal
        rows.append(
            SignalRow(
                signal=name,
                unit=measured.units[name],
                errors=tuple(float(error.rmse.value[step - 1]) for step in measured.horizons),
                persistence=_rivalry(measured, trust, name, ("persistence",)),
                linear=_rivalry(measured, trust, name, _LINEAR),
                band=bands.get(name),
                trusted=trusted.get(name),
            )
        )
    return rows


def best_linear(measured: Diagnostics, signal: str, step: int) -> str | None:
    """Name of the linear model with the smallest error after `step` steps; None without one."""
    return _strongest(_errors_at(measured, signal, step), _LINEAR)


def _errors_at(measured: Diagnostics, signal: str, step: int) -> dict[str, float]:
    """The error of each world after `step` steps."""
    return {error.world: error.rmse.value[step - 1] for error in measured.errors if error.signal == signal}


def _strongest(errors: Mapping[str, float], names: Iterable[str]) -> str | None:
    return min((name for name in names if name in errors), key=lambda name: errors[name], default=None)


def _rivalry(
    measured: Diagnostics, trust: evidence.TrustedHorizons | None, signal: str, names: Sequence[str]
) -> Rivalry | None:
    step = measured.horizons[-1] if measured.horizons else measured.horizon
    errors = _errors_at(measured, signal, step)
    name = _strongest(errors, names) or ""
    skills = {curve.against: curve.skill.at(step) for curve in measured.skills if curve.signal == signal}
    if name not in skills or not isfinite(skills[name].value):
        return None
    close = MAX_TIE_SHARE * (trust.deviation.get(signal, 0.0) if trust else 0.0)
    is_tied = findings.compare_errors(skills[name]) in ("equivalent", "unclear")
    return Rivalry(None if is_tied or abs(errors[""] - errors[name]) < close else skills[name].value)


def _share(share: float) -> str:
    """A share without decimals; 100 % and 0 % only if it is exact."""
    return f"over 99{NBSP}%" if 0.995 <= share < 1 else round_percent(round(share, 2) if share > 0.005 else share)


def signal_table(measured: Diagnostics, trust: evidence.TrustedHorizons | None) -> Table | None:
    """The errors of each signal in units, its skill, coverage and trusted horizon."""
    rows = signal_rows(measured, trust)
    if not rows or not measured.horizons:
        return None
    level = next((row.band.level for row in rows if row.band is not None), HEADLINE_LEVEL)
    ahead = [f"after {span(step, measured.step_s)}" for step in measured.horizons]
    inside = f"inside {round_percent(level)} band"
    head = ["signal", *ahead, "below persistence", "below best linear baseline", inside, "trusted until"]
    cells: list[list[str | PagePart]] = []
    for row in rows:
        errors = [_quantity(value, row.unit) for value in row.errors]
        rivals = ["–" if rivalry is None else rivalry.cell for rivalry in (row.persistence, row.linear)]
        cells.append([row.signal, *errors, *rivals, _inside(row.band), _trusted(row.trusted, measured.step_s)])
    caption = (
        f"Error (RMSE) on {measured.num_windows} held-out windows; signals that the actions affect most come first. "
        f"Comparisons {ahead[-1]}; "
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


def headline(measured: Diagnostics, trust: evidence.TrustedHorizons | None) -> Header | None:
    """The error of the first signal in units, compared with the baselines; None if no signal varies."""
    rows = signal_rows(measured, trust)
    if not rows:
        return None
    first, when = rows[0], span(measured.horizons[-1], measured.step_s)
    rivals = [(first.persistence, "persistence"), (first.linear, "the best linear baseline")]
    parts = [f"error {_quantity(first.errors[-1], first.unit)} after {when}"]
    parts += [rivalry.sentence(name) for rivalry, name in rivals if rivalry is not None and rivalry.skill is not None]
    tied = [name for rivalry, name in rivals if rivalry is not None and rivalry.skill is None]
    parts += [f"tied with {listing(tied)}"] if tied else []
    return Header(title=f"{first.signal}: {', '.join(parts)}.", lede=_lede(rows, measured))


def _lede(rows: Sequence[SignalRow], measured: Diagnostics) -> str:
    """Coverage of the first signal, and the signals that are trusted over the whole horizon."""
    first, texts = rows[0], []
    if first.band is not None:
        inside = first.band.coverage
        texts.append(
            f"{_share(inside.value)} of {inside.trials} held-out paths stay inside their "
            f"{round_percent(first.band.level)} band."
        )
    whole = [row.signal for row in rows if row.trusted and row.trusted.steps == row.trusted.of]
    if whole:
        which = listing(whole) if len(whole) <= 4 else first_of(whole, 4)
        which = "All signals" if len(whole) == len(rows) > 1 else which
        texts.append(f"{which} can be trusted for all of the {span(measured.horizon, measured.step_s)}.")
    return " ".join(texts)


def sentences(finding: findings.ReportFinding) -> Header:
    """A finding whose first sentence is the title."""
    first, _, rest = finding.text.partition(". ")
    return Header(title=first.removesuffix(".") + ".", lede=rest)


def weaknesses(
    sections: Sequence[evidence.Evidence],
    measured: Diagnostics | None,
    trust: evidence.TrustedHorizons | None,
    notices: Sequence[str],
) -> list[str]:
    """What a user of the world should know, the worst first."""
    ranked = [(2, text) for text in notices]
    for section in sections:
        if isinstance(section, evidence.LatentHealth):
            ranked += _if_bad(0, findings.latent_health(section))
        elif isinstance(section, evidence.Learning):
            ranked += _if_bad(1, findings.learning(section))
    if measured is not None:
        ranked += _if_bad(0, findings.gaps(measured.gaps)) if measured.gaps else []
        for row in signal_rows(measured, trust):
            ranked += _signal_weaknesses(row, measured)
    return [text for _, text in sorted(ranked, key=lambda weakness: weakness[0])]


def measured_signals(sections: Iterable[evidence.Evidence]) -> tuple[Diagnostics, evidence.TrustedHorizons] | None:
    """The measurements of the signals that vary, from the sections of a report; None without any."""
    parts = {type(section): section for section in sections}
    measured, trust = parts.get(Diagnostics), parts.get(evidence.TrustedHorizons)
    if not isinstance(measured, Diagnostics) or not isinstance(trust, evidence.TrustedHorizons):
        return None
    return comparable(measured, trust), trust


def _if_bad(rank: int, finding: findings.ReportFinding) -> list[tuple[int, str]]:
    return [(rank, finding.text)] if finding.verdict == "bad" else []


def _signal_weaknesses(row: SignalRow, measured: Diagnostics) -> list[tuple[int, str]]:
    name, texts, horizon = row.signal, [], row.trusted
    if horizon is not None and horizon.steps < horizon.of:
        reason = f"it is not significantly better than {baseline(horizon.stops)}"
        if horizon.stops == "linear":
            reason = "a linear baseline is better"
        until = "at no step:"
        if horizon.steps:
            until = f"only until {span(horizon.steps, measured.step_s)}: at the next step"
        texts.append((1 if horizon.steps else 0, f"{name} can be trusted {until} {reason}."))
    if row.band is not None and not row.band.coverage.low <= row.band.level <= row.band.coverage.high:
        narrow = row.band.coverage.high < row.band.level
        share = f"{percent(row.band.coverage.value)} of the paths are inside the {round_percent(row.band.level)} band"
        how = "narrow" if narrow else "wide"
        texts.append((1 if narrow else 3, f"The bands of {row.signal} are too {how}: {share}."))
    return texts


def _quantity(value: float, unit: str) -> str:
    """A value with two digits and its unit."""
    return f"{number(value, 2)}{NBSP}{pretty_unit(unit)}".rstrip()
