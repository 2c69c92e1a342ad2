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
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from worldline.config import BoundedConfig, Bounds, Depth, Size, SizeOrZero, from_json
from worldline.engines.base import Parts
from worldline.errors import ConfigError, DataError, MissingExtraError

Values = Float[np.ndarray, "..."]

MAX_RECENT: Final = 4096
"""Forecasts that Fracast keeps, 0.4 kB each."""
ROWS: Final = 96
"""Time series in one pass of a network; bounds its memory."""
FEW_ROWS: Final = 8
"""The same for Fracast, which takes three times as long for a series in larger batches: they exceed the caches."""


class Forecaster(ABC):
    """A pretrained network that continues time series.

    Args:
        network: frozen, on the CPU.
    """

    name: str
    """The registered name of its recipe."""
    takes_inputs: bool
    """Whether known inputs change its forecasts."""

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network with its weights."""

    @property
    @abstractmethod
    def context(self) -> int:
        """Most past values that it reads."""

    @property
    @abstractmethod
    def horizon(self) -> int:
        """Most steps of one forecast; longer ones continue from their own medians."""

    @abstractmethod
    def medians(self, past: Values, inputs: Values, future: Values) -> Values:
        """The medians [R, D, T] of the next T values, at most `horizon`.

        A step depends on the inputs up to it only.

        Args:
            past: [R, D, H], R independent groups of D time series; NaN where a value is missing.
            inputs: [R, K, H], K inputs, each at the value that it led to.
            future: [R, K, T], the inputs of the forecast.
        """

    @abstractmethod
    def to_parts(self) -> Parts:
        """Everything that `read_forecaster` needs in addition to the name."""

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
    """Fracast-0 from its wheel: 85,001 parameters, each time series alone, blocks of 48 steps.

    Raises:
        MissingExtraError: fracast is not installed.
    """

    name = "fracast"
    takes_inputs = False

    def __init__(self) -> None:
        self._recent = dict[bytes, Values]()  # the block of each recent series, as calls repeat them

    @cached_property
    def _model(self) -> Any:
        try:
            from fracast import FracastModel
        except ImportError as error:
            raise MissingExtraError("fracast", "forecast") from error
        return FracastModel.from_pretrained(weights="fp32")

    @property
    def network(self) -> nn.Module:
        """Encoder and head."""
        return nn.ModuleList([self._model.core, self._model.head])

    @property
    def context(self) -> int:
        """2,048 values."""
        return int(self._model.context_length)

    @property
    def horizon(self) -> int:
        """48 steps."""
        return int(self._model.horizon)

    def medians(self, past: Values, inputs: Values, future: Values) -> Values:
        """As in `Forecaster`; needs 8 values that are not missing in each time series."""
        rows = past.reshape(-1, past.shape[-1])
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
        known, middle = self._recent, self._model.quantiles.index(0.5)
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
        for start in range(0, len(new), FEW_ROWS):
            part = list(new)[start : start + FEW_ROWS]
            blocks = self._model.forecast_batch(np.stack([new[key] for key in part]))[..., middle]
            known.update(zip(part, blocks, strict=True))
        steps = np.stack([known[key] for key in keys])[:, : future.shape[-1]]
        for key in list(known)[: max(0, len(known) - MAX_RECENT)]:
            del known[key]
        return np.asarray(steps.reshape(*past.shape[:-1], -1))

    def to_parts(self) -> Parts:
        """The version and the hash of its weights, which stay in the wheel."""
        return Parts(config={"version": version("fracast"), "sha256": _digest(self.network)})

    @classmethod
    def from_parts(cls, parts: Parts) -> Fracast:
        """The installed Fracast, which must have these weights."""
        forecaster, stored = cls(), dict(parts.config)
        if parts.arrays or stored.get("sha256") != _digest(forecaster.network):
            raise DataError(
                f"it was calibrated with the weights of fracast {stored.get('version')!r:.40}, and those of "
                f"{version('fracast')} are installed",
                fix="Install that version, or adopt the forecaster again.",
            )
        return forecaster


@dataclass(frozen=True, kw_only=True)
class _ChronosPatches(BoundedConfig):
    """The part `chronos_config` of the settings of a Chronos-2 model."""

    context_length: Size
    output_patch_size: Size
    input_patch_size: Size
    input_patch_stride: Size
    quantiles: tuple[float, ...]
    use_reg_token: bool = False
    use_arcsinh: bool = False
    max_output_patches: Size = 1
    time_encoding_scale: Size


@dataclass(frozen=True, kw_only=True)
class _ChronosConfig(BoundedConfig):
    """The settings of a Chronos-2 model that its package reads."""

    chronos_config: _ChronosPatches
    d_model: Size = 512
    d_kv: Size = 64
    d_ff: Size = 2048
    num_layers: Depth = 6
    num_heads: Size = 8
    dropout_rate: Annotated[float, Bounds(at_least=0, at_most=1)] = 0.1
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: Literal["relu", "gelu", "silu"] = "relu"
    vocab_size: Size = 2
    pad_token_id: SizeOrZero = 0
    rope_theta: float = 10000.0


@final
class Chronos(Forecaster):
    """Chronos-2, which attends over the series and inputs of a group.

    Args:
        config: settings by their names in `config.json`; others than those that the network needs are left out.
        weights: by name, float32.

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
        patches = _known(_ChronosPatches, config.get("chronos_config"))
        stored = {**_known(_ChronosConfig, config), "chronos_config": patches}
        self._config = from_json(_ChronosConfig, json.dumps(stored), where="Chronos-2")

        def build() -> nn.Module:
            built: nn.Module = Chronos2Model(Chronos2CoreConfig(**asdict(self._config)))
            return built

        try:
            with torch.device("meta"):  # shapes without memory, so that no size in a file is allocated
                expected = {name: tuple(value.shape) for name, value in build().state_dict().items()}
        except (AssertionError, RuntimeError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"no Chronos-2 network has these settings: {error}.") from error
        shapes = {name: tuple(value.shape) for name, value in weights.items()}
        if wrong := sorted(n for n in shapes.keys() | expected.keys() if shapes.get(n) != expected.get(n)):
            raise ConfigError(
                f"the weights do not fit the settings: {wrong[0]!r:.80} has the shape {shapes.get(wrong[0])}, expected "
                f"{expected.get(wrong[0])}."
            )
        self._network = build().eval().requires_grad_(False)
        self._network.load_state_dict({name: value.float() for name, value in weights.items()})

    @classmethod
    def from_folder(cls, folder: Path) -> Chronos:
        """The model in a folder with `config.json` and `model.safetensors`, as its authors publish it.

        Raises:
            DataError: the folder has another layout, or the weights do not fit.
        """
        fix = "Give a local folder of Chronos-2, with config.json and model.safetensors."
        try:
            settings, weights = (folder / name for name in ("config.json", "model.safetensors"))
            config = json.loads(settings.read_text(encoding="utf-8"))
            if not isinstance(config, dict) or "chronos_config" not in config:
                raise DataError("config.json is not that of Chronos-2", fix=fix, file=folder)
            return cls(config, load_file(weights))
        except (OSError, ValueError, SafetensorError, ConfigError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"no Chronos-2 model can be read: {str(error).rstrip('.')}", fix=fix, file=folder
            ) from error

    @property
    def network(self) -> nn.Module:
        """The whole model."""
        return self._network

    @property
    def context(self) -> int:
        """The length that it was trained for, such as 8,192 values."""
        return self._config.chronos_config.context_length

    @property
    def horizon(self) -> int:
        """All patches of one pass, such as 64 patches of 16 steps."""
        return self._config.chronos_config.max_output_patches * self._config.chronos_config.output_patch_size

    def medians(self, past: Values, inputs: Values, future: Values) -> Values:
        """As in `Forecaster`. It reads later inputs for earlier steps, so each step has a pass without them."""
        (num_groups, num_series, _), (_, num_inputs, steps) = past.shape, future.shape
        size, parts = self._config.chronos_config.output_patch_size, list[Values]()
        context = np.concatenate([past, inputs], 1)
        groups = max(1, ROWS // (num_series + num_inputs))
        for start in range(0, steps, 1 if num_inputs else size):
            end = start + 1 if num_inputs else min(start + size, steps)
            known = np.full((*context.shape[:2], -(-end // size) * size), np.nan, np.float32)
            known[:, num_series:, :end] = future[..., :end]
            passes = [
                self._pass(context[at : at + groups], known[at : at + groups]) for at in range(0, num_groups, groups)
            ]
            parts.append(np.concatenate(passes)[:, :num_series, start:end])
        return np.concatenate(parts, -1)

    def _pass(self, context: Values, known: Values) -> Values:
        """The medians [R, D + K, T] after contexts [R, D + K, H], given future values [R, D + K, T] or NaN."""
        patches = self._config.chronos_config
        group = torch.arange(len(context)).repeat_interleave(context.shape[1])
        rows, ahead = (torch.from_numpy(part.reshape(len(group), -1).astype(np.float32)) for part in (context, known))
        with torch.inference_mode():
            answer = self._network(
                context=rows,
                group_ids=group,
                future_covariates=ahead,
                num_output_patches=known.shape[-1] // patches.output_patch_size,
            )
        middle = answer.quantile_preds[:, patches.quantiles.index(0.5)]
        return np.asarray(middle.numpy().reshape(known.shape))

    def to_parts(self) -> Parts:
        """The settings and all weights."""
        weights = {name: value.numpy() for name, value in self._network.state_dict().items()}
        return Parts(config=asdict(self._config), arrays=weights)

    @classmethod
    def from_parts(cls, parts: Parts) -> Chronos:
        """The model of `to_parts`."""
        weights = {name: torch.from_numpy(np.array(value)) for name, value in parts.arrays.items()}
        return cls(parts.config, weights)


FORECASTERS: Final[Mapping[str, type[Fracast | Chronos]]] = {kind.name: kind for kind in (Fracast, Chronos)}
"""Forecasters by name."""


def _known(kind: type[BoundedConfig], values: object) -> dict[str, Any]:
    """The values that a configuration has fields for; files hold many more."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if name in names} if isinstance(values, dict) else {}


def _digest(network: nn.Module) -> str:
    """The hash of all weights."""
    state = network.state_dict()
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()
