"""The networks of a learned world with tensors only, for other runtimes: `start`, `update` and `step`.

`start` maps a first observation to a belief, `update` adds one more observation, and `step` predicts one step. A belief
is some tensors. The results are those of `World.predict`, without bands and trust.

The networks are made to be traced with their example arguments. All sizes are fixed, also the number of rows of `step`.
The rows may differ in their inputs, and have one past in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions
from torch.func import functionalize
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from worldline.device import Draws
from worldline.engines.base import Engine
from worldline.engines.learned import LearnedEngine
from worldline.errors import UnsupportedError
from worldline.models.base import Inputs, Window
from worldline.models.layers.codes import from_code, to_code
from worldline.models.layers.tracing import tracing
from worldline.schema import Kind, Signal

Tensors = Mapping[str, Tensor]
"""Arguments or results by name, in order."""

OBSERVATION: Final = "observation."
"""Prefix of the names of observations; the name of the signal follows."""


class StepNetwork(nn.Module):
    """One of the three networks, as a function of tensors.

    Args:
        engine: a learned one, on the CPU.
        arguments: examples.
        compute: maps arguments to results.
    """

    def __init__(
        self, engine: LearnedEngine, arguments: Tensors, compute: Callable[[Tensors, torch.Generator], Tensors]
    ) -> None:
        super().__init__()
        draws = Draws()
        self.model, self.readout, self._compute = engine.model, engine.readout, compute
        self.results = dict(compute(arguments, draws))
        self.arguments = dict(arguments) | {f"noise.{n}": numbers for n, numbers in enumerate(draws.drawn)}

    @torch.no_grad()
    def traced(self) -> GraphModule:
        """The same function as a graph of tensor operations without branches, for the sizes of the examples."""
        with tracing():
            operations: Any = core_aten_decompositions().materialize()
            trace = make_fx(functionalize(self, remove="mutations"), operations, _error_on_data_dependent_ops=False)
            graph: GraphModule = trace(*self.arguments.values())
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """The results, in the order of `results`."""
        named = dict(zip(self.arguments, arguments, strict=True))
        draws = Draws([numbers for name, numbers in named.items() if name.startswith("noise.")])
        return tuple(self._compute(named, draws).values())


@dataclass(frozen=True, kw_only=True)
class StepNetworks:
    """The networks of a world.

    The names of arguments and results are:

        observation.NAME  [1, *shape], a signal in its unit; the label of a discrete one.
        observed          [1, number of observations], 1 if the signal was observed, else 0.
        inputs            [rows, size], all actions, then all exogenous signals, in their units; discrete as one-hot.
        belief.N          [rows, ...], part N of a belief; one row for `start` and `update`.
        noise.N           [rows, ...], draw N of a stochastic model.
        signals           [rows, size], all predicted signals, in their units; the label of a discrete one.

    Args:
        start: from observation.*, observed and noise.* to belief.*.
        update: from belief.*, inputs, observation.*, observed and noise.* to belief.*.
        step: from belief.*, inputs and noise.* to belief.* and signals.
        num_members: samples in each row, whose mean is in `signals`.
    """

    start: StepNetwork
    update: StepNetwork
    step: StepNetwork
    num_members: int


@torch.no_grad()
def step_networks(engine: Engine, num_rows: int = 1, *, num_samples: int = 0) -> StepNetworks:
    """The networks of an engine.

    Args:
        engine: of the world.
        num_rows: number of futures that one call of `step` computes, at least 1.
        num_samples: if above 0, `signals` has one row: the mean over so many samples of all rows, without bounds.

    Raises:
        UnsupportedError: the engine is not learned, adapts, or has a belief that grows with each step.
    """
    if not isinstance(engine, LearnedEngine):
        raise UnsupportedError(f"the engine {engine.describe().engine!r} has no networks. Export a learned world.")
    if engine.adaptation is not None:
        raise UnsupportedError("the world adapts, so its belief grows with each step. Open it without adaptation.")
    model, schema = engine.model, engine.schema
    signals = [schema[name] for name in engine.inputs]
    observation = {OBSERVATION + signal.name: _example(signal) for signal in signals}
    observation["observed"] = torch.ones(1, len(signals))
    no_inputs = torch.zeros(1, sum(signal.size for signal in (*schema.actions, *schema.exogenous)))

    def window(named: Tensors) -> Window:
        """One observation, and the inputs that lead to it if there are any."""
        past = _inputs(engine, named.get("inputs", no_inputs))
        return Window(
            observations={name: named[OBSERVATION + name][:, None] for name in engine.inputs},
            observed=dict(zip(engine.inputs, (named["observed"] > 0.5)[..., None].unbind(1), strict=True)),
            past=past if "inputs" in named else past.steps(slice(0)),
        )

    first = model.encode(window(observation), generator=Draws())
    rows = first.select(torch.zeros(num_rows, dtype=torch.long))

    def start(named: Tensors, draws: torch.Generator) -> Tensors:
        return _parts(model.encode(window(named), generator=draws), "next")

    def update(named: Tensors, draws: torch.Generator) -> Tensors:
        return _parts(model.update(_restored(first, named), window(named), generator=draws), "next")

    def step(named: Tensors, draws: torch.Generator) -> Tensors:
        rollout = model.rollout(_restored(rows, named), _inputs(engine, named["inputs"]), generator=draws)
        read = engine.readout(rollout.features[:, 0, :, 0])
        if num_samples:
            read = {name: samples.flatten(0, 1)[None, :num_samples] for name, samples in read.items()}
        points = [_point(schema[name], samples, clipped=not num_samples) for name, samples in read.items()]
        return {**_parts(rollout.final, "next"), "signals": torch.cat(points, -1)}

    networks = StepNetworks(
        start=StepNetwork(engine, observation, start),
        update=StepNetwork(engine, {**_parts(first), "inputs": no_inputs, **observation}, update),
        step=StepNetwork(engine, {**_parts(rows), "inputs": no_inputs.expand(num_rows, -1).clone()}, step),
        num_members=first.features().shape[1],
    )
    results = [network.results for network in (networks.start, networks.update, networks.step)]
    sizes = [[part.shape[1:] for name, part in named.items() if name != "signals"] for named in results]
    if sizes[1:] == [sizes[0]] * 2:
        return networks
    raise UnsupportedError(
        f"the belief of {type(model).__name__} grows with each step, and exported networks have fixed sizes. "
        "Learn the world with another family or predictor, such as `--model ensemble`."
    )


def _example(signal: Signal) -> Tensor:
    dtypes = {Kind.DISCRETE: torch.int64, Kind.IMAGE: torch.uint8, Kind.VECTOR: torch.float32}
    return torch.zeros(1, *signal.shape, dtype=dtypes[signal.kind])


def _inputs(engine: LearnedEngine, values: Float[Tensor, "rows size"]) -> Inputs:
    """One step of each row."""
    num_actions = sum(signal.size for signal in engine.schema.actions)
    return Inputs(
        actions=values[:, None, None, :num_actions],
        exogenous=values[:, None, num_actions:] if engine.schema.exogenous else None,
        step_s=torch.full_like(values[:, :1], engine.schema.step_s or 1.0),
    )


def _point(signal: Signal, samples: Tensor, *, clipped: bool) -> Float[Tensor, "rows size"]:
    """The prediction of one signal from samples [rows, S, *shape], as `World.predict` shows it."""
    if signal.kind is Kind.DISCRETE:
        return to_code(signal, samples).sum(1).argmax(-1, keepdim=True).float()
    if signal.period is not None:
        return from_code(signal, to_code(signal, samples).mean(1))
    mean = samples.mean(1)
    for limit, clip in ((signal.low, torch.maximum), (signal.high, torch.minimum)):
        mean = clip(mean, torch.tensor(limit)) if clipped and limit is not None else mean
    return mean


def _parts(belief: object, prefix: str = "belief") -> dict[str, Tensor]:
    """The tensors of a belief, without empty ones."""
    return {f"{prefix}.{n}": part for n, part in enumerate(part for part in _leaves(belief) if part.numel())}


def _leaves(part: Any) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif is_dataclass(part) or isinstance(part, tuple):
        for inner in vars(part).values() if is_dataclass(part) else part:
            yield from _leaves(inner)


def _restored(like: Any, named: Tensors) -> Any:
    """The belief with the tensors of `_parts`; all else is that of `like`."""
    left = iter([part for name, part in named.items() if name.startswith("belief.")])

    def restored(part: Any) -> Any:
        if isinstance(part, Tensor):
            return next(left) if part.numel() else part
        if isinstance(part, tuple):
            return tuple(restored(inner) for inner in part)
        if is_dataclass(part) and not isinstance(part, type):
            return replace(part, **{field.name: restored(getattr(part, field.name)) for field in fields(part)})
        return part

    return restored(like)
