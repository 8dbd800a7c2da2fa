"""A model with a flat face: tensors in by position, tensors out by position, nothing optional."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from optimum_core.models.outputs import flatten


def fixed_arguments(module: torch.nn.Module) -> dict[str, Any]:
    """What every call passes beside tensors: no cache grows, and outputs come in their class."""
    if not hasattr(module, "config"):
        return {}
    accepted = inspect.signature(module.forward).parameters
    chosen = {"use_cache": False, "return_dict": True}
    takes_any = any(item.kind is item.VAR_KEYWORD for item in accepted.values())
    return {name: value for name, value in chosen.items() if name in accepted or (takes_any and name == "return_dict")}


def call(module: torch.nn.Module, inputs: Mapping[str, Any]) -> Any:
    """Run the eager model once on arrays or tensors by name, without gradients."""
    tensors = {name: torch.as_tensor(value) for name, value in inputs.items()}
    with torch.no_grad():
        return module(**tensors, **fixed_arguments(module))


def eager_outputs(module: torch.nn.Module, inputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The eager model's outputs by name, as arrays of their own: the reference of every comparison."""
    return {name: tensor.numpy().copy() for name, tensor in flatten(call(module, inputs)).items()}


class FlatModule(torch.nn.Module):
    """`forward(*tensors) -> tuple of tensors`, in the order of two lists of names.

    Tracing needs it: a model's own forward takes its arguments through decorators that mix positions up.
    """

    def __init__(self, module: torch.nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.input_names = tuple(inputs)
        self.output_names = tuple(outputs)
        self.arguments = fixed_arguments(module)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        named = dict(zip(self.input_names, tensors, strict=True))
        flat = flatten(self.module(**named, **self.arguments))
        return tuple(flat[name] for name in self.output_names)


@contextmanager
def export_ready(module: Any) -> Iterator[None]:
    """Make a model traceable for a while and give it back as it was: mixtures of experts are written as matrix
    products, because the routing of the fast implementation cannot be traced."""
    settable = getattr(module, "_can_set_experts_implementation", None)
    if settable is None or not settable():
        yield
        return
    before = module.get_experts_implementation()
    module.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        module.set_experts_implementation(before)
