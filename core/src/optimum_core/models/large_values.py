"""Values far larger than those of the user's samples, for inputs whose bounds no table or name tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from optimum_core.models.eager_calls import call, eager_outputs, fresh
from optimum_core.models.outputs import flatten
from optimum_core.models.samples import Arrays, Case
from optimum_core.models.signature import ModelSignature
from optimum_core.models.time_limit import time_limit

#: Factor of floats, and for whole numbers the greatest binary exponent by their bytes.
TIMES = 1e5
_EXPONENTS = {8: 40, 4: 28}
#: Relative change of values by which rounding is imitated: a few units in the last place of 32 bits.
_ROUNDING = 1e-6
#: Seconds of CPU time for a call: a model may count up to such a number.
_PATIENCE = 10.0


class ReadsNumberError(Exception):
    """A model reads a whole number of a tensor in Python."""


class _NoCounting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype in (torch.int32, torch.int64):
            raise ReadsNumberError
        return func(*args, **(kwargs or {}))


def large_inputs(module: Any, signature: ModelSignature, case: Case, kind: str) -> Arrays | None:
    """Return the call of a case with large values; None: no input may have them.

    Args:
        kind: of the numpy element types that become large, "i" or "f".
    """
    if getattr(module, "config", None) is not None:
        return None
    inputs, rng = signature.draw(case), np.random.default_rng(case.seed)
    bounded = {spec.name for spec in signature.inputs if spec.greatest is not None} | signature.layout.steady
    large = [item.name for item in signature.layout.inputs if item.kind == "given" and item.name not in bounded]
    changed = {name: _large(inputs[name], rng) for name in large if _may_grow(inputs[name], kind)}
    return {**inputs, **changed} if changed else None


def _may_grow(array: np.ndarray[Any, Any], kind: str) -> bool:
    """Whether an input may have large values: switches and masks of zeros and ones may not."""
    if array.dtype.kind != kind or not array.size or np.isin(array, (0, 1)).all():
        return False
    return kind == "f" or array.dtype.itemsize in _EXPONENTS


def _large(array: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if array.dtype.kind == "f":
        return np.asarray(array * TIMES, dtype=array.dtype)
    most = _EXPONENTS[array.dtype.itemsize]
    sizes = 2.0 ** rng.uniform(0, most, array.shape)
    sizes.flat[0] = 2.0**most + 5
    return np.asarray(sizes * np.where(array < 0, -1, 1), dtype=array.dtype)


def outputs_in_time(module: Any, inputs: Mapping[str, Any]) -> Arrays:
    """Return the eager model's outputs.

    Raises:
        ExportError: the call does not end; a model's own errors are passed on.
        ReadsNumberError: the model reads a whole number in Python, and may count up to it.
    """
    guard = _NoCounting()  # type: ignore[no-untyped-call]
    with guard, time_limit(_PATIENCE, f"model {type(module).__name__}", "keep its inputs small"):
        return eager_outputs(module, inputs)


def outputs_as_rounded(module: Any, inputs: Mapping[str, Any], *, integers: bool) -> Arrays:
    """Return the eager model's outputs where its floats, and the parameters, were rounded otherwise.

    Args:
        integers: change whole numbers too, as in a conversion to floats.
    """
    kinds, rng = ("fi" if integers else "f"), np.random.default_rng(0)
    given = {name: _rounded(array, rng) if array.dtype.kind in kinds else array for name, array in inputs.items()}
    return {name: tensor.numpy().copy() for name, tensor in flatten(call(_with_rounded(module), given)).items()}


def _rounded(array: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    change = array * (_ROUNDING * rng.choice((-1.0, 1.0), array.shape))
    return np.asarray(array + change.round() if array.dtype.kind == "i" else array + change).astype(array.dtype)


def _with_rounded(module: Any) -> Any:
    copy, made = fresh(module), dict[int, torch.nn.Parameter]()
    if copy is module:
        return module
    chance = torch.Generator().manual_seed(0)
    for part in copy.modules():
        for name, old in part._parameters.items():
            if old is not None and old.is_floating_point():
                if id(old) not in made:
                    change = (torch.randint(0, 2, old.shape, generator=chance) * 2 - 1) * _ROUNDING
                    made[id(old)] = torch.nn.Parameter(old.detach() * (1 + change), requires_grad=False)
                part._parameters[name] = made[id(old)]
    return copy
