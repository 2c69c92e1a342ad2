from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.stores import stored

from worldline.data.store import Store, is_store, open_store
from worldline.episode import Episode
from worldline.errors import ConfigError, DataError, InputError, UnknownNameError
from worldline.schema import Kind, Role, Schema, Signal

MASKS = st.sets(st.sampled_from(["camera", "position", "gear"])).map(lambda names: tuple(sorted(names)))


@given(shapes=st.lists(st.tuples(st.integers(1, 6), MASKS), min_size=1, max_size=5))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_goes_in_comes_out(tmp_path_factory, schema, make_episode, assert_equal, shapes):
    path = tmp_path_factory.mktemp("store") / "store"
    episodes = [make_episode(number, steps, masked) for number, (steps, masked) in enumerate(shapes)]
    sources = [{"file": f"{number}.npz", "day": 1.5, "take": number} for number in range(len(shapes))]
    written = stored(path, schema, episodes, sources)
    for store in (written, open_store(path)):
        assert (len(store), store.schema) == (len(episodes), schema)
        assert store.num_steps.tolist() == [steps for steps, _ in shapes]
        for number, episode in enumerate(episodes):
            assert_equal(store.episode(number), episode)
            assert store.entry(number).source == sources[number]


@pytest.mark.parametrize(("name", "episode", "start", "stop"), [
    ("gear", 1, 0, 1), ("gear", -1, 0, 1), ("gear", 0, 0, 5), ("push", 0, 0, 4), ("gear", 0, 2, 1), ("gear", 0, -1, 1),
])  # fmt: skip
def test_rows_that_do_not_exist_are_refused(tmp_path, schema, make_episode, name, episode, start, stop):
    store = stored(tmp_path / "store", schema, [make_episode(0, 3)])
    with pytest.raises(InputError, match=r"has no rows|no episode"):
        store.read(name, episode, start, stop)
    with pytest.raises(UnknownNameError, match="position"):
        store.read("positon", 0, 0, 1)


def test_an_episode_that_does_not_fit_leaves_the_store_as_it_was(tmp_path, schema, make_episode):
    store = stored(tmp_path / "store", schema, [make_episode(0, 3)])
    before = store.content_hash()
    good = make_episode(1, 3)
    bad = dataclasses.replace(good, actions={"push": good.actions["push"].astype(np.float64)})
    with pytest.raises(DataError, match=r"signal 'push'.*float64"):
        store.append(bad)
    with pytest.raises(ValueError, match="JSON"):
        store.append(good, {"day": float("nan")})
    assert (len(store), open_store(store.path).content_hash()) == (1, before)


def test_a_store_is_made_only_where_nothing_is(tmp_path, schema):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not empty"):
        Store.create(tmp_path / "full", schema)
    with pytest.raises(DataError, match="no store"):
        open_store(tmp_path / "full")
    assert not is_store(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    assert is_store(Store.create(tmp_path / "empty", schema).path)


def sizes(store: Store) -> dict[Path, int]:
    return {file: file.stat().st_size for file in sorted(store.path.rglob("*")) if file.is_file()}


@given(
    parts=st.lists(st.floats(0, 1), min_size=24, max_size=24), record=st.none() | st.floats(0, 1), first=st.booleans()
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_kill_of_an_append_loses_nothing(tmp_path_factory, schema, make_episode, assert_equal, parts, record, first):
    """Either the blocks hold any part of the new episode and the index nothing, or the index any part of its record."""
    store = Store.create(tmp_path_factory.mktemp("store") / "store", schema)
    episodes = [make_episode(3, 2, ("position", "gear")), make_episode(1, 3), make_episode(7, 4, ("camera",))]
    whole = 0 if first else 2
    for episode in episodes[:whole]:
        store.append(episode)
    before = sizes(store)
    store.append(episodes[whole])
    for (file, new), part in zip(sizes(store).items(), parts, strict=False):
        written = (record or 0.0) if file.name == "index.bin" else part if record is None else 1.0
        old = before.get(file, 0)
        if file not in before and written < 0.2:
            file.unlink()
        else:
            os.truncate(file, old + int((new - old) * written))
    torn = open_store(store.path)
    kept = whole + (record == 1)
    assert len(torn) == kept
    for number in range(kept):
        assert_equal(torn.episode(number), episodes[number])
        torn.verify(number)
    plain = make_episode(4, 5)  # shorter files and no masks: nothing of the torn tail may shine through
    torn.append(plain)
    again = open_store(store.path)
    assert len(again) == kept + 1
    assert_equal(again.episode(kept), plain)
    again.verify(kept)


@pytest.mark.parametrize("gone", ["gear.missing", "step_s.raw", "camera.dictionary", "sources.jsonl"])
def test_what_the_index_speaks_of_must_be_there(tmp_path, schema, make_episode, gone):
    store = stored(tmp_path / "store", schema, [make_episode(3, 4, ("gear",)), make_episode(0, 4)])
    file = next(store.path.rglob(gone))
    os.truncate(file, 3)
    with pytest.raises(DataError, match=rf"{gone}.*3 bytes"):
        open_store(store.path)
    file.unlink()
    with pytest.raises(DataError, match=rf"{gone}.*missing"):
        open_store(store.path)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_damage_to_the_last_records_is_no_torn_tail(tmp_path, schema, make_episode, first):
    store = stored(tmp_path / "store", schema, (make_episode(number, 2) for number in range(5)))
    content = bytearray((store.path / "index.bin").read_bytes())
    size = len(content) // 5
    for number in range(first, 5):
        content[number * size + 3] ^= 64
    (store.path / "index.bin").write_bytes(content)
    with pytest.raises(DataError, match=rf"record {first} is damaged"):
        open_store(store.path)


def test_a_damaged_source_is_named(tmp_path, schema, make_episode):
    store = Store.create(tmp_path / "store", schema)
    store.append(make_episode(0, 2), {"take": 7})
    (store.path / "sources.jsonl").write_text('{"take"; 7}\n')
    with pytest.raises(DataError, match=r"sources\.jsonl, episode 0"):
        open_store(store.path).entry(0)


def test_a_name_that_is_no_text_is_kept(tmp_path, schema, make_episode):
    store = Store.create(tmp_path / "store", schema, notes={"source": "run\udcff.npz"})
    store.append(make_episode(0, 2), {"file": "run\udcff.npz"})
    again = open_store(store.path)
    assert (again.entry(0).source, again.card.notes) == ({"file": "run\udcff.npz"}, {"source": "run?.npz"})


def test_there_may_be_more_signals_than_descriptors(tmp_path):
    names, limits = [f"s{number}" for number in range(300)], resource.getrlimit(resource.RLIMIT_NOFILE)
    signals = [Signal(name=name, role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,)) for name in names]
    action = Signal(name="a", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,))
    store = Store.create(tmp_path / "store", Schema(signals=(*signals, action)))
    rows = np.ones((3, 1), np.float32)
    # The limit is of numbers, and other tests may hold some descriptors.
    highest = max(int(entry.name) for entry in Path("/dev/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 100, limits[1]))
    try:
        store.append(Episode(observations=dict.fromkeys(names, rows), actions={"a": rows[:2]}))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(open_store(store.path)) == 1


def test_a_thread_may_refresh_while_another_appends(tmp_path, schema, make_episode, assert_equal):
    store, ended = Store.create(tmp_path / "store", schema), threading.Event()

    def refresh() -> None:
        while not ended.is_set():
            store.refresh()

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(refresh) for _ in range(2)]
        for number in range(25):
            store.append(make_episode(number, 3))
        ended.set()
        for one in waiting:
            one.result()
    assert len(store) == len(open_store(store.path)) == 25
    for number in range(25):
        assert_equal(store.episode(number), make_episode(number, 3))


@pytest.mark.parametrize("blank", [0, 1, 20, 56, 57, 200])
def test_zeros_at_the_end_of_the_index_are_no_episode(tmp_path, schema, make_episode, assert_equal, blank):
    store = stored(tmp_path / "store", schema, [make_episode(0, 3)])
    with (store.path / "index.bin").open("ab") as index:
        index.write(bytes(blank))
    again = open_store(store.path)
    assert len(again) == 1
    again.append(make_episode(1, 4))
    assert_equal(open_store(store.path).episode(1), make_episode(1, 4))


def test_damage_is_named(tmp_path, schema, make_episode):
    store = stored(tmp_path / "store", schema, (make_episode(number, 3) for number in range(2)))
    block = store.path / "blocks" / "push.raw"
    os.truncate(block, 10)
    with pytest.raises(DataError, match=r"push\.raw.*10 bytes.*needs 24"):
        open_store(store.path)
    with pytest.raises(DataError, match="ends too early"):
        store.read("push", 1, 0, 3)
    block.unlink()
    with pytest.raises(DataError, match=r"push\.raw.*missing"):
        open_store(store.path)


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), name=st.sampled_from([
    "index.bin", "camera.lz4", "camera.ends", "camera.dictionary", "position.raw", "push.raw", "gear.missing",
    "step_s.raw",
]))  # fmt: skip
@settings(max_examples=24, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_never_passes_for_data(tmp_path_factory, schema, make_episode, assert_equal, where, bit, name):
    episodes = [make_episode(number, 3, ("gear",)) for number in (1, 3, 7)]
    store = stored(tmp_path_factory.mktemp("store") / "store", schema, episodes)
    file = next(store.path.rglob(name))
    content = bytearray(file.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    file.write_bytes(content)
    try:
        damaged = open_store(store.path)
        for number in range(len(damaged)):
            damaged.verify(number)
    except (DataError, InputError):
        return
    for number in range(len(damaged)):  # at most the last record was taken for a torn one
        assert_equal(damaged.episode(number), episodes[number])
    assert len(damaged) == 3 or name == "index.bin"


def test_a_store_of_an_earlier_version_is_named(tmp_path, schema):
    store = Store.create(tmp_path / "store", schema)
    (store.path / "card.json").write_text('{"format": 3, "max_error": {}, "notes": {}}')
    with pytest.raises(ConfigError, match=r"layout 3.*reads 2"):
        open_store(store.path)


@given(error=st.integers(0, 64), seed=st.integers(0, 99))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pictures_lose_no_more_than_the_card_says(tmp_path_factory, schema, make_episode, error, seed):
    path = tmp_path_factory.mktemp("store") / "store"
    store = Store.create(path, schema, max_error={"camera": error}, notes={"from": "a test"})
    given = make_episode(seed, 4)
    store.append(given)
    again = open_store(path)
    seen = again.episode(0)
    off = np.abs(seen.observations["camera"].astype(int) - given.observations["camera"])
    assert off.max() <= error
    assert (off.max() == 0) == (error == 0)
    np.testing.assert_array_equal(seen.observations["position"], given.observations["position"])
    assert (again.card.max_error, again.card.notes) == ({"camera": error}, {"from": "a test"})
    assert again.digest(given) == again.digest(seen) == again.entry(0).digest


def test_what_may_not_be_lost_is_refused(tmp_path, schema):
    with pytest.raises(UnknownNameError, match="image signal"):
        Store.create(tmp_path / "store", schema, max_error={"position": 1})
    with pytest.raises(InputError, match="65"):
        Store.create(tmp_path / "store", schema, max_error={"camera": 65})
    assert not any(tmp_path.iterdir())


def test_what_stands_still_costs_next_to_nothing(tmp_path, schema):
    """The first picture is noise; the others differ from it in a few pixels."""
    camera = dataclasses.replace(schema["camera"], shape=(64, 64, 3))
    store = Store.create(tmp_path / "store", dataclasses.replace(schema, signals=(camera, schema["push"])))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    pictures = np.stack([noise] * 20)
    pictures[np.arange(20), np.arange(20)] = 0
    store.append(Episode(observations={"camera": pictures}, actions={"push": np.zeros((19, 1), np.float32)}))
    assert (store.path / "blocks" / "camera.lz4").stat().st_size < 20 * 400
    assert store.num_bytes()["camera"] < 20 * 420 + noise.nbytes
    np.testing.assert_array_equal(store.read("camera", 0, 0, 20), pictures)


def test_of_two_who_make_a_store_at_one_place_one_is_told(tmp_path, schema, make_episode):
    def make(_: int) -> int:
        try:
            Store.create(tmp_path / "store", schema)
        except InputError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(make, range(8))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_two_processes_append_at_once(tmp_path):
    x = Signal(name="x", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(500,))
    a = Signal(name="a", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,))
    Store.create(tmp_path / "store", Schema(signals=(x, a)))
    command = [sys.executable, "-c", textwrap.dedent(APPENDER), str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        exec(textwrap.dedent(APPENDER.partition("# both")[2]), {"path": tmp_path / "store", "first": 0})  # noqa: S102 (our own text)
        assert other.wait() == 0
    store = open_store(tmp_path / "store")
    assert sorted(store.entry(i).source["i"] for i in range(len(store))) == list(range(100))
    for number in range(100):
        store.verify(number)
        i = int(store.entry(number).source["i"])
        assert (store.read("x", number, 0, i % 7 + 3) == i).all()


APPENDER = """
    import sys
    path, first = sys.argv[1], 1
    # both
    import numpy as np
    from worldline.data.store import open_store
    from worldline.episode import Episode
    store = open_store(path)
    print("ready", flush=True)
    for i in range(first, 100, 2):
        rows = np.full((i % 7 + 3, 500), i, np.float32)
        mask = {"x": np.arange(len(rows)) > 0} if i % 5 == 0 else {}
        store.append(Episode(observations={"x": rows}, actions={"a": rows[1:, :1]}, observed=mask), {"i": i})
"""


def test_descriptors_are_closed_with_the_store(tmp_path, schema, make_episode):
    def num_open() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    store = stored(tmp_path / "store", schema, [make_episode(0, 3, ("gear",))])
    before = num_open()
    reader = open_store(store.path)
    reader.episode(0)
    assert num_open() > before
    del reader
    assert num_open() == before


def test_a_strangers_schema_allocates_nothing(tmp_path, schema):
    huge = dataclasses.replace(schema["camera"], shape=(10**7, 10**7, 3))
    assert len(Store.create(tmp_path / "store", dataclasses.replace(schema, signals=(huge, schema["push"])))) == 0
    with pytest.raises(InputError, match="no observation"):
        Store.create(tmp_path / "other", dataclasses.replace(schema, signals=(schema["push"],)))
