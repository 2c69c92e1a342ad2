from __future__ import annotations

import html
import json
import re
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.brief import brief
from tests.data.stores import stored

import worldline
from worldline.catalog import Catalog
from worldline.data.open_logs import open_logs
from worldline.data.store import Store, open_store
from worldline.data.store_notes import correct_schema
from worldline.errors import BundleError, CollapseError, ConfigError, DataError, InputError, UnknownNameError
from worldline.progress import Progress
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.testing.toys import Integrator
from worldline.workflows import learn as learn_module
from worldline.workflows.evaluation import reported_steps
from worldline.workflows.held_out import fingerprints
from worldline.workflows.learn import learn, learn_logs
from worldline.workflows.learn_options import Options
from worldline.workflows.record import record
from worldline.workflows.training import Learned

Make = Callable[[Store], Recipe]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return record("two-rooms", tmp_path_factory.mktemp("logs") / "store", num_episodes=24, max_steps=30, seed=0)


def test_a_bundle_with_report_and_manifest_answers_as_the_world_did(logs: Store, tmp_path: Path, tiny: Make) -> None:
    def refining(store: Store) -> Recipe:
        recipe = tiny(store)
        return replace(recipe, heads=replace(recipe.heads, dynamics_updates=30))

    told: list[Progress] = []
    result = learn_logs(logs.path, tmp_path / "world", Options(recipe=refining, seed=3), progress=told.append)
    stages = ["check", "learn", "encode", "refine dynamics", "fit heads", "calibrate", "measure", "report"]
    assert list(dict.fromkeys(now.stage for now in told)) == stages
    assert {now.stage for now in told if now.step == now.total} == set(stages)
    run = json.loads((tmp_path / "world" / "run.json").read_text())
    assert run["seed"] == run["training"]["seed"] == 3
    known = fingerprints(logs, logs.schema)
    assert len(set(known)) == 24
    assert run["data"] == {"hash": logs.content_hash(), "episodes": 24, "steps": 720, "fingerprints": known}
    assert run["split"].pop("rule") == "episodes at random, seed 0"
    assert sorted(number for part in run["split"].values() for number in part) == list(range(24))
    assert {"learn", "refine", "heads", "calibrate", "report"} <= run["times_s"].keys()
    page = (tmp_path / "world" / "report.html").read_text()
    (unseen,) = (line for line in result.findings if "position" in line)
    assert unseen == "Not among the model's inputs: position, wall."
    assert unseen in html.unescape(page)
    assert run["times_s"]["refine"] > 0
    assert run["refinement"]["updates"] == run["heads"]["dynamics_updates"] == 30
    losses = run["refinement"]["losses"]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    assert all(chapter in page for chapter in ("Training and latents", "Errors and baselines", "Worth knowing"))
    assert "The decoder serves visualisation only" in page
    (drawn,) = result.decoded
    assert run["decoded_rmse"]["camera"]["20"]["persistence"] == drawn.persistence.value[-1]
    assert {error.world for error in result.diagnostics.errors} == {"", "persistence", "action_blind", "linear"}
    assert not (tmp_path / "world.partial").exists()
    episode = logs.episode(0)
    now, moves = episode.history(at=2, length=1), {"move": episode.actions["move"][2:8]}
    goal = worldline.Goal(targets={"camera": episode.observations["camera"][20]})
    again = worldline.open(tmp_path / "world")
    first, second = (w.predict(now, moves, level=0.5).signals["position"] for w in (result.world, again))
    for part in ("mean", "low", "high"):
        np.testing.assert_array_equal(vars(first)[part], vars(second)[part])
    plans = [w.plan(now, goal, horizon=4).actions["move"] for w in (result.world, again)]
    np.testing.assert_array_equal(*plans)
    calibration = [logs.episode(number).observations["camera"] for number in result.learned.split.calibration]
    assert again.describe().bytes_per_candidate > 1000
    split = result.learned.split
    numbers = (*split.train, *split.validation, *split.calibration)
    moved = [logs.episode(number).actions["move"] for number in numbers]
    ends = [np.concatenate(moved).min(0), np.concatenate(moved).max(0)]
    np.testing.assert_array_equal(again.calibration.logged_range["move"], ends)
    for seen in again.windows.observations["camera"]:
        assert any((seen[0] == one).all((1, 2, 3)).any() for one in calibration)
    assert Catalog(tmp_path / "catalog").publish(tmp_path / "world", "rooms").smoke_tested


class Stopped(BaseException):
    """As a kill: nothing in the package catches it."""


def at(stage: str, step: int = 0) -> Callable[[Progress], None]:
    """A stage that is stopped."""

    def stop(now: Progress) -> None:
        if now.stage == stage and now.step >= step:
            raise Stopped

    return stop


def interrupted(logs: object, out: object, *, stage: str = "learn", step: int = 0, **options: Any) -> None:
    """Learns until this step of a stage."""
    with pytest.raises(Stopped):
        learn(logs, out, progress=at(stage, step), **options)


@pytest.fixture
def raw(logs: Store, tmp_path: Path) -> Path:
    """A folder of 24 NPZ files."""
    (tmp_path / "mine").mkdir()
    for number in range(24):
        save_npz(logs, number, tmp_path / "mine" / f"{number:02}.npz")
    return tmp_path / "mine"


def save_npz(logs: Store, number: int, path: Path) -> None:
    episode = logs.episode(number)
    np.savez(path, **episode.observations, **episode.actions)


def edit_step(store: Path) -> None:
    """Corrects the schema of a store by hand."""
    file = store / "schema.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "step_s": 0.25}))


def test_an_edited_schema_is_used_and_what_is_new_is_added(logs: Store, raw: Path, tmp_path: Path, tiny: Make) -> None:
    (raw / "00.npz").rename(tmp_path / "00.npz")
    interrupted(raw, tmp_path / "world", recipe=tiny)
    edit_step(tmp_path / "world.store")
    (tmp_path / "00.npz").rename(raw / "00.npz")  # before all that are in the store
    interrupted(raw, tmp_path / "world", recipe=tiny)
    store = open_store(tmp_path / "world.store")
    assert store.schema.step_s == 0.25
    assert [entry.source["file"] for entry in store.entries()] == [f"{n:02}.npz" for n in (*range(1, 24), 0)]


def test_a_store_of_other_logs_is_left_alone(logs: Store, raw: Path, tmp_path: Path, tiny: Make) -> None:
    interrupted(raw, tmp_path / "world", recipe=tiny)
    edit_step(tmp_path / "world.store")
    open_store(tmp_path / "world.store")  # applies the edit
    files = [path for path in (tmp_path / "world.store").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    save_npz(logs, 4, raw / "03.npz")
    save_npz(logs, 5, raw / "new.npz")
    with pytest.raises(InputError, match=r"holds 24 episodes, and 1 of them are not in the logs\. Nothing was added"):
        learn(raw, tmp_path / "world", recipe=tiny)
    assert {path: path.read_bytes() for path in files} == before
    assert (tmp_path / "world.partial" / "checkpoint.json").exists()
    with pytest.raises(InputError, match="holds logs that were not in memory"):
        learn([logs.episode(0)] * 8, tmp_path / "world", recipe=tiny)
    with pytest.raises(DataError, match="does not exist"):
        learn(tmp_path / "nowhere", tmp_path / "world", recipe=tiny, force=True)
    assert {path: path.read_bytes() for path in files} == before
    interrupted(raw, tmp_path / "world", recipe=tiny, force=True)
    assert len(open_store(tmp_path / "world.store")) == 25
    assert not (tmp_path / "world.store.earlier").exists()


def test_an_import_that_fails_leaves_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        learn(tmp_path / "nowhere", tmp_path / "world")
    assert not list(tmp_path.iterdir())


def test_a_frame_is_imported_next_to_a_new_world(tmp_path: Path, monkeypatch: Any, capsys: Any, caplog: Any) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    frame = {"time": np.arange(1001.0), "level": np.cumsum(draw.normal(size=1001)), "feed": draw.uniform(size=1001)}
    edits = {"feed": {"role": "action", "unit": "kg/s"}}

    def begin(given: object, out: str | None = None) -> None:
        interrupted(given, out, edits=edits, recipe=vectors)

    begin(frame)
    begin(frame)
    assert capsys.readouterr().out.splitlines() == ["World: world", "World: world-2"]
    assert open_store("world-2.store").schema["feed"].unit == "kg/s"
    assert open_store("world-2.store").num_steps.tolist() == [100] * 10
    begin({**frame, "level": frame["level"] + 1}, "world-2")
    assert open_store("world-2.store").episode(0).observations["level"][0, 0] == frame["level"][0] + 1
    with pytest.raises(InputError, match="is a store"):
        learn("world-2.store", "other", edits=edits, recipe=vectors)
    assert "uncertain" not in caplog.text
    interrupted(frame | {"pump": frame["feed"]}, "third", recipe=vectors)
    assert "edits={'feed': {'role': 'action'}, 'level': {'role': 'observation'}}" in caplog.text


def short(logs: Store) -> Recipe:
    """A recipe for vectors that takes seconds, and learns next to nothing."""
    return brief(vectors(logs), num_checks=1)


def late_table() -> dict[str, np.ndarray]:
    """Row t holds the push that led to its place."""
    push = np.random.default_rng(0).uniform(-1, 1, 1001)
    return {"place": np.cumsum(push), "push": push}


def test_late_actions_are_a_warning_with_the_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    edits = {"push": {"role": "action"}}
    store = tmp_path / "late.store"
    result = learn_logs(late_table(), tmp_path / "late", Options(recipe="linear", edits=edits))
    assert result.findings[0] == str(result.late.finding)
    assert " ".join(result.late.command) in html.unescape((tmp_path / "late" / "report.html").read_text())
    assert "actions are logged 1 step too late" in caplog.text
    assert f"worldline import {store} {store}-aligned --action-lag 1" in caplog.text
    caplog.clear()
    interrupted(late_table(), tmp_path / "world", edits=edits, action_lag=1, recipe=vectors)
    assert open_store(tmp_path / "world.store").num_steps.tolist() == [99] * 10
    interrupted(late_table(), tmp_path / "world", recipe=vectors, resume=True)
    interrupted(tmp_path / "world.store", tmp_path / "other", action_lag=1, recipe=vectors)
    assert caplog.text == ""
    with pytest.raises(InputError, match=rf"another action_lag are given, but {store} is a store.* --action-lag N"):
        learn(store, tmp_path / "third", action_lag=1)


def test_the_three_worst_findings_are_shown(tmp_path: Path, caplog: Any) -> None:
    draw = np.random.default_rng(0)
    episodes = []
    for number in range(40):
        push = draw.uniform(-1, 1, (60, 1))
        place = np.concatenate([np.zeros((1, 1)), push]).cumsum(0) + 0.01 * draw.normal(size=(61, 1))
        sensor = place * (2.0 if number >= 20 else 1.0)
        episodes.append({"place": sensor[:-1, 0], "push": push[:, 0]})
    edits = {"push": {"role": "action"}}
    interrupted(episodes, tmp_path / "world", edits=edits, recipe=vectors)
    assert re.search(r"changes from about episode (19|20|21) on", caplog.text)
    assert 1 <= caplog.text.count("warning:") <= 3
    store = tmp_path / "world.store"
    assert re.search(rf"worldline import {store} {store}-edited --drop (19|20|21)-39", caplog.text)


def test_the_rest_of_a_recording_is_left_out_with_a_note(tmp_path: Path) -> None:
    num_whole, num_steps = 8, 1
    logs = [*Integrator(camera=False).episodes(num_whole, 20, seed=0)]
    logs += Integrator(camera=False).episodes(1, num_steps, seed=1)
    result = learn_logs(logs, tmp_path / "world", Options(recipe="linear"))
    split = result.learned.split
    used = [*split.train, *split.validation, *split.calibration, *split.held_out]
    assert sorted(used) == list(range(num_whole))
    (note,) = [line.replace("\u00a0", " ") for line in result.findings if "left out" in line]
    assert f"episode {num_whole}: the episode has {num_steps} step" in note


def test_observations_that_never_change_stop_the_training(tmp_path: Path) -> None:
    table = {"place": np.full(401, 2.0), "push": np.random.default_rng(0).uniform(-1, 1, 401)}
    with pytest.raises(DataError, match="no observation ever changes"):
        learn(table, tmp_path / "world", edits={"push": {"role": "action"}, "place": {"role": "observation"}})


def test_a_store_of_logs_in_memory_is_removed_only_for_logs_that_replace_all_of_it(tmp_path: Path) -> None:
    out, toy = tmp_path / "world", Integrator(camera=False)
    episodes = list(toy.episodes(12, 8, seed=0))
    interrupted(episodes, out, recipe=vectors, stage="import", step=10)
    store = open_store(tmp_path / "world.store")
    correct_schema(store, {"push": {"unit": "N"}})
    interrupted(episodes, out, recipe=vectors, resume=True)
    store = open_store(store.path)
    assert (len(store), store.schema["push"].unit) == (12, "N"), "the import resumed with the corrected schema"
    with pytest.raises(InputError, match="the logs are of the type"):
        learn(open_logs(store.path), out, recipe=vectors)
    store.append(episodes[0], {"file": "frame.csv", "episode": 0})
    with pytest.raises(InputError, match="holds logs that were not in memory"):
        learn(episodes, out, recipe=vectors)
    assert len(open_store(store.path)) == 13


def test_a_schema_beside_the_logs_that_is_not_used_is_named(raw: Path, tmp_path: Path, tiny: Make) -> None:
    """Also where it may be the remedy: from an action that never changes nothing can be learned."""
    for file in raw.glob("*.npz"):
        arrays = dict(np.load(file))
        constant = {
            name: np.zeros_like(values) for name, values in arrays.items() if len(values) < len(arrays["position"])
        }
        np.savez(file, **{**arrays, **constant})
    with pytest.raises(DataError, match="no action ever changes"):
        learn(raw, tmp_path / "world", recipe=tiny)
    known = json.loads((tmp_path / "world.store" / "schema.json").read_text())
    (raw / "schema.json").write_text(json.dumps({**known, "step_s": 0.25}))
    with pytest.raises(DataError, match=r"no action.*The schema next to the logs was not used: .*world\.store"):
        learn(raw, tmp_path / "world", recipe=tiny)


def test_a_killed_import_goes_on_with_resume(raw: Path, tmp_path: Path, tiny: Make) -> None:
    interrupted(raw, tmp_path / "world", recipe=tiny, stage="import", step=10)
    assert len(open_store(tmp_path / "world.store")) == 10
    edit_step(tmp_path / "world.store")
    seen: list[tuple[str, int]] = []

    def see(now: Progress) -> None:
        seen.append((now.stage, now.step))
        at("learn", 2)(now)

    with pytest.raises(Stopped):
        learn(raw, tmp_path / "world", recipe=tiny, resume=True, progress=see)
    assert seen[-2:] == [("learn", 1), ("learn", 2)]
    store = open_store(tmp_path / "world.store")
    assert (len(store), store.schema.step_s) == (24, 0.25)


def test_a_bundle_is_replaced_by_one_without_decoded_pictures(
    logs: Store, learned_bundle: Path, tmp_path: Path
) -> None:
    world = shutil.copytree(learned_bundle, tmp_path / "world")
    stages: list[str] = []
    result = learn_logs(logs.path, world, Options(recipe=short), progress=lambda now: stages.append(now.stage))
    assert result.decoded == ()
    assert "refine dynamics" not in stages
    assert json.loads((world / "run.json").read_text())["decoded_rmse"] == {}
    assert "decoder" not in (world / "report.html").read_text()


def test_a_training_goes_on_and_an_interrupt_after_it_does_not_lose_it(raw: Path, tmp_path: Path, tiny: Make) -> None:
    (raw / "99.npz").write_bytes(b"not an archive")

    def at_update(now: Progress) -> None:
        if (now.stage, now.step) == ("learn", 5):
            signal.raise_signal(signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(KeyboardInterrupt):
        learn(raw, tmp_path / "world", recipe=tiny, progress=at_update)
    assert (tmp_path / "world.partial").is_dir()
    seen: list[tuple[str, int]] = []

    def at_calibration(now: Progress) -> None:
        seen.append((now.stage, now.step))
        if now.stage == "calibrate":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(raw, tmp_path / "world", recipe=tiny, resume=True, progress=at_calibration)
    assert [step for stage, step in seen if stage == "learn"] == list(range(6, 13))
    stages: list[str] = []
    options = Options(recipe=tiny, resume=True)
    result = learn_logs(raw, tmp_path / "world", options, progress=lambda now: stages.append(now.stage))
    assert "learn" not in stages
    assert not (tmp_path / "world.partial").exists()
    assert result.learned.trained.curves
    assert len(open_store(tmp_path / "world.store")) == 24
    assert any("99.npz" in line for line in result.findings)
    run = json.loads((tmp_path / "world" / "run.json").read_text())
    assert run["findings"] == list(result.findings)
    assert run["unclear"] == list(result.unclear)


@pytest.mark.slow
def test_the_best_of_several_seeds_is_kept_and_all_are_told(logs: Store, tmp_path: Path, tiny: Make) -> None:
    result = learn_logs(logs.path, tmp_path / "world", Options(recipe=tiny, seed=4, num_seeds=3))
    assert [one.seed for one in result.seeds] == [4, 5, 6]
    assert len({one.control for one in result.seeds}) == 3
    best = max(result.seeds, key=lambda one: one.control)
    run = json.loads((tmp_path / "world" / "run.json").read_text())
    assert run["seed"] == best.seed
    assert [one["seed"] for one in run["seeds"]] == [4, 5, 6]
    (own,) = [error for error in result.diagnostics.errors if (error.world, error.signal) == ("", "position")]
    assert best.rmse["position"] == {step: own.rmse.value[step - 1] for step in result.diagnostics.horizons}
    assert {file.name for file in (tmp_path / "world.log").iterdir()} == {f"world-seed{n}.jsonl" for n in (4, 5, 6)}


@pytest.mark.slow
def test_of_several_seeds_those_that_were_not_begun_start_afresh(logs: Store, tmp_path: Path, tiny: Make) -> None:
    updates: list[int] = []

    def interrupt(now: Progress) -> None:
        updates.append(now.step) if now.stage == "learn" else None
        if len(updates) == 12 + 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        learn(logs.path, tmp_path / "world", recipe=tiny, num_seeds=3, progress=interrupt)
    resumed = learn_logs(logs.path, tmp_path / "world", Options(recipe=tiny, num_seeds=3, resume=True))
    whole = learn_logs(logs.path, tmp_path / "whole", Options(recipe=tiny, num_seeds=3))
    assert resumed.seeds == whole.seeds
    with pytest.raises(BundleError, match="no checkpoint"):
        learn(logs.path, tmp_path / "other", recipe=tiny, resume=True)


def test_a_seed_that_collapses_leaves_the_others(logs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, collapsing = learn_module.learn_world, [1]

    def learn_world(store: Store, recipe: Recipe, **rest: Any) -> Learned:
        if recipe.training.seed in collapsing:
            raise CollapseError("the latents collapsed")
        return own(store, recipe, **rest)

    monkeypatch.setattr(learn_module, "learn_world", learn_world)
    result = learn_logs(logs.path, tmp_path / "world", Options(recipe=short, num_seeds=2))
    assert [one.seed for one in result.seeds] == [0]
    assert result.findings[-1] == "seed 1: the latents collapsed"
    collapsing.append(0)
    with pytest.raises(CollapseError, match="seed 0: the latents collapsed"):
        learn_logs(logs.path, tmp_path / "none", Options(recipe=short, num_seeds=2))


def test_what_an_earlier_call_left_is_not_met_by_a_later_resume(logs: Store, tmp_path: Path, tiny: Make) -> None:
    old = tmp_path / "world.partial" / "seed1" / "checkpoint.json"
    old.parent.mkdir(parents=True)
    old.write_text("of other settings")

    def stop(now: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_logs(logs.path, tmp_path / "world", Options(recipe=tiny, num_seeds=2), progress=stop)
    assert not old.exists()


@pytest.mark.parametrize(
    ("option", "name"),
    [("model", "jeppa"), ("recipe", "pixel"), ("recipe", "worldline.recipes.vectors:v"), ("track", ("tensorbord",))],
)
def test_an_unknown_name_is_said_before_anything_is_imported(tmp_path: Path, option: str, name: Any) -> None:
    with pytest.raises(UnknownNameError):
        learn_logs(tmp_path / "nowhere", tmp_path / "world", Options(**{option: name}))


def test_episodes_too_short_to_calibrate_are_refused_before_the_training(tmp_path: Path) -> None:
    toy, told = Integrator(camera=False), list[str]()
    store = stored(tmp_path / "store", toy.schema, toy.episodes(20, 2, seed=0))
    with pytest.raises(DataError, match=r"of the part 'held_out' have 4 observations"):
        learn_logs(store.path, tmp_path / "world", progress=lambda now: told.append(now.stage))
    assert "learn" not in told


def test_weights_without_a_family_that_takes_them_are_refused(logs: Store, tmp_path: Path, tiny: Make) -> None:
    with pytest.raises(InputError, match="--model features"):
        learn(logs.path, tmp_path / "world", recipe=tiny, weights=tmp_path)


def test_a_budget_is_not_shared_between_processes(
    logs: Store, tmp_path: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        learn(logs.path, tmp_path / "world", recipe=tiny, budget=30.0)


def test_a_budget_sets_size_and_updates(
    logs: Store, tmp_path: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="too short"):
        learn(logs.path, tmp_path / "never", recipe=tiny, budget=0.01)
    fitted: list[Recipe] = []

    def learn_world(store: Store, recipe: Recipe, **rest: Any) -> Learned:
        fitted.append(recipe)
        raise Stopped

    monkeypatch.setattr(learn_module, "learn_world", learn_world)
    with pytest.raises(Stopped):
        learn(logs.path, tmp_path / "world", recipe=tiny, budget=6000.0)  # plenty, on any machine
    (recipe,) = fitted
    assert recipe.training.num_updates == 48  # four times the recipe's: more is not worth its time
    assert recipe.model_config.predictor.width == 64  # the largest of the sizes
    assert recipe.heads.readout_updates == 80


def test_a_foreign_folder_is_refused_before_anything_is_learned(logs: Store, tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="no bundle"):
        learn(logs.path, tmp_path / "world")
    assert (tmp_path / "world" / "thesis.txt").exists()


def test_a_slow_sensor_that_leaves_no_stretch_for_a_regression_is_learned_beside_persistence(tmp_path: Path) -> None:
    toy = Integrator(camera=False, wind=False)
    seen = {"position": np.arange(13) % 3 == 0}
    store = stored(
        tmp_path / "store", toy.schema, (replace(one, observed=seen) for one in toy.episodes(12, 12, seed=0))
    )
    result = learn_logs(store.path, tmp_path / "world", Options(recipe=short))
    assert {error.world for error in result.diagnostics.errors} == {"", "persistence"}


@pytest.mark.parametrize(
    ("horizon", "step_s", "steps"),
    [
        (20, None, (1, 5, 20)),
        (7, None, (1, 5, 7)),
        (3, None, (1, 3)),
        (1, None, (1,)),
        (48, 1800.0, (2, 12, 48)),  # 1, 6 and 24 hours
        (20, 0.05, (1, 5, 20)),  # only one round time fits
        (300, 0.1, (10, 100, 300)),
    ],
)
def test_reported_steps(horizon: int, step_s: float | None, steps: tuple[int, ...]) -> None:
    assert reported_steps(horizon, step_s) == steps
