"""The fast rollout gives what the predictor gives, window by window."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.lewm_toys import model
from tests.models.windows import seeded

from worldline.models import lewm_rollout
from worldline.models.base import Inputs
from worldline.models.lewm import LatentHistory, Lewm


def draw(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def asked(
    net: Lewm, *, batch: int, candidates: int, steps: int, past: int, seed: int = 0
) -> tuple[LatentHistory, Inputs]:
    size, outside = net.inputs.num_actions, net.inputs.size - net.inputs.num_actions
    belief = LatentHistory(
        latents=draw((batch, past + 1, 8), seed), inputs=draw((batch, past, size + outside), seed + 1)
    )
    actions = draw((batch, candidates, steps, size), seed + 2)
    exogenous = draw((batch, steps, outside), seed + 3) if outside else None
    return belief, Inputs(actions=actions, exogenous=exogenous, step_s=torch.ones(batch, steps))


def both(net: Lewm, belief: LatentHistory, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """The fast one, and window by window."""
    with torch.enable_grad():
        due = net.rollout(belief, inputs, generator=seeded()).features.detach()
    with torch.no_grad():
        return net.rollout(belief, inputs, generator=seeded()).features, due


@settings(deadline=None, max_examples=20)
@given(
    history=st.integers(1, 4), depth=st.integers(1, 3), past=st.integers(0, 3), steps=st.integers(1, 6),
    batch=st.integers(1, 3), candidates=st.integers(0, 4), at_once=st.integers(1, 5), exogenous=st.booleans(),
)  # fmt: skip
def test_it_is_the_rollout_window_by_window(
    history: int, depth: int, past: int, steps: int, batch: int, candidates: int, at_once: int, exogenous: bool
) -> None:
    net = model(history=history, predictor_depth=depth, exogenous=exogenous).eval()
    sizes = {"batch": batch, "candidates": candidates, "steps": steps, "past": min(past, history - 1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lewm_rollout, "ROWS_AT_ONCE", {"cpu": at_once})
        fast, due = both(net, *asked(net, **sizes))
    torch.testing.assert_close(fast, due, rtol=1e-4, atol=1e-5)


def test_both_ways_lead_to_the_same_belief() -> None:
    net = model().eval()
    belief, inputs = asked(net, batch=2, candidates=3, steps=2, past=1)
    with torch.no_grad():
        fast = net.rollout(belief, inputs, generator=seeded()).final
    due = net.rollout(belief, inputs, generator=seeded()).final
    assert isinstance(fast, LatentHistory)
    assert isinstance(due, LatentHistory)
    assert fast.latents.shape == (6, 3, 8)
    torch.testing.assert_close(fast.latents, due.latents, rtol=1e-4, atol=1e-5)
    assert torch.equal(fast.inputs, due.inputs)


@pytest.mark.parametrize("part", ["predictor.blocks.0.up.bias", "from_predictor.1.running_var", "predictor.position"])
def test_it_takes_weights_as_they_are_now(part: str) -> None:
    net = model().eval()
    belief, inputs = asked(net, batch=1, candidates=2, steps=4, past=0)
    before, _ = both(net, belief, inputs)
    with torch.no_grad():
        net.state_dict()[part].mul_(2)
    after, due = both(net, belief, inputs)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, due, rtol=1e-4, atol=1e-5)


def test_a_model_that_was_made_in_inference_mode_imagines_too() -> None:
    with torch.inference_mode():
        net = model().eval()
        belief, inputs = asked(net, batch=1, candidates=2, steps=4, past=1)
        fast = net.rollout(belief, inputs, generator=seeded()).features
    due, _ = both(model().eval(), *asked(model(), batch=1, candidates=2, steps=4, past=1))
    torch.testing.assert_close(fast, due)
