from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.formats.lerobot.lerobot_fixture import pictures, write_video

from worldline.data.formats.decoding import frame_times, frames
from worldline.errors import DataError

NAMES = ["a.mp4", "a.avi", "a.mkv", "a.mov"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in NAMES:
        write_video(folder / name, pictures(13, 0), 10)
    write_video(folder / "gaps.mp4", pictures(5, 0), 10, times=[0, 1, 4, 5, 9])
    write_video(folder / "gaps.avi", pictures(5, 0), 10, times=[0, 1, 4, 5, 9], codec="mpeg4")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_comes_in_order_at_its_time(videos, name):
    times, shown = zip(*frames(videos / name), strict=True)
    np.testing.assert_allclose(times, np.arange(13) / 10, atol=1e-9)
    np.testing.assert_allclose(frame_times(videos / name), times, atol=1e-9)
    assert {picture.shape for picture in shown} == {(48, 64, 3)}
    assert {picture.dtype for picture in shown} == {np.dtype(np.uint8)}
    np.testing.assert_allclose(np.stack(shown), pictures(13, 0), atol=6)


@pytest.mark.parametrize("name", ["gaps.mp4", "gaps.avi"])
def test_gaps_between_frames_stay(videos, name):
    times = [time for time, _ in frames(videos / name)]
    np.testing.assert_allclose(times, [0, 0.1, 0.4, 0.5, 0.9], atol=1e-9)
    np.testing.assert_allclose(frame_times(videos / name), times, atol=1e-9)


@given(name=st.sampled_from([*NAMES, "gaps.mp4"]), start=st.floats(-0.5, 1.6), length=st.floats(0, 2))
@settings(max_examples=12)
def test_a_part_is_what_the_whole_has_there(videos, name, start, length):
    whole = [(t, picture) for t, picture in frames(videos / name) if start <= t < start + length]
    part = list(frames(videos / name, start, start + length))
    assert [time for time, _ in part] == [time for time, _ in whole]
    for (_, one), (_, other) in zip(part, whole, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_file_that_was_cut_is_named(videos, tmp_path, name, share):
    content = (videos / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    for read in (frames, frame_times):
        with pytest.raises(DataError, match=name):
            list(read(tmp_path / name))


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://localhost/a.ts\n")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    write_video(tmp_path / "a.mp4", pictures(3, 0), 10)
    for name in ("list.mp4", "concat.mp4", "missing.mp4", "."):
        with pytest.raises(DataError, match="the video cannot be read"):
            list(frames(tmp_path / name))


def test_a_damaged_frame_is_named_by_its_time(videos, tmp_path):
    with av.open(str(videos / "a.mp4")) as container:
        key = next(p for p in container.demux(video=0) if p.pts and p.is_keyframe and p.pts * p.time_base > 0.5)
        time, place = float(key.pts * key.time_base), slice(key.pos + 8, key.pos + key.size)
    content = bytearray((videos / "a.mp4").read_bytes())
    content[place] = bytes(byte ^ 0x55 for byte in content[place])
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mp4: the frame after 0\.\d+ s cannot be read"):
        list(frames(tmp_path / "a.mp4"))
    with pytest.raises(DataError, match=r"a\.mp4: the frame"):
        list(frames(tmp_path / "a.mp4", time - 0.05, 2.0))
    assert len(list(frames(tmp_path / "a.mp4", 0.0, 0.2))) == 2
    assert len(frame_times(tmp_path / "a.mp4")) == 13


def test_nothing_stays_open(videos):
    before = len(list(Path("/dev/fd").iterdir()))
    some = frames(videos / "a.mp4")
    next(some)
    some.close()
    for file in videos.glob("a.*"):
        list(frames(file, 0.35, 0.7))
    assert len(list(Path("/dev/fd").iterdir())) == before
