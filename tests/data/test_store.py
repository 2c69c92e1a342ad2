from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldline.data.store import Store, is_store, open_store
from worldline.errors import ConfigError, DataError, InputError, UnknownNameError

MASKS = st.sets(st.sampled_from(["camera", "position", "gear"])).map(lambda names: tuple(sorted(names)))


@given(shapes=st.lists(st.tuples(st.integers(1, 6), MASKS), min_size=1, max_size=5))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_goes_in_comes_out(tmp_path_factory, schema, make_episode, assert_equal, shapes):
    path = tmp_path_factory.mktemp("store") / "store"
    written = Store.create(path, schema)
    episodes = [make_episode(number, steps, masked) for number, (steps, masked) in enumerate(shapes)]
    for number, episode in enumerate(episodes):
        written.append(episode, {"file": f"{number}.npz", "day": 1.5, "take": number})
    for store in (written, open_store(path)):
        assert len(store) == len(episodes)
        assert store.schema == schema
        assert store.num_steps.tolist() == [steps for steps, _ in shapes]
        for number, episode in enumerate(episodes):
            assert_equal(store.episode(number), episode)
            assert store.entries[number].source == {"file": f"{number}.npz", "day": 1.5, "take": number}


def test_rows_are_read_for_each_role(tmp_path, schema, make_episode):
    store = Store.create(tmp_path / "store", schema)
    episodes = [make_episode(number, 5) for number in range(3)]
    for episode in episodes:
        store.append(episode)
    np.testing.assert_array_equal(store.read("gear", 2, 1, 6), episodes[2].observations["gear"][1:6])
    np.testing.assert_array_equal(store.read("push", 1, 2, 5), episodes[1].actions["push"][2:5])
    assert store.read("camera", 0, 3, 3).shape == (0, 4, 5, 3)
    assert store.observed("camera", 1, 0, 4).tolist() == [True] * 4


@pytest.mark.parametrize(("name", "episode", "start", "stop"), [
    ("gear", 1, 0, 1), ("gear", -1, 0, 1), ("gear", 0, 0, 5), ("push", 0, 0, 4), ("gear", 0, 2, 1), ("gear", 0, -1, 1),
])  # fmt: skip
def test_rows_that_do_not_exist_are_refused(tmp_path, schema, make_episode, name, episode, start, stop):
    store = Store.create(tmp_path / "store", schema)
    store.append(make_episode(0, 3))
    with pytest.raises(InputError, match=r"exist|no episode"):
        store.read(name, episode, start, stop)
    with pytest.raises(UnknownNameError, match="position"):
        store.read("positon", 0, 0, 1)


def test_an_episode_that_does_not_fit_leaves_the_store_as_it_was(tmp_path, schema, make_episode):
    store = Store.create(tmp_path / "store", schema)
    store.append(make_episode(0, 3))
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


def test_the_hash_tells_contents_apart(tmp_path, schema, make_episode):
    def stored(name: str, numbers: list[int]) -> str:
        store = Store.create(tmp_path / name, schema)
        for number in numbers:
            store.append(make_episode(number, 4, ("gear",)))
        return store.content_hash()

    assert stored("a", [1, 2]) == stored("b", [1, 2])
    assert len({stored("c", [1, 2]), stored("d", [2, 1]), stored("e", [1]), stored("f", [])}) == 4


@given(parts=st.lists(st.floats(0, 1), min_size=9, max_size=9), line=st.none() | st.floats(0, 1))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_kill_at_any_moment_of_an_append_loses_nothing(
    tmp_path_factory, schema, make_episode, assert_equal, parts, line
):
    """Either the blocks hold any part of the new episode and the index nothing, or the index any part of its line."""
    store = Store.create(tmp_path_factory.mktemp("store") / "store", schema)
    episodes = [make_episode(number, 2 + number, ("position",)) for number in range(3)]
    for episode in episodes[:2]:
        store.append(episode)
    files = [*sorted((store.path / "blocks").iterdir()), store.path / "index.jsonl"]
    before = [file.stat().st_size for file in files]
    store.append(episodes[2])
    done = [*parts, 0.0] if line is None else [1.0] * len(parts) + [line]
    for file, old, part in zip(files, before, done, strict=True):
        os.truncate(file, old + int((file.stat().st_size - old) * part))
    torn = open_store(store.path)
    kept = 3 if line == 1 else 2
    assert len(torn) == kept
    for number in range(kept):
        assert_equal(torn.episode(number), episodes[number])
    torn.append(episodes[2])
    again = open_store(store.path)
    assert len(again) == kept + 1
    assert_equal(again.episode(kept), episodes[2])
    assert files[-1].read_bytes().count(b"\n") == kept + 1


def test_zeros_in_the_last_line_of_the_index_are_a_torn_line(tmp_path, schema, make_episode):
    store = Store.create(tmp_path / "store", schema)
    store.append(make_episode(0, 3))
    with (store.path / "index.jsonl").open("ab") as index:
        index.write(b"\0" * 40 + b"}\n")
    assert len(open_store(store.path)) == 1


def test_damage_is_named(tmp_path, schema, make_episode):
    store = Store.create(tmp_path / "store", schema)
    for number in range(2):
        store.append(make_episode(number, 3))
    os.truncate(store.path / "blocks" / "camera.raw", 100)
    with pytest.raises(DataError, match=r"camera\.raw.*100 bytes.*needs 480"):
        open_store(store.path)
    with pytest.raises(DataError, match="ends too early"):
        store.read("camera", 1, 0, 4)
    (store.path / "blocks" / "camera.raw").unlink()
    with pytest.raises(DataError, match="missing"):
        open_store(store.path)
    shutil.copy(store.path / "schema.json", store.path / "blocks" / "camera.raw")
    lines = (store.path / "index.jsonl").read_text().splitlines()
    (store.path / "index.jsonl").write_text(f"nonsense\n{lines[1]}\n")
    with pytest.raises(ConfigError, match=r"index\.jsonl"):
        open_store(store.path)


def test_two_writers_take_turns(tmp_path, schema, make_episode, assert_equal):
    one = Store.create(tmp_path / "store", schema)
    other = open_store(one.path)
    for number in range(4):
        (one, other)[number % 2].append(make_episode(number, 3, ("gear",)))
    one.refresh()
    for number in range(4):
        assert_equal(one.episode(number), make_episode(number, 3, ("gear",)))


WRITER = """
    import sys
    import numpy as np
    from worldline.contracts.episode import Episode
    from worldline.contracts.schema import Kind, Role, Schema, Signal
    from worldline.data.store import Store
    x = Signal(name="x", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(500,))
    a = Signal(name="a", role=Role.ACTION, kind=Kind.VECTOR, shape=(500,))
    store = Store.create(sys.argv[1], Schema(signals=(x, a)))
    for i in range(100_000):
        rows = np.full((i % 7 + 3, 500), i, np.float32)
        store.append(Episode(observations={"x": rows}, actions={"a": rows[1:]}))
        print(i, flush=True)
"""


def test_a_process_that_is_killed_leaves_every_episode_it_finished(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) == 20:
            break
    time.sleep(0.003)
    writer.send_signal(signal.SIGKILL)
    finished = [int(line) for line in writer.stdout.read().split()]
    writer.stdout.close()
    writer.wait()
    store = open_store(tmp_path / "store")
    assert len(store) >= max(finished, default=20) + 1
    for i in range(len(store)):
        assert store.num_steps[i] == i % 7 + 2
        assert (store.read("x", i, 0, i % 7 + 3) == i).all()


def test_descriptors_are_closed_with_the_store(tmp_path, schema, make_episode):
    def num_open() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    store = Store.create(tmp_path / "store", schema)
    store.append(make_episode(0, 3, ("gear",)))
    before = num_open()
    store.episode(0)
    assert num_open() > before
    del store
    assert num_open() == before
