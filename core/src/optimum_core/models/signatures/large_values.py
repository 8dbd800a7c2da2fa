"""Values far from those of the user's samples, for inputs that no table or name bounds: larger, below zero, or the
least that their type holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from optimum_core.models.eager.calls import call, eager_outputs, fresh
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.eager.time_limit import time_limit
from optimum_core.models.inputs.samples import Arrays, Case
from optimum_core.models.signatures.signature import ModelSignature

Values = np.ndarray[Any, Any]
Rng = np.random.Generator

#: Factor of floats, and for wide whole numbers the greatest binary exponent by their bytes.
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
        kind: of the numpy element types that become large, "i" for all whole numbers, or "f".
    """
    return _elsewhere(module, signature, case, kind, _large)


def negative_inputs(module: Any, signature: ModelSignature, case: Case, kind: str) -> Arrays | None:
    """Return the call of a case with values below zero in inputs that have none; None: no input may have them.

    Args:
        kind: of the numpy element types that change, "i" or "f".
    """
    return _elsewhere(module, signature, case, kind, _negative)


def least_inputs(module: Any, signature: ModelSignature, case: Case, kind: str) -> Arrays | None:
    """Return the call of a case with the least values that narrow whole numbers hold; None: no input may have them.

    Args:
        kind: of the numpy element types that change, "i" or "f".
    """
    return _elsewhere(module, signature, case, kind, _least)


def _elsewhere(
    module: Any, signature: ModelSignature, case: Case, kind: str, change: Callable[[Values, Rng], Values | None]
) -> Arrays | None:
    """Return the call of a case with changed values in the inputs of a plain module that no table or name bounds."""
    if getattr(module, "config", None) is not None:
        return None
    inputs, rng = signature.draw(case), np.random.default_rng(case.seed)
    bounded = {spec.name for spec in signature.inputs if spec.greatest is not None} | signature.layout.steady
    free = [item.name for item in signature.layout.inputs if item.kind == "given" and item.name not in bounded]
    changed = {name: change(inputs[name], rng) for name in free if _may_change(inputs[name], kind)}
    found = {name: array for name, array in changed.items() if array is not None}
    return {**inputs, **found} if found else None


def _may_change(array: Values, kind: str) -> bool:
    """Whether an input may have other values than those drawn: switches and masks of zeros and ones may not."""
    of_kind = array.dtype.kind == "f" if kind == "f" else array.dtype.kind in "iu"
    return of_kind and bool(array.size) and not np.isin(array, (0, 1)).all()


def _large(array: Values, rng: Rng) -> Values:
    """Return values far larger; of narrow whole numbers all that the type holds, where overflow shows."""
    if array.dtype.kind == "f":
        bound = np.finfo(array.dtype).max
        return np.asarray(np.clip(array.astype(np.float64) * TIMES, -bound, bound), dtype=array.dtype)
    sizes = _sizes(array, rng)
    return np.asarray(sizes * np.where(array < 0, -1, 1), dtype=array.dtype)


def _sizes(array: Values, rng: Rng) -> Values:
    most = _EXPONENTS.get(array.dtype.itemsize)
    if most is None:
        greatest = int(np.iinfo(array.dtype).max)
        sizes = rng.integers(0, greatest, array.shape, endpoint=True)
    else:
        greatest, sizes = 2**most + 5, 2.0 ** rng.uniform(0, most, array.shape)
    sizes.flat[0] = greatest
    return np.asarray(sizes)


def _negative(array: Values, rng: Rng) -> Values | None:
    """Return values below zero; None: it has some, or its type holds none."""
    if array.dtype.kind == "u" or (array < 0).any():
        return None
    if array.dtype.kind == "f":
        return np.asarray(-array)
    narrow = array.dtype.itemsize not in _EXPONENTS
    return np.asarray(-1 - (_large(array, rng) if narrow else array), dtype=array.dtype)


def _least(array: Values, _: Rng) -> Values | None:
    """Return the values from the least of a narrow type on, where differences overflow; None: the type is wide."""
    if array.dtype.kind == "f" or array.dtype.itemsize in _EXPONENTS:
        return None
    ends = np.iinfo(array.dtype)
    return np.resize(np.arange(ends.min, ends.max + 1), array.shape).astype(array.dtype)


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
