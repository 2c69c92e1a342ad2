"""Decoding of images, and of video files into frames and times.

Times are in seconds from the first frame. A damaged frame raises an error that names its time; frames are never
repaired, invented or skipped. A lossy codec may decode flipped bits without an error, so not all damage is detected.
"""

from __future__ import annotations

import io
import math
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldline.data.array_size import check_size
from worldline.data.formats.reading import UNREADABLE, converted
from worldline.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

PICTURE_FIX = "Save it again as an 8-bit PNG."

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_CHANNELS = {"1": "L", "L": "L", "LA": "RGBA", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
"""Target mode per PIL mode; other modes, such as 16-bit ones, would lose precision."""
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm"
_MAX_PIXELS = 1 << 26
"""The decoder refuses larger frames (8192 by 8192)."""
_FIX = "Copy or export the video again; if it plays elsewhere, convert it to H.264 in MP4."


def decode_picture(source: Path | bytes) -> NDArray[np.uint8]:
    """Returns an image [h, w, c] with 1, 3 or 4 channels.

    Args:
        source: an image file, or its content.

    Raises:
        DataError: it cannot be read, is too large, or has more than 8 bits per channel.
    """
    file = source if isinstance(source, Path) else None
    errors = (*UNREADABLE, Image.DecompressionBombError, Image.DecompressionBombWarning)
    with converted("the image cannot be read", fix=PICTURE_FIX, file=file, errors=errors), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(_stream(source), formats=_FORMATS) as picture:
            if picture.mode not in _CHANNELS:
                raise DataError(f"the image mode {picture.mode} has no 8-bit channels", fix=PICTURE_FIX, file=file)
            picture.verify()  # decoding a PNG does not check the checksums
        with Image.open(_stream(source), formats=_FORMATS) as picture:
            transparent = picture.mode == "P" and "transparency" in picture.info
            values = np.array(picture.convert("RGBA" if transparent else _CHANNELS[picture.mode]), np.uint8)
    return values.reshape(*values.shape[:2], -1)


def _stream(source: Path | bytes) -> Path | io.BytesIO:
    return source if isinstance(source, Path) else io.BytesIO(source)


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


def frames(
    path: Path, start_s: float = -math.inf, stop_s: float = math.inf
) -> Generator[tuple[float, NDArray[np.uint8]], None, None]:
    """Yields the frames with `start_s` <= time < `stop_s` in presentation order: seconds from the first frame, image.

    Decoding starts at the key frame before `start_s`. Images are RGB, [h, w, 3], and all have the same shape.

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
    with _opened(path) as video:
        if (decoded := video.decoded_from(start_s)) is not None:
            for time, _, frame in decoded:
                if time >= stop_s:
                    return
                if time >= start_s:
                    with video.reading(f"the frame at {time:.3f} s"):
                        picture = np.ascontiguousarray(frame.to_ndarray(format="rgb24"), np.uint8)
                    yield time, picture
            return
    # Seeking led to a key frame after the start, so the file is decoded from its first frame.
    yield from ((time, picture) for time, picture in frames(path, stop_s=stop_s) if time >= start_s)


def frame_times(path: Path) -> NDArray[np.float64]:
    """Returns the presentation time of each frame, [frames] seconds from the first one, rising; decodes nothing.

    Args:
        path: as in `frames`.

    Raises:
        DataError: the file cannot be opened, a frame has no unique time, or the file ends too early.
        MissingExtraError: the package av is not installed.
    """
    with _opened(path) as video:
        stamps = [packet.pts for packet in video.packets() if packet.size and not packet.is_discard]
        video.check_end(len(stamps))
    with video.reading("the time of a frame"):  # of None, if it has none
        times = np.sort(np.array(stamps, np.int64))
    seconds: NDArray[np.float64] = (times - times[0]) * video.tick_s
    if twice := np.flatnonzero(np.diff(times) == 0).tolist():
        raise video.error(f"two frames have the time {seconds[twice[0]]:.3f} s")
    return seconds


class _Video:
    """An open file and its first video stream.

    Args:
        path: the file.
        container: the open container.
        stream: its first video stream.
        errors: exceptions for damaged files.
    """

    def __init__(
        self, path: Path, container: InputContainer, stream: VideoStream, errors: tuple[type[Exception], ...]
    ) -> None:
        self._path, self._container, self._stream, self._errors = path, container, stream, errors
        self.tick_s = float(stream.time_base or 0)
        """Seconds per unit of the time stamps."""
        self._is_avi = container.format.name == "avi"
        self._num_packets = self._num_shown = self._last_stamp = 0

    def error(self, problem: str) -> DataError:
        return DataError(problem, fix=_FIX, file=self._path)

    def reading(self, what: str) -> AbstractContextManager[None]:
        """Converts errors of av into a `DataError` that names the place."""
        return converted(f"{what} cannot be read", fix=_FIX, file=self._path, errors=self._errors)

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """Yields the packets from the current position on; the last one is empty and flushes the decoder."""
        self._num_packets = self._num_shown = self._last_stamp = 0
        demuxed = self._container.demux(self._stream)
        while True:
            what = f"packet {self._num_packets}"
            with self.reading(what):
                packet = next(demuxed, None)
            if packet is None:
                return
            if packet.is_corrupt:
                raise self.error(f"{what} is cut or damaged")
            if packet.size:
                self._num_packets += 1
                self._num_shown += not packet.is_discard
                self._last_stamp = max(self._last_stamp, packet.pts or 0)
                if 0 < (declared := self._stream.frames) < self._num_packets:  # 0 is unknown
                    raise self.error(f"it declares {declared} frames and holds more")
            yield packet

    def check_end(self, num_frames: int) -> None:
        """Raises if the file, read from start to end, held fewer frames than it declares or fewer could be decoded."""
        # In AVI, a time stamp is the number of a slot, and a slot may be an empty packet, which is a gap.
        held = self._last_stamp + 1 if self._is_avi and self._num_packets else self._num_packets
        if held < self._stream.frames:
            raise self.error(f"it ends too early: it declares {self._stream.frames} frames and holds {held}")
        if num_frames < self._num_shown or not num_frames:
            raise self.error(f"only {num_frames} of its {self._num_shown} frames can be decoded")

    def decoded(self, first: int | None = None) -> Iterator[tuple[float, int, VideoFrame]]:
        """Yields seconds, time stamp and frame from the current position on.

        Args:
            first: time stamp of the first frame of the file; None if the position is the start of the file.
        """
        zero, last, count, size = first, 0.0, 0, (0, 0)
        slots = deque[int | None]()  # AVI has no times: frames come in order, one for each packet that is no gap
        for packet in self.packets():
            if packet.size:
                slots.append(packet.pts)
            what = f"the frame after {last:.3f} s"
            with self.reading(what):
                decoded = packet.decode()
            for frame in decoded:
                stamp = slots.popleft() if self._is_avi and slots else frame.pts
                size = size if count else (frame.width, frame.height)
                if stamp is None or frame.is_corrupt or (frame.width, frame.height) != size:
                    raise self.error(f"{what} is damaged: it has no time, or another size than the first frame")
                zero = stamp if zero is None else zero
                time = (stamp - zero) * self.tick_s
                if count and time <= last:
                    raise self.error(f"{what} has the time {time:.3f} s, which is not later")
                last, count = time, count + 1
                yield time, stamp, frame
        if first is None:
            self.check_end(count)

    def decoded_from(self, start_s: float) -> Iterator[tuple[float, int, VideoFrame]] | None:
        """Yields as `decoded`, from a key frame at or before `start_s`; None if seeking leads to a later one."""
        if start_s <= 0:
            return self.decoded()
        _, first, _ = next(self.decoded())
        with self.reading(f"the place at {start_s:.3f} s"):
            place = first + math.floor(start_s / self.tick_s)
            self._container.seek(place, stream=self._stream, backward=True)
        decoded = self.decoded(first)
        key_frame = next(decoded, None)
        return None if key_frame is None or key_frame[0] > start_s else chain([key_frame], decoded)


@contextmanager
def _opened(path: Path) -> Iterator[_Video]:
    """Opens the first video stream of a file, and closes it at the end."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video") from error
    # A playlist that is named .mp4 must not make the reader open other files or the network.
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    errors = (av.error.FFmpegError, *UNREADABLE)
    with converted("the video cannot be opened", fix=_FIX, file=path, errors=errors):
        container = av.open(f"file:{path}", "r", metadata_errors="ignore", options=options)
    with container:
        with converted(
            "the file holds no video that can be decoded", fix=_FIX, file=path, errors=(*errors, AttributeError)
        ):
            stream = container.streams.video[0]
            stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
            stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(_MAX_PIXELS)}
            video = _Video(path, container, stream, errors)
        yield video
