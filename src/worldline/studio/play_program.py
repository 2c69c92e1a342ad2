"""ONNX networks as programs for `static/play.js`: short lists of operations on arrays of numbers.

Sizes are fixed, so operations that only move values need no code. Each value is an array of places in a buffer, and a
slice, transposition or repetition is another array of places. It is stored as an offset and strides.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.errors import UnsupportedError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Numbers = NDArray[Any]
Operand = int | list[Any]
"""A buffer, or [buffer, offset, stride per axis], or [buffer, places]."""

MOVES: Final = re.compile("Expand|Flatten|Gather|GatherND|Identity|Reshape|Slice|Split|Squeeze|Transpose|Unsqueeze")
MAPS: Final = re.compile(
    "Abs|Add|And|Atan|Cos|Div|Equal|Erf|Exp|Floor|Gelu|Greater|GreaterOrEqual|Less|LessOrEqual|Log|Max|Min|Mod|Mul|Neg|"
    "Not|Or|Pow|Reciprocal|Relu|Sigmoid|Sign|Sin|Softplus|Sqrt|Sub|Tanh|Where"
)
REDUCTIONS: Final = re.compile("Reduce(Max|Mean|Min|Sum)")
OPSET: Final = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """A value at run time.

    Args:
        buffer: that holds it.
        places: in the buffer, in the shape of the value.
    """

    buffer: int
    places: NDArray[np.int64]


@dataclass(frozen=True)
class Weights:
    """The numbers that all programs of a page share; equal arrays are kept once."""

    parts: dict[bytes, tuple[int, Numbers]] = field(default_factory=dict)

    def place(self, values: Numbers) -> list[int]:
        """Offset and length of the values."""
        flat = np.ascontiguousarray(values, np.float32).ravel()
        offset = sum(len(part) for _, part in self.parts.values())
        return [self.parts.setdefault(hashlib.sha256(flat.tobytes()).digest(), (offset, flat))[0], len(flat)]

    def packed(self) -> str:
        """All numbers as float32, compressed, in base64."""
        numbers = [part for _, part in self.parts.values()]
        raw = np.concatenate([np.zeros(0, np.float32), *numbers]).astype("<f4").tobytes()
        return base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode()


def to_program(model: ModelProto, weights: Weights) -> dict[str, Any]:
    """The program of a network, as plain values for JSON.

    Args:
        model: has fixed sizes.
        weights: gets its numbers.

    Returns:
        `sizes` of the buffers, `constants` [buffer, offset, length], `arguments` by name, `results` as operands with
        their number of values, and `steps`.

    Raises:
        UnsupportedError: the page has no code for an operation.
    """
    compiler = _Compiler(model.graph, weights)
    for node in model.graph.node:
        compiler.add(node)
    return compiler.program()


class _Compiler:
    def __init__(self, graph: GraphProto, weights: Weights) -> None:
        from onnx import numpy_helper

        self.graph, self.weights = graph, weights
        self.sizes, self.constants, self.steps = list[int](), list[list[int]](), list[list[Any]]()
        self.values: dict[str, Value | Numbers | None] = {"": None}
        self.values |= {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for argument in graph.input:
            self.values[argument.name] = self._new([size.dim_value for size in argument.type.tensor_type.shape.dim])

    def program(self) -> dict[str, Any]:
        results = {result.name: self._value(self.values[result.name]) for result in self.graph.output}
        return {
            "sizes": self.sizes,
            "constants": self.constants,
            "arguments": {
                argument.name: self._value(self.values[argument.name]).buffer for argument in self.graph.input
            },
            "results": {name: [self._operand(value), value.places.shape] for name, value in results.items()},
            "steps": self.steps,
        }

    def add(self, node: NodeProto) -> None:
        """Appends the steps of a node."""
        inputs, kind = [self.values[name] for name in node.input], node.op_type
        runtime = [isinstance(value, Value) for value in inputs]
        if not any(runtime):
            results: Sequence[Value | Numbers] = _evaluate(node, inputs)
        elif MOVES.fullmatch(kind) and not any(runtime[1:]):
            moved = self._value(inputs[0])
            results = [Value(buffer=moved.buffer, places=p) for p in _evaluate(node, [moved.places, *inputs[1:]])]
        else:
            results = [self._computed(node, kind, inputs)]
        self.values |= dict(zip(node.output, results, strict=True))

    def _computed(self, node: NodeProto, kind: str, inputs: list[Any]) -> Value:
        attributes = _attributes(node)
        if kind == "Cast":
            return self._cast(inputs[0], attributes["to"])
        if kind == "Clip":
            ends = [("Max", inputs[1]), *([("Min", inputs[2])] if len(inputs) > 2 else [])]
            value = self._value(inputs[0])
            for limit, end in ends:
                value = value if end is None else self._map(limit, [value, end])
            return value
        if MAPS.fullmatch(kind) and attributes.get("approximate", b"none") == b"none":
            return self._map(kind, inputs)
        if kind == "MatMul":
            return self._product(*inputs)
        if kind == "Gemm" and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0:
            left, right = (
                _transposed(value) if attributes.get(flag) else value
                for value, flag in zip(inputs[:2], ("transA", "transB"), strict=True)
            )
            product = self._product(left, right)
            return self._map("Add", [product, inputs[2]]) if len(inputs) > 2 else product
        if REDUCTIONS.fullmatch(kind):
            return self._reduced(kind, self._value(inputs[0]), inputs[1:], attributes)
        if kind == "Concat":
            return self._joined([self._value(value) for value in inputs], attributes["axis"])
        if kind == "Pad" and attributes.get("mode", b"constant") == b"constant" and not any(map(np.any, inputs[2:3])):
            value = self._value(inputs[0])
            ordinal = np.arange(value.places.size).reshape(value.places.shape)
            (padded,) = _evaluate(node, [ordinal + 1, inputs[1], np.int64(0)][: len(inputs)])
            return self._put(padded.shape, [(value, np.flatnonzero(padded))])
        if kind == "ScatterElements" and attributes.get("reduction", b"none") == b"none":
            data, updates = self._value(inputs[0]), self._value(inputs[2])
            ordinal = np.arange(updates.places.size).reshape(updates.places.shape)
            (changed,) = _evaluate(node, [np.full(data.places.shape, -1), inputs[1], ordinal])
            target = np.empty(ordinal.size, np.int64)
            target[changed[changed >= 0]] = np.flatnonzero(changed >= 0)
            return self._put(data.places.shape, [(data, np.arange(data.places.size)), (updates, target)])
        if kind in ("Gather", "GatherND") and isinstance(inputs[0], np.ndarray) and not attributes.get("axis"):
            return self._rows(inputs[0], self._value(inputs[1]), nested=kind == "GatherND")
        raise UnsupportedError(f"the page has no code for the operation {kind!r}. Export the world with --as onnx.")

    def _map(self, name: str, inputs: Sequence[Value | Numbers]) -> Value:
        values = [self._value(value) for value in inputs]
        shape = np.broadcast_shapes(*(value.places.shape for value in values))
        out = self._new(shape)
        spread = [Value(buffer=v.buffer, places=np.broadcast_to(v.places, shape)) for v in values]
        self.steps.append([name, out.buffer, list(shape), *map(self._operand, spread)])
        return out

    def _cast(self, source: Value, to: int) -> Value:
        from onnx import TensorProto

        if to in (TensorProto.FLOAT, TensorProto.DOUBLE):
            return source
        return self._map("Truth" if to == TensorProto.BOOL else "Trunc", [source])

    def _product(self, left: Value | Numbers, right: Value | Numbers) -> Value:
        a, b = self._dense(left), self._dense(right)
        (m, k), n = a.places.shape[-2:], b.places.shape[-1]
        batch = np.broadcast_shapes(a.places.shape[:-2], b.places.shape[:-2])
        out = self._new((*batch, m, n))
        starts = [np.broadcast_to(value.places[..., 0, 0], batch).ravel().tolist() for value in (a, b)]
        self.steps.append(["Product", out.buffer, a.buffer, b.buffer, m, k, n, *starts])
        return out

    def _reduced(self, kind: str, value: Value, axes: list[Any], attributes: Mapping[str, Any]) -> Value:
        rank = value.places.ndim
        chosen = sorted(int(axis) % rank for axis in (axes[0] if axes else range(rank)))
        last = np.moveaxis(value.places, chosen, range(rank - len(chosen), rank))
        kept = last.shape[: rank - len(chosen)]
        out = self._new(kept)
        count = int(np.prod(last.shape[len(kept) :]))
        operand = self._operand(Value(buffer=value.buffer, places=last))
        self.steps.append([kind, out.buffer, list(last.shape), operand, count])
        if not attributes.get("keepdims", 1):
            return out
        return Value(buffer=out.buffer, places=np.expand_dims(out.places, tuple(chosen)))

    def _joined(self, values: Sequence[Value], axis: int) -> Value:
        shape = list(values[0].places.shape)
        shape[axis] = sum(value.places.shape[axis] for value in values)
        target = np.arange(int(np.prod(shape))).reshape(shape)
        ends = np.cumsum([value.places.shape[axis] for value in values])[:-1]
        parts = np.split(target, ends, axis)
        return self._put(shape, [(value, part.ravel()) for value, part in zip(values, parts, strict=True) if part.size])

    def _rows(self, table: Numbers, index: Value, *, nested: bool) -> Value:
        """Blocks of a constant, chosen along its first axis by one number each."""
        lead = index.places.shape[:-1] if nested else index.places.shape
        if nested and index.places.shape[-1] != 1:
            raise UnsupportedError("the page cannot choose by two numbers at once. Export the world with --as onnx.")
        out, block = self._new((*lead, *table.shape[1:])), int(np.prod(table.shape[1:]))
        source, places = self._value(table), self._dense(index)
        self.steps.append(["Rows", out.buffer, source.buffer, places.buffer, block])
        return out

    def _put(self, shape: Sequence[int], parts: Sequence[tuple[Value, Numbers]]) -> Value:
        """A new value of zeros with other values at some of its places."""
        out = self._new(shape)
        for value, target in parts:
            shaped = Value(buffer=out.buffer, places=target.reshape(value.places.shape))
            self.steps.append(
                ["Put", out.buffer, list(value.places.shape), self._operand(value), self._operand(shaped)]
            )
        return out

    def _new(self, shape: Sequence[int]) -> Value:
        self.sizes.append(int(np.prod(shape)))
        places = np.arange(self.sizes[-1], dtype=np.int64).reshape(tuple(shape))
        return Value(buffer=len(self.sizes) - 1, places=places)

    def _value(self, value: Value | Numbers | None) -> Value:
        """The value, which is in a buffer afterwards."""
        assert value is not None  # only `Clip` has absent arguments
        if isinstance(value, Value):
            return value
        placed = self._new(value.shape)
        self.constants.append([placed.buffer, *self.weights.place(value)])
        return placed

    def _dense(self, value: Value | Numbers) -> Value:
        """The value in a buffer of its own, in order."""
        placed = self._value(value)
        whole = self.sizes[placed.buffer] == placed.places.size
        if whole and np.array_equal(placed.places.ravel(), np.arange(placed.places.size)):
            return placed
        return self._put(placed.places.shape, [(placed, np.arange(placed.places.size))])

    def _operand(self, value: Value) -> Operand:
        places, shape = value.places, value.places.shape
        if places.size == self.sizes[value.buffer] and np.array_equal(places.ravel(), np.arange(places.size)):
            return value.buffer
        if not places.size:
            return [value.buffer, []]
        first = int(places.flat[0])
        strides = [int(np.take(places, 1, axis).flat[0]) - first if size > 1 else 0 for axis, size in enumerate(shape)]
        grid = np.full(shape, first)
        for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
            grid += (np.arange(size) * stride).reshape([-1 if other == axis else 1 for other in range(len(shape))])
        affine = np.array_equal(grid, places)
        return [value.buffer, first, *strides] if affine and shape else [value.buffer, places.ravel().tolist()]


def _transposed(value: Value | Numbers) -> Value | Numbers:
    return Value(buffer=value.buffer, places=value.places.T) if isinstance(value, Value) else value.T


def _evaluate(node: NodeProto, inputs: Sequence[Any]) -> list[Numbers]:
    from onnx.reference import ReferenceEvaluator

    feeds = {name: value for name, value in zip(node.input, inputs, strict=False) if name}
    results = ReferenceEvaluator(node, opsets={"": OPSET}).run(None, feeds)
    return [np.asarray(result) for result in results]


def _attributes(node: NodeProto) -> dict[str, Any]:
    from onnx.helper import get_attribute_value

    return {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
