"""Windows of models to test with, parts of them, and a short training on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from worldline.models.base import Inputs, Window, WorldModel
from worldline.schema import Kind, Role, Schema, Signal

Model = TypeVar("Model", bound=WorldModel)
POSITION = Signal(name="position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m")
HEADING = Signal(name="heading", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="deg", period=360.0)
LAMP = Signal(name="lamp", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3)
PUSH = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="m")
WIND = Signal(name="wind", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(3,), unit="m/s")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def complete(observations: Mapping[str, Tensor], actions: Tensor, exogenous: Tensor | None = None) -> Window:
    """A window in which everything is observed, from actions [B, T, A], in steps of a second."""
    shape = next(iter(observations.values())).shape[:2]
    return Window(
        observations=observations,
        observed={name: torch.ones(shape, dtype=torch.bool) for name in observations},
        past=Inputs(actions=actions[:, None], exogenous=exogenous, step_s=torch.ones(shape[0], shape[1] - 1)),
    )


def random_window(schema: Schema, batch: int, length: int, *, seed: int = 5) -> Window:
    """What the signals of a schema may be: numbers of deviation 1, or of that of the period."""
    generator = seeded(seed)

    def drawn(signal: Signal, steps: int) -> Tensor:
        shape = (batch, steps, *signal.shape)
        if signal.kind is Kind.VECTOR:
            return (signal.period or 1.0) * torch.randn(*shape, generator=generator)
        if signal.kind is Kind.IMAGE:
            return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        return torch.randint(signal.num_values or 2, shape, generator=generator)

    def codes(signal: Signal) -> Tensor:
        values = drawn(signal, length - 1)
        if signal.kind is not Kind.DISCRETE:
            return values
        return torch.nn.functional.one_hot(values, signal.num_values or 2).float()

    observations = {signal.name: drawn(signal, length) for signal in schema.observations}
    actions = torch.cat([codes(signal) for signal in schema.actions], -1)
    return complete(
        observations, actions, torch.cat([codes(s) for s in schema.exogenous], -1) if schema.exogenous else None
    )


def cut(on: Window, steps: slice) -> Window:
    """Some observations of a window and the inputs between them."""
    first, last, _ = steps.indices(next(iter(on.observed.values())).shape[1])
    return Window(
        observations={name: value[:, steps] for name, value in on.observations.items()},
        observed={name: value[:, steps] for name, value in on.observed.items()},
        past=on.past.steps(slice(first, last - 1)),
    )


def hide(on: Window, entry: int | slice, step: int | slice, *names: str) -> Window:
    """Moments at which some signals were not observed."""
    observations, observed = dict(on.observations), dict(on.observed)
    for name in names:
        observations[name], observed[name] = observations[name].clone(), observed[name].clone()
        observed[name][entry, step] = False
        observations[name][entry, step] = torch.nan if observations[name].is_floating_point() else 0
    return replace(on, observations=observations, observed=observed)


def fit(net: Model, draw: Callable[[torch.Generator], Window], num_updates: int, *, lr: float) -> Model:
    """Trained on a new window in each update, at a rate that rises and falls."""
    generator = seeded()
    optimizer = torch.optim.AdamW(net.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=num_updates, pct_start=0.1)
    net.train()
    for _ in range(num_updates):
        optimizer.zero_grad()
        net.loss(draw(generator), generator=generator).total.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return net.eval()
