"""Names in bundles of earlier formats, and the names that they have now.

A bundle of an earlier format is renamed while it is read; its files stay unchanged.
"""

from __future__ import annotations

from typing import Final

BUNDLE_FORMAT: Final = 2
"""The format that this version writes. It reads this one and all earlier ones."""

_FILES: Final = {
    "heads/familiarity.json": "heads/mahalanobis.json",
    "heads/familiarity.safetensors": "heads/mahalanobis.safetensors",
}
"""Files of format 1 that have another name now."""

_TENSORS: Final = {"calibration.safetensors": {"strangeness": "ood", "strange": "ood_scores"}}
"""Per file the first part of tensor names of format 1 that is another one now."""


def current_file(name: str, number: int) -> str:
    """What a file of a bundle of format `number` is called now."""
    return _FILES.get(name, name) if number == 1 else name


def stored_file(name: str, number: int) -> str:
    """What the file that is now called `name` is called in a bundle of format `number`."""
    return next((old for old, new in _FILES.items() if new == name), name) if number == 1 else name


def current_tensor(file: str, name: str, number: int) -> str:
    """What a tensor is called now.

    Args:
        file: the present name of its file.
        name: its name in a bundle of format `number`.
        number: the format of the bundle.
    """
    first, slash, rest = name.partition("/")
    return f"{_TENSORS.get(file, {}).get(first, first)}{slash}{rest}" if number == 1 else name
