"""C3, spurious channel: is it the lamp that heats, or the levers that it announces?

Asked: the next heat of the three stations of the lab `lamp`, whose lamps announce in 80, 95 and 99 steps of a hundred
of the log what the levers will do. Each scene is asked four times, with the lamp as it may be and the levers as they
may be, so that either is flipped alone. Score of each station: 1 - w, with w = |lamp effect| / (|lamp effect| + |action
effect|). The lamp's effect is the mean size of what flipping it changes, so that nothing cancels; the action's is the
mean change, so that only what goes one way counts. Which combination comes first is drawn for each scene and station:
who takes one station's levers for another's finds no effect.

Beside the score: the action's effect is 0.5 to 1.5 of the true one. The empirical-risk model that has to be tempted is
least squares on the heat, the lamp and the product of the levers: it can find what they do, and leans on the lamp the
more the oftener that is right. From the exam's logs it scores 0.83 to 0.84, 0.49 to 0.54 and 0.18 (seeds 0 and 1 of
both pools). Where it has a half or more the lamp tempts nobody, so station_99 alone is scored.

What a PASS tells, and what it does not: the model that is tempted has the wrong form. The law is the *sign* of the
product, and least squares with that sign scores 0.99 at every station: its figure stands beside each cell, as
`right_form`. Taking that for the plan's plain empirical-risk model, the test would be UNSUPPORTED. No lamp in these
logs can tempt it: the levers decide every step, given them the lamp says nothing, and least squares is without bias, so
that fewer steps or more noise scatter its answer and do not lead it to the lamp. With noise of 3 degC it has 0.94 of
16,000 steps and anything from 0.5 to 0.8 of 4,000 and less; where the log is too poor for it, it is for everyone, as no
unbiased estimate is better where noise is Gaussian. A lever that acts through something that nobody logged would make
the lamp worth its weight, as a proxy: that is confounding, and what C2 asks. So a PASS tells that what a model can
express, and how it was trained, found the levers though the lamp is the easier thing to go by, and no more. It does not
tell that it weighs evidence better than the fit to its logs does.

Must fail: a model that reads the lamp only; the least squares of the trivial bank on all signals, which has no word for
the product; and least squares that has it, which finds too little of the levers' effect where it is tempted most.

Deviations from the plan, and why: an effect of the levers the wrong way round counts against a world, as it would else
score as high as the right one. With an action that shows its effect plainly, least squares gets it right from any log,
and no lamp tempts. Here the action is two levers, whose effect is that of their product: it is in the log for anyone
who looks at them together, as they decide every step, and is still harder to find than one bright number that comes
first and is right in 99 steps of a hundred. Stations whose lamp does not tempt are not scored; the plan would call the
test UNSUPPORTED. Where that of station_99 does not, a model that must fail passes, and the test is void.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.audit import (
    HALF,
    Cell,
    Condition,
    Grade,
    Statistic,
    as_world,
    cell,
    history_of,
    means,
    only,
    packed_history,
    rounded,
)
from worldline.engines import (
    Card,
    Engine,
    EngineBelief,
    Linear,
    Noise,
    Samples,
    check_future,
    check_observations,
    own_belief,
)
from worldline.episode import Arrays, Episode, Future, History
from worldline.labs import explore, stacked
from worldline.schema import Schema
from worldline.stats import ratio
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, Pool, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.labs.lamp import KEEP, STATIONS, Lamp, levers_for, together

Floats = NDArray[np.floating]

CURRICULUM: Final = "lamp"
NUM_EPISODES: Final = 400
EPISODE_STEPS: Final = 40
HEATS: Final = tuple(station.heat for station in STATIONS)
LEAST_EFFECT: Final = 0.5
MAX_EFFECT: Final = 1.5
"""Shares of the true effect of the action, between which a PASS needs it."""
LAMP_ONLY: Final = "lamp only"
PLAIN: Final = "least squares"
TEMPTED: Final = "least squares with the product"
SCORED: Final = "station_99"
"""The station whose lamp tempts. That of the others does not, or not from every log, and their cells are only shown."""
RIGHT_FORM: Final = "right_form"
"""Least squares with the sign of the product: what it says is kept with the ceiling."""


@dataclass(frozen=True, kw_only=True)
class SpuriousChannelTest(ExamTest):
    """The test.

    Args:
        num_scenes: E, each asked in four versions.
        num_steps: of the history.
    """

    code: ClassVar[str] = "C3"
    section: ClassVar[Section] = Section.CAUSE
    title: ClassVar[str] = "Spurious channel"
    claim: ClassVar[str] = "It has found what the levers do, though a lamp that announces it is easier to go by."
    fail_by_gate: ClassVar[tuple[str, ...]] = (TEMPTED,)
    paid: ClassVar[Mapping[str, int]] = {"num_scenes": 20}

    num_scenes: int = 100
    num_steps: int = 8

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """The three stations; see `ExamTest`."""

        def make_lab() -> Lamp:
            return lamp_of(self.pool, pictures=self.pixels)

        return (
            DatasetSpec(
                name=CURRICULUM, make_lab=make_lab, asked=HEATS, num_episodes=NUM_EPISODES, num_steps=EPISODE_STEPS
            ),
        )

    def generate(self, seed: int) -> Arrays:
        """The history; `lamps` [E, 2, K], `levers` [E, 2, K, 2], and the truth [E, 2, K] for either levers."""
        lab, rng = lamp_of(self.pool), np.random.default_rng([3, seed])
        seeds = [int(one) for one in rng.integers(2**31, size=self.num_scenes)]
        past = stacked([explore(lab, one, self.num_steps) for one in seeds])
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
        """The mean `heats` [E, 2, 2, K] after either lamp and either levers; see `ExamTest`."""
        world, parts = only(worlds), []
        for lamp in range(2):
            history = _shown(scenes, lamp)
            for way in range(2):
                levers = scenes["levers"][:, way]
                actions = {station.levers: levers[:, None, number] for number, station in enumerate(STATIONS)}
                found = means(world, history, actions, signals=HEATS)
                parts.append(np.stack([found[name][:, 0, 0] for name in HEATS], -1))
        every = np.stack(parts, 1)
        return {"heats": every.reshape(len(every), 2, 2, len(STATIONS))}

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """The floor reads the lamp only, which scores 0; the ceiling is the truth; who has to be tempted must fail."""
        del pilot
        lab, episodes = lamp_of(self.pool), logs[CURRICULUM]

        def answers(engine: Engine) -> Arrays:
            return self.question({CURRICULUM: as_world(engine)}, scenes)

        by_lamp = answers(LampOracle.by_lamp(episodes, lab.schema))
        right_form = answers(LampOracle.tempted(episodes, lab.schema, right_form=True))
        return References(
            floor=by_lamp,
            ceiling={"heats": np.repeat(scenes["truth"][:, None], 2, 1), RIGHT_FORM: right_form["heats"]},
            oracle=answers(LampOracle.lawful(lab)),
            must_fail={
                LAMP_ONLY: by_lamp,
                PLAIN: answers(Linear.fit(episodes, lab.schema, context=1)),
                TEMPTED: answers(LampOracle.tempted(episodes, lab.schema)),
            },
            floor_name=LAMP_ONLY,
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """A cell for each station, one of them scored, and its gate; see the module."""
        cells, conditions = [], []
        for number, station in enumerate(STATIONS):
            found, tempted = (_effects(scenes, one, number) for one in (answers, references.must_fail[TEMPTED]))
            formed = _effects(scenes, {"heats": references.ceiling[RIGHT_FORM]}, number)
            withstood, untempted = (
                float(_action_share(one)(np.ones((1, len(one.lamp))))[0]) for one in (tempted, formed)
            )
            raw = rounded(lamp_effect=found.lamp.mean(), action_effect=found.action.mean(),
                          true_effect=found.true.mean(), tempted=withstood, right_form=untempted)  # fmt: skip
            if station.name != SCORED:
                note = f"gated: its lamp tempts too little, {TEMPTED} scores {withstood:.2f}"
                cells.append(Cell(name=station.name, score=None, raw=raw, note=note))
                continue
            cells.append(cell(station.name, _action_share(found), len(found.lamp), raw=raw))
            share = float(found.action.mean() / found.true.mean())
            conditions.append(
                Condition(
                    name=f"{station.name}: the levers have {LEAST_EFFECT} to {MAX_EFFECT} of their true effect",
                    met=LEAST_EFFECT <= share <= MAX_EFFECT,
                    found=f"{share:.2f}",
                    gate=True,
                )
            )
        return Grade(cells=tuple(cells), conditions=tuple(conditions))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """What flipping the levers, or the lamp, is said to change at each station."""
        shown = {
            "truth": references.ceiling,
            "this world": answers,
            TEMPTED: references.must_fail[TEMPTED],
            "least squares with its sign": {"heats": references.ceiling[RIGHT_FORM]},
            LAMP_ONLY: references.floor,
        }
        places = tuple(100 * station.follows for station in STATIONS)
        lines: dict[str, list[FigureLine]] = {"levers": [], "lamp": []}
        for name, one in shown.items():
            effects = [_effects(scenes, one, number) for number in range(len(STATIONS))]
            sizes = {"levers": [found.action for found in effects], "lamp": [found.lamp for found in effects]}
            for what, each in sizes.items():
                spread = [1.96 * float(size.std()) / np.sqrt(len(size)) for size in each]
                middle = [float(size.mean()) for size in each]
                lines[what].append(
                    FigureLine(
                        name=name,
                        x=places,
                        y=tuple(middle),
                        low=tuple(y - s for y, s in zip(middle, spread, strict=True)),
                        high=tuple(y + s for y, s in zip(middle, spread, strict=True)),
                    )
                )
        titles = {"levers": "The levers are flipped, the lamp stays", "lamp": "The lamp is flipped, the levers stay"}
        return ExamFigure(
            caption="The more reliably a lamp announces what the levers will do, the more it tempts who has not the "
            "form of the law, which is the sign of their product. It heats nothing.",
            panels=tuple(
                FigurePanel(
                    title=titles[what],
                    x_label="steps of the log in which the lamp was right (%)",
                    y_label="change of the predicted heat (degC)",
                    lines=tuple(each),
                )
                for what, each in lines.items()
            ),
        )


def lamp_of(pool: Pool, *, pictures: bool = False) -> Lamp:
    """The lab of a pool: for development the levers cool where they point the same way."""
    return Lamp(pictures=pictures) if pool is Pool.REPORT else Lamp(effect=-1.5, noise=0.15, pictures=pictures)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LampOracle(Engine):
    """Says: keep * heat + lamp * its sign + joined * the sign of what the levers do + product * that of the levers.

    The lamp's sign is 1 where it was last lit, else -1; that of the levers is 1 where they point the same way, else -1.

    Args:
        schema: of the logs.
        keep: [K], share of the heat that is left after a step.
        lamp: [K], degC.
        joined: [K], degC.
        product: [K], degC.
    """

    schema: Schema
    keep: Float[np.ndarray, "K"]
    lamp: Float[np.ndarray, "K"]
    joined: Float[np.ndarray, "K"]
    product: Float[np.ndarray, "K"]

    @classmethod
    def lawful(cls, lab: Lamp) -> LampOracle:
        """Who knows the law, but not the noise."""
        none, every = np.zeros(len(STATIONS)), np.ones(len(STATIONS))
        return cls(schema=lab.schema, keep=KEEP * every, lamp=none, joined=lab.effect * every, product=none)

    @classmethod
    def by_lamp(cls, episodes: Sequence[Episode], schema: Schema) -> LampOracle:
        """Heat regressed on the heat before and the lamp."""
        keep, lamp, _ = _regressed(episodes, None)
        none = np.zeros(len(STATIONS))
        return cls(schema=schema, keep=keep, lamp=lamp, joined=none, product=none)

    @classmethod
    def tempted(cls, episodes: Sequence[Episode], schema: Schema, *, right_form: bool = False) -> LampOracle:
        """Heat regressed on the heat before, the lamp and the product of the levers; in the right form, its sign."""
        keep, lamp, levers = _regressed(episodes, _joined if right_form else _product)
        none = np.zeros(len(STATIONS))
        joined, product = (levers, none) if right_form else (none, levers)
        return cls(schema=schema, keep=keep, lamp=lamp, joined=joined, product=product)

    def describe(self) -> Card:
        """What this engine is."""
        return Card(
            name="stoker",
            engine="stoker",
            schema=self.schema,
            inputs=(*HEATS, *(station.lamp for station in STATIONS)),
            predicts=HEATS,
            context=1,
            deterministic=True,
            action_conditioned=bool(self.joined.any() or self.product.any()),
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Arrays:
        """The last heats and lamps; see `Engine`."""
        del belief, seed  # it is all in what is seen now
        names = self.describe().inputs
        check_observations(steps, [self.schema[name] for name in names])
        return {name: steps.observations[name][:, -1].astype(float) for name in names}

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """One sample, S = 1; see `Engine`."""
        del num_samples, noise, seed  # deterministic
        size = check_future(future, self.schema)
        belief = own_belief(belief, dict)
        heats = np.concatenate([belief[name] for name in HEATS], -1)[:, None]
        lit = np.concatenate([belief[station.lamp] for station in STATIONS], -1)[:, None] > HALF
        path = []
        for step in range(size.horizon):
            levers = np.stack([future.actions[one.levers][:, :, step].astype(float) for one in STATIONS], -2)
            by_levers = self.joined * _joined(levers) + self.product * _product(levers)
            heats = self.keep * heats + self.lamp * np.where(lit, 1.0, -1.0) + by_levers
            path.append(np.broadcast_to(heats, (size.num_worlds, size.num_versions, len(STATIONS))))
        every = np.stack(path, 2).astype(np.float32)[:, :, None]
        return Samples(signals={name: every[..., [number]] for number, name in enumerate(HEATS)})


def _product(levers: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n"]:
    return np.asarray(levers.prod(-1))


def _joined(levers: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n"]:
    """1 where both point the same way, else -1."""
    return np.where(together(levers), 1.0, -1.0)


def _regressed(episodes: Sequence[Episode], levers: Callable[[Floats], Floats] | None) -> Float[np.ndarray, "3 K"]:
    """Least squares of each station's heat: shares of the heat before, the lamp, and what is made of the levers."""
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
    """Of a station: what flipping changes in each scene [E], degC. The lamp's is a size, the levers' has a sign."""

    lamp: Floats
    action: Floats
    true: Floats


def _effects(scenes: Arrays, answers: Arrays, station: int) -> _Effects:
    heats, truth = answers["heats"][..., station].astype(float), scenes["truth"][..., station].astype(float)
    # From apart to together, whichever came first.
    sign = np.where(together(scenes["levers"][:, 0, station].astype(float)), 1.0, -1.0)
    change = (heats[:, :, 0] - heats[:, :, 1]).mean(1)
    return _Effects(
        lamp=np.abs(heats[:, 0] - heats[:, 1]).mean(1), action=sign * change, true=sign * (truth[:, 0] - truth[:, 1])
    )


def _action_share(found: _Effects) -> Statistic:
    """1 - w, below 0 where the levers do the opposite of the truth; 0 where nothing changes anything."""
    parts = np.stack([found.lamp, found.action * np.sign(found.true)], 1)

    def statistic(weights: Floats) -> Floats:
        lamp, action = np.moveaxis(weights @ parts, -1, 0)
        both = lamp + np.abs(action)
        return np.where(both == 0, 0.0, ratio(action, both))

    return statistic


def _shown(scenes: Arrays, lamp: int) -> History:
    """The history with the first or the second lamps."""
    history = history_of(scenes)
    seen = {name: value.copy() for name, value in history.observations.items()}
    for number, station in enumerate(STATIONS):
        seen[station.lamp][:, -1, 0] = scenes["lamps"][:, lamp, number]
    return History(observations=seen, actions=history.actions)
