"""Scores of a grade, for the tests of exam tests."""

from worldline.audit.grades import Grade
from worldline.audit.verdicts import weakest


def scores_of(grade: Grade) -> dict[str, float]:
    """The score of each cell that has one."""
    return {cell.name: cell.score.value for cell in grade.cells if cell.score is not None}


def low_of(grade: Grade) -> float:
    """The lower end of the confidence interval of the weakest cell."""
    cell = weakest(grade)
    assert cell is not None
    assert cell.score is not None
    return cell.score.low
