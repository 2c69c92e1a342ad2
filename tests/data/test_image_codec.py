from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.data.image_block import ImageCodec
from worldline.errors import DataError

SHAPES = st.sampled_from([(1, 1, 1), (7, 5, 3), (64, 64, 3), (160, 150, 3), (224, 224, 4)])


@given(shape=SHAPES, seed=st.integers(0, 99), noise=st.sampled_from([0.0, 0.01, 1.0]))
@settings(max_examples=25)
def test_what_was_compressed_comes_back(shape, seed, noise):
    draw = np.random.default_rng(seed)
    first = draw.integers(0, 256, shape).astype(np.uint8)
    pictures = np.where(draw.random((3, *shape)) < noise, draw.integers(0, 256, (3, *shape)), first).astype(np.uint8)
    frames = ImageCodec(shape, first.tobytes(), "x")
    data, ends = frames.compress(pictures)
    assert ends[-1] == len(data) <= pictures.nbytes
    for number, (begin, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
        out = np.empty(frames.num_bytes, np.uint8)
        frames.restore(data[begin:end], out)
        np.testing.assert_array_equal(out, pictures[number].reshape(-1))


@given(shape=SHAPES, cut=st.floats(0, 1), junk=st.binary(max_size=40))
@settings(max_examples=25)
def test_damage_is_an_error_or_another_picture_and_never_more(shape, cut, junk):
    frames = ImageCodec(shape, bytes(int(np.prod(shape))), "camera.lz4")
    data, _ = frames.compress(np.full((1, *shape), 7, np.uint8))
    out = np.empty(frames.num_bytes, np.uint8)
    with suppress(DataError):
        frames.restore(data[: int(cut * len(data))] + junk, out)
    with pytest.raises(DataError, match=r"camera\.lz4: an image cannot be restored"):
        frames.restore(b"", out)
