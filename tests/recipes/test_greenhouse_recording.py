from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from greenhouse_logs import record_greenhouse
from greenhouse_plant import SCHEMA, Plant, greenhouse_split, make_greenhouse

from worldline.data.store import Store
from worldline.errors import DataError, InputError
from worldline.schema import Role

package = pytest.importorskip("lettuce_greenhouse_gym")


def table(episode, role):
    arrays = {Role.OBSERVATION: episode.observations, Role.ACTION: episode.actions, Role.EXOGENOUS: episode.exogenous}
    return np.concatenate([arrays[role][signal.name] for signal in SCHEMA.of(role)], 1).astype(float)


def state_of(dry_weight, co2, temperature, humidity):
    """The model's state, from what is observed."""
    density = package.units.co2_ppm_to_density(temperature, co2)
    return [dry_weight, density, temperature, package.units.rh_to_vapour_density(temperature, humidity)]


def test_units_and_bounds_are_those_of_the_environment():
    groups = {Role.OBSERVATION: package.OBSERVABLE, Role.ACTION: package.CONTROL, Role.EXOGENOUS: package.EXOGENOUS}
    for role, group in groups.items():
        assert tuple(signal.unit for signal in SCHEMA.of(role)) == group.units
        for signal, low, high in zip(SCHEMA.of(role), *group.bounds(), strict=True):
            assert (signal.low or (-np.inf,)) == (low,)
            assert (signal.high or (np.inf,)) == (high,)
    assert SCHEMA.step_s == make_greenhouse().config.dt
    assert not any("progress" in signal.name or "previous" in signal.name for signal in SCHEMA.signals)


def test_row_t_of_inputs_is_what_acts_in_step_t(store):
    """The model's equation, fed with the log, gives the next row of the log; shifted by one it does not."""
    env = make_greenhouse()
    env.reset(seed=0)
    constants = env.parameters.to_array()
    errors = {shift: [] for shift in (-1, 0, 1)}
    for number in range(0, 16, 4):
        episode = store.episode(number)
        seen, taken, weather = (table(episode, role) for role in (Role.OBSERVATION, Role.ACTION, Role.EXOGENOUS))
        for t in range(1, episode.num_steps - 1, 7):
            state = np.array(state_of(*seen[t]))
            for shift, found in errors.items():
                after = env.integrator(state, taken[t], weather[t + shift], constants)
                found.append(np.abs(np.asarray(env.measurement(after)).ravel() - seen[t + 1]))
    scale = np.array([1e-6, 0.5, 1e-3, 0.02])  # float32 of the log, and humidity being capped
    mean = {shift: np.median(found, axis=0) for shift, found in errors.items()}
    assert (mean[0] < scale).all()
    for shift in (-1, 1):
        assert mean[shift][2] > 20 * mean[0][2]


def test_no_hour_of_weather_is_in_two_parts(store):
    parts = dataclasses.asdict(greenhouse_split(store))
    assert parts.pop("rule") == "by date, in blocks of 6 days"
    assert sorted(number for part in parts.values() for number in part) == list(range(16))
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 10, "validation": 2, "calibration": 2, "held_out": 2,
    }  # fmt: skip
    hours = {}
    for name, part in parts.items():
        for number in part:
            first = store.entry(number).source["start_day"] * 48
            hours |= {hour: hours.get(hour, set()) | {name} for hour in range(int(first), int(first + 240) + 1)}
    assert all(len(names) == 1 for names in hours.values())


def test_what_cannot_be_split_by_date_is_refused(tmp_path, store):
    few = Store.create(tmp_path / "few", SCHEMA)
    few.append(store.episode(0), store.entry(0).source)
    with pytest.raises(DataError, match="leave nothing for: calibration, validation, held_out"):
        greenhouse_split(few)
    few.append(store.episode(1), {"start_day": 14.5})
    with pytest.raises(DataError, match=r"episode 1: .*14\.5.*one block"):
        greenhouse_split(few)
    few.append(store.episode(1))
    with pytest.raises(DataError, match="one block"):
        greenhouse_split(few)
    with pytest.raises(InputError, match="num_episodes is 0"):
        record_greenhouse(tmp_path / "none", num_episodes=0, seed=0)


def test_a_warm_plant_throttles_its_heater_and_an_old_one_ends():
    plant = Plant(start_day=180.0, seed=0)
    full = {signal.name: np.array(signal.high) for signal in SCHEMA.actions}
    shut = {**full, "ventilation": np.zeros(1)}
    for _ in range(240):
        plant.step(shut)
    assert plant.now["air_temperature"] > 25
    assert plant.taken["heating"] < 100
    assert plant.taken["ventilation"] > 0
    with pytest.raises(InputError, match="240 steps are over"):
        plant.step(full)
    with pytest.raises(InputError, match="'ventilation' is missing"):
        Plant(start_day=180.0, seed=0).step({"co2_supply": np.zeros(1), "heating": np.zeros(1)})
