"""Stored latents, on which heads are fitted without reading images again, and rollouts of a frozen model from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from worldline.device import device_of
from worldline.models.base import Inputs, WorldModel
from worldline.schema import Schema
from worldline.training.batches import PictureGoals, Trace

Rows = Bool[Tensor, " M"]
"""Which rows of a table are meant."""
HELD_OUT_EVERY: Final = 5
"""One of this many training episodes is held out, to detect overfitting of heads."""
ROUNDING: Final = 1e-4
"""Largest change of a feature that counts as constant; features have a standard deviation near 1."""
MAX_VALIDATION_STATES: Final = 1024
"""Maximum number of states, each with a rollout, on which a head is validated."""


@dataclass(frozen=True, kw_only=True)
class LatentTable:
    """The latents of all episodes, one row each, with the inputs after each latent (0 after the last).

    Args:
        features: the latents.
        actions: concatenated, physical units.
        exogenous: concatenated; None if the schema has none.
        step_s: duration of the step, s.
        episode: number of the episode in the store.
        first: row of the episode's first latent.
        length: number of latents in the episode.
        held_out: whether the episode is held out.
        whole: whether all inputs of the model were observed.
        pictures: the observations as image-only goals; None unless the model takes images and other signals.
    """

    features: Float[Tensor, "M D"]
    actions: Float[Tensor, "M A"]
    exogenous: Float[Tensor, "M E"] | None
    step_s: Float[Tensor, " M"]
    episode: Int[Tensor, " M"]
    first: Int[Tensor, " M"]
    length: Int[Tensor, " M"]
    held_out: Bool[Tensor, " M"]
    whole: Bool[Tensor, " M"]
    pictures: PictureGoals | None = None

    @staticmethod
    def of(traces: Sequence[Trace], episodes: Sequence[int]) -> LatentTable:
        """The table of these episodes, in any order, without `pictures`."""
        device = traces[0].features.device
        lengths = torch.tensor([len(trace.features) for trace in traces], device=device)
        firsts = lengths.cumsum(0) - lengths
        known = [trace.exogenous for trace in traces if trace.exogenous is not None]
        order = torch.arange(len(traces), device=device)
        held_out = (order % HELD_OUT_EVERY == min(len(traces), HELD_OUT_EVERY) - 1) & (len(traces) > 1)
        return LatentTable(
            features=torch.cat([trace.features for trace in traces]),
            actions=torch.cat([pad(trace.actions, (0, 0, 0, 1)) for trace in traces]),
            exogenous=torch.cat([pad(inputs, (0, 0, 0, 1)) for inputs in known]) if known else None,
            step_s=torch.cat([pad(trace.step_s, (0, 1)) for trace in traces]),
            episode=torch.tensor(list(episodes), device=device).repeat_interleave(lengths),
            first=firsts.repeat_interleave(lengths),
            length=lengths.repeat_interleave(lengths),
            held_out=held_out.repeat_interleave(lengths),
            whole=torch.cat([trace.whole for trace in traces]),
        )

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.features.device

    @property
    def steps_after(self) -> Int[Tensor, " M"]:
        """Number of logged steps after each row."""
        return self.first + self.length - torch.arange(len(self.features), device=self.device) - 1

    @property
    def numbers(self) -> list[int]:
        """The episodes' numbers in the store, in order."""
        return self.episode[self.first.unique()].tolist()

    @cached_property
    def changing(self) -> Bool[Tensor, " D"]:
        """Whether a feature changes during an episode; True for all without `pictures`."""
        if self.pictures is None:
            return torch.ones(self.features.shape[1], dtype=torch.bool, device=self.device)
        return ((self.features - self.features[self.first]).abs() > ROUNDING).any(0)

    def pairs(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows of `count` random states, and for each the row of a random state of the same episode.

        If some features do not change during an episode, every second goal is of any episode.
        """
        rows = torch.randint(len(self.features), (count,), generator=generator, device=self.device)
        share = torch.rand(count, generator=generator, device=self.device)
        goals = self.first[rows] + (share * self.length[rows]).long()
        if not self.changing.all():
            goals[::2] = (share[::2] * len(self.features)).long()
        return rows, goals

    def starts(self, count: int, num_steps: int, generator: torch.Generator) -> Tensor:
        """Rows of `count` random states with at least `num_steps` logged steps after them."""
        able = (self.steps_after >= num_steps).nonzero()[:, 0]
        return able[torch.randint(len(able), (count,), generator=generator, device=self.device)]


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Rollouts from stored latents under the logged inputs; the first latent of each path is the stored one.

    Args:
        features: the stored latent, then T predicted ones.
        rows: rows of the table with the corresponding encoded latents.
        inside: whether this row exists in the same episode; otherwise features and row are meaningless.
    """

    features: Float[Tensor, "T1 B D"]
    rows: Int[Tensor, "T1 B"]
    inside: Bool[Tensor, "T1 B"]


class Imagination:
    """Rollouts of a frozen model from stored latents.

    Args:
        model: in evaluation mode.
        schema: of the logs.
        generator: for all draws, on the device of the model.
    """

    def __init__(self, model: WorldModel, schema: Schema, generator: torch.Generator) -> None:
        self._model, self.generator, self.present = model, generator, model.present
        self._step_s = schema.step_s or 1.0
        self.device = device = device_of(model)
        self.low = torch.tensor([bound for signal in schema.actions for bound in signal.low or ()], device=device)
        self.high = torch.tensor([bound for signal in schema.actions for bound in signal.high or ()], device=device)

    def step(self, latent: Float[Tensor, "B D"], action: Float[Tensor, "B A"]) -> Float[Tensor, "B D"]:
        """The latent after `action`, without exogenous inputs."""
        step_s = torch.full((len(action), 1), self._step_s, device=self.device)
        return self._rollout(latent, action[:, None], None, step_s)[:, 0]

    def logged(self, table: LatentTable, rows: Int[Tensor, " B"], num_steps: int) -> Float[Tensor, "T B D"]:
        """The predicted latents after each of the next steps, from the latents in `rows` under the logged inputs."""
        ahead = (rows[:, None] + torch.arange(num_steps, device=self.device)).clamp(max=len(table.features) - 1)
        exogenous = None if table.exogenous is None else table.exogenous[ahead]
        path = self._rollout(table.features[rows], table.actions[ahead], exogenous, table.step_s[ahead])
        return path.transpose(0, 1)

    @torch.no_grad()
    def paths(self, table: LatentTable, rows: Int[Tensor, " B"], num_steps: int) -> Paths:
        """Rollouts from `rows`, without gradient. Near the end of an episode a path leaves it (`inside` is False)."""
        elapsed = torch.arange(num_steps + 1, device=self.device)[:, None]
        imagined = self.logged(table, rows, num_steps)
        return Paths(
            features=torch.cat([table.features[rows][None], imagined]).float(),
            rows=(rows + elapsed).clamp(max=len(table.features) - 1),
            inside=elapsed <= table.steps_after[rows],
        )

    def draw(self, table: LatentTable, among: Bool[Tensor, " M"], count: int, num_steps: int) -> Paths:
        """Paths from `count` random rows where `among` is True."""
        able = among.nonzero()[:, 0]
        drawn = torch.randint(len(able), (count,), generator=self.generator, device=self.device)
        return self.paths(table, able[drawn], num_steps)

    def exam(self, table: LatentTable, held_out: Bool[Tensor, " M"], num_steps: int) -> Paths | None:
        """The paths on which a head is validated, always the same; None if nothing is held out."""
        able = held_out.nonzero()[:, 0]
        if not len(able):
            return None
        generator = torch.Generator(self.device).manual_seed(0)
        order = torch.randperm(len(able), generator=generator, device=self.device)
        return self.paths(table, able[order[:MAX_VALIDATION_STATES]], num_steps)

    def random_actions(self, count: int) -> Float[Tensor, "B A"]:
        """Random actions, uniform over the action space."""
        share = torch.rand(count, len(self.low), generator=self.generator, device=self.device)
        return self.low + share * (self.high - self.low)

    def _rollout(
        self, latent: Tensor, actions: Tensor, exogenous: Tensor | None, step_s: Tensor
    ) -> Float[Tensor, "B T D"]:
        inputs = Inputs(actions=actions[:, None], exogenous=exogenous, step_s=step_s)
        belief = self._model.belief(latent)
        return self._model.rollout(belief, inputs, generator=self.generator).features[:, 0].mean(1)
