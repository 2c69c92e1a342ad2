"""Repairs what is certainly wrong in a store, in a new store with a record of each change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Final

from worldline.data.base import ACTION_LAG, noted_lag
from worldline.data.checks import Severity, check_episode, raise_errors
from worldline.data.draft_folder import draft_beside, put_in_place
from worldline.data.quality.segments import Sample
from worldline.data.quality.transition_model import step_tables
from worldline.data.store import Store, open_store
from worldline.errors import InputError, UnknownNameError
from worldline.progress import OnProgress, tell
from worldline.schema import Kind
from worldline.workflows.check import CheckReport, check
from worldline.workflows.repairs import RepairPlan

MAX_STEPS: Final = 200_000
"""Steps that are examined for joined episodes, shifted actions and changes, in whole episodes."""
RECORD_FILE: Final = "fix.json"
"""The record of the repairs, in the folder of the repaired store."""


def plan_repairs(
    store: Store | Path | str,
    *,
    delay: int = 0,
    saturated: Collection[str] = (),
    seed: int = 0,
    progress: OnProgress | None = None,
) -> RepairPlan:
    """The certain repairs of a store. Nothing is written.

    Args:
        store: the store or its folder.
        delay: known response delay of the system in steps, as for `check`.
        saturated: observations whose sensor clips at the ends of the logged range.
        seed: of the checks.
        progress: called while the store is checked.

    Raises:
        DataError: there is no store, or an episode is damaged.
        UnknownNameError: `saturated` names no vector observation.
    """
    store = store if isinstance(store, Store) else open_store(store)
    known = [one.name for one in store.schema.observations if one.kind is Kind.VECTOR]
    for name in saturated:
        if name not in known:
            raise UnknownNameError("vector observation", name, known)
    sample = _sample(store, seed)
    report = check(store, delay=delay, seed=seed, sample=sample, progress=progress)
    for one in report.findings:
        if one.severity is Severity.ERROR and one.episode is not None:
            raise one.error()
    plan = RepairPlan(store, report, delay)
    plan.mask_stuck()
    for name in sorted(set(saturated)):
        plan.mask_saturated(name)
    tables = plan.convert(*step_tables(sample.tracks, store.schema))
    plan.shift_all()
    plan.shift_parts(tables)
    plan.split()
    plan.leave_others()
    return plan


def fix(plan: RepairPlan, destination: Path | str, *, seed: int = 0, progress: OnProgress | None = None) -> CheckReport:
    """Writes a repaired copy of a store and returns its check. The old store is not changed.

    Args:
        plan: with at least one repair.
        destination: a new folder, which appears when it is complete; its `fix.json` is the record of the repairs.
        seed: of the checks.
        progress: called after each episode, and while the new store is checked.

    Raises:
        InputError: the destination exists, or there is nothing to repair.
        DataError: an episode is damaged, or a repaired value is out of the bounds of its signal.
    """
    destination = Path(destination)
    if destination.exists() or destination.is_symlink():
        raise InputError(f"{destination} exists. Choose another path, or delete it first.")
    if not plan.repairs:
        problem = f"{plan.store.path} has nothing that can be repaired with certainty"
        raise InputError(f"{problem}. Choose other options, or use the store.")
    draft = draft_beside(destination)
    try:
        _write(plan, draft, progress)
        put_in_place(draft, destination)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # still there only if an error occurred
    fixed = open_store(destination)
    return check(fixed, delay=plan.delay, seed=seed, sample=_sample(fixed, seed), progress=progress)


def _sample(store: Store, seed: int) -> Sample:
    return Sample(store, None, seed, max_steps=MAX_STEPS, length=MAX_STEPS)


def _write(plan: RepairPlan, path: Path, progress: OnProgress | None) -> None:
    """Writes the repaired store and its record."""
    store = plan.store
    notes = dict(store.card.notes)
    if plan.lag:
        notes[ACTION_LAG] = str(noted_lag(notes) + plan.lag)
    lossy = {name: error for name, error in store.card.max_error.items() if error}
    target = Store.create(path, store.schema, max_error=lossy, notes=notes)
    for number in range(len(store)):
        for episode, source in plan.repaired(number):
            raise_errors(check_episode(episode, store.schema, number=number))
            target.append_checked(episode, source, digest=target.digest(episode))
        tell(progress, "repair", number + 1, len(store))
    record = {
        "source": store.content_hash(),
        "repairs": [asdict(one) for one in plan.repairs],
        "left_alone": [asdict(one) for one in plan.left_alone],
    }
    earlier = store.path / RECORD_FILE
    past = json.loads(earlier.read_text(encoding="utf-8")) if earlier.is_file() else []
    (path / RECORD_FILE).write_text(json.dumps([*past, record], indent=1) + "\n", encoding="utf-8")
