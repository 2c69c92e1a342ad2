"""Trackers, which receive the measurements of a training run: JSON lines, TensorBoard and MLflow."""

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


@final
class Mlflow(Tracker):
    """An MLflow run, on the server in `MLFLOW_TRACKING_URI`, or in a database file without it.

    Args:
        folder: receives `mlflow.db` if no server is set.

    Raises:
        MissingExtraError: mlflow is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise MissingExtraError("mlflow", "track") from error
        self._make, self._folder = MlflowClient, folder
        self._client: Any = None
        self._run_id = ""

    def start(self, run: str, settings: Mapping[str, Any], *, step: int) -> None:
        """Creates a run in the experiment `worldline`; a resumed run is a new one, tagged with its first step."""
        import os

        self._folder.mkdir(parents=True, exist_ok=True)
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self._folder.resolve() / 'mlflow.db'}"
        self._client = self._make(tracking_uri=place)
        existing = self._client.get_experiment_by_name("worldline")
        experiment = existing.experiment_id if existing is not None else self._client.create_experiment("worldline")
        created = self._client.create_run(experiment, run_name=run, tags={"first_step": str(step)})
        self._run_id = created.info.run_id
        for name, value in _flat(settings).items():
            self._client.log_param(self._run_id, name, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one metric per value."""
        for name, value in values.items():
            self._client.log_metric(self._run_id, name, value, step=step)

    def finish(self) -> None:
        """Ends the run."""
        if self._client is not None:
            self._client.set_terminated(self._run_id)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings with dotted names, truncated to the length that MLflow accepts."""
    texts: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            texts |= _flat(value, f"{prefix}{name}.")
        else:
            texts[f"{prefix}{name}"] = str(value)[:500]
    return texts
