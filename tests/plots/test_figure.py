from __future__ import annotations

from worldline.plots.figure import palette


def test_the_colours_are_those_of_the_report_on_paper() -> None:
    assert palette()["paper"] == "#fcfbf8"
    assert {"ink", "soft", "grid", "world", "real", "unclear", "other0", "other5"} <= palette().keys()
