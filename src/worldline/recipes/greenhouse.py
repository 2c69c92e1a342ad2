"""Logs and recipe of a lettuce greenhouse under real weather: `python benchmarks/greenhouse.py`.

The logs come from lettuce-greenhouse-gym with exploration policies. The benchmark uses three training seeds and
held-out weather. At 1, 6 and 24 hours, the error of all four signals is 86 to 93 % below a linear autoregression with
the same inputs. That baseline itself beats persistence. Training takes about 30 s on one core.

Climate and crop follow van Henten (2003). The weather was measured every five minutes in Bleiswijk in 2014.
Observations are dry weight, CO2, temperature and humidity. Other parts of the environment's observation are left out:
previous controls would reveal the action, and progress is not physical. Its weather becomes the exogenous signals: row
t is the weather during step t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.episode import Arrays, Episode
from worldline.errors import DataError, InputError, MissingExtraError
from worldline.progress import OnProgress, tell
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
NUM_BLOCKS: Final = 53
"""Number of blocks in the weather data, which end on 29 November. An episode lies within one block."""
PARTS: Final = ("train", "train", "calibration", "train", "validation", "train", "held_out", "train")
"""The parts of the split to which blocks are assigned in turn."""
MAX_HOLD: Final = 24
"""Largest number of steps without a change of a control: half a day."""
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
    """The recipe for vectors with a split by date, for a store of `record_greenhouse`."""
    return replace(vectors(store), name="greenhouse", split=greenhouse_split)


def record_greenhouse(
    destination: Path | str,
    *,
    num_episodes: int,
    seed: int,
    changed: Mapping[str, float] | None = None,
    progress: OnProgress | None = None,
) -> Store:
    """A new store with episodes of five days in steps of half an hour, spread evenly over the year's weather.

    Each episode uses one of three policies: a random walk of levels, random jumps, or a grower's rules with random
    setpoints and interventions. Episodes begin at any hour, with any climate, and with any crop from seedling to beyond
    harvest. Their source holds `start_day` (day of the year, 1.0 is 1 January, 0:00) and `policy`. They have no seed,
    because a reset of the environment does not reproduce them.

    Args:
        destination: a new folder.
        num_episodes: at least 1. The first 8 cover every part of `greenhouse_split` in the right proportion.
        seed: determines all draws. An episode depends on the seed and its number only.
        changed: as in `make_greenhouse`.
        progress: called after each recorded episode.

    Raises:
        MissingExtraError: lettuce-greenhouse-gym is not installed.
        InputError: `num_episodes` is not positive, or the destination exists.
    """
    if num_episodes < 1:
        raise InputError(f"num_episodes is {num_episodes}. It must be at least 1.")
    env = make_greenhouse(changed)
    store = Store.create(destination, SCHEMA)
    for number in range(num_episodes):
        generator = np.random.default_rng([seed, number])
        start_day = _start_day(seed, number) + generator.uniform(0, BLOCK_DAYS - EPISODE_DAYS)
        name, policy = list(_POLICIES.items())[int(generator.integers(len(_POLICIES)))]
        episode = _run(env, policy(env, generator), start_day, generator)
        store.append(episode, {"number": number, "start_day": start_day, "policy": name})
        tell(progress, "record", number + 1, num_episodes)
    return store


def greenhouse_split(store: Store) -> Split:
    """A split by date: no hour of weather is in two parts, and every part covers all seasons.

    The year is cut into blocks of six days. Of each eight blocks, five are for training and one each is for
    calibration, validation and the held-out set.

    Args:
        store: from `record_greenhouse`.

    Raises:
        DataError: an episode has no start day or crosses from one block to the next, or a part has no episode.
    """
    parts: dict[str, list[int]] = {name: [] for name in PARTS}
    for number, entry in enumerate(store.entries()):
        day = entry.source.get("start_day")
        last = 0.0 if not isinstance(day, float) else day + (entry.num_steps - 1) * STEP_S / 86400
        if not isinstance(day, float) or _block(day) != _block(last):
            problem = f"start_day is {day}, and the episode does not lie within one block of {BLOCK_DAYS:g} days"
            fix = "Split stores from record_greenhouse only, or use worldline.data.splits.split."
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
        start = _random_state(np.random.default_rng(seed))
        self.now = self._named(self._env.restore(replace(self._env.snapshot(), x=start)))
        self.taken: dict[str, NDArray[np.float32]] = {}

    def weather(self, num_steps: int) -> dict[str, NDArray[np.float32]]:
        """Per exogenous signal [num_steps, 1] the weather of the next steps: an exact forecast."""
        return _columns(self._env.weather_forecast(num_steps).T, Role.EXOGENOUS)

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
        allowed = _safe(np.clip(requested, 0, MAX_CONTROLS), air_temperature=float(self.now["air_temperature"][0]))
        self.now = self._named(self._env.step(self._env.encode_control(allowed))[0])
        self.taken = _row(_columns(self._env.control[None], Role.ACTION))
        return self.now

    def _named(self, observation: Floats) -> dict[str, NDArray[np.float32]]:
        observables = observation[dict(self._env.observation_layout)["observables"]]
        return _row(_columns(observables[None], Role.OBSERVATION))


def _block(day: float) -> int:
    return int((day - FIRST_DAY) // BLOCK_DAYS)


def _start_day(seed: int, number: int) -> float:
    """First day of an episode's block: parts in turn, and the blocks of a part in random order."""
    turn, part = divmod(number, len(PARTS))
    blocks = np.random.default_rng([seed, part, len(PARTS)]).permutation(np.arange(part, NUM_BLOCKS, len(PARTS)))
    return FIRST_DAY + BLOCK_DAYS * float(blocks[turn % len(blocks)])


def _run(
    env: Greenhouse, policy: Callable[[Floats], Floats], start_day: float, generator: np.random.Generator
) -> Episode:
    """An episode from a random state; `policy` maps the observation to physical controls [3]."""
    env.reset(seed=0, options={"start_day": start_day})
    raw = [env.restore(replace(env.snapshot(), x=_random_state(generator)))]
    controls = []
    for _ in range(NUM_STEPS):
        requested = _safe(np.clip(policy(raw[-1]), 0, MAX_CONTROLS), air_temperature=float(raw[-1][2]))
        raw.append(env.step(env.encode_control(requested))[0])
        controls.append(env.control)
    layout = dict(env.observation_layout)
    observations, weather = np.array(raw)[:, layout["observables"]], np.array(raw)[:-1, layout["weather"]]
    return Episode(
        observations=_columns(observations, Role.OBSERVATION),
        actions=_columns(np.array(controls), Role.ACTION),
        exogenous=_columns(weather, Role.EXOGENOUS),  # the observation before step t holds the weather during step t
        truncated=True,
    )


def _safe(controls: Floats, air_temperature: float) -> Floats:
    """Controls [3] with the heater throttled and the vents ajar when it is warm [degC].

    Real greenhouses have this interlock. Without it 5 % of the log is at 40 degC, where the simulation clamps the
    temperature and its integrator drives CO2 to zero.
    """
    warmth = np.clip((air_temperature - 22) / 8, 0, 1)
    co2_supply, ventilation, heating = controls
    return np.array([co2_supply, max(ventilation, warmth * MAX_CONTROLS[1] / 3), heating * (1 - warmth)])


def _columns(table: Floats, role: Role) -> dict[str, NDArray[np.float32]]:
    return {s.name: table[:, [i]].astype(np.float32) for i, s in enumerate(SCHEMA.of(role))}


def _row(table: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The only row of each column."""
    return {name: value[0] for name, value in table.items()}


def _random_state(generator: np.random.Generator) -> NDArray[np.float64]:
    """Random dry weight [kg/m2], CO2 [kg/m3], temperature [degC] and vapour [kg/m3]."""
    from lettuce_greenhouse_gym import units

    convert: Any = units  # the package has no types for these functions
    temperature = generator.uniform(8, 30)
    dry_weight = np.exp(generator.uniform(np.log(0.003), np.log(0.4)))
    co2 = convert.co2_ppm_to_density(temperature, generator.uniform(350, 1800))
    vapour = convert.rh_to_vapour_density(temperature, generator.uniform(45, 95))
    return np.array([dry_weight, co2, temperature, vapour])


class _Holds:
    """Draws how long each of the three controls is held before it may change."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator, self._left = generator, np.zeros(3, int)

    def expired(self) -> NDArray[np.bool_]:
        over = self._left <= 0
        self._left = np.where(over, self._generator.integers(1, MAX_HOLD + 1, 3), self._left) - 1
        return over


def _any_level(generator: np.random.Generator) -> Floats:
    """Random controls [3]: sometimes off or full, otherwise small values more often than large ones."""
    share = generator.random(3) ** np.array([2.0, 2.0, 1.0])  # vents and CO2 valve are mostly nearly closed
    ends = generator.random(3) < 0.2
    return np.asarray(np.where(ends, generator.integers(0, 2, 3), share) * MAX_CONTROLS)


def _wandering(_: Greenhouse, generator: np.random.Generator) -> Callable[[Floats], Floats]:
    level, holds = _any_level(generator), _Holds(generator)

    def act(_: Floats) -> Floats:
        nonlocal level
        step = level + generator.normal(0, 0.2, 3) * MAX_CONTROLS
        reflected = MAX_CONTROLS - np.abs(MAX_CONTROLS - np.abs(step))
        level = np.where(holds.expired(), reflected, level)
        return level

    return act


def _jumping(_: Greenhouse, generator: np.random.Generator) -> Callable[[Floats], Floats]:
    level, holds = _any_level(generator), _Holds(generator)

    def act(_: Floats) -> Floats:
        nonlocal level
        level = np.where(holds.expired(), _any_level(generator), level)
        return level

    return act


def _growing(env: Greenhouse, generator: np.random.Generator) -> Callable[[Floats], Floats]:
    from lettuce_greenhouse_gym.baselines.heuristic import GrowerHeuristic, GrowerRules

    draw = generator.uniform
    night = draw(6, 18)
    rules = GrowerRules(temp_day=night + draw(0, 8), temp_night=night, rh_max=draw(65, 95), co2_target=draw(400, 1500))
    grower = GrowerHeuristic(rules)
    grower.reset(env)
    holds, randomized, level = _Holds(generator), np.zeros(3, bool), np.zeros(3)

    def act(observation: Floats) -> Floats:
        nonlocal randomized, level
        change = holds.expired()
        randomized = np.where(change, generator.random(3) < 0.25, randomized)
        level = np.where(change, _any_level(generator), level)
        noise = generator.normal(0, 0.05, 3) * MAX_CONTROLS
        return np.where(randomized, level, grower.control(observation.astype(np.float32), env) + noise)

    return act


_POLICIES: Final[dict[str, Callable[[Any, np.random.Generator], Callable[[Floats], Floats]]]] = {
    "wandering": _wandering,
    "jumping": _jumping,
    "grower": _growing,
}
