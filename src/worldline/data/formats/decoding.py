"""Decoding of images, of video files into frames and times, and of the frames of a camera.

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
from worldline.data.formats.reading import UNREADABLE, converted, natural
from worldline.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
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

    Decoding starts at the key frame before `start_s`. Images are RGB, [h, w, 3].

    Args:
        path: an mp4, mov, avi, mkv or webm file.
        start_s: seconds from the first frame of the file. Leave a margin of half a frame interval at both ends, so
            that rounding of times loses no frame.
        stop_s: seconds from the first frame of the file.

    Raises:
        DataError: the file cannot be opened, or a frame in the part that is read is damaged or has no later time.
        MissingExtraError: the package av is not installed.
    """
    with _opened(path) as (container, stream):
        decoded = _decoded(path, container, stream)
        if start_s > 0:
            zero = next(decoded)[1]
            place = zero + math.floor(start_s / float(stream.time_base or 1))
            with _converted("the place of a frame", path):
                container.seek(place, stream=stream, backward=True)
            decoded = _decoded(path, container, stream, zero)
            key_frame = next(decoded, None)
            if key_frame is None or key_frame[0] > start_s:  # seeking led too far: the file is decoded from its start
                yield from ((time, picture) for time, picture in frames(path, stop_s=stop_s) if time >= start_s)
                return
            decoded = chain([key_frame], decoded)
        for time, _, frame in decoded:
            if time >= stop_s:
                return
            if time >= start_s:
                with _converted(f"the frame at {time:.3f} s", path):
                    picture = np.ascontiguousarray(frame.to_ndarray(format="rgb24"), np.uint8)
                yield time, picture


def frame_times(path: Path) -> NDArray[np.float64]:
    """Returns the presentation time of each frame, [frames] seconds from the first one, rising; decodes nothing.

    Args:
        path: as in `frames`.

    Raises:
        DataError: the file cannot be opened, or a frame has no unique time.
        MissingExtraError: the package av is not installed.
    """
    with _opened(path) as (container, stream), _converted("the time of a frame", path):
        stamps = [packet.pts for packet in _packets(container, stream) if packet.size and not packet.is_discard]
        times = np.sort(np.array(stamps, np.int64))
        seconds: NDArray[np.float64] = (times - times[0]) * float(stream.time_base or 0)
        if twice := np.flatnonzero(np.diff(times) == 0).tolist():
            raise ValueError(f"two frames have the time {seconds[twice[0]]:.3f} s")
    return seconds


def _converted(what: str, path: Path) -> AbstractContextManager[None]:
    """Converts errors of av, and others of damaged files, into a `DataError` that names the place."""
    import av

    errors = (av.error.FFmpegError, *UNREADABLE, AttributeError)
    return converted(f"{what} cannot be read", fix=_FIX, file=path, errors=errors)


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yields all packets; the last one is empty."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ValueError("the file is cut or damaged")
        yield packet


def _decoded(
    path: Path, container: InputContainer, stream: VideoStream, zero: int | None = None
) -> Iterator[tuple[float, int, VideoFrame]]:
    """Yields seconds, time stamp and frame from the current position on.

    Args:
        path: of the file.
        container: the open file.
        stream: of the file.
        zero: time stamp of the first frame of the file; None if the position is the start of the file.
    """
    tick_s, last, is_avi = float(stream.time_base or 0), -math.inf, container.format.name == "avi"
    slots = deque[int | None]()  # AVI has no times: frames come in order, one for each packet that is no gap
    packets = _packets(container, stream)
    while True:
        with _converted(f"the frame after {max(last, 0.0):.3f} s", path):
            if (packet := next(packets, None)) is None:
                return
            slots += [packet.pts] if packet.size else []
            shown = []
            for frame in packet.decode():
                stamp = slots.popleft() if is_avi and slots else frame.pts
                zero = stamp if zero is None else zero
                if stamp is None or zero is None or frame.is_corrupt or (stamp - zero) * tick_s <= last:
                    raise ValueError("it is damaged, or has no later time")
                last = (stamp - zero) * tick_s
                shown.append((last, stamp, frame))
        yield from shown


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens the first video stream of a file, and closes it at the end."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video") from error
    # A playlist that is named .mp4 must not make the reader open other files or the network.
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    with _converted("the video", path):
        container = av.open(f"file:{path}", "r", metadata_errors="ignore", options=options)
    with container:
        with _converted("a video that can be decoded", path):
            stream = container.streams.video[0]
            stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
            stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(_MAX_PIXELS)}
        yield container, stream


class Clip:
    """The frames of one camera; only times and names are read at first.

    Args:
        path: a video file or a folder of images.

    Raises:
        DataError: the file cannot be read.
        MissingExtraError: the package av is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: Sequence[Path] = _pictures_in(path) if path.is_dir() else ()
        self.times: NDArray[np.float64] | None = None if path.is_dir() else frame_times(path)
        """[frames] seconds from the first frame; None if unknown."""

    def __len__(self) -> int:
        return len(self.files) if self.times is None else len(self.times)

    def between(self, first: int, last: int) -> Iterator[NDArray[np.uint8]]:
        """Yields the frames from `first` to `last`, both included, [h, w, c].

        Raises:
            DataError: a frame is damaged.
        """
        if self.times is None:
            yield from (decode_picture(file) for file in self.files[first : last + 1])
        else:  # a margin of half a frame interval at both ends
            edges = np.concatenate([[0.0], (self.times[1:] + self.times[:-1]) / 2, [np.inf]])
            part = frames(self.path, float(edges[first]), float(edges[last + 1]))
            yield from (picture for _, picture in part)

    def load(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Returns the frames with these numbers, [steps, h, w, c]; decodes each once.

        Raises:
            DataError: a frame is damaged, missing or of another size.
        """
        order = np.argsort(numbers, kind="stable")
        wanted, first, last = numbers[order], int(numbers.min()), int(numbers.max())
        pictures: NDArray[np.uint8] | None = None
        frame = first - 1
        for frame, picture in enumerate(self.between(first, last), first):
            pictures = empty_pictures(len(numbers), picture.shape, file=self.path) if pictures is None else pictures
            if picture.shape != pictures.shape[1:]:
                problem = f"frame {frame} has shape {picture.shape}, frame {first} has {pictures.shape[1:]}"
                raise DataError(problem, fix="Resize all frames to one size.", file=self.path)
            start, stop = np.searchsorted(wanted, [frame, frame + 1])
            pictures[order[start:stop]] = picture
        if pictures is None or frame != last:
            problem = f"expected the frames {first} to {last}, but {frame} is the last one that can be read"
            raise DataError(problem, fix="Export the video again.", file=self.path)
        return pictures


def clips_in(folder: Path) -> list[Path]:
    """Returns video files and sub-folders of images in natural order, or the folder itself if it holds the images."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    clips = [path for path in inside if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
    clips += [path for path in inside if path.is_dir() and len(_pictures_in(path)) > 1]
    own = _pictures_in(folder)
    # Numbered names distinguish frames from plots that lie next to tables.
    if not clips and len(own) > 1 and all(file.stem[-1].isdecimal() for file in own):
        return [folder]
    return sorted(clips, key=natural)


def _pictures_in(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and file.name[0] != "."]
    return sorted(files, key=natural)
