"""The clause on engines that can be stored in a bundle: an engine that is built from its parts is the same."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath

from worldline.engines.base import Engine, Parts, Storable
from worldline.errors import DataError, UnsupportedError
from worldline.testing.clauses import BreachError, clause, equal, holds, refuses, snapshot, without
from worldline.testing.engine_case import EngineCase


@clause("Storable; plain JSON and arrays, no path; from_parts restores the engine or raises DataError")
def parts_restore(case: EngineCase) -> None:
    """The engine that is built from its parts gives bit for bit equal results; invalid parts are refused.

    Not checked if the engine is not `Storable`.
    """
    engine = case.engine
    if not isinstance(engine, Storable):
        return
    try:
        parts, schema = engine.to_parts(), case.card.schema
    except UnsupportedError:  # built from user code
        return
    try:
        config = json.loads(json.dumps(parts.config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BreachError(f"config is not plain JSON: {error}") from error
    holds(config == parts.config, "config changes by a round trip through JSON")
    places = sorted(text for text in snapshot(config).values() if isinstance(text, str) and _is_path(text))
    holds(not places, f"config contains absolute paths: {places}")
    again = type(engine).from_parts(schema, Parts(config=config, arrays=parts.arrays))
    if not isinstance(again, Engine):
        raise BreachError(f"from_parts returned a {type(again).__name__}, expected an Engine")
    holds(again.describe() == case.card, "the restored engine has another card")
    equal(replace(case, engine=again).predicted(), case.predicted(), "the restored engine predicts something else")
    wrong = {f"without the array {name!r}": replace(parts, arrays=without(parts.arrays, name)) for name in parts.arrays}
    wrong["of another engine"] = Parts(config={"nonsense": 1}, arrays={})
    for what, bad in wrong.items():
        refuses(f"parts {what}", partial(type(engine).from_parts, schema, bad), expected=DataError)


def _is_path(text: str) -> bool:
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
