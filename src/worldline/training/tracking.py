"""Trackers, which receive the measurements of a training run: JSON lines and TensorBoard."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from worldline.errors import MissingExtraError


class Tracker(ABC):
    """Receives settings and measurements of a run: `start`, then `log` after each validation, then `finish`."""

    @abstractmethod
    def start(self, run: str, settings: Mapping[str, Any], *, step: int) -> None:
        """Begins or resumes a run.

        Args:
            run: its name.
            settings: plain JSON values.
            step: completed updates; earlier reports of later steps are invalid.
        """

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Records the measurements after update `step`."""

    @abstractmethod
    def finish(self) -> None:
        """Ends the run; also called if training stops with an error."""


@final
class JsonLines(Tracker):
    """A file with one JSON object per line: first the settings, then each measurement with its `step`.

    Args:
        folder: receives a file `<run>.jsonl` for each run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = self._path = folder

    def start(self, run: str, settings: Mapping[str, Any], *, step: int) -> None:
        """Opens the file and keeps its lines up to `step`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / f"{run}.jsonl"
        kept = []
        if step and self._path.exists():
            lines = [json.loads(line) for line in self._path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if line.get("step", 0) <= step]
        if not kept:
            kept = [{"run": run, "settings": dict(settings)}]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def finish(self) -> None:
        """Does nothing: no file is left open."""


@final
class TensorBoard(Tracker):
    """Event files: `tensorboard --logdir FOLDER`.

    Args:
        folder: receives a folder `<run>` with the event files of each run.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "track") from error
        self._make, self._folder = SummaryWriter, folder
        self._writer: SummaryWriter | None = None

    def start(self, run: str, settings: Mapping[str, Any], *, step: int) -> None:
        """Opens the event file."""
        # TensorBoard hides later steps of an earlier run with this name; all of them if this run starts anew.
        self._writer = self._make(self._folder / run, purge_step=step + 1 if step else 0)
        self._writer.add_text("settings", f"```json\n{json.dumps(settings, indent=2)}\n```", step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one scalar per value."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()
