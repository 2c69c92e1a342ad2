"""Migration of names in bundles of earlier formats.

Names are translated when a bundle is read; its files stay unchanged.
"""

from __future__ import annotations

from typing import Final

BUNDLE_FORMAT: Final = 2
"""The format that this version writes. It reads this format and all earlier ones."""

_FILES: Final = {
    "heads/familiarity.json": "heads/mahalanobis.json",
    "heads/familiarity.safetensors": "heads/mahalanobis.safetensors",
}
"""Renamed files: name in format 1 to current name."""

_TENSORS: Final = {"calibration.safetensors": {"strangeness": "ood", "strange": "ood_scores"}}
"""Renamed tensors: per file, first part of the name in format 1 to its current value."""


def current_file(name: str, number: int) -> str:
    """The current name of a file in a bundle of format `number`."""
    return _FILES.get(name, name) if number == 1 else name


def stored_file(name: str, number: int) -> str:
    """The name in a bundle of format `number` of the file that is now called `name`."""
    return next((old for old, new in _FILES.items() if new == name), name) if number == 1 else name


def current_tensor(file: str, name: str, number: int) -> str:
    """The current name of a tensor.

    Args:
        file: the current name of its file.
        name: its name in a bundle of format `number`.
        number: the format of the bundle.
    """
    first, slash, rest = name.partition("/")
    return f"{_TENSORS.get(file, {}).get(first, first)}{slash}{rest}" if number == 1 else name
