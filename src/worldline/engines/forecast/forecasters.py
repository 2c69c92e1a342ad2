"""Pretrained forecasters behind one interface: medians of the next values, from past values and known inputs.

Fracast comes with its weights in its wheel and takes no inputs. Chronos-2 is read from a local folder and takes known
inputs as future covariates. Nothing is downloaded, and nothing is unpickled.

Sources: Fracast-0, github.com/ztxtech/fracast-0; Chronos-2, 2510.15821.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from worldline.engines.base import Parts
from worldline.errors import ConfigError, DataError, MissingExtraError

Values = Float[np.ndarray, "..."]

MAX_RECENT: Final = 4096
"""Forecasts that Fracast keeps, 0.4 kB each."""
ROWS: Final = 96
"""Time series in one pass of a network; bounds its memory."""
FEW_ROWS: Final = 8
"""The same for Fracast, whose larger batches exceed the caches of a processor and take longer for each series."""
MAX_SIZE: Final = 100_000
MAX_LAYERS: Final = 100
"""Largest sizes and number of layers in the settings of Chronos-2."""
_PATCHES: Final = "chronos_config"
_SETTINGS: Final = (
    *("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "dropout_rate", "layer_norm_epsilon", "feed_forward_proj"),
    *("vocab_size", "pad_token_id", "rope_theta", _PATCHES),
)
"""The settings in a `config.json` of Chronos-2 that its network needs."""


class Forecaster(ABC):
    """A pretrained network that continues time series.

    Args:
        network: frozen, on the CPU.
        context: most past values that it reads.
        horizon: most steps of one forecast; longer ones continue from their own medians.
    """

    name: str
    """The registered name of its recipe."""
    takes_inputs: bool
    """Whether known inputs change its forecasts."""

    def __init__(self, network: nn.Module, context: int, horizon: int) -> None:
        self.network, self.context, self.horizon = network.eval().requires_grad_(False), context, horizon

    @abstractmethod
    def medians(self, past: Values, inputs: Values, future: Values) -> Values:
        """The medians [R, D, T] of the next T values, at most `horizon`.

        A step depends on the inputs up to it only.

        Args:
            past: [R, D, H], R independent groups of D time series; NaN where a value is missing.
            inputs: [R, K, H], K inputs, each at the value that it led to.
            future: [R, K, T], the inputs of the forecast.
        """

    def forecast(self, past: Values, inputs: Values, future: Values) -> Values:
        """`medians` for any number of steps."""
        blocks = list[Values]()
        for start in range(0, future.shape[-1], self.horizon):
            driving = future[..., start : start + self.horizon]
            blocks.append(self.medians(past, inputs, driving))
            past = np.concatenate([past, blocks[-1]], -1)[..., -self.context :]
            inputs = np.concatenate([inputs, driving], -1)[..., -self.context :]
        return np.concatenate(blocks, -1)


@final
class Fracast(Forecaster):
    """Fracast-0 from its wheel: 85,001 parameters, each time series alone, 2,048 values, blocks of 48 steps.

    Raises:
        MissingExtraError: fracast is not installed.
    """

    name = "fracast"
    takes_inputs = False

    def __init__(self) -> None:
        try:
            from fracast import FracastModel
        except ImportError as error:
            raise MissingExtraError("fracast", "forecast") from error
        self._model: Any = FracastModel.from_pretrained(weights="fp32")
        self._recent = dict[bytes, Values]()  # the block of each recent series, as calls repeat them
        network = nn.ModuleList([self._model.core, self._model.head])
        super().__init__(network, self._model.context_length, self._model.horizon)

    def medians(self, past: Values, inputs: Values, future: Values) -> Values:
        """As in `Forecaster`; needs 8 values that are not missing in each time series."""
        rows = past.reshape(-1, past.shape[-1])
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
        # Other threads may forget blocks meanwhile, so this call keeps its own.
        known = {key: block for key in keys if (block := self._recent.get(key)) is not None}
        middle = self._model.quantiles.index(0.5)
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
        for start in range(0, len(new), FEW_ROWS):
            part = list(new)[start : start + FEW_ROWS]
            blocks = self._model.forecast_batch(np.stack([new[key] for key in part]))[..., middle]
            known.update(zip(part, blocks, strict=True))
        steps = np.stack([known[key] for key in keys])[:, : future.shape[-1]]
        self._recent.update(known)
        for key in list(self._recent)[:-MAX_RECENT]:
            self._recent.pop(key, None)
        return np.asarray(steps.reshape(*past.shape[:-1], -1))

    def to_parts(self) -> Parts:
        """The version and the hash of its weights, which stay in the wheel."""
        state = self.network.state_dict()
        digest = hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()
        return Parts(config={"version": version("fracast"), "sha256": digest})

    @classmethod
    def from_parts(cls, parts: Parts) -> Fracast:
        """The installed Fracast, which must have the stored weights."""
        forecaster = cls()
        installed = forecaster.to_parts().config
        if parts.arrays or parts.config.get("sha256") != installed["sha256"]:
            raise DataError(
                f"it was calibrated with the weights of fracast {parts.config.get('version')!r:.40}, and those of "
                f"{installed['version']} are installed",
                fix="Install that version, or adopt the forecaster again.",
            )
        return forecaster


@final
class Chronos(Forecaster):
    """Chronos-2, which attends over the series and inputs of a group.

    Args:
        config: settings by their names in `config.json`; others than those that the network needs are left out.
        weights: by name; computed in float32.

    Raises:
        MissingExtraError: chronos-forecasting is not installed.
        ConfigError: no network has these settings, or the weights do not fit it.
    """

    name = "chronos"
    takes_inputs = True

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        try:
            from chronos.chronos2 import Chronos2Model
            from chronos.chronos2.config import Chronos2CoreConfig
        except ImportError as error:
            raise MissingExtraError("chronos", "forecast") from error
        self.config = _checked({name: config[name] for name in _SETTINGS if name in config})
        try:
            with torch.device("meta"):  # shapes without memory, so that no size in a file is allocated
                network: nn.Module = Chronos2Model(Chronos2CoreConfig(**_copy(self.config)))
            expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
            patches = self.config[_PATCHES]
            self._patch, self._middle = patches["output_patch_size"], patches["quantiles"].index(0.5)
            context, most = int(patches["context_length"]), int(patches.get("max_output_patches", 1))
            assert min(self._patch, context, most) > 0, "a size is 0"
        except Exception as error:  # settings of a file fail in many ways
            raise ConfigError(f"no Chronos-2 network has these settings: {error!r:.200}.") from error
        shapes = {name: tuple(value.shape) for name, value in weights.items()}
        if wrong := sorted(n for n in shapes.keys() | expected.keys() if shapes.get(n) != expected.get(n)):
            raise ConfigError(
                f"the weights do not fit the settings: {wrong[0]!r:.80} has the shape {shapes.get(wrong[0])}, expected "
                f"{expected.get(wrong[0])}."
            )
        network = Chronos2Model(Chronos2CoreConfig(**_copy(self.config)))
        network.load_state_dict({name: value.float() for name, value in weights.items()})
        super().__init__(network, context, most * self._patch)

    @classmethod
    def from_folder(cls, folder: Path) -> Chronos:
        """The model in a folder with `config.json` and `model.safetensors`, as its authors publish it.

        Raises:
            DataError: the folder has another layout, or the weights do not fit.
        """
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if not isinstance(config, dict) or not isinstance(config.get(_PATCHES), dict):
                raise ConfigError(f"config.json has no {_PATCHES}")
            return cls(config, load_file(folder / "model.safetensors"))
        except (OSError, ValueError, SafetensorError) as error:
            fix = "Give a local folder of Chronos-2, with config.json and model.safetensors."
            raise DataError(
                f"no Chronos-2 model can be read: {str(error).rstrip('.')}", fix=fix, file=folder
            ) from error

    def medians(self, past: Values, inputs: Values, future: Values) -> Values:
        """As in `Forecaster`. It reads later inputs for earlier steps, so each step has a pass without them."""
        (num_groups, num_series, _), (_, num_inputs, steps) = past.shape, future.shape
        context, parts = np.concatenate([past, inputs], 1), list[Values]()
        groups = max(1, ROWS // (num_series + num_inputs))
        for start in range(0, steps, 1 if num_inputs else self._patch):
            end = start + 1 if num_inputs else min(start + self._patch, steps)
            known = np.full((*context.shape[:2], -(-end // self._patch) * self._patch), np.nan)
            known[:, num_series:, :end] = future[..., :end]
            batches = [slice(at, at + groups) for at in range(0, num_groups, groups)]
            passes = [self._pass(context[batch], known[batch]) for batch in batches]
            parts.append(np.concatenate(passes)[:, :num_series, start:end])
        return np.concatenate(parts, -1)

    def _pass(self, context: Values, known: Values) -> Values:
        """The medians [R, D + K, T] after contexts [R, D + K, H], given future values [R, D + K, T] or NaN."""
        group = torch.arange(len(context)).repeat_interleave(context.shape[1])
        rows, ahead = (torch.from_numpy(part.reshape(len(group), -1).astype(np.float32)) for part in (context, known))
        size = known.shape[-1] // self._patch
        with torch.inference_mode():
            answer = self.network(context=rows, group_ids=group, future_covariates=ahead, num_output_patches=size)
        return np.asarray(answer.quantile_preds[:, self._middle].numpy().reshape(known.shape))

    def to_parts(self) -> Parts:
        """The settings and all weights."""
        weights = {name: value.numpy() for name, value in self.network.state_dict().items()}
        return Parts(config=self.config, arrays=weights)

    @classmethod
    def from_parts(cls, parts: Parts) -> Chronos:
        """The model of `to_parts`."""
        return cls(parts.config, {name: torch.from_numpy(np.array(value)) for name, value in parts.arrays.items()})


FORECASTERS: Final[Mapping[str, type[Fracast | Chronos]]] = {kind.name: kind for kind in (Fracast, Chronos)}
"""Forecasters by name."""


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of Chronos-2 whose sizes can be built."""
    patches = config.get(_PATCHES)
    for name, value in (config | (patches if isinstance(patches, dict) else {})).items():
        most = MAX_LAYERS if name == "num_layers" else MAX_SIZE
        if isinstance(value, int | float) and not 0 <= value <= most:
            raise ConfigError(f"{name} is {value}. It must be from 0 to {most}.")
    return config


def _copy(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that Chronos-2 may change."""
    return {**config, _PATCHES: dict(config[_PATCHES])}
