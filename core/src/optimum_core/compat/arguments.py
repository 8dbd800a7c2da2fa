"""Arguments of `from_pretrained` as the other packages have them: read, refused, or warned of."""

from __future__ import annotations

import os
import reprlib
import warnings
from collections.abc import Mapping
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from optimum_core.artifact.names import is_artifact
from optimum_core.compat.artifacts import check_artifact
from optimum_core.errors import OptionError

if TYPE_CHECKING:
    from optimum_core import AcceleratedModel

_T = TypeVar("_T")

#: Names of the one graph of a directory that these packages write, which an artifact of ours need not have.
_USUAL = (None, "model.onnx", "model_optimized.onnx", "model_quantized.onnx", "openvino_model.xml")

#: Arguments whose default changes nothing here, with the values that say what is done anyway.
_DONE_ANYWAY: Mapping[str, tuple[Any, ...]] = {
    "dynamic_shapes": (None, True),
    "use_cache": (None, True),
    "stateful": (None, True),
    "compile": (None, True),
    "compile_only": (None, False),
    "load_in_8bit": (None, False),
    "low_cpu_mem_usage": (None, True, False),
    "force_download": (None, False),
    "library_name": (None, "transformers"),
    "attn_implementation": (None,),
    "config": (None,),
    "token": (None,),
    "use_auth_token": (None,),
    "provider_options": (None,),
    "session_options": (None,),
    "quantization_config": (None,),
    "task": (None,),
}
#: Arguments that change no value: the reason why they have no effect.
_NO_EFFECT: Mapping[str, str] = {
    "use_io_binding": "buffers are bound where that is faster",
    "use_merged": "a decoder is one graph in any case",
    "compile": "the model is compiled when it is opened",
    "local_files_only": "HF_HUB_OFFLINE=1 keeps every call off the network",
    "cache_dir": "downloads go to the cache of huggingface_hub (HF_HOME)",
}
#: Arguments that would change something: what to write instead.
_INSTEAD: Mapping[str, str] = {
    "config": "change config.json beside the model, or pass a model in memory to accelerate",
    "dynamic_shapes": 'name lengths that calls have: accelerate(…, shapes=[{"batch": 1, "sequence": 128}])',
    "use_cache": "a decoder keeps its cache; accelerate(model, sample_inputs=…) takes one without",
    "provider_options": 'options= of the backend: accelerate(…, options={"…": …})',
    "session_options": 'options= of the backend: accelerate(…, options={"intra_op_threads": 2})',
    "token": "log in with huggingface_hub, or set HF_TOKEN",
    "use_auth_token": "log in with huggingface_hub, or set HF_TOKEN",
}


class IgnoredArgumentWarning(UserWarning):
    """An argument of another package has no effect here, and no value depends on it."""


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


def _shown(value: object) -> str:
    """Return a value for a message: one of another package by its class, since its repr may have many lines."""
    plain = value is None or isinstance(value, bool | int | float | str | bytes | list | tuple | dict)
    return reprlib.repr(value) if plain else f"a {type(value).__name__}"


def named(cls: type[_T]) -> type[_T]:
    """Make a configuration of another package refuse a field that it does not have here, by its name."""
    known, made = [field.name for field in fields(cls)], cls.__init__  # type: ignore[arg-type]

    @wraps(made)
    def init(self: Any, *args: Any, **given: Any) -> None:
        for name in given:
            if name not in known:
                remedy = f"leave it out; the fields are: {', '.join(known)}"
                raise OptionError(f"{cls.__name__}, {name}", f"{_shown(given[name])} is not taken here", remedy)
        made(self, *args, **given)

    cls.__init__ = init  # type: ignore[method-assign]
    return cls


def place_of(who: str, model_id: Any, file_name: str | None, subfolder: str) -> Any:
    """Return what to open: a directory or a hub's id as it is, or a file of it.

    Raises:
        OptionError: a file or folder of a hub's repository is asked for, or there is no such file.
    """
    if not isinstance(model_id, str | os.PathLike):
        raise OptionError(f"{who}, model_id", f"it is a {type(model_id).__name__}", "give a directory or a hub id")
    place = Path(model_id).expanduser() / subfolder
    if (file_name is None and not subfolder) or (is_artifact(place) and file_name in _USUAL):
        return place if place.is_dir() else model_id
    found = place / file_name if file_name is not None else place
    if not found.exists():
        name = "file_name" if file_name is not None else "subfolder"
        why = f"{str(found)!r} is no file or directory here"
        raise OptionError(f"{who}, {name}", why, "download the repository, and give its directory")
    return found


def opened(who: str, place: Any, *, export: bool | None, target: str, **arguments: Any) -> AcceleratedModel:
    """Return `load(place, target=…)` of an artifact of ours, or else `accelerate(place, target=…, …)`.

    Raises:
        OptionError: `export` or the task of the class contradicts what is there.
        UnavailableError: the class's backend does not load the files of the artifact.
    """
    from optimum_core import accelerate, load

    given = {name: value for name, value in arguments.items() if value is not None and value is not False}
    if is_artifact(Path(place)):
        changing = sorted(set(given) - {"task", "revision", "trust_remote_code", "options", "budget"})
        if export or changing:
            name = "export" if export else changing[0]
            why = f"{str(place)!r} holds a model that is accelerated already"
            raise OptionError(f"{who}, {name}", why, f"leave {name} out, or give the checkpoint that it was made from")
        check_artifact(who, Path(place), given.get("task"), target.partition(":")[0])
        return load(place, target=target, options=given.get("options"))
    if export is False and not _is_exported(place):
        why = f"False, and {str(place)!r} holds no exported model"
        raise OptionError(f"{who}, export", why, "leave export out: what is not exported yet is exported")
    return accelerate(place, target=target, **given)


def _is_exported(place: Any) -> bool:
    path = Path(place)
    if path.is_file():
        return path.suffix in (".onnx", ".xml")
    return any(any(path.glob(pattern)) for pattern in ("*.onnx", "onnx/*.onnx", "*.xml", "*/*.xml"))
