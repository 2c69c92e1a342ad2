"""A lettuce greenhouse under real weather, with its signals and a recipe: `python examples/thermostat.py WORLD`.

The logs come from lettuce-greenhouse-gym with the exploration policies of benchmarks/greenhouse_logs.py. The benchmark
uses three training seeds and held-out weather. At 1, 6 and 24 hours, the error of all four signals is 86 to 93 % below
a linear autoregression with the same inputs. That baseline itself beats persistence. Training takes about 30 s on one
core.

Climate and crop follow van Henten (2003). The weather was measured every five minutes in Bleiswijk in 2014.
Observations are dry weight, CO2, temperature and humidity. Other parts of the environment's observation are left out:
previous controls would reveal the action, and progress is not physical. Its weather becomes the exogenous signals: row
t is the weather during step t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.episode import Arrays
from worldline.errors import DataError, InputError, MissingExtraError
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.schema import Kind, Role, Schema, Signal

Floats = NDArray[np.floating]
Greenhouse = Any
"""A `LettuceGreenhouseEnv`; the package is optional."""

STEP_S: Final = 1800.0
EPISODE_DAYS: Final = 5.0
NUM_STEPS: Final = 240
FIRST_DAY: Final = 10.0
"""Day of the year on which the weather data begin, 10 January."""
BLOCK_DAYS: Final = 6.0
PARTS: Final = ("train", "train", "calibration", "train", "validation", "train", "held_out", "train")
"""The parts of the split to which blocks are assigned in turn."""
MAX_CONTROLS: Final = np.array([1.2, 7.5, 150.0])


def _signal(name: str, role: Role, unit: str, low: float | None, high: float | None, entity: str) -> Signal:
    return Signal(
        name=name,
        role=role,
        kind=Kind.VECTOR,
        shape=(1,),
        unit=unit,
        low=None if low is None else (low,),
        high=None if high is None else (high,),
        entity=entity,
    )


SCHEMA: Final = Schema(
    signals=(
        _signal("dry_weight", Role.OBSERVATION, "kg/m2", 0.002, 0.6, "crop"),
        _signal("air_co2", Role.OBSERVATION, "ppm", 0.0, 2400.0, "air"),
        _signal("air_temperature", Role.OBSERVATION, "degC", 5.0, 40.0, "air"),
        _signal("air_humidity", Role.OBSERVATION, "%", 0.0, 100.0, "air"),
        _signal("co2_supply", Role.ACTION, "mg/m2/s", 0.0, 1.2, "air"),
        _signal("ventilation", Role.ACTION, "mm/s", 0.0, 7.5, "air"),
        _signal("heating", Role.ACTION, "W/m2", 0.0, 150.0, "air"),
        _signal("outdoor_radiation", Role.EXOGENOUS, "W/m2", 0.0, None, "weather"),
        _signal("outdoor_co2", Role.EXOGENOUS, "kg/m3", 0.0, None, "weather"),
        _signal("outdoor_temperature", Role.EXOGENOUS, "degC", None, None, "weather"),
        _signal("outdoor_vapour", Role.EXOGENOUS, "kg/m3", 0.0, None, "weather"),
    ),
    step_s=STEP_S,
)


def greenhouse(store: Store) -> Recipe:
    """The recipe for vectors with a split by date, for a store of benchmarks/greenhouse_logs.py."""
    return replace(vectors(store), name="greenhouse", split=greenhouse_split)


def greenhouse_split(store: Store) -> Split:
    """A split by date: no hour of weather is in two parts, and every part covers all seasons.

    The year is cut into blocks of six days. Of each eight blocks, five are for training and one each is for
    calibration, validation and the held-out set.

    Args:
        store: whose episodes name their `start_day`.

    Raises:
        DataError: an episode has no start day or crosses from one block to the next, or a part has no episode.
    """
    parts: dict[str, list[int]] = {name: [] for name in PARTS}
    for number, entry in enumerate(store.entries()):
        day = entry.source.get("start_day")
        last = 0.0 if not isinstance(day, float) else day + (entry.num_steps - 1) * STEP_S / 86400
        if not isinstance(day, float) or _block(day) != _block(last):
            problem = f"start_day is {day}, and the episode does not lie within one block of {BLOCK_DAYS:g} days"
            fix = "Name the start day in the source of each episode, or use worldline.data.splits.split."
            raise DataError(problem, fix=fix, file=store.path, episode=number)
        parts[PARTS[_block(day) % len(PARTS)]].append(number)
    if empty := [name for name, numbers in parts.items() if not numbers]:
        fix = f"Record at least {len(PARTS)}."
        raise DataError(f"{len(store)} episodes leave nothing for: {', '.join(empty)}", fix=fix, file=store.path)
    rule = f"by date, in blocks of {BLOCK_DAYS:g} days"
    return Split(**{name: tuple(numbers) for name, numbers in parts.items()}, rule=rule)


def make_greenhouse(changed: Mapping[str, float] | None = None) -> Greenhouse:
    """The environment, with levels as actions, half-hour steps and five days per episode.

    Args:
        changed: factors for physical constants by their names in the package, such as
            {"heat_transfer_cover": 1.5} for a torn screen; None for no change.

    Raises:
        MissingExtraError: lettuce-greenhouse-gym is not installed.
    """
    try:
        from lettuce_greenhouse_gym import ActionMode, EnvConfig, LettuceGreenhouseEnv
        from lettuce_greenhouse_gym.model.parameters.providers import FixedParameterProvider
    except ImportError as error:
        raise MissingExtraError("lettuce_greenhouse_gym", "envs") from error
    config = EnvConfig(dt=STEP_S, episode_days=EPISODE_DAYS, action_mode=ActionMode.ABSOLUTE, terminal_at_harvest=False)
    env = LettuceGreenhouseEnv(config)
    if not changed:
        return env
    constants = env.parameters.override(**{name: env.parameters.get(name) * by for name, by in changed.items()})
    return LettuceGreenhouseEnv(config, parameter_provider=FixedParameterProvider(constants))


@final
class Plant:
    """The greenhouse with named signals, from a random climate and crop under the weather from a given day.

    As in the logs, an interlock throttles the heater and opens the vents a little when it is warm.

    Args:
        start_day: day of the year, 1.0 is 1 January, 0:00; from `FIRST_DAY` to 328.
        seed: of the initial climate and crop.

    Attributes:
        now: per observation signal [1], the present value.
        taken: per action signal [1], the applied control of the last step, which may differ from the requested one;
            empty before the first step.

    Raises:
        MissingExtraError: lettuce-greenhouse-gym is not installed.
    """

    def __init__(self, *, start_day: float, seed: int) -> None:
        self._env = make_greenhouse()
        self._env.reset(seed=0, options={"start_day": start_day})
        start = random_state(np.random.default_rng(seed))
        self.now = self._named(self._env.restore(replace(self._env.snapshot(), x=start)))
        self.taken: dict[str, NDArray[np.float32]] = {}

    def weather(self, num_steps: int) -> dict[str, NDArray[np.float32]]:
        """Per exogenous signal [num_steps, 1] the weather of the next steps: an exact forecast."""
        return columns(self._env.weather_forecast(num_steps).T, Role.EXOGENOUS)

    def step(self, controls: Arrays) -> dict[str, NDArray[np.float32]]:
        """The observation half an hour later.

        Args:
            controls: per action signal [1], within its bounds.

        Raises:
            InputError: a control is missing, or the five days are over.
        """
        missing = [signal.name for signal in SCHEMA.actions if signal.name not in controls]
        if missing or self._env.snapshot().step_index >= NUM_STEPS:
            problem = f"{missing[0]!r} is missing." if missing else f"{NUM_STEPS} steps are over. Make a new Plant."
            raise InputError(problem)
        requested = np.concatenate([np.asarray(controls[signal.name], float) for signal in SCHEMA.actions])
        allowed = interlocked(
            np.clip(requested, 0, MAX_CONTROLS), air_temperature=float(self.now["air_temperature"][0])
        )
        self.now = self._named(self._env.step(self._env.encode_control(allowed))[0])
        self.taken = _row(columns(self._env.control[None], Role.ACTION))
        return self.now

    def _named(self, observation: Floats) -> dict[str, NDArray[np.float32]]:
        observables = observation[dict(self._env.observation_layout)["observables"]]
        return _row(columns(observables[None], Role.OBSERVATION))


def _block(day: float) -> int:
    return int((day - FIRST_DAY) // BLOCK_DAYS)


def interlocked(controls: Floats, air_temperature: float) -> Floats:
    """Controls [3] with the heater throttled and the vents ajar when it is warm [degC].

    Real greenhouses have this interlock. Without it 5 % of the log is at 40 degC, where the simulation clamps the
    temperature and its integrator drives CO2 to zero.
    """
    warmth = np.clip((air_temperature - 22) / 8, 0, 1)
    co2_supply, ventilation, heating = controls
    return np.array([co2_supply, max(ventilation, warmth * MAX_CONTROLS[1] / 3), heating * (1 - warmth)])


def columns(table: Floats, role: Role) -> dict[str, NDArray[np.float32]]:
    """Each column of a table [T, signals of this role] by its name."""
    return {s.name: table[:, [i]].astype(np.float32) for i, s in enumerate(SCHEMA.of(role))}


def _row(table: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The only row of each column."""
    return {name: value[0] for name, value in table.items()}


def random_state(generator: np.random.Generator) -> NDArray[np.float64]:
    """Random dry weight [kg/m2], CO2 [kg/m3], temperature [degC] and vapour [kg/m3]."""
    from lettuce_greenhouse_gym import units

    convert: Any = units  # the package has no types for these functions
    temperature = generator.uniform(8, 30)
    dry_weight = np.exp(generator.uniform(np.log(0.003), np.log(0.4)))
    co2 = convert.co2_ppm_to_density(temperature, generator.uniform(350, 1800))
    vapour = convert.rh_to_vapour_density(temperature, generator.uniform(45, 95))
    return np.array([dry_weight, co2, temperature, vapour])
