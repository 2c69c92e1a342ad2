"""The contract of a measurement, and words that measurements share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from worldline.plots.parts import FindingBlock, PagePart, Phrase
from worldline.stats import Estimate

EQUIVALENCE_MARGIN: Final = 0.05
"""Largest relative difference of equivalent errors."""
Tone = Literal["good", "bad", "unclear", "plain"]
TONES: Final[tuple[Tone, ...]] = ("bad", "unclear", "good", "plain")
"""The worst first."""
MAX_TEXTS: Final = 3
"""Findings in the sentence of a measurement."""
Comparison = Literal["better", "worse", "equivalent", "unclear"]
"""Two errors on the same windows.

If the paired interval includes 0, they are equivalent within `EQUIVALENCE_MARGIN`, else unclear; pages call both a tie.
"""


@dataclass(frozen=True)
class ReportFinding:
    """A finding in one to three sentences, with a verdict.

    Args:
        text: the sentences.
        verdict: good or bad for the world, unclear if not significant, plain if nothing is graded. In an audit "bad" is
            a reason against deployment, "unclear" a limit of use, and "good" a reason for deployment.
        help: data or training that would change the verdict; empty for none.
    """

    text: str
    verdict: Tone
    help: str = ""


class Measurement(ABC):
    """One measured property of a world: a sentence about it, and a figure.

    Subclasses are dataclasses that hold the numbers. A page shows the measurements of a chapter in the order in which
    it receives them.
    """

    chapter: ClassVar[str]
    """Title of the chapter in which pages show it."""

    @abstractmethod
    def sentence(self) -> ReportFinding:
        """What the numbers mean for a user of the world."""

    def figure(self) -> Sequence[PagePart | None]:
        """Charts, tables and notes; empty for none."""
        return ()

    def block(self, *, folded: bool = False) -> FindingBlock:
        """The sentence with its figure, which a reader has to open if it is `folded`."""
        finding = self.sentence()
        return FindingBlock(finding.text, self.figure(), verdict=finding.verdict, folded=folded)


class AuditMeasurement(Measurement):
    """A measurement of an audit; its findings decide on the deployment of the world."""

    @abstractmethod
    def findings(self) -> Sequence[ReportFinding]:
        """The conclusions, the most important first; at least one."""

    def sentence(self) -> ReportFinding:
        """The worst findings, at most three."""
        findings = self.findings()
        worst = min((finding.verdict for finding in findings), key=TONES.index)
        texts = [finding.text for finding in findings if finding.verdict == worst]
        more = [f"{len(texts) - MAX_TEXTS} more findings are like these."] if len(texts) > MAX_TEXTS else []
        return ReportFinding(" ".join([*texts[:MAX_TEXTS], *more]), worst)


def compare_errors(skill: Estimate) -> Comparison:
    """How a world compares with a baseline.

    Args:
        skill: relative reduction of the baseline's error, with its interval.
    """
    if skill.low > 0 or skill.high < 0:
        return "better" if skill.low > 0 else "worse"
    return "equivalent" if skill.low >= -EQUIVALENCE_MARGIN and skill.high <= EQUIVALENCE_MARGIN else "unclear"


def verdict(style: str, text: str) -> Phrase:
    """A verdict in a table, in the colour of `style`: "good", "bad", "unclear" or "soft"."""
    return Phrase(text, f"verdict {style}")
