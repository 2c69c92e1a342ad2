"""The page of a judgement shows verdicts, intervals, fans and experiments."""

from __future__ import annotations

from dataclasses import replace

import pytest

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


def test_the_page_shows_what_is_known(judged: Judgement) -> None:
    page = render_judgement(judged)
    words = page.replace("\u00a0", " ").replace("\u202f", " ")
    for text in (
        "Judgement of 3 controllers",
        "good &lt;b&gt; is better than the log: its cost per step is 2 (1.5 to 2.5), that of the log 4.",
        "wild is unstable: its loop keeps oscillating.",
        "far is refused: it is far outside the logs.",
        "record 12 episodes of 30 steps that begin with level between 1 and 2; draw actions at random: valve at 0.5.",
        "2 (1.2 to 3.1)",
        "settling, min",
        "30 (20 to 40)",
        "-1 (-2 to -0.5)",
        "r is a target that the world reads.",
        "The width is fitted on plants.",
        "level and valve",
    ):
        assert text in words
    assert "<b>" not in page
    assert page == render_judgement(judged)


def test_one_controller_without_targets_or_time_step(judged: Judgement) -> None:
    alone = replace(judged.controllers[0], figures={"cost": replace(COST, better="not distinguishable")})
    page = render_judgement(
        replace(judged, controllers=(alone,), differences=(), step_s=None, logged={"cost": 4.0}, notes=())
    )
    assert "is not distinguishable from the log" in page
    assert "settling" not in page
    assert "Differences" not in page
