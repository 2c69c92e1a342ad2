"""Checks a stored calibration: its values decide how wide bands are and which histories are trusted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.errors import DataError

if TYPE_CHECKING:
    from worldline.world.calibration import Calibration

Floats = NDArray[np.floating]

_FIX = "Calibrate the world again."


def check_precision(arrays: Arrays) -> None:
    """Checks that stored arrays are float64, so that no conversion multiplies their size.

    Raises:
        DataError: an array of another type has more than one value; residuals may be float32.
    """
    for name, value in arrays.items():
        wanted = ("float32", "float64") if name.startswith("residuals/") else ("float64",)
        if value.size > 1 and value.dtype.name not in wanted:
            raise DataError(f"{name} of the calibration is {value.dtype}, expected {wanted[-1]}", fix=_FIX)


def check_calibration(calibration: Calibration) -> None:
    """Checks shapes, signs, order and finiteness.

    Raises:
        DataError: a part is wrong; the message names it.
    """
    for length, part in (("", calibration), *calibration.shorter.items()):
        where = f" for {length} observations" if length else ""
        for name, is_right in _checks(calibration, part):
            if not is_right:
                raise DataError(f"{name} of the calibration{where} has a wrong shape, order or value", fix=_FIX)
    if calibration.shorter and not all(1 <= length < calibration.length for length in calibration.shorter):
        lengths = sorted(calibration.shorter)
        raise DataError(f"the calibration is for {lengths} of {calibration.length} observations", fix=_FIX)


def _checks(whole: Calibration, part: Calibration) -> Iterator[tuple[str, bool]]:
    """The name of each part, and whether it is right. Each check relies on those before it."""
    windows, total = part.num_windows, len(part.novelty)
    yield "num_windows", windows >= 1 and total > 0 and total % windows == 0
    yield "novelty", _is_sorted(part.novelty)
    yield "ood_scores", all(_is_sorted(row) and len(row) == total for row in part.ood_scores)
    sizes = {"novelty": 1, "ood": len(part.ood_scores)}
    for name, effect in part.effects.items():
        yield f"effects/{name}", effect.shape == (sizes.get(name),) and _is_effect(effect, windows)
    for name in ("scale", "scores", "one_step", "unit", "entities"):
        yield name, vars(whole)[name].keys() == vars(part)[name].keys()
    for name, scores in (("steps", part.steps), *part.one_step.items(), *part.entities.items()):
        yield name, _is_sorted(scores)
    for name, unit in part.unit.items():
        yield f"unit/{name}", _is_positive(unit)
    for name in part.scale:
        yield from _band_checks(whole, part, name)
    for name, value in (*vars(part.ood).items(), *(vars(part.input_novelty) if part.input_novelty else {}).items()):
        yield name, _is_positive(value) if name in ("scale", "drive_scale", "tail") else bool(np.isfinite(value).all())
    for name, ends in part.logged_range.items():
        in_order = ends.ndim == 2 and len(ends) == 2 and bool((ends[0] <= ends[1]).all())
        yield f"logged_range/{name}", in_order and bool(np.isfinite(ends).all())
    for name, value in part.causes.to_arrays().items() if part.causes else ():
        yield f"causes/{name}", bool(np.isfinite(value).all())


def _band_checks(whole: Calibration, part: Calibration, name: str) -> Iterator[tuple[str, bool]]:
    """The checks of one predicted vector signal."""
    scale, scores, windows = part.scale[name], part.scores[name], part.num_windows
    yield f"scale/{name}", _is_positive(scale) and scale.shape == whole.scale[name].shape
    total = next(iter(part.scores.values())).shape[-1]
    # Windows without an observed value are NaN, at the end of a row.
    has_order = all(_is_sorted(row[: np.count_nonzero(~np.isnan(row))]) for row in scores)
    has_shape = scores.shape == (len(scale), total) and total > 0 and total % windows == 0
    yield f"scores/{name}", has_shape and has_order
    for values in (part.spread[name], part.skill[name]):
        has_shape = values.shape in (scale.shape[1:], ())
        yield f"spread or skill/{name}", has_shape and bool((np.isfinite(values) & (values >= 0)).all())
    if (effect := part.design_effect.get(name)) is not None:
        yield f"design_effect/{name}", effect.shape == (len(scale),) and _is_effect(effect, windows)
    if (paths := part.residuals.get(name)) is not None:
        has_shape = len(paths) > 0 and paths.shape[1:] == scale.shape
        yield f"residuals/{name}", has_shape and bool(np.isfinite(paths).all())


def _is_effect(values: Floats, windows: int) -> bool:
    return bool(((values >= 1) & (values <= windows)).all())


def _is_positive(value: Floats) -> bool:
    return bool((np.isfinite(value) & (value > 0)).all())


def _is_sorted(values: Floats) -> bool:
    return values.ndim == 1 and bool(np.isfinite(values).all() and (np.diff(values) >= 0).all())
