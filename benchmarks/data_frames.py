"""Frame sets of benchmarks/data.py, the same for both sides, stored as plain arrays.

A set is a folder with `camera.npy` [episodes, rows, height, width, 3], `position.npy` [episodes, rows, 2] and
`action.npy` [episodes, rows, 2]. The peer renders its own environments into such a folder; other scenes are made here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal

Pictures = NDArray[np.uint8]
Vectors = NDArray[np.float32]

ROWS = 61
NUM_OBSERVATIONS, STRIDE, BATCH_SIZE = 4, 5, 64
"""Of the drawn windows."""
SENSOR_NOISE = 3.0
"""Standard deviation of the noise in grey levels, about that of an indoor webcam."""


@dataclass(frozen=True, kw_only=True)
class FrameSet:
    """A set of logged episodes, mapped from disk.

    Args:
        name: scene and size, such as "push-t 224".
        folder: folder of its arrays.
    """

    name: str
    folder: Path

    @property
    def camera(self) -> Pictures:
        """Frames [episodes, rows, height, width, 3]."""
        return np.asarray(np.load(self.folder / "camera.npy", mmap_mode="r"))

    @property
    def position(self) -> Vectors:
        """Positions [episodes, rows, 2]."""
        return np.asarray(np.load(self.folder / "position.npy"))

    @property
    def action(self) -> Vectors:
        """Actions [episodes, rows, 2]; the last of each episode is unused."""
        return np.asarray(np.load(self.folder / "action.npy"))

    def __len__(self) -> int:
        return len(self.camera)

    @property
    def num_frames(self) -> int:
        """Number of frames over all episodes."""
        return int(np.prod(self.camera.shape[:2]))

    @property
    def schema(self) -> Schema:
        """Number of episodes."""
        return Schema(
            signals=(
                Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=self.camera.shape[2:]),
                Signal(name="position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,)),
                Signal(name="action", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,)),
            )
        )

    def episodes(self) -> Iterator[Episode]:
        """Episodes of T+1 observations and T actions each."""
        for camera, position, action in zip(self.camera, self.position, self.action, strict=True):
            yield Episode(
                observations={"camera": np.array(camera), "position": position}, actions={"action": action[:-1]}
            )


def save(folder: Path, camera: Pictures, position: Vectors, action: Vectors) -> None:
    """Writes a set, the camera last, so that an interrupted set lacks its camera file."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "position.npy", position)
    np.save(folder / "action.npy", action)
    draft = folder / "camera.part.npy"
    np.save(draft, camera)
    draft.rename(folder / "camera.npy")


def shrink(big: FrameSet, folder: Path, size: int) -> None:
    """Resizes the episodes; each pixel is the mean of the area that it covers."""
    camera = np.empty((len(big), ROWS, size, size, 3), np.uint8)
    for out, episode in zip(camera, big.camera, strict=True):
        for row, picture in zip(out, episode, strict=True):
            row[:] = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX))
    save(folder, camera, big.position, big.action)


def make_sensor(folder: Path, num_episodes: int, size: int, seed: int) -> None:
    """The hard case for compression: a camera pans over a texture, with independent noise per pixel and frame."""
    generator = np.random.default_rng(seed)
    scene = _texture(generator, 4 * size)
    camera = np.empty((num_episodes, ROWS, size, size, 3), np.uint8)
    action = generator.uniform(-1, 1, (num_episodes, ROWS, 2)).astype(np.float32)
    start = generator.uniform(size, 2 * size, (num_episodes, 1, 2))
    path = start + np.cumsum(np.pad(size / 64 * action[:, :-1], ((0, 0), (1, 0), (0, 0))), axis=1)
    for episode, row in np.ndindex(num_episodes, ROWS):
        y, x = np.clip(path[episode, row].round().astype(int), 0, 3 * size)
        noise = generator.normal(0, SENSOR_NOISE, (size, size, 3)).astype(np.float32)
        camera[episode, row] = np.clip(scene[y : y + size, x : x + size] + noise, 0, 255).round().astype(np.uint8)
    save(folder, camera, path.astype(np.float32), action)


def _texture(generator: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Texture [size, size, 3] with the spectrum of natural images: amplitude proportional to 1 / frequency."""
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / size)
    phase = generator.uniform(0, 2 * np.pi, (3, *amplitude.shape))
    grey, *tints = np.fft.irfft2(amplitude * np.exp(1j * phase), s=(size, size))
    colours = np.stack([grey, grey + 0.3 * tints[0], grey + 0.3 * tints[1]], -1)
    colours /= colours.std((0, 1))
    return (128 + 45 * colours).astype(np.float32)
