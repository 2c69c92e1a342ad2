"""Planning problems whose optimum is known, and what every test of a planner asks."""

from __future__ import annotations

import torch
from torch import Tensor

from worldline.planning.planners.base import ActionSpace, CostFunction, PlanCosts, PlannedActions, Planner


def solve(
    planner: Planner, cost: CostFunction, bound: float, horizon: int, seed: int = 0, proposals: Tensor | None = None
) -> PlannedActions:
    """One problem of one number in [-bound, bound] a step."""
    space = ActionSpace(low=torch.tensor([-bound]), high=torch.tensor([bound]))
    generator = torch.Generator().manual_seed(seed)
    return planner.plan(cost, space, batch=1, horizon=horizon, proposals=proposals, generator=generator)


def free(cost: Tensor) -> PlanCosts:
    return PlanCosts(cost=cost, violation=cost.new_zeros(*cost.shape, 0))


def pushed_cart(actions: Tensor) -> PlanCosts:
    """A cart at 1 with speed 0, pushed by [B, N, T, 1]: its squared positions and half the squared pushes."""
    position, speed, total = torch.ones(actions.shape[:2]), 0.0, 0.0
    for push in actions[..., 0].unbind(2):
        speed = speed + push
        position = position + speed
        total = total + position**2 + 0.5 * push**2
    return free(total)


def optimum(horizon: int) -> tuple[Tensor, float]:
    """The unconstrained optimum of `pushed_cart`, as the solution of the linear-quadratic problem."""
    lag = torch.arange(horizon)[:, None] - torch.arange(horizon)
    response = (lag + 1).clamp(min=0).double()  # of each position to each push
    hessian = response.T @ response + 0.5 * torch.eye(horizon)
    pushes = -torch.linalg.solve(hessian, response.T @ torch.ones(horizon).double()).float()
    return pushes, pushed_cart(pushes[None, None, :, None]).cost.item()


def kept_below_one(actions: Tensor) -> PlanCosts:
    """Steps from 0, as near to 2 as they can get without passing 1: at best one step, then none; 1 a step."""
    place = actions[..., 0].cumsum(2)
    return PlanCosts(cost=(place - 2).square().sum(2), violation=(place - 1).clamp(min=0).amax(2, keepdim=True))


class Listening:
    """A cost that keeps what it is asked.

    Args:
        cost: what it gives.

    Attributes:
        asked: the actions of every call.
    """

    def __init__(self, cost: CostFunction) -> None:
        self.cost = cost
        self.asked: list[Tensor] = []

    def __call__(self, actions: Tensor) -> PlanCosts:
        self.asked.append(actions.detach().clone())
        return self.cost(actions)
