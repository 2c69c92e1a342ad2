"""Networks as programs for `static/program.js`: short lists of operations on arrays of numbers.

Sizes are fixed, so operations that only move values need no code. A value is a view of the places in a buffer, and a
slice, transposition or repetition is another view. It is stored as an offset and strides.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter
from torch.utils._pytree import tree_leaves, tree_map

from worldline.errors import UnsupportedError
from worldline.world.step_networks import StepNetwork

MOVES: Final = re.compile("expand|flip|index|index_select|permute|select|slice|split_with_sizes|squeeze|unsqueeze|view")
MAPS: Final = re.compile(
    "add|bitwise_(and|not|or)|div|eq|exp|gelu|gt|log|log1p|logical_not|lt|maximum|minimum|mul|ne|pow|sigmoid|sqrt|sub|tanh|where"
)
REDUCTIONS: Final = re.compile("any|mean|sum")


@dataclass(frozen=True, eq=False)
class Value:
    """A value at run time.

    Args:
        buffer: that holds it.
        places: in the buffer, in the shape of the value.
    """

    buffer: int
    places: Tensor


@dataclass(frozen=True)
class Weights:
    """The numbers that all programs of a page share; equal arrays are kept once."""

    parts: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)

    def place(self, values: Tensor) -> list[int]:
        """Offset and number of the values."""
        raw = values.detach().float().contiguous().numpy().astype("<f4").tobytes()
        offset = sum(len(part) for _, part in self.parts.values()) // 4
        return [self.parts.setdefault(hashlib.sha256(raw).digest(), (offset, raw))[0], values.numel()]

    def packed(self) -> str:
        """All numbers as float32, compressed, in base64."""
        raw = b"".join(part for _, part in self.parts.values())
        return base64.b64encode(gzip.compress(raw, mtime=0)).decode()


def to_program(network: StepNetwork, weights: Weights) -> dict[str, Any]:
    """The program of a network, as plain values for JSON.

    Args:
        network: to compile.
        weights: gets its numbers.

    Returns:
        `sizes` of the buffers, `constants` [buffer, offset, length], `arguments` by name, `results` by name as operands
        with their shapes, and `steps`. An operand is a buffer; or [buffer, offset, stride per axis]; or
        [buffer, places].

    Raises:
        UnsupportedError: the page has no code for an operation.
    """
    compiler = _Compiler(network.traced(), weights)
    values = [compiler.new(example.shape) for example in network.arguments.values()]
    results = [compiler.value(result) for result in compiler.run(*values)]
    return {
        "sizes": [len(base) for base in compiler.bases],
        "constants": compiler.constants,
        "arguments": {name: value.buffer for name, value in zip(network.arguments, values, strict=True)},
        "results": {
            name: [compiler.operand(value), value.places.shape]
            for name, value in zip(network.results, results, strict=True)
        },
        "steps": compiler.steps,
    }


class _Compiler(Interpreter):
    """Runs a graph with places instead of numbers. What depends on constants only is computed."""

    def __init__(self, graph: GraphModule, weights: Weights) -> None:
        super().__init__(graph)
        self.weights, self.bases = weights, list[Tensor]()
        self.constants, self.steps = list[list[int]](), list[list[Any]]()

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of one operation; appends its steps."""
        name = getattr(target, "overloadpacket", target).__name__
        first: Any = args[0] if args else None
        if not any(isinstance(leaf, Value) for leaf in tree_leaves(args)) or name == "getitem":
            return super().call_function(target, args, kwargs)
        others = tree_leaves(args[1:])
        if MOVES.fullmatch(name) and isinstance(first, Value) and not any(isinstance(leaf, Value) for leaf in others):
            move = torch.Tensor.reshape if name == "view" else target
            return tree_map(lambda places: Value(first.buffer, places), move(first.places, *args[1:]))
        if MAPS.fullmatch(name) and not kwargs:
            return self._map(name, args)
        if REDUCTIONS.fullmatch(name) and len(args) > 1 and not kwargs:
            return self._reduced(name, first, *args[1:])
        known = getattr(self, f"on_{name}", None)
        if known is None:
            raise UnsupportedError(f"the page has no code for the operation {target}. Export the world with --as onnx.")
        return known(*args, **kwargs)

    def new(self, shape: Sequence[int]) -> Value:
        """A value in a new buffer."""
        self.bases.append(torch.arange(torch.Size(shape).numel()))
        return Value(len(self.bases) - 1, self.bases[-1].view(torch.Size(shape)))

    def value(self, value: Value | Tensor | float) -> Value:
        """The value, which is in a buffer afterwards."""
        if isinstance(value, Value):
            return value
        numbers = torch.as_tensor(value)
        placed = self.new(numbers.shape)
        self.constants.append([placed.buffer, *self.weights.place(numbers)])
        return placed

    def operand(self, value: Value) -> int | list[Any]:
        """The value as an operand of a step."""
        base, places = self.bases[value.buffer], value.places
        if places.untyped_storage().data_ptr() != base.untyped_storage().data_ptr():
            return [value.buffer, places.flatten().tolist()]
        if places.is_contiguous() and places.numel() == len(base):
            return value.buffer
        return [value.buffer, places.storage_offset(), *places.stride()]

    def _map(self, name: str, values: Sequence[Any]) -> Value:
        placed = [self.value(value) for value in values]
        spread = torch.broadcast_tensors(*(value.places for value in placed))
        out = self.new(spread[0].shape)
        operands = [self.operand(Value(value.buffer, places)) for value, places in zip(placed, spread, strict=True)]
        self.steps.append([name, out.buffer, spread[0].shape, *operands])
        return out

    def _reduced(self, name: str, value: Value, axes: int | Sequence[int], keep: bool = False) -> Value:
        chosen = [axes] if isinstance(axes, int) else list(axes)
        last = value.places.movedim(chosen, list(range(-len(chosen), 0)))
        out = self.new(last.shape[: last.ndim - len(chosen)])
        size = last.shape[last.ndim - len(chosen) :].numel()
        self.steps.append([name, out.buffer, last.shape, self.operand(Value(value.buffer, last)), size])
        return Value(out.buffer, out.places.view(torch.empty(value.places.shape).sum(chosen, keepdim=keep).shape))

    def _put(self, shape: Sequence[int], parts: Sequence[tuple[Value, Tensor]], out: Value | None = None) -> Value:
        """A new value of zeros with other values at some of its places."""
        out = out or self.new(shape)
        for value, target in parts:
            operands = self.operand(value), self.operand(Value(out.buffer, target))
            self.steps.append(["put", out.buffer, value.places.shape, *operands])
        return out

    def _dense(self, value: Value | Tensor) -> Value:
        """The value, in order, as the only one in its buffer."""
        placed = self.value(value)
        if self.operand(placed) == placed.buffer:
            return placed
        out = self.new(placed.places.shape)
        return self._put((), [(placed, out.places)], out)

    def on_mm(self, left: Value | Tensor, right: Value | Tensor) -> Value:
        a, b = self._dense(left), self._dense(right)
        (m, k), n, batch = a.places.shape[-2:], b.places.shape[-1], a.places.shape[:-2]
        out = self.new((*batch, m, n))
        self.steps.append(["product", out.buffer, a.buffer, b.buffer, batch.numel(), m, k, n])
        return out

    on_bmm = on_mm

    def on_addmm(self, added: Any, left: Value | Tensor, right: Value | Tensor) -> Value:
        return self._map("add", [self.on_mm(left, right), added])

    def on_clamp(self, value: Any, low: Any = None, high: Any = None) -> Value:
        for name, limit in (("maximum", low), ("minimum", high)):
            value = value if limit is None else self._map(name, [value, limit])
        return self.value(value)

    def on_cat(self, values: Sequence[Any], axis: int = 0) -> Value:
        parts = [self.value(value) for value in values]
        sizes = [part.places.shape[axis] for part in parts]
        shape = list(parts[0].places.shape)
        shape[axis] = sum(sizes)
        out = self.new(shape)
        targets = out.places.split(sizes, axis)
        return self._put((), [pair for pair in zip(parts, targets, strict=True) if len(pair[1].flatten())], out)

    def on_constant_pad_nd(self, value: Value, sizes: Sequence[int], fill: float = 0.0) -> Value:
        out = self.new(torch.nn.functional.pad(value.places, list(sizes)).shape)
        return self._put((), [(value, torch.nn.functional.pad(out.places, [-size for size in sizes]))], out)

    def on_index(self, table: Tensor, indices: Sequence[Any]) -> Value:
        """Blocks of a constant, chosen along one axis by one number each."""
        (axis,) = [number for number, index in enumerate(indices) if index is not None]
        rows, index = table.movedim(axis, 0), self._dense(indices[axis])
        out, source = self.new((*index.places.shape, *rows.shape[1:])), self.value(rows.contiguous())
        self.steps.append(["rows", out.buffer, source.buffer, index.buffer, rows[0].numel()])
        return Value(out.buffer, out.places.movedim(0, axis))

    def on_full_like(self, value: Value, fill: float, **kwargs: Any) -> Tensor:
        return torch.full(value.places.shape, fill)

    def on_copy(self, old: Value | Tensor, value: Any) -> Value:
        places = old.places if isinstance(old, Value) else old
        placed = self.value(value)
        return Value(placed.buffer, placed.places.expand(places.shape))

    def on__to_copy(self, value: Value, dtype: torch.dtype, **kwargs: Any) -> Value:
        if dtype.is_floating_point:
            return value
        return self._map("ne", [value, 0.0]) if dtype == torch.bool else self._map("trunc", [value])

    def on_clone(self, value: Value, **kwargs: Any) -> Value:
        return value

    on_alias = on_clone
