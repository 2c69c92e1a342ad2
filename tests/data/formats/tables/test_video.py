import re
from fractions import Fraction
from functools import partial

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data.formats.tables.test_tables import read_with

from worldline.data.base import ReadOptions
from worldline.data.checks import Severity, check_episode
from worldline.data.formats.tables.tables import TableLogs
from worldline.data.formats.tables.video import VideoLogs
from worldline.data.importing import import_logs
from worldline.data.open_logs import open_logs
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

SIDE = 32
TENTHS = [i / 10 for i in range(10)]


def shade(number):
    """Each frame is of one grey, that of its number."""
    return 20 * number + 10


def write_video(path, times, numbers=None, codec="libx264"):
    """Frames that are shown at these seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"crf": "1", "bf": "2"} if codec == "libx264" else {"qscale": "1"}
        for number, time in zip(numbers or range(len(times)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((SIDE, SIDE, 3), shade(number), np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_pictures(folder, numbers, name="frame_{}.png"):
    folder.mkdir()
    for place, number in enumerate(numbers):
        picture = np.full((6, 8, 3), shade(number), np.uint8)
        Image.fromarray(picture).save(folder / name.format(number if "{}" in name else place))
    return folder


def write_rows(path, num, **columns):
    columns = {"action": [float(i) for i in range(num)], **columns}
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


read = partial(read_with, VideoLogs)


def frames_of(episode, camera="camera"):
    """The number of each frame."""
    pictures = episode.observations[camera].astype(float)
    return np.round((pictures.reshape(len(pictures), -1).mean(1) - 10) / 20).astype(int).tolist()


def observed(episode, camera="camera"):
    rows = len(episode.observations[camera])
    return episode.observed.get(camera, np.ones(rows, np.bool_)).tolist()


def test_a_video_and_a_table_of_the_same_name_are_an_episode(tmp_path):
    write_video(tmp_path / "run_2.mp4", TENTHS[:4])
    write_video(tmp_path / "run_10.mp4", TENTHS)
    write_rows(tmp_path / "run_2.csv", 4, time=TENTHS[:4])
    write_rows(tmp_path / "run_10.csv", 10, time=TENTHS)
    logs, (two, ten) = read(tmp_path)
    assert (two.file, two.source) == ("run_2.csv", {"file": "run_2.csv", "episode": 0, "start_s": 0.0})
    assert (frames_of(two.episode), frames_of(ten.episode)) == ([0, 1, 2, 3], list(range(10)))
    assert two.episode.actions["action"][:, 0].tolist() == [0, 1, 2]
    assert (two.findings, ten.findings, two.episode.observed) == ((), (), {})
    assert (logs.schema["camera"].shape, logs.schema.step_s) == ((SIDE, SIDE, 3), 0.1)
    assert any("column `frame` (from 0)" in sentence for sentence in logs.unclear)
    assert len(read(tmp_path / "run_2.mp4")[1]) == 1


def test_logs_are_recognised_by_name(tmp_path):
    write_video(tmp_path / "run.mp4", TENTHS[:3])
    assert VideoLogs.recognises(tmp_path)
    assert VideoLogs.recognises(tmp_path / "run.mp4")
    write_rows(tmp_path / "run.csv", 3, time=TENTHS[:3], x=[0.5, 1.5, 2.5])
    assert isinstance(open_logs(tmp_path), VideoLogs)
    assert isinstance(open_logs(tmp_path / "run.mp4"), VideoLogs)
    assert isinstance(open_logs(tmp_path / "run.csv"), TableLogs)
    (tmp_path / "run.mp4").unlink()
    assert not VideoLogs.recognises(tmp_path)
    write_pictures(tmp_path / "run", range(3))
    assert VideoLogs.recognises(tmp_path)
    (tmp_path / "run.csv").unlink()
    assert not VideoLogs.recognises(tmp_path)


def test_dropped_frames_are_marked_counted_and_never_made_up(tmp_path):
    numbers = [0, 1, 2, 6, 7, 8, 9]  # the camera lost three
    write_video(tmp_path / "run.mp4", [n / 10 for n in numbers], numbers)
    write_rows(tmp_path / "run.csv", 12, time=[i / 10 for i in range(12)])
    _, (logged,) = read(tmp_path)
    assert frames_of(logged.episode) == [0, 1, 2, 2, 2, 2, 6, 7, 8, 9, 9, 9]
    assert observed(logged.episode) == [True] * 3 + [False] * 3 + [True] * 4 + [False] * 2
    (finding,) = logged.findings
    assert (finding.severity, finding.signal, finding.step) == (Severity.WARNING, "camera", 4)
    assert "3 of 12 rows have no frame in run.mp4, the first is row 4" in finding.problem
    report = import_logs(tmp_path, tmp_path / "store")
    assert report.num_episodes == 1


def test_rows_before_the_video_show_its_first_frame_unobserved(tmp_path):
    write_video(tmp_path / "run.mp4", TENTHS[:5])
    write_rows(tmp_path / "run.csv", 5, time=[-0.2, -0.1, 0.0, 0.1, 0.2])
    _, (logged,) = read(tmp_path)
    assert frames_of(logged.episode) == [0, 0, 0, 1, 2]
    assert (observed(logged.episode), len(logged.findings)) == ([False, False, True, True, True], 1)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=st.lists(st.integers(1, 4), min_size=2, max_size=9),
    rows=st.lists(st.integers(1, 7), min_size=2, max_size=12),
)
def test_rows_take_the_last_frame_shown_at_or_before_them(tmp_path_factory, frames, rows):
    folder = tmp_path_factory.mktemp("video")
    shown = np.cumsum([0, *frames]) / 20
    times = np.cumsum([0, *rows]) / 40
    write_video(folder / "run.mp4", shown)
    write_rows(folder / "run.csv", len(times), time=times.tolist(), episode=[0] * len(times))
    usual = float(np.median(np.diff(shown)))
    last, expected, known = 0, [], []
    for i, time in enumerate(times):
        newest = max(k for k, t in enumerate(shown) if t <= time + 1e-9)
        is_there = time - shown[newest] <= 1.5 * usual + 1e-9
        expected.append(newest if is_there else last)
        known.append(is_there and (newest != last or i == 0))
        last = expected[-1]
    _, (logged,) = read(folder)
    assert (frames_of(logged.episode), observed(logged.episode)) == (expected, known)


def test_frames_by_number(tmp_path):
    write_video(tmp_path / "run.mp4", TENTHS)
    write_rows(tmp_path / "run.csv", 5, frame=[1, 3, 5, 7, 9])
    logs, (logged,) = read(tmp_path)
    assert frames_of(logged.episode) == [1, 3, 5, 7, 9]
    assert "frame" not in {signal.name for signal in logs.schema.signals}
    assert logged.episode.step_s is not None  # two frames each
    np.testing.assert_allclose(logged.episode.step_s, 0.2, rtol=1e-6)
    assert logged.findings == ()
    write_rows(tmp_path / "run.csv", 5, frame_index=[8, 9, 10, "", 9])
    _, (logged,) = read(tmp_path)
    assert frames_of(logged.episode) == [8, 9, 9, 9, 9]
    assert observed(logged.episode) == [True, True, False, False, False]
    for frames, said in (([0, -1, 2], "row 1 of the table names frame -1"), ([0.5, 1, 2], "row 0 .* frame 0.5")):
        write_rows(tmp_path / "run.csv", 3, frame=frames)
        (finding,) = read(tmp_path)[1][0].findings
        assert finding.severity is Severity.ERROR
        assert re.search(said, finding.problem)
    write_rows(tmp_path / "run.csv", 10, frame=range(1, 11))
    assert "counts the 10 frames from 1" in read(tmp_path)[1][0].findings[0].problem


def test_without_times_as_many_rows_as_frames_are_matched_in_order(tmp_path):
    write_video(tmp_path / "run.mp4", [0, 0.1, 0.3, 0.4])
    write_rows(tmp_path / "run.csv", 4)
    _, (logged,) = read(tmp_path)
    assert frames_of(logged.episode) == [0, 1, 2, 3]
    np.testing.assert_allclose(logged.episode.step_s, [0.1, 0.2, 0.1], rtol=1e-6)
    write_rows(tmp_path / "run.csv", 5)
    (finding,) = read(tmp_path)[1][0].findings
    assert "5 rows and 4 frames" in finding.problem


def test_several_cameras(tmp_path):
    write_video(tmp_path / "run_01.front.mp4", TENTHS[:5])
    write_video(tmp_path / "run_01.side.mp4", TENTHS[:5], [4, 3, 2, 1, 0])
    write_video(tmp_path / "run_02.front.mp4", TENTHS[:5])
    write_rows(tmp_path / "run_01.csv", 5, time=TENTHS[:5])
    write_rows(tmp_path / "run_02.csv", 5, time=TENTHS[:5])
    logs = VideoLogs.open(tmp_path, None, ReadOptions())
    first, second = logs.read()
    assert (frames_of(first.episode, "front"), frames_of(first.episode, "side")) == ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0])
    (finding,) = check_episode(second.episode, logs.schema)
    assert (finding.signal, "missing" in finding.problem) == ("side", True)


def test_one_table_names_its_videos(tmp_path):
    for name in ("run_01", "run_02", "run_03"):
        write_video(tmp_path / f"{name}.mp4", TENTHS[:4])
    write_rows(tmp_path / "log.csv", 8, run=["run_02"] * 4 + ["run_01"] * 4, time=TENTHS[:4] * 2)
    _, found = read(tmp_path)
    assert [(logged.source.get("label"), logged.episode is None) for logged in found] == [
        ("run_02", False),
        ("run_01", False),
        (None, True),
    ]
    assert (found[2].file, "no table has the actions" in found[2].findings[0].problem) == ("run_03.mp4", True)
    write_rows(tmp_path / "log.csv", 8, episode=[1] * 4 + [7] * 4, time=TENTHS[:4] * 2)
    _, found = read(tmp_path)
    assert [logged.episode is None for logged in found] == [False, True, True, True]
    assert "no video named '7'" in found[1].findings[0].problem


def test_an_only_video_and_an_only_table_belong_together(tmp_path):
    write_video(tmp_path / "cam.mp4", TENTHS)
    write_rows(tmp_path / "actions.csv", 10, time=TENTHS)
    _, (logged,) = read(tmp_path)
    assert frames_of(logged.episode) == list(range(10))


def test_gaps_in_the_rows_make_several_episodes_of_one_video(tmp_path):
    times = [i / 10 for i in range(60)]
    write_video(tmp_path / "cam.mp4", times, [i % 10 for i in range(60)])
    rows = [*range(3, 7), *range(41, 46)]
    write_rows(tmp_path / "cam.csv", 9, time=[i / 10 for i in rows])
    _, (first, second) = read(tmp_path)
    assert (frames_of(first.episode), frames_of(second.episode)) == ([3, 4, 5, 6], [1, 2, 3, 4, 5])
    assert (first.findings, second.findings) == ((), ())
    write_rows(tmp_path / "cam.csv", 9, frame=rows, time=[i / 10 for i in rows])
    _, (first, second) = read(tmp_path)
    assert (frames_of(first.episode), frames_of(second.episode)) == ([3, 4, 5, 6], [1, 2, 3, 4, 5])


def test_dates_start_with_the_video_and_other_clocks_are_warned_of(tmp_path):
    write_video(tmp_path / "run.mp4", TENTHS[:4])
    dates = [f"2024-01-01T00:00:00.{i}" for i in range(4)]
    write_rows(tmp_path / "run.csv", 4, time=dates)
    _, (logged,) = read(tmp_path)
    assert (frames_of(logged.episode), logged.findings) == ([0, 1, 2, 3], ())
    write_rows(tmp_path / "run.csv", 4, time=[100 + t for t in TENTHS[:4]])
    _, (logged,) = read(tmp_path)
    assert frames_of(logged.episode) == [0, 1, 2, 3]
    assert "start at 100.0 s, after the end of the video (0.300 s)" in logged.findings[0].problem


def test_a_table_of_one_row_is_left_out(tmp_path):
    write_video(tmp_path / "run.mp4", [0, 0.1, 0.2])
    write_rows(tmp_path / "run.csv", 1, time=[0.0], x=[1.0])
    _, (logged,) = read(tmp_path)
    assert "a single row (row 0) and is left out" in logged.findings[0].problem


def test_everything_is_brought_to_a_rate(tmp_path):
    write_video(tmp_path / "run.mp4", TENTHS)
    write_rows(tmp_path / "run.csv", 4, time=[0.0, 0.25, 0.5, 0.75])
    logs, (logged,) = read(tmp_path, rate_hz=20.0)
    assert frames_of(logged.episode) == [i // 2 for i in range(16)]
    assert observed(logged.episode) == [True, False] * 8
    assert logged.episode.actions["action"][:, 0].tolist() == [i // 5 for i in range(15)]
    assert logs.schema.step_s == 0.05
    write_rows(tmp_path / "run.csv", 4, time=[0.0, 0.25, 0.5, 0.75], frame=[1, 2, 3, 4])
    _, (logged,) = read(tmp_path, rate_hz=8.0)
    assert frames_of(logged.episode) == [1, 1, 2, 2, 3, 3, 4]
    assert observed(logged.episode) == [True, False] * 3 + [True]


@pytest.mark.parametrize("shared", [True, False])
def test_folders_of_pictures_in_natural_order(tmp_path, shared):
    write_pictures(tmp_path / "run_1", range(11))
    if shared:
        write_rows(tmp_path / "log.csv", 11, episode=["run_1"] * 11)
    else:
        write_rows(tmp_path / "run_1.csv", 11)
    logs, (logged,) = read(tmp_path)
    assert frames_of(logged.episode) == list(range(11))
    assert logs.schema["camera"].shape == (6, 8, 3)
    np.testing.assert_array_equal(logged.episode.observations["camera"][3], np.full((6, 8, 3), shade(3), np.uint8))
    _, pieces = read(tmp_path, max_steps=5)
    assert [frames_of(piece.episode) for piece in pieces] == [[0, 1, 2, 3, 4, 5], [5, 6, 7, 8, 9, 10]]


def test_a_schema_names_the_only_camera_and_leaves_others_out(tmp_path):
    write_video(tmp_path / "run.mp4", TENTHS[:4])
    write_rows(tmp_path / "run.csv", 4, time=TENTHS[:4])
    action = Signal(name="action", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,))
    eye = Signal(name="eye", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(SIDE, SIDE, 3))
    _, (logged,) = read(tmp_path, Schema(signals=(eye, action), step_s=0.1))
    assert frames_of(logged.episode, "eye") == [0, 1, 2, 3]
    (tmp_path / "run.mp4").rename(tmp_path / "run.eye.mp4")
    write_video(tmp_path / "run.back.mp4", TENTHS[:4])
    logs, (logged,) = read(tmp_path, Schema(signals=(eye, action), step_s=0.1))
    assert frames_of(logged.episode, "eye") == [0, 1, 2, 3]
    assert any(line.startswith("back: left out, because the schema has no image signal") for line in logs.unclear)
    with pytest.raises(DataError, match=r"no image signal for any camera \(back, eye\)"):
        VideoLogs.open(tmp_path, Schema(signals=(action,)), ReadOptions())


def test_what_is_lacking_is_said(tmp_path):
    write_video(tmp_path / "run.mp4", TENTHS[:4])
    with pytest.raises(DataError, match="no table of actions"):
        VideoLogs.open(tmp_path, None, ReadOptions())
    write_rows(tmp_path / "run.csv", 4, time=TENTHS[:4])
    write_video(tmp_path / "run.avi", TENTHS[:4], codec="mpeg4")
    with pytest.raises(DataError, match=r"run\.avi and run\.mp4 belong to the same recording"):
        VideoLogs.open(tmp_path, None, ReadOptions())


def test_pictures_of_several_sizes_or_depths_are_refused(tmp_path):
    write_pictures(tmp_path / "run", range(3))
    write_rows(tmp_path / "run.csv", 3)
    Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(tmp_path / "run" / "frame_2.png")
    assert "frame 2 has shape (4, 8, 3), frame 0 has (6, 8, 3)" in read(tmp_path)[1][0].findings[0].problem
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(tmp_path / "run" / "frame_2.png")
    assert "no 8-bit channels" in read(tmp_path)[1][0].findings[0].problem


@pytest.mark.parametrize("name", ["run.mp4", "run/frame_1.png"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_never_crashes_and_is_said(tmp_path_factory, name, data):
    folder = tmp_path_factory.mktemp("fuzz")
    if name == "run.mp4":
        write_video(folder / name, TENTHS[:6])
    else:
        write_pictures(folder / "run", range(6))
    write_rows(folder / "run.csv", 6, time=TENTHS[:6])
    whole = (folder / name).read_bytes()
    cut = data.draw(st.none() | st.integers(0, len(whole) - 1))
    damaged = bytearray(whole[:cut])
    for place in data.draw(st.lists(st.integers(0, 8 * len(damaged) - 1), max_size=2)) if damaged else []:
        damaged[place // 8] ^= 1 << place % 8
    (folder / name).write_bytes(damaged)
    try:
        _, (logged,) = read(folder)
    except DataError:
        return
    assert logged.episode is not None or logged.findings
    if cut is not None and name != "run.mp4" and cut < len(whole) - 12:  # a PNG ends with an empty chunk of 12 bytes
        assert logged.episode is None
