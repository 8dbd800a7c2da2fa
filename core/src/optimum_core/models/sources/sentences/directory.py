"""Reading of a directory of sentence-transformers: its modules, in order, and the transformer among them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_core.artifact.embedding import MODULES, SETTINGS, read_lengths, read_object
from optimum_core.errors import SourceError
from optimum_core.models import tasks

_REMEDY = f"task={tasks.FEATURES!r} accelerates the transformer alone"
#: What to do about a whole that is no transformer with modules behind it, by its kind or its first module.
INSTEAD: Mapping[str, str] = {
    "SparseEncoder": "task='fill-mask' accelerates its transformer with the logits that its pooling takes",
    "StaticEmbedding": "use it as it is: it looks vectors up and adds them, which no backend makes faster",
    "Router": "accelerate its routes one by one: "
    "SentenceTransformer(modules=list(model[0].sub_modules['query'])) is a model of its own",
    "CLIPModel": "pass the CLIPModel of transformers: model[0].model, or CLIPModel.from_pretrained(directory)",
}
_PACKAGES = ("sentence_transformers.",)
_TRANSFORMER = "Transformer"
#: Modules that compute nothing after training.
_IDLE = frozenset({"Dropout"})
_READ = frozenset({"Pooling", "Dense", "Normalize", "LayerNorm"})
#: Settings of the transformer that change no value, or that its tokenizer has.
_NEUTRAL = frozenset(
    {"max_seq_length", "do_lower_case", "model_args", "tokenizer_args", "config_args", "model_kwargs"}
    | {"processor_kwargs", "config_kwargs", "transformer_task", "modality_config", "module_output_name"}
    | {"unpad_inputs", "processing_kwargs"}
)
#: Arguments of the transformer's loading that change no value in fp32.
_HARMLESS = frozenset(
    {"torch_dtype", "dtype", "attn_implementation", "trust_remote_code", "revision", "use_memory_efficient_attention"}
    | {"unpad_inputs", "token", "cache_dir", "local_files_only", "add_pooling_layer"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceModules:
    """The modules of a directory.

    Attributes:
        transformer: the folder of the transformer's files.
        heads: the kind and the folder of every module behind it, in order.
    """

    transformer: Path
    heads: tuple[tuple[str, Path], ...]


def is_sentence_directory(directory: Path) -> bool:
    """Whether a directory is one of a sentence encoder; that of a `CrossEncoder` is a classifier."""
    if not (directory / MODULES).is_file():
        return False
    try:
        return read_object(directory / SETTINGS).get("model_type") != "CrossEncoder"
    except ValueError:
        return True


def read_modules(directory: Path, name: str) -> SentenceModules:
    """Return the modules of a directory.

    Raises:
        SourceError: one is of a kind that cannot be accelerated, or they give no sentence embedding.
    """
    who = f"model {name!r}"
    kind = _stated(directory, who).get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        why = f"it is a {kind} of sentence-transformers, which does not give one vector"
        raise SourceError(who, why, INSTEAD.get(kind, _REMEDY))
    (first, place), *behind = _modules(directory, who)
    if first != _TRANSFORMER:
        remedy = INSTEAD.get(first, "use it with sentence-transformers: it has no transformer to accelerate")
        raise SourceError(who, f"its first module is a {first}, and no Transformer", remedy)
    _check_transformer(place, directory, who)
    heads = tuple((kind, place) for kind, place in behind if kind not in _IDLE)
    for kind, _ in heads:
        if kind not in _READ:
            why = f"its module {kind} is unknown here, and without it the embeddings would be others"
            raise SourceError(who, why, f"known are {', '.join(sorted(_READ))}; {_REMEDY}")
    if all(kind != "Pooling" for kind, _ in heads):
        raise SourceError(who, "none of its modules is a Pooling, so it gives no sentence embedding", _REMEDY)
    return SentenceModules(transformer=place, heads=heads)


def _stated(directory: Path, who: str) -> Mapping[str, Any]:
    try:
        return read_object(directory / SETTINGS)
    except ValueError as error:
        raise SourceError(who, f"{SETTINGS} cannot be read: {error}", "restore the file") from error


def _modules(directory: Path, who: str) -> Iterator[tuple[str, Path]]:
    """Yield the kind and the folder of every module."""
    try:
        listed = json.loads((directory / MODULES).read_text(encoding="utf-8"))
        found = [(str(item["type"]), str(item["path"])) for item in listed]
    except OSError as error:
        why = f"{MODULES} cannot be read: {error.strerror}"
        raise SourceError(who, why, "copy all files of the model") from error
    except (ValueError, TypeError, KeyError) as error:
        raise SourceError(who, f"{MODULES} is no list of modules: {error!r}", "restore the file") from error
    if not found:
        raise SourceError(who, f"{MODULES} names no module", "restore the file")
    for path, place in found:
        if not path.startswith(_PACKAGES):
            why = f"its module {path!r} is code of its own, which is not run"
            raise SourceError(who, why, _REMEDY)
        folder = (directory / place).resolve()
        if not folder.is_relative_to(directory.resolve()):
            raise SourceError(who, f"{MODULES} names the folder {place!r}, outside the directory", "restore the file")
        yield path.rpartition(".")[2], directory / place


def _check_transformer(place: Path, directory: Path, who: str) -> None:
    """Refuse settings with which the transformer would compute something else than its last hidden state."""
    stated = read_lengths(place) or read_lengths(directory)
    text = (stated.get("modality_config") or {}).get("text", {"method_output_name": "last_hidden_state"})
    output = text.get("method_output_name")
    output = output[0] if isinstance(output, list) and len(output) == 1 else output
    if text.get("method", "forward") != "forward" or output != "last_hidden_state":
        why = f"its transformer gives {output!r} by {text.get('method')!r}, and not its last hidden state"
        raise SourceError(who, why, _REMEDY)
    for key in ("model_args", "model_kwargs", "config_args", "config_kwargs"):
        unknown = sorted(set(stated.get(key) or ()) - _HARMLESS)
        if unknown:
            raise SourceError(who, f"its transformer is loaded with {unknown[0]!r} ({key}), unknown here", _REMEDY)
    unknown = sorted(name for name in set(stated) - _NEUTRAL if stated[name] is not None)
    if unknown:
        raise SourceError(who, f"its transformer has the setting {unknown[0]!r}, unknown here", _REMEDY)
