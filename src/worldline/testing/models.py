"""Clauses on `WorldModel` (`models/base.py`); those that engines share are in `rollouts.py`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.errors import InputError
from worldline.models.base import Adapts, Belief, Inputs, Window, WorldModel
from worldline.testing.clauses import Clause, TwoOrMore, clause
from worldline.testing.comparing import difference, equal, existing, has_shape, holds, map_arrays, unchanged
from worldline.testing.rollouts import RolloutCase, pick_entries
from worldline.testing.window_edits import hide, one_candidate_each, redraw, splice


@dataclass(frozen=True, kw_only=True)
class ModelCase(RolloutCase):
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

    def future(self, *, horizon: int | None = None, offset: int = 1) -> Inputs:
        """N candidates of steps that are drawn from the window."""
        shape = (self.batch, self.num_candidates, horizon or self.horizon)
        return redraw(self.window.past, shape, self.generator(offset))

    def hidden(self, entries: slice | Tensor, observations: slice | Tensor) -> Bool[Tensor, "B H"]:
        """True at these observations of these entries."""
        mask = torch.zeros(self.batch, self.context, dtype=torch.bool, device=self.window.past.actions.device)
        mask[entries, observations] = True
        return mask

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

    def state(self) -> Mapping[str, Tensor]:
        """The weights."""
        return dict(self.model.state_dict())


def _clause(look: str) -> Callable[[Callable[[ModelCase], None]], Clause]:
    """A clause that is checked without gradients."""
    return lambda check: clause("model", look)(torch.no_grad()(check))


@_clause("WorldModel.encode; Belief.features is [B, S, D]")
def encode_shapes(case: ModelCase) -> None:
    """`encode` returns finite features [B, S, D], also for a window of one observation."""
    for length in (1, case.context):
        features = case.observe(case.window.first(length)).features()
        problem = f"features have shape {tuple(features.shape)}, expected [{case.batch}, S, D], for H = {length}"
        holds(features.ndim == 3 and features.shape[0] == case.batch, problem)
        holds(features.isfinite(), f"features are not finite, for H = {length}")


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


@_clause("WorldModel.rollout; LatentRollout.features is [B, N, S, T, D]")
def rollout_shapes(case: ModelCase) -> None:
    """`rollout` returns finite features [B, N, S, T, D], with S and D of the belief, for one step too."""
    _, belief, _ = case.ready()
    _, samples, size = belief.features().shape
    for num, horizon in ((case.num_candidates, case.horizon), (1, 1)):
        inputs = case.pick(case.future(horizon=horizon), slice(num))
        rolled = case.model.rollout(belief, inputs, generator=case.generator())
        has_shape("features", rolled.features, (case.batch, num, samples, horizon, size))
        has_shape("final.features()", rolled.final.features(), (case.batch * num, samples, size))


@_clause("LatentRollout.final; after the last input, batch B*N with B outermost")
def rollout_final(case: ModelCase) -> None:
    """`final` is the last predicted state, and continuing from it equals one long rollout (if nothing is drawn)."""
    _, belief, inputs = case.ready()
    first = case.model.rollout(belief, inputs.steps(slice(case.horizon // 2)), generator=case.generator())
    last = first.features[..., -1, :].flatten(0, 1)
    case.equal(first.final.features(), last, "final is not the last predicted state")
    again = case.model.rollout(belief, inputs, generator=case.generator(1)).features
    if difference(case.roll(belief, inputs), again) == 0:  # the two halves of a stochastic model draw other noise
        _continues(case, belief, inputs)


def _continues(case: ModelCase, belief: Belief, inputs: Inputs) -> None:
    """Raises BreachError unless continuing from the end of the first half equals one long rollout."""
    half = case.horizon // 2
    first = case.model.rollout(belief, inputs.steps(slice(half)), generator=case.generator())
    rest = case.roll(first.final, one_candidate_each(inputs.steps(slice(half, None))))
    whole = case.roll(belief, inputs)[..., half:, :]
    case.equal(rest.reshape(whole.shape), whole, "continuing from final differs from one long rollout")


@_clause("WorldModel.rollout; features[..., k, :] may depend on inputs 0 to k only")
def no_peek(case: ModelCase) -> None:
    """Inputs from step k on do not change the features before k."""
    (_, belief, inputs), others = case.ready(), case.future(offset=2)
    before = case.roll(belief, inputs)
    for step in range(1, case.horizon):
        after = case.roll(belief, splice(inputs, others, step))
        problem = f"features before step {step} changed with later inputs"
        case.equal(before[..., :step, :], after[..., :step, :], problem)


@_clause("Belief.select; the chosen entries in this order")
def selects_entries(case: ModelCase) -> None:
    """`select` picks entries and nothing else."""
    _, belief, inputs = case.ready()
    chosen = torch.tensor([*reversed(range(case.batch)), 0], device=inputs.actions.device)
    selected = belief.select(chosen).features()
    case.equal(selected, belief.features()[chosen], "select does not return the chosen entries")


@_clause("Window.observed; values where it is False, NaN too, have no effect")
def masks_hide(case: ModelCase) -> None:
    """Unobserved values, NaN too, change neither the beliefs nor the loss."""
    entries = torch.arange(0, case.batch, 2)
    some = case.hidden(entries, (entries + case.context - 1) % case.context)  # the present of entry 0, too
    everything = case.hidden(slice(None), slice(None))
    start = case.observe(case.window.first(1))

    def results(values: str) -> dict[str, Tensor]:
        window, step = hide(case.window, some, values), hide(case.window, everything, values).step(1)
        terms = case.model.loss(window, generator=case.generator()).terms
        beliefs = {"encode": case.observe(window), "update": case.observe(step, start)}
        return {**{name: belief.features() for name, belief in beliefs.items()}, **terms}

    case.ignores_masked(results, "results")


@clause("model", "WorldModel.rollout; detach, no_grad or rounding of actions")
def differentiable(case: ModelCase) -> None:
    """The features have a finite gradient with respect to every action that changes them."""
    _, belief, inputs = case.ready()
    others, actions = case.future(offset=2), inputs.actions.clone().requires_grad_()
    last = case.roll(belief, replace(inputs, actions=actions))[..., -1, :]
    weights = torch.linspace(0.5, 1.5, last.shape[-1], device=last.device)  # a plain sum may cancel, as after LayerNorm
    gradient = None
    if last.requires_grad:
        (gradient,) = torch.autograd.grad((last * weights).sum(), actions, allow_unused=True)
    for step in range(case.horizon):
        moved = difference(case.roll(belief, _with_step(inputs, others, step))[..., -1, :], last)
        if moved <= case.tolerance:
            continue
        slope = existing(gradient, "the features have no gradient with respect to the actions")
        holds(slope.isfinite(), "the gradient with respect to the actions is not finite")
        problem = f"action {step} changes the last features by {moved:.3g}, but its gradient is 0"
        holds(bool(slope[..., step, :].any()), problem)


@_clause("WorldModel.rollout; input k must act on features[..., k, :]")
def actions_matter(case: ModelCase) -> None:
    """Each input changes the features of its step: none is ignored, none acts a step late."""
    (_, belief, inputs), others = case.ready(), case.future(offset=2)
    before = case.roll(belief, inputs)
    for step in range(case.horizon) if case.expect_action_effect else ():
        after = case.roll(belief, _with_step(inputs, others, step))
        moved = difference(before[..., step, :], after[..., step, :])
        holds(moved > 1e-7, f"a change of action {step} does not change features[..., {step}, :] (only by {moved:.3g})")


def _with_step(inputs: Inputs, others: Inputs, step: int) -> Inputs:
    """`inputs` with the actions of `others` at one step."""
    actions = inputs.actions.clone()
    actions[..., step, :] = others.actions[..., step, :]
    return replace(inputs, actions=actions)


@_clause("WorldModel.belief; it keeps the given features")
def stored_features(case: ModelCase) -> None:
    """`belief` keeps the given features, and a rollout from it is finite."""
    features = case.observe(case.window).features().mean(1)
    belief = case.model.belief(features)
    case.equal(belief.features().mean(1), features, "the belief has other features")
    holds(case.roll(belief, case.future()).isfinite(), "the rollout from the belief is not finite")


@_clause("WorldModel.fit_normaliser; masked values, or zero variance")
def normaliser_fits(case: ModelCase) -> None:
    """After `fit_normaliser` the model is finite and independent of unobserved values, NaN too."""
    hidden = case.hidden(slice(None, None, 2), slice(-1, None))

    def fitted(values: str) -> Mapping[str, Tensor]:
        model = case.prepared().model
        model.fit_normaliser(hide(case.window, hidden, values))
        return model.state_dict()

    state = case.ignores_masked(fitted, "the fitted state")
    holds(all(bool(value.isfinite().all()) for value in state.values()), "the fitted model is not finite")


@_clause("Adapts.adapt; a correction of the prediction, kept in the belief alone")
def adapts(case: ModelCase) -> None:
    """After adaptation a model predicts the steps that it adapted to; the clause uses a window without motion.

    With full trust in the prior the prediction does not change. Only the last `num_steps` count, and unobserved
    values do not. Entries and candidates stay independent. `update` and `final` keep the correction. Weights
    never change.
    """
    model, future = case.model, case.future()
    if not isinstance(model, Adapts) or not model.can_adapt:
        return
    state = copy.deepcopy(dict(model.state_dict()))

    def adapted(window: Window, *, num_steps: int = 50, trust: float = 0.01) -> Belief:
        return model.adapt(window, num_steps=num_steps, trust=trust, generator=case.generator())

    def alike(problem: str, *beliefs: Belief, entries: slice = slice(None)) -> None:
        first, second = (case.roll(belief, future)[entries] for belief in beliefs)
        case.equal(first, second, problem)

    still = _adapts_to_repetition(case, adapted)
    alike("adaptation with full trust changes the rollout", adapted(case.window, trust=1e9), case.observe(case.window))
    pair = (case.roll(adapted(case.window, num_steps=count), future) for count in (1, case.context))
    holds(difference(*pair) > 1e-7, "steps before the last `num_steps` have no effect at all, or all steps have")
    mixed = {name: torch.cat([still.observations[name][:1], v[1:]]) for name, v in case.window.observations.items()}
    others = adapted(replace(still, observations=mixed))
    alike("the correction of entry 0 depends on other entries", others, adapted(still), entries=slice(1))

    belief, turned = adapted(case.window), torch.arange(case.batch, device=future.actions.device).flip(0)
    together = case.roll(belief, future)
    picked = case.roll(belief.select(turned), pick_entries(future, turned))
    case.equal(picked, together[turned], "select does not return the chosen corrections")
    case.equal(case.roll(belief, case.pick(future, [1])), together[:, 1:2], "a candidate alone gives another result")
    if model.deterministic:
        _continues(case, belief, future)
    start, last = case.split(case.window)
    alike("update does not keep the correction", case.observe(last, adapted(start)), belief)
    hidden = case.hidden(slice(None), slice(1, -1))

    def rolled(values: str) -> dict[str, Tensor]:
        return {"rollout": case.roll(adapted(hide(case.window, hidden, values)), future)}

    case.ignores_masked(rolled, "the correction")
    equal(model.state_dict(), state, "adaptation changed a weight")


def _adapts_to_repetition(case: ModelCase, adapted: Callable[[Window], Belief]) -> Window:
    """A window that repeats the first observation and input; raises BreachError unless its error is halved."""
    first, num_steps = case.window.first(1), case.context - 1
    still = map_arrays(first, partial(torch.repeat_interleave, repeats=num_steps + 1, dim=1))
    still = replace(still, past=case.window.past.steps([0] * num_steps))
    beliefs, present = (case.observe(first), adapted(still)), case.model.present
    expected = beliefs[0].features()[..., present]
    steps = (case.roll(belief, still.past.steps(slice(1)))[:, 0, :, 0][..., present] for belief in beliefs)
    error, corrected = ((step - expected).square().mean((1, 2)) for step in steps)
    holds(corrected <= 0.5 * error, "the error on a repeated step is not halved by adaptation")
    return still


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
        _check_gradients({name: p.grad for name, p in trainable.items()})
    model.load_state_dict(state)
    with unchanged(case.window):
        again = model.loss(case.window, generator=case.generator())
    equal(again.total, losses.total, "equal seeds gave different losses in training mode", within=1e-6)


def _check_gradients(gradients: Mapping[str, Tensor | None]) -> None:
    """Raises BreachError unless every gradient exists and is finite, and some are not 0."""
    unreached = sorted(name for name, gradient in gradients.items() if gradient is None)
    holds(not unreached, f"no gradient reaches {', '.join(unreached)}; freeze parameters that are not trained")
    every: Any = torch.cat([gradient.flatten() for gradient in gradients.values() if gradient is not None])
    holds(every.isfinite(), "a gradient is not finite")
    holds(every.any(), "every gradient is 0")
