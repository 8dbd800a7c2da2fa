"""Which constants of a program are the weights of which layer of the module that it was exported from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optimum_core.backend import matching_layers
from optimum_coreml.storage import layers_of


def constants_of(spec: Any, patterns: Iterable[str], who: str) -> list[str]:
    """Names of the constants of the layers that `patterns` name: dotted names, each with all that lies under it; * is
    anything.

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
