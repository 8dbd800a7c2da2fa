"""Whether a call of the eager model reads the values of an input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from optimum_core.models.eager.calls import apart, call, fresh
from optimum_core.models.eager.operator_watch import OperatorWatch

#: Members of a tensor that give its numbers away without an operator.
_GIVING_AWAY = frozenset({
    torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.__dlpack__, torch.Tensor.data_ptr,
    torch.Tensor.untyped_storage, torch.Tensor.storage, torch.Tensor.__reduce_ex__, torch.Tensor.__deepcopy__,
})  # fmt: skip


class _ReadWatch(OperatorWatch):
    """A mode that notes whether an operator was given a tensor, or a view of it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self._place = _place(tensor)
        self.happened = False

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensors = (item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor))
        self.happened = self.happened or any(_place(item) == self._place for item in tensors)
        return func(*args, **kwargs)


class _AwayWatch(TorchFunctionMode):
    """A mode that notes whether a tensor, or a view of it, was turned into something that is no tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self._place = _place(tensor)
        self.happened = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _GIVING_AWAY and isinstance(args[0], torch.Tensor):
            with torch._C.DisableTorchFunction():
                self.happened = self.happened or _place(args[0]) == self._place
        return func(*args, **(kwargs or {}))


def _place(tensor: torch.Tensor) -> int | None:
    """Return where a tensor's memory begins; None: it has none of its own."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else None


def reads(module: torch.nn.Module, inputs: Mapping[str, Any], name: str) -> bool:
    """Whether a call gives an input to any operator, or to Python. Its shape and its type may be asked for
    nevertheless."""
    given = apart(inputs)
    with _ReadWatch(given[name]) as operators, _AwayWatch(given[name]) as away:
        call(fresh(module), given)
    return bool(operators.happened or away.happened)


class _CastWatch(OperatorWatch):
    """A mode that notes whether floats were made whole numbers of 64 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.happened = False

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        is_cast = func is torch.ops.aten._to_copy.default and kwargs.get("dtype") is torch.int64
        self.happened = self.happened or (is_cast and args[0].is_floating_point())
        return func(*args, **kwargs)


def makes_whole_numbers(module: torch.nn.Module, inputs: Mapping[str, Any]) -> bool:
    """Whether a call makes whole numbers of 64 bits of floats."""
    with _CastWatch() as watch:
        call(fresh(module), apart(inputs))
    return watch.happened
