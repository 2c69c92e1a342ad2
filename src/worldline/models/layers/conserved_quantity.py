"""A conserved quantity, such as an energy, that is found in the logs and that corrects predictions.

If a contact has two possible outcomes, their mean is shorter than either, so predicted motion loses energy. The
weighted sum of squared lengths w x is often much easier to predict than directions. x holds the squared lengths of all
vectors, w their weights. With the right weights w x changes only by the work done, and a regression predicts the work.

The fit minimises the error of the regression relative to the error of the predictions, at the end of paths. This is a
generalised eigenvalue problem in w. If the relative error is small, each predicted step is moved to the surface on
which w x equals the regression. Each component moves in proportion to its prediction error (docs/design/conserved.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

MAX_LAW_ERROR_SHARE: Final = 0.1
"""Maximum mean squared error of an accepted law, relative to that of the predictions."""
RIDGE: Final = 1e-6
"""Relative penalty of the regression, and of directions without prediction error."""
SLOPE_DAMPING: Final = 1e-4
"""Share of the usual squared slope that is added to each, so that steps stay bounded where the slope is almost 0."""
MAX_CHANGE_SHARE: Final = 0.5
"""Maximum relative change of a value in one iteration."""
ITERATIONS: Final = 3
"""Newton steps of the projection on the law."""
MAX_SETTINGS: Final = 2
"""Maximum number of scalars that are constant within an episode, such as a damping, on which a law may depend."""
MIN_STEPS_PER_REGRESSOR: Final = 10
"""Minimum number of logged steps per regressor."""


class ConservedQuantity(nn.Module):
    """The law, if one was found. There is none before `fit`.

    Args:
        states: positions of vectors in the values; at least one.
        inputs: positions of vectors in the inputs.
    """

    weight: Tensor
    """[vectors], weights of the squared lengths; all 0 if there is no law."""
    gain: Tensor
    """[regressors], coefficients of the change of the weighted sum in one step."""
    setting: Tensor
    """Positions of the settings in the values; -1 for none."""
    slope: Tensor
    """Mean squared slope of the weighted sum."""

    def __init__(self, *, states: Sequence[slice], inputs: Sequence[slice]) -> None:
        super().__init__()
        self.states, self.inputs = tuple(states), tuple(inputs)
        sizes = [place.stop - place.start for place in (*self.states, *self.inputs)]
        self.pairs = [(a, b) for b, size in enumerate(sizes) for a in range(b + 1) if sizes[a] == size]
        num = (len(self.pairs) + 1) * (1 + 2 * MAX_SETTINGS)
        self.register_buffer("weight", torch.zeros(len(self.states)))
        self.register_buffer("gain", torch.zeros(num))
        self.register_buffer("setting", torch.full((MAX_SETTINGS,), -1))
        self.register_buffer("slope", torch.ones(()))

    @property
    def found(self) -> bool:
        """Whether there is a law."""
        return bool(self.weight.any())

    def drop(self) -> None:
        """Removes the law."""
        self.weight.zero_()

    @torch.no_grad()
    def fit(
        self,
        values: Float[Tensor, "B T1 size"],
        inputs: Float[Tensor, "B T inputs"],
        imagined: Float[Tensor, "B T size"],
        error_scale: Float[Tensor, " size"],
    ) -> None:
        """Fits a law, and keeps it if it predicts the end of the paths much better than the predictions do.

        Args:
            values: observed values, physical units.
            inputs: physical units.
            imagined: open-loop predictions from the first of the values.
            error_scale: of the prediction error of each value in one step.
        """
        law = deepcopy(self).cpu()  # not every device has double precision
        law._fit(values.cpu().double(), inputs.cpu().double(), imagined.cpu().double(), error_scale.cpu())
        self.load_state_dict(law.state_dict())

    def _fit(self, values: Tensor, inputs: Tensor, imagined: Tensor, error_scale: Tensor) -> None:
        self.drop()
        if inputs.shape[:2].numel() < MIN_STEPS_PER_REGRESSOR * len(self.gain):
            return
        constant = [
            place.start
            for place in self.states
            if place.stop - place.start == 1 and not values[..., place].diff(dim=1).any() and values[..., place].std()
        ]
        self.setting.copy_(self.setting.new_tensor([*constant, *[-1] * MAX_SETTINGS][:MAX_SETTINGS]))
        lengths = self._lengths(values)
        regressors, change = self._regressors(values[:, :-1], inputs), lengths.diff(dim=1)
        gain = _solve(regressors.flatten(0, 1), change.flatten(0, 1))
        model_error = self._lengths(imagined[:, -1]) - lengths[:, -1]
        law_error = (change - regressors @ gain).sum(1)
        mean_square = model_error.square().mean(0)
        # Vectors that are predicted exactly need no law; their near-zero errors would make the problem singular.
        inexact = mean_square > RIDGE * lengths.flatten(0, 1).var(0).clamp(min=torch.finfo().tiny)
        if not inexact.any():
            return
        scale = mean_square[inexact].sqrt()
        both = [part[:, inexact] / scale for part in (model_error, law_error)]
        model, law = (part.T @ part / len(part) for part in both)
        # Generalised eigenvalues of law w = ratio model w, by Cholesky: `eigh` solves ordinary problems only.
        root = torch.linalg.cholesky(model + RIDGE * torch.eye(len(model), dtype=model.dtype, device=model.device))
        half = torch.linalg.solve_triangular(root, law, upper=False)
        ratios, directions = torch.linalg.eigh(torch.linalg.solve_triangular(root, half.mT, upper=False))
        if ratios[0] > MAX_LAW_ERROR_SHARE:
            return
        coefficients = torch.linalg.solve_triangular(root.mT, directions[:, :1], upper=True)[:, 0] / scale
        weight = torch.zeros(len(self.states), dtype=coefficients.dtype, device=coefficients.device)
        weight[inexact] = coefficients / coefficients.abs().max()
        self.weight.copy_(weight)
        self.gain.copy_(gain @ weight)
        self.slope.copy_(((2 * self._spread(values) * values * error_scale).square()).sum(-1).mean())

    def forward(
        self,
        before: Float[Tensor, "M size"],
        inputs: Float[Tensor, "M inputs"],
        after: Float[Tensor, "M size"],
        error_scale: Float[Tensor, " size"],
    ) -> Float[Tensor, "M size"]:
        """The prediction `after`, moved until the law holds between `before` and it; arguments as for `fit`."""
        target = self._lengths(before) @ self.weight + self._regressors(before, inputs) @ self.gain
        spread = self._spread(after)
        for _ in range(ITERATIONS):
            error = self._lengths(after) @ self.weight - target
            slope = (2 * spread * after * error_scale).square().sum(-1) + SLOPE_DAMPING * self.slope
            share = 2 * spread * error_scale.square() * (error / slope)[..., None]
            after = after * (1 - share.clamp(-MAX_CHANGE_SHARE, MAX_CHANGE_SHARE))
        return after

    def _lengths(self, values: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead vectors"]:
        return torch.stack([values[..., place].square().sum(-1) for place in self.states], -1)

    def _regressors(
        self, values: Float[Tensor, "*lead size"], inputs: Float[Tensor, "*lead inputs"]
    ) -> Float[Tensor, "*lead regressors"]:
        """All inner products and a 1, each also multiplied by every setting and by its square."""
        vectors = [values[..., place] for place in self.states] + [inputs[..., place] for place in self.inputs]
        products = [(vectors[a] * vectors[b]).sum(-1) for a, b in self.pairs]
        plain = torch.stack([*products, torch.ones_like(products[0])], -1)
        settings = torch.where(self.setting >= 0, values[..., self.setting.clamp(min=0)], 0.0)
        factors = torch.cat([torch.ones_like(settings[..., :1]), settings, settings.square()], -1)
        return (plain[..., None, :] * factors[..., None]).flatten(-2)

    def _spread(self, values: Float[Tensor, "*lead size"]) -> Float[Tensor, " size"]:
        """The weight of each component."""
        spread = torch.zeros(values.shape[-1], dtype=values.dtype, device=values.device)
        for place, weight in zip(self.states, self.weight, strict=True):
            spread[place] = weight.to(values.dtype)
        return spread


def _solve(rows: Float[Tensor, "n given"], target: Float[Tensor, "n vectors"]) -> Float[Tensor, "given vectors"]:
    """Ridge regression on scaled regressors; regressors that are always 0 get weight 0."""
    size = rows.square().mean(0).sqrt()
    size = torch.where(size > 0, size, 1.0)
    scaled = rows / size
    products = scaled.mT @ scaled / len(rows)
    penalty = RIDGE * torch.eye(len(products), dtype=rows.dtype, device=rows.device)
    return torch.as_tensor(torch.linalg.solve(products + penalty, scaled.mT @ target / len(rows)) / size[:, None])
