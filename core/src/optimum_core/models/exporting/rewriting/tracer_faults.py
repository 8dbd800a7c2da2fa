"""Functions that the tracing exporter of torch (2.13) writes wrongly, by other functions with the same result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class TranslatedRight(TorchFunctionMode):
    """While it is active, these functions are written so that the exporter translates them right.

    - `flatten` of axes in the middle or at the end: with sizes that vary, torch infers a wrong number of axes, as in
      the rotary positions of Helium and Moonshine, and what joins the result to others is refused. A reshape to stated
      sizes takes its place.
    - `repeat_interleave` along an axis counted from the end: torch counts it from the front in place, in a constant
      that other operations share, so that every other -1 of the graph becomes that axis too.
    - `index_add`: of several rows for one place, the last is kept instead of their sum, as where experts' answers are
      added up (JetMoE). A scattered addition is written right.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in (torch.flatten, torch.Tensor.flatten):
            return _flattened(*args, **given)
        if func in (torch.repeat_interleave, torch.Tensor.repeat_interleave) and args:
            return _repeated(func, *args, **given)
        if func in _INDEX_ADD and "out" not in given:
            return _added(_INDEX_ADD[func], *args, **given)
        return func(*args, **given)


_INDEX_ADD = {
    torch.index_add: torch.scatter_add,
    torch.Tensor.index_add: torch.scatter_add,
    torch.Tensor.index_add_: torch.Tensor.scatter_add_,
}


def _added(scatter: Any, *args: Any, **given: Any) -> torch.Tensor:
    """Return what `index_add` does, by a scattered addition."""
    arguments = {**dict(zip(("input", "dim", "index", "source"), args, strict=False)), **given}
    tensor, source, factor = arguments["input"], arguments["source"], arguments.get("alpha", 1)
    if isinstance(factor, torch.Tensor) or factor != 1:
        source = source * factor
    index = arguments["index"].reshape(-1)
    if tensor.ndim == 0:  # all is added to its one number
        added: torch.Tensor = scatter(tensor.reshape(1), 0, index, source.reshape(-1)).reshape(())
        return tensor.copy_(added) if scatter is torch.Tensor.scatter_add_ else added
    axis = arguments["dim"] % tensor.ndim
    shape = [-1 if at == axis else 1 for at in range(source.ndim)]
    made: torch.Tensor = scatter(tensor, axis, index.reshape(shape).expand_as(source), source)
    return made


def _repeated(func: Any, tensor: torch.Tensor, *rest: Any, **given: Any) -> torch.Tensor:
    """Call `repeat_interleave` with its axis counted from the front."""
    arguments = {**dict(zip(("repeats", "dim"), rest, strict=False)), **given}
    axis = arguments.get("dim")
    if isinstance(axis, int) and axis < 0:
        arguments["dim"] = axis + tensor.ndim
    repeated: torch.Tensor = func(tensor, **arguments)
    return repeated


def _flattened(tensor: torch.Tensor, start_dim: int = 0, end_dim: int = -1) -> torch.Tensor:
    axes = tensor.ndim
    first, last = start_dim % max(axes, 1), end_dim % max(axes, 1)
    if first == 0 or (first, last) == (1, axes - 1):  # ONNX has an operator for these
        return torch.flatten(tensor, start_dim, end_dim)
    return tensor.reshape(*tensor.shape[:first], -1, *tensor.shape[last + 1 :])
