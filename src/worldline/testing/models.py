"""Checks a `WorldModel`: the clauses of `models/base.py`, one function each.

check_model(model, window)                      # all clauses; lists the broken ones
no_peek(ModelCase(model=model, window=window))  # one of them
"""

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
from worldline.testing.clauses import (
    Case,
    Clause,
    TwoOrMore,
    candidate_orders,
    clause,
    clauses_of,
    difference,
    equal,
    existing,
    has_shape,
    holds,
    map_arrays,
    run,
    unchanged,
)
from worldline.testing.window_edits import hide, one_candidate_each, pick_candidates, pick_entries, redraw, splice


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

    def frozen(self) -> WorldModel:
        """A copy of the model in evaluation mode."""
        return copy.deepcopy(self.model).eval()

    def ready(self) -> tuple[WorldModel, Belief, Inputs]:
        """A copy of the model in evaluation mode, its belief after the window, and candidates."""
        model = self.frozen()
        return model, self.encode(model), self.future()

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

    def encode(self, model: WorldModel, window: Window | None = None) -> Belief:
        """The belief after the window, with fixed draws."""
        return model.encode(window or self.window, generator=self.generator())

    def rollout(self, model: WorldModel, belief: Belief, inputs: Inputs) -> Float[Tensor, "B N S T D"]:
        """The predicted latents, with fixed draws."""
        return model.rollout(belief, inputs, generator=self.generator()).features


def check_model(model: WorldModel, window: Window, **settings: Any) -> None:
    """Checks all clauses of the contract.

    Args:
        model: the model.
        window: see `ModelCase`.
        settings: other arguments of `ModelCase`, such as `horizon`.

    Raises:
        AssertionError: lists each broken clause, the violation, and where to look.
        InputError: the window is too small.
    """
    run(type(model).__name__, ModelCase(model=model, window=window, **settings), CLAUSES)


def _clause(look: str) -> Callable[[Callable[[ModelCase], None]], Clause[ModelCase]]:
    """A clause that is checked without gradients."""
    return lambda check: Clause(torch.no_grad()(check), look)


@_clause("WorldModel.encode; Belief.features is [B, S, D]")
def encode_shapes(case: ModelCase) -> None:
    """`encode` returns finite features [B, S, D], also for a window of one observation."""
    for length in (1, case.context):
        features = case.encode(case.frozen(), case.window.first(length)).features()
        problem = f"features have shape {tuple(features.shape)}, expected [{case.batch}, S, D], for H = {length}"
        holds(features.ndim == 3 and features.shape[0] == case.batch, problem)
        holds(features.isfinite(), f"features are not finite, for H = {length}")


@_clause("WorldModel.update; folded over a window it equals encode")
def update_equals_encode(case: ModelCase) -> None:
    """Folding `update` over the window gives the belief of `encode`, after every step."""
    model, generator, future = case.frozen(), case.generator(), case.future()
    folded = model.encode(case.window.first(1), generator=generator)
    for step in range(1, case.context):
        folded = model.update(folded, case.window.step(step), generator=generator)
        encoded = case.encode(model, case.window.first(step + 1))
        where = f"after observation {step} the folded belief differs from the encoded one"
        case.equal(folded.features(), encoded.features(), where)
        first, second = (case.rollout(model, belief, future) for belief in (folded, encoded))
        case.equal(first, second, f"{where}: their rollouts")


@_clause("WorldModel.rollout; LatentRollout.features is [B, N, S, T, D]")
def rollout_shapes(case: ModelCase) -> None:
    """`rollout` returns finite features [B, N, S, T, D], with S and D of the belief, for one step too."""
    model, belief, _ = case.ready()
    _, samples, size = belief.features().shape
    for num, horizon in ((case.num_candidates, case.horizon), (1, 1)):
        inputs = pick_candidates(case.future(horizon=horizon), slice(num))
        imagined = model.rollout(belief, inputs, generator=case.generator())
        has_shape("features", imagined.features, (case.batch, num, samples, horizon, size))
        has_shape("final.features()", imagined.final.features(), (case.batch * num, samples, size))


@_clause("LatentRollout.final; after the last input, batch B*N with B outermost")
def rollout_final(case: ModelCase) -> None:
    """`final` is the last predicted state, and continuing from it equals one long rollout (if nothing is drawn)."""
    model, belief, inputs = case.ready()
    whole = case.rollout(model, belief, inputs)
    first = model.rollout(belief, inputs.steps(slice(case.horizon // 2)), generator=case.generator())
    last = first.features[..., -1, :].flatten(0, 1)
    case.equal(first.final.features(), last, "final is not the last predicted state")
    again = model.rollout(belief, inputs, generator=case.generator(1)).features
    if difference(whole, again) == 0:  # the two halves of a stochastic model draw other noise
        _continues(case, model, belief, inputs)


@_clause("WorldModel.rollout; features[..., k, :] may depend on inputs 0 to k only")
def no_peek(case: ModelCase) -> None:
    """Inputs from step k on do not change the features before k."""
    (model, belief, inputs), others = case.ready(), case.future(offset=2)
    before = case.rollout(model, belief, inputs)
    for step in range(1, case.horizon):
        after = case.rollout(model, belief, splice(inputs, others, step))
        pair = before[..., :step, :], after[..., :step, :]
        case.equal(*pair, f"features before step {step} changed with later inputs")


@_clause("WorldModel.rollout; the same noise for all N")
def candidates_independent(case: ModelCase) -> None:
    """Each candidate gives the same result alone and in any order; equal candidates give equal results."""
    model, belief, inputs = case.ready()
    together = case.rollout(model, belief, inputs)
    for index, problem in candidate_orders(case.num_candidates):
        case.equal(case.rollout(model, belief, pick_candidates(inputs, index)), together[:, index], problem)


@_clause("encode, rollout, select; batch statistics or swapped axes")
def batch_independent(case: ModelCase) -> None:
    """Results of an entry do not depend on other entries; `select` picks entries and nothing else."""
    model, belief, inputs = case.ready()
    features, imagined = belief.features(), case.rollout(model, belief, inputs)
    index = torch.arange(case.batch, device=features.device)
    for kept in (0, case.batch - 1):
        others = torch.where(index == kept, index, (index + 1) % case.batch)
        other = case.encode(model, pick_entries(case.window, others))
        problem = f"entry {kept} changed with other entries of the batch"
        case.equal(other.features()[kept], features[kept], problem)
        after = case.rollout(model, other, pick_entries(inputs, others))
        case.equal(after[kept], imagined[kept], f"the rollout of {problem}")
    chosen = torch.cat([index.flip(0), index[:1]])
    selected = belief.select(chosen).features()
    case.equal(selected, features[chosen], "select does not return the chosen entries")


@_clause("Window.observed; values where it is False, NaN too, have no effect")
def masks_hide(case: ModelCase) -> None:
    """Unobserved values, NaN too, change neither the beliefs nor the loss."""
    model = case.frozen()
    entries = torch.arange(0, case.batch, 2)
    some = case.hidden(entries, (entries + case.context - 1) % case.context)  # the present of entry 0, too
    everything = case.hidden(slice(None), slice(None))
    start = case.encode(model, case.window.first(1))

    def results(values: str) -> dict[str, Tensor]:
        window = hide(case.window, some, values)
        step = hide(case.window, everything, values).step(1)
        return {
            "encode": case.encode(model, window).features(),
            "update": model.update(start, step, generator=case.generator()).features(),
            "loss": torch.stack([*model.loss(window, generator=case.generator()).terms.values()]),
        }

    case.ignores_masked(results, "results")


@_clause("encode, update, rollout; no side effects, all draws from the generator")
def pure(case: ModelCase) -> None:
    """Calls have no side effects, and every draw comes from the generator."""
    model = case.frozen()
    inputs, step = case.future(), case.window.step(1)
    state = dict(model.state_dict())
    with unchanged(case.window, inputs, step, state):
        belief = case.encode(model)
        features = belief.features().clone()
        imagined = case.rollout(model, belief, inputs)
        model.update(case.encode(model), step, generator=case.generator())
        model.update(belief, step, generator=case.generator())
    equal(belief.features(), features, "the belief was changed by rollout or update")
    again = case.rollout(model, belief, inputs)
    equal(again, imagined, "equal seeds gave different rollouts from one belief")
    equal(case.encode(model).features(), features, "equal seeds gave different beliefs")


@clause("WorldModel.rollout; detach, no_grad or rounding of actions")
def differentiable(case: ModelCase) -> None:
    """The features have a finite gradient with respect to every action that changes them."""
    model, inputs = case.frozen(), case.future()
    belief, others = case.encode(model), case.future(offset=2)
    actions = inputs.actions.clone().requires_grad_()
    features = case.rollout(model, belief, replace(inputs, actions=actions))
    last = features[..., -1, :]
    weights = torch.linspace(0.5, 1.5, last.shape[-1], device=last.device)  # a plain sum may cancel, as after LayerNorm
    gradient = None
    if last.requires_grad:
        (gradient,) = torch.autograd.grad((last * weights).sum(), actions, allow_unused=True)
    for step in range(case.horizon):
        moved = difference(case.rollout(model, belief, _with_step(inputs, others, step))[..., -1, :], last)
        if moved <= case.tolerance:
            continue
        slope = existing(gradient, "the features have no gradient with respect to the actions")
        holds(slope.isfinite(), "the gradient with respect to the actions is not finite")
        problem = f"action {step} changes the last features by {moved:.3g}, but its gradient is 0"
        holds(bool(slope[..., step, :].any()), problem)


@_clause("WorldModel.rollout; input k must act on features[..., k, :]")
def actions_matter(case: ModelCase) -> None:
    """Each input changes the features of its step: none is ignored, none acts a step late."""
    if not case.expect_action_effect:
        return
    (model, belief, inputs), others = case.ready(), case.future(offset=2)
    before = case.rollout(model, belief, inputs)
    for step in range(case.horizon):
        after = case.rollout(model, belief, _with_step(inputs, others, step))
        moved = difference(before[..., step, :], after[..., step, :])
        holds(moved > 1e-7, f"a change of action {step} does not change features[..., {step}, :] (only by {moved:.3g})")


@_clause("WorldModel.belief; it keeps the given features")
def stored_features(case: ModelCase) -> None:
    """`belief` keeps the given features, and a rollout from it is finite."""
    model = case.frozen()
    features = case.encode(model).features().mean(1)
    belief = model.belief(features)
    case.equal(belief.features().mean(1), features, "the belief has other features")
    imagined = case.rollout(model, belief, case.future())
    holds(imagined.isfinite(), "the rollout from the belief is not finite")


@_clause("WorldModel.fit_normaliser; masked values, or zero variance")
def normaliser_fits(case: ModelCase) -> None:
    """After `fit_normaliser` the model is finite and independent of unobserved values, NaN too."""
    hidden = case.hidden(slice(None, None, 2), slice(-1, None))

    def fitted(values: str) -> Mapping[str, Tensor]:
        model = case.frozen()
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
    model = case.frozen()
    if not isinstance(model, Adapts) or not model.can_adapt:
        return
    state, future, still = copy.deepcopy(dict(model.state_dict())), case.future(), _standing_still(case.window)
    taken = still.past.steps(slice(1))

    def adapted(window: Window, *, num_steps: int = 50, trust: float = 0.01) -> Belief:
        return model.adapt(window, num_steps=num_steps, trust=trust, generator=case.generator())

    def alike(problem: str, *beliefs: Belief, entries: slice = slice(None)) -> None:
        first, second = (case.rollout(model, belief, future)[entries] for belief in beliefs)
        case.equal(first, second, problem)

    def step(belief: Belief) -> Tensor:
        return case.rollout(model, belief, taken)[:, 0, :, 0][..., model.present]

    before, after = case.encode(model, still.first(1)), adapted(still)
    expected = before.features()[..., model.present]
    error, corrected = ((step(belief) - expected).square().mean((1, 2)) for belief in (before, after))
    holds(corrected <= 0.5 * error, "the error on a repeated step is not halved by adaptation")
    alike("adaptation with full trust changes the rollout", adapted(case.window, trust=1e9), case.encode(model))
    pair = (case.rollout(model, adapted(case.window, num_steps=count), future) for count in (1, case.context))
    holds(difference(*pair) > 1e-7, "steps before the last `num_steps` have no effect at all, or all steps have")

    mixed = {name: values.clone() for name, values in case.window.observations.items()}
    for name, values in mixed.items():
        values[0] = still.observations[name][0]
    other_entries = adapted(replace(still, observations=mixed))
    alike("the correction of entry 0 depends on other entries", other_entries, after, entries=slice(1))

    belief, turned = adapted(case.window), torch.arange(case.batch, device=expected.device).flip(0)
    together = case.rollout(model, belief, future)
    picked = case.rollout(model, belief.select(turned), pick_entries(future, turned))
    case.equal(picked, together[turned], "select does not return the chosen corrections")
    alone = case.rollout(model, belief, pick_candidates(future, slice(1, 2)))
    case.equal(alone, together[:, 1:2], "a candidate alone gives another result")
    if model.deterministic:
        _continues(case, model, belief, future)
    start = adapted(case.window.first(case.context - 1))
    folded = model.update(start, case.window.step(case.context - 1), generator=case.generator())
    alike("update does not keep the correction", folded, belief)

    hidden = case.hidden(slice(None), slice(1, -1))

    def rolled(values: str) -> dict[str, Tensor]:
        return {"rollout": case.rollout(model, adapted(hide(case.window, hidden, values)), future)}

    case.ignores_masked(rolled, "the correction")
    equal(model.state_dict(), state, "adaptation changed a weight")


@clause("WorldModel.loss; finite scalar terms with weights, gradients for all parameters")
def loss_terms(case: ModelCase) -> None:
    """The loss has finite scalar terms with weights, and gradients for all trainable parameters.

    A model in closed form has none.
    """
    model = copy.deepcopy(case.model).train()
    model.zero_grad(set_to_none=True)
    state = copy.deepcopy(model.state_dict())
    losses = model.loss(case.window, generator=case.generator())
    holds(len(losses.terms) > 0, "the loss has no term")
    names = f"terms {sorted(losses.terms)}, but weights {sorted(losses.weights)}"
    holds(set(losses.terms) == set(losses.weights), f"the loss has {names}")
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


def _continues(case: ModelCase, model: WorldModel, belief: Belief, inputs: Inputs) -> None:
    """Raises BreachError unless continuing from the end of the first half equals one long rollout."""
    half = case.horizon // 2
    first = model.rollout(belief, inputs.steps(slice(half)), generator=case.generator())
    rest = case.rollout(model, first.final, one_candidate_each(inputs.steps(slice(half, None))))
    joined = rest.reshape(case.batch, case.num_candidates, *rest.shape[2:])
    whole = case.rollout(model, belief, inputs)[..., half:, :]
    case.equal(joined, whole, "continuing from final differs from one long rollout")


def _with_step(inputs: Inputs, others: Inputs, step: int) -> Inputs:
    """`inputs` with the actions of `others` at one step."""
    actions = inputs.actions.clone()
    actions[..., step, :] = others.actions[..., step, :]
    return replace(inputs, actions=actions)


def _standing_still(window: Window) -> Window:
    """A window that repeats the first observation and input."""
    first, num_steps = window.first(1), window.past.actions.shape[2]
    still = map_arrays(first, partial(torch.repeat_interleave, repeats=num_steps + 1, dim=1))
    return replace(still, past=window.past.steps([0] * num_steps))


def _check_gradients(gradients: Mapping[str, Tensor | None]) -> None:
    """Raises BreachError unless every gradient exists and is finite, and some are not 0."""
    unreached = sorted(name for name, gradient in gradients.items() if gradient is None)
    holds(not unreached, f"no gradient reaches {', '.join(unreached)}; freeze parameters that are not trained")
    every = torch.cat([gradient.flatten() for gradient in gradients.values() if gradient is not None])
    holds(every.isfinite(), "a gradient is not finite")
    holds(every.any(), "every gradient is 0")


CLAUSES = clauses_of(globals())
"""Every clause, in the order in which a report lists them."""
