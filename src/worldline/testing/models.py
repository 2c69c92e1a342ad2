"""Clauses on `WorldModel` (`models/base.py`); those that engines share are in `rollouts.py`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.episode import Arrays
from worldline.errors import InputError
from worldline.models.base import Belief, Inputs, Window, WorldModel
from worldline.testing.clauses import Case, Clause, TwoOrMore, clause
from worldline.testing.comparing import difference, equal, has_shape, holds, map_arrays, unchanged
from worldline.testing.log_edits import hide, some_hidden
from worldline.testing.rollouts import with_step


@dataclass(frozen=True, kw_only=True)
class ModelCase(Case):
    """A model and the data on which it is checked.

    Args:
        model: the model; never changed, because the clauses use a copy, in evaluation mode except for the loss.
        window: fully observed; at least 2 entries, 3 observations, and varying past actions.
        horizon: T, predicted steps, at least 2.
        num_candidates: N, at least 2.
        expect_action_effect: False for a model that ignores actions by design, or before its training.
        tolerance: largest relative difference between two float results that must be equal.
        seed: of all draws.
    """

    kind: ClassVar[str] = "model"

    model: WorldModel
    window: Window
    horizon: TwoOrMore = 4
    num_candidates: TwoOrMore = 3
    expect_action_effect: bool = True
    tolerance: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        past = self.window.past.actions
        if past.shape[0] < 2 or past.shape[2] < 2 or bool((past == past[:1, :1, :1]).all()):
            raise InputError(
                f"the window has past actions of shape {tuple(past.shape)}. The check needs at least 2 entries, "
                "3 observations, and actions that vary. Give a larger window."
            )

    @property
    def batch(self) -> int:
        """B."""
        return self.window.past.actions.shape[0]

    @property
    def context(self) -> int:
        """H."""
        return self.window.past.actions.shape[2] + 1

    def prepared(self) -> ModelCase:
        """The case with a copy of the model in evaluation mode."""
        return replace(self, model=copy.deepcopy(self.model).eval())

    def ready(self) -> tuple[Window, Belief, Inputs]:
        """The window, the belief after it, and candidates."""
        return self.window, self.observe(self.window), self.future()

    def split(self, history: Window) -> tuple[Window, Window]:
        """All but the last step of the window, and the last one."""
        return history.first(self.context - 1), history.step(self.context - 1)

    def generator(self, offset: int = 0) -> torch.Generator:
        """A new generator; equal offsets give equal draws."""
        return torch.Generator(self.window.past.actions.device).manual_seed(self.seed + offset)

    def future(self, offset: int = 1) -> Inputs:
        """N candidates of steps that are drawn from the window."""
        past, draws, shape = self.window.past, self.generator(offset), (self.batch, self.num_candidates, self.horizon)

        def drawn(rows: Tensor, size: tuple[int, ...]) -> Tensor:
            return rows[torch.randint(len(rows), size, generator=draws, device=rows.device)]

        steps = (self.batch, self.horizon)
        return Inputs(
            actions=drawn(past.actions.flatten(0, 2), shape),
            exogenous=None if past.exogenous is None else drawn(past.exogenous.flatten(0, 1), steps),
            step_s=drawn(past.step_s.flatten(0, 1), steps),
        )

    def observe(self, history: Window, belief: Belief | None = None) -> Belief:
        """The belief after a window, or a belief after one more step."""
        if belief is None:
            return self.model.encode(history, generator=self.generator())
        return self.model.update(belief, history, generator=self.generator())

    def roll(self, belief: Belief, inputs: Inputs) -> Float[Tensor, "B N S T D"]:
        """The predicted features."""
        return self.model.rollout(belief, inputs, generator=self.generator()).features

    def pick(self, inputs: Inputs, index: slice | list[int]) -> Inputs:
        """The candidates with these indices, in this order."""
        return replace(inputs, actions=inputs.actions[:, index])

    def moves(self) -> tuple[Tensor, Tensor]:
        """The actions of two draws of candidates."""
        return self.future().actions, self.future(2).actions

    def last(self, actions: Tensor) -> Tensor:
        """The last features [B, N, S, D]."""
        _, belief, inputs = self.ready()
        return self.roll(belief, replace(inputs, actions=actions))[..., -1, :]

    def spliced(self, step: int) -> Arrays:
        """The features [B, T, ...], with other inputs from `step` on."""
        (_, belief, mixed), others = self.ready(), self.future(2)
        mixed.actions[:, :, step:], mixed.step_s[:, step:] = others.actions[:, :, step:], others.step_s[:, step:]
        if mixed.exogenous is not None and others.exogenous is not None:
            mixed.exogenous[:, step:] = others.exogenous[:, step:]
        return {"features": self.roll(belief, mixed).movedim(3, 1).numpy(force=True)}

    def state(self) -> Mapping[str, Tensor]:
        """The weights."""
        return dict(self.model.state_dict())


def _clause(look: str) -> Callable[[Callable[[ModelCase], None]], Clause]:
    """A clause that is checked without gradients."""
    return lambda check: clause("model", look)(torch.no_grad()(check))


@_clause("encode and rollout; Belief.features is [B, S, D], LatentRollout.features is [B, N, S, T, D]")
def shapes(case: ModelCase) -> None:
    """Features of beliefs [B, S, D] and rollouts [B, N, S, T, D] are finite, also after one observation or step."""
    for length in (1, case.context):
        features = case.observe(case.window.first(length)).features()
        problem = f"features have shape {tuple(features.shape)}, expected [{case.batch}, S, D], for H = {length}"
        holds(features.ndim == 3 and features.shape[0] == case.batch, problem)
        holds(features.isfinite(), f"features are not finite, for H = {length}")
    _, belief, inputs = case.ready()
    for num, horizon in ((case.num_candidates, case.horizon), (1, 1)):
        some = case.pick(inputs.steps(slice(horizon)), slice(num))
        rolled = case.model.rollout(belief, some, generator=case.generator())
        samples, size = belief.features().shape[1:]
        has_shape("features", rolled.features, (case.batch, num, samples, horizon, size))
        has_shape("final.features()", rolled.final.features(), (case.batch * num, samples, size))


@_clause("WorldModel.update; folded over a window it equals encode")
def update_equals_encode(case: ModelCase) -> None:
    """Folding `update` over the window gives the belief of `encode`, after every step."""
    generator, future = case.generator(), case.future()
    folded = case.model.encode(case.window.first(1), generator=generator)
    for step in range(1, case.context):
        folded = case.model.update(folded, case.window.step(step), generator=generator)
        encoded = case.observe(case.window.first(step + 1))
        problem = f"after observation {step} the folded belief differs from the encoded one"
        case.equal(folded.features(), encoded.features(), problem)
        case.equal(case.roll(folded, future), case.roll(encoded, future), f"{problem}: their rollouts")


@_clause("LatentRollout.final; after the last input, batch B*N with B outermost")
def rollout_final(case: ModelCase) -> None:
    """`final` is the last predicted state, and continuing from it equals one long rollout (if nothing is drawn)."""
    _, belief, inputs = case.ready()
    rolled = case.model.rollout(belief, inputs, generator=case.generator())
    case.equal(rolled.final.features(), rolled.features[..., -1, :].flatten(0, 1), "final is not the last state")
    again = case.model.rollout(belief, inputs, generator=case.generator(1)).features
    if difference(rolled.features, again) > 0:  # the two halves of a stochastic model draw other noise
        return
    half, num = case.horizon // 2, case.num_candidates
    first = case.model.rollout(belief, inputs.steps(slice(half)), generator=case.generator())
    # Each of the B*N candidates becomes an entry with one candidate, B outermost.
    rest = map_arrays(inputs.steps(slice(half, None)), lambda value: value.repeat_interleave(num, 0))
    rest = replace(rest, actions=inputs.actions[:, :, half:].flatten(0, 1).unsqueeze(1))
    whole = rolled.features[..., half:, :]
    problem = "continuing from final differs from one long rollout"
    case.equal(case.roll(first.final, rest).reshape(whole.shape), whole, problem)


@_clause("Belief.select and WorldModel.belief; the chosen entries in this order, the given features")
def beliefs_kept(case: ModelCase) -> None:
    """`select` picks entries and nothing else; `belief` keeps the given features, and its rollout is finite."""
    _, belief, inputs = case.ready()
    chosen = torch.tensor([*reversed(range(case.batch)), 0], device=inputs.actions.device)
    selected = belief.select(chosen).features()
    case.equal(selected, belief.features()[chosen], "select does not return the chosen entries")
    features = belief.features().mean(1)
    stored = case.model.belief(features)
    case.equal(stored.features().mean(1), features, "the belief has other features")
    holds(case.roll(stored, inputs).isfinite(), "the rollout from the belief is not finite")


@_clause("Window.observed; values where it is False, NaN too, have no effect")
def masks_hide(case: ModelCase) -> None:
    """Unobserved values, NaN too, change neither the beliefs nor the loss nor the normaliser."""
    start, device = case.observe(case.window.first(1)), case.window.past.actions.device
    some = torch.from_numpy(some_hidden(case.batch, case.context)).to(device)
    everything = torch.ones_like(some)

    def results(values: str) -> dict[str, Any]:
        window, step = hide(case.window, some, values), hide(case.window, everything, values).step(1)
        terms = case.model.loss(window, generator=case.generator()).terms
        beliefs = {"encode": case.observe(window), "update": case.observe(step, start)}
        fitted = case.prepared().model
        fitted.fit_normaliser(window)
        return {**{name: belief.features() for name, belief in beliefs.items()}, **terms, **fitted.state_dict()}

    finite = all(bool(value.isfinite().all()) for value in case.ignores_masked(results, "results").values())
    holds(finite, "a belief, a loss or the fitted normaliser is not finite")


@_clause("WorldModel.rollout; input k must act on features[..., k, :]")
def actions_matter(case: ModelCase) -> None:
    """Each input changes the features of its step: none is ignored, none acts a step late."""
    (_, belief, inputs), others = case.ready(), case.future(2).actions
    before = case.roll(belief, inputs)
    for step in range(case.horizon) if case.expect_action_effect else ():
        after = case.roll(belief, replace(inputs, actions=with_step(inputs.actions, others, step)))
        moved = difference(before[..., step, :], after[..., step, :])
        holds(moved > 1e-7, f"a change of action {step} does not change features[..., {step}, :] (only by {moved:.3g})")


@clause("model", "WorldModel.loss; finite scalar terms with weights, gradients for all parameters")
def loss_terms(case: ModelCase) -> None:
    """The loss has finite scalar terms with weights, and gradients for all trainable parameters.

    A model in closed form has none.
    """
    model = case.model.train()
    model.zero_grad(set_to_none=True)
    state = copy.deepcopy(model.state_dict())
    losses = model.loss(case.window, generator=case.generator())
    names = f"terms {sorted(losses.terms)}, but weights {sorted(losses.weights)}"
    holds(bool(losses.terms) and set(losses.terms) == set(losses.weights), f"the loss has {names}")
    for name, term in losses.terms.items():
        has_shape(f"term {name!r}", term, ())
        holds(math.isfinite(losses.weights[name]), f"the weight of {name!r} is {losses.weights[name]}")
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if model.closed_form:
        holds(not trainable, f"closed_form is True, but {', '.join(trainable)} can be trained; use buffers")
    else:
        losses.total.backward()
        unreached = sorted(name for name, p in trainable.items() if p.grad is None)
        holds(not unreached, f"no gradient reaches {', '.join(unreached)}; freeze parameters that are not trained")
        every: Any = torch.cat([p.grad.flatten() for p in trainable.values() if p.grad is not None])
        holds(bool(every.isfinite().all() and every.any()), "a gradient is not finite, or all are 0")
    model.load_state_dict(state)
    with unchanged(case.window):
        again = model.loss(case.window, generator=case.generator())
    equal(again.total, losses.total, "equal seeds gave different losses in training mode", within=1e-6)
