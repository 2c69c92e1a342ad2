"""C3, spurious channel.

Question: does a world attribute the heat to the levers, or to the lamp that announces them?

Scenes: the three stations of the lab `lamp` (exam/src/worldline_exam/labs/lamp.py). In 80, 95 and 99 % of the logged
steps the lamp announces what the levers will do. A world predicts the next heat in four versions of each scene: two
states of the lamp times two of the levers, so that each is flipped alone. Which state comes first is drawn for each
scene and station, so a world that confuses the levers of two stations finds no effect.

Score of each station: 1 - w, with w = |lamp effect| / (|lamp effect| + |action effect|). The lamp effect is the mean
absolute change, so nothing cancels. The action effect is the mean change, so only a consistent direction counts.

Pass condition: the action effect is 0.5 to 1.5 of the true one.

The empirical-risk model that has to be tempted is least squares on the heat, the lamp and the product of the levers. It
can find the effect of the levers, and relies on the lamp the more often the lamp is right. On the exam's logs it scores
0.83 to 0.84, 0.49 to 0.54 and 0.18 (seeds 0 and 1 of both pools). A score of at least one half means that the lamp
tempts no model. So only station_99 is scored.

Must fail: a model that reads the lamp only; least squares of the trivial bank on all signals, which has no term for the
product; least squares with the product, which finds too little of the levers' effect where the lamp tempts most.

What a PASS shows: the model class and its training found the levers although the lamp is the easier predictor. It does
not show that a world weighs evidence better than a fit to its logs:

* The tempted model has the wrong form. The law is the *sign* of the product. Least squares with that sign scores 0.99
  at every station (raw figure `right_form`). If that were the plain empirical-risk model of the specification, the test
  would be UNSUPPORTED.
* No lamp in these logs can tempt that model. The levers decide every step, and given them the lamp carries no
  information. Least squares is unbiased, so fewer steps or more noise scatter its answer and do not move it to the
  lamp. With noise of 3 degC it scores 0.94 from 16,000 steps, and 0.5 to 0.8 from 4,000 or fewer. No unbiased estimate
  is better under Gaussian noise.
* An unlogged cause between lever and heat would make the lamp a useful proxy. That is confounding, which C2 tests.

Deviations from the specification:

* An effect of the levers in the wrong direction counts against a world. It would otherwise score like the right one.
* If a single action had a plain effect, least squares would find it in any log, and no lamp would tempt. So the action
  is two levers that act by their product. It is in the log, since it decides every step. It is harder to find than one
  bright number that comes first and is right in 99 % of the steps.
* Stations whose lamp does not tempt are not scored, where the specification would call the test UNSUPPORTED. If the
  lamp of station_99 does not tempt, a must-fail model passes, and the test is void.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final, final

import numpy as np
from jaxtyping import Float

from worldline.audit import (
    HALF,
    Cell,
    Condition,
    Floats,
    Grade,
    Statistic,
    cell,
    history_of,
    means,
    only,
    packed_history,
    rounded,
)
from worldline.engines import Card, EngineBelief, Linear, own_belief
from worldline.episode import Arrays, Episode, History
from worldline.labs import explore, stacked
from worldline.schema import Schema
from worldline.stats import ratio
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, Pool, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.lamp import KEEP, STATIONS, Lamp, levers_for, together
from worldline_exam.references.base import ReferenceEngine, reference_card

CURRICULUM: Final = "lamp"
NUM_EPISODES: Final = 400
EPISODE_STEPS: Final = 40
HEATS: Final = tuple(station.heat for station in STATIONS)
MIN_EFFECT: Final = 0.5
MAX_EFFECT: Final = 1.5
"""Range of the predicted over the true effect of the action for a PASS."""
LAMP_ONLY: Final = "lamp only"
PLAIN: Final = "least squares"
TEMPTED: Final = "least squares with the product"
SCORED: Final = "station_99"
"""The station whose lamp tempts from every log. The cells of the others are reported and not scored."""
RIGHT_FORM: Final = "right_form"
"""Key in the ceiling of the answers of least squares with the sign of the product."""


@dataclass(frozen=True, kw_only=True)
class SpuriousChannelTest(ExamTest):
    """Test of spurious channels; the module docstring specifies it.

    Args:
        num_scenes: number E of scenes, each in four versions.
        num_steps: length of the history, steps.
    """

    code: ClassVar[str] = "C3"
    section: ClassVar[Section] = Section.CAUSE
    title: ClassVar[str] = "Spurious channel"
    claim: ClassVar[str] = "It has found the effect of the levers, although the lamp is easier to use."
    fail_by_gate: ClassVar[tuple[str, ...]] = (TEMPTED,)
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 20}

    num_scenes: int = 100
    num_steps: int = 8

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """One dataset: the three stations."""
        make_lab = partial(lamp_of, self.pool, pictures=self.pixels)
        return (
            DatasetSpec(
                name=CURRICULUM, make_lab=make_lab, asked=HEATS, num_episodes=NUM_EPISODES, num_steps=EPISODE_STEPS
            ),
        )

    def generate(self, seed: int) -> Arrays:
        """The history; `lamps` [E, 2, K], `levers` [E, 2, K, 2], and the `truth` [E, 2, K] of either levers."""
        lab, rng = lamp_of(self.pool), np.random.default_rng([3, seed])
        seeds = [int(number) for number in rng.integers(2**31, size=self.num_scenes)]
        past = stacked([explore(lab, episode_seed, self.num_steps) for episode_seed in seeds])
        shape = (self.num_scenes, len(STATIONS))
        lit, joined = (rng.random(shape) < HALF for _ in range(2))
        lamps = np.stack([lit, ~lit], 1)
        first = levers_for(joined, rng)
        levers = np.stack([first, first * np.array([1.0, -1.0])], 1).astype(np.float32)
        heats = np.concatenate([past.observations[name][:, -1] for name in HEATS], -1).astype(float)
        return {
            **packed_history(History(observations=past.observations, actions=past.actions)),
            "lamps": lamps.astype(np.float32),
            "levers": levers,
            "truth": lab.move(np.repeat(heats[:, None], 2, 1), levers.astype(float)),
        }

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """The mean `heats` [E, 2, 2, K] by lamp and levers, degC."""
        world, parts = only(worlds), []
        for lamp in range(2):
            history = _with_lamp(scenes, lamp)
            for way in range(2):
                levers = scenes["levers"][:, way]
                actions = {station.levers: levers[:, None, number] for number, station in enumerate(STATIONS)}
                predicted = means(world, history, actions, signals=HEATS)
                parts.append(np.stack([predicted[name][:, 0, 0] for name in HEATS], -1))
        every = np.stack(parts, 1)
        return {"heats": every.reshape(len(every), 2, 2, len(STATIONS))}

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The floor reads the lamp only and scores 0. The ceiling is the truth. The tempted model must fail."""
        del pilot
        lab, episodes = lamp_of(self.pool), logs[CURRICULUM]

        by_lamp = self.answers_of(LampOracle.by_lamp(episodes, lab.schema), scenes)
        right_form = self.answers_of(LampOracle.tempted(episodes, lab.schema, right_form=True), scenes)
        return References(
            floor=by_lamp,
            ceiling={"heats": np.repeat(scenes["truth"][:, None], 2, 1), RIGHT_FORM: right_form["heats"]},
            oracle=self.answers_of(LampOracle.lawful(lab), scenes),
            must_fail={
                LAMP_ONLY: by_lamp,
                PLAIN: self.answers_of(Linear.fit(episodes, lab.schema, context=1), scenes),
                TEMPTED: self.answers_of(LampOracle.tempted(episodes, lab.schema), scenes),
            },
            floor_name=LAMP_ONLY,
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell for each station, one of them scored, and the condition on its action effect."""
        cells, conditions = [], []
        for number, station in enumerate(STATIONS):
            own, tempted = (_effects(scenes, answer, number) for answer in (answers, references.must_fail[TEMPTED]))
            right_form = _effects(scenes, {"heats": references.ceiling[RIGHT_FORM]}, number)
            tempted_score, right_form_score = (
                float(_action_share(effects)(np.ones((1, len(effects.lamp))))[0]) for effects in (tempted, right_form)
            )
            raw = rounded(lamp_effect=own.lamp.mean(), action_effect=own.action.mean(),
                          true_effect=own.true.mean(), tempted=tempted_score,
                          right_form=right_form_score)  # fmt: skip
            if station.name != SCORED:
                note = f"gated: its lamp tempts too little, {TEMPTED} scores {tempted_score:.2f}"
                cells.append(Cell(name=station.name, score=None, raw=raw, note=note))
                continue
            cells.append(cell(station.name, _action_share(own), len(own.lamp), raw=raw))
            share = float(own.action.mean() / own.true.mean())
            conditions.append(
                Condition(
                    name=f"{station.name}: predicted lever effect {MIN_EFFECT} to {MAX_EFFECT} of the true effect",
                    met=MIN_EFFECT <= share <= MAX_EFFECT,
                    found=f"{share:.2f}",
                    gate=True,
                )
            )
        return Grade(cells=tuple(cells), conditions=tuple(conditions))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Predicted effect of flipping the levers, or the lamp, at each station."""
        shown = {
            "truth": references.ceiling,
            "this world": answers,
            TEMPTED: references.must_fail[TEMPTED],
            "least squares with its sign": {"heats": references.ceiling[RIGHT_FORM]},
            LAMP_ONLY: references.floor,
        }
        places = tuple(100 * station.follows for station in STATIONS)
        lines: dict[str, list[FigureLine]] = {"levers": [], "lamp": []}
        for name, predicted in shown.items():
            effects = [_effects(scenes, predicted, number) for number in range(len(STATIONS))]
            sizes = {"levers": [effect.action for effect in effects], "lamp": [effect.lamp for effect in effects]}
            for what, each in sizes.items():
                middle = np.array([size.mean() for size in each])
                half = np.array([1.96 * float(size.std()) / np.sqrt(len(size)) for size in each])
                lines[what].append(FigureLine.of(name, places, middle, low=middle - half, high=middle + half))
        titles = {"levers": "The levers are flipped, the lamp stays", "lamp": "The lamp is flipped, the levers stay"}
        return ExamFigure(
            caption="The more reliable the lamp, the more it tempts a model without the form of the law, which is the "
            "sign of the levers' product. The lamp heats nothing.",
            panels=tuple(
                FigurePanel.of(
                    titles[what],
                    "logged steps in which the lamp was right (%)",
                    "change of the predicted heat (degC)",
                    each,
                )
                for what, each in lines.items()
            ),
        )


def lamp_of(pool: Pool, *, pictures: bool = False) -> Lamp:
    """The lab of a pool. For development, levers that point the same way cool."""
    return Lamp(pictures=pictures) if pool is Pool.REPORT else Lamp(effect=-1.5, noise=0.15, pictures=pictures)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LampOracle(ReferenceEngine):
    """Predicts keep * heat + lamp * sign of the lamp + joined * sign of the levers + product * product of the levers.

    The sign of the lamp is 1 if it was last lit, else -1. That of the levers is 1 if they point the same way, else -1.

    Args:
        schema: of the logs.
        keep: [K], share of the heat that remains after a step.
        lamp: [K], effect of the lamp, degC.
        joined: [K], effect of the sign of the levers, degC.
        product: [K], effect of the product of the levers, degC.
    """

    schema: Schema
    keep: Float[np.ndarray, "K"]
    lamp: Float[np.ndarray, "K"]
    joined: Float[np.ndarray, "K"]
    product: Float[np.ndarray, "K"]

    @classmethod
    def lawful(cls, lab: Lamp) -> LampOracle:
        """Knows the law, but not the noise."""
        none, every = np.zeros(len(STATIONS)), np.ones(len(STATIONS))
        return cls(schema=lab.schema, keep=KEEP * every, lamp=none, joined=lab.effect * every, product=none)

    @classmethod
    def by_lamp(cls, episodes: Sequence[Episode], schema: Schema) -> LampOracle:
        """Heat regressed on the previous heat and the lamp."""
        keep, lamp, _ = _regressed(episodes, None)
        none = np.zeros(len(STATIONS))
        return cls(schema=schema, keep=keep, lamp=lamp, joined=none, product=none)

    @classmethod
    def tempted(cls, episodes: Sequence[Episode], schema: Schema, *, right_form: bool = False) -> LampOracle:
        """Heat regressed on the previous heat, the lamp and the product of the levers, or its sign (`right_form`)."""
        keep, lamp, levers = _regressed(episodes, _joined if right_form else _product)
        none = np.zeros(len(STATIONS))
        joined, product = (levers, none) if right_form else (none, levers)
        return cls(schema=schema, keep=keep, lamp=lamp, joined=joined, product=product)

    def describe(self) -> Card:
        """The card of this engine."""
        inputs = (*HEATS, *(station.lamp for station in STATIONS))
        by_actions = bool(self.joined.any() or self.product.any())
        return reference_card("lamp oracle", self.schema, HEATS, inputs=inputs, action_conditioned=by_actions)

    def predict(self, belief: EngineBelief, actions: Arrays) -> Arrays:
        """The heats."""
        belief = own_belief(belief, dict)
        heats = np.concatenate([belief[name] for name in HEATS], -1)[:, None].astype(float)
        lit = np.concatenate([belief[station.lamp] for station in STATIONS], -1)[:, None] > HALF
        every = np.stack([actions[station.levers].astype(float) for station in STATIONS], -2)
        path = []
        for levers in np.moveaxis(every, 2, 0):
            by_levers = self.joined * _joined(levers) + self.product * _product(levers)
            heats = self.keep * heats + self.lamp * np.where(lit, 1.0, -1.0) + by_levers
            path.append(heats)
        heat_path = np.stack(path, 2)
        return {name: heat_path[..., [number]] for number, name in enumerate(HEATS)}


def _product(levers: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n"]:
    return np.asarray(levers.prod(-1))


def _joined(levers: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n"]:
    """1 where both levers point the same way, else -1."""
    return np.where(together(levers), 1.0, -1.0)


def _regressed(episodes: Sequence[Episode], levers: Callable[[Floats], Floats] | None) -> Float[np.ndarray, "3 K"]:
    """Least-squares weights of each station's heat: previous heat, lamp, and a feature of the levers."""
    every = stacked(list(episodes))
    fitted = np.zeros((3, len(STATIONS)))
    for number, station in enumerate(STATIONS):
        heat, lamp = (every.observations[name].astype(float)[..., 0] for name in (station.heat, station.lamp))
        columns = [heat[:, :-1], 2 * lamp[:, :-1] - 1]
        columns += [levers(every.actions[station.levers].astype(float))] if levers else []
        table = np.stack([column.ravel() for column in columns], 1)
        fitted[: len(columns), number] = np.linalg.lstsq(table, heat[:, 1:].ravel(), rcond=None)[0]
    return fitted


@dataclass(frozen=True, kw_only=True, eq=False)
class _Effects:
    """Effects at one station in each scene [E], degC. The lamp's is absolute, the levers' is signed."""

    lamp: Floats
    action: Floats
    true: Floats


def _effects(scenes: Arrays, answers: Arrays, station: int) -> _Effects:
    heats, truth = answers["heats"][..., station].astype(float), scenes["truth"][..., station].astype(float)
    # Signed from "apart" to "together", whichever was drawn first.
    sign = np.where(together(scenes["levers"][:, 0, station].astype(float)), 1.0, -1.0)
    change = (heats[:, :, 0] - heats[:, :, 1]).mean(1)
    return _Effects(
        lamp=np.abs(heats[:, 0] - heats[:, 1]).mean(1), action=sign * change, true=sign * (truth[:, 0] - truth[:, 1])
    )


def _action_share(effects: _Effects) -> Statistic:
    """1 - w; negative if the action effect has the wrong sign, 0 if there is no effect at all."""
    parts = np.stack([effects.lamp, effects.action * np.sign(effects.true)], 1)

    def statistic(weights: Floats) -> Floats:
        lamp, action = np.moveaxis(weights @ parts, -1, 0)
        both = lamp + np.abs(action)
        return np.where(both == 0, 0.0, ratio(action, both))

    return statistic


def _with_lamp(scenes: Arrays, lamp: int) -> History:
    """The history with the first or the second state of the lamps."""
    history = history_of(scenes)
    seen = {name: value.copy() for name, value in history.observations.items()}
    for number, station in enumerate(STATIONS):
        seen[station.lamp][:, -1, 0] = scenes["lamps"][:, lamp, number]
    return History(observations=seen, actions=history.actions)
