from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread, current_thread

import numpy as np
import pytest
import torch

from worldline.catalog.aliases import Stamp, WorldDirectory
from worldline.catalog.comparison import ShadowVerdict, read_records
from worldline.catalog.named import NamedWorld
from worldline.catalog.versions import Catalog
from worldline.episode import History
from worldline.errors import InputError, UnsupportedError
from worldline.planning.base import Goal, Rollout
from worldline.testing.toys import Integrator
from worldline.world.base import World
from worldline.world.local import LocalWorld

Write = Callable[..., Path]
Open = Callable[[Path], LocalWorld]
EPISODE = Integrator(noise=0.1, camera=False, wind=False).episodes(1, 12, seed=3)[0]
STILL = History(observations={"position": np.zeros((1, 2), np.float32)}, actions={"push": np.zeros((0, 2), np.float32)})
PUSHES = {"push": np.zeros((2, 2), np.float32)}
HOME = Goal(targets={"position": np.zeros(2, np.float32)}, tolerance={"position": 1.0})


@pytest.fixture
def catalog(tmp_path: Path, open_toy: Open, toy_bundle: Write) -> Catalog:
    """Version n of toy is off by n; prod stands for 1."""
    found = Catalog(tmp_path / "catalog", open_bundle=open_toy)
    for number in (1, 2, 3):
        found.publish(toy_bundle(float(number)), "toy", alias="prod" if number == 1 else None)
    return found


@pytest.fixture
def world(catalog: Catalog, open_toy: Open) -> Iterator[NamedWorld]:
    with NamedWorld(catalog.shelf("toy"), "prod", open_bundle=open_toy) as found:
        yield found


def told(world: World) -> float:
    """The bias of whatever answers."""
    return float(world.predict(STILL, PUSHES).signals["position"].mean[0, 0])


def test_a_running_application_is_swapped(catalog: Catalog, world: NamedWorld) -> None:
    seen = []
    for step in range(12):
        if step == 4:
            catalog.point("toy", "prod", 3)
        if step == 8:
            catalog.roll_back("toy", "prod")
        seen.append((told(world), world.version, world.describe().name))
    assert seen == [(1.0, 1, "biased by 1.0")] * 4 + [(3.0, 3, "biased by 3.0")] * 4 + [(1.0, 1, "biased by 1.0")] * 4


def answers(world: World, plans: dict[str, np.ndarray]) -> list[np.ndarray]:
    settings = {"proposals": plans, "pending": PUSHES, "seed": 5}
    return [
        world.predict(STILL, PUSHES, level=0.8).signals["position"].mean,
        np.asarray(world.score(STILL, plans, HOME, [far]).violation),
        np.asarray(world.plan(STILL, HOME, horizon=2, constraints=[far], min_trust=0.0, **settings).actions["push"]),
        np.asarray(world.what_if(EPISODE, 3, PUSHES).signals["position"]),
    ]


def far(rollout: Rollout) -> torch.Tensor:
    return (rollout.signals["position"][..., 0].amax((2, 3)) - 1.2).clamp(min=0.0)


def test_a_version_that_cannot_be_opened_is_not_taken(
    catalog: Catalog, world: NamedWorld, toy_bundle: Write, caplog: pytest.LogCaptureFixture
) -> None:
    assert told(world) == 1.0
    blind = Catalog(catalog.folder, open_bundle=lambda path: catalog.open_bundle(catalog.resolve("toy@1")))
    blind.publish(toy_bundle(fails="open"), "toy", alias="prod")
    with caplog.at_level(logging.WARNING):
        assert [told(world) for _ in range(5)] == [1.0] * 5
    assert len(caplog.records) == 1
    assert "toy@prod: version 1 stays" in caplog.text
    assert "BundleError" in caplog.text
    assert "no key fits" not in caplog.text  # a text may hold paths
    assert "Traceback" not in caplog.text
    catalog.point("toy", "prod", 2)
    assert told(world) == 2.0


@pytest.mark.parametrize("content", ["{", None])
def test_a_damaged_or_missing_file_of_aliases_stops_nothing(
    catalog: Catalog, world: NamedWorld, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    assert told(world) == 1.0
    path = catalog.folder / "worlds" / "toy" / "aliases.json"
    kept = path.read_text()
    path.unlink()
    if content is not None:
        path.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert [told(world) for _ in range(3)] == [1.0] * 3
    assert len(caplog.records) == 1
    path.write_text(kept.replace('"version": 1', '"version": 2'))
    assert told(world) == 2.0


def test_a_call_ends_on_the_version_that_it_began_with(catalog: Catalog, open_toy: Open) -> None:
    begun, may_go_on = Event(), Event()

    def slow(rollout: Rollout) -> torch.Tensor:
        begun.set()
        assert may_go_on.wait(60)
        return rollout.signals["position"][..., 0]

    world, found = NamedWorld(catalog.shelf("toy"), "prod", open_bundle=open_toy), []
    plans = {"push": np.zeros((1, 1, 2), np.float32)}
    thread = Thread(target=lambda: found.append(world.score(STILL, plans, Goal(costs=[slow])).cost[0]))
    thread.start()
    assert begun.wait(60)
    catalog.point("toy", "prod", 3)
    assert told(world) == 3.0
    may_go_on.set()
    thread.join()
    assert found == [1.0]


def test_others_go_on_while_one_opens_the_new_version(catalog: Catalog, open_toy: Open) -> None:
    opening, may_open = Event(), Event()

    def slow(path: Path) -> World:
        if path.name == "2":
            opening.set()
            assert may_open.wait(60)
        return open_toy(path)

    world, found = NamedWorld(catalog.shelf("toy"), "prod", open_bundle=slow), []
    assert told(world) == 1.0
    catalog.point("toy", "prod", 2)
    thread = Thread(target=lambda: found.append(told(world)))
    thread.start()
    assert opening.wait(60)
    assert told(world) == 1.0
    may_open.set()
    thread.join()
    assert (found, told(world)) == ([2.0], 2.0)


@pytest.mark.parametrize("fails", [False, True])
def test_a_thread_that_looked_before_another_swapped_opens_nothing_again(
    catalog: Catalog, open_toy: Open, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    looked, swapped, opened, stamp = Event(), Event(), list[str](), WorldDirectory.stamp

    def once(path: Path) -> World:
        if fails and path.name in opened:
            raise OSError("no memory left")
        opened.append(path.name)
        return open_toy(path)

    def wait(shelf: WorldDirectory) -> Stamp | None:
        found = stamp(shelf)
        if current_thread() is late and not looked.is_set():
            looked.set()
            assert swapped.wait(60)
        return found

    world, found = NamedWorld(catalog.shelf("toy"), "prod", open_bundle=once), []
    late = Thread(target=lambda: found.append(told(world)))
    monkeypatch.setattr(WorldDirectory, "stamp", wait)
    assert told(world) == 1.0
    catalog.point("toy", "prod", 2)
    late.start()
    assert looked.wait(60)
    assert told(world) == 2.0
    swapped.set()
    late.join()
    assert (found, told(world), opened) == ([2.0], 2.0, ["1", "2"])


def test_eight_threads_never_see_a_mixture(catalog: Catalog, world: NamedWorld) -> None:
    def ask(_: int) -> set[tuple[float, ...]]:
        mine = set()
        for _ in range(60):
            mean = world.predict(STILL, {"push": np.zeros((6, 2), np.float32)}).signals["position"].mean
            mine.add(tuple(np.round(mean[:, 0], 3).tolist()))
        return mine

    catalog.shadow("toy", "prod", 3)
    with ThreadPoolExecutor(9) as pool:
        asked = [pool.submit(ask, number) for number in range(8)]
        for version in (2, 3, 2, 1) * 3:
            catalog.point("toy", "prod", version)
        seen = set().union(*(one.result() for one in asked))
    whole = {
        tuple(np.round(np.cumsum(0.9 ** np.arange(6)) * bias, 3).astype(np.float32).tolist()) for bias in (1, 2, 3)
    }
    assert {tuple(np.float32(one).tolist()) for one in seen} <= whole
    assert told(world) == 1.0


def test_what_ran_in_shadow_is_open_already(catalog: Catalog, open_toy: Open) -> None:
    opened = []

    def count(path: Path) -> World:
        opened.append(path.name)
        return open_toy(path)

    catalog.shadow("toy", "prod", 2)
    with NamedWorld(catalog.shelf("toy"), "prod", open_bundle=count) as world:
        assert told(world) == 1.0
        world.flush()
        catalog.promote("toy", "prod", despite=True)
        assert told(world) == 2.0
    assert opened == ["1", "2"]


def test_shadow_records_every_verb_and_changes_no_answer(catalog: Catalog, world: NamedWorld, open_toy: Open) -> None:
    plans = {"push": np.stack([PUSHES["push"], PUSHES["push"] + 0.5])}
    catalog.shadow("toy", "prod", 2)
    plain = open_toy(catalog.resolve("toy@1"))
    for one, other in zip(answers(world, plans), answers(plain, plans), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="push"):  # what is refused is not shadowed
        world.predict(STILL, {"push": np.full((2, 2), 9.0)})
    with pytest.raises(UnsupportedError):
        world.surprise(EPISODE)
    world.flush()
    found = read_records(catalog.folder / "worlds" / "toy" / "shadow" / "prod-1-2.jsonl")
    assert [one.verb for one in found] == ["predict", "score", "plan", "what_if"]
    assert [bool(one.unscored) for one in found] == [True, True, True, False]
    assert not any(one.error for one in found)


def test_surprise_is_shadowed_too(
    catalog: Catalog, tmp_path: Path, world: NamedWorld, open_toy: Open, request: pytest.FixtureRequest
) -> None:
    calibrated = request.getfixturevalue("calibration"), request.getfixturevalue("engine")

    def open_calibrated(path: Path) -> World:
        plain = open_toy(path)
        return LocalWorld(calibrated[1], calibrated[0], plain.planner)

    catalog.shadow("toy", "prod", 2)
    with NamedWorld(catalog.shelf("toy"), "prod", open_bundle=open_calibrated) as asked:
        asked.surprise(EPISODE)
    (record,) = read_records(catalog.folder / "worlds" / "toy" / "shadow" / "prod-1-2.jsonl")
    assert (record.verb, record.error) == ("surprise", "")
    assert record.outcomes["position"].inside_serving in (0.0, 1.0)


def test_the_candidate_is_asked_what_was_asked_then(catalog: Catalog, open_toy: Open) -> None:
    """An application may fill its arrays anew as soon as it has its answer."""
    opening, may_open = Event(), Event()

    def slow(path: Path) -> World:
        if path.name == "2":
            opening.set()
            assert may_open.wait(60)
        return open_toy(path)

    catalog.shadow("toy", "prod", 2)
    position = EPISODE.observations["position"].copy()
    history = History(observations={"position": position}, actions=EPISODE.actions)
    with NamedWorld(catalog.shelf("toy"), "prod", open_bundle=slow) as world:
        world.predict(history, PUSHES)
        assert opening.wait(60)
        position[:] = np.nan
        may_open.set()
    (record,) = read_records(catalog.folder / "worlds" / "toy" / "shadow" / "prod-1-2.jsonl")
    assert record.outcomes


@pytest.mark.parametrize("fails", ["open", "imagine", "exit", "nan"])
def test_a_failing_candidate_goes_unnoticed(catalog: Catalog, world: NamedWorld, toy_bundle: Write, fails: str) -> None:
    blind = Catalog(catalog.folder, open_bundle=lambda path: catalog.open_bundle(catalog.resolve("toy@1")))
    blind.publish(toy_bundle(fails=fails), "toy")
    blind.shadow("toy", "prod", 4)
    for length in (6, 12):
        history = EPISODE.history(12, length)
        alone = catalog.open_bundle(catalog.resolve("toy@1")).predict(history, PUSHES)
        found = world.predict(history, PUSHES)
        np.testing.assert_array_equal(found.signals["position"].mean, alone.signals["position"].mean)
        world.flush()
    seen = catalog.comparison("toy", "prod")
    assert (seen.num_calls, seen.num_failed, seen.verdict) == (2, 2, ShadowVerdict.WORSE)


def test_after_closing_it_still_answers_and_follows(catalog: Catalog, world: NamedWorld) -> None:
    catalog.shadow("toy", "prod", 2)
    world.close()
    assert told(world) == 1.0
    catalog.point("toy", "prod", 3)
    assert told(world) == 3.0
    assert not (catalog.folder / "worlds" / "toy" / "shadow").exists()
