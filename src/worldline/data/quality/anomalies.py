"""Stuck sensors and outliers in the signals of a log, and facts that may be intended, such as constant signals.

Stuck sensors and outliers are warnings. The longest constant run and the most distant value of each episode are
compared with those of the other episodes (`NullDistribution`). All other findings are notes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, FindingKind, Place, arrays_of, note, warning
from worldline.data.quality.false_alarms import LEVEL, MAXIMA, MIN_VALUES, RUNS
from worldline.data.quality.near_copies import near_pairs
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal

Array = NDArray[np.generic]
Floats = NDArray[np.floating]
Steps = NDArray[np.intp]

MAX_SAMPLED: Final = 200
"""Episodes of which rows are kept to compare signals with each other."""
ROWS_PER_EPISODE: Final = 60
MAX_GRID: Final = 32
"""Images are sampled on a grid of at most this many rows and columns."""
MAX_BLACK_LEVEL: Final = 3
"""Largest value of a black image, of 255."""
MIN_CHANGES: Final = 0.2
"""Smallest usual share of steps in which a sensor changes that may be stuck."""
MAX_CONSTANT_STEPS: Final = 20
"""Largest number of steps for which a sensor that is not stuck may always be constant."""
MAX_COINCIDENCE: Final = 3.0
"""Largest ratio of the stuck values that are equal to those that would be equal by chance."""
MIN_SATURATED, MIN_LEVELS, MAX_GAP = 0.03, 50, 0.05
"""Of a sensor that may saturate: share of rows at the limit, number of values, and distance to the next value."""
SATURATION_RATIO, NUM_LEVELS = 5, 5  # a saturated value is so many times as frequent as each of the next values
MIN_SATURATED_ROWS: Final = 3
"""Smallest number of successive rows at the limit that are a part to mask."""
_MASK_IF_SATURATED: Final = "If the sensor saturates there, mark these rows as missing. A stop is no error."
OUTLIER_RANGES: Final = 10.0
"""Distance of an outlier from the range of 99 % of the values, in units of that range."""
MIN_ROWS: Final = 100
"""Smallest number of values from which the usual range follows."""
NUM_POINTS: Final = 16
"""Actions of an episode that are compared with those of other episodes."""
MAX_RELATIVE_DIFFERENCE: Final = 1e-3
"""Largest difference of two equal signals, as a share of the range."""
MIN_SHARE: Final = 0.5
"""Smallest share of steps or episodes that counts as usual."""
MAX_FINDINGS: Final = 5
"""Findings of one kind for one signal or pair; the last gives the number of further ones."""


class _Numbers(NamedTuple):
    """Figures of one signal in one episode, each [C] for its components, or in E episodes, each [E, C].

    Missing rows are left out.
    """

    low: Floats
    high: Floats
    low_at: Steps
    high_at: Steps
    changes: Floats
    num_steps: Steps
    run: Steps
    next_run: Steps
    run_from: Steps
    run_to: Steps
    run_value: Floats


@dataclass(frozen=True, kw_only=True)
class _SignalSummary:
    """The figures of one signal.

    Args:
        signal: the signal.
        episodes: [E] numbers of the episodes in which it was observed.
        numbers: [E, C] figures.
        rows: [rows, C] of the sampled episodes, NaN if missing.
    """

    signal: Signal
    episodes: list[int]
    numbers: _Numbers
    rows: Floats


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    """One camera in one episode: the steps with black and with uniform images, and whether the image changes."""

    dark: Steps
    blank: Steps
    moves: bool
    num: int


@dataclass(frozen=True, kw_only=True)
class _EpisodeSummary:
    """The figures of one episode."""

    number: int
    num_steps: int
    numbers: dict[str, _Numbers]  # without signals that were never observed in it
    pictures: dict[str, _Pictures]
    observed: dict[str, float]
    digest: bytes
    outline: Floats


class Inspection:
    """Collects figures of episodes one by one, with memory for a few numbers per episode.

    Args:
        schema: of the episodes.
        num_episodes: of the log.
        seed: of the sample of at most 200 episodes whose rows are kept to compare signals.
    """

    def __init__(self, schema: Schema, num_episodes: int, seed: int = 0) -> None:
        self._schema = schema
        self._draw = np.random.default_rng([seed, 5])
        self._sampled = frozenset(self._draw.permutation(num_episodes)[:MAX_SAMPLED].tolist())
        self._seen: list[_EpisodeSummary] = []
        self._rows: dict[str, list[Floats]] = defaultdict(list)
        self._before: dict[str, list[Floats]] = defaultdict(list)

    def add(self, number: int, episode: Episode) -> None:
        """Collects the figures of an episode.

        Args:
            number: of the episode in the log, from 0.
            episode: that fits the schema.
        """
        # Images are sampled on a coarse grid: black and frozen ones show there, too.
        numbers: dict[str, _Numbers] = {}
        pictures: dict[str, _Pictures] = {}
        digest = hashlib.blake2b(digest_size=16)
        for signal in self._schema.signals:
            values = arrays_of(episode, signal.role)[signal.name]
            if signal.kind is Kind.IMAGE:
                values = values[:, :: -(-signal.shape[0] // MAX_GRID), :: -(-signal.shape[1] // MAX_GRID)]
                pictures[signal.name] = _look(values)
            elif signal.name not in episode.observed or episode.observed[signal.name].any():
                numbers[signal.name] = _measure(_table(values), episode.observed.get(signal.name))
            digest.update(values.tobytes())
        self._seen.append(
            _EpisodeSummary(
                number=number,
                num_steps=episode.num_steps,
                numbers=numbers,
                pictures=pictures,
                observed={name: float(mask.astype(np.float64).mean()) for name, mask in episode.observed.items()},
                digest=digest.digest(),
                outline=_outline(episode, self._schema),
            )
        )
        if number in self._sampled and episode.num_steps > 1:
            self._keep_rows(episode)

    def _keep_rows(self, episode: Episode) -> None:
        """Keeps rows t of observations (NaN if missing) and inputs, and action t-1."""
        at = np.sort(self._draw.permutation(np.arange(1, episode.num_steps))[:ROWS_PER_EPISODE])
        for signal in _numeric(self._schema):
            table = _table(arrays_of(episode, signal.role)[signal.name])
            rows = table[at]
            if signal.role is Role.OBSERVATION and signal.name in episode.observed:
                rows[~episode.observed[signal.name][at].astype(np.bool_)] = np.nan
            self._rows[signal.name].append(rows)
            if signal.role is Role.ACTION:
                self._before[signal.name].append(table[at - 1])

    def findings(self) -> tuple[Finding, ...]:
        """All findings. An error only if nothing can be learned, else warnings and notes."""
        if not self._seen:
            return ()
        seen, signals = self._seen, list(self._summaries())
        moves = {summary.number: self._moves(summary) for summary in seen}
        findings = [*_constant(signals), *_outliers(signals)]
        findings += _repeats(signals, {name: np.concatenate(rows) for name, rows in self._before.items()})
        findings += [*_masks(seen), *_motionless(self._schema, seen), *_stuck(signals, moves)]
        findings += _saturated(signals)
        return (*findings, *_cameras(seen, moves), *_alike(seen))

    @staticmethod
    def _moves(summary: _EpisodeSummary) -> set[tuple[str, int]]:
        """The names and components of the signals that change."""
        changes = ((name, figures.changes) for name, figures in summary.numbers.items())
        return {(name, at) for name, share in changes for at in np.flatnonzero(share).tolist()}

    def _summaries(self) -> Iterator[_SignalSummary]:
        """The figures of each signal that was observed at all, in the order of the roles."""
        for signal in _numeric(self._schema):
            if summaries := [summary for summary in self._seen if signal.name in summary.numbers]:
                stacked = zip(*(summary.numbers[signal.name] for summary in summaries), strict=True)
                numbers = _Numbers(*map(np.stack, stacked))
                rows = np.concatenate([numbers.low[:0], *self._rows[signal.name]])
                episodes = [summary.number for summary in summaries]
                yield _SignalSummary(signal=signal, episodes=episodes, numbers=numbers, rows=rows)


def _numeric(schema: Schema) -> list[Signal]:
    """All signals but images, in the order of their roles."""
    return [signal for role in Role for signal in schema.of(role) if signal.kind is not Kind.IMAGE]


def _table(values: Array) -> Floats:
    return values.reshape(len(values), -1).astype(np.float64)


def _measure(table: Floats, mask: Array | None) -> _Numbers:
    """The figures of one signal [rows, C]."""
    steps = np.arange(len(table)) if mask is None else np.flatnonzero(mask)
    # Length of the constant run that ends at each step; 0 where the value changes.
    seen = table[steps]
    same = seen[1:] == seen[:-1]
    at = np.arange(len(same))[:, None]
    runs = np.where(same, at - np.maximum.accumulate(np.where(same, -1, at), axis=0), 0)
    # The longest run, and the longest one apart from it, which shows what is usual.
    end = runs.argmax(0) if len(runs) else np.zeros(table.shape[1], np.intp)
    run = runs.max(0, initial=0)
    first = np.where(run > 0, end + 1 - run, 0)
    columns = np.arange(table.shape[1])
    others = runs.copy()
    others[np.abs(at - end) <= run] = 0
    return _Numbers(
        low=seen.min(0),
        high=seen.max(0),
        low_at=steps[seen.argmin(0)],
        high_at=steps[seen.argmax(0)],
        changes=1 - same.mean(0) if len(same) else np.zeros(table.shape[1]),
        num_steps=np.full(table.shape[1], len(same)),
        run=run + 1,
        next_run=others.max(0, initial=0) + 1,
        run_from=steps[first],
        run_to=steps[first + run],
        run_value=seen[first, columns],
    )


def _look(pictures: Array) -> _Pictures:
    flat = pictures.reshape(len(pictures), -1)
    high, low = flat.max(1), flat.min(1)
    return _Pictures(
        dark=np.flatnonzero(high <= MAX_BLACK_LEVEL),
        blank=np.flatnonzero((high > MAX_BLACK_LEVEL) & (high == low)),
        moves=bool((flat[1:] != flat[:-1]).any()),
        num=len(flat),
    )


def _outline(episode: Episode, schema: Schema) -> Floats:
    """The first and last observation and some actions of an episode, to find duplicates."""
    parts = []
    for signal in schema.observations:
        ends = episode.observations[signal.name][[0, -1]]
        if signal.kind is Kind.IMAGE:
            ends = ends[:, :: -(-signal.shape[0] // 4), :: -(-signal.shape[1] // 4)]
        parts.append(ends.reshape(-1).astype(np.float32))
    points = np.linspace(0, episode.num_steps - 1, NUM_POINTS).astype(np.intp)
    parts += [
        episode.actions[s.name][points].reshape(-1).astype(np.float32)
        for s in _numeric(schema)
        if s.role is Role.ACTION
    ]
    return np.concatenate(parts)


def part_of(signal: Signal, component: int) -> str:
    """The subject of a sentence about a component."""
    if signal.size == 1 or signal.num_values is not None:
        return "it"
    return f"component {signal.components[component] if signal.components else component}"


def _few(findings: list[Finding]) -> list[Finding]:
    """At most `MAX_FINDINGS` findings of one kind; the last gives the number of further ones."""
    if len(findings) <= MAX_FINDINGS:
        return findings
    last = findings[MAX_FINDINGS - 1]
    problem = f"{last.problem} (and {len(findings) - MAX_FINDINGS} more like this)"
    places = tuple(place for finding in findings[MAX_FINDINGS - 1 :] for place in finding.places)
    return [*findings[: MAX_FINDINGS - 1], replace(last, problem=problem, places=places)]


def _episode_list(seen: Sequence[_EpisodeSummary], names: Sequence[int]) -> str:
    listed = ", ".join(map(str, names[:MAX_FINDINGS])) + (", ..." if len(names) > MAX_FINDINGS else "")
    return f"{len(names)} of {len(seen)} episodes ({listed})"


def _constant(signals: Sequence[_SignalSummary]) -> Iterator[Finding]:
    """Components that never change in the whole log."""
    varies = {Role.ACTION: False}
    for summary in signals:
        low, high = summary.numbers.low.min(0), summary.numbers.high.max(0)
        which = np.flatnonzero(low == high)
        varies[summary.signal.role] = varies.get(summary.signal.role, False) or len(which) < len(low)
        if not len(which) or summary.signal.role is Role.REWARD:
            continue
        parts = "it" if len(which) == len(low) else ", ".join(part_of(summary.signal, int(c)) for c in which)
        values = ", ".join(f"{value:g}" for value in low[which][:MAX_FINDINGS])
        fix = "Remove it from the schema, unless it will vary where the world is used."
        if summary.signal.role is Role.ACTION:
            fix = "Log episodes in which it varies: the effect of an action that never changes cannot be learned."
        yield note(problem=f"{parts} never changes (always {values})", fix=fix, signal=summary.signal.name)
    if not varies[Role.ACTION] and any(summary.signal.role is Role.ACTION for summary in signals):
        fix = "Log episodes in which the actions vary, or give signals that are not chosen the role exogenous."
        yield Finding(problem="no action ever changes, so the effect of actions cannot be learned", fix=fix)


def _outliers(signals: Sequence[_SignalSummary]) -> Iterator[Finding]:
    """Values far outside the range that holds 99 % of the values, unless other episodes have values as far outside."""
    fix = "Repair the value, mark it as missing, or leave the episode out."
    for summary in (summary for summary in signals if summary.signal.kind is Kind.VECTOR):
        findings, numbers, name = [], summary.numbers, summary.signal.name
        for component, values in enumerate(summary.rows.T):
            known = values[np.isfinite(values)]
            # The usual range, from the sampled rows.
            low, high = np.quantile(known, (0.005, 0.995)) if len(known) >= MIN_ROWS else (0.0, 0.0)
            if high <= low:
                continue
            # How far the extremes of each episode lie outside. A limit from the other episodes allows for heavy tails.
            above = (numbers.high[:, component] - high) / (high - low)
            below = (low - numbers.low[:, component]) / (high - low)
            distance = np.log1p(np.maximum(np.maximum(above, below), 0))
            limit = MAXIMA.limit(distance) if len(distance) >= MIN_VALUES else 0.0
            for index in np.flatnonzero(distance > max(limit, np.log1p(OUTLIER_RANGES))).tolist():
                episode, is_above = summary.episodes[index], above[index] > below[index]
                value = (numbers.high if is_above else numbers.low)[index, component]
                step = int((numbers.high_at if is_above else numbers.low_at)[index, component])
                usual = f"{low:.4g} to {high:.4g}"
                problem = f"{part_of(summary.signal, component)} is {value:g}, but 99 % of the values lie in {usual}"
                findings.append(warning(problem=problem, fix=fix, episode=episode, signal=name, step=step))
        yield from _few(findings)


def _repeats(signals: Sequence[_SignalSummary], before: Mapping[str, Floats]) -> Iterator[Finding]:
    """Signals that repeat another signal or an action, up to scale and offset."""
    inputs = [summary for summary in signals if summary.signal.role is Role.ACTION]
    others = [summary for summary in signals if summary.signal.role in (Role.OBSERVATION, Role.EXOGENOUS)]
    # Signals of the same kind that repeat each other.
    known, named = _side_by_side(others)
    actions, named_actions = _side_by_side(inputs)
    for table, names in ((known, named), (actions, named_actions)):
        findings = []
        for i, j in _equal(table, table):
            if i < j:
                problem = f"{part_of(*names[j])} repeats {_label(*names[i])}, up to scale and offset"
                findings.append(note(problem=problem, fix="Leave one of the two out.", signal=names[j][0].name))
        yield from _few(findings)
    # Actions of the same step and of the step before: both are displayed by some loggers.
    shifted = [replace(summary, rows=before.get(summary.signal.name, summary.rows)) for summary in inputs]
    earlier, _ = _side_by_side(shifted)
    for row, words in ((actions, "t"), (earlier, "t-1")):
        findings = []
        for i, j in _equal(known, row):
            problem = f"{part_of(*named[i])} at step t repeats {_label(*named_actions[j])} of step {words}"
            fix = "Leave it out: it shows the commanded value, not the effect."
            findings.append(note(problem=problem, fix=fix, signal=named[i][0].name))
        yield from _few(findings)


def _side_by_side(signals: Sequence[_SignalSummary]) -> tuple[Floats, list[tuple[Signal, int]]]:
    """The rows of some signals as one table, and the signal and the component of each column."""
    if not signals:
        return np.empty((0, 0)), []
    table = np.concatenate([summary.rows for summary in signals], 1)
    return table, [(summary.signal, component) for summary in signals for component in range(summary.rows.shape[1])]


def _label(signal: Signal, component: int) -> str:
    part = part_of(signal, component)
    return f"'{signal.name}'" if part == "it" else f"{part} of '{signal.name}'"


def _equal(table: Floats, other: Floats) -> Iterator[tuple[int, int]]:
    """Pairs of columns that are equal up to scale and offset; ignores NaN."""
    if len(table) < 20 or not table.shape[1] or not other.shape[1]:
        return
    correlation = _standard(table).T @ _standard(other) / len(table)
    for i, j in np.argwhere(np.abs(correlation) > 0.9).tolist():
        both = np.isfinite(table[:, i]) & np.isfinite(other[:, j])
        x, y = table[both, i], other[both, j]
        if both.sum() < 20 or np.ptp(x) == 0 or np.ptp(y) == 0:
            continue
        slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
        if np.abs(y - y.mean() - slope * (x - x.mean())).max() <= MAX_RELATIVE_DIFFERENCE * np.ptp(y):
            yield i, j


def _standard(table: Floats) -> Floats:
    """z-scores, with 0 for NaN and for constant columns."""
    known = np.isfinite(table)
    count = np.maximum(known.sum(0), 1)
    centred = np.where(known, table - np.where(known, table, 0).sum(0) / count, 0)
    deviation = np.sqrt((centred**2).mean(0))
    return np.asarray(centred / np.where(deviation > 0, deviation, 1))


def _masks(seen: Sequence[_EpisodeSummary]) -> Iterator[Finding]:
    """Signals that are missing in most steps."""
    for name in sorted({name for summary in seen for name in summary.observed}):
        weights = [summary.num_steps + 1 for summary in seen]
        share = float(np.average([summary.observed.get(name, 1.0) for summary in seen], weights=weights))
        if share < MIN_SHARE:
            fix = "Check its rate and its clock, or leave it out."
            yield note(problem=f"it was observed in only {100 * share:.0f} % of the steps", fix=fix, signal=name)


def _motionless(schema: Schema, seen: Sequence[_EpisodeSummary]) -> Iterator[Finding]:
    """Episodes in which no observation ever changes."""
    names = {signal.name for signal in schema.observations}

    def changes(summary: _EpisodeSummary) -> bool:
        in_pictures = any(camera.moves for name, camera in summary.pictures.items() if name in names)
        return in_pictures or any(n.changes.any() for name, n in summary.numbers.items() if name in names)

    static = [summary.number for summary in seen if not changes(summary)]
    if len(static) == len(seen):
        fix = "Log episodes in which an observation changes, or correct the roles of the signals."
        yield Finding(problem="no observation ever changes within an episode, so nothing can be predicted", fix=fix)
    elif static:
        problem = f"no observation ever changes in {_episode_list(seen, static)}"
        fix = "Leave them out, unless they are meant to show standstill."
        yield note(problem=problem, fix=fix, episode=static[0])


def _stuck(signals: Sequence[_SignalSummary], moves: Mapping[int, set[tuple[str, int]]]) -> Iterator[Finding]:
    """Sensors that usually change in nearly every step, but are constant for an extreme number of steps."""
    fix = "The sensor was stuck or slower than the log: mark these steps as missing."
    for summary in signals:
        if summary.signal.kind is not Kind.VECTOR or summary.signal.role is not Role.OBSERVATION:
            continue
        findings, numbers = [], summary.numbers
        # Only sensors that usually change can be stuck; a run counts if neither chance nor the log explains it.
        for component in np.flatnonzero(_usual_changes(numbers) > MIN_CHANGES).tolist():
            limit = _longest_usual_run(numbers, component)
            for index in np.flatnonzero(numbers.run[:, component] > limit).tolist():
                episode, step = summary.episodes[index], int(numbers.run_from[index, component])
                # A stop, and a standstill of the whole system, are no faults of the sensor.
                others_move = bool(moves[episode] - {(summary.signal.name, component)})
                if _is_stop(summary, index, component, limit) or not others_move:
                    continue
                problem = (
                    f"{part_of(summary.signal, component)} is exactly {numbers.run_value[index, component]:g} for "
                    f"{numbers.run[index, component]} steps while others change"
                )
                place = Place(
                    episode=episode, start=step, stop=int(numbers.run_to[index, component]) + 1, component=component
                )
                findings.append(
                    warning(
                        problem=problem,
                        fix=fix,
                        episode=episode,
                        signal=summary.signal.name,
                        step=step,
                        kind=FindingKind.STUCK,
                        places=(place,),
                    )
                )
        yield from _few(findings)


def _longest_usual_run(numbers: _Numbers, component: int) -> float:
    """The longest constant run of a component that the log itself explains, in rows."""
    run, steps = numbers.run[:, component], numbers.num_steps[:, component]
    # The longest run of each episode may be the fault. The others show the usual share of constant steps.
    same = ((1 - numbers.changes[:, component]) * steps - (run - 1)).sum()
    stays = (same + 1) / ((steps - (run - 1)).sum() + 2)
    by_chance = np.log(LEVEL / steps.sum()) / np.log(stays)
    usual, tested = np.log(numbers.next_run[run <= steps, component]), np.log(run)
    by_others = RUNS.limit(usual, tested) if len(usual) >= MIN_VALUES else 0.0
    return float(max(MAX_CONSTANT_STEPS, by_chance, np.exp(by_others)))


def _saturated(signals: Sequence[_SignalSummary]) -> Iterator[Finding]:
    """Components with a limit at one end of their range. Limits at both ends are more probably stops, such as walls.

    The place of a finding begins with a row at the limit; `with_saturated_parts` finds all parts.
    """
    for summary in signals:
        if summary.signal.kind is not Kind.VECTOR or summary.signal.role is not Role.OBSERVATION:
            continue
        for component, column in enumerate(summary.rows.T):
            low, high = _limit(-column), _limit(column)
            if (low is None) == (high is None):
                continue
            value, share = low or high or (0.0, 0.0)
            # The place is the first episode that reaches the limit; the parts follow from the whole log later.
            numbers = summary.numbers
            ends, steps = (numbers.high, numbers.high_at) if high else (numbers.low, numbers.low_at)
            at = int((ends[:, component] == (value if high else -value)).argmax())
            place = Place(episode=summary.episodes[at], start=int(steps[at, component]), component=component)
            limit = f"{value:g}, its largest value" if high else f"{-value:g}, its smallest value"
            problem = f"{part_of(summary.signal, component)} is exactly {limit}, in {100 * share:.0f} % of the rows"
            kind = FindingKind.SATURATED
            yield note(problem=problem, fix=_MASK_IF_SATURATED, signal=summary.signal.name, kind=kind, places=(place,))


def with_saturated_parts(store: Store, finding: Finding) -> Finding:
    """The finding; that of a saturated sensor with all parts in which it stays at its limit for some rows.

    Args:
        store: with the rows.
        finding: of `Inspection`, about this store.
    """
    if finding.kind is not FindingKind.SATURATED:
        return finding
    (place,), name, parts = finding.places, finding.signal or "", list[Place]()
    limit = store.read(name, place.episode, place.start, place.start + 1)[0, place.component]
    for number, steps in enumerate(store.num_steps.tolist()):
        rows = name, number, 0, steps + 1
        is_there = (store.read(*rows)[:, place.component] == limit) & store.observed(*rows)
        edges = np.flatnonzero(np.diff(is_there, prepend=False, append=False)).reshape(-1, 2).tolist()
        long = [(start, stop) for start, stop in edges if stop - start >= MIN_SATURATED_ROWS]
        parts += [replace(place, episode=number, start=start, stop=stop) for start, stop in long]
    return replace(finding, places=tuple(parts))


def _limit(values: Floats) -> tuple[float, float] | None:
    """The largest value and its share of the rows, if it occurs in many and the values below it in few; else None."""
    levels, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    if len(levels) < MIN_LEVELS or not levels[-1]:  # 0 is the usual value of what is off or empty
        return None
    share, usual = float(counts[-1] / counts.sum()), SATURATION_RATIO * counts[-1 - NUM_LEVELS : -1].max()
    is_near = levels[-1] - levels[-2] <= MAX_GAP * (levels[-2] - levels[0])  # values reach a limit that clips
    return (
        (float(levels[-1]), share) if is_near and counts[-1] >= usual and MIN_SATURATED <= share <= MIN_SHARE else None
    )


def _usual_changes(numbers: _Numbers) -> Floats:
    """The median share of steps in which each component [C] changes, outside the longest constant run of an episode."""
    steps = numbers.num_steps - (numbers.run - 1)
    share = np.where(steps > 0, numbers.changes * numbers.num_steps / np.maximum(steps, 1), np.nan)
    known_share = np.where(np.isnan(share).all(0), 0.0, share)
    return np.asarray(np.nanmedian(known_share, axis=0))


def _is_stop(summary: _SignalSummary, index: int, component: int, limit: float) -> bool:
    """Whether the constant value is an end of the range, or a place of rest, which long runs have in common."""
    numbers = summary.numbers
    low, high = numbers.low[:, component].min(), numbers.high[:, component].max()
    values, near = numbers.run_value[:, component], MAX_RELATIVE_DIFFERENCE * (high - low)
    value, is_long = values[index], numbers.run[:, component] > limit
    rested = (is_long & (np.abs(values - value) <= near)).sum() - 1
    share = (np.abs(summary.rows[:, component] - value) <= near).mean() if len(summary.rows) else 0.0
    return bool(value - low <= near or high - value <= near or rested > MAX_COINCIDENCE * share * is_long.sum())


def _cameras(seen: Sequence[_EpisodeSummary], moves: Mapping[int, set[tuple[str, int]]]) -> Iterator[Finding]:
    """Black and uniform images, and cameras that froze."""
    for name in seen[0].pictures:
        # Images without content; then cameras whose image stays while other signals change.
        dark = {summary.number: summary.pictures[name].dark for summary in seen}
        blank = {summary.number: summary.pictures[name].blank for summary in seen}
        for words, steps in (("black", dark), ("of one single colour", blank)):
            if hit := [number for number, at in steps.items() if len(at)]:
                num = sum(map(len, steps.values()))
                share = 100 * num / sum(summary.pictures[name].num for summary in seen)
                problem = f"{num} images ({share:.1f} %) are {words}, in {_episode_list(seen, hit)}"
                fix = "Mark them as missing, or leave these episodes out."
                step = int(steps[hit[0]][0])
                yield note(problem=problem, fix=fix, signal=name, episode=hit[0], step=step)
        if frozen := [summary.number for summary in seen if not summary.pictures[name].moves and moves[summary.number]]:
            problem = f"the image never changes while other signals do, in {_episode_list(seen, frozen)}"
            fix = "The camera froze, or does not see any motion: leave out these episodes, or the camera."
            yield note(problem=problem, fix=fix, signal=name, episode=frozen[0])


def _alike(seen: Sequence[_EpisodeSummary]) -> Iterator[Finding]:
    """Duplicate and near-duplicate episodes, which a random split can put into both training and test data."""
    first: dict[bytes, int] = {}
    findings = []
    for summary in seen:
        other = first.setdefault(summary.digest, summary.number)
        if other != summary.number:
            fix = "Keep one of the two, or put both into the same part of the split."
            findings.append(note(problem=f"it is an exact copy of episode {other}", fix=fix, episode=summary.number))
    yield from _few(findings)
    # Near copies agree in their outline, which tolerates rounding.
    fix = "Put both into the same part of the split, or leave one out: otherwise test data leaks into training."
    findings = []
    unique = [summary for summary in seen if first[summary.digest] == summary.number]
    lengths, outlines = [summary.num_steps for summary in unique], [summary.outline for summary in unique]
    for earlier, later in near_pairs(lengths, outlines):
        problem = f"it is nearly a copy of episode {unique[earlier].number}: start, actions and end agree"
        findings.append(note(problem=problem, fix=fix, episode=unique[later].number))
    yield from _few(findings)
