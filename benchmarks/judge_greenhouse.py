"""The lettuce greenhouse as a case of benchmarks/judge.py. Measures nothing.

Its logs are those of benchmarks/greenhouse_logs.py. The four observations are its whole state and have no noise, so the
truth begins in a logged observation, under the weather of that day. Controllers contain the interlock of the logs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from greenhouse_logs import record_greenhouse
from greenhouse_plant import SCHEMA, columns, make_greenhouse
from judge_cases import Truth, continued, figures_of
from stranger_plants import log_uniform

from worldline.control.controller import Situation
from worldline.control.controllers import (
    Controller,
    ControlRule,
    PidController,
    PidLoop,
    RuleController,
    ScheduleController,
    ScheduledStep,
    ValueRange,
)
from worldline.control.imagination import loop_of
from worldline.control.run_goal import RunGoal
from worldline.episode import Arrays, Episode
from worldline.planning.costs import AtMost, Price
from worldline.schema import Role, Schema

NUM_EPISODES: Final = 60
FRESH: Final = 20
DAY_S: Final = 86400.0


class Interlocked(Controller):
    """A controller whose heater is throttled, and whose vents open a little, when it is warm.

    Args:
        inner: chooses the actions.
    """

    def __init__(self, inner: Controller) -> None:
        self.inner = inner
        reads = (*(inner.card.reads or ()), "air_temperature")
        self.card = replace(inner.card, reads=reads, switches=inner.card.switches or not inner.card.reads)

    def reset(self) -> None:
        """Resets the inner one."""
        self.inner.reset()

    def act(self, session: Situation) -> Arrays:
        """The allowed actions."""
        acts = {name: np.asarray(value, float) for name, value in self.inner.act(session).items()}
        temperature = np.asarray(session.history.observations["air_temperature"], float)[:, -1]
        warmth = np.clip((temperature - 22) / 8, 0, 1)
        acts["ventilation"] = np.maximum(acts["ventilation"], warmth * 7.5 / 3)
        acts["heating"] *= 1 - warmth
        return acts


@dataclass(frozen=True, kw_only=True)
class GreenhouseCase:
    """Logs and twelve controllers.

    Args:
        known: the signals.
        goal: of the runs.
        episodes: logged.
        days: when each begins.
        others: further episodes, whose starts are those of other runs.
        other_days: when each of them begins.
        candidates: controllers by name.
    """

    known: Schema
    goal: RunGoal
    episodes: list[Episode]
    days: list[float]
    others: list[Episode]
    other_days: list[float]
    candidates: Mapping[str, Controller]


def draw_greenhouse(seed: int) -> GreenhouseCase:
    """The case of a seed."""
    price = Price(signal="heating", price=0.01)
    humid, hot = AtMost(signal="air_humidity", bound=85.0), AtMost(signal="air_temperature", bound=28.0)
    goal = RunGoal(
        targets={"air_temperature": 20.0}, tolerance={"air_temperature": 2.0}, costs=(price,), constraints=(humid, hot)
    )
    parts = list[Any]()
    with tempfile.TemporaryDirectory() as folder:
        for number, count in enumerate((NUM_EPISODES, FRESH)):
            store = record_greenhouse(Path(folder) / str(number), num_episodes=count, seed=2 * seed + number)
            parts.append([store.episode(n) for n in range(count)])
            parts.append([float(str(entry.source["start_day"])) for entry in store.entries()])
    draw = np.random.default_rng([seed, 20261203])
    controllers = {name: Interlocked(each) for name, each in candidates(draw).items()}
    return GreenhouseCase(
        known=SCHEMA, goal=goal, episodes=parts[0], days=parts[1], others=parts[2], other_days=parts[3],
        candidates=controllers,
    )  # fmt: skip


def candidates(draw: np.random.Generator) -> dict[str, Controller]:
    """Loops of heater and vents, rules and schedules."""
    made = dict[str, Controller]()
    for number in range(7):
        heater = PidLoop(
            reads="air_temperature",
            acts="heating",
            set_point=draw.uniform(16, 22),
            gain=float(log_uniform(draw, 3, 60)),
            integral_s=float(log_uniform(draw, 3600, 40000)),
        )
        reads, wanted, gain = [("air_temperature", draw.uniform(23, 27), -1.0), ("air_humidity", 80.0, -0.2)][
            number % 2
        ]
        vents = PidLoop(
            reads=reads, acts="ventilation", set_point=wanted, gain=gain * float(log_uniform(draw, 0.3, 2)), bias=1.0
        )
        made[f"PID {number}"] = PidController([heater, vents], SCHEMA)
    for number in range(3):
        cold, warm = draw.uniform(14, 18), draw.uniform(20, 24)
        power, open_ = draw.uniform(60, 150), draw.uniform(2, 6)
        rules = [
            ControlRule(when={"air_temperature": ValueRange(below=cold)}, set={"heating": power, "ventilation": 0.5}),
            ControlRule(when={"air_temperature": ValueRange(above=warm)}, set={"heating": 0.0, "ventilation": open_}),
        ]
        made[f"rules {number}"] = RuleController(rules, SCHEMA)
    for number in range(2):
        day, night = draw.uniform(0, 60), draw.uniform(20, 100)
        steps = [
            ScheduledStep(at_s=0.0, set={"heating": night, "ventilation": 0.5}),
            ScheduledStep(at_s=DAY_S / 2, set={"heating": day, "ventilation": draw.uniform(1, 4)}),
        ]
        made[f"schedule {number}"] = ScheduleController(steps, SCHEMA, period_s=DAY_S)
    return made


def greenhouse_truth(case: GreenhouseCase, controller: Controller, at: int) -> Truth:
    """Runs of the simulated greenhouse from the logged states, and from those of other episodes."""
    same, fresh = (
        figures_of(case.known, case.goal, simulated(controller, episodes, days, at), at)
        for episodes, days in ((case.episodes, case.days), (case.others, case.other_days))
    )
    return Truth(same=same, fresh=fresh)


def simulated(controller: Controller, episodes: Sequence[Episode], days: Sequence[float], at: int) -> list[Episode]:
    """Logged episodes up to observation `at`, then true ones under the controller."""
    from lettuce_greenhouse_gym import units

    convert: Any = units  # the package has no types for these functions
    steps, plants, now = episodes[0].num_steps - at, list[Any](), list[Any]()
    for episode, day in zip(episodes, days, strict=True):
        weight, co2, temperature, humidity = (float(episode.observations[s.name][at, 0]) for s in SCHEMA.observations)
        env = make_greenhouse()
        env.reset(seed=0, options={"start_day": day + at * (SCHEMA.step_s or 0.0) / DAY_S})
        density = convert.co2_ppm_to_density(temperature, co2), convert.rh_to_vapour_density(temperature, humidity)
        now.append(env.restore(replace(env.snapshot(), x=np.array([weight, density[0], temperature, density[1]]))))
        plants.append(env)
    layout = dict(plants[0].observation_layout)
    loop, rows, inputs = loop_of(controller, SCHEMA, 2), [np.array(now)], list[Any]()
    for _ in range(steps):
        before = columns(rows[max(0, len(rows) - 2)][:, layout["weather"]], Role.EXOGENOUS)
        acts = loop.act(columns(rows[-1][:, layout["observables"]], Role.OBSERVATION), exogenous=before)
        inputs.append(np.concatenate([acts[signal.name] for signal in SCHEMA.actions], 1))
        controls = zip(plants, inputs[-1].astype(float), strict=True)
        rows.append(np.array([env.step(env.encode_control(control))[0] for env, control in controls]))
    table, taken = np.stack(rows, 1), np.stack(inputs, 1)
    runs = [
        Episode(
            observations=columns(table[w][:, layout["observables"]], Role.OBSERVATION),
            actions=columns(taken[w], Role.ACTION),
            exogenous=columns(table[w][:-1, layout["weather"]], Role.EXOGENOUS),
        )
        for w in range(len(plants))
    ]
    return [continued(logged, run, at) for logged, run in zip(episodes, runs, strict=True)]
