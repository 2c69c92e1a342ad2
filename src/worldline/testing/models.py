"""Checks a `WorldModel`: the clauses of `models/base.py`, one function each.

check_model(model, window)                      # all clauses; lists the broken ones
no_peek(ModelCase(model=model, window=window))  # one of them
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import InputError
from worldline.models.base import Adapts, Belief, Inputs, Losses, Window, WorldModel
from worldline.testing.clauses import Clause, difference, run
from worldline.testing.window_edits import (
    hide,
    one_candidate_each,
    pick_candidates,
    pick_entries,
    redraw,
    splice,
    step_to,
    window_entries,
)


@dataclass(frozen=True, kw_only=True)
class ModelCase:
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

    model: WorldModel
    window: Window
    horizon: int = 4
    num_candidates: int = 3
    expect_action_effect: bool = True
    tolerance: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        past = self.window.past.actions
        if past.shape[0] < 2 or past.shape[2] < 2 or bool((past == past[:1, :1, :1]).all()):
            raise InputError(
                f"the window has past actions of shape {tuple(past.shape)}. The check needs at least 2 entries, "
                "3 observations, and actions that vary. Give a larger window."
            )
        if self.horizon < 2 or self.num_candidates < 2:
            raise InputError(f"horizon {self.horizon} and num_candidates {self.num_candidates} must be at least 2.")

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

    def generator(self) -> torch.Generator:
        """A new generator with fixed draws."""
        return torch.Generator(self.window.past.actions.device).manual_seed(self.seed)

    def future(self, *, batch: int | None = None, horizon: int | None = None, seed: int = 1) -> Inputs:
        """N candidates of steps that are drawn from the window."""
        return redraw(
            self.window.past,
            (batch or self.batch, self.num_candidates, horizon or self.horizon),
            torch.Generator(self.window.past.actions.device).manual_seed(self.seed + seed),
        )

    def encode(self, model: WorldModel, window: Window | None = None) -> Belief:
        """The belief after the window, with fixed draws."""
        return model.encode(window or self.window, generator=self.generator())

    def rollout(self, model: WorldModel, belief: Belief, inputs: Inputs) -> Float[Tensor, "B N S T D"]:
        """The predicted latents, with fixed draws."""
        return model.rollout(belief, inputs, generator=self.generator()).features


ENCODE = Clause(name="model.encode", look="WorldModel.encode; Belief.features is [B, S, D]")
UPDATE = Clause(name="model.update_equals_encode", look="WorldModel.update; folded over a window it equals encode")
SHAPES = Clause(name="model.rollout_shapes", look="WorldModel.rollout; LatentRollout.features is [B, N, S, T, D]")
FINAL = Clause(name="model.rollout_final", look="LatentRollout.final; after the last input, batch B*N with B outermost")
PEEK = Clause(name="model.no_peek", look="WorldModel.rollout; features[..., k, :] may depend on inputs 0 to k only")
CANDIDATES = Clause(name="model.candidates_independent", look="WorldModel.rollout; the same noise for all N")
BATCH = Clause(name="model.batch_independent", look="encode, rollout, select; batch statistics or swapped axes")
MASKS = Clause(name="model.masks", look="Window.observed; values where it is False, NaN too, have no effect")
PURE = Clause(name="model.pure", look="encode, update, rollout; no side effects, all draws from the generator")
GRADIENT = Clause(name="model.differentiable", look="WorldModel.rollout; detach, no_grad or rounding of actions")
ACTIONS = Clause(name="model.actions_matter", look="WorldModel.rollout; input k must act on features[..., k, :]")
STORED = Clause(name="model.belief", look="WorldModel.belief; it keeps the given features")
NORMALISER = Clause(name="model.fit_normaliser", look="WorldModel.fit_normaliser; masked values, or zero variance")
ADAPTS = Clause(name="model.adapts", look="Adapts.adapt; a correction of the prediction, kept in the belief alone")
LOSS = Clause(name="model.loss", look="WorldModel.loss; finite scalar terms with weights, gradients for all parameters")


def check_model(
    model: WorldModel,
    window: Window,
    *,
    horizon: int = 4,
    num_candidates: int = 3,
    expect_action_effect: bool = True,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> None:
    """Checks all clauses; the arguments are those of `ModelCase`.

    Raises:
        AssertionError: lists each broken clause, the violation, and where to look.
        InputError: the window is too small.
    """
    case = ModelCase(
        model=model,
        window=window,
        horizon=horizon,
        num_candidates=num_candidates,
        expect_action_effect=expect_action_effect,
        tolerance=tolerance,
        seed=seed,
    )
    run(type(model).__name__, case, CLAUSES)


@torch.no_grad()
def encode_shapes(case: ModelCase) -> None:
    """`encode` returns finite features [B, S, D], also for a window of one observation."""
    for length in (1, case.context):
        features = case.encode(case.frozen(), case.window.first(length)).features()
        problem = f"features have shape {tuple(features.shape)}, expected [{case.batch}, S, D], for H = {length}"
        ENCODE.holds(features.ndim == 3 and features.shape[0] == case.batch, problem)
        ENCODE.holds(bool(features.isfinite().all()), f"features are not finite, for H = {length}")


@torch.no_grad()
def update_equals_encode(case: ModelCase) -> None:
    """Folding `update` over the window gives the belief of `encode`, after every step."""
    model, generator = case.frozen(), case.generator()
    future = case.future()
    folded = model.encode(case.window.first(1), generator=generator)
    for step in range(1, case.context):
        inputs, observation, observed = step_to(case.window, step)
        folded = model.update(folded, inputs, observation, observed, generator=generator)
        encoded = case.encode(model, case.window.first(step + 1))
        where = f"after observation {step} the folded belief differs from the encoded one"
        UPDATE.equal(folded.features(), encoded.features(), within=case.tolerance, problem=where)
        pair = case.rollout(model, folded, future), case.rollout(model, encoded, future)
        UPDATE.equal(*pair, within=case.tolerance, problem=f"{where}: their rollouts")


@torch.no_grad()
def rollout_shapes(case: ModelCase) -> None:
    """`rollout` returns finite features [B, N, S, T, D], with S and D of the belief, for one step too."""
    model = case.frozen()
    belief = case.encode(model)
    _, samples, size = belief.features().shape
    for num, horizon in ((case.num_candidates, case.horizon), (1, 1)):
        inputs = pick_candidates(case.future(horizon=horizon), slice(num))
        imagined = model.rollout(belief, inputs, generator=case.generator())
        for name, found, expected in (
            ("features", imagined.features, (case.batch, num, samples, horizon, size)),
            ("final.features()", imagined.final.features(), (case.batch * num, samples, size)),
        ):
            SHAPES.holds(tuple(found.shape) == expected, f"{name} has shape {tuple(found.shape)}, expected {expected}")
            SHAPES.holds(bool(found.isfinite().all()), f"{name} is not finite")


@torch.no_grad()
def rollout_final(case: ModelCase) -> None:
    """`final` is the last predicted state, and continuing from it equals one long rollout (if nothing is drawn)."""
    model, half = case.frozen(), case.horizon // 2
    belief, inputs = case.encode(model), case.future()
    whole = case.rollout(model, belief, inputs)
    first = model.rollout(belief, inputs.steps(slice(half)), generator=case.generator())
    last = first.features[..., -1, :].flatten(0, 1)
    FINAL.equal(first.final.features(), last, within=case.tolerance, problem="final is not the last predicted state")
    again = model.rollout(belief, inputs, generator=case.generator().manual_seed(case.seed + 1)).features
    if difference(whole, again) > 0:  # a stochastic model: its two halves draw other noise
        return
    rest = case.rollout(model, first.final, one_candidate_each(inputs.steps(slice(half, None))))
    joined = rest.reshape(case.batch, case.num_candidates, *rest.shape[2:])
    FINAL.equal(
        joined,
        whole[..., half:, :],
        within=case.tolerance,
        problem="continuing from final differs from one long rollout",
    )


@torch.no_grad()
def no_peek(case: ModelCase) -> None:
    """Inputs from step k on do not change the features before k."""
    model = case.frozen()
    belief, inputs, others = case.encode(model), case.future(), case.future(seed=2)
    before = case.rollout(model, belief, inputs)
    for step in range(1, case.horizon):
        after = case.rollout(model, belief, splice(inputs, others, step))
        pair = before[..., :step, :], after[..., :step, :]
        PEEK.equal(*pair, within=case.tolerance, problem=f"features before step {step} changed with later inputs")


@torch.no_grad()
def candidates_independent(case: ModelCase) -> None:
    """Each candidate gives the same result alone and in any order; equal candidates give equal results."""
    model, within = case.frozen(), case.tolerance
    belief, inputs = case.encode(model), case.future()
    together = case.rollout(model, belief, inputs)
    for number in range(case.num_candidates):
        alone = case.rollout(model, belief, pick_candidates(inputs, slice(number, number + 1)))
        problem = f"candidate {number} alone differs from its result in the batch"
        CANDIDATES.equal(alone, together[:, number : number + 1], within=within, problem=problem)
    turned = [*range(1, case.num_candidates), 0]
    other = case.rollout(model, belief, pick_candidates(inputs, turned))
    CANDIDATES.equal(other, together[:, turned], within=within, problem="the order of candidates changes results")
    twins = case.rollout(model, belief, pick_candidates(inputs, [0] * case.num_candidates))
    first = twins[:, :1].expand_as(twins)
    CANDIDATES.equal(twins, first, within=within, problem="identical candidates give different results")


@torch.no_grad()
def batch_independent(case: ModelCase) -> None:
    """Results of an entry do not depend on other entries; `select` picks entries and nothing else."""
    model, within = case.frozen(), case.tolerance
    belief, inputs = case.encode(model), case.future()
    features, imagined = belief.features(), case.rollout(model, belief, inputs)
    index = torch.arange(case.batch, device=features.device)
    for kept in (0, case.batch - 1):
        others = torch.where(index == kept, index, (index + 1) % case.batch)
        other = case.encode(model, window_entries(case.window, others))
        problem = f"entry {kept} changed with other entries of the batch"
        BATCH.equal(other.features()[kept], features[kept], within=within, problem=problem)
        after = case.rollout(model, other, pick_entries(inputs, others))
        BATCH.equal(after[kept], imagined[kept], within=within, problem=f"the rollout of {problem}")
    chosen = torch.cat([index.flip(0), index[:1]])
    BATCH.equal(
        belief.select(chosen).features(),
        features[chosen],
        within=within,
        problem="select does not return the chosen entries",
    )


@torch.no_grad()
def masks_hide(case: ModelCase) -> None:
    """Unobserved values, NaN too, change neither the beliefs nor the loss."""
    model, within = case.frozen(), case.tolerance
    everything = torch.ones(case.batch, case.context, dtype=torch.bool, device=case.window.past.actions.device)
    some = torch.zeros_like(everything)
    entries = torch.arange(0, case.batch, 2)
    some[entries, (entries + case.context - 1) % case.context] = True  # the present of entry 0 is hidden
    start = case.encode(model, case.window.first(1))

    def results(values: str) -> dict[str, Tensor]:
        window = hide(case.window, some, values)
        step = step_to(hide(case.window, everything, values), 1)
        return {
            "encode": case.encode(model, window).features(),
            "update": model.update(start, *step, generator=case.generator()).features(),
            "loss": torch.stack([*model.loss(window, generator=case.generator()).terms.values()]),
        }

    expected = results("kept")
    for values in ("other", "nan"):
        for name, found in results(values).items():
            MASKS.equal(
                found,
                expected[name],
                within=within,
                problem=f"{name} depends on masked values (filled with {values!r})",
            )


@torch.no_grad()
def pure(case: ModelCase) -> None:
    """Calls have no side effects, and every draw comes from the generator."""
    model = case.frozen()
    inputs, step = case.future(), step_to(case.window, 1)
    state = dict(model.state_dict())
    with PURE.unchanged(case.window, inputs, step, state):
        belief = case.encode(model)
        features = belief.features().clone()
        imagined = case.rollout(model, belief, inputs)
        model.update(case.encode(model), *step, generator=case.generator())
        model.update(belief, *step, generator=case.generator())
    PURE.equal(belief.features(), features, within=0.0, problem="the belief was changed by rollout or update")
    again = case.rollout(model, belief, inputs)
    PURE.equal(again, imagined, within=0.0, problem="equal seeds gave different rollouts from one belief")
    PURE.equal(case.encode(model).features(), features, within=0.0, problem="equal seeds gave different beliefs")


def differentiable(case: ModelCase) -> None:
    """The features have a finite gradient with respect to every action that changes them."""
    model, inputs = case.frozen(), case.future()
    belief, others = case.encode(model), case.future(seed=2)
    actions = inputs.actions.clone().requires_grad_()
    features = case.rollout(model, belief, replace(inputs, actions=actions))
    last = features[..., -1, :]
    weights = torch.linspace(0.5, 1.5, last.shape[-1], device=last.device)  # a plain sum may cancel, as after LayerNorm
    gradient = (
        torch.autograd.grad((last * weights).sum(), actions, allow_unused=True)[0] if last.requires_grad else None
    )
    for step in range(case.horizon):
        mixed = inputs.actions.clone()
        mixed[..., step, :] = others.actions[..., step, :]
        moved = difference(case.rollout(model, belief, replace(inputs, actions=mixed))[..., -1, :], last)
        if moved <= case.tolerance:
            continue
        GRADIENT.holds(gradient is not None, "the features have no gradient with respect to the actions")
        assert gradient is not None  # for the type checker
        GRADIENT.holds(bool(gradient.isfinite().all()), "the gradient with respect to the actions is not finite")
        problem = f"action {step} changes the last features by {moved:.3g}, but its gradient is 0"
        GRADIENT.holds(bool(gradient[..., step, :].any()), problem)


@torch.no_grad()
def actions_matter(case: ModelCase) -> None:
    """Each input changes the features of its step: none is ignored, none acts a step late."""
    if not case.expect_action_effect:
        return
    model = case.frozen()
    belief, inputs, others = case.encode(model), case.future(), case.future(seed=2)
    before = case.rollout(model, belief, inputs)
    for step in range(case.horizon):
        actions = inputs.actions.clone()
        actions[..., step, :] = others.actions[..., step, :]
        after = case.rollout(model, belief, replace(inputs, actions=actions))
        moved = difference(before[..., step, :], after[..., step, :])
        problem = f"a change of action {step} does not change features[..., {step}, :] (only by {moved:.3g})"
        ACTIONS.holds(moved > 1e-7, problem)


@torch.no_grad()
def stored_features(case: ModelCase) -> None:
    """`belief` keeps the given features, and a rollout from it is finite."""
    model = case.frozen()
    features = case.encode(model).features().mean(1)
    belief = model.belief(features)
    STORED.equal(belief.features().mean(1), features, within=case.tolerance, problem="the belief has other features")
    imagined = case.rollout(model, belief, case.future())
    STORED.holds(bool(imagined.isfinite().all()), "the rollout from the belief is not finite")


@torch.no_grad()
def normaliser_fits(case: ModelCase) -> None:
    """After `fit_normaliser` the model is finite and independent of unobserved values, NaN too."""
    hidden = torch.zeros(case.batch, case.context, dtype=torch.bool, device=case.window.past.actions.device)
    hidden[::2, -1] = True

    def fitted(values: str) -> Mapping[str, Tensor]:
        model = case.frozen()
        model.fit_normaliser(hide(case.window, hidden, values))
        return model.state_dict()

    expected = fitted("kept")
    for values in ("other", "nan"):
        for name, found in fitted(values).items():
            problem = f"{name} depends on masked values (filled with {values!r})"
            NORMALISER.equal(found, expected[name], within=case.tolerance, problem=problem)
    NORMALISER.holds(all(bool(value.isfinite().all()) for value in expected.values()), "the fitted model is not finite")


@torch.no_grad()
def adapts(case: ModelCase) -> None:
    """After adaptation a model predicts the steps that it adapted to; the clause uses a window without motion.

    With full trust in the prior the prediction does not change. Only the last `num_steps` count, and unobserved
    values do not. Entries and candidates stay independent. `update` and `final` keep the correction. Weights
    never change.
    """
    model = case.frozen()
    if not isinstance(model, Adapts) or not model.can_adapt:
        return
    within, state, future = case.tolerance, copy.deepcopy(dict(model.state_dict())), case.future()
    still = _standing_still(case.window)
    taken = still.past.steps(slice(1))

    def adapted(window: Window, *, num_steps: int = 50, trust: float = 0.01) -> Belief:
        return model.adapt(window, num_steps=num_steps, trust=trust, generator=case.generator())

    def alike(problem: str, *beliefs: Belief, entries: slice = slice(None)) -> None:
        first, second = (case.rollout(model, belief, future)[entries] for belief in beliefs)
        ADAPTS.equal(first, second, within=within, problem=problem)

    def step(belief: Belief) -> Tensor:
        return case.rollout(model, belief, taken)[:, 0, :, 0][..., model.present]

    before, after = case.encode(model, still.first(1)), adapted(still)
    expected = before.features()[..., model.present]
    error, corrected = ((step(belief) - expected).square().mean((1, 2)) for belief in (before, after))
    ADAPTS.holds(bool((corrected <= 0.5 * error).all()), "the error on a repeated step is not halved by adaptation")
    alike("adaptation with full trust changes the rollout", adapted(case.window, trust=1e9), case.encode(model))
    pair = (case.rollout(model, adapted(case.window, num_steps=count), future) for count in (1, case.context))
    ADAPTS.holds(difference(*pair) > 1e-7, "steps before the last `num_steps` have no effect at all, or all steps have")

    mixed = {name: values.clone() for name, values in case.window.observations.items()}
    for name, values in mixed.items():
        values[0] = still.observations[name][0]
    other_entries = adapted(replace(still, observations=mixed))
    alike("the correction of entry 0 depends on other entries", other_entries, after, entries=slice(1))

    belief, turned = adapted(case.window), torch.arange(case.batch, device=expected.device).flip(0)
    together = case.rollout(model, belief, future)
    picked = case.rollout(model, belief.select(turned), pick_entries(future, turned))
    ADAPTS.equal(picked, together[turned], within=within, problem="select does not return the chosen corrections")
    alone = case.rollout(model, belief, pick_candidates(future, slice(1, 2)))
    ADAPTS.equal(alone, together[:, 1:2], within=within, problem="a candidate alone gives another result")
    if model.deterministic:
        half = case.horizon // 2
        first = model.rollout(belief, future.steps(slice(half)), generator=case.generator()).final
        rest = case.rollout(model, first, one_candidate_each(future.steps(slice(half, None))))
        joined = rest.reshape(case.batch, case.num_candidates, *rest.shape[2:])
        ADAPTS.equal(
            joined,
            together[..., half:, :],
            within=within,
            problem="continuing from final differs from one long rollout",
        )
    start = adapted(case.window.first(case.context - 1))
    folded = model.update(start, *step_to(case.window, case.context - 1), generator=case.generator())
    alike("update does not keep the correction", folded, belief)

    hidden = torch.zeros(case.batch, case.context, dtype=torch.bool, device=expected.device)
    hidden[:, 1:-1] = True
    kept, *others = (adapted(hide(case.window, hidden, values)) for values in ("kept", "other", "nan"))
    for other in others:
        alike("the correction depends on unobserved values", other, kept)
    same = all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    ADAPTS.holds(same, "adaptation changed a weight")


def loss_terms(case: ModelCase) -> None:
    """The loss has finite scalar terms with weights, and gradients for all trainable parameters."""
    model = copy.deepcopy(case.model).train()
    model.zero_grad(set_to_none=True)
    state = copy.deepcopy(model.state_dict())
    losses = model.loss(case.window, generator=case.generator())
    _check_terms(losses)
    losses.total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    unreached = sorted(name for name, gradient in gradients.items() if gradient is None)
    LOSS.holds(not unreached, f"no gradient reaches {', '.join(unreached)}; freeze parameters that are not trained")
    found = [gradient for gradient in gradients.values() if gradient is not None]
    LOSS.holds(all(bool(gradient.isfinite().all()) for gradient in found), "a gradient is not finite")
    LOSS.holds(any(bool(gradient.any()) for gradient in found), "every gradient is 0")
    model.load_state_dict(state)
    with LOSS.unchanged(case.window):
        again = model.loss(case.window, generator=case.generator())
    LOSS.equal(again.total, losses.total, within=1e-6, problem="equal seeds gave different losses in training mode")


CLAUSES: tuple[Callable[[ModelCase], None], ...] = (
    encode_shapes,
    update_equals_encode,
    rollout_shapes,
    rollout_final,
    no_peek,
    candidates_independent,
    batch_independent,
    masks_hide,
    pure,
    differentiable,
    actions_matter,
    stored_features,
    normaliser_fits,
    adapts,
    loss_terms,
)
"""Every clause, in the order in which a report lists them."""


def _standing_still(window: Window) -> Window:
    """A window that repeats the first observation and input."""
    past, first = window.past, window.first(1)
    length = past.actions.shape[2] + 1

    def again(values: Tensor, axis: int, count: int) -> Tensor:
        return values.narrow(axis, 0, 1).repeat_interleave(count, axis)

    return replace(
        first,
        observations={name: again(values, 1, length) for name, values in first.observations.items()},
        observed={name: again(flags, 1, length) for name, flags in first.observed.items()},
        past=Inputs(
            actions=again(past.actions, 2, length - 1),
            exogenous=None if past.exogenous is None else again(past.exogenous, 1, length - 1),
            step_s=again(past.step_s, 1, length - 1),
        ),
    )


def _check_terms(losses: Losses) -> None:
    terms, weights = losses.terms, losses.weights
    LOSS.holds(len(terms) > 0, "the loss has no term")
    LOSS.holds(set(terms) == set(weights), f"the loss has terms {sorted(terms)}, but weights {sorted(weights)}")
    for name, term in terms.items():
        LOSS.holds(term.ndim == 0, f"term {name!r} has shape {tuple(term.shape)}, expected a scalar")
        LOSS.holds(bool(term.isfinite()), f"term {name!r} is {term.item()}")
        LOSS.holds(math.isfinite(weights[name]), f"the weight of {name!r} is {weights[name]}")
