"""Which constants of a program are the weights of which layer of the module that it was exported from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from optimum_core.errors import OptionError
from optimum_coreml.storage import layers_of


def constants_of(spec: Any, patterns: Iterable[str], who: str) -> list[str]:
    """Names of the constants of the layers that `patterns` name: dotted names, each with all that lies under it; * is
    anything.

    Raises:
        OptionError: a pattern matches no layer whose weights are in the program under a name of their own.
    """
    layers = layers_of(spec)
    function = spec.mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    names = {item.outputs[0].name for item in operations if item.type == "const"}
    chosen: set[str] = set()
    for pattern in patterns:
        expression = re.compile(re.escape(pattern).replace(r"\*", ".*") + r"(\..*)?")
        found = {constant for weight, constant in layers.items() if expression.fullmatch(weight)}
        there = {spelling for name in found for spelling in (name, f"{name}_to_fp16") if spelling in names}
        if not there:
            raise _no_layer(pattern, layers, who)
        chosen |= there
    return sorted(chosen)


def _no_layer(pattern: str, layers: Iterable[str], who: str) -> OptionError:
    modules = sorted({weight.rpartition(".")[0] for weight in layers} - {""})
    if not modules:
        return OptionError(who, f"'exclude' names {pattern!r}, and the file names no layers", "export the model again")
    some = ", ".join(modules[:: max(1, len(modules) // 8)][:8])
    return OptionError(who, f"'exclude' names {pattern!r}, which is no layer of this model", f"there are, e.g., {some}")
