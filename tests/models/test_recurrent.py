from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models.windows import HEADING, LAMP, POSITION, PUSH, WIND, random_window, seeded

from worldline.errors import ConfigError
from worldline.models.base import Window
from worldline.models.recurrent import Recurrent, RecurrentConfig
from worldline.schema import Schema, Signal
from worldline.testing import check_model
from worldline.testing.rollouts import pick_entries


def build(*signals: Signal, **settings: Any) -> Recurrent:
    torch.manual_seed(0)
    config = RecurrentConfig(inputs=tuple(one.name for one in signals), **{"width": 16, "context": 4, **settings})
    return Recurrent(schema=Schema(signals=(*signals, PUSH, WIND)), config=config)


def window(batch: int, length: int) -> Window:
    return random_window(Schema(signals=(POSITION, HEADING, LAMP, PUSH, WIND)), batch, length)


@pytest.mark.parametrize(("signals", "settings"), [
    ((POSITION,), {"history": 1}),
    ((LAMP, HEADING, POSITION), {"history": 3, "gain": 0.1}),
    ((POSITION, HEADING), {"history": 2, "folds": True}),
])  # fmt: skip
def test_conforms(signals: tuple[Signal, ...], settings: dict[str, Any]) -> None:
    seen = window(batch=40, length=6)
    model = build(*signals, **settings)
    model.fit_normaliser(seen)
    check_model(model, seen, horizon=3, num_candidates=2)


def test_it_predicts_the_linear_forecast_before_training_and_keeps_a_state_afterwards() -> None:
    seen = window(batch=40, length=8)
    model = build(POSITION, history=2).eval()
    model.fit_normaliser(seen)
    ahead = seen.past.steps(slice(4, None))

    def path(shown: Window) -> torch.Tensor:
        return model.rollout(model.encode(shown, generator=seeded()), ahead, generator=seeded()).features

    first, other = seen.first(5), seen.first(5)
    observations = {name: value.clone() for name, value in other.observations.items()}
    observations["position"][:, 0] += 1.0  # before the history of the linear forecast
    other = replace(other, observations=observations)
    torch.testing.assert_close(path(first), path(other))
    torch.nn.init.normal_(model.layers[-1].weight)
    assert (path(first) - path(other)).abs().max() > 1e-3


def test_noise_is_no_setting_of_it() -> None:
    with pytest.raises(ConfigError, match="noise=False"):
        build(POSITION, noise=True)


def test_it_learns_to_filter_a_noisy_sensor() -> None:
    """The mean of n noisy observations of a constant errs by noise / sqrt(n); the linear forecast sees two."""
    torch.manual_seed(1)
    level = torch.randn(400, 1, 2).expand(-1, 16, -1)
    seen = window(batch=400, length=16)
    seen = replace(seen, observations={**seen.observations, "position": level + 0.5 * torch.randn(400, 16, 2)})
    model = build(POSITION, history=2, context=12, width=16)
    model.fit_normaliser(seen)

    def error() -> float:
        belief = model.encode(seen.first(12), generator=seeded())
        found = model.rollout(belief, seen.past.steps(slice(11, 12)), generator=seeded()).features
        values = model.codes.normalisers[0].inverse(found[:, 0, :, :, :2].detach()).mean(1)
        return float((values[:, 0] - level[:, 0]).square().mean().sqrt())

    before, optimizer = error(), torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for number in range(120):
        some = pick_entries(seen, torch.randint(400, (64,), generator=seeded(number)))
        optimizer.zero_grad()
        model.loss(some, generator=seeded(number)).total.backward()
        optimizer.step()
    model.eval()
    assert error() < 0.85 * before
