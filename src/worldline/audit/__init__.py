"""Measures of a world on held-out logs, skill scores, verdicts, and the audit that combines them into advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.audit.baselines import CONTEXT, ShuffledActions, as_world, bank, best_of, engines
    from worldline.audit.grades import Cell, Condition, Grade, Score, Verdict
    from worldline.audit.queries import (
        BATCH,
        check_numbers,
        check_readable,
        counterfactuals,
        forecasts,
        history_of,
        means,
        only,
        packed,
        packed_history,
        unpacked,
    )
    from worldline.audit.scoring import (
        GATE,
        HALF,
        Floats,
        Statistic,
        accuracy,
        auroc,
        cell,
        rounded,
        score,
        skill,
        skill_cell,
    )
    from worldline.audit.verdicts import (
        ALPHA,
        UNKNOWABLE,
        flaws,
        holm,
        is_undefined,
        p_value,
        verdict_of,
        weakest,
        worst,
    )

__all__ = [
    "ALPHA",
    "BATCH",
    "CONTEXT",
    "GATE",
    "HALF",
    "UNKNOWABLE",
    "Cell",
    "Condition",
    "Floats",
    "Grade",
    "Score",
    "ShuffledActions",
    "Statistic",
    "Verdict",
    "accuracy",
    "as_world",
    "auroc",
    "bank",
    "best_of",
    "cell",
    "check_numbers",
    "check_readable",
    "counterfactuals",
    "engines",
    "flaws",
    "forecasts",
    "history_of",
    "holm",
    "is_undefined",
    "means",
    "only",
    "p_value",
    "packed",
    "packed_history",
    "rounded",
    "score",
    "skill",
    "skill_cell",
    "unpacked",
    "verdict_of",
    "weakest",
    "worst",
]

__getattr__ = lazy_names(__name__)
