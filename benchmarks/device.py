"""Training and planning with LeWM on the GPU against the CPU of the same run.

Run: .venv/bin/python benchmarks/device.py [--repeats 11] [--quick]
Writes benchmarks/results/device.json (with --quick only prints).
Without a GPU it prints that there is none, and writes nothing.

Both devices have the same new weights and the same windows. A training step is that of `worldline learn`: loss in
bfloat16 where the device supports it, gradient, clipping, AdamW. A plan is one search of the cross-entropy method (300
candidates, 3 rounds, 5 steps) for the squared distance to a goal's latent at the last step. The devices take turns.
The rate of the card is that of the product of two 8192 by 8192 matrices in bfloat16.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from common import Row, arguments, ratio_interval, show_bars, spread, write
from torch import Tensor
from train import Size, flops_per_window

from worldline.device import CPU, autocast, choose_device, describe_device
from worldline.models.base import Inputs, Window
from worldline.models.lewm import Lewm, LewmConfig
from worldline.planning.planners.base import ActionSpace, PlanCosts
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal

SIDE, FRAMES, ACTIONS, HORIZON = 64, 4, 10, 5
TRAINING_BAR: Final = 5.0
"""Smallest ratio of training speeds, GPU to CPU."""
MATRIX_SIDE: Final = 8192


@dataclass(frozen=True, kw_only=True)
class Side:
    """Model, optimiser and data on one device."""

    device: torch.device
    model: Lewm
    optimizer: torch.optim.Optimizer
    window: Window

    @staticmethod
    def on(device: torch.device, batch: int) -> Side:
        """The same weights and windows on every device."""
        torch.manual_seed(0)
        camera = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(SIDE, SIDE, 3))
        block = Signal(name="block", role=Role.ACTION, kind=Kind.VECTOR, shape=(ACTIONS,))
        model = Lewm(schema=Schema(signals=(camera, block)), config=LewmConfig(inputs=("camera",), patch=8))
        frames = torch.randint(256, (batch, FRAMES, SIDE, SIDE, 3), dtype=torch.uint8)
        actions = torch.randn(batch, 1, FRAMES - 1, ACTIONS)
        model.to(device)
        window = Window(
            observations={"camera": frames.to(device)},
            observed={"camera": torch.ones(batch, FRAMES, dtype=torch.bool, device=device)},
            past=_inputs(actions.to(device)),
        )
        return Side(device=device, model=model, optimizer=torch.optim.AdamW(model.parameters()), window=window)

    def train(self) -> None:
        """One step of training."""
        self.model.train()
        self.optimizer.zero_grad()
        with autocast(self.device):
            loss = self.model.loss(self.window, generator=torch.Generator(self.device)).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    @torch.no_grad()
    def plan(self) -> None:
        """One search."""
        self.model.eval()
        generator, one = torch.Generator(self.device), self.window.first(1)
        belief = self.model.encode(one, generator=generator).select(
            torch.zeros(1, dtype=torch.long, device=self.device)
        )
        goal = self.model.encode(one, generator=generator).features()[-1:, 0, None]

        def cost(actions: Tensor) -> PlanCosts:
            features = self.model.rollout(belief, _inputs(actions), generator=generator).features
            error = (features[:, :, 0, -1] - goal).square().sum(-1)
            return PlanCosts(cost=error, violation=error.new_zeros(*error.shape, 0))

        ones = torch.ones(ACTIONS, device=self.device)
        planner = CrossEntropy(num_candidates=300, num_iterations=3, num_elites=30)
        planner.plan(cost, ActionSpace(low=-ones, high=ones), batch=1, horizon=HORIZON, generator=torch.Generator())

    def seconds(self, work: Callable[[], None]) -> float:
        """The time of `work`, its kernels included."""
        started = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started


def _inputs(actions: Tensor) -> Inputs:
    return Inputs(
        actions=actions, exogenous=None, step_s=torch.ones(len(actions), actions.shape[2], device=actions.device)
    )


def matrix_rate(device: torch.device) -> float:
    """The highest measured rate of a large product in bfloat16, in TFLOP/s."""
    left, right = torch.randn(2, MATRIX_SIDE, MATRIX_SIDE, dtype=torch.bfloat16, device=device)
    times = []
    for _ in range(20):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        torch.mm(left, right)
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * MATRIX_SIDE**3 / min(times) / 1e12


def measure(gpu: torch.device, repeats: int, batch: int) -> Row:
    """The speeds of both devices, and their ratios."""
    sides = {"gpu": Side.on(gpu, batch), "cpu": Side.on(CPU, batch)}
    result: Row = {"gpu": describe_device(gpu), "batch": batch, "tflops_of_card": matrix_rate(gpu)}
    for name, per_run in (("train", batch), ("plan", 1)):
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(repeats + 1):
            for side, one in sides.items():
                seconds = one.seconds(getattr(one, name))
                if turn:  # the first turn is for warm-up
                    rates[side].append(per_run / seconds)
        result[name] = {
            "ratio": ratio_interval(rates["gpu"], rates["cpu"]),
            **{side: spread(values) for side, values in rates.items()},
        }
    flops = flops_per_window(Size(image=SIDE, patch=8, compared=2, batch=batch))["ours"]
    result["tflops_of_training"] = flops * result["train"]["gpu"]["median"] / 1e12
    ratio = result["train"]["ratio"]["median"]
    result["bars"] = {"train": {"met": ratio >= TRAINING_BAR, "ratio": ratio, "bar": TRAINING_BAR}}
    return result


def main() -> None:
    """Measures, prints and writes."""
    options = arguments(__doc__, repeats=11, quick=False)
    if not torch.cuda.is_available():
        print("This machine has no CUDA GPU, so nothing was measured and nothing was written.")
        return
    result = measure(choose_device("cuda"), 2 if options.quick else options.repeats, 8 if options.quick else 64)
    for name in ("gpu", "tflops_of_card", "train", "plan", "tflops_of_training"):
        print(name, result[name])
    show_bars(result["bars"])
    if not options.quick:
        write(options.out, result)


if __name__ == "__main__":
    main()
