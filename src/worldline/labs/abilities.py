"""Optional abilities of labs; each one is a base class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays


class Hides(ABC):
    """Optional: signals can be unobserved at some steps. Callers must then ignore their values."""

    @abstractmethod
    def seen(self, observation: Mapping[str, Any]) -> Mapping[str, bool]:
        """Returns whether each signal that can be hidden is observed; all other signals always are.

        Args:
            observation: as `reset` and `step` return it, with entries that are not in the schema.
        """


class DrawsImages(ABC):
    """Optional: the camera image of a step can be drawn from the other signals."""

    pictures: bool
    """Whether observations contain the camera image."""

    @abstractmethod
    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """Returns the image [64, 64, 3] of a step; None if the known signals do not determine it.

        Args:
            shown: by name [*shape]: the observed vector observations and the action of the previous step; unknown
                signals are left out.
        """
