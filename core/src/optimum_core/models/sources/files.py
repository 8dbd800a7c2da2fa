"""Recognition of files and directories without a readable model, by their names and first bytes, for errors that say
what each is and what to pass instead. Nothing large is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from optimum_core.artifact.pointers import is_pointer
from optimum_core.errors import SourceError

#: The beginning of an address; one letter before the colon is a drive of Windows.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
#: Patterns of files that may hold weights for transformers.
WEIGHTS = ("*.safetensors", "*.bin")
_INDEXES = ("*.safetensors.index.json", "*.bin.index.json")
_READ = (*WEIGHTS, "*.json", "*.txt", "*.model", "*.jinja", "*.py")
#: Files of a training run, which hold no weights of a model.
_TRAINING = ("training_args.bin", "optimizer.bin", "scheduler.bin")
#: Beginning of the names of an adapter's files.
_OF_ADAPTER = "adapter_"
_NO_WEIGHTS = (*_TRAINING, "adapter_model.bin", "adapter_model.safetensors")

#: Quantized checkpoints that transformers widens to floats while it reads them, where there is no GPU.
_WIDENED = frozenset({"fp8", "mxfp4"})

_WHERE = "give the directory that holds it with its config.json, or the model itself"
_PLAIN = "give the checkpoint that it was made from: a directory written by save_pretrained, or a hub id"
_GGML = "is a GGML file: weights for older versions of llama.cpp"
_ADAPTER = (
    "holds an adapter of PEFT, and not the model that it is for",
    "AutoPeftModel….from_pretrained(directory).merge_and_unload() gives a model: pass that",
)
_TORCH_FIRST = "from_pretrained(…), save_pretrained(…) in PyTorch first"

#: Files of settings beside a model, each of which holds an object.
_GENERATION = "generation_config.json"
_SETTINGS = (
    "config.json",
    _GENERATION,
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
#: Names of classes that generate.
_GENERATES = re.compile(r"CausalLM|ConditionalGeneration|LMHead|EncoderDecoder|Vision2Seq")
#: Entries of `config.json` that say what the model is.
_ENTRIES: Mapping[str, tuple[type, str]] = {
    "architectures": (list, "list of names"),
    "id2label": (dict, "object"),
    "model_type": (str, "name"),
}

#: What `torch.export.save` and exporters of transformers write: its sizes are those that it was exported with.
_PROGRAM = ("is a program of torch.export, exported or compiled already", _PLAIN)

#: By a file's ending: its kind, and the remedy.
_FILES: Mapping[str, tuple[str, str]] = {
    ".ggml": (_GGML, _PLAIN),
    ".xml": ("is OpenVINO IR, converted already", f"{_PLAIN}; or an ONNX file of it"),
    ".safetensors": ("is a file of weights alone", _WHERE),
    ".bin": ("is a file of weights alone", _WHERE),
    ".pt": ("is a file of torch.save or torch.jit", "load it in Python, and pass the model"),
    ".pth": ("is a file of torch.save", "load it in Python, and pass the model"),
    ".ckpt": ("is a checkpoint of a training run", "load it in Python, and pass the model"),
    ".pt2": _PROGRAM,
    ".pte": ("is a program of ExecuTorch, exported already", _PLAIN),
    ".h5": ("has weights for Keras, and none for PyTorch", _TORCH_FIRST),
    ".keras": ("has weights for Keras, and none for PyTorch", _PLAIN),
    ".msgpack": ("has weights for Flax, and none for PyTorch", _TORCH_FIRST),
    ".tflite": ("is a converted model of TensorFlow Lite", _PLAIN),
    ".pb": ("is a graph of TensorFlow", _PLAIN),
    ".engine": ("is an engine of TensorRT, built already", f"{_PLAIN}; or its ONNX file"),
    ".plan": ("is an engine of TensorRT, built already", f"{_PLAIN}; or its ONNX file"),
    ".mlpackage": ("is a model of Core ML, converted already", _PLAIN),
    ".mlmodel": ("is a model of Core ML, converted already", _PLAIN),
    ".ort": ("is in ONNX Runtime's own format", "give the ONNX file that it was made from"),
    ".json": ("is a file beside a model", "give the directory that it lies in"),
    ".zip": ("is an archive", "unpack it, and give the directory"),
    ".gz": ("is an archive", "unpack it, and give the directory"),
    ".tar": ("is an archive", "unpack it, and give the directory"),
}

#: Contents of directories without weights for transformers; the first that fits is reported.
_CONTENTS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("adapter_config.json",), *_ADAPTER),
    (("model_index.json",), "holds a pipeline of several models", "give one of its parts, such as its text_encoder"),
    (("openvino*.xml", "*.xml"), "holds OpenVINO IR, converted already, and no weights for PyTorch", _PLAIN),
    (("openvino*.bin",), "holds the weights of OpenVINO IR without its .xml", "copy all files of the model"),
    (("*.pt2", "*.pte"), "holds a program of torch.export, and no weights for PyTorch", _PLAIN),
    (("*.h5",), "holds weights for TensorFlow, and none for PyTorch", _TORCH_FIRST),
    (("*.msgpack",), "holds weights for Flax, and none for PyTorch", _TORCH_FIRST),
    (("rust_model.ot",), "holds weights for Rust, and none for PyTorch", _TORCH_FIRST),
    (("*.mlpackage",), "holds a model of Core ML, converted already", _PLAIN),
    (("*.engine", "*.plan"), "holds an engine of TensorRT, built already", _PLAIN),
    (("*.pt", "*.pth", "*.ckpt"), "holds files of torch.save, and no weights by the names of save_pretrained", _PLAIN),
)


def may_be_repository(name: str, *, with_owner: bool = True) -> bool:
    """Whether a text may name a repository of the hub, and no path.

    Args:
        with_owner: only as "owner/name"; False: also by a name alone, as the oldest ones are.
    """
    return not name.startswith((".", "~", "/")) and name.count("/") in ((1,) if with_owner else (0, 1))


def local_path(model: str) -> Path:
    """Return the path that a model's name may be; whether it exists shows later, since it may be a hub id.

    Raises:
        SourceError: it is blank or an address, the system takes no such path, or it is a link to nothing.
    """
    who = f"model {model!r}"
    if _ADDRESS.match(model):
        raise SourceError(who, "it is an address, and no directory or hub id", _of_address(model))
    if not model.strip() or "\0" in model:
        why = "it holds a NUL character" if model.strip() else "the name is empty"
        raise SourceError(who, why, "give a directory ('.' is the working directory), a hub id, or the model itself")
    try:
        path = Path(model).expanduser().absolute()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            why = f"it is a link to {str(path.readlink())!r}, which does not exist"
            raise SourceError(who, why, "mend the link") from None
    except (OSError, RuntimeError) as error:  # a loop of links, a name that is too long, no such user's home
        why = f"the system refuses this path: {getattr(error, 'strerror', None) or error}"
        raise SourceError(who, why, "check the path and its permissions") from error
    return path


def _of_address(address: str) -> str:
    """Return what to pass in place of an address: the hub id, if it is that of a model's page; the path of a file."""
    scheme, _, rest = address.partition("://")
    if scheme.lower() == "file":
        return f"give the path: {unquote(rest.removeprefix('localhost'))!r}"
    parts = [part for part in rest.split("/") if part]
    if len(parts) >= 2 and parts[0].removeprefix("www.") in ("huggingface.co", "hf.co"):
        return f"give the hub id: {'/'.join(parts[1:3])!r}"
    return "download it, and give the directory"


def refuse_file(path: Path, who: str) -> SourceError:
    """Return the error for a file that is no ONNX model."""
    if is_pointer(path):
        return _pointers(who, path.parent, [path.name])
    found = _FILES.get(path.suffix.lower())
    return SourceError(who, f"it {found[0]}" if found else "it is a file", found[1] if found else "check the path")


def check_directory(directory: Path, name: str) -> dict[str, Any]:
    """Return the content of `config.json` of a directory whose files are all present; weights are not checked here.

    Raises:
        SourceError: there is no such model; the message says what the directory holds instead.
    """
    who = f"model {name!r}"
    refuse_pointers(directory, who)
    if _any(directory, ("adapter_config.json",)):  # transformers would load its base model from elsewhere
        raise SourceError(who, f"{directory} {_ADAPTER[0]}", _ADAPTER[1])
    if not (directory / "config.json").is_file():
        raise _without_config(directory, who)
    described = _read(directory / "config.json", who)
    quantized = described.get("quantization_config")
    method = quantized.get("quant_method", "by an unnamed method") if isinstance(quantized, Mapping) else None
    if method is not None and method not in _WIDENED:
        raise SourceError(
            who,
            f"its weights are quantized already (quantization_config in config.json: {method})",
            "give the checkpoint as it was before, and accelerate(..., quantize='int8') quantizes; or read it, "
            "dequantize() it, and pass the model",
        )
    _check_scores(directory, who)
    check_described(directory)
    return described


def check_weights(directory: Path, name: str) -> None:
    """Raise `SourceError` where a directory with a configuration has no weights, or not all of them."""
    who = f"model {name!r}"
    if not _weights(directory):
        found = _instead(directory) or ("holds a config.json and no weights", "fetch model.safetensors, too")
        raise SourceError(who, f"{directory} {found[0]}", found[1])
    _require_shards(directory, who)


def has_weights(directory: Path) -> bool:
    """Whether a directory holds weights of a whole model for PyTorch."""
    return bool(_weights(directory))


def first_weights(directory: Path) -> Path | None:
    """Return a file of weights for PyTorch; None: there is none."""
    return next(iter(sorted(_weights(directory))), None)


def refuse_pointers(directory: Path, who: str) -> None:
    """Raise `SourceError` where files that would be read from a directory are pointers of git-lfs.

    A `.bin` is not read where the same weights lie beside it in safetensors.
    """
    beside = [path for path in directory.glob("*.safetensors") if not is_pointer(path)]
    fetched = {path.name.startswith(_OF_ADAPTER) for path in beside}
    pointers = {path.name for pattern in _READ for path in directory.glob(pattern) if is_pointer(path)}
    unread = {name for name in pointers if name.endswith(".bin") and name.startswith(_OF_ADAPTER) in fetched}
    if found := sorted(pointers - unread - {*_TRAINING}):
        raise _pointers(who, directory, found)


def _pointers(who: str, directory: Path, names: list[str]) -> SourceError:
    told = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    why = f"{told} {'is a pointer' if len(names) == 1 else 'are pointers'} of git-lfs: the contents were not fetched"
    return SourceError(who, why, f"run `git lfs pull` in {directory}, or download the model again")


def _without_config(directory: Path, who: str) -> SourceError:
    if (known := _FILES.get(directory.suffix)) is not None:
        return SourceError(who, f"it {known[0]}", known[1])
    if (found := _instead(directory)) is not None:
        return SourceError(who, f"{directory} {found[0]}, and no config.json", found[1])
    nested = sorted({*directory.glob("*/config.json"), *directory.glob("snapshots/*/config.json")})
    remedy = "give a directory written by save_pretrained, a hub id, or the model itself"
    if nested:
        remedy = f"did you mean {str(nested[-1].parent)!r}?"
    elif not any(directory.iterdir()):
        return SourceError(who, f"{directory} is empty and holds no config.json", remedy)
    elif _weights(directory):
        remedy = "save it with save_pretrained, which writes config.json too; or pass the model itself"
    return SourceError(who, f"{directory} holds no config.json", remedy)


def _instead(directory: Path) -> tuple[str, str] | None:
    """Return the content of a directory without weights, and the remedy; None: nothing known."""
    for patterns, what, remedy in _CONTENTS:
        if found := _any(directory, patterns):
            return what, remedy.format(str(found[0]))
    return None


def _any(directory: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in directory.glob(pattern)})


def _weights(directory: Path) -> list[Path]:
    return [path for path in _any(directory, WEIGHTS) if path.name not in _NO_WEIGHTS and not _is_ir(path)]


def _is_ir(path: Path) -> bool:
    """Whether a file is the second one of an OpenVINO model, whose first may be missing."""
    return path.suffix == ".bin" and (path.name.startswith("openvino_") or path.with_suffix(".xml").exists())


def read_json(config: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        SourceError: it is none.
    """
    return _read(config, f"file {config.name!r}")


def _read(config: Path, who: str) -> dict[str, Any]:
    try:
        described = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SourceError(who, f"{config} is no JSON: {error}", "restore the file") from error
    if not isinstance(described, dict):
        raise SourceError(who, f"{config} holds a {type(described).__name__}, and no object", "restore the file")
    return described


def check_described(directory: Path) -> None:
    """Refuse damaged files of settings before one is read where it is needed.

    Raises:
        SourceError: one is no JSON object, or an entry of `config.json` is of another type than transformers writes.
    """
    names = [name for name in _SETTINGS if (directory / name).is_file()]
    described = {name: read_json(directory / name) for name in names if name != _GENERATION}
    config = described.get("config.json", {})
    for entry, (kind, words) in _ENTRIES.items():
        if not isinstance(config.get(entry), kind | None):
            why = f"{directory / 'config.json'} states {entry} as {config[entry]!r:.60}, and no {words}"
            raise SourceError("file 'config.json'", why, "restore the file")
    classes = config.get("architectures") or ()
    if _GENERATION in names and (not classes or any(_GENERATES.search(str(name)) for name in classes)):
        read_json(directory / _GENERATION)  # an encoder's is not needed


def _require_shards(directory: Path, who: str) -> None:
    """Raise an error if a file that the index of the weights names is missing."""
    for index in _any(directory, _INDEXES):
        named = _read(index, who).get("weight_map")
        files = set(named.values()) if isinstance(named, Mapping) else set()
        missing = sorted(str(name) for name in files if not (directory / str(name)).is_file())
        if missing:
            told = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            why = f"{len(missing)} of {len(files)} files of weights are not there ({told})"
            raise SourceError(who, why, f"fetch them: {index.name} names them")


def _check_scores(directory: Path, who: str) -> None:
    """Raise `SourceError` where a cross-encoder states an activation that is none of torch: scores need it."""
    from optimum_core.artifact.embedding import EmbeddingSettings

    try:
        activation = EmbeddingSettings.read(directory).activation_fn
    except ValueError as error:
        raise SourceError(who, f"a file of its settings cannot be read: {error}", "restore the file") from error
    if activation is not None:
        from optimum_core.models.sources.sentences.heads import activation_of

        activation_of(activation, who)
