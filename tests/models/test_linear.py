from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from worldline.models.base import Inputs, Window
from worldline.models.linear import LinearConfig, LinearModel, choose_lags
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_model

LEVEL = Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
VALVE = Signal(name="valve", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,))
SCHEMA = Schema(signals=(LEVEL, VALVE))
BASE = LinearConfig(inputs=("level",), history=12)
DELAY = 6


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def window(levels: Tensor, valve: Tensor, observed: Tensor | None = None) -> Window:
    """Levels [B, H] and valve positions [B, T]."""
    batch, steps = valve.shape
    seen = torch.ones_like(levels, dtype=torch.bool) if observed is None else observed
    past = Inputs(actions=valve[:, None, :, None], exogenous=None, step_s=torch.ones(batch, steps))
    return Window(observations={"level": levels[..., None]}, observed={"level": seen}, past=past)


def delayed(batch: int, steps: int, seed: int = 0) -> Window:
    """A damped oscillation, moved by the valve positions of some steps before, from the third step on."""
    valve, levels = noise(batch, steps, seed=seed), list(noise(2, batch, seed=seed + 1))
    for step in range(1, steps):
        moved = valve[:, step - DELAY] if step >= DELAY else 0.0
        levels.append(1.6 * levels[-1] - 0.8 * levels[-2] + 0.3 * moved + 2.0)
    return window(torch.stack(levels, 1), valve)


def hidden(batch: int, steps: int, seed: int = 0, leak: float = 0.0) -> Window:
    """The position of a pushed spring with a damper; the speed is not measured, and the leak not logged."""
    valve, levels = noise(batch, steps, seed=seed).repeat_interleave(5, 1)[:, :steps], list[Tensor]()
    place, speed = noise(2, batch, seed=seed + 1)
    for step in range(steps + 1):
        levels.append(place)
        if step < steps:
            speed = 0.9 * speed - 0.1 * place + 0.1 * (valve[:, step] + leak)
            place = place + speed
    return window(torch.stack(levels, 1) + 0.02 * noise(batch, steps + 1, seed=seed + 2), valve)


def fitted(config: LinearConfig, logs: Window) -> LinearModel:
    model = LinearModel(schema=SCHEMA, config=config)
    model.fit_normaliser(logs)
    return model.eval()


def open_loop(model: LinearModel, logs: Window, at: int) -> Tensor:
    """Predicted levels after observation `at`, physical units."""
    generator = torch.Generator()
    belief = model.encode(logs.first(at), generator=generator)
    path = model.rollout(belief, logs.past.steps(slice(at - 1, None)), generator=generator)
    return model.codes.normalisers[0].inverse(path.features[:, 0, 0, :, :1])[..., 0]


def error(model: LinearModel, logs: Window, at: int) -> float:
    miss = open_loop(model, logs, at) - logs.observations["level"][:, at:, 0]
    return float(miss.square().mean().sqrt())


def test_a_noise_free_plant_with_dead_time_is_exact_in_open_loop() -> None:
    logs = delayed(60, 99)
    config = choose_lags(SCHEMA, BASE, logs)
    assert DELAY < config.history <= BASE.history  # the valve positions of the dead time are among the lags
    fresh = delayed(8, 63, seed=7)
    spread = float(fresh.observations["level"].std())
    assert error(fitted(config, logs), fresh, 16) < 1e-4 * spread
    assert error(fitted(replace(BASE, history=3), logs), fresh, 16) > 0.1 * spread


def test_a_hidden_state_is_predicted_from_more_than_one_step() -> None:
    logs, fresh = hidden(60, 99), hidden(60, 99, seed=7)
    config = choose_lags(SCHEMA, BASE, logs)
    assert config.history >= 5  # the noise hides the speed in fewer
    errors = {history: error(fitted(replace(BASE, history=history), logs), fresh, 24) for history in (1, 2)}
    chosen = error(fitted(config, logs), fresh, 24)
    assert chosen < 0.7 * errors[2] < 0.7 * errors[1]


def test_a_short_history_has_a_fit_of_its_own_and_a_long_one_is_as_good() -> None:
    model, fresh = fitted(replace(BASE, history=8), hidden(60, 99)), hidden(200, 99, seed=7)
    least = {at: error(model, fresh.first(at + 20), at) for at in (1, 2, 4, 8, 60)}
    assert least[1] > least[2] > least[4] > least[8]
    single = fitted(replace(BASE, history=1), hidden(60, 99))
    torch.testing.assert_close(open_loop(model, fresh.first(2), 1), open_loop(single, fresh.first(2), 1))
    last = window(fresh.observations["level"][:, 52:80, 0], fresh.past.actions[:, 0, 52:79, 0])
    torch.testing.assert_close(open_loop(model, fresh.first(80), 60), open_loop(model, last, 8))


def test_gaps_are_filled_by_predictions() -> None:
    """An exact model knows the unobserved levels, whatever values the gaps hold."""
    model, fresh = fitted(replace(BASE, history=8), delayed(60, 99)), delayed(8, 63, seed=7)
    observed = torch.ones(8, 64, dtype=torch.bool)
    observed[:, 12:30] = False
    levels = fresh.observations["level"][..., 0]
    gapped = window(levels.where(observed, torch.nan), fresh.past.actions[:, 0, :, 0], observed)
    torch.testing.assert_close(open_loop(model, gapped, 30), levels[:, 30:], rtol=1e-3, atol=1e-3)
    generator = torch.Generator()
    belief = model.encode(gapped.first(1), generator=generator)
    for step in range(31):
        belief = model.update(belief, gapped.step(step + 1), generator=generator)
    torch.testing.assert_close(belief.features(), model.encode(gapped.first(32), generator=generator).features())


def test_many_gaps_leave_a_fit() -> None:
    """A tenth of the levels is missing, so that hardly any stretch of the history is complete."""
    logs, fresh = hidden(60, 99), hidden(60, 99, seed=7)
    observed = torch.rand(60, 100, generator=torch.Generator().manual_seed(0)) > 0.1
    gapped = window(logs.observations["level"][..., 0], logs.past.actions[:, 0, :, 0], observed)
    config = choose_lags(SCHEMA, BASE, gapped)
    whole = error(fitted(choose_lags(SCHEMA, BASE, logs), logs), fresh, 24)
    assert error(fitted(config, gapped), fresh, 24) < 1.1 * whole


def test_an_offset_removes_the_bias_on_a_plant_that_differs_and_changes_nothing_otherwise() -> None:
    logs, usual = hidden(60, 99), hidden(60, 99, seed=7)
    config = choose_lags(SCHEMA, BASE, logs)
    assert config.gain > 0
    # The valve of another plant leaks: it is half a unit further open than logged.
    leaking = hidden(60, 99, seed=7, leak=0.5)
    model, without = fitted(config, logs), fitted(replace(config, gain=0.0), logs)
    assert error(model, leaking, 60) < 0.4 * error(without, leaking, 60)
    assert error(model, usual, 60) < 1.02 * error(without, usual, 60)
    torch.testing.assert_close(open_loop(model, leaking, 5), open_loop(without, leaking, 5))  # too few errors


def test_conforms_with_an_offset() -> None:
    logs = hidden(60, 99)
    model = fitted(replace(BASE, history=3, gain=0.1), logs)
    check_model(model, hidden(4, 30, seed=7, leak=0.5))
