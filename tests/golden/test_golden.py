"""Bundles, a store and an exam that an earlier version wrote open, and answer as they did.

`make.py` wrote them. `predict`, `score`, `what_if` and `surprise` are compared to 1e-4, relative to the size of each
array; a plan by its cost to 1 %, as the search may end in another plan that is as good.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.golden.answers import (
    BUNDLES,
    CASES,
    EXAM,
    QUESTIONS,
    STORE,
    STORE_EXPECTED,
    VERDICTS,
    Answer,
    ask,
    float32,
    grades,
    read_answers,
    read_json,
    store_content,
)

from worldline.data.store import open_store
from worldline.registry import names
from worldline.world.bundle_io import open_world, save_world
from worldline_exam.run import regrade

NAMES = sorted(path.name for path in BUNDLES.iterdir())
PLANS = ("plan", "plan_goal_observation")
TOLERANCE, PLAN_TOLERANCE = 1e-4, 1e-2


def answers_of(bundle: Path, name: str, device: str = "cpu") -> dict[str, Answer]:
    with np.load(CASES / f"{name}.inputs.npz", allow_pickle=False) as arrays:
        inputs = {key: arrays[key] for key in arrays.files}
    with float32():
        return ask(open_world(bundle, device=device), inputs)


def differences(found: Mapping[str, Answer], expected: Mapping[str, Answer], tolerance: float = TOLERANCE) -> list[str]:
    """What differs by more than the tolerance, in words."""
    apart = [f"{name}: one of them is missing" for name in found.keys() ^ expected.keys()]
    for question in found.keys() & expected.keys():
        ours, theirs = found[question], expected[question]
        apart += [f"{question}: {name} is missing" for name in ours.keys() ^ theirs.keys()]
        for name in ours.keys() & theirs.keys():
            off = _difference(ours[name], theirs[name], PLAN_TOLERANCE if question in PLANS else tolerance)
            apart += [f"{question}: {name} {off}"] if off else []
    return sorted(apart)


def _difference(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> str:
    """How two arrays differ; empty where they do not. Values near 0 are compared on the scale of the array."""
    if ours.shape != theirs.shape:
        return f"has shape {ours.shape}, expected {theirs.shape}"
    if theirs.dtype.kind not in "fiu":
        return "" if (ours == theirs).all() else f"is {ours}, expected {theirs}"
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    finite = theirs[np.isfinite(theirs)]
    scale = np.abs(finite).mean() if finite.size else 0.0
    if np.allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
        return ""
    return f"differs by up to {np.nanmax(np.abs(ours - theirs)):.3g} on a scale of {scale:.3g}"


def test_every_family_has_a_bundle() -> None:
    assert set(names("model")) <= {read_json(BUNDLES / name / "manifest.json")["model"] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_answers_as_it_did(name: str) -> None:
    expected = read_answers(CASES / f"{name}.answers.npz")
    assert expected.keys() == QUESTIONS.keys()
    assert differences(answers_of(BUNDLES / name, name), expected) == []


@pytest.mark.parametrize("name", ["ensemble", "jepa"])
def test_a_bundle_is_saved_and_opened_again(name: str, tmp_path: Path) -> None:
    save_world(tmp_path / "again", open_world(BUNDLES / name))
    expected = read_answers(CASES / f"{name}.answers.npz")
    assert differences(answers_of(tmp_path / "again", name), expected) == []


def test_a_weight_that_changes_shows(tmp_path: Path) -> None:
    world = open_world(BUNDLES / "jepa")
    weight = max(world.engine.model.predictor.parameters(), key=lambda one: one.ndim)
    weight.data[0] += 0.1
    save_world(tmp_path / "changed", world)
    shown = differences(answers_of(tmp_path / "changed", "jepa"), read_answers(CASES / "jepa.answers.npz"))
    for question in ("predict", "score", "plan", "what_if", "surprise"):
        assert any(line.startswith(f"{question}: ") for line in shown), shown


def test_the_store_holds_what_was_written() -> None:
    assert store_content(open_store(STORE)) == read_json(STORE_EXPECTED)


def test_the_store_takes_another_episode(tmp_path: Path) -> None:
    shutil.copytree(STORE, tmp_path / "store")
    store = open_store(tmp_path / "store")
    store.append(store.episode(1), {"file": "again.csv"})
    content, expected = store_content(open_store(tmp_path / "store")), read_json(STORE_EXPECTED)
    assert content["episodes"][:-1] == expected["episodes"]
    assert content["episodes"][-1]["arrays"] == expected["episodes"][1]["arrays"]


def test_the_exam_is_graded_as_it_was() -> None:
    found, expected = grades(regrade(EXAM)), read_json(VERDICTS)
    assert {code: one["verdict"] for code, one in found.items()} == {
        code: one["verdict"] for code, one in expected.items()
    }
    for code, one in expected.items():
        np.testing.assert_allclose(found[code]["scores"], one["scores"], rtol=TOLERANCE, atol=TOLERANCE)
