"""Detection of anomalies in the signals of a log, such as outliers, stuck sensors and duplicate episodes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, Severity, arrays_of
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
MAX_CONSTANT_STEPS: Final = 20
"""A sensor that is constant for more steps while others change is stuck."""
OUTLIER_RANGES: Final = 10.0
"""Distance of an outlier from the range of 99 % of the values, in units of that range."""
FACTORS: Final = {57.3: "degrees and radians", 1000.0: "a unit and its thousandth"}
MIN_OTHERS: Final = 5
"""Smallest number of other episodes to compare scales with."""
NUM_POINTS: Final = 16
"""Actions of an episode that are compared with those of other episodes."""
MAX_DUPLICATE_DEVIATION: Final = 0.01
"""Largest difference of near-duplicate episodes in any compared value, in standard deviations."""
MAX_RELATIVE_DIFFERENCE: Final = 1e-3
"""Largest difference of two equal signals, as a share of the range."""
MIN_SHARE: Final = 0.5
"""Smallest share of steps or episodes that counts as usual."""
MAX_FINDINGS: Final = 5
"""Findings of one kind for one signal or pair; the last gives the number of further ones."""

_warning = partial(Finding, severity=Severity.WARNING)


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    """Figures of one signal in one episode, each [C] for its components; missing rows are left out."""

    low: Floats
    high: Floats
    low_at: Steps
    high_at: Steps
    size: Floats
    spread: Floats
    changes: Floats
    run: Steps
    run_from: Steps
    run_value: Floats


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
        self._rows: dict[Role, list[Floats]] = defaultdict(list)
        self._before: list[Floats] = []

    def add(self, number: int, episode: Episode) -> None:
        """Collects the figures of an episode.

        Args:
            number: of the episode in the log, from 0.
            episode: that fits the schema.
        """
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
        for role in Role:
            parts = [np.empty((len(at), 0))]
            for signal in _numeric(self._schema, role):
                values = _table(arrays_of(episode, role)[signal.name])[at]
                if role is Role.OBSERVATION and signal.name in episode.observed:
                    values[~episode.observed[signal.name][at].astype(np.bool_)] = np.nan
                parts.append(values)
            self._rows[role].append(np.concatenate(parts, 1))
        before = [_table(episode.actions[s.name])[at - 1] for s in _numeric(self._schema, Role.ACTION)]
        self._before.append(np.concatenate([np.empty((len(at), 0)), *before], 1))

    def findings(self) -> tuple[Finding, ...]:
        """All anomalies. An error only if nothing can be learned, else warnings."""
        if not self._seen:
            return ()
        rows = {role: np.concatenate(self._rows[role]) for role in Role} if self._before else {}
        found = [*_constant(self._schema, self._seen), *_scales(self._schema, self._seen)]
        if rows:
            before = np.concatenate(self._before)
            found += _outliers(self._schema, self._seen, rows, {(one.episode, one.signal) for one in found})
            found += _repeats(self._schema, rows, before)
        found += [*_masks(self._seen), *_motionless(self._schema, self._seen), *_stuck(self._schema, self._seen)]
        return (*found, *_cameras(self._schema, self._seen), *_alike(self._seen))


def quality(store: Store, episodes: Sequence[int] | None = None, seed: int = 0) -> tuple[Finding, ...]:
    """All anomalies of the signals in a store, each with its place, the value and the fix.

    Every episode is read once. Signals are compared with each other on at most 200 episodes.

    Args:
        store: to check.
        episodes: to check; default is all.
        seed: of the sample.

    Raises:
        InputError: an episode does not exist.
        DataError: an episode is damaged.
    """
    inspection = Inspection(store.schema, len(store), seed)
    for number in range(len(store)) if episodes is None else episodes:
        inspection.add(number, store.episode(number))
    return inspection.findings()


def _numeric(schema: Schema, role: Role) -> list[Signal]:
    return [signal for signal in schema.of(role) if signal.kind is not Kind.IMAGE]


def _with(name: str, seen: Sequence[_EpisodeSummary]) -> list[_EpisodeSummary]:
    """The episodes in which a signal was observed."""
    return [one for one in seen if name in one.numbers]


def _table(values: Array) -> Floats:
    return values.reshape(len(values), -1).astype(np.float64)


def _measure(table: Floats, mask: Array | None) -> _Numbers:
    """The figures of one signal [rows, C]."""
    steps = np.arange(len(table)) if mask is None else np.flatnonzero(mask)
    seen = table[steps]
    same = seen[1:] == seen[:-1]
    at = np.arange(len(same))[:, None]
    runs = np.where(same, at - np.maximum.accumulate(np.where(same, -1, at), axis=0), 0)
    end = runs.argmax(0) if len(runs) else np.zeros(table.shape[1], np.intp)
    run = runs.max(0, initial=0)
    first = np.where(run > 0, end + 1 - run, 0)
    columns = np.arange(table.shape[1])
    return _Numbers(
        low=seen.min(0),
        high=seen.max(0),
        low_at=steps[seen.argmin(0)],
        high_at=steps[seen.argmax(0)],
        size=np.sqrt((seen**2).mean(0)),
        spread=seen.std(0),
        changes=1 - same.mean(0) if len(same) else np.zeros(table.shape[1]),
        run=run + 1,
        run_from=steps[first],
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
    parts += [episode.actions[s.name][points].reshape(-1).astype(np.float32) for s in _numeric(schema, Role.ACTION)]
    return np.concatenate(parts)


def _part(signal: Signal, component: int) -> str:
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
    more = _warning(problem=problem, fix=last.fix, episode=last.episode, signal=last.signal, step=last.step)
    return [*findings[: MAX_FINDINGS - 1], more]


def _episode_list(episodes: str, names: Sequence[int]) -> str:
    listed = ", ".join(map(str, names[:MAX_FINDINGS])) + (", ..." if len(names) > MAX_FINDINGS else "")
    return f"{len(names)} of {episodes} episodes ({listed})"


def _constant(schema: Schema, seen: Sequence[_EpisodeSummary]) -> Iterator[Finding]:
    """Components that never change in the whole log."""
    constant: dict[str, Steps] = {}
    for role in (Role.OBSERVATION, Role.ACTION, Role.EXOGENOUS):
        for signal in _numeric(schema, role):
            measured = [one.numbers[signal.name] for one in _with(signal.name, seen)]
            if not measured:
                continue
            low, high = np.min([one.low for one in measured], axis=0), np.max([one.high for one in measured], axis=0)
            constant[signal.name] = np.flatnonzero(low == high)
            which = constant[signal.name]
            if not len(which):
                continue
            parts = "it" if len(which) == len(low) else ", ".join(_part(signal, int(c)) for c in which)
            values = ", ".join(f"{value:g}" for value in low[which][:MAX_FINDINGS])
            fix = "Remove it from the schema, unless it will vary where the world is used."
            if role is Role.ACTION:
                fix = "Log episodes in which it varies: the effect of an action that never changes cannot be learned."
            yield _warning(problem=f"{parts} never changes (always {values})", fix=fix, signal=signal.name)
    actions = _numeric(schema, Role.ACTION)
    if actions and all(len(constant[s.name]) == len(seen[0].numbers[s.name].low) for s in actions):
        fix = "Log episodes in which the actions vary, or give signals that are not chosen the role exogenous."
        yield Finding(problem="no action ever changes, so the effect of actions cannot be learned", fix=fix)


def _scales(schema: Schema, seen: Sequence[_EpisodeSummary]) -> Iterator[Finding]:
    """Episodes in which the scale of a signal differs by a factor of about 57 or 1,000 from nearly all others."""
    everything = seen
    for signal in schema.signals:
        seen = _with(signal.name, everything)
        if signal.kind is not Kind.VECTOR or len(seen) <= MIN_OTHERS:
            continue
        size = np.log(np.maximum([one.numbers[signal.name].size for one in seen], 1e-30))
        spread = np.log(np.maximum([one.numbers[signal.name].spread for one in seen], 1e-30))
        found = []
        for component in range(signal.size):
            away = size[:, component] - np.median(size[:, component])
            wide = spread[:, component] - np.median(spread[:, component])
            usual = np.abs(away) < np.log(20)
            for factor, words in FACTORS.items():
                near = np.log(2.0)
                apart = np.abs(np.abs(away) - np.log(factor)) < near
                alike = np.abs(wide - away) < near
                # If sizes vary widely between episodes, a large factor is no sign of another unit.
                odd = apart & alike & (np.abs(away[usual]).max(initial=0) < np.log(8)) & (usual.mean() > MIN_SHARE)
                for index in np.flatnonzero(odd).tolist():
                    ratio = float(np.exp(np.abs(away[index])))
                    what = "larger" if away[index] > 0 else "smaller"
                    problem = (
                        f"{_part(signal, component)} is {ratio:.0f} times {what} than in most episodes, "
                        f"about the ratio of {words}"
                    )
                    fix = f"Find the unit in which it was logged (the schema: {signal.unit}), and convert the episode."
                    found.append(_warning(problem=problem, fix=fix, episode=seen[index].number, signal=signal.name))
        yield from _few(found)


def _outliers(
    schema: Schema, seen: Sequence[_EpisodeSummary], rows: dict[Role, Floats], done: set[tuple[int | None, str | None]]
) -> Iterator[Finding]:
    """Values far outside the range that holds 99 % of the values."""
    for role in Role:
        column = 0
        for signal in _numeric(schema, role):
            found = []
            for component in range(signal.size if signal.kind is Kind.VECTOR else 1):
                values = rows[role][:, column]
                column += 1
                values = values[np.isfinite(values)]
                if signal.kind is not Kind.VECTOR or len(values) < 100:
                    continue
                low, high = np.quantile(values, (0.005, 0.995))
                for one in _with(signal.name, seen):
                    if (one.number, signal.name) in done or high <= low:
                        continue
                    figures = one.numbers[signal.name]
                    above = (figures.high[component] - high) / (high - low)
                    below = (low - figures.low[component]) / (high - low)
                    if max(above, below) <= OUTLIER_RANGES:
                        continue
                    value, at = (
                        (figures.high[component], figures.high_at[component])
                        if above > below
                        else (figures.low[component], figures.low_at[component])
                    )
                    usual = f"{low:.4g} to {high:.4g}"
                    problem = f"{_part(signal, component)} is {value:g}, but 99 % of the values lie in {usual}"
                    fix = "Repair the value, mark it as missing, or leave the episode out."
                    found.append(
                        _warning(problem=problem, fix=fix, episode=one.number, signal=signal.name, step=int(at))
                    )
            yield from _few(found)


def _repeats(schema: Schema, rows: dict[Role, Floats], before: Floats) -> Iterator[Finding]:
    """Signals that repeat another signal or an action, up to scale and offset."""
    labels = {
        role: [(s, c) for s in _numeric(schema, role) for c in range(s.size if s.kind is Kind.VECTOR else 1)]
        for role in Role
    }
    observations, actions = rows[Role.OBSERVATION], rows[Role.ACTION]
    known = np.concatenate([observations, rows[Role.EXOGENOUS]], 1)
    named = labels[Role.OBSERVATION] + labels[Role.EXOGENOUS]
    for table, names in ((known, named), (actions, labels[Role.ACTION])):
        found = []
        for i, j in _equal(table, table):
            if i < j:
                problem = f"{_part(*names[j])} repeats {_label(*names[i])}, up to scale and offset"
                found.append(_warning(problem=problem, fix="Leave one of the two out.", signal=names[j][0].name))
        yield from _few(found)
    for row, words in ((actions, "t"), (before, "t-1")):
        found = []
        for i, j in _equal(known, row):
            problem = f"{_part(*named[i])} at step t repeats {_label(*labels[Role.ACTION][j])} of step {words}"
            fix = "Leave it out: it shows the commanded value, not the effect."
            found.append(_warning(problem=problem, fix=fix, signal=named[i][0].name))
        yield from _few(found)


def _label(signal: Signal, component: int) -> str:
    part = _part(signal, component)
    return f"'{signal.name}'" if part == "it" else f"{part} of '{signal.name}'"


def _equal(one: Floats, other: Floats) -> Iterator[tuple[int, int]]:
    """Pairs of columns that are equal up to scale and offset; ignores NaN."""
    if len(one) < 20 or not one.shape[1] or not other.shape[1]:
        return
    correlation = _standard(one).T @ _standard(other) / len(one)
    for i, j in np.argwhere(np.abs(correlation) > 0.9).tolist():
        both = np.isfinite(one[:, i]) & np.isfinite(other[:, j])
        x, y = one[both, i], other[both, j]
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
    for name in sorted({name for one in seen for name in one.observed}):
        weights = [one.num_steps + 1 for one in seen]
        share = float(np.average([one.observed.get(name, 1.0) for one in seen], weights=weights))
        if share < MIN_SHARE:
            fix = "Check its rate and its clock, or leave it out."
            yield _warning(problem=f"it was observed in only {100 * share:.0f} % of the steps", fix=fix, signal=name)


def _moves(one: _EpisodeSummary, schema: Schema) -> float:
    """The largest share of steps in which a signal changes, actions excluded."""
    inputs = {signal.name for signal in schema.actions}
    return max((float(n.changes.max()) for name, n in one.numbers.items() if name not in inputs), default=0.0)


def _motionless(schema: Schema, seen: Sequence[_EpisodeSummary]) -> Iterator[Finding]:
    """Episodes in which no observation ever changes."""
    names = [signal.name for signal in schema.observations]
    static = [
        one.number
        for one in seen
        if not any(
            one.pictures[name].moves if name in one.pictures else one.numbers[name].changes.any()
            for name in names
            if name in one.pictures or name in one.numbers
        )
    ]
    if static:
        problem = f"no observation ever changes in {_episode_list(str(len(seen)), static)}"
        yield _warning(
            problem=problem, fix="Leave them out, unless they are meant to show standstill.", episode=static[0]
        )


def _stuck(schema: Schema, seen: Sequence[_EpisodeSummary]) -> Iterator[Finding]:
    """Sensors that are constant for many steps but usually change in nearly every step."""
    for signal in schema.observations:
        observed = _with(signal.name, seen)
        if signal.kind is not Kind.VECTOR or not observed:
            continue
        usual = np.median([one.numbers[signal.name].changes for one in observed], axis=0)
        found = []
        for one in observed:
            figures = one.numbers[signal.name]
            for component in np.flatnonzero((figures.run > MAX_CONSTANT_STEPS) & (usual > 0.8)).tolist():
                if _is_stop(signal.name, component, one, observed):
                    continue
                if _moves(one, schema) < MIN_SHARE:
                    continue
                problem = (
                    f"{_part(signal, component)} is exactly {figures.run_value[component]:g} for "
                    f"{figures.run[component]} steps while others change"
                )
                fix = "The sensor was stuck or slower than the log: mark these steps as missing."
                found.append(
                    _warning(
                        problem=problem, fix=fix, episode=one.number, signal=signal.name,
                        step=int(figures.run_from[component]),
                    )
                )  # fmt: skip
        yield from _few(found)


def _is_stop(name: str, component: int, one: _EpisodeSummary, seen: Sequence[_EpisodeSummary]) -> bool:
    """Whether the constant value is an end of the range, or also occurs as a constant in other episodes."""
    figures = [other.numbers[name] for other in seen]
    low, high = min(f.low[component] for f in figures), max(f.high[component] for f in figures)
    value, near = one.numbers[name].run_value[component], MAX_RELATIVE_DIFFERENCE * (high - low)
    rested = sum(f.run[component] > 2 and abs(f.run_value[component] - value) <= near for f in figures)
    return bool(value - low <= near or high - value <= near or rested > 1)


def _cameras(schema: Schema, seen: Sequence[_EpisodeSummary]) -> Iterator[Finding]:
    """Black and uniform images, and cameras that froze."""
    for name in seen[0].pictures:
        for words, steps in (
            ("black", {one.number: one.pictures[name].dark for one in seen}),
            ("of one single colour", {one.number: one.pictures[name].blank for one in seen}),
        ):
            hit = [number for number, at in steps.items() if len(at)]
            if hit:
                num = sum(map(len, steps.values()))
                share = 100 * num / sum(one.pictures[name].num for one in seen)
                problem = f"{num} images ({share:.1f} %) are {words}, in {_episode_list(str(len(seen)), hit)}"
                fix = "Mark them as missing, or leave these episodes out."
                step = int(steps[hit[0]][0])
                yield _warning(problem=problem, fix=fix, signal=name, episode=hit[0], step=step)
        frozen = [one.number for one in seen if not one.pictures[name].moves and _moves(one, schema) > 0]
        if frozen:
            problem = f"the image never changes while other signals do, in {_episode_list(str(len(seen)), frozen)}"
            fix = "The camera froze, or does not see any motion: leave out these episodes, or the camera."
            yield _warning(problem=problem, fix=fix, signal=name, episode=frozen[0])


def _alike(seen: Sequence[_EpisodeSummary]) -> Iterator[Finding]:
    """Duplicate and near-duplicate episodes, which a random split can put into both training and test data."""
    first: dict[bytes, int] = {}
    found = []
    kept = []
    for one in seen:
        other = first.setdefault(one.digest, one.number)
        if other == one.number:
            kept.append(one)
            continue
        fix = "Keep one of the two, or put both into the same part of the split."
        found.append(_warning(problem=f"it is an exact copy of episode {other}", fix=fix, episode=one.number))
    yield from _few(found)
    yield from _few([_near(*pair) for pair in _near_pairs(kept)])


def _near(earlier: int, later: int) -> Finding:
    problem = f"it is nearly a copy of episode {earlier}: start, actions and end agree"
    fix = "Put both into the same part of the split, or leave one out: otherwise test data leaks into training."
    return _warning(problem=problem, fix=fix, episode=later)


def _near_pairs(seen: Sequence[_EpisodeSummary]) -> list[tuple[int, int]]:
    """Pairs of episodes of equal length with nearly equal outlines, found by hashing quantised outlines."""
    if len(seen) < 2:
        return []
    outlines = np.stack([one.outline for one in seen])
    deviation = outlines.std(0)
    live = deviation > 1e-6 * np.abs(outlines).max(0, initial=0)
    if not live.any():
        return []
    scores = (outlines[:, live] / deviation[live]).astype(np.float32)
    pairs: set[tuple[int, int]] = set()
    for offset in (0.0, 0.25, 0.5, 0.75):  # a pair that the edge of one grid separates shares a cell of another
        buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        for index, cell in enumerate(np.floor(scores + offset).astype(np.int16)):
            key = (seen[index].num_steps, hashlib.blake2b(cell.tobytes(), digest_size=8).digest())
            for other in buckets[key][-20:]:
                if np.abs(scores[index] - scores[other]).max() <= MAX_DUPLICATE_DEVIATION:
                    pairs.add((seen[other].number, seen[index].number))
            buckets[key].append(index)
    return sorted(pairs, key=lambda pair: pair[::-1])
