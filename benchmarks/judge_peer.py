"""Fitted Q evaluation of controllers from logs, as a peer of benchmarks/judge.py. Measures nothing.

A network maps the last four observations, the last four actions, exogenous inputs, the reference and an action to the
discounted cost of a controller. It is fitted to logged steps, whose next action is that of the controller in the logged
history.

Source: Le, Voloshin, Yue, "Batch Policy Learning under Constraints", 2019 (arXiv 1903.08738), algorithm 3.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import torch
from judge_cases import JudgeCase
from stranger_plants import Table
from torch import nn

from worldline.control.controllers import Controller
from worldline.control.imagination import logged_runs, loop_of
from worldline.control.run_goal import run_figures

PAST: Final = 4
DISCOUNT: Final = 0.97
BATCH: Final = 512
AVERAGE: Final = 0.01
"""Share of new weights in the target network after each update."""


def fitted_q(case: JudgeCase, controller: Controller, at: int, cpu_s: float) -> float:
    """The predicted mean cost of a step from step `at` of the logged episodes on."""
    goals = [case.goal.logged_targets(episode, case.known) for episode in case.episodes]
    cost = run_figures(logged_runs(case.known, case.episodes, goals, at=at), case.goal, case.known).step_cost
    seen, acts, outside = (
        np.stack([np.concatenate([table[n] for n in sorted(table)], 1) for table in tables])
        for tables in (
            [episode.observations for episode in case.episodes],
            [episode.actions for episode in case.episodes],
            [episode.exogenous for episode in case.episodes],
        )
    )
    wanted = chosen(case, controller, at)
    acts, wanted = ((2 * (a - case.plant.low) / (case.plant.high - case.plant.low) - 1) for a in (acts, wanted))
    steps = range(at, acts.shape[1])
    past = np.stack(
        [
            np.concatenate(
                [
                    *(seen[:, max(0, t - k)] for k in range(PAST)),
                    *(acts[:, max(0, t - 1 - k)] for k in range(PAST)),
                    outside[:, t],
                ],
                1,
            )
            for t in steps
        ],
        1,
    )
    past = (past - past.mean((0, 1))) / np.maximum(past.std((0, 1)), 1e-9)
    unit = cost.mean()
    network, target = (net(past.shape[2] + acts.shape[2]) for _ in range(2))
    target.load_state_dict(network.state_dict())
    rows = [
        torch.as_tensor(np.concatenate(part).astype(np.float32))
        for part in zip(
            *(
                (
                    np.concatenate([past[:, k], acts[:, at + k]], 1),
                    np.concatenate([past[:, k + 1], wanted[:, k + 1]], 1),
                    cost[:, k, None] / unit,
                )
                for k in range(len(steps) - 1)
            ),
            strict=True,
        )
    ]
    optimiser, draw = torch.optim.Adam(network.parameters(), 1e-3), torch.Generator().manual_seed(case.seed)
    begun = time.process_time()
    while time.process_time() - begun < cpu_s:
        batch = torch.randint(len(rows[0]), (BATCH,), generator=draw)
        now, later, paid = (part[batch] for part in rows)
        with torch.no_grad():
            goal = (1 - DISCOUNT) * paid + DISCOUNT * target(later)
        loss = (network(now) - goal).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for mine, new in zip(target.parameters(), network.parameters(), strict=True):
                mine.lerp_(new, AVERAGE)
    every = torch.as_tensor(np.concatenate([past, wanted], 2).astype(np.float32))
    with torch.no_grad():  # of all logged steps: the first ones alone cost more than the mean
        return float(unit * network(every).mean())


def net(size: int) -> nn.Sequential:
    """Two hidden layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))


def chosen(case: JudgeCase, controller: Controller, at: int) -> Table:
    """The actions [W, T, m] of the controller in the logged histories from step `at` on."""
    loop, rows = loop_of(controller, case.known, 2), []
    for step in range(at, case.episodes[0].num_steps):
        seen, past, goals = (
            {name: np.stack([table[name][row] for table in tables]) for name in names}
            for tables, names, row in (
                ([e.observations for e in case.episodes], [s.name for s in case.known.observations], step),
                ([e.exogenous for e in case.episodes], [s.name for s in case.known.exogenous], max(0, step - 1)),
                ([{"y0": e.exogenous["r"]} for e in case.episodes], ["y0"], step),
            )
        )
        acts = loop.act(seen, exogenous=past, goals=goals)
        rows.append(np.concatenate([acts[signal.name] for signal in case.known.actions], 1))
    return np.stack(rows, 1).astype(np.float64)
