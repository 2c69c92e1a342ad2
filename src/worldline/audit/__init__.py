"""Measures of a world on held-out logs, skill scores, verdicts, and the audit that combines them into advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.audit.baselines import CONTEXT as CONTEXT
    from worldline.audit.baselines import ShuffledActions as ShuffledActions
    from worldline.audit.baselines import as_world as as_world
    from worldline.audit.baselines import bank as bank
    from worldline.audit.baselines import best_of as best_of
    from worldline.audit.baselines import engines as engines
    from worldline.audit.grades import Cell as Cell
    from worldline.audit.grades import Condition as Condition
    from worldline.audit.grades import Grade as Grade
    from worldline.audit.grades import Score as Score
    from worldline.audit.grades import Verdict as Verdict
    from worldline.audit.queries import BATCH as BATCH
    from worldline.audit.queries import check_numbers as check_numbers
    from worldline.audit.queries import check_readable as check_readable
    from worldline.audit.queries import counterfactuals as counterfactuals
    from worldline.audit.queries import forecasts as forecasts
    from worldline.audit.queries import history_of as history_of
    from worldline.audit.queries import means as means
    from worldline.audit.queries import only as only
    from worldline.audit.queries import packed as packed
    from worldline.audit.queries import packed_history as packed_history
    from worldline.audit.queries import unpacked as unpacked
    from worldline.audit.scoring import GATE as GATE
    from worldline.audit.scoring import HALF as HALF
    from worldline.audit.scoring import Floats as Floats
    from worldline.audit.scoring import Statistic as Statistic
    from worldline.audit.scoring import accuracy as accuracy
    from worldline.audit.scoring import auroc as auroc
    from worldline.audit.scoring import cell as cell
    from worldline.audit.scoring import rounded as rounded
    from worldline.audit.scoring import score as score
    from worldline.audit.scoring import skill as skill
    from worldline.audit.scoring import skill_cell as skill_cell
    from worldline.audit.verdicts import ALPHA as ALPHA
    from worldline.audit.verdicts import UNKNOWABLE as UNKNOWABLE
    from worldline.audit.verdicts import flaws as flaws
    from worldline.audit.verdicts import holm as holm
    from worldline.audit.verdicts import is_undefined as is_undefined
    from worldline.audit.verdicts import p_value as p_value
    from worldline.audit.verdicts import verdict_of as verdict_of
    from worldline.audit.verdicts import weakest as weakest
    from worldline.audit.verdicts import worst as worst


__getattr__ = lazy_names(__name__)
