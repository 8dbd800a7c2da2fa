"""Whether a call of the eager model reads the values of an input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optimum_core.models.eager.calls import apart, call, fresh


class _ReadWatch(TorchDispatchMode):  # type: ignore[no-untyped-call] # of torch
    """A mode that notes whether an operator was given a tensor, or a view of it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # of torch
        self._place = _place(tensor)
        self.happened = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = (item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor))
        self.happened = self.happened or any(_place(item) == self._place for item in tensors)
        return func(*args, **(kwargs or {}))


def _place(tensor: torch.Tensor) -> int | None:
    """Return where a tensor's memory begins; None: it has none of its own."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else None


def reads(module: torch.nn.Module, inputs: Mapping[str, Any], name: str) -> bool:
    """Whether a call gives an input to any operator. Its shape and its type may be asked for nevertheless."""
    given = apart(inputs)
    with _ReadWatch(given[name]) as watch:
        call(fresh(module), given)
    return bool(watch.happened)
