"""Makes a world of a pretrained forecaster: no training, bands from the logs, and the report of `learn`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Unpack

from worldline.progress import OnProgress
from worldline.workflows.choosing import CHRONOS, FRACAST
from worldline.workflows.learn import learn
from worldline.workflows.learn_options import Options, OptionsDict
from worldline.world.base import World


def adopt(
    forecaster: Path | str,
    logs: Path | str | object,
    out: Path | str | None = None,
    options: Options | None = None,
    *,
    progress: OnProgress | Literal["auto"] | None = "auto",
    **shortcuts: Unpack[OptionsDict],
) -> World:
    """Makes a world of a pretrained forecaster, calibrates it on logs, and saves it as a bundle with a report.

    Args:
        forecaster: "fracast", or the local folder of a Chronos-2 model, whose weights are copied into the bundle.
        logs: as in `learn`.
        out: as in `learn`.
        options: as in `learn`; settings of a training change nothing.
        progress: as in `learn`.
        shortcuts: fields of `options` by name, such as `horizon=24`.

    Raises:
        MissingExtraError: the package of the forecaster is not installed; the message has the command.
        DataError: the folder has another layout, or the episodes are too short.
        ConfigError: the horizon is longer than that of the forecaster, or than the episodes allow.
    """
    return learn(logs, out, adopting(forecaster, (options or Options()).replaced(shortcuts)), progress=progress)


def adopting(forecaster: Path | str, options: Options) -> Options:
    """The options of `learn` that use a forecaster."""
    if str(forecaster) == FRACAST:
        return options.replaced({"recipe": FRACAST})
    return options.replaced({"recipe": CHRONOS, "weights": forecaster})
