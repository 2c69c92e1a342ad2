"""What the results of a world have in common: a short `repr`, a plot, a table and JSON."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.errors import InputError, UnsupportedError
from worldline.formatting import number, plural, pretty_unit
from worldline.plots.result_series import ResultSeries, columns
from worldline.schema import Kind, Role, Schema, Signal

if TYPE_CHECKING:
    from pandas import DataFrame

    from worldline.plots.figure import PlotFigure

MAX_LINES: Final = 4
"""Largest number of lines of a `repr` after its first."""


class Result(ABC):
    """A result of a world. Subclasses are dataclasses with a field `schema`.

    Batches of W worlds have W results in one: `plot` shows one of them, and tables have W times as many rows.
    """

    schema: Schema | None
    rows_are: ClassVar[str] = "step"

    @abstractmethod
    def headline(self) -> str:
        """The facts about the whole result in one line, such as the number of steps and the status."""

    def num_worlds(self) -> int | None:
        """W; None without an axis of worlds."""
        return None

    @abstractmethod
    def series(self, world: int | None) -> Sequence[ResultSeries]:
        """The signals of one world; None for a result without an axis of worlds."""

    def images_of(self, world: int | None) -> Arrays:
        """Per image signal the predicted frames [T, height, width, channels] of one world; empty for none."""
        del world
        return {}

    def axis_index(self, world: int) -> int | None:
        """The argument of `series` for a world of a batch; None for a result without an axis of worlds.

        Raises:
            InputError: there is no such world.
        """
        many = self.num_worlds()
        if not 0 <= world < (many or 1):
            raise InputError(f"there is no world {world}: the result has {plural(many or 1, 'world')}.")
        return None if many is None else world

    def __repr__(self) -> str:
        many = self.num_worlds()
        if many is not None:
            return f"{type(self).__name__} of {plural(many, 'world')}; the first: {self.headline()}"
        lines = [f"  {_line(curve)}" for curve in self.series(None) if curve.drawn != "points"]
        more = len(lines) - MAX_LINES
        if more > 0:
            lines[MAX_LINES - 1 :] = [f"  and {plural(more + 1, 'more signal')}"]
        return "\n".join([f"{type(self).__name__}: {self.headline()}", *lines])

    def _repr_html_(self) -> str:
        """For notebooks: the text and the plot, if there is one."""
        text = f"<pre>{escape(repr(self))}</pre>"
        try:
            png = b64encode(self.plot().png()).decode()
        except UnsupportedError:
            return text
        return f'{text}<img src="data:image/png;base64,{png}" alt="{type(self).__name__}" style="max-width: 100%">'

    def plot(self, *, world: int = 0) -> PlotFigure:
        """A figure of matplotlib: one panel per signal, with bands and samples if there are any.

        Notebooks show it. Save it with `result.plot().savefig("result.png")`.

        Args:
            world: index of the world in a batch.

        Raises:
            InputError: there is no such world.
            UnsupportedError: there is nothing to show.
        """
        from worldline.plots.result_plot import result_figure
        from worldline.plots.signal_chart import TimeAxis, time_axis

        shown = self.axis_index(world)
        series, images = self.series(shown), self.images_of(shown)
        ends = [curve.first + len(curve.values) - (curve.drawn != "held") for curve in series]
        ends += [len(frames) for frames in images.values()]
        if max(ends, default=0) < 1:
            raise UnsupportedError(f"there is nothing to plot: {self.headline()}.")
        if self.rows_are == "step":
            axis = time_axis(max(ends), self._step_s())
        else:
            axis = TimeAxis(times=np.arange(max(ends) + 1, dtype=np.float64), unit="", counted=self.rows_are)
        title = type(self).__name__ if shown is None else f"{type(self).__name__} of world {shown}"
        return result_figure(title, self.headline(), series, axis, images)

    def to_pandas(self) -> DataFrame:
        """A table with a column per component of a vector or discrete signal, and its band in `.low` and `.high`.

        Rows are observations or steps of a log: action t is in row t, and the observation that follows is in row t + 1.
        In a batch, the index is (world, step). `frame.attrs` holds the units of the columns and `step_s`.
        """
        import pandas as pd  # only where a table is made: the import is slow

        many = self.num_worlds()
        parts = [
            pd.DataFrame({name: pd.Series(column, rows) for name, rows, column in self._columns(world)})
            for world in ([None] if many is None else range(many))
        ]
        frame = parts[0] if many is None else pd.concat(parts, keys=range(many), names=["world"])
        frame.index.names = [*frame.index.names[:-1], self.rows_are]
        frame.attrs = {"units": self._units(list(frame.columns)), "step_s": self._step_s()}
        return frame

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON: arrays are lists, and numbers that are not finite are None.

        `units` has the unit of each signal. The schema is left out.
        """
        plain_fields = {name: _plain(value) for name, value in _fields(self).items()}
        units = {} if self.schema is None else {signal.name: signal.unit for signal in self.schema.signals}
        return {**plain_fields, "units": units}

    def _step_s(self) -> float | None:
        return None if self.schema is None else self.schema.step_s

    def _columns(self, world: int | None) -> Iterator[tuple[str, range, NDArray[np.generic]]]:
        """Name, rows and values of each column of one world."""
        for curve in self.series(world):
            rows = range(curve.first, curve.first + len(curve.values))
            for label, values in {"": curve.values, **curve.others}.items():
                for name, column in zip(curve.names, columns(values).T, strict=True):
                    yield f"{name}.{label}" if label else name, rows, column

    def _units(self, names: Sequence[str]) -> dict[str, str]:
        first = None if self.num_worlds() is None else 0
        units = {name: curve.signal.unit for curve in self.series(first) for name in curve.names}
        return {name: units.get(name, units.get(name.rpartition(".")[0], "1")) for name in names}


def signal_of(schema: Schema | None, name: str, values: NDArray[np.generic]) -> Signal:
    """The signal of the schema; without one, a signal of the kind of `values` [T, *shape] and of unknown unit."""
    if schema is not None and any(signal.name == name for signal in schema.signals):
        return schema[name]
    if values.ndim == 1:
        return Signal(name=name, role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), unit="?", num_values=2)
    kind = Kind.IMAGE if values.ndim == 4 else Kind.VECTOR
    return Signal(name=name, role=Role.OBSERVATION, kind=kind, shape=values.shape[1:], unit="?")


def plain_signal(name: str) -> Signal:
    """A signal for numbers that no log holds, such as costs."""
    return Signal(name=name, role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="1")


def trust_text(trust: float | NDArray[np.floating]) -> str:
    """Trust in words; of the first world of a batch."""
    value = float(np.ravel(trust)[0])
    return "trust unknown" if math.isnan(value) else f"trust {number(value, 2)}"


def _line(series: ResultSeries) -> str:
    """A signal in one line: its first and last values, and half the width of its band at the end."""
    name, table, unit = series.signal.name, columns(series.values), pretty_unit(series.signal.unit)
    if not len(table):
        return f"{name}: no steps"
    if table.shape[1] > 3:
        return f"{name}: {table.shape[1]} components, {number(table.min())} to {number(table.max())} {unit}"
    if series.logarithmic:
        return f"{name}: p-values from {number(table.min())} to {number(table.max())}"
    text = f"{name}: {_numbers(table[0])} to {_numbers(table[-1])} {unit}".rstrip()
    if "low" in series.others:
        low, high = (columns(series.others[edge]).astype(np.float64) for edge in ("low", "high"))
        half = (high - low) / 2
        last = int(np.isfinite(half).all(-1).sum())
        text += f" ± {_numbers(half[last - 1])}" if last else ", no band"
        text += f" (at step {last}, without a band later)" if 0 < last < len(half) else ""
    return text


def _numbers(values: NDArray[Any]) -> str:
    texts = [number(float(value)) for value in values]
    return texts[0] if len(texts) == 1 else f"({', '.join(texts)})"


def _fields(result: Any) -> Mapping[str, Any]:
    return {item.name: getattr(result, item.name) for item in fields(result) if item.name != "schema"}


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, Result):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(inner) for name, inner in _fields(value).items()}
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, str) else value  # members of a StrEnum become plain strings
