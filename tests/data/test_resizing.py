import dataclasses

import numpy as np
import pytest

from worldline.data.conversion import scale, scaled_schema
from worldline.data.importing import import_logs
from worldline.data.store import open_store
from worldline.errors import InputError


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_halving_takes_the_mean_of_four_pixels(schema, make_episode, channels):
    camera = dataclasses.replace(schema["camera"], shape=(4, 6, channels))
    given = dataclasses.replace(schema, signals=(camera, schema["push"]))
    pictures = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels)).astype(np.uint8)
    episode = dataclasses.replace(make_episode(1, 4), observations={"camera": pictures})
    half = scaled_schema(given, (2, 3))
    assert (half["camera"].shape, half["push"]) == ((2, 3, channels), given["push"])
    seen = scale(episode, half).observations["camera"]
    mean = pictures.reshape(5, 2, 2, 3, 2, channels).mean((2, 4))
    assert seen.dtype == np.uint8
    assert np.abs(seen - mean).max() <= 1
    np.testing.assert_array_equal(scale(episode, given).observations["camera"], pictures)


def test_logs_are_scaled_on_import_and_the_card_says_so(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in range(3):
        draw = np.random.default_rng(number)
        camera = np.repeat(np.repeat(draw.integers(0, 256, (5, 4, 5, 3)), 2, 1), 3, 2).astype(np.uint8)
        np.savez(logs / f"{number}.npz", camera=camera, action=draw.random((4, 1)))
    report = import_logs(logs, tmp_path / "store", size=(4, 5))
    store = open_store(tmp_path / "store")
    assert (report.num_episodes, store.schema["camera"].shape) == (3, (4, 5, 3))
    assert store.card.notes["size"] == "4x5"
    with np.load(logs / "1.npz") as archive:
        np.testing.assert_array_equal(store.read("camera", 1, 0, 5), archive["camera"][:, ::2, ::3])
    np.savez(logs / "3.npz", camera=np.zeros((3, 16, 20, 3), np.uint8), action=np.ones((2, 1)))
    again = import_logs(logs, tmp_path / "store", open_store(tmp_path / "store").schema, keep_going=True)
    assert sum(file.present for file in again.files) == 3
    with pytest.raises(InputError, match="size is 0x5"):
        import_logs(logs, tmp_path / "other", size=(0, 5))
