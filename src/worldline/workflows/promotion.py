"""Promotes judged controllers, and compares their real runs with the judgement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from pydantic_core import to_json

from worldline.catalog.aliases import check_name
from worldline.catalog.versions import default_folder
from worldline.control.imagination import logged_runs
from worldline.control.judgement import JudgedFigure
from worldline.control.judging import figure
from worldline.control.run_goal import goal_of, run_figures
from worldline.data.fsync import sync
from worldline.data.store import Store, open_store
from worldline.documents import read_document
from worldline.errors import DataError, InputError, UnknownNameError
from worldline.stats import Estimate
from worldline.workflows.judge import source_of

FOLDER: Final = "controllers"


class _StoredController(msgspec.Struct):
    name: str
    source: str
    verdict: str
    figures: dict[str, JudgedFigure]


class _StoredJudgement(msgspec.Struct):
    """What is read of the JSON file of a judgement."""

    goal: str
    num_fresh: int
    first_step: int
    controllers: list[_StoredController]


@dataclass(frozen=True, kw_only=True)
class MeasuredFigure:
    """A figure of real runs beside its judgement.

    Args:
        name: such as "cost".
        judged: mean for as many episodes, with its 90 % interval.
        measured: mean of the real runs.
        inside: whether it is in the interval.
    """

    name: str
    judged: Estimate
    measured: float
    inside: bool


@dataclass(frozen=True, kw_only=True)
class RealRuns:
    """Real runs of a promoted controller.

    Args:
        name: under which it was promoted.
        num_episodes: number of real runs.
        figures: each beside its judgement.
        inside: comparisons of all promoted controllers inside their intervals so far, these included.
        compared: number of these comparisons.
    """

    name: str
    num_episodes: int
    figures: tuple[MeasuredFigure, ...]
    inside: int
    compared: int


def promote_controller(
    name: str, controller: str, judgement: Path, *, despite: bool = False, folder: Path | None = None
) -> Path:
    """Stores a controller with its judgement under a name. Returns the new folder.

    Args:
        name: letters, digits, `_`, `-` and `.`.
        controller: TOML file, or module:name, as it was judged.
        judgement: JSON file of `worldline judge --json`.
        despite: whether to promote one that is not judged to be better than the log.
        folder: of the catalog; None for `default_folder()`.

    Raises:
        ConfigError: the judgement is no such file.
        InputError: the controller is not in it or has changed since, or it is not better; nothing is stored.
    """
    home = (folder or default_folder()) / FOLDER / check_name("controller", name)
    read, source = _read(judgement), source_of(controller)
    matching = [each for each in read.controllers if each.source == source]
    if not matching:
        judged = ", ".join(each.name for each in read.controllers)
        raise InputError(f"{controller} is not in {judgement} ({judged}), or has changed since. Judge it again.")
    (each, *_) = matching
    cost = each.figures.get("cost")
    if not despite and (cost is None or cost.better != "better"):
        why = f"it is {each.verdict}" if cost is None else f"its cost is {cost.better}"
        raise InputError(f"{controller} is not promoted: {why}. Improve it, or promote it anyway with despite.")
    number = 1 + max([0, *(int(path.name) for path in _versions(home))])
    draft = home / f".{number}.partial"
    draft.mkdir(parents=True, exist_ok=True)
    (draft / "judgement.json").write_bytes(judgement.read_bytes())
    facts = {"controller": each.name, "source": source, "promoted": datetime.now(UTC).isoformat(timespec="seconds")}
    (draft / "controller.json").write_bytes(to_json(facts, indent=1))
    sync(draft)
    return draft.rename(home / str(number))


def compare_runs(name: str, runs: Path | Store, *, folder: Path | None = None) -> RealRuns:
    """Compares real runs of the controller that was promoted last with its judgement, and stores the comparison.

    Args:
        name: as in `promote_controller`.
        runs: store of its episodes, with the signals of the goal.
        folder: of the catalog; None for `default_folder()`.

    Raises:
        UnknownNameError: no controller was promoted under this name.
        InputError: it was promoted without intervals, or its goal contains a function.
        DataError: there is no episode that is long enough.
    """
    root = (folder or default_folder()) / FOLDER
    versions = _versions(root / check_name("controller", name))
    if not versions:
        raise UnknownNameError(
            "controller", name, sorted(path.name for path in root.iterdir()) if root.is_dir() else ()
        )
    home = max(versions, key=lambda path: int(path.name))
    facts, read = json.loads((home / "controller.json").read_bytes()), _read(home / "judgement.json")
    (each,) = (each for each in read.controllers if each.name == facts["controller"])
    if not each.figures or not read.goal:
        raise InputError(f"{name} has no intervals to compare with. Promote a controller that is judged.")
    store, goal = runs if isinstance(runs, Store) else open_store(runs), goal_of(json.loads(read.goal), str(home))
    long = [number for number in range(len(store)) if store.num_steps[number] > read.first_step]
    episodes = [store.episode(number, images=False) for number in long]
    if not episodes:
        problem = f"the store has no episode of more than {read.first_step} steps"
        raise DataError(problem, fix="Record runs of the controller first.", file=store.path)
    targets = [goal.logged_targets(episode, store.schema) for episode in episodes] if goal.targets else []
    real = run_figures(logged_runs(store.schema, episodes, targets, at=read.first_step), goal, store.schema)
    figures = list[MeasuredFigure]()
    for key, predicted in each.figures.items():
        mean, value = predicted.mean_of(len(episodes), read.num_fresh), float(figure(real, key).mean())
        inside = mean.low <= value <= mean.high
        figures.append(MeasuredFigure(name=key, judged=mean, measured=value, inside=inside))
    done = [{"name": each.name, "inside": each.inside} for each in figures]
    key = hashlib.sha256(str(store.path.resolve()).encode()).hexdigest()[:12]
    (home / f"runs-{key}.json").write_text(json.dumps(done), encoding="utf-8")
    every = [part for path in root.glob("*/*/runs-*.json") for part in json.loads(path.read_text(encoding="utf-8"))]
    return RealRuns(
        name=name,
        num_episodes=len(episodes),
        figures=tuple(figures),
        inside=sum(part["inside"] for part in every),
        compared=len(every),
    )


def _versions(home: Path) -> Sequence[Path]:
    return [path for path in home.iterdir() if path.name.isdigit()] if home.is_dir() else []


def _read(path: Path) -> _StoredJudgement:
    read: _StoredJudgement = read_document(path, _StoredJudgement, "Name the file that worldline judge --json wrote.")
    return read
