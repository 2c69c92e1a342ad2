"""Disk layouts for frames, compared by benchmarks/data.py. The store uses one of them.

Each layout holds the frames of one camera, appends whole episodes durably, and reads every `STRIDE`-th frame of a
window.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zstandard
from data_frames import ROWS, FrameSet, Pictures
from PIL import Image

from worldline.data.image_block import ImageCodec

NUM_OBSERVATIONS, STRIDE, BATCH_SIZE = 4, 5, 64
SPAN = (NUM_OBSERVATIONS - 1) * STRIDE + 1
COLD_S = 0.05
"""Seconds of reading after the page cache was dropped; short, because frames that are read return to the cache."""

CACHED_SHARE = 0.25
"""Share of the episodes whose decoded frames the video layout keeps in memory."""

Row = dict[str, Any]


class Layout(ABC):
    """Frames on disk.

    Args:
        folder: folder of the files.
        shape: height, width and channels of a frame.
        num_episodes: final number of episodes.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], num_episodes: int) -> None:
        self.folder, self.shape, self.num_episodes = folder, shape, num_episodes
        self.frame_bytes = int(np.prod(shape))

    @abstractmethod
    def append(self, pictures: Pictures) -> None:
        """Adds an episode [rows, *shape]; it is on disk when this returns."""

    @abstractmethod
    def read(self, first: int, out: Pictures) -> None:
        """Fills `out` [n, *shape] with every `STRIDE`-th frame from number `first` on, counted over all episodes."""


class MemoryMap(Layout):
    """Raw values in sequence, memory-mapped."""

    def append(self, pictures: Pictures) -> None:
        """Appends the values."""
        append_durably(self.folder / "frames.raw", pictures.tobytes())

    def read(self, first: int, out: Pictures) -> None:
        """Copies frames from the map."""
        out[:] = self.frames[first : first + SPAN : STRIDE]

    @cached_property
    def frames(self) -> Pictures:
        """All frames [frames, *shape]."""
        return np.memmap(self.folder / "frames.raw", np.uint8, "r").reshape(-1, *self.shape)


class Reads(MemoryMap):
    """The same file, read with one call per frame directly into the output."""

    def read(self, first: int, out: Pictures) -> None:
        """Reads with one `preadv` per frame."""
        for number, picture in enumerate(out):
            os.preadv(self.descriptor, [picture.reshape(-1).data], (first + number * STRIDE) * self.frame_bytes)

    @cached_property
    def descriptor(self) -> int:
        """The open file."""
        return os.open(self.folder / "frames.raw", os.O_RDONLY)


class Hdf5(Layout):
    """One HDF5 dataset with one chunk per frame."""

    def __init__(self, compression: str | None, folder: Path, shape: tuple[int, ...], num_episodes: int) -> None:
        super().__init__(folder, shape, num_episodes)
        self.compression = compression

    def append(self, pictures: Pictures) -> None:
        """Grows the dataset."""
        with h5py.File(self.folder / "frames.h5", "a", libver="latest") as file:
            if "frames" not in file:
                options = {"maxshape": (None, *self.shape), "chunks": (1, *self.shape), "dtype": np.uint8}
                file.create_dataset("frames", (0, *self.shape), compression=self.compression, **options)
            frames = file["frames"]
            begin = len(frames)
            frames.resize(begin + len(pictures), axis=0)
            frames[begin:] = pictures
        append_durably(self.folder / "frames.h5", b"")

    def read(self, first: int, out: Pictures) -> None:
        """Reads one selection per frame: one strided selection of a window takes a hundred times as long."""
        for number, picture in enumerate(out):
            self.frames.read_direct(picture, np.s_[first + number * STRIDE])

    @cached_property
    def frames(self) -> Any:
        """The open dataset."""
        return h5py.File(self.folder / "frames.h5")["frames"]


class Blobs(Layout):
    """Frames compressed one by one in one file, with a second file of their end offsets."""

    def append(self, pictures: Pictures) -> None:
        """Compresses each frame."""
        if not (self.folder / "ends").exists():
            append_durably(self.folder / "ends", bytes(8))
            append_durably(self.folder / "first", pictures[0].tobytes())
        blobs = [self.compress(picture) for picture in pictures]
        begin = (self.folder / "frames").stat().st_size if (self.folder / "frames").exists() else 0
        append_durably(self.folder / "frames", b"".join(blobs))
        ends = begin + np.cumsum([len(blob) for blob in blobs], dtype=np.uint64)
        append_durably(self.folder / "ends", ends.astype(np.uint64).tobytes())

    def read(self, first: int, out: Pictures) -> None:
        """Reads the offsets once per window and the data once per frame."""
        ends, frames = self.descriptors
        bounds = np.frombuffer(os.pread(ends, 8 * (SPAN + 1), 8 * first), np.uint64).tolist()
        for number, picture in enumerate(out):
            begin, end = bounds[number * STRIDE : number * STRIDE + 2]
            self.restore(os.pread(frames, end - begin, begin), picture)

    @cached_property
    def descriptors(self) -> tuple[int, int]:
        """The open files of offsets and frames."""
        return os.open(self.folder / "ends", os.O_RDONLY), os.open(self.folder / "frames", os.O_RDONLY)

    @abstractmethod
    def compress(self, picture: Pictures) -> bytes:
        """Returns the compressed bytes of a frame."""

    @abstractmethod
    def restore(self, data: bytes, out: Pictures) -> None:
        """Decompresses a frame into `out`."""


class Zstd(Blobs):
    """zstd at level 3, without a dictionary or with the first frame as dictionary."""

    def __init__(self, against_first: bool, folder: Path, shape: tuple[int, ...], num_episodes: int) -> None:
        super().__init__(folder, shape, num_episodes)
        self.against_first = against_first

    def compress(self, picture: Pictures) -> bytes:
        """Returns the compressed bytes of a frame."""
        data: bytes = self.codecs[0].compress(picture.tobytes())
        return data

    def restore(self, data: bytes, out: Pictures) -> None:
        """Decompresses a frame."""
        out.reshape(-1)[:] = np.frombuffer(self.codecs[1].decompress(data), np.uint8)

    @cached_property
    def codecs(self) -> tuple[zstandard.ZstdCompressor, zstandard.ZstdDecompressor]:
        """The compressor and the decompressor."""
        if not self.against_first:
            return zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
        first = (self.folder / "first").read_bytes()
        known = zstandard.ZstdCompressionDict(first, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        return zstandard.ZstdCompressor(level=3, dict_data=known), zstandard.ZstdDecompressor(dict_data=known)


class Lz4(Blobs):
    """The layout of the store: LZ4-HC in bands, with the first frame as dictionary."""

    def compress(self, picture: Pictures) -> bytes:
        """Returns the compressed bytes of a frame."""
        if not (self.folder / "first").exists():
            (self.folder / "first").write_bytes(picture.tobytes())
        data, _ = self.codec.compress(picture[None])
        return data

    def restore(self, data: bytes, out: Pictures) -> None:
        """Decompresses a frame."""
        self.codec.restore(data, out.reshape(-1))

    @cached_property
    def codec(self) -> ImageCodec:
        """The compressor and the decompressor."""
        return ImageCodec(self.shape, (self.folder / "first").read_bytes(), "frames")


class Png(Blobs):
    """One PNG per frame."""

    def compress(self, picture: Pictures) -> bytes:
        """Returns the compressed bytes of a frame."""
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG", compress_level=6)
        return buffer.getvalue()

    def restore(self, data: bytes, out: Pictures) -> None:
        """Decompresses a frame."""
        with Image.open(io.BytesIO(data)) as picture:
            out[:] = np.asarray(picture)


class Video(Layout):
    """One lossless H.264 video per episode, with the decoded frames of some episodes in memory."""

    def append(self, pictures: Pictures) -> None:
        """Encodes the episode."""
        import av

        path = self.folder / f"{len(list(self.folder.glob('*.mp4')))}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264rgb", rate=25, options={"qp": "0", "preset": "medium"})
            stream.height, stream.width, stream.pix_fmt = *self.shape[:2], "rgb24"
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
        append_durably(path, b"")

    def read(self, first: int, out: Pictures) -> None:
        """Reads from the decoded episode."""
        episode, row = divmod(first, ROWS)
        out[:] = self.decoded(episode)[row : row + SPAN : STRIDE]

    @cached_property
    def decoded(self) -> Callable[[int], Pictures]:
        """Decodes an episode; caches the most recent ones."""
        return lru_cache(maxsize=max(1, round(CACHED_SHARE * self.num_episodes)))(self.decode)

    def decode(self, episode: int) -> Pictures:
        """All frames of an episode."""
        import av

        with av.open(str(self.folder / f"{episode}.mp4")) as container:
            container.streams.video[0].thread_type = "NONE"
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


LAYOUTS: dict[str, Callable[[Path, tuple[int, ...], int], Layout]] = {
    "raw blocks, memory-mapped": MemoryMap,
    "raw blocks, preadv": Reads,
    "HDF5": partial(Hdf5, None),
    "HDF5, lzf": partial(Hdf5, "lzf"),
    "HDF5, gzip": partial(Hdf5, "gzip"),
    "PNG": Png,
    "zstd": partial(Zstd, False),
    "zstd, first frame as dictionary": partial(Zstd, True),
    "LZ4 in bands, first frame as dictionary": Lz4,
}
if find_spec("av"):
    LAYOUTS["H.264 lossless, decoded cache"] = Video


def append_durably(path: Path, data: bytes) -> None:
    """Appends to a file and waits until the data is on disk."""
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def rate(layout: Layout, seconds: float, seed: int) -> float:
    """Random windows per second, gathered into batches; the last batch may be incomplete."""
    generator, windows, begin = np.random.default_rng(seed), 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        out = np.empty((BATCH_SIZE, NUM_OBSERVATIONS, *layout.shape), np.uint8)
        starts = generator.integers(ROWS + 1 - SPAN, size=BATCH_SIZE)
        starts += ROWS * generator.integers(layout.num_episodes, size=BATCH_SIZE)
        for window, first in zip(out, starts.tolist(), strict=True):
            layout.read(first, window)
            windows += 1
            if time.perf_counter() - begin >= seconds:
                break
    return windows / (time.perf_counter() - begin)


def memory_mb() -> tuple[float, float]:
    """Resident and anonymous memory of this process in megabytes; the difference is mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024, int(status["RssAnon"].split()[0]) / 1024


def read_alone(name: str, folder: Path, shape: tuple[int, ...], num_episodes: int, seconds: float, seed: int) -> Row:
    """Rate and memory growth, measured in a separate process."""
    before = memory_mb()
    layout = LAYOUTS[name](folder, shape, num_episodes)
    windows_per_s = rate(layout, seconds, seed)
    resident, anonymous = (after - start for after, start in zip(memory_mb(), before, strict=True))
    return {"windows_per_s": windows_per_s, "resident_mb": resident, "anonymous_mb": anonymous}


def evict(folder: Path) -> None:
    """Drops the files of a folder from the page cache, to simulate data that exceeds memory."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def compare(frames: FrameSet, folder: Path, num_episodes: int, repeats: int, seconds: float) -> list[Row]:
    """Results of every layout on the first episodes of a set; the layouts take turns."""
    camera = frames.camera[:num_episodes]
    shape = camera.shape[2:]
    folders = {name: folder / str(number) for number, name in enumerate(LAYOUTS)}
    layouts = {name: make(folders[name], shape, len(camera)) for name, make in LAYOUTS.items()}
    rows = {name: _write(layout, camera) for name, layout in layouts.items()}
    for layout in layouts.values():
        _verify(layout, camera)
    rates: dict[str, list[float]] = {name: [] for name in layouts}
    for seed in range(repeats):
        for name, layout in layouts.items():
            rates[name].append(rate(layout, seconds, seed))
    layouts.clear()  # mapped pages cannot be evicted
    del layout
    return [
        {
            "layout": name,
            "windows_per_s": rates[name],
            **row,
            **_apart(name, folders[name], shape, len(camera), seconds),
        }
        for name, row in rows.items()
    ]


def _write(layout: Layout, camera: Pictures) -> Row:
    layout.folder.mkdir(parents=True)
    begin = time.perf_counter()
    for pictures in camera:
        layout.append(np.array(pictures))
    append_s = (time.perf_counter() - begin) / len(camera)
    size = sum(file.stat().st_size for file in layout.folder.iterdir())
    return {"bytes_per_frame": size / (len(camera) * ROWS), "append_ms": 1e3 * append_s}


def _verify(layout: Layout, camera: Pictures) -> None:
    """Raises an error if a layout does not return the frames that were written."""
    out = np.empty((NUM_OBSERVATIONS, *layout.shape), np.uint8)
    for episode, start in ((0, 0), (len(camera) - 1, ROWS - SPAN), (len(camera) // 2, 7)):
        layout.read(episode * ROWS + start, out)
        if not np.array_equal(out, camera[episode, start : start + SPAN : STRIDE]):
            raise AssertionError(
                f"{layout.folder}: episode {episode} from step {start} on differs from the frames that were written"
            )


def _apart(name: str, folder: Path, shape: tuple[int, ...], num_episodes: int, seconds: float) -> Row:
    """One reader with an empty page cache, then two concurrent readers in separate processes."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        evict(folder)
        cold: Row = pool.apply(read_alone, (name, folder, shape, num_episodes, COLD_S, 0))
        jobs = [(name, folder, shape, num_episodes, seconds, seed) for seed in (1, 2)]
        pair: Sequence[Row] = pool.starmap(read_alone, jobs, chunksize=1)
    return {
        "cold_windows_per_s": cold["windows_per_s"],
        "two_readers_windows_per_s": sum(one["windows_per_s"] for one in pair),
        "resident_mb": cold["resident_mb"],
        "anonymous_mb": cold["anonymous_mb"],
    }
