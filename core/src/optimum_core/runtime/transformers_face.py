"""The interface that transformers and its pipelines expect of a model."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Self

from optimum_core.artifact import Manifest
from optimum_core.errors import UnavailableError
from optimum_core.plugins import PluginManager
from optimum_core.runtime.absent_device import AbsentDeviceSession
from optimum_core.runtime.call_inputs import InputChecker
from optimum_core.runtime.files_beside import FilesBeside
from optimum_core.runtime.not_torch import refuse_move
from optimum_core.types import Session
from optimum_core.types.support import device_type

#: The names under which a configuration keeps the settings that ask for further outputs.
#: Settings of a configuration that change what a call returns.
SETTINGS = "return_dict", "output_hidden_states", "_output_attentions"
#: The attributes of a configuration that has not been read: it cannot have been changed.
UNREAD: Mapping[str, Any] = MappingProxyType({})


class TransformersFace:
    """The members of `PreTrainedModel` that do not run the model; `AcceleratedModel` sets the attributes."""

    manifest: Manifest
    directory: Path
    _beside: FilesBeside
    _session: Session
    _source: Any
    _plugins: PluginManager
    _who: str
    _checker: InputChecker
    #: The attributes of `config`, since it was read.
    _config_values: Mapping[str, Any] = UNREAD
    #: Those of `SETTINGS` when it was read; None: it has none of that name.
    _settings_before: tuple[Any, ...] = (None,) * len(SETTINGS)

    @cached_property
    def config(self) -> Any:
        """The original's configuration; if transformers is not installed, its values as plain attributes."""
        own = getattr(self._source, "config", None)
        found = own if own is not None else _read_config(self._beside.checked())
        values = getattr(found, "__dict__", self._config_values)
        returns, *asked = map(values.get, SETTINGS)
        if own is not None and returns is not None:
            returns = not self.manifest.model.returns_tuple  # it may have been changed since
        self._settings_before = returns, *asked
        self._config_values = values  # last, since other threads compare them with those before
        return found

    def _check_asked(self) -> None:
        """Refuse a configuration that since asks for other outputs.

        Raises:
            InputError: it does.
        """
        for name, before in zip(SETTINGS[1:], self._settings_before[1:], strict=True):
            now = self._config_values.get(name)
            if (now or False) != (before or False):
                raise self._checker.not_exported(f"config.{name.lstrip('_')}={now!r}")

    @cached_property
    def generation_config(self) -> Any:
        """The original's generation settings, or None. They may be changed, as those of the original."""
        own = getattr(self._source, "generation_config", None)
        if own is not None:
            return copy.deepcopy(own)
        directory = self._beside.checked()
        if not (directory / "generation_config.json").is_file() and not self.manifest.parts:
            return None
        from transformers import GenerationConfig

        if not (directory / "generation_config.json").is_file():
            return GenerationConfig.from_model_config(self.config)
        found = GenerationConfig.from_pretrained(directory)
        found._from_model_config = False  # else `generate` derives it from the configuration again
        return found

    @property
    def device(self) -> Any:
        """The device it runs on: a `torch.device` where torch is imported, its name otherwise."""
        torch = sys.modules.get("torch")
        if torch is None or isinstance(self._session, AbsentDeviceSession):
            return self._session.device
        return torch.device(self._session.device)

    @property
    def dtype(self) -> Any:
        """The dtype of its float inputs and outputs."""
        torch = sys.modules.get("torch")
        return getattr(torch, self.manifest.model.dtype) if torch else self.manifest.model.dtype

    @property
    def main_input_name(self) -> str:
        """The name of the main input, as in transformers."""
        return self.manifest.model.main_input

    @property
    def name_or_path(self) -> str:
        """The name or path from which the original was loaded."""
        return self.manifest.model.name

    @property
    def base_model_prefix(self) -> str:
        """The name under which transformers stores the body of a model with a head."""
        return str(getattr(self.config, "model_type", ""))

    @property
    def input_modalities(self) -> tuple[str, ...]:
        """The kinds of input data: "image", "audio", "text"."""
        kinds = {"pixel_values": "image", "input_values": "audio", "input_features": "audio", "input_ids": "text"}
        return tuple(kind for name, kind in kinds.items() if any(spec.name == name for spec in self.manifest.inputs))

    @property
    def training(self) -> bool:
        """False: it is always in inference mode. Evaluation loops read it, and restore it by `train(False)`."""
        return False

    def eval(self) -> Self:
        """Return the model itself, which is always in inference mode."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Return the model itself for False; raise `UnavailableError` for True, since there are no gradients."""
        if mode:
            raise UnavailableError(self._who, "it cannot be trained", "train the eager model")
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Return the model itself for False; raise `UnavailableError` for True, since there are no gradients."""
        return self.train(requires_grad)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the model itself for its own device and dtype; anything else is an error.

        Raises:
            UnavailableError: the model would have to be loaded or accelerated again.
        """
        given = (*args, *kwargs.values())
        for wanted in chain.from_iterable((x.device, x.dtype) if hasattr(x, "detach") else (x,) for x in given):
            same_device = device_type(str(wanted)) == device_type(str(self.device))
            if wanted is not None and not same_device and wanted != self.dtype and not isinstance(wanted, bool):
                place, dtype = self._session.device, self.manifest.model.dtype
                refuse_move(self._who, wanted, place=place, dtype=dtype, plugins=self._plugins)
        return self

    def cpu(self) -> Self:
        """Same as `to("cpu")`."""
        return self.to("cpu")

    def cuda(self, device: int | str | None = None) -> Self:
        """Same as `to("cuda")`."""
        return self.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else str(device))

    def float(self) -> Self:
        """Same as `to(torch.float32)`."""
        return self._in_dtype("float32")

    def half(self) -> Self:
        """Same as `to(torch.float16)`."""
        return self._in_dtype("float16")

    def bfloat16(self) -> Self:
        """Same as `to(torch.bfloat16)`."""
        return self._in_dtype("bfloat16")

    def double(self) -> Self:
        """Same as `to(torch.float64)`."""
        return self._in_dtype("float64")

    def _in_dtype(self, name: str) -> Self:
        return self if name == self.manifest.model.dtype else self.to(name)


def _read_config(directory: Path) -> Any:
    file = directory / "config.json"
    if not file.is_file():
        return None
    from importlib.util import find_spec

    if find_spec("transformers") is None:
        return _plain_config(json.loads(file.read_text(encoding="utf-8")))
    from transformers import AutoConfig

    try:  # explicitly False, since transformers would ask on the terminal whether to run the repository's code
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except ValueError:  # the configuration's class is in the model's own code
        return _plain_config(json.loads(file.read_text(encoding="utf-8")))


def _plain_config(values: dict[str, Any]) -> SimpleNamespace:
    """Return the values of `config.json` as attributes; keys of `id2label`, strings in JSON, become integers."""
    if isinstance(labels := values.get("id2label"), dict):
        values["id2label"] = {int(key) if key.isdigit() else key: label for key, label in labels.items()}
        values.setdefault("num_labels", len(labels))
    return SimpleNamespace(**values)
