from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from tests.audit.carts import SCHEMA, Cart, CartTwins, carts, thermostat, world
from tests.report.parsed_page import ParsedPage

from worldline.audit.advice import NO_TWINS, decide
from worldline.audit.audit_measurements import TwinScores
from worldline.audit.baselines import as_world
from worldline.audit.effect_measurement import ActionEffects
from worldline.audit.grades import Cell, Grade, Score, Verdict
from worldline.audit.measured import Advice, Agreement, Audit, Decision, TwinTest
from worldline.audit.run import Material, measure
from worldline.engines.base import Card, EngineBelief, Samples
from worldline.episode import Episode, Future
from worldline.report.audit_page import render_audit
from worldline.report.page import show
from worldline.schema import Kind, Role, Signal


def material(episodes: Sequence[Episode], *, level: float | None = 0.9) -> Material:
    sizes = {"context": 3, "horizon": 6, "horizons": (1, 6), "num_calibration": 60, "level": level}
    return Material(graded=episodes[:26], fitted=episodes[26:], flags=[None] * 40, **sizes)


@cache
def made(*, twins: bool, controlled: bool = False) -> Audit:
    episodes = carts(0, 40, thermostat) if controlled else carts(0, 40)
    found = measure(world(Cart()), material(episodes), source=CartTwins() if twins else None, seed=0)
    return Audit(
        world="<cart>", logs="a & b", decision=decide(found), measured=found, facts={"World": "cart from <nowhere>"}
    )


def test_actions_that_never_change_are_not_identifiable() -> None:
    found = measure(world(Cart()), material(carts(0, 40, lambda place, draw: 1.0)), source=None, seed=0)
    decision = decide(found)
    assert found.effects == ()
    assert any("Do not plan with push" in limit and "NOT IDENTIFIABLE" in limit for limit in decision.limits)
    assert not any("were not checked" in limit for limit in decision.limits)
    assert "NOT IDENTIFIABLE" in read(Audit(world="cart", logs="a & b", decision=decision, measured=found, facts={}))


@pytest.mark.parametrize(
    ("engine", "reason"),
    [(Cart(decay=1.0, gain=0.0), "No predicted signal varies in these logs"), (Cart(), "No signal can be trusted")],
)
def test_where_nothing_moves_nothing_is_graded_unless_the_world_moves_it(engine: Cart, reason: str) -> None:
    still = [replace(one, observations={"place": np.full((31, 1), 2.0, np.float32)}) for one in carts(0, 40)]
    found = measure(world(engine), material(still, level=None), source=None, seed=0)
    decision = decide(found)
    assert decision.advice is Advice.NO
    assert any(reason in said for said in decision.reasons)
    text = read(Audit(world="cart", logs="a & b", decision=decision, measured=found, facts={}))
    assert reason in text


class Sampled(Cart):
    """Its world has a sensor that is read now and then, and that it neither takes nor predicts."""

    def describe(self) -> Card:
        sensor = Signal(name="sensor", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m")
        return replace(super().describe(), schema=replace(SCHEMA, signals=(*SCHEMA.signals, sensor)))


def test_a_sensor_that_is_seldom_read_leaves_the_others_their_effects() -> None:
    def sampled(episode: Episode) -> Episode:
        seen = np.arange(episode.num_steps + 1) % 12 == 0
        sensor = np.where(seen[:, None], episode.observations["place"], np.nan).astype(np.float32)
        observations = {**episode.observations, "sensor": sensor}
        return replace(episode, observations=observations, observed={"sensor": seen})

    found = measure(world(Sampled()), material([sampled(one) for one in carts(0, 40)]), source=None, seed=0)
    assert {(one.signal, one.agreement) for one in found.effects} == {("place", "agrees")}


class Alarmed(Cart):
    """Its world predicts an alarm too, that never sounds."""

    def describe(self) -> Card:
        alarm = Signal(name="alarm", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=2)
        schema = replace(SCHEMA, signals=(*SCHEMA.signals, alarm))
        return replace(super().describe(), schema=schema, predicts=("place", "alarm"))

    def imagine(self, belief: EngineBelief, future: Future, **options: Any) -> Samples:
        found = super().imagine(belief, future, **options)
        alarm = np.zeros(found.signals["place"].shape[:-1], np.int64)
        return replace(found, signals={**found.signals, "alarm": alarm})


def test_a_choice_that_is_predicted_is_not_graded() -> None:
    def alarmed(episode: Episode) -> Episode:
        alarm = (episode.observations["place"][:, 0] > 1).astype(np.int64)
        return replace(episode, observations={**episode.observations, "alarm": alarm})

    logs = material([alarmed(one) for one in carts(0, 40)], level=None)
    found = measure(as_world(Alarmed()), logs, source=None, seed=0)
    assert "Not graded: alarm (discrete). Do not rely on these predictions." in decide(found).limits


def read(audit: Audit) -> str:
    page = render_audit(audit)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<cart>" not in page
    return ParsedPage(page).text


def test_the_page_says_what_to_do_and_shows_everything() -> None:
    text = read(made(twins=True))
    for part in ("Deploy", "Reasons", "Effects of actions", "Tests against twins", "Errors and baselines"):
        assert part in text
    for part in ("trusted until", "Prediction bands", "push → place", "✓ agrees"):
        assert part in text
    assert "Causal effects, tested against twins in a replayed environment: PASS" in text


@pytest.mark.parametrize(
    ("name", "verdict", "advice"),
    [
        ("C1", Verdict.PARTIAL, Advice.LIMITS),
        ("C1", Verdict.FAIL, Advice.NO),
        ("T1", Verdict.INCONCLUSIVE, Advice.LIMITS),
        ("T1", Verdict.FAIL, Advice.NO),
        ("T3", Verdict.FAIL, Advice.LIMITS),
    ],
)
def test_a_twin_test_without_a_pass_is_a_limit_or_a_reason(name: str, verdict: Verdict, advice: Advice) -> None:
    found = made(twins=True).measured
    assert decide(found).advice is Advice.DEPLOY
    twins = tuple(replace(one, verdict=verdict) if one.name == name else one for one in found.twins)
    decision = decide(replace(found, twins=twins))
    assert decision.advice is advice
    texts = decision.limits if advice is Advice.LIMITS else decision.reasons
    assert any(f"the twin test {name}" in text for text in texts)


def test_without_twins_cause_is_never_passed() -> None:
    audit = made(twins=False, controlled=True)
    assert audit.decision.cause is Verdict.NOT_MEASURED
    text = read(audit)
    assert NO_TWINS in text
    assert "Tests against twins" not in text
    assert "NOT IDENTIFIABLE" in text


@pytest.mark.parametrize("advice", list(Advice))
def test_every_verdict_has_a_card(advice: Advice) -> None:
    reasons, limits = (tuple(f"{name} {k}" for k in range(9)) for name in ("reason", "limit"))
    decision = Decision(advice=advice, reasons=reasons, limits=limits, help=("more data",), cause=Verdict.FAIL)
    text = read(Audit(world="<cart>", logs="a & b", decision=decision, measured=None, facts={}))
    assert all(part in text for part in (*reasons, *limits, "and 6 more", "and 4 more", "more data"))


def test_of_few_episodes_the_page_says_that_the_placebo_tells_nothing() -> None:
    found = made(twins=False)
    assert "Errors do not predict the next action" in read(found)
    few = tuple(replace(one, num_episodes=19) for one in found.measured.placebo)
    text = read(replace(found, measured=replace(found.measured, placebo=few)))
    assert "The placebo test needs 20 episodes; there are 19" in text
    assert "Errors do not predict" not in text


def test_a_pair_is_told_by_the_steps_that_can_be_told() -> None:
    found = made(twins=False).measured
    first, *later = found.effects
    hidden = replace(found, effects=(first, *(replace(one, agreement="not identifiable") for one in later)))
    row = show(ActionEffects(hidden).block()).split("<tbody>")[1].split("</tr>")[0]
    assert "✓ agrees" in row
    assert "figures after 1\u00a0step; after 2 and 5 NOT IDENTIFIABLE" in row
    assert "–" not in row


@pytest.mark.parametrize(
    ("agreement", "sentence", "cell"),
    [
        ("none", "The logs show no effect that matters.", "too small to matter"),
        ("not resolved", "Effects of actions are not resolved: these logs have too few episodes", "not resolved"),
        ("agrees", "1 of 1\u00a0effect in the logs agrees with the world.", "✓ agrees"),
    ],
)
def test_the_sentence_on_effects_agrees_with_the_table(agreement: Agreement, sentence: str, cell: str) -> None:
    found = made(twins=False).measured
    effects = tuple(replace(one, agreement=agreement) for one in found.effects)
    page = show(ActionEffects(replace(found, effects=effects)).block())
    assert sentence in page
    assert "held from the first step on" in page
    assert cell in page.split("<tbody>")[1].split("</tr>")[0]


@pytest.mark.parametrize(("others", "marks"), [((), "−1"), ((0.9,), "−1"), (None, "0")])
def test_scores_below_the_trivial_are_drawn_where_they_are(others: tuple[float, ...] | None, marks: str) -> None:
    values = (0.8,) if others is None else (-0.8, *others)
    scores = [Score(value=one, low=one, high=one, surely=one, p_half=0.5, draws=()) for one in values]
    cells = tuple(Cell(name=f"{k}", score=one, raw={}, note="") for k, one in enumerate(scores))
    test = TwinTest(name="C1", title="", grade=Grade(cells=cells, conditions=()), verdict=Verdict.FAIL)
    found = made(twins=False).measured
    drawn = show(TwinScores(replace(found, twins=(test,))).block())
    assert re.findall(r'x-tick"[^>]*>([^<]*)<', drawn)[0] == marks
