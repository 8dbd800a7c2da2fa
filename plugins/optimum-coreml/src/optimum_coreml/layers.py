"""Mapping from layers of the exported module to the constants of the program that hold their weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optimum_core.backend import matching_layers
from optimum_coreml.storage import layers_of


def constants_of(spec: Any, patterns: Iterable[str], who: str) -> list[str]:
    """Return the names of the constants of the layers that `patterns` name: dotted names, each with its sublayers; * is
    a wildcard.

    Raises:
        OptionError: a pattern matches no layer whose weights are in the program under a name of their own.
    """
    function = spec.mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    names = {item.outputs[0].name for item in operations if item.type == "const"}
    layers = {weight: {constant, f"{constant}_to_fp16"} & names for weight, constant in layers_of(spec).items()}
    there = [weight for weight, constants in layers.items() if constants]
    matching = matching_layers(patterns, there, who, shown=(weight.rpartition(".")[0] for weight in layers))
    return sorted(set().union(*(layers[weight] for weight in matching)))
