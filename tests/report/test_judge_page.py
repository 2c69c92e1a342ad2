"""The page of a judgement shows verdicts, intervals, fans and experiments."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from tests.report.parsed_page import ParsedPage

from worldline.control.controllers import ControllerCard
from worldline.control.judgement import (
    ControllerDifference,
    Experiment,
    Fan,
    JudgedController,
    JudgedFigure,
    Judgement,
    RiskyStep,
    RunVerdict,
)
from worldline.control.judging import Scale
from worldline.report.judge_page import render_judgement
from worldline.stats import Estimate

COST = JudgedFigure(
    expected=Estimate(value=2.0, low=1.5, high=2.5),
    fresh=Estimate(value=2.0, low=1.2, high=3.1),
    logged=4.0,
    better="better",
    scale=Scale(kind="cost"),
)
SETTLING = JudgedFigure(
    expected=Estimate(value=30.0, low=20.0, high=40.0),
    fresh=Estimate(value=30.0, low=10.0, high=50.0),
    logged=60.0,
    better="better",
    scale=Scale(kind="positive"),
)
FAN = Fan(signal="level", unit="m", logged=((0.0,) * 5, (1.0,) * 5, (2.0,) * 5), imagined=((0.5,) * 5,) * 3)


def controller(name: str, verdict: RunVerdict, reason: str = "") -> JudgedController:
    refused = verdict is RunVerdict.REFUSED
    return JudgedController(
        name=name,
        card=ControllerCard(name="pid", reads=("level",), settings=("valve keeps level",)),
        source="",
        verdict=verdict,
        reason=reason,
        figures={"cost": COST, "settling": SETTLING} if verdict is RunVerdict.JUDGED else {},
        outside=0.25,
        outside_steps=(0.0, 0.5, 0.25, 0.0, 0.5),
        risky=(RiskyStep(episode=7, step=13, signals=("level", "valve"), distance=2.5),),
        experiment=Experiment(
            starts={"level": (1.0, 2.0)}, actions={"valve": (0.5, 0.5)}, num_episodes=12, num_steps=30
        )
        if refused
        else None,
        fans=(FAN,),
        elapsed_s=1.0,
    )


@pytest.fixture
def judged() -> Judgement:
    return Judgement(
        world="tank",
        logs="store",
        num_episodes=40,
        first_step=2,
        num_steps=5,
        step_s=60.0,
        num_fresh=20,
        goal="",
        constraints=(),
        logged={"cost": 4.0, "settling": 60.0},
        controllers=(
            controller("good <b>", RunVerdict.JUDGED),
            controller("wild", RunVerdict.UNSTABLE, "its loop keeps oscillating."),
            controller("far", RunVerdict.REFUSED, "it is far outside the logs."),
        ),
        differences=(
            ControllerDifference(
                first="good", second="other", cost=Estimate(value=-1.0, low=-2.0, high=-0.5), verdict="better"
            ),
        ),
        notes=("r is a target that the world reads.",),
        factor="fitted on plants",
    )


def read(judged: Judgement) -> ParsedPage:
    page = render_judgement(judged)
    assert page == render_judgement(judged)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<b>" not in page
    return ParsedPage(page.replace("\u00a0", " ").replace("\u202f", " "))


def test_the_page_shows_verdicts_intervals_and_limits(judged: Judgement) -> None:
    page = read(judged)
    for text in (
        "Judgement of 3 controllers",
        "The world tank imagined 40 logged episodes of store under each controller, about 5 steps each.",
        "good <b> Better than the log Cost per step 2 (1.50 to 2.50), in the log 4.",
        "wild Unstable Its loop keeps oscillating.",
        "far Refused It is far outside the logs.",
        "To settle it, record 12 episodes of 30 steps that begin with level between 1 and 2; draw actions at random: "
        "valve at 0.5.",
        "Limits r is a target that the world reads.",
        "Settling, min",
        "30 (20 to 40)",
        "Means of 20 episodes with other starts, targets and disturbances",
        "better 2 (1.20 to 3.10) 30 (10 to 50)",
        "good − other −1 (−2 to −0.500) better",
        "valve keeps level",
        "25.0 % of all steps",
        "7 13 level and valve 2.50",
        "The width of the intervals is fitted on plants.",
    ):
        assert text in re.sub(r"\s+", " ", page.text), text
    assert page.headings[0] == "Judgement of 3 controllers"


def test_charts_show_the_log_the_intervals_and_the_runs(judged: Judgement) -> None:
    page = read(judged)
    labels = [str(attributes.get("aria-label")) for _, attributes in page.elements]
    assert "Cost per step: the log: 4; good <b>: 2 (1.50 to 2.50)" in labels
    fans = [chart for chart in map(json.loads, page.data) if len(chart["lines"]) == 2]
    assert len(fans) == 3
    logged, imagined = fans[0]["lines"]
    assert (logged["style"], logged["low"], logged["high"]) == ("real", [0.0] * 5, [2.0] * 5)
    assert (imagined["style"], imagined["y"]) == ("world", [0.5] * 5)
    assert imagined["x"] == [2, 3, 4, 5, 6]
    outside = json.loads(page.data[1])
    assert outside["lines"][0]["y"] == [0, 50, 25, 0, 50]


def test_an_axis_ends_before_an_interval_without_an_upper_limit(judged: Judgement) -> None:
    endless = replace(COST, expected=Estimate(value=2.0, low=1.5, high=3e60))
    one = replace(judged.controllers[0], figures={"cost": endless, "settling": SETTLING})
    page = render_judgement(replace(judged, controllers=(one,)))
    assert "3.00e60" in page
    assert re.findall(r'x-tick"[^>]*>([^<]*)<', page)[:4] == ["0", "5", "10", "15"]


@pytest.mark.parametrize("count", [2, 3])
def test_runs_of_many_controllers_are_folded(judged: Judgement, count: int) -> None:
    page = read(replace(judged, controllers=judged.controllers[:count]))
    folds = [attributes.get("class") for tag, attributes in page.elements if tag == "details"]
    assert folds.count("fold") == (3 if count == 3 else 0)


def test_one_controller_without_targets_or_time_step(judged: Judgement) -> None:
    alone = replace(judged.controllers[0], figures={"cost": replace(COST, better="not distinguishable")})
    page = read(replace(judged, controllers=(alone,), differences=(), step_s=None, logged={"cost": 4.0}, notes=()))
    assert page.headings[0] == "Judgement of good <b>"
    assert "Not distinguishable from the log" in page.text
    for text in ("Settling", "Differences", "Limits"):
        assert text not in page.text.replace("Settings", "")


def test_without_judged_controllers_there_are_no_figures(judged: Judgement) -> None:
    page = read(replace(judged, controllers=judged.controllers[2:], differences=()))
    assert "Refused" in page.text
    assert "Figures in these situations" not in page.headings


def test_a_goal_without_targets_has_no_settling_time(judged: Judgement) -> None:
    alone = replace(judged.controllers[0], figures={"cost": COST})
    page = render_judgement(replace(judged, controllers=(alone,), differences=(), logged={"cost": 4.0}))
    assert judged.step_s is not None
    assert "ettling" not in page
