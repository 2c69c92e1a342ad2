"""Decoding of images, and of video files into frames and times.

Times are in seconds from the first frame. A damaged frame raises an error that names it; frames are never repaired,
invented or skipped. A lossy codec may decode flipped bits without an error, so not all damage is detected.
"""

from __future__ import annotations

import io
import math
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldline.data.array_size import check_size
from worldline.data.formats.reading import UNREADABLE, converted
from worldline.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_PIXELS = 1 << 26
"""A header that claims more pixels (8192 by 8192) counts as damaged."""
PICTURE_FIX = "Save it again as an 8-bit PNG."

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_CHANNELS = {"1": "L", "L": "L", "LA": "RGBA", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
"""Target mode per PIL mode; other modes, such as 16-bit ones, would lose precision."""
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm"
_FIX = "Copy or export the video again; if it plays elsewhere, convert it to H.264 in MP4."


def decode_picture(source: Path | bytes) -> NDArray[np.uint8]:
    """Returns an image [h, w, c] with 1, 3 or 4 channels.

    Args:
        source: an image file, or its content.

    Raises:
        DataError: it cannot be read, is too large, or has more than 8 bits per channel.
    """
    file = source if isinstance(source, Path) else None
    errors = (*UNREADABLE, Image.DecompressionBombError)
    with converted("the image cannot be read", fix=PICTURE_FIX, file=file, errors=errors), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked below
        with Image.open(_stream(source), formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                problem = f"the header claims {picture.width} by {picture.height} pixels"
                raise DataError(problem, fix=PICTURE_FIX, file=file)
            if picture.mode not in _CHANNELS:
                problem = f"the image mode {picture.mode} has no 8-bit channels"
                raise DataError(problem, fix=PICTURE_FIX, file=file)
            picture.verify()  # decoding a PNG does not check the checksums
        with Image.open(_stream(source), formats=_FORMATS) as picture:
            transparent = picture.mode == "P" and "transparency" in picture.info
            values = np.array(picture.convert("RGBA" if transparent else _CHANNELS[picture.mode]), np.uint8)
    return values.reshape(*values.shape[:2], -1)


def empty_pictures(count: int, shape: Sequence[int], *, file: Path | None = None) -> NDArray[np.uint8]:
    """Returns an array for images, [count, *shape].

    Args:
        count: number of images that are in memory at once.
        shape: of one image.
        file: for errors.

    Raises:
        DataError: they are too large together.
    """
    check_size(count * math.prod(shape), f"{count} images of shape {tuple(shape)}", file=file)
    return np.empty((count, *shape), np.uint8)


def encode_picture(pixels: NDArray[np.uint8]) -> bytes:
    """Encodes an image as PNG; `decode_picture` returns it bit for bit.

    Args:
        pixels: [h, w, channels], 1, 3 or 4 channels.
    """
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(out, "PNG", compress_level=3)
    return out.getvalue()


def _stream(source: Path | bytes) -> Path | io.BytesIO:
    return source if isinstance(source, Path) else io.BytesIO(source)


def frames(
    path: Path, start_s: float = -math.inf, stop_s: float = math.inf
) -> Generator[tuple[float, NDArray[np.uint8]], None, None]:
    """Yields the frames with `start_s` <= time < `stop_s` in presentation order: seconds from the first frame, image.

    Decoding starts at the key frame before `start_s`. An image is RGB, [h, w, 3].

    Args:
        path: an mp4, mov, avi, mkv or webm file.
        start_s: seconds from the first frame of the file. Leave a margin of half a frame interval at both ends, so
            that rounding of times loses no frame.
        stop_s: seconds from the first frame of the file.

    Raises:
        DataError: the file cannot be opened. Or in the part that is read, a frame is damaged or has no unique time, or
            the file ends too early.
        MissingExtraError: the package av is not installed.
    """
    with _open(path) as video:
        decoded = _decode_from(video, start_s)
        for time, _, frame in decoded if decoded is not None else ():
            if time >= stop_s:
                return
            if time >= start_s:
                yield time, _picture(frame, video, time)
    if decoded is None:  # seeking found a key frame after the start, so decode from the first frame
        yield from ((time, picture) for time, picture in frames(path) if start_s <= time < stop_s)


def frame_times(path: Path) -> NDArray[np.float64]:
    """Returns the presentation time of each frame, [frames] seconds from the first one, rising; decodes nothing.

    Args:
        path: as in `frames`.

    Raises:
        DataError: the file cannot be opened, a frame has no unique time, or the file ends too early.
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
    if twice := np.flatnonzero(np.diff(times) == 0).tolist():
        raise video.error(f"frames {twice[0]} and {twice[0] + 1} have the same time")
    seconds: NDArray[np.float64] = (times - times[0]) * video.tick_s
    return seconds


@dataclass(frozen=True, kw_only=True)
class _VideoStream:
    """An open file and its first video stream.

    Args:
        path: the file.
        container: the open container.
        stream: its first video stream.
        tick_s: seconds per unit of the stream's time stamps.
    """

    path: Path
    container: InputContainer
    stream: VideoStream
    tick_s: float

    @property
    def counts_slots(self) -> bool:
        """Whether packets are counted instead of timed: AVI has no time stamps, and an empty packet is a gap."""
        return self.container.format.name == "avi"

    def error(self, problem: str) -> DataError:
        return DataError(problem, fix=_FIX, file=self.path)

    def stamp(self, stamp: int | None, what: str) -> int:
        """Returns the time stamp, or raises if there is none."""
        if stamp is None:
            raise self.error(f"{what} has no time")
        return stamp


@contextmanager
def _open(path: Path) -> Iterator[_VideoStream]:
    """Opens the first video stream of a file, and closes it at the end."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video") from error
    # A playlist that is named .mp4 must not make the reader open other files or the network.
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    with converted("the video cannot be opened", fix=_FIX, file=path, errors=_errors()):
        container = av.open(f"file:{path}", "r", metadata_errors="ignore", options=options)
    with container:
        if not container.streams.video:
            raise DataError("the file holds no video stream", fix=_FIX, file=path)
        stream = container.streams.video[0]
        context = cast("VideoCodecContext | None", stream.codec_context)  # may be None, unlike av declares
        if context is None or not stream.time_base:
            raise DataError("the codec of the video is unknown", fix=_FIX, file=path)
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
        if context.width * context.height > MAX_PIXELS:
            problem = f"the header claims frames of {context.width} by {context.height} pixels"
            raise DataError(problem, fix=_FIX, file=path)
        yield _VideoStream(path=path, container=container, stream=stream, tick_s=float(stream.time_base))


def _damage(video: _VideoStream, what: str) -> AbstractContextManager[None]:
    """Converts errors that av raises on a damaged file into a `DataError` that names the place."""
    return converted(f"{what} cannot be decoded", fix=_FIX, file=video.path, errors=_errors())


def _errors() -> tuple[type[Exception], ...]:
    import av

    return (av.error.FFmpegError, *UNREADABLE)


class _Packets:
    """The packets from the container's current position on; the last one is empty and flushes the decoder."""

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
                if 0 < (declared := self._video.stream.frames) < self._seen:  # 0 is unknown
                    raise self._video.error(f"it declares {declared} frames and holds more")
            yield packet

    def check_end(self, num_frames: int) -> None:
        """Raises if the file, read from start to end, held fewer frames than it declares or fewer could be decoded."""
        declared, num_held = self._video.stream.frames, self._last + 1 if self._video.counts_slots else self._seen
        if num_held < declared:
            raise self._video.error(f"the file ends too early: it declares {declared} frames and holds {num_held}")
        if num_frames < self._shown or not num_frames:
            raise self._video.error(f"only {num_frames} of the {self._shown} frames in the file can be decoded")


def _decode(video: _VideoStream, first: int | None) -> Iterator[tuple[float, int, VideoFrame]]:
    """Yields times, time stamps and frames, from the container's current position.

    Args:
        video: the stream.
        first: time stamp of the first frame of the file; None if the container is at its start.
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
                raise video.error(f"{what} has the time {(stamp - zero) * video.tick_s:.3f} s, which is not later")
            if (frame.width, frame.height) != size:
                raise video.error(f"{what} has {frame.width} by {frame.height} pixels, the first frame has {size}")
            last, number = stamp, number + 1
            yield (stamp - zero) * video.tick_s, stamp, frame
    if first is None:
        packets.check_end(number)


def _decode_from(video: _VideoStream, start_s: float) -> Iterator[tuple[float, int, VideoFrame]] | None:
    """Yields frames from a key frame at or before `start_s`; returns None if seeking leads to a later one."""
    if start_s <= 0:
        return _decode(video, None)
    _, first, _ = next(_decode(video, None))
    with _damage(video, f"the place at {start_s:.3f} s"):
        video.container.seek(first + math.floor(start_s / video.tick_s), stream=video.stream, backward=True)
    frames_from_key = _decode(video, first)
    head = next(frames_from_key, None)
    if head is None or head[0] > start_s:
        return None
    return chain([head], frames_from_key)


def _picture(frame: VideoFrame, video: _VideoStream, time: float) -> NDArray[np.uint8]:
    """[h, w, 3] in RGB."""
    with _damage(video, f"the frame at {time:.3f} s"):
        return np.ascontiguousarray(frame.to_ndarray(format="rgb24"), np.uint8)
