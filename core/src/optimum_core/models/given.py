"""Layouts read off samples that the user passed: for modules of any kind, and for models that no rule fits."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from optimum_core.errors import OptionError
from optimum_core.models.layouts import Facts, InputLayout, Layout, alternatives

_KNOWN_DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


def as_arrays(module: Any, samples: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Samples by input name, as numpy arrays.

    Args:
        module: whose forward names the inputs, where samples come as one tensor or a sequence of them.
        samples: a mapping of names to tensors or arrays, one tensor or array, or a sequence of them in order.

    Raises:
        OptionError: a name that the forward does not take, or a value that is no tensor.
    """
    parameters = inspect.signature(module.forward).parameters
    takes_any = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    if not isinstance(samples, Mapping):
        values: Sequence[Any] = samples if isinstance(samples, tuple | list) else (samples,)
        if len(values) > len(parameters):
            raise OptionError(
                f"sample_inputs of {type(module).__name__}",
                f"there are {len(values)}, its forward takes {len(parameters)}",
                f"pass tensors for: {', '.join(parameters)}",
            )
        samples = dict(zip(parameters, values, strict=False))
    unknown = [name for name in samples if name not in parameters and not takes_any]
    if unknown or not samples:
        raise OptionError(
            f"sample_inputs of {type(module).__name__}",
            f"its forward takes no {unknown[0]!r}" if unknown else "there are none",
            f"pass tensors for: {', '.join(parameters)}",
        )
    return {name: _array(name, value) for name, value in samples.items()}


def positional(module: Any) -> tuple[str, ...]:
    """The parameters of a module's forward that may be given by position, in order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters
    return tuple(name for name, parameter in parameters.items() if parameter.kind in kinds)


def _array(name: str, value: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    if array.dtype.name not in _KNOWN_DTYPES:
        raise OptionError(
            f"sample input {name!r}", f"it is {type(value).__name__}, no tensor", "pass a tensor or array"
        )
    return array


def layout_of(samples: Mapping[str, np.ndarray[Any, Any]], facts: Facts) -> Layout:
    """Name the axes of samples: by the rules where an input's name and rank are known, else by position and length.

    The first axis of every input is the batch where all agree on its length; axes at one position with one length
    are taken to vary together. The eager model has the last word on each.
    """
    rules = next(alternatives(facts), None) if facts.config is not None else None
    known = {item.name: item for item in rules.inputs} if rules else {}
    batch = {array.shape[0] for array in samples.values() if array.ndim}
    lengths: dict[str, int] = dict(rules.lengths) if rules else {}
    inputs = []
    for name, array in samples.items():
        rule = known.get(name)
        if rule is not None and len(rule.axes) == array.ndim:
            inputs.append(rule)
            continue
        axes = tuple(_axis(array, index, shared_batch=len(batch) == 1) for index in range(array.ndim))
        lengths.update({axis: max(2, array.shape[i]) for i, axis in enumerate(axes)})
        inputs.append(InputLayout(name=name, kind="given", axes=axes, dtype=array.dtype.name))
    if "batch" in lengths:
        lengths["batch"] = 2
    layout = rules if rules is not None else Layout(inputs=(), lengths={})
    return replace(layout, inputs=tuple(inputs), lengths=lengths)


def _axis(array: np.ndarray[Any, Any], index: int, *, shared_batch: bool) -> str:
    return "batch" if index == 0 and shared_batch else f"axis{index}_{array.shape[index]}"
