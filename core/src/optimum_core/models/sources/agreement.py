"""Comparison of a `config.json` with the outputs of the graph beside it: names of classes, and axes of logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_core.errors import SourceError
from optimum_core.models.sources import files
from optimum_core.types.state import DECODER, ENCODER

if TYPE_CHECKING:
    from optimum_core.types import Artifact, TensorSpec

_CONFIG, _LOGITS = "config.json", "logits"
#: The axes of "logits", by task, where all of transformers' classes for that task agree.
_AXES: Mapping[str, tuple[str, ...]] = {
    "text-classification": ("batch", "classes"),
    "image-classification": ("batch", "classes"),
    "audio-classification": ("batch", "classes"),
    "token-classification": ("batch", "sequence", "classes"),
    "audio-frame-classification": ("batch", "frames", "classes"),
    "fill-mask": ("batch", "sequence", "tokens"),
    "text-generation": ("batch", "sequence", "tokens"),
    "text2text-generation": ("batch", "sequence", "tokens"),
}

#: The outputs of a class that marks a span of its text, and its task.
_SPANS, _OF_SPANS = {"start_logits", "end_logits"}, "question-answering"

#: Names of the numbers of ids, layers and hidden features in configurations; the first that is stated counts.
_IDS = ("decoder_vocab_size", "vocab_size")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_DECODER_LAYERS = ("decoder_layers", "num_decoder_layers", "num_layers", "num_hidden_layers", "n_layer")
_WIDTHS = ("d_model", "hidden_size")
#: Parts of a configuration that describe a decoder.
_DECODERS = ("decoder", "text_config")


def read_description(directory: Path) -> dict[str, Any]:
    """Return the content of `config.json`; empty: there is none.

    Raises:
        SourceError: it, or another file of settings, is no JSON object.
    """
    files.check_described(directory)
    path = directory / _CONFIG
    return files.read_json(path) if path.is_file() else {}


def contradiction(task: str | None, outputs: Sequence[TensorSpec]) -> str:
    """Return how the outputs of a graph differ from those of a task; empty: they do not.

    >>> from optimum_core.types import TensorSpec
    >>> contradiction("token-classification", [TensorSpec(name="logits", dtype="float32", shape=("batch", 3))])
    'its logits are [batch, 3], and those of token-classification [batch, sequence, classes]'
    """
    names = [spec.name for spec in outputs]
    if (task in _AXES and set(names) >= _SPANS) or (task == _OF_SPANS and names == [_LOGITS]):
        return f"its outputs are {', '.join(names)}, and not those of {task}"
    axes, logits = _AXES.get(task or ""), _logits(outputs)
    if axes is None or logits is None or len(logits.shape) == len(axes):
        return ""
    return f"its logits are {_told(logits.shape)}, and those of {task} {_told(axes)}"


def check_outputs(described: Mapping[str, Any], task: str | None, outputs: Sequence[TensorSpec], who: str) -> None:
    """Refuse a graph that contradicts its configuration, which names of classes would be read from.

    Args:
        described: the content of `config.json`.
        who: the model, for errors.

    Raises:
        SourceError: its logits have other axes than those of the task, or another number of classes is named.
    """
    named = (described.get("architectures") or [task])[0]
    if why := contradiction(task, outputs):
        remedy = f"put the config.json of that graph beside it: this one is of {named}"
        raise SourceError(who, why, remedy if described else "leave task out, or name that of the graph")
    logits = _logits(outputs)
    size, stated = (logits.shape[-1] if logits is not None else None), _classes(described)
    if "classes" in _AXES.get(task or "", ()) and isinstance(size, int) and stated not in (None, size):
        why = f"config.json names {stated} classes (id2label), and the graph gives logits of {size}"
        raise SourceError(who, why, "put the config.json of that graph beside it, or correct id2label in it")


def check_generator(described: Mapping[str, Any], whole: Artifact, who: str) -> None:
    """Refuse a model that generates where the sizes in its configuration are not those of its graphs.

    Args:
        described: the content of `config.json`; empty: nothing is compared.
        whole: the artifact of a decoder, alone or behind an encoder; for others nothing is compared.
        who: the model, for errors.

    Raises:
        SourceError: another number of ids, of layers or of hidden features is stated.
    """
    decoder = whole.parts.get(DECODER)
    if decoder is None or decoder.state is None:
        return
    encoder, layers = whole.parts.get(ENCODER), len(decoder.state.layers)
    parts = [part for name in _DECODERS if isinstance(part := described.get(name), Mapping)] or [described]
    checks = [("ids", _first(parts, _IDS), decoder.outputs[0].shape[-1])]
    if encoder is None:  # layers that share keys and values, or keep none, are no layers of the state
        stated = _first(parts, _LAYERS)
        checks.append(("layers", stated if stated is not None and stated < layers else None, layers))
    else:
        checks.append(("layers of the decoder", _first(parts, _DECODER_LAYERS), layers))
        width = _first([described], _WIDTHS) if parts == [described] else None
        checks.append(("hidden features", width, encoder.outputs[0].shape[-1]))
    for what, stated, found in checks:
        if stated is not None and isinstance(found, int) and stated != found:
            why = f"config.json states {stated} {what}, and its graphs have {found}"
            raise SourceError(
                who, why, "put the config.json of the checkpoint that they were exported from beside them"
            )


def _first(described: Sequence[Mapping[str, Any]], names: Sequence[str]) -> int | None:
    """Return the first whole number that is stated under one of these names."""
    found = (part.get(name) for part in described for name in names)
    return next((value for value in found if isinstance(value, int)), None)


def _classes(described: Mapping[str, Any]) -> int | None:
    """Return the number of classes that a configuration states; None: it states none."""
    labels, number = described.get("id2label"), described.get("num_labels")
    if isinstance(labels, Mapping):
        return len(labels)
    return number if isinstance(number, int) else None


def _logits(outputs: Sequence[TensorSpec]) -> TensorSpec | None:
    return next((spec for spec in outputs if spec.name == _LOGITS and spec.shape), None)


def _told(axes: Sequence[str | int]) -> str:
    return f"[{', '.join(map(str, axes))}]"
