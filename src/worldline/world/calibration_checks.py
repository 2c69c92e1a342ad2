"""Checks a stored calibration: its values decide how wide bands are and which histories are trusted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.errors import DataError

if TYPE_CHECKING:
    from worldline.world.calibration import Calibration

Floats = NDArray[np.floating]

_FIX = "Calibrate the world again."


def check_calibration(calibration: Calibration) -> None:
    """Checks shapes, signs, order and finiteness.

    Raises:
        DataError: a part is wrong; the message names it.
    """
    for length, part in (("", calibration), *calibration.shorter.items()):
        for name, problem in (*_problems(part), *_differences(calibration, part)):
            where = f" for {length} observations" if length else ""
            raise DataError(f"{name} of the calibration{where} {problem}", fix=_FIX)
    if calibration.shorter and not all(1 <= length < calibration.length for length in calibration.shorter):
        lengths = sorted(calibration.shorter)
        raise DataError(f"the calibration is for {lengths} of {calibration.length} observations", fix=_FIX)


def _differences(whole: Calibration, part: Calibration) -> Iterator[tuple[str, str]]:
    """What a calibration for shorter histories lacks."""
    for name in ("scale", "scores", "one_step", "unit", "entities"):
        if vars(whole)[name].keys() != vars(part)[name].keys():
            yield name, "has other signals"
    if part.shorter and part is not whole:
        yield "shorter", "is nested"
    if any(scale.shape != part.scale[name].shape for name, scale in whole.scale.items() if name in part.scale):
        yield "scale", "has another shape"


def check_precision(arrays: Arrays) -> None:
    """Checks that stored arrays are float64, so that no conversion multiplies their size.

    Raises:
        DataError: an array of another type has more than one value; residuals may be float32.
    """
    for name, value in arrays.items():
        wanted = ("float32", "float64") if name.startswith("residuals/") else ("float64",)
        if value.size > 1 and value.dtype.name not in wanted:
            raise DataError(f"{name} of the calibration is {value.dtype}, expected {wanted[-1]}", fix=_FIX)


def _problems(found: Calibration) -> Iterator[tuple[str, str]]:
    """The name of each wrong part, and what is wrong."""
    windows = found.num_windows
    if windows < 1 or len(found.novelty) % windows or not len(found.novelty):
        yield "num_windows", f"is {windows}, but there are {len(found.novelty)} windows"
        return
    yield from _sorted("novelty", found.novelty, len(found.novelty))
    for name, effect in found.effects.items():
        size = {"novelty": 1, "ood": len(found.ood_scores)}.get(name)
        if effect.shape != (size,) or not ((effect >= 1) & (effect <= windows)).all():
            yield f"effects of {name!r}", f"are not {size} values of 1 to {windows}"
    for row in found.ood_scores:
        yield from _sorted("ood_scores", row, len(found.novelty))
    for name, scores in (("steps", found.steps), *found.one_step.items(), *found.entities.items()):
        yield from _sorted(name, scores, None)
    for name, unit in found.unit.items():
        yield from _positive(f"unit of {name!r}", unit)
    for name, scale in found.scale.items():
        yield from _positive(f"scale of {name!r}", scale)
        yield from _band(found, name, scale)
    for part in (found.ood, found.input_novelty):
        if part is not None and is_dataclass(part):
            for name, value in asdict(part).items():
                yield from _finite(name, value)
    for name in ("scale", "drive_scale", "tail"):
        yield from _positive(f"ood.{name}", getattr(found.ood, name))
    if found.input_novelty is not None:
        yield from _positive("input_novelty.scale", found.input_novelty.scale)
    for name, ends in found.logged_range.items():
        yield from _finite(f"logged_range of {name!r}", ends)
        if ends.ndim != 2 or len(ends) != 2 or (ends[0] > ends[1]).any():
            yield f"logged_range of {name!r}", f"has shape {ends.shape} or a low above its high"
    if found.causes is not None:
        for name, value in found.causes.to_arrays().items():
            yield from _finite(f"causes.{name}", value)


def _band(found: Calibration, name: str, scale: Floats) -> Iterator[tuple[str, str]]:
    """What is wrong with the parts of one predicted vector signal."""
    scores, shape, windows = found.scores[name], scale.shape[1:], found.num_windows
    total = next(iter(found.scores.values())).shape[-1]
    if scores.shape != (len(scale), total) or not total or total % windows:
        yield f"scores of {name!r}", f"have shape {scores.shape} instead of {(len(scale), total)}"
        return
    for row in scores:
        seen = np.count_nonzero(~np.isnan(row))
        if np.isnan(row[:seen]).any():
            yield f"scores of {name!r}", "are not sorted"
        yield from _sorted(f"scores of {name!r}", row[:seen], None)
    for part, values in (("spread", found.spread), ("skill", found.skill)):
        yield from _finite(f"{part} of {name!r}", values[name])
        if values[name].shape not in (shape, ()) or (values[name] < 0).any():
            yield f"{part} of {name!r}", f"has shape {values[name].shape} or is below 0"
    if (effect := found.design_effect.get(name)) is not None and (
        effect.shape != scores.shape[:1] or not ((effect >= 1) & (effect <= windows)).all()
    ):
        yield f"design_effect of {name!r}", f"is not [{len(scale)}] with values of 1 to {windows}"
    if (paths := found.residuals.get(name)) is not None:
        yield from _finite(f"residuals of {name!r}", paths)
        if paths.shape[1:] != scale.shape or not len(paths):
            yield f"residuals of {name!r}", f"have shape {paths.shape}"


def _finite(name: str, value: NDArray[np.generic]) -> Iterator[tuple[str, str]]:
    if not np.isfinite(value).all():
        yield name, "holds NaN or infinity"


def _positive(name: str, value: Floats) -> Iterator[tuple[str, str]]:
    if not (np.isfinite(value) & (value > 0)).all():
        yield name, "holds values that are not above 0 and finite"


def _sorted(name: str, values: Floats, length: int | None) -> Iterator[tuple[str, str]]:
    if values.ndim != 1 or (length is not None and len(values) != length):
        yield name, f"has shape {values.shape}"
    elif not np.isfinite(values).all():
        yield name, "holds NaN or infinity"
    elif (np.diff(values) < 0).any():
        yield name, "is not sorted"
