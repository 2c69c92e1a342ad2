"""The model family `ensemble`: a probabilistic ensemble on vectors and discrete values.

Several small networks receive the last few observations and inputs. Each predicts mean and variance of the change of
every signal. A variance on which all members agree is aleatoric (noise). Disagreement between the members is epistemic:
the training data are too few there. With `linear`, the networks predict the residual of a linear forecast.

Sources: PETS (arXiv 1805.12114) for the ensemble, its variance bounds and TS-infinity; beta-NLL (arXiv 2203.09168).
docs/design/vectors.md explains the path loss and the scaling of changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Annotated, Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import softplus

from worldline.config import Bounds, Depth, Share, Size, Weight
from worldline.device import normal, uniform
from worldline.models.base import Belief, Inputs, LatentRollout, Losses, ModelConfig, Window, WorldModel, concatenate
from worldline.models.layers.changes import interpolated
from worldline.models.layers.codes import Observed, vector_signals
from worldline.models.layers.gather import num_processes, share_draw, share_mean, whole_mean
from worldline.models.layers.linear_forecast import ENOUGH_ROWS
from worldline.models.layers.member_beliefs import Codes, EnsembleBelief, Known, Seen, by_step, cut_beliefs, lag_index
from worldline.models.layers.member_networks import LinearBase, MemberNetworks, SingleSteps, Slices
from worldline.models.layers.offset import add_error, all_errors, no_errors, offset_of
from worldline.models.layers.standardizer import InputNormaliser, Standardizer
from worldline.models.layers.tracing import is_traced
from worldline.schema import Schema

MARGIN: Final = 0.05
"""Share of the logged range by which inputs of the networks may exceed it."""
SHORT_SHARE: Final = 0.2
"""Share of the open-loop predictions in training that begin after fewer observations than the history."""
ROWS: Final = 256
"""Rows of each member in an update on single steps."""
ROWS_SHORT: Final = 0.125
"""Share of these rows with fewer observations than the history."""
STARTS_PER_WINDOW: Final = 8
"""Predicted steps per training window; neighbouring ones are nearly the same."""
MIN_ERROR: Final = 1e-4
"""Lower bound of squared open-loop errors in the root, in squared units of `_unit`."""
BOUND_WEIGHT: Final = 0.01
"""Loss weight that pulls the upper and lower variance bounds together, as in PETS."""
Shares = Float[Tensor, "B M 1"]
"""Weight of each window for each member."""


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig(ModelConfig):
    """Sizes of the networks and weights of the loss terms.

    Args:
        inputs: observation signals that the model encodes and predicts; no images.
        num_members: M, number of networks, at least 2.
        history: number of observations that a prediction uses, at least 1.
        width: units of each hidden layer.
        layers: hidden layers per member, at least 1.
        beta: exponent of beta-NLL, 0 to 1. 0 is the plain likelihood; at 1, errors count alike at any noise level. It
            has no effect without `noise`.
        path_weight: weight of the open-loop error over whole paths, relative to the single-step loss.
        blanked: share of the observed values that training masks. The networks so learn their uncertainty when a
            sensor drops out.
        timed: whether the duration of each step is an input; for logs with steps of different durations.
        bootstrap: whether each member weights each window by a random count; without it they differ by their initial
            weights only.
        linear: whether the networks predict the residual of a linear forecast, which is fitted before the training.
        noise: whether the networks predict the variance of each step, and rollouts add this noise. Without it rollouts
            are the members' expected paths.
        folds: whether each member is fitted without one of M parts of the logs. `without_episode` then predicts every
            logged episode with a member that never saw it.
        gain: of each member's estimate of a constant disturbance, see `layers.offset`; 0 for none.
    """

    num_members: Annotated[int, Bounds(at_least=2, at_most=1000)] = 5
    history: Size = 3
    width: Size = 200
    layers: Depth = 3
    beta: Annotated[float, Bounds(at_least=0, at_most=1)] = 0.5
    path_weight: Weight = 1.0
    blanked: Share = 0.05
    timed: bool = False
    bootstrap: bool = True
    linear: bool = False
    noise: bool = True
    folds: bool = False
    gain: Share = 0.0


@dataclass(frozen=True, kw_only=True)
class _StepTable:
    """Steps of logs.

    Args:
        inputs: of the networks: lagged values, then covariates.
        change: of the z-scores.
        known: whether a value was observed before and after the step.
        complete: whether all values of the history were observed.
        counts: number of observations in the history.
        used: whether each member may be fitted to the step.
    """

    inputs: Float[Tensor, "R inputs"]
    change: Float[Tensor, "R size"]
    known: Bool[Tensor, "R size"]
    complete: Bool[Tensor, " R"]
    counts: Int[Tensor, " R"]
    used: Bool[Tensor, "R M"]


class Ensemble(WorldModel):
    """The model. Its belief holds the last `history` observations, once per member.

    A missing value is replaced by each member's prediction and marked with its age. The last observed value is not
    carried forward, because that would ignore the inputs since then. A value that was never observed is predicted as
    the mean, with the variance of the training data.

    Args:
        schema: the signals; actions and exogenous inputs are used in its order.
        config: see `EnsembleConfig`.

    Raises:
        UnknownNameError: the config names a signal that the schema lacks.
        ConfigError: an input is an image.
    """

    Config = EnsembleConfig
    state_size: int = 0
    """Size of the hidden state of recurrent networks."""
    paths_only: bool = False
    """Whether the loss has open-loop errors only."""
    lowest: Tensor
    highest: Tensor

    def __init__(self, *, schema: Schema, config: EnsembleConfig) -> None:
        super().__init__()
        signals = vector_signals(schema, config.inputs, family="ensemble")
        self.schema, self.config, self.context = schema, config, config.history
        self.deterministic, self.rollout_width = not config.noise, config.width
        self.codes = Standardizer(signals)
        self.present = slice(len(self.codes.owner))
        self.inputs = InputNormaliser(schema, timed=config.timed)
        members, size = config.num_members, len(self.codes.owner)
        lagged, ages = config.history * size, config.history * len(signals)
        covariates = ages + config.history * self.inputs.size
        self.layers = self._networks(lagged, covariates)
        if config.noise:
            self.upper = nn.Parameter(torch.full((members, size), 0.5))  # bound of the log variance of z-scores
            self.lower = nn.Parameter(torch.full((members, size), -10.0))  # bound in the units of `_unit`
        self.base = None
        if config.linear:
            self.fits_linear, self.shares = True, (0.0, 0.5, 1.0)
            # Networks that predict a residual see no value beyond the logged ones, where they would extrapolate.
            self.register_buffer("lowest", torch.full((lagged + covariates,), -torch.inf))
            self.register_buffer("highest", torch.full((lagged + covariates,), torch.inf))
            sizes = {"lagged": lagged, "covariates": covariates, "history": config.history, "size": size}
            self.base = LinearBase(num_members=members if config.folds else 1, **sizes)
            self.layers.start_at_zero(slice(ages))

    def _networks(self, lagged: int, covariates: int) -> MemberNetworks:
        config = self.config
        sizes = {"lagged": lagged, "covariates": covariates, "width": config.width, "size": len(self.codes.owner)}
        return MemberNetworks(num_members=config.num_members, layers=config.layers, noisy=config.noise, **sizes)

    def fit_normaliser(self, window: Window) -> None:
        """Fits each component on its observed values. A signal that was never observed keeps its scale."""
        self.codes.fit(window.observations, window.observed)
        self.inputs.fit(window.past)
        if self.base is None:
            return
        steps = self._logged_steps(window)
        rows = steps.known.all(-1) & (steps.counts == self.config.history)
        if (rows & steps.complete).sum() >= ENOUGH_ROWS * steps.inputs.shape[1]:
            rows &= steps.complete
        if not rows.any():
            return
        inputs = steps.inputs[rows]
        low, high = inputs.amin(0), inputs.amax(0)
        self.lowest.copy_(low - MARGIN * (high - low))
        self.highest.copy_(high + MARGIN * (high - low))
        ages = slice(self.layers.lagged, self.layers.lagged + self.config.history * len(self.codes.signals))
        self.lowest[ages], self.highest[ages] = 0.0, 1.0  # logs without gaps show no ages
        change = steps.change[rows] / self.codes.change
        self.base.fit(inputs, change, steps.used[rows, : len(self.base.weight)], ages.stop - ages.start)

    def shrunk(self, share: float) -> AbstractContextManager[None]:
        """A context in which the networks contribute a share of what they learned; 0 leaves the linear forecast."""
        return self.layers.shrunk(share) if self.base is not None else nullcontext()

    @torch.no_grad()
    def single_steps(self, window: Window) -> Callable[[torch.Generator], Losses] | None:
        """The squared error in random rows, other ones for each member.

        None without a linear forecast, with noise, or with several processes.
        """
        if self.base is None or self.config.noise or num_processes() > 1:
            return None
        steps, wide = self._logged_steps(window), self.layers.lagged
        lagged, covariates = steps.inputs[:, :wide], steps.inputs[:, wide:]
        missed = steps.change.repeat(len(self.base.weight), 1, 1)
        for count in steps.counts.unique().tolist():
            rows = steps.counts == count
            parts = self.base.parts(covariates[rows], count, self.codes.change)
            missed[:, rows] -= self.base.change(lagged[rows][None], *parts)
        known, whole = steps.known.any(-1), steps.counts == self.config.history
        table = SingleSteps(
            inputs=steps.inputs.clamp(self.lowest, self.highest),
            targets=missed / (self.base.residual[steps.counts - 1] * self.codes.change),
            known=steps.known.float(),
            whole=tuple((known & whole & member).nonzero()[:, 0].cpu() for member in steps.used.T),
            short=tuple((known & ~whole & member).nonzero()[:, 0].cpu() for member in steps.used.T),
        )

        def loss(generator: torch.Generator) -> Losses:
            error = table.loss(self.layers, table.draw(ROWS, ROWS_SHORT, generator))
            return Losses(terms={"step": error}, weights={"step": 1.0})

        return loss

    def _logged_steps(self, window: Window) -> _StepTable:
        """All steps of logged windows; gaps in the histories are interpolated."""
        seen = self._seen(window.observed)[..., self.codes.owner]
        codes = interpolated(self.codes(window.observations, window.observed), seen)
        now, starts = self.inputs(window.past)[:, 0], torch.arange(window.past.step_s.shape[1], device=codes.device)
        memory = Ensemble._windows(self, codes, now, starts)  # without the hidden states of a subclass
        return _StepTable(
            inputs=torch.cat([self._lagged(memory)[:, 0].flatten(1), memory.covariates(by_step(now))], -1),
            change=by_step(codes.diff(dim=1)),
            known=by_step(seen[:, 1:] & seen[:, :-1]),
            complete=Ensemble._windows(self, seen.float(), now, starts).codes[:, 0].flatten(1).bool().all(-1),
            counts=memory.count(),
            used=~self._fold(window).repeat(len(starts), 1),
        )

    def _fold(self, window: Window) -> Bool[Tensor, "B M"]:
        """Whether each member is fitted without the part of the logs that a window belongs to."""
        members, batch = self.config.num_members, len(window.past.step_s)
        device = window.past.step_s.device
        if not self.num_folds or window.episode is None:
            return torch.zeros(batch, members, dtype=torch.bool, device=device)
        fold = window.episode * members // self.num_episodes
        return torch.as_tensor(fold[:, None] == torch.arange(members, device=device))

    @property
    def num_folds(self) -> int:
        """M with `folds`, once the number of episodes is known."""
        return self.config.num_members if self.config.folds and self.num_episodes else 0

    def without_fold(self, fold: int) -> Ensemble:
        """A model whose members all equal the one that was fitted without this part of the logs."""
        alone = deepcopy(self)
        for name, value in alone.state_dict().items():
            if name.startswith("layers.") or name in ("base.weight", "upper", "lower"):
                value.copy_(value[fold : fold + 1].expand_as(value))
        return alone

    def encode(self, window: Window, *, generator: torch.Generator) -> EnsembleBelief:
        """The last observations, with gaps filled by each member's prediction; draws nothing."""
        codes, seen = self.codes(window.observations, window.observed), self._seen(window.observed)
        now = self.inputs(window.past)[:, 0]
        if is_traced() or not seen.all():
            return self._encode(codes, seen, now)[-1]
        last = torch.tensor([codes.shape[1] - 1], device=codes.device)
        belief = self._windows(codes, now, last).of_members(self.config.num_members)
        observed_errors = self.config.gain and now.shape[1] >= self.config.history
        return replace(belief, errors=self._errors(codes, now)) if observed_errors else belief

    def _errors(self, codes: Codes, now: Tensor) -> Float[Tensor, "B M rows size"]:
        """The errors of all steps that are predicted from a complete history."""
        starts = torch.arange(self.config.history - 1, now.shape[1], device=codes.device)
        predicted, _ = self._predict(self._windows(codes, now, starts), by_step(now[:, starts]))
        error = (by_step(codes[:, 1 + starts])[:, None] - predicted).unflatten(0, (len(starts), len(codes)))
        return all_errors(error.permute(1, 2, 0, 3), self.config.gain)

    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> EnsembleBelief:
        """The belief one step later; draws nothing."""
        codes, seen = self.codes(step.observations, step.observed), self._seen(step.observed)
        return self._update(EnsembleBelief.of(belief), self.inputs(step.past)[:, 0, 0], codes[:, 0], seen[:, 0])

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """One particle per member, each with independent noise at every step (TS-infinity) if the config adds it."""
        batch, versions, _, _ = inputs.actions.shape
        known = self.inputs(inputs).flatten(0, 1)
        members, steps = self.config.num_members, known.shape[1]
        noise = None
        if self.config.noise:
            like = known.new_empty(batch, members, len(self.codes.owner))
            noise = [normal(like.shape, generator, like.device).repeat_interleave(versions, 0) for _ in range(steps)]
        start = EnsembleBelief.of(belief).repeat(versions)
        path, hidden = self._unroll(start, known, noise)
        rollout = start.rollout(path, known, hidden)
        features = rollout.features.unflatten(0, (batch, versions)).flatten(1, 2)
        return replace(rollout, features=features)

    def belief(self, features: Float[Tensor, "B D"]) -> EnsembleBelief:
        """The belief that `features` hold; all members share it."""
        config, signals = self.config, len(self.codes.signals)
        sizes = [config.history * len(self.codes.owner), config.history * signals]
        shared = features[:, None].expand(-1, config.num_members, -1)
        codes, stale, inputs = shared.split([*sizes, (config.history - 1) * self.inputs.size], -1)
        return EnsembleBelief(
            codes=codes.unflatten(-1, (config.history, -1)),
            stale=stale.unflatten(-1, (config.history, signals)),
            inputs=inputs.unflatten(-1, (config.history - 1, self.inputs.size)),
            errors=no_errors(shared[..., : len(self.codes.owner)], config.gain),
            hidden=shared.new_zeros(*shared.shape[:2], 1, self.state_size),
        )

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """Single-step likelihood, open-loop error over whole paths, and the distance of the variance bounds.

        With `bootstrap`, each member weights each window of the training by a random count (Poisson, mean 1). The
        counts are drawn anew at each call, so in the long run all members learn from the same data. This departs from
        the fixed bootstraps of PETS. Some observed values are masked; they remain targets. See also `open_loop`.
        """
        config = self.config
        codes, seen = self.codes(window.observations, window.observed), self._seen(window.observed)
        now, visible = self.inputs(window.past)[:, 0], seen
        share = torch.ones(len(codes), config.num_members, 1, device=codes.device)
        if self.training:

            def counts(shape: tuple[int, ...]) -> Tensor:
                return torch.poisson(torch.ones(shape, device=generator.device), generator).to(codes.device)

            share = share_draw(counts, share.shape) if config.bootstrap else share
            share = share * ~self._fold(window)[..., None]
            chance = share_draw(lambda shape: uniform(shape, generator, seen.device), seen.shape)
            visible = seen & (chance >= config.blanked)
        elif self.num_folds and window.episode is not None:
            share = self._fold(window)[..., None].to(codes.dtype)  # validation, by the member that never saw a window
        only_paths = self.open_loop or self.paths_only
        with torch.no_grad():
            memories = None if only_paths or visible.all() else self._encode(codes, visible, now)
        terms, weights = dict[str, Tensor](), dict[str, float]()
        if not only_paths:
            starts = self._starts(now.shape[1], generator, now.device)
            if memories is None:
                memory = self._windows(codes, now, starts)
            else:
                memory = EnsembleBelief.of(concatenate([memories[start] for start in starts.tolist()]))
            terms["step"] = self._step_loss(codes, seen, now, share, starts, memory)
            weights["step"] = 1.0
            if config.noise:
                terms["bounds"], weights["bounds"] = (self.upper - self.lower).mean(), BOUND_WEIGHT
        if only_paths or (config.path_weight and self.open_loop is None):
            terms["path"] = self._path_loss(codes, seen, now, share, visible, generator)
            weights["path"] = config.path_weight or 1.0
        return Losses(terms=terms, weights=weights)

    def _step_loss(
        self, codes: Codes, seen: Seen, now: Known, share: Shares, starts: Tensor, memory: EnsembleBelief
    ) -> Float[Tensor, ""]:
        """Squared error or beta-NLL of each observed value given the observations before it, in units of `_unit`.

        Without gaps all members share the beliefs at the `starts`, which are cut from the window.
        """
        mean, hidden = self._predict(memory, by_step(now[:, starts]))
        target = by_step(codes[:, 1 + starts])[:, None]
        known = by_step(seen[:, 1 + starts][..., self.codes.owner])[:, None] & ~self._never(memory)
        unit = self._unit(memory.count())[:, None]
        # beta-NLL: the detached factor keeps the likelihood from neglecting errors where the variance is large.
        loss = 0.5 * ((mean - target) / unit).square()
        if self.config.noise:
            # The variance of z-scores, 1, is added if there was no observation.
            variance = self._noise_variance(hidden, unit[:, 0]).transpose(0, 1) + self._never(memory)
            variance = variance / unit.square()
            loss = (loss / variance + 0.5 * variance.log()) * variance.detach() ** self.config.beta
        return share_mean(loss, known * share.repeat(len(starts), 1, 1), 0).mean()

    def _starts(self, length: int, generator: torch.Generator, device: torch.device) -> Int[Tensor, " P"]:
        """The observations of a window from which a step is predicted; a sample of them in training."""
        if not self.training or length <= STARTS_PER_WINDOW + 1:
            return torch.arange(length, device=device)
        first = min(self.config.history, length) - 1
        count = min(STARTS_PER_WINDOW, length - first)
        draw = uniform((2,), generator, device)
        chosen = first + ((torch.arange(count, device=device) + draw[0]) * ((length - first) / count)).long()
        return torch.as_tensor(torch.cat([(draw[1:] * first).long(), chosen]).unique())

    def _path_loss(
        self, codes: Codes, seen: Seen, now: Known, share: Shares, visible: Seen, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Open-loop squared error of each member's means, divided by that of persistence (docs/design/vectors.md).

        Some predictions in training begin after fewer observations than the history, and are as long as the others.
        """
        start = min(self.context, now.shape[1]) - 1
        if self.training and start:
            steps, draw = now.shape[1] - start, uniform((2,), generator, now.device)
            start = int(draw[0] * start / SHORT_SHARE) if draw[0] < SHORT_SHARE else start
            now, codes, seen = now[:, : start + steps], codes[:, : start + steps + 1], seen[:, : start + steps + 1]
        visible = visible[:, : start + 1]
        if visible.all():
            last = torch.tensor([start], device=now.device)
            memory = self._windows(codes[:, : start + 1], now[:, :start], last).of_members(self.config.num_members)
        else:
            memory = self._after_gaps(codes[:, : start + 1], visible, now[:, :start])
        observed_before = ~self._never(memory)
        path = self._unroll(memory, now[:, start:])[0].permute(2, 0, 1, 3)
        target, known = codes[:, start + 1 :].transpose(0, 1), seen[:, start:, self.codes.owner].transpose(0, 1)
        both = (known[1:] & known[0]).float()
        persistence = whole_mean((target - codes[:, start]).square(), both, 1)
        error = (path - target[:, :, None]).square()
        weight = (known[1:, :, None] & observed_before) * share
        relative = (persistence + self.codes.change.square())[:, None]
        if self.open_loop or self.paths_only:  # the gradient of the root: all steps count alike
            squared = whole_mean(error, weight, 1) + MIN_ERROR * self._unit(memory.count())[0].square()
            relative = 2 * (relative * squared).sqrt()
        return (share_mean(error, weight, 1) / relative).mean()

    @torch.no_grad()
    def _after_gaps(self, codes: Codes, seen: Seen, now: Tensor) -> EnsembleBelief:
        """The belief after the last observation of a training window with gaps."""
        return self._encode(codes, seen, now)[-1]

    def _windows(self, codes: Codes, now: Tensor, starts: Int[Tensor, " P"]) -> EnsembleBelief:
        """The beliefs at the observations `starts` of logs without gaps, [P B, 1, ...]: all members share them."""
        config, signals = self.config, len(self.codes.signals)
        return cut_beliefs(codes, now, starts, config.history, signals, gain=config.gain, state_size=self.state_size)

    def _encode(self, codes: Codes, seen: Seen, now: Tensor) -> list[EnsembleBelief]:
        """The belief after each observation; `now` [B, H-1, I] are the inputs between them."""
        members, history = self.config.num_members, self.config.history
        first = codes[:, 0].where(seen[:, 0, self.codes.owner], 0.0)
        stale = torch.ones(len(codes), members, history, len(self.codes.signals), device=codes.device)
        stale[:, :, 0] = (~seen[:, :1]).to(stale.dtype)
        memory = EnsembleBelief(
            codes=first[:, None, None].expand(-1, members, history, -1),
            stale=stale,
            inputs=torch.zeros(len(codes), members, history - 1, self.inputs.size, device=codes.device),
            errors=no_errors(first[:, None].expand(-1, members, -1), self.config.gain),
            hidden=first.new_zeros(len(first), members, 1, self.state_size),
        )
        memories = [memory]
        for step in range(1, codes.shape[1]):
            memories.append(self._update(memories[-1], now[:, step - 1], codes[:, step], seen[:, step]))
        return memories

    def _update(self, memory: EnsembleBelief, now: Tensor, codes: Tensor, seen: Bool[Tensor, "B _"]) -> EnsembleBelief:
        stale = (~seen)[:, None] / (2 - memory.stale[:, :, 0])
        present, gain = codes[:, None].expand(-1, memory.codes.shape[1], -1), self.config.gain
        if not is_traced() and seen.all() and not gain:
            return memory.push(present, stale, now)
        predicted, known = self._predict(memory, now)[0], seen[:, None, self.codes.owner]
        following = memory.push(present.where(known, predicted), stale, now)
        if not gain:
            return following
        counts = known & (memory.stale[:, :, 0, self.codes.owner] == 0)
        counts = counts & (memory.count() == self.config.history)[:, None, None]
        error = following.codes[:, :, 0] - predicted
        return replace(following, errors=add_error(memory.errors, error, counts, gain))

    def _predict(
        self, memory: EnsembleBelief, now: Float[Tensor, "B I"]
    ) -> tuple[Float[Tensor, "B M size"], Float[Tensor, "M B width"]]:
        """Each member's expected codes after the step with inputs `now`, and its last hidden layer."""
        lagged, covariates = self._lagged(memory).flatten(2).transpose(0, 1), memory.covariates(now)
        count = memory.common_count()
        base = None if self.base is None else self.base.parts(covariates, count, self.codes.change)
        known = self.layers.contribution(self._clamped(covariates, lagged=False))
        change, hidden = self._change(lagged, known, base, self._unit(count), self.layers.slices())
        change = change.transpose(0, 1)
        if self.config.gain:
            change = change + offset_of(memory.errors)
        return memory.codes[:, :, 0] + change.where(~self._never(memory), 0.0), hidden

    def _change(
        self,
        lagged: Float[Tensor, "M1 R columns"],
        known: Float[Tensor, "M R width"],
        base: tuple[Tensor, Tensor] | None,
        unit: Float[Tensor, "#R size"],
        slices: Slices,
    ) -> tuple[Float[Tensor, "M R size"], Float[Tensor, "M R width"]]:
        """The expected change of the codes, and the last hidden layer.

        Args:
            lagged: values and changes before.
            known: what the covariates contribute to the networks.
            base: of the linear forecast, see `LinearBase.parts`.
            unit: of the networks' changes.
            slices: of the networks.
        """
        change, hidden = self.layers.change(self._clamped(lagged, lagged=True), known, slices)
        if base is None:
            return change * unit, hidden
        return torch.addcmul(LinearBase.change(lagged, *base), change, unit), hidden

    def _clamped(self, values: Float[Tensor, "*rows columns"], *, lagged: bool) -> Float[Tensor, "*rows columns"]:
        """Lagged values or covariates, limited to the logged range and a margin if there is a linear forecast."""
        if self.base is None:
            return values
        part = slice(self.layers.lagged) if lagged else slice(self.layers.lagged, None)
        return values.clamp(self.lowest[part], self.highest[part])

    def _unroll(
        self, memory: EnsembleBelief, known: Known, noise: Sequence[Tensor] | None = None
    ) -> tuple[Float[Tensor, "B M T size"], Float[Tensor, "B M 1 state"]]:
        """The codes that each member predicts open loop, and the last hidden state.

        Args:
            memory: the start.
            known: the inputs of each step.
            noise: per step [B, M, size], in standard deviations; None for the expected path.
        """
        covariates, bases, units = self._ahead(memory, known)
        clamped = self._clamped(covariates.flatten(0, 1), lagged=False)
        networks = self.layers.contribution(clamped).unflatten(1, covariates.shape[:2])
        lagged, present, unseen, offset = self._start(memory)
        size, slices, path = len(self.codes.owner), self.layers.slices(), list[Tensor]()
        for step, (contribution, base, unit) in enumerate(zip(networks.unbind(1), bases, units, strict=True)):
            change, hidden = self._change(lagged, contribution, base, unit, slices)
            change = change if offset is None else change + offset
            change = change if step else change.where(~unseen, 0.0)
            if noise is not None:
                variance = self._noise_variance(hidden, unit)
                change = change + (variance if step else variance + unseen).sqrt() * noise[step].transpose(0, 1)
            present = present + change
            path.append(present)
            moved = [change / self.codes.change, lagged[..., size:-size]] if self.config.history > 1 else []
            if not step and moved:
                moved[0] = moved[0].where(~unseen, 0.0)
            lagged = torch.cat([present, *moved], -1)
        return torch.stack(path, 2).transpose(0, 1), memory.hidden

    def _start(self, memory: EnsembleBelief) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Lagged values, present, which values were never observed, and the offset, each [M, R, ...], of a start."""
        offset = offset_of(memory.errors).transpose(0, 1) if self.config.gain else None
        parts = self._lagged(memory).flatten(2), memory.codes[:, :, 0], self._never(memory)
        lagged, present, unseen = (part.transpose(0, 1) for part in parts)
        return lagged, present, unseen, offset

    def _ahead(
        self, memory: EnsembleBelief, known: Float[Tensor, "B T I"]
    ) -> tuple[Float[Tensor, "T B covariates"], Sequence[tuple[Tensor, Tensor] | None], list[Tensor]]:
        """What is known of T open-loop steps: covariates, parts of the linear forecast, and units of the changes."""
        history, (batch, steps, _) = self.config.history, known.shape
        back, ages_before = lag_index(torch.arange(steps, device=known.device), history), memory.stale[:, 0].flip(1)
        ages = torch.cat([ages_before, ages_before.new_zeros(batch, steps - 1, ages_before.shape[-1])], 1)
        inputs = torch.cat([memory.inputs[:, 0].flip(1), known], 1)
        covariates = torch.cat([ages[:, back].flatten(2), inputs[:, back].flatten(2)], -1).transpose(0, 1)
        first = memory.common_count()
        # From step `late` on, all rows have a whole history.
        late = min(steps, history - (first if isinstance(first, int) else 1))
        counts = [first + n if isinstance(first, int) else (first + n).clamp(max=history) for n in range(late)]
        units = [self._unit(count) for count in [*counts, history]]
        bases = [None] * steps if self.base is None else self.base.path(covariates, counts, self.codes.change)
        return covariates, bases, [units[min(step, late)] for step in range(steps)]

    def _noise_variance(self, hidden: Float[Tensor, "M R width"], unit: Tensor) -> Float[Tensor, "M R size"]:
        """The variance of the noise of one step, z-scores."""
        spread = self.layers.log_variance(hidden)
        upper, lower = self.upper[:, None] - 2 * unit.log(), self.lower[:, None]
        spread = upper - softplus(upper - spread)
        return (lower + softplus(spread - lower)).exp() * unit.square()

    def _unit(self, count: int | Tensor) -> Float[Tensor, "#R size"]:
        """The unit of the networks' changes after so many observations: the base's usual error, or a usual change."""
        if self.base is None:
            return self.codes.change[None]
        return self.base.residual[count - 1].view(-1, len(self.codes.change)) * self.codes.change

    def _lagged(self, memory: EnsembleBelief) -> Float[Tensor, "B M history size"]:
        """The present z-scores, and the changes before in units of one step's change; 0 if they were not observed."""
        observed_once = memory.stale[..., self.codes.owner] < 1
        moved = (memory.codes[:, :, :-1] - memory.codes[:, :, 1:]) / self.codes.change
        moved = moved.where(observed_once[:, :, :-1] & observed_once[:, :, 1:], 0.0)
        return torch.cat([memory.codes[:, :, :1], moved], 2)

    def _never(self, memory: EnsembleBelief) -> Bool[Tensor, "B M size"]:
        return memory.stale[:, :, 0, self.codes.owner] == 1

    def _seen(self, observed: Observed) -> Bool[Tensor, "*lead signals"]:
        return torch.stack([observed[signal.name] for signal in self.codes.signals], -1)
