"""Arguments of `from_pretrained` as the other packages have them: read, refused, or warned of."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

from optimum_core.errors import OptionError

_T = TypeVar("_T")

#: Arguments whose default changes nothing here, with the values that say what is done anyway.
_DONE_ANYWAY: Mapping[str, tuple[Any, ...]] = {
    "dynamic_shapes": (None, True),
    "use_cache": (None, True),
    "stateful": (None, True),
    "compile_only": (None, False),
    "load_in_8bit": (None, False),
    "low_cpu_mem_usage": (None, True, False),
    "force_download": (None, False),
    "library_name": (None, "transformers"),
    "attn_implementation": (None,),
    "token": (None,),
    "use_auth_token": (None,),
    "provider_options": (None,),
    "session_options": (None,),
    "quantization_config": (None,),
    "task": (None,),
    "providers": (None,),
    "model_save_dir": (None,),
    "generation_config": (None,),
    "from_onnx": (None, False),
    "use_gpu": (None, False),
    "force_symmetric_range": (None, False),
    "preprocessor": (None,),
}
#: Arguments that change no value: the reason why they have no effect.
_NO_EFFECT: Mapping[str, str] = {
    "use_io_binding": "buffers are bound where that is faster",
    "use_merged": "a decoder is one graph in any case",
    "use_cache": "a decoder keeps its cache, with which it writes the same tokens",
    "file_suffix": "files have the names of an artifact",
    "use_external_data_format": "weights that one file cannot hold lie beside it in any case",
    "one_external_file": "weights that one file cannot hold lie beside it in any case",
    "onnx_augmented_model_name": "the file is temporary",
    "batch_size": "batches are made to fit the memory",
    "averaging_constant": "the backend's own is used",
    "num_bins": "the backend's own is used",
    "num_quantized_bins": "the backend's own is used",
    "num_samples": "it counts rows of a data set, and none is given",
    "tokenizer": "the one beside the model is used",
    "processor": "the one beside the model is used",
    "local_files_only": "HF_HUB_OFFLINE=1 keeps every call off the network",
    "cache_dir": "downloads go to the cache of huggingface_hub (HF_HOME)",
}
#: Arguments that would change something: what to write instead.
_INSTEAD: Mapping[str, str] = {
    "dynamic_shapes": 'name lengths that calls have: accelerate(…, shapes=[{"batch": 1, "sequence": 128}])',
    "provider_options": 'options= of the backend: accelerate(…, options={"…": …})',
    "session_options": 'options= of the backend: accelerate(…, options={"intra_op_threads": 2})',
    "providers": "provider= names one, and the operators that it lacks run on the processor",
    "generation_config": "set model.generation_config afterwards, or pass settings to generate",
    "from_onnx": "give the directory or the ONNX file as model_id, which is recognized",
    "dataset": "pass a list of texts; or accelerate(…, quantize=QuantizeConfig(…), calibration=texts)",
    "token": "log in with huggingface_hub, or set HF_TOKEN",
    "use_auth_token": "log in with huggingface_hub, or set HF_TOKEN",
}


#: Arguments of `optimize`, `fit` and `quantize` there, none of which is one of `accelerate`.
_OF_TOOLS = frozenset(
    {
        "file_suffix", "use_external_data_format", "one_external_file", "onnx_augmented_model_name", "batch_size",
        "use_gpu", "force_symmetric_range", "preprocessor",
    }
)  # fmt: skip


class IgnoredArgumentWarning(UserWarning):
    """An argument of another package has no effect here: no value depends on it, or what it asks for is not right."""


def check(who: str, arguments: Mapping[str, Any]) -> None:
    """Warn of arguments without an effect.

    Raises:
        OptionError: an argument has a meaning there that is not kept here.
    """
    for name, value in arguments.items():
        if name in _DONE_ANYWAY and any(value is usual or value == usual for usual in _DONE_ANYWAY[name]):
            continue
        if name in _NO_EFFECT:
            message = f"{who}: {name}={value!r} has no effect: {_NO_EFFECT[name]}"
            warnings.warn(message, IgnoredArgumentWarning, stacklevel=4)
            continue
        raise OptionError(f"{who}, {name}", f"{_shown(value)} is not taken here", _INSTEAD.get(name, "leave it out"))


def for_accelerate(who: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a tool of theirs that are ones of `accelerate`; the others are checked.

    Raises:
        OptionError: as `check`.
    """
    check(who, {name: value for name, value in given.items() if name in _OF_TOOLS})
    return {name: value for name, value in given.items() if name not in _OF_TOOLS}


def _shown(value: object) -> str:
    """Return a value for a message: one of another package by its class, since its repr may have many lines."""
    plain = value is None or isinstance(value, bool | int | float | str | bytes | list | tuple | dict)
    return reprlib.repr(value) if plain else f"a {type(value).__name__}"


def named(usual: Mapping[str, tuple[Any, ...]] | None = None) -> Callable[[type[_T]], type[_T]]:
    """Return a decorator that makes a configuration of another package refuse a field that it does not have here.

    Args:
        usual: fields that it does not have here, each with the values that say what is done anyway.
    """

    def decorate(cls: type[_T]) -> type[_T]:
        known, made = [field.name for field in fields(cls)], cls.__init__  # type: ignore[arg-type]

        @wraps(made)
        def init(self: Any, *args: Any, **given: Any) -> None:
            own = {name: value for name, value in given.items() if name in known}
            for name, value in given.items():
                if name not in known and not any(value == item for item in (usual or {}).get(name, ())):
                    _refuse_field(cls.__name__, name, value, known)
            made(self, *args, **own)

        cls.__init__ = init  # type: ignore[method-assign]
        return cls

    return decorate


def _refuse_field(who: str, name: str, value: Any, known: list[str]) -> None:
    """Warn of a field that changes no value, and refuse any other.

    Raises:
        OptionError: it would change something.
    """
    if name in _NO_EFFECT:
        message = f"{who}: {name}={value!r} has no effect: {_NO_EFFECT[name]}"
        warnings.warn(message, IgnoredArgumentWarning, stacklevel=4)
        return
    remedy = _INSTEAD.get(name, f"leave it out; the fields are: {', '.join(known)}")
    raise OptionError(f"{who}, {name}", f"{_shown(value)} is not taken here", remedy)
