"""Adapters of PEFT, in a directory or in memory, merged into the model that they are for."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimum_core.error_scales import finite_pair, relative_error
from optimum_core.errors import SourceError, UnavailableError, VerificationError
from optimum_core.models import fingerprint, pretrained
from optimum_core.models.eager.copies import holds_16_bits, widened
from optimum_core.models.sources import adapter_files, forms
from optimum_core.models.sources.companions import companions
from optimum_core.models.sources.files import refuse_pointers
from optimum_core.models.sources.source import DirectorySource, MemorySource
from optimum_core.packages import present
from optimum_core.types.arrays import NDArray

if TYPE_CHECKING:
    from optimum_core.models.signatures.signature import ModelSignature

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
#: Greatest difference between the merged and the adapted model, relative to the greatest value of an output.
_TOLERANCE = 1e-3
_REMEDY = "pass model.merge_and_unload(); adapters that cannot be merged (prompts, prefixes) cannot be accelerated"


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter, and no weights of a whole model beside it."""
    from optimum_core.models.sources.files import has_weights

    return (directory / CONFIG).is_file() and not has_weights(directory)


def is_adapted(model: Any) -> bool:
    """Whether an object is a `PeftModel`; found without importing PEFT."""
    return any(base.__name__ == "PeftModel" and base.__module__.startswith("peft.") for base in type(model).__mro__)


def merged(adapted: Any, who: str) -> Any:
    """Return the model with its adapters merged into the weights, in evaluation mode; `adapted` is used up. Adapters
    that are switched off are left out.

    Raises:
        SourceError: its adapters cannot be merged.
    """
    try:
        with pretrained.quiet():
            whole = adapted.eval()
            model = _without(whole) if is_off(whole) else whole.merge_and_unload(safe_merge=True)
    except Exception as error:  # each kind of adapter says in its own way that it cannot be merged
        if any(getattr(config, "is_prompt_learning", False) for config in getattr(adapted, "peft_config", {}).values()):
            why = "its adapter puts trained tokens or states before the text, and none of it can be merged into weights"
            raise SourceError(who, why, "accelerate the checkpoint that it was trained on") from error
        why = f"its adapters cannot be merged: {type(error).__name__}: {error}"
        raise SourceError(who, why, _REMEDY) from error
    forms.check_module(model)
    return model


def is_off(adapted: Any) -> bool:
    """Whether the adapters of a model are switched off, so that it answers as the one that they are for."""
    switches = [module.disable_adapters for module in adapted.modules() if hasattr(module, "disable_adapters")]
    return bool(switches) and all(switches)


def _without(adapted: Any) -> Any:
    """Return the model that the adapters are for, with the modules that they replace as a whole."""
    if any(getattr(module, "merged", False) is True for module in adapted.modules()):
        adapted.unmerge_adapter()
    parts = adapted.get_base_model().named_modules()
    replaced = {name: part.original_module for name, part in parts if hasattr(part, "modules_to_save")}
    model = adapted.unload()
    for name, original in replaced.items():
        model.set_submodule(name, original)
    return model


def compared(model: Any, adapted: Any, signature: ModelSignature, who: str) -> str:
    """Compare a merged model with the adapted one in two calls, and return a note for the report.

    Raises:
        VerificationError: they differ.
    """
    from optimum_core.models.eager.calls import eager_outputs
    from optimum_core.models.inputs.samples import Case

    for seed in (0, 1):
        inputs = signature.draw(Case(name="merged", seed=seed))
        want, got = eager_outputs(adapted, inputs), eager_outputs(model, inputs)
        for name, value in want.items():
            error = _error(value, got[name])
            if not error <= _TOLERANCE:
                why = f"merged, its output {name!r} differs by {error:.2g} from that of the model with adapters"
                raise VerificationError(who, why, _REMEDY)
    if is_off(adapted):
        return "its adapters are switched off, and were left out; the outputs equal those of the model as it was given"
    return "its adapters were merged into its weights; the outputs equal those of the model with adapters"


def _error(want: NDArray, got: NDArray) -> float:
    if want.shape != got.shape:
        return float("inf")
    pair = finite_pair(want.astype(np.float64), got.astype(np.float64))
    return float("inf") if pair is None else relative_error(*pair)


class AdaptedSource(MemorySource):
    """A `PeftModel` in memory, merged on a copy: the user's own stays as it is.

    Args:
        adapted: the model with its adapters; those that are active are merged.
    """

    def __init__(self, adapted: Any, *, processor: Any = None, trust_remote_code: bool = False) -> None:
        self._adapted = adapted
        self._who = f"model {type(adapted).__name__}"
        super().__init__(merged(self._copy(), self._who), processor=processor, trust_remote_code=trust_remote_code)

    def _copy(self) -> Any:
        """Return a copy of the model with its adapters, in 32-bit floats and evaluation mode."""
        try:
            own = widened(self._adapted) if holds_16_bits(self._adapted) else copy.deepcopy(self._adapted)
        except Exception as error:
            raise SourceError(self._who, f"its adapters cannot be merged on a copy: {error}", _REMEDY) from error
        return own.eval()

    def compare_with_original(self, signature: ModelSignature) -> None:
        """Compare the merged model with the user's own.

        Raises:
            VerificationError: they differ.
        """
        note = compared(self._module, self._copy().get_base_model(), signature, self._who)
        self.notes = (*self.notes, note)


class AdapterSource(DirectorySource):
    """A directory with an adapter of PEFT; the model that it is for lies in another, or in the hub's cache.

    Args:
        directory: holds `adapter_config.json` and the adapter's weights.
    """

    def __init__(self, directory: Path, *, name: str, trust_remote_code: bool = False, processor: Any = None) -> None:
        self._who = f"model {name!r}"
        if not present("peft"):
            raise UnavailableError(self._who, "it is an adapter of PEFT, which is not installed", "pip install peft")
        refuse_pointers(directory, self._who)
        self._adapter = directory
        self._described = _read_config(directory, self._who)
        base = _base(self._described, directory, self._who)
        super().__init__(base, name=name, trust_remote_code=trust_remote_code, processor=processor)

    @cached_property
    def fingerprint(self) -> str:
        own = [fingerprint.of_file(self._adapter / CONFIG), fingerprint.of_file(self._file)]
        return hashlib.sha256("".join([super().fingerprint, *own]).encode()).hexdigest()

    @property
    def _file(self) -> Path:
        found = next((self._adapter / name for name in _WEIGHTS if (self._adapter / name).is_file()), None)
        if found is None:
            raise SourceError(self._who, f"{self._adapter} holds {CONFIG} and no {_WEIGHTS[0]}", "fetch it, too")
        return found

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        """The adapter's weights by name."""
        return adapter_files.read_tensors(self._file, self._who)

    @property
    def _own_weights(self) -> tuple[str, ...]:
        """The names of the model's own parameters that the adapter replaces, such as those of a new head."""
        return tuple(name.removeprefix(_PREFIX) for name in self._tensors)

    @cached_property
    def config(self) -> Any:
        """The base's configuration, or that beside the adapter; with as many classes as the adapter's head has."""
        beside = (self._adapter / "config.json").is_file()
        place = self._adapter if beside else self.directory
        found = pretrained.read_config(place, self._name, trust_remote_code=self._trust)
        shapes = {name.removeprefix(_PREFIX): tuple(tensor.shape) for name, tensor in self._tensors.items()}
        return adapter_files.with_classes(found, adapter_files.adapted_class(self._described, found), shapes)

    @property
    def class_name(self) -> str:
        """The name of the class of the merged model."""
        return type(self._module).__name__

    def _read(self) -> Any:
        """Return the base with the adapter, which holds every tensor of the adapter's file.

        Raises:
            SourceError: the adapter does not fit the base.
        """
        cls = adapter_files.adapted_class(self._described, self.config)
        base = adapter_files.read_base(
            cls, self.directory, self._name, self.config, self._own_weights, trust_remote_code=self._trust
        )
        forms.check_module(base)
        adapted = adapter_files.read_adapter(base, self._adapter, self._who)
        if wrong := adapter_files.unread(adapted, self._tensors):
            why = f"{len(wrong)} weights of its adapter do not fit {type(base).__name__} ({', '.join(wrong[:3])}, …)"
            raise SourceError(self._who, why, f"give the base that it was trained on; {CONFIG} names {self._base!r}")
        return adapted.eval()

    @property
    def _base(self) -> str:
        return str(self._described.get("base_model_name_or_path"))

    @cached_property
    def _module(self) -> Any:
        return merged(self._read(), self._who)

    @cached_property
    def processor(self) -> Any:
        """The processor that was passed, or that beside the adapter, or that beside the base."""
        if self.passed_processor is not None:
            return self.passed_processor
        beside = pretrained.read_processor(self._adapter, trust_remote_code=self._trust)
        return (
            beside if beside is not None else pretrained.read_processor(self.directory, trust_remote_code=self._trust)
        )

    def compare_with_original(self, signature: ModelSignature) -> None:
        """Compare the merged model with the base and its adapter apart.

        Raises:
            VerificationError: they differ.
        """
        note = compared(self._module, self._read().get_base_model(), signature, self._who)
        self.notes = (*self.notes, f"{note}; the base is {self._base}")

    def companions(self) -> dict[str, Path]:
        """Return the base's files, and in their place those beside the adapter; the configuration is the model's."""
        found = {**companions(self.directory), **companions(self._adapter)}
        return {name: path for name, path in found.items() if name not in ("config.json", CONFIG)}

    def save_companions(self, directory: Path) -> None:
        """Write the merged model's configuration, and the processor that was passed, if any."""
        self._module.config.save_pretrained(directory)
        super().save_companions(directory)


def _read_config(directory: Path, who: str) -> Mapping[str, Any]:
    try:
        described = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SourceError(who, f"{CONFIG} cannot be read: {error}", "restore the file") from error
    if not isinstance(described, dict) or not described.get("base_model_name_or_path"):
        why = f"{CONFIG} names no model that the adapter is for (base_model_name_or_path)"
        raise SourceError(who, why, "read both with PEFT, and pass the PeftModel")
    return described


def _base(described: Mapping[str, Any], adapter: Path, who: str) -> Path:
    """Return the directory of the model that an adapter is for: a path, or an id in the hub's cache."""
    named = str(described["base_model_name_or_path"])
    for place in (Path(named).expanduser(), adapter / named):
        if (place / "config.json").is_file():
            return place
    try:
        return pretrained.download(named, revision=described.get("revision") or None, with_code=False)
    except SourceError as error:
        why = f"it is an adapter for {named!r}, which is no directory here and cannot be fetched"
        raise SourceError(who, why, f"fetch it, or put its directory's path into {CONFIG}: {error.why}") from error
