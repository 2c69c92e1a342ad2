"""What a straight line says of the next step: a linear autoregression, solved for before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from worldline.models.layers.changes import changes

RIDGE = 1e-9
"""Penalty on the squared weights, relative; for inputs that never change."""


LEAST = 1e-5
"""Share of a step's change that a network beside the forecast can always express."""
CONCENTRATIONS = 10
"""How often the steps that are missed most are told anew."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """The steps before the present one, the nearest first.

    Args:
        steps: values and inputs of each side by side, 0 where there was none.
        count: how many there were, at most h - 1.
        guessed: of each value how many of the latest, the present one among them, were predicted and not seen.
    """

    steps: Float[Tensor, "B before both"]
    count: Int[Tensor, " B"]
    guessed: Int[Tensor, "B size"]

    def select(self, index: Tensor) -> Past:
        """The past of the batch entries in `index`."""
        return Past(steps=self.steps[index], count=self.count[index], guessed=self.guessed[index])

    def flat(self) -> Float[Tensor, "B numbers"]:
        """Everything side by side, the count last; what was guessed counts as seen."""
        return torch.cat([self.steps.flatten(1), self.count[:, None].to(self.steps.dtype)], -1)

    def meet(self, lacks: Float[Tensor, "B size"], seen: Bool[Tensor, "B size"]) -> Past:
        """The past of what is seen now: guesses since it was last seen were as far off as the present one.

        Else the leap from the last guess to what is seen would pass for a speed.

        Args:
            lacks: what is seen less what was predicted; where not seen anything.
            seen: which values are.
        """
        size, before = seen.shape[1], torch.arange(self.steps.shape[1], device=seen.device)
        off = seen[:, None] & (before[:, None] < self.guessed[:, None] - 1)
        values = self.steps[..., :size] + torch.where(off, lacks[:, None].to(self.steps.dtype), 0.0)
        steps = torch.cat([values, self.steps[..., size:]], -1)
        return replace(self, steps=steps, guessed=self.guessed.masked_fill(seen, 0))


class LinearForecast(nn.Module):
    """The change of some values in one step, linear in the last h values and inputs; with fewer known, in those.

    Args:
        size: values.
        num_inputs: of a step.
        history: h, at least 1.
        values: of the last h values how many it is made from, at most, beside all h inputs; 0 for all. If it is given,
            a network beside the forecast is shown these values alone, see `shown`, and adds what is missed, see `unit`.
        trim: share of the steps, those that it misses most, that it is not solved for, 0 to below 1.
    """

    weight: Tensor
    missed: Tensor
    """[size], root mean square of what the forecast from the longest past misses; where a stretch was not all
    observed, it misses all of a change."""
    misses: list[Tensor]
    """Of the forecast from one step, from two, and so on, over all stretches that were observed; from `fit`."""

    def __init__(self, *, size: int, num_inputs: int, history: int, values: int = 0, trim: float = 0.0) -> None:
        super().__init__()
        self.size, self.both, self.history = size, size + num_inputs, history
        self.values, self.trim, self.in_part = min(values or history, history), trim, values > 0
        self.register_buffer("weight", torch.zeros(history, history * self.both + 1, size))  # one for each count
        self.register_buffer("missed", torch.ones(size))
        self.misses: list[Tensor] = []

    @property
    def num_flat(self) -> int:
        """Numbers that `Past.flat` gives."""
        return (self.history - 1) * self.both + 1

    @property
    def num_shown(self) -> int:
        """Numbers that `shown` gives."""
        return (self.values - 1) * self.both + self.size if self.in_part else self.num_flat

    def shown(self, past: Past, forecast: Float[Tensor, "B size"]) -> Float[Tensor, "B shown"]:
        """What a network that learns what the forecast misses is given beside the present.

        All of the past; or, where a number of values is given, the steps of these and the forecast, which stands for
        whatever lies further back: a network that is shown every old input finds nothing in minutes. How many steps
        there were is not told, as in training there are fewer than in use.

        Args:
            past: before the present.
            forecast: of the present, in units that suit a network.
        """
        if not self.in_part:
            return past.flat()
        return torch.cat([past.steps[:, : self.values - 1].flatten(1), forecast.to(past.steps.dtype)], -1)

    def unit(self, change: Float[Tensor, " size"]) -> Float[Tensor, " size"]:
        """What a network that learns what the forecast misses is to measure it in.

        The change of a step; or, where a number of values is given, what is missed. Where that is next to nothing the
        network can add next to nothing: it would only blur the law.

        Args:
            change: of each value in a step, root mean square.
        """
        if not self.in_part:
            return change
        return torch.minimum(change, self.missed.maximum(LEAST * change))

    def begin(self, batch: int, device: torch.device) -> Past:
        """No past, and a present that was seen."""
        steps = torch.zeros(batch, self.history - 1, self.both, device=device)
        zeros = torch.zeros(batch, self.size, dtype=torch.long, device=device)
        return Past(steps=steps, count=zeros[:, 0], guessed=zeros)

    def past(self, flat: Float[Tensor, "B numbers"]) -> Past:
        """The past that `Past.flat` gave."""
        steps = flat[:, :-1].unflatten(1, (self.history - 1, self.both))
        zeros = torch.zeros(len(flat), self.size, dtype=torch.long, device=flat.device)
        return Past(steps=steps, count=flat[:, -1].round().long(), guessed=zeros)

    @torch.no_grad()
    def fit(
        self,
        values: Float[Tensor, "B H size"],
        known: Float[Tensor, "B T inputs"],
        observed: Bool[Tensor, "B H size"],
    ) -> None:
        """Least squares over all stretches of which every value it needs was observed; without any, no change."""
        both = torch.cat([values[:, :-1], known], -1).double()
        change, all_observed = values.diff(dim=1).double(), observed.all(-1)
        unseen, gap = changes(values.double(), observed)
        self.misses = []
        for count in range(1, self.history + 1):
            num = both.shape[1] - count + 1
            if num < 1:
                break
            nearest_first = [both[:, count - 1 - back :][:, :num] for back in range(count)]
            rows = torch.cat([*nearest_first, torch.ones_like(both[:, :num, :1])], -1)
            used = min(count, self.values)
            whole = torch.stack([all_observed[:, place:][:, :num] for place in range(count - used, count + 1)]).all(0)
            taken = self._taken(count)
            seen, due = rows[whole][:, taken], change[:, count - 1 :][whole]
            if len(seen) <= seen.shape[1]:
                break
            found = torch.zeros(rows.shape[-1], self.size)
            found[taken] = _solved(seen, due, self.trim).float()
            # Longer pasts go on with what the longest that could be solved for says.
            self.weight[count - 1 :, : count * self.both], self.weight[count - 1 :, -1] = found[:-1], found[-1]
            left = due - seen @ found[taken].double()
            self.misses.append(left.square().mean(0).sqrt().float())
            off = unseen[:, count - 1 :].clone()
            off[whole] = left
            told = gap[:, count - 1 :] > 0
            self.missed.copy_((off.square().sum((0, 1)) / told.sum((0, 1)).clamp(min=1)).sqrt())

    def enough(self, change: Float[Tensor, " size"], slack: float) -> int:
        """The fewest steps from which the forecast misses hardly more of any value than from the most; at least 1.

        Args:
            change: of each value in a step, root mean square.
            slack: share that it may miss more.
        """
        if not self.misses:
            return 1
        due = (1 + slack) * self.misses[-1].maximum(LEAST * change)
        return next(count for count, one in enumerate(self.misses, start=1) if (one <= due).all())

    def _taken(self, count: int) -> Bool[Tensor, " row"]:
        """Which numbers of a row of `count` steps the forecast is made from."""
        steps = torch.ones(count, self.both, dtype=torch.bool)
        steps[self.values :, : self.size] = False
        return torch.cat([steps.flatten(), torch.ones(1, dtype=torch.bool)])

    def forward(
        self, values: Float[Tensor, "B size"], known: Float[Tensor, "B inputs"], past: Past
    ) -> tuple[Float[Tensor, "B size"], Past]:
        """The change, and the past of the next step."""
        with torch.autocast(values.device.type, enabled=False):  # it is exact where the world is linear
            now = torch.cat([values, known], -1).float()[:, None]
            steps = torch.cat([now, past.steps.float()], 1)
            row = torch.cat([steps.flatten(1), torch.ones_like(now[:, 0, :1])], -1)
            first = past.count[0]
            if (past.count == first).all():
                change = row @ self.weight[first]
            else:
                every = torch.einsum("bn,cns->bcs", row, self.weight)
                change = every[torch.arange(len(row), device=row.device), past.count]
        count = (past.count + 1).clamp(max=self.history - 1)
        return change, Past(steps=steps[:, : self.history - 1], count=count, guessed=past.guessed + 1)


def _solved(
    seen: Float[Tensor, "n numbers"], due: Float[Tensor, "n size"], trim: float
) -> Float[Tensor, "numbers size"]:
    """Least squares; with `trim`, each value again and again without the steps that were missed most.

    Source: Rousseeuw and Van Driessen (2006), the concentration steps of least trimmed squares.
    """
    found = _least_squares(seen, due)
    kept = len(seen) - round(trim * len(seen))
    if kept == len(seen) or kept <= seen.shape[1]:
        return found
    for _ in range(CONCENTRATIONS):
        nearest = (due - seen @ found).abs().argsort(0)[:kept]
        parts = [_least_squares(seen[rows], due[rows, n : n + 1]) for n, rows in enumerate(nearest.T)]
        found = torch.cat(parts, 1)
    return found


def _least_squares(seen: Float[Tensor, "n numbers"], due: Float[Tensor, "n size"]) -> Float[Tensor, "numbers size"]:
    products = seen.T @ seen
    ridge = RIDGE * products.diagonal().mean() * torch.eye(len(products), dtype=torch.double)
    return torch.as_tensor(torch.linalg.solve(products + ridge, seen.T @ due))


def leave_forecast(predictor: nn.Module, num_exact: int) -> None:
    """Has the predictor add nothing to the forecast of the first `num_exact` numbers at first."""
    assert isinstance(predictor, nn.Sequential)
    leave = predictor[-1]
    assert isinstance(leave, nn.Linear)
    nn.init.zeros_(leave.weight[:num_exact])
    nn.init.zeros_(leave.bias[:num_exact])
