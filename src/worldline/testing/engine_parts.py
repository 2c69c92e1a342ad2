"""The clause on engines that can be written into a bundle: what is built from the parts is what was written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath

from worldline.engines.base import Engine, Parts, Storable
from worldline.errors import DataError, UnsupportedError
from worldline.testing.clauses import Clause
from worldline.testing.engine_case import EngineCase

PARTS = Clause(
    name="engine.parts", look="Storable; plain JSON and arrays, no path, and the same engine again, or DataError"
)


def parts_restore(case: EngineCase) -> None:
    """The engine built from its parts answers bit for bit alike; parts that are not its own are refused.

    Only where the engine has the ability.
    """
    engine = case.engine
    if not isinstance(engine, Storable):
        return
    try:
        parts, schema = engine.to_parts(), case.card.schema
    except UnsupportedError:  # made of code of the user's own, as it says
        return
    try:
        config = json.loads(json.dumps(parts.config, allow_nan=False))
    except (TypeError, ValueError) as error:
        PARTS.holds(False, f"config is no plain JSON: {error}")
    PARTS.holds(config == parts.config, "config changes on its way through JSON")
    places = sorted(text for text in _strings(config) if _is_path(text))
    PARTS.holds(not places, f"config holds paths of one machine: {places}")
    again = type(engine).from_parts(schema, Parts(config=config, arrays=parts.arrays))
    PARTS.holds(isinstance(again, Engine), f"from_parts gives a {type(again).__name__}, which is no Engine")
    assert isinstance(again, Engine)  # for the type checker
    PARTS.holds(again.describe() == case.card, "the engine that was built again has another card")
    cut = case.cut()
    future = case.futures(cut)[0]
    due = case.answer(cut.history, future)
    found = replace(case, engine=again).answer(cut.history, future)
    PARTS.all_equal(found, due, within=0.0, seen="the engine that was built again imagines something else")
    wrong = {f"without the array {name!r}": _without(parts, name) for name in parts.arrays}
    wrong["of another engine"] = Parts(config={"nonsense": 1}, arrays={})
    for what, bad in wrong.items():
        try:
            type(engine).from_parts(schema, bad)
        except DataError:
            continue
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            PARTS.holds(False, f"parts {what}: {type(error).__name__} ({error}) where DataError is due")
        PARTS.holds(False, f"parts {what} were taken, and no DataError")


def _without(parts: Parts, name: str) -> Parts:
    return Parts(config=parts.config, arrays={other: value for other, value in parts.arrays.items() if other != name})


def _strings(value: object) -> list[str]:
    """Every text inside plain JSON values."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _strings(each)]


def _is_path(text: str) -> bool:
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
