"""Video files as frames with their times. Damage is an error that names the frame; no frame is made up or passed over.

Times count from the first frame, in seconds. A lossy codec cannot tell every flipped bit from a picture, but what the
container or the decoder notices is never hidden behind a repaired frame.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from worldline.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_PIXELS = 1 << 26
"""A frame that claims more (8192 by 8192) is taken for a damaged header."""

_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm"
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_FIX = "Copy or export the video again; if it plays elsewhere, convert it to H.264 in MP4."


def frames(path: Path) -> Generator[tuple[float, NDArray[np.uint8]], None, None]:
    """Every frame in the order in which it is shown: seconds from the first one, and its picture [h, w, 3] in RGB.

    Args:
        path: an mp4, mov, avi, mkv or webm file.

    Raises:
        DataError: the file cannot be opened, a frame is damaged or has no time of its own, or the file ends too early.
        MissingExtraError: the package av is not installed.
    """
    with _open(path) as video:
        for time, frame in _decode(video, None):
            yield time, _picture(frame, video, time)


def frames_between(path: Path, start_s: float, stop_s: float) -> Generator[tuple[float, NDArray[np.uint8]], None, None]:
    """The frames of `frames` with `start_s` <= time < `stop_s`, without decoding what lies well before them.

    Args:
        path: as in `frames`.
        start_s: seconds from the first frame of the file; where half a frame's time is left on either side, rounding
            cannot lose a frame.
        stop_s: seconds from the first frame of the file.

    Raises:
        DataError: as in `frames`, of the part that is read.
        MissingExtraError: the package av is not installed.
    """
    with _open(path) as video:
        found = _decode_from(video, start_s)
        for time, frame in found if found is not None else ():
            if time >= stop_s:
                return
            if time >= start_s:
                yield time, _picture(frame, video, time)
    if found is None:  # the key frame that was found lies behind the start
        yield from ((time, picture) for time, picture in frames(path) if start_s <= time < stop_s)


def frame_times(path: Path) -> NDArray[np.float64]:
    """When each frame is shown, [frames] seconds from the first one, rising; decodes nothing.

    Args:
        path: as in `frames`.

    Raises:
        DataError: the file cannot be opened, a frame has no time of its own, or the file ends too early.
        MissingExtraError: the package av is not installed.
    """
    with _open(path) as video:
        stamps: list[int] = []
        packets = _Packets(video)
        for packet in packets:
            if packet.size and not packet.is_discard:
                stamps.append(video.stamp(packet.pts, f"frame {len(stamps)} of the file"))
        packets.check_end(len(stamps))
    times = np.sort(np.array(stamps, np.int64))
    twice = np.flatnonzero(np.diff(times) == 0)
    if len(twice):
        raise video.error(f"frames {twice[0]} and {twice[0] + 1} have the same time")
    seconds: NDArray[np.float64] = (times - times[0]) * video.tick_s
    return seconds


@dataclass(frozen=True, kw_only=True)
class _VideoStream:
    """An open file and the stream that is read.

    Args:
        path: of the file.
        container: open.
        stream: the first one with pictures.
        tick_s: seconds of one unit of its stamps.
    """

    path: Path
    container: InputContainer
    stream: VideoStream
    tick_s: float

    @property
    def counts_slots(self) -> bool:
        """An AVI has no times: frames take turns in the order of their packets, and an empty packet is a gap."""
        return self.container.format.name == "avi"

    def error(self, problem: str) -> DataError:
        """The problem as an error that names the file."""
        return DataError(problem, fix=_FIX, file=self.path)

    def stamp(self, stamp: int | None, what: str) -> int:
        """The stamp, which must be there."""
        if stamp is None:
            raise self.error(f"{what} has no time")
        return stamp


@contextmanager
def _open(path: Path) -> Iterator[_VideoStream]:
    """The first video stream of a file; closed at the end."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video") from error
    _check_segment(path)
    # A playlist that is called .mp4 must not make the reader open other files or the network.
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    try:
        container = av.open(f"file:{path}", "r", metadata_errors="ignore", options=options)
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise DataError(f"the video cannot be opened ({_words(error)})", fix=_FIX, file=path) from error
    with container:
        if not container.streams.video:
            raise DataError("the file holds no video stream", fix=_FIX, file=path)
        stream = container.streams.video[0]
        context = cast("VideoCodecContext | None", stream.codec_context)  # what the package declares is not quite so
        if context is None or not stream.time_base:
            raise DataError("the codec of the video is unknown", fix=_FIX, file=path)
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
        if context.width * context.height > MAX_PIXELS:
            problem = f"the header claims pictures of {context.width} by {context.height} pixels"
            raise DataError(problem, fix=_FIX, file=path)
        yield _VideoStream(path=path, container=container, stream=stream, tick_s=float(stream.time_base))


@contextmanager
def _damage(video: _VideoStream, what: str) -> Iterator[None]:
    """Turns what the library raises on a damaged file into an error that names the place."""
    import av

    try:
        yield
    except DataError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise video.error(f"{what} cannot be decoded ({_words(error)})") from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")


class _Packets:
    """The packets of the stream from wherever the container stands, the last one empty, to flush the decoder.

    Args:
        video: to read from.
    """

    def __init__(self, video: _VideoStream) -> None:
        self._video = video
        self._seen = self._shown = 0
        self._last = -1

    def __iter__(self) -> Iterator[Packet[VideoStream]]:
        demuxed = self._video.container.demux(self._video.stream)
        while True:
            what = f"packet {self._seen} of the file"
            with _damage(self._video, what):
                packet = next(demuxed, None)
            if packet is None:
                return
            if packet.is_corrupt:
                raise self._video.error(f"{what} is cut or damaged")
            if packet.size:
                self._seen += 1
                self._last = max(self._last, packet.pts or 0)
                self._shown += not packet.is_discard
            yield packet

    def check_end(self, num_frames: int) -> None:
        """Raises where the file from its start to its end held fewer frames than it should.

        Args:
            num_frames: that were decoded.
        """
        declared, found = self._video.stream.frames, self._last + 1 if self._video.counts_slots else self._seen
        if found < declared:
            raise self._video.error(f"the file ends too early: it declares {declared} frames and holds {found}")
        if num_frames < self._shown or not num_frames:
            raise self._video.error(f"only {num_frames} of the {self._shown} frames in the file can be decoded")


def _decode(video: _VideoStream, first: int | None) -> Iterator[tuple[float, VideoFrame]]:
    """Frames from where the container stands, each with its time.

    Args:
        video: to read from.
        first: stamp of the first frame of the file; None where the container stands at its start.
    """
    packets, slots = _Packets(video), deque[int | None]()
    zero, last, number = first, -1, 0
    size: tuple[int, int] | None = None
    for packet in packets:
        if packet.size:
            slots.append(packet.pts)
        place = f"frame {number}" if first is None else "the frame"
        what = f"{place} after {(last - (zero or 0)) * video.tick_s:.3f} s" if number else place
        with _damage(video, what):
            decoded = packet.decode()
        for frame in decoded:
            stamp = video.stamp(slots.popleft() if video.counts_slots and slots else frame.pts, what)
            zero = stamp if zero is None else zero
            size = size or (frame.width, frame.height)
            if frame.is_corrupt:
                raise video.error(f"{what} is damaged")
            if number and stamp <= last:
                raise video.error(f"{what} has the time {(stamp - zero) * video.tick_s:.3f} s, which is no later")
            if (frame.width, frame.height) != size:
                raise video.error(f"{what} has {frame.width} by {frame.height} pixels, the first one {size}")
            last, number = stamp, number + 1
            yield (stamp - zero) * video.tick_s, frame
    if first is None:
        packets.check_end(number)


def _decode_from(video: _VideoStream, start_s: float) -> Iterator[tuple[float, VideoFrame]] | None:
    """Frames from some key frame at or before `start_s` on; None where the file leads to a later one."""
    if start_s <= 0:
        return _decode(video, None)
    first = _first_stamp(video)
    with _damage(video, f"the place at {start_s:.3f} s"):
        video.container.seek(first + math.floor(start_s / video.tick_s), stream=video.stream, backward=True)
    found = _decode(video, first)
    head = next(found, None)
    if head is None or head[0] > start_s:
        return None
    return chain([head], found)


def _first_stamp(video: _VideoStream) -> int:
    """The stamp that the first frame is shown at."""
    stamps = []
    for packet in _Packets(video):
        stamps.append(packet.pts)
        with _damage(video, "frame 0"):
            decoded = packet.decode()
        for frame in decoded:
            return video.stamp(stamps[0] if video.counts_slots else frame.pts, "frame 0")
    raise video.error("there is not one frame that can be decoded")


def _picture(frame: VideoFrame, video: _VideoStream, time: float) -> NDArray[np.uint8]:
    """[h, w, 3] in RGB."""
    with _damage(video, f"the frame at {time:.3f} s"):
        return np.ascontiguousarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _check_segment(path: Path) -> None:
    """Raises where a Matroska file is shorter than it declares: its index does not count the frames."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 12)
            length = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise DataError(f"the video cannot be opened ({_words(error)})", fix=_FIX, file=path) from error
    at = head.find(_SEGMENT)
    if not head.startswith(_EBML) or not 0 <= at < len(head) - 12:
        return
    start = at + len(_SEGMENT)
    width = 9 - head[start].bit_length()  # of the number that follows: as many bytes as it has leading zeros, and one
    number = int.from_bytes(head[start : start + width], "big") - (1 << (7 * width))
    is_known = number != (1 << (7 * width)) - 1
    if is_known and start + width + number > length:
        problem = f"the file ends too early: it declares {start + width + number} bytes and has {length}"
        raise DataError(problem, fix=_FIX, file=path)
