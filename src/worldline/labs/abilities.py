"""What a lab may also be able to do; each ability is a class to inherit from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays


class Configured(ABC):
    """Optional: can be built again from its settings, so that a world over the lab can be stored."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """What it was built with, as plain JSON values."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Configured:
        """The lab that was built with these settings; they are read as if from a stranger.

        Raises:
            ConfigError: one is unknown, missing, or of another type.
            InputError: one is out of range.
        """


class Locates(ABC):
    """Optional: can be reset into the state that an observation shows."""

    @abstractmethod
    def locate(self, observation: Arrays) -> Mapping[str, Any]:
        """The options for which `reset` starts in the state of `observation`.

        Args:
            observation: per signal that the lab shows [*shape], complete.
        """


class Hides(ABC):
    """Optional: there are steps at which a signal cannot be seen. What it holds then must not matter to anyone."""

    @abstractmethod
    def seen(self, observation: Mapping[str, Any]) -> Mapping[str, bool]:
        """Of each signal that is hidden at times, whether it is seen in this observation; every other one is.

        Args:
            observation: as `reset` and `step` give it, with what is in no schema.
        """


class DrawsImages(ABC):
    """Optional: what its camera shows can be drawn from the rest of what is known of a moment."""

    pictures: bool
    """Whether observations hold the camera's picture."""

    @abstractmethod
    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """The picture [64, 64, 3] of a moment; None where what is known does not tell it.

        Args:
            shown: by name [*shape]: the vector observations that were observed, and what was done in the step before;
                what is not known is left out.
        """
