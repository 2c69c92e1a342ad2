"""Changes to files of a bundle as an attacker would make them: the manifest fits the changed file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Change = Callable[[Any], Any]


def tamper(folder: Path, name: str, change: Change) -> None:
    """Changes a JSON file.

    Args:
        folder: of the bundle.
        name: of the file.
        change: returns the new content.
    """
    (folder / name).write_text(json.dumps(change(json.loads((folder / name).read_text()))))
    if name != "manifest.json":
        refresh(folder, name)


def tamper_tensors(folder: Path, name: str, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Changes the tensors of a file in place."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    refresh(folder, name)


def replace_arrays(folder: Path, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Replaces all arrays of a file."""
    save_file({key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}, folder / name)
    refresh(folder, name)


def refresh(folder: Path, name: str) -> None:
    """Enters a file that has changed into the manifest."""
    content = (folder / name).read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    tamper(folder, "manifest.json", lambda found: {**found, "files": {**found["files"], name: entry}})
