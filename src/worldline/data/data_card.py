"""The data card of a store: what it is made of, and what was done to the data on the way in."""

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
    """What a store is made of.

    Args:
        format: version of the layout.
        max_error: per image signal the largest error of a pixel in grey levels, 0 to 64; 0 where pictures are kept
            bit for bit. Vectors and discrete signals are always exact.
        notes: where the data came from and what was assumed, in words.
    """

    format: int = FORMAT
    max_error: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ConfigError(
                f"the store has layout {self.format}, and this version of worldline reads {FORMAT}. "
                "Import the logs again, or install the version that wrote it."
            )


def make_card(schema: Schema, max_error: Mapping[str, int], notes: Mapping[str, str]) -> DataCard:
    """The card of a new store.

    Args:
        schema: of the store.
        max_error: as in `DataCard`; signals that it does not name are kept bit for bit.
        notes: as in `DataCard`.

    Raises:
        UnknownNameError: there is no image signal of such a name.
        InputError: an error is not between 0 and 64, or nothing is observed.
    """
    if not schema.observations:
        raise InputError("the schema has no observation, and a store holds what was observed. Add one.")
    images = [signal.name for signal in schema.signals if signal.kind is Kind.IMAGE]
    for name, error in max_error.items():
        if name not in images:
            raise UnknownNameError("image signal", name, images)
        if not 0 <= error <= 64:
            raise InputError(f"max_error of {name!r} is {error}. It is in grey levels of 255, from 0 (exact) to 64.")
    readable = {name: note.encode(errors="replace").decode() for name, note in notes.items()}
    return DataCard(max_error={name: max_error.get(name, 0) for name in images}, notes=readable)
