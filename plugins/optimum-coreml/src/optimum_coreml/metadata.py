"""Human-readable metadata of a program: Xcode shows it, and generates documented code from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optimum_core.errors import OptionError
from optimum_core.types import TensorSpec
from optimum_coreml.devices import BACKEND
from optimum_coreml.interface import feature_name
from optimum_coreml.options import CoreMlOptions

#: Metadata keys under which tools look for class names, separated by commas, and for Xcode's preview parameters.
_CLASSES = "classes"
_PREVIEW = "com.apple.coreml.model.preview.params"

_KNOWN = {
    "input_ids": "Tokens of the texts, as numbers of the tokenizer's vocabulary",
    "attention_mask": "1 for tokens, 0 for padding",
    "token_type_ids": "0 for the first sentence, 1 for the second",
    "position_ids": "The place of each token",
    "pixel_values": "Pictures as its image processor gives them: batch, channels, height, width",
    "input_values": "Sound as its feature extractor gives it",
    "input_features": "Features of sound as its feature extractor gives them",
    "decoder_input_ids": "Tokens written so far",
    "logits": "A score for each class or token, before softmax",
    "last_hidden_state": "The last layer's vector for each token or patch",
    "pooler_output": "One vector for the whole",
}


def describe(
    model: Any,
    options: CoreMlOptions,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    name: str,
    task: str,
) -> None:
    """Write the author, the description and the descriptions of inputs and outputs into an `MLModel`."""
    model.short_description = options.short_description or f"{name}, for {task}, written by optimum-coreml"
    for field in ("author", "license", "version"):
        if getattr(options, field) is not None:
            setattr(model, field, getattr(options, field))
    _describe(model.input_description, inputs, options.input_descriptions)
    _describe(model.output_description, outputs, options.output_descriptions)


def check_descriptions(options: CoreMlOptions, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Check that only inputs and outputs of the program are described, which needs no conversion.

    Raises:
        OptionError: a description is for an unknown input or output.
    """
    for kind, specs in (("input", inputs), ("output", outputs)):
        option, names = f"{kind}_descriptions", [spec.name for spec in specs]
        for name in getattr(options, option):
            if name not in names:
                why = f"option '{option}' describes {name!r}, which there is not"
                raise OptionError(f"backend '{BACKEND}'", why, f"there are: {', '.join(names)}")


def _describe(written: Any, specs: Sequence[TensorSpec], given: Mapping[str, str]) -> None:
    for spec in specs:
        text = given.get(spec.name) or _KNOWN.get(spec.name, spec.name)
        written[feature_name(spec.name)] = f"{text}; {_shape(spec)}"


def _shape(spec: TensorSpec) -> str:
    return f"{spec.dtype} of {' x '.join(map(str, spec.shape)) or 'one value'}"


def class_labels(options: CoreMlOptions, config: Any, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the names of the classes on the last axis of `logits`; empty where the model is no classifier.

    Raises:
        OptionError: the number of labels is not the number of classes.
    """
    logits = next((spec for spec in outputs if spec.name == "logits"), None)
    count = logits.shape[-1] if logits is not None and logits.shape else None
    if options.class_labels is not None:
        if options.class_labels and len(options.class_labels) != count:
            why = f"option 'class_labels' has {len(options.class_labels)} names, and there are {count or 'no'} classes"
            raise OptionError(f"backend '{BACKEND}'", why, "give one name for each class")
        return options.class_labels
    # Models without classes have a default `id2label` of two, too.
    named = getattr(config, "id2label", None) or {}
    return tuple(str(named[index]) for index in sorted(named)) if len(named) == count else ()


def notes(labels: Sequence[str], layers: Mapping[str, str], key: str) -> dict[str, str]:
    """Return the entries for a program's user-defined metadata: names of classes, and of layers for `quantize`."""
    found = {key: json.dumps(dict(layers))}
    if labels:
        found |= {_CLASSES: ",".join(labels), _PREVIEW: json.dumps({"labels": list(labels)})}
    return found
