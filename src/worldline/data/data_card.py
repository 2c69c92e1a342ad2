"""The data card of a store: layout version, loss of image compression, and notes on the origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from worldline.errors import ConfigError, InputError, UnknownNameError
from worldline.schema import Kind, Schema

FORMAT = 2
"""The version of a store's layout that this code writes and reads."""

CARD_FILE = "card.json"


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """The card of a store.

    Args:
        format: version of the layout.
        max_error: per image signal, the largest error of a pixel in grey levels, 0 to 64; 0 means lossless. Vectors
            and discrete signals are always exact.
        notes: origin of the data and assumptions, as text.
    """

    format: int = FORMAT
    max_error: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ConfigError(
                f"the store has layout {self.format}, but this version of worldline reads {FORMAT}. "
                "Import the logs again, or install the version of worldline that wrote the store."
            )


def make_card(schema: Schema, max_error: Mapping[str, int], notes: Mapping[str, str]) -> DataCard:
    """The card of a new store.

    Args:
        schema: of the store.
        max_error: as in `DataCard`; signals that it does not name are lossless.
        notes: as in `DataCard`.

    Raises:
        UnknownNameError: `max_error` names no image signal.
        InputError: an error is not between 0 and 64, or the schema has no observation.
    """
    if not schema.observations:
        raise InputError("the schema has no observation signal. A store needs at least one: add it.")
    images = [signal.name for signal in schema.signals if signal.kind is Kind.IMAGE]
    for name, error in max_error.items():
        if name not in images:
            raise UnknownNameError("image signal", name, images)
        if not 0 <= error <= 64:
            raise InputError(f"max_error of {name!r} is {error}. Give grey levels from 0 (lossless) to 64.")
    readable = {name: note.encode(errors="replace").decode() for name, note in notes.items()}
    return DataCard(max_error={name: max_error.get(name, 0) for name in images}, notes=readable)
