"""Checks a whole store: damage, misaligned actions, anomalous signals, coverage gaps."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worldline.data.checks import Finding, Severity, warning
from worldline.data.quality.alignment import Alignment, AlignmentVerdict, alignment, judge
from worldline.data.quality.anomalies import Inspection
from worldline.data.quality.consistency import inconsistencies
from worldline.data.quality.coverage import Coverage, survey
from worldline.data.quality.segments import Sample
from worldline.data.store import Store, open_store
from worldline.data.store_notes import edit_logs_command, realign_command
from worldline.errors import DataError, InputError
from worldline.progress import OnProgress, tell, telling


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """Findings about a store.

    Args:
        path: of the store.
        num_episodes: in the store.
        num_steps: in the store.
        num_whole: episodes without damage.
        alignment: of actions and observations; None if nothing is chosen or no episode is readable.
        accepted: whether actions lead by exactly the known delay.
        misaligned: whether actions lag, or lead by other than a known delay. Actions that lead without a known delay
            are no error, because the system may respond late.
        findings: damage, warnings and notes. The nominal probability of a warning about a correct log, or of misaligned
            actions, is `worldline.data.quality.false_alarms.FALSE_ALARM_RATE`.
        coverage: of the actions; None if nothing is chosen or no episode is readable.
        advice: recommended steps as sentences, most urgent first.
    """

    path: Path
    num_episodes: int
    num_steps: int
    num_whole: int
    alignment: Alignment | None
    accepted: bool
    misaligned: bool
    findings: tuple[Finding, ...]
    coverage: Coverage | None
    advice: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether actions are misaligned, or a finding is an error or a warning."""
        return self.misaligned or any(finding.severity is not Severity.NOTE for finding in self.findings)

    @property
    def realign(self) -> tuple[str, ...]:
        """The command, without its first word, that moves misaligned actions; empty if there are none."""
        return realign_command(self.path, self.alignment.shift) if self.alignment and self.misaligned else ()

    @property
    def edit(self) -> tuple[str, ...]:
        """The command, without its first word, that makes the edits of the findings; empty if none suggests one."""
        return edit_logs_command(self.path, self.findings, self.num_episodes)


def check(
    store: Store | Path | str, *, delay: int = 0, seed: int = 0, progress: OnProgress | None = None
) -> CheckReport:
    """Checks a store. Every episode is read once; figures, changes, joined and shifted parts come from a sample.

    Args:
        store: the store or its folder.
        delay: known response delay of the system in steps; actions that lead by it are no error.
        seed: of the samples, the regressions and the intervals.
        progress: called after each episode that was read, and around the regressions.

    Raises:
        InputError: `delay` is negative.
        DataError: there is no store, or it has no episode.
    """
    if delay < 0:
        raise InputError(f"delay is {delay}, expected a number of steps of at least 0.")
    store = store if isinstance(store, Store) else open_store(store)
    if not len(store):
        raise DataError("the store has no episode", fix="Record or import episodes first.", file=store.path)
    sample, damaged, inspection = Sample(store, seed), list[Finding](), Inspection(store.schema, len(store), seed)
    for number in range(len(store)):
        try:
            episode = store.verify(number)
        except DataError as error:
            damaged.append(Finding.of(error, episode=number))
        else:
            sample.add(number, episode)
            inspection.add(number, episode)
        tell(progress, "read", number + 1, len(store))
    with telling(progress, "check"):
        has_actions = store.schema.has_choice and bool(sample.tracks)
        measured = judge(sample.tracks, seed) if has_actions else None
        covered = survey(sample.tracks, store.schema, seed) if has_actions else None
        consistency = inconsistencies(sample.tracks, store.schema)
        findings = _sorted([*damaged, *_unlisted(store), *consistency, *inspection.findings()])
    shift = 0 if measured is None else measured.shift
    accepted = measured is not None and shift == -delay
    return CheckReport(
        path=store.path,
        num_episodes=len(store),
        num_steps=int(store.num_steps.sum()),
        num_whole=len(store) - len(damaged),
        alignment=measured,
        accepted=accepted,
        misaligned=not accepted and shift != 0 and (shift > 0 or delay > 0),
        findings=findings,
        coverage=covered,
        advice=_advice(store.path, measured, findings, covered, delay),
    )


def _unlisted(store: Store) -> tuple[Finding, ...]:
    """An error if the index lists fewer episodes than the store holds."""
    more = store.num_unlisted()
    if more < 2:  # an append that was interrupted leaves one
        return ()
    problem = f"the index lists {len(store)} episodes, but the store holds at least {len(store) + more}"
    fix = "The index was cut: restore index.bin from a copy, or import the logs again."
    return (Finding(problem=problem, fix=fix),)


@dataclass(frozen=True, kw_only=True)
class LateActions:
    """Actions of a store that are certainly logged too late.

    Args:
        lag: steps by which they are.
        finding: the warning, with the command that moves them.
        command: the command without its first word.
    """

    lag: int
    finding: Finding
    command: tuple[str, ...]


def review_log(store: Store, progress: OnProgress | None = None) -> tuple[tuple[Finding, ...], LateActions | None]:
    """The findings of `check` about a sample of a store, the worst first, and actions that are certainly too late.

    It takes seconds. The finding about late actions is among the findings.

    Args:
        store: to review.
        progress: called around the regressions.

    Raises:
        DataError: an episode is damaged.
    """
    with telling(progress, "check"):
        sample, inspection = Sample(store, 0), Inspection(store.schema, len(store))
        for number in sample.episodes:
            episode = store.episode(number)
            sample.add(number, episode)
            inspection.add(number, episode)
        late = _late(store, judge(sample.tracks)) if sample.tracks else None
        findings = [*inconsistencies(sample.tracks, store.schema), *inspection.findings()]
    return _sorted([*([] if late is None else [late.finding]), *findings]), late


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes."""
    return tuple(sorted(findings, key=lambda finding: list(Severity).index(finding.severity)))


def late_actions(store: Store, progress: OnProgress | None = None) -> LateActions | None:
    """The actions of a store that are certainly logged too late; None if they are not.

    Actions that seem to be logged too early are no finding, because the system may respond late.

    Args:
        store: to measure.
        progress: called around the regressions.

    Raises:
        DataError: an episode is damaged.
    """
    with telling(progress, "check"):
        return _late(store, alignment(store))


def _late(store: Store, measured: Alignment) -> LateActions | None:
    if measured.verdict is not AlignmentVerdict.LAG:
        return None
    steps = "1 step" if measured.shift == 1 else f"{measured.shift} steps"
    problem = f"actions are logged {steps} too late: {measured.reason.rstrip('.')}"
    finding = warning(problem=problem, fix=_moving(store.path, measured))
    return LateActions(lag=measured.shift, finding=finding, command=realign_command(store.path, measured.shift))


def _moving(path: Path, measured: Alignment) -> str:
    """What to do about misaligned actions, with the command for this store in the place of the option."""
    command = shlex.join(["worldline", *realign_command(path, measured.shift)])
    return f"{measured.fix.rpartition(': ')[0]}: {command}"


def _advice(
    path: Path, measured: Alignment | None, findings: tuple[Finding, ...], covered: Coverage | None, delay: int
) -> tuple[str, ...]:
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    advice = [_placed(error) for error in errors]
    if measured is not None and measured.fix and not (delay and measured.shift == -delay):
        advice.append(_moving(path, measured) if measured.shift else measured.fix)
    advice += [_placed(finding) for finding in findings if finding.severity is not Severity.ERROR]
    advice += [] if covered is None else covered.advice
    return tuple(dict.fromkeys(advice))


def _placed(finding: Finding) -> str:
    episode = None if finding.episode is None else f"episode {finding.episode}"
    place = ", ".join(part for part in (finding.signal, episode) if part is not None)
    return f"{place}: {finding.fix}" if place else finding.fix
