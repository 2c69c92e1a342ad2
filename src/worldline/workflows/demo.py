"""The demo: records Two Rooms, learns a world from pixels, plans to held-out goals, writes a report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from worldline.audit.planning_measurements import GoalOutcome, Planning
from worldline.audit.signal_table import Section
from worldline.control.goal_reaching import GoalReaching
from worldline.errors import InputError
from worldline.labs.two_rooms import TwoRooms
from worldline.progress import OnProgress
from worldline.recipes.two_rooms import two_rooms, two_rooms_random
from worldline.report.learn_page import Report, render
from worldline.workflows import goals
from worldline.workflows.learn import learn_logs
from worldline.workflows.learn_options import MakeRecipe, Options
from worldline.workflows.learn_result import LearnResult, costs, facts
from worldline.workflows.record import record

MAX_STEPS: Final = 60
MARKER: Final = "demo.json"
_OWN: Final = frozenset({MARKER, "logs", "world", "world.log", "world.partial", "report.html"})
_EPISODES: Final[Mapping[goals.Walls, int]] = {"fixed": 500, "random": 1600}
_RECIPES: Final[Mapping[goals.Walls, MakeRecipe]] = {"fixed": two_rooms, "random": two_rooms_random}


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The figures of a demo.

    Args:
        success: share of goals reached by the learned planner, 0 to 1.
        success_low: lower end of its 95 % Wilson interval.
        success_high: upper end.
        pairs: start and goal pairs, half of them across the wall.
        random: share reached by random actions.
        no_move: share reached without moving.
        straight: share reached by a straight-line baseline with access to the true position.
        detours: pairs that the straight-line baseline missed.
        detour_success: share of these reached by the learned planner; None if there are none.
        inverse: share reached by the inverse head alone, without search.
        oracle: share reached by search with the true dynamics and distance, an upper bound.
        learn_s: seconds of training, refinement, heads and calibration.
        refine_s: seconds of refining the dynamics.
        heads_s: seconds of fitting the heads.
        total_s: seconds from recording to the report.
        plan_ms: milliseconds of a single plan, median.
        plan_batched_ms: milliseconds per plan if all pairs are planned together.
        peak_memory_gb: peak memory of the process, 10^9 bytes.
        device: of torch.
    """

    success: float
    success_low: float
    success_high: float
    pairs: int
    random: float
    no_move: float
    straight: float
    detours: int
    detour_success: float | None
    inverse: float
    oracle: float
    learn_s: float
    refine_s: float
    heads_s: float
    total_s: float
    plan_ms: float
    plan_batched_ms: float
    peak_memory_gb: float
    device: str


def demo(
    out: Path | str,
    *,
    walls: goals.Walls = "fixed",
    seed: int = 0,
    num_episodes: int | None = None,
    num_pairs: int = 200,
    recipe: MakeRecipe | None = None,
    device: str = "auto",
    progress: OnProgress | None = None,
) -> DemoResult:
    """Runs the demo; writes logs, world (a bundle) and report.html into `out`.

    Args:
        out: folder, new or empty, or an earlier demo, which is replaced.
        walls: see `TwoRooms`.
        seed: of initial weights, batches and planning; logs, split and pairs do not depend on it.
        num_episodes: to record; default 500 with fixed and 1,600 with random walls.
        num_pairs: number of start and goal pairs; even.
        recipe: default is the Two Rooms recipe for these walls.
        device: of the training and planning; see `worldline.device.choose_device`.
        progress: called after each step.

    Raises:
        InputError: `out` holds other files, `walls` is unknown, or the device is unknown or not available.
        DataError: there are too few held-out episodes for the pairs.
        CollapseError: the latents collapsed.
    """
    started, folder = time.monotonic(), Path(out)
    lab = TwoRooms(walls)
    options = Options(recipe=recipe or _RECIPES[walls], seed=seed, device=device)
    num_episodes = _EPISODES[walls] if num_episodes is None else num_episodes
    settings = {"walls": walls, "seed": seed, "num_episodes": num_episodes, "num_pairs": num_pairs}
    _clear(folder)
    _write(folder / MARKER, settings)
    store = record(lab, folder / "logs", num_episodes=num_episodes, max_steps=MAX_STEPS, seed=0, progress=progress)
    run = learn_logs(store, folder / "world", options, progress=progress)
    learned = run.learned

    # Plan to goals of held-out episodes, with the learned world and its baselines.
    pairs = goals.held_out_pairs(store, learned.split.held_out, num_pairs)
    rows = goals.reach(learned, pairs, walls, seed=seed, progress=progress)
    plan_ms, plan_batched_ms = goals.plan_times(learned, pairs)

    sections = (_planning(rows), *run.sections, goals.films(rows[goals.PLANNER], pairs))
    _write_page(folder, run, sections)
    result = DemoResult(
        **_rates(rows),
        pairs=len(pairs),
        plan_ms=round(plan_ms, 2),
        plan_batched_ms=round(plan_batched_ms, 2),
        **costs(learned, time.monotonic() - started),
    )
    _write(folder / MARKER, {**settings, "result": asdict(result)})
    return result


def _write_page(folder: Path, run: LearnResult, sections: tuple[Section, ...]) -> None:
    """The page of the learned world, with the plans."""
    page = render(
        Report(
            title="Two Rooms, learned from pixels",
            subtitle=f"A world model learned end to end from the images and moves of {len(run.store):,} logged "
            "episodes. Logged positions were used only to fit a readout of the frozen model.",
            facts=facts(json.loads((run.bundle / "run.json").read_text(encoding="utf-8"))),
            sections=sections,
            commands=("worldline learn YOUR-LOGS --out world",),
        )
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _rates(rows: Mapping[str, GoalReaching]) -> dict[str, Any]:
    success, detours = rows[goals.PLANNER].success, goals.on_detours(rows, goals.PLANNER)
    others = {"random": goals.RANDOM, "no_move": goals.NO_MOVE, "straight": goals.STRAIGHT}
    others |= {"inverse": goals.INVERSE, "oracle": goals.ORACLE}
    interval = {"success": success.value, "success_low": success.low, "success_high": success.high}
    detour = {"detours": detours.trials if detours else 0, "detour_success": detours.value if detours else None}
    return {**interval, **detour, **{name: rows[method].success.value for name, method in others.items()}}


def _planning(rows: Mapping[str, GoalReaching]) -> Planning:
    outcomes = []
    for name, role in goals.ROLES.items():
        detours = goals.on_detours(rows, name)
        split = {**rows[name].groups, **({goals.DETOURS: detours} if detours else {})}
        outcomes.append(GoalOutcome(name=name, role=role, all=rows[name].success, split=split))
    return Planning(
        task=f"move the dot within {goals.NEAR_PX:g} px of a goal {goals.OFFSET} logged steps ahead, in at most "
        f"{2 * goals.OFFSET} steps; no goal is reached at the start",
        outcomes=tuple(outcomes),
    )


def _clear(folder: Path) -> None:
    """Makes an empty folder; deletes nothing except an earlier demo."""
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if present and (MARKER not in present or present - _OWN):
        foreign = min(present - _OWN or present)
        raise InputError(f"{folder} holds {foreign!r}, which is not part of an earlier demo. Choose another folder.")
    if present:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _write(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
