"""Checks a whole store: damage, misaligned actions, anomalous signals, coverage gaps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worldline.data.checks import Finding, Severity
from worldline.data.quality.alignment import Alignment, AlignmentVerdict, judge
from worldline.data.quality.anomalies import Inspection
from worldline.data.quality.coverage import Coverage, survey
from worldline.data.quality.segments import Sample
from worldline.data.store import Store, open_store
from worldline.errors import DataError, InputError
from worldline.progress import OnProgress, tell


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """Findings about a store.

    Args:
        path: of the store.
        num_episodes: in the store.
        num_steps: in the store.
        num_whole: episodes without damage.
        alignment: of actions and observations; None if no episode is readable.
        accepted: whether actions lead by exactly the known delay.
        findings: damage and anomalies.
        coverage: of states and actions; None if no episode is readable.
        advice: recommended steps as sentences, most urgent first.
    """

    path: Path
    num_episodes: int
    num_steps: int
    num_whole: int
    alignment: Alignment | None
    accepted: bool
    findings: tuple[Finding, ...]
    coverage: Coverage | None
    advice: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether an episode is damaged, actions are misaligned, or the store is useless for learning."""
        return self.misaligned or any(finding.severity is Severity.ERROR for finding in self.findings)

    @property
    def misaligned(self) -> bool:
        """Whether actions lead or lag by other than the known delay."""
        shifted = self.alignment is not None and self.alignment.verdict in (AlignmentVerdict.LEAD, AlignmentVerdict.LAG)
        return shifted and not self.accepted


def check(
    store: Store | Path | str,
    *,
    delay: int = 0,
    seed: int = 0,
    progress: OnProgress | None = None,
) -> CheckReport:
    """Checks a store. Every episode is read once; figures come from a sample.

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
    damaged, sample, inspection = [], Sample(store, None, seed), Inspection(store.schema, len(store), seed)
    for number in range(len(store)):
        try:
            episode = store.verify(number)
        except DataError as error:
            damaged.append(Finding.of(error, episode=number))
        else:
            sample.add(number, episode)
            inspection.add(number, episode)
        tell(progress, "read", number + 1, len(store))
    tell(progress, "check", 0)
    found = judge(sample.tracks, seed) if sample.tracks else None
    covered = survey(sample.tracks, store.schema, seed) if sample.tracks else None
    findings = (*damaged, *inspection.findings())
    tell(progress, "check", 1)
    return CheckReport(
        path=store.path,
        num_episodes=len(store),
        num_steps=int(store.num_steps.sum()),
        num_whole=len(store) - len(damaged),
        alignment=found,
        accepted=found is not None and found.shift == -delay,
        findings=findings,
        coverage=covered,
        advice=_advice(found, findings, covered, delay),
    )


def _advice(
    found: Alignment | None, findings: tuple[Finding, ...], covered: Coverage | None, delay: int
) -> tuple[str, ...]:
    errors = [one for one in findings if one.severity is Severity.ERROR]
    advice = [_placed(one) for one in errors]
    if found is not None and found.fix and not (delay and found.shift == -delay):
        advice.append(found.fix)
    advice += [_placed(one) for one in findings if one.severity is not Severity.ERROR]
    advice += [] if covered is None else covered.advice
    return tuple(dict.fromkeys(advice))


def _placed(finding: Finding) -> str:
    episode = None if finding.episode is None else f"episode {finding.episode}"
    place = ", ".join(part for part in (finding.signal, episode) if part is not None)
    return f"{place}: {finding.fix}" if place else finding.fix
