"""Detection of models whose calls write into their own weights, before one does.

RWKV rescales weights at its first call, and `torch.nn.Embedding(max_norm=…)` shortens the rows that it looks up. Copies
that shared these weights would change the user's model, and each other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from optimum_core.models.eager.copies import throwaway
from optimum_core.models.eager.operator_watch import OperatorWatch

_STATISTICS = ("running_mean", "running_var")


class _WritesWeightsError(Exception):
    """A call was about to write into a weight."""


class _WriteWatch(OperatorWatch):
    """A mode in which an operator that writes into one of some tensors raises an error in place of writing."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._places = {place for tensor in tensors if (place := _place(tensor))}

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        written = _written(getattr(func, "_schema", None), args, kwargs)
        if any(isinstance(value, torch.Tensor) and _place(value) in self._places for value in written):
            raise _WritesWeightsError
        return func(*args, **kwargs)


def _written(schema: Any, args: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    """Return the arguments that an operator writes into: those that its schema marks, and what it does not mark, the
    statistics of a batch norm that trains."""
    if schema is None:
        return []
    given = {
        item.name: args[index] if index < len(args) else named.get(item.name)
        for index, item in enumerate(schema.arguments)
    }
    marked = [item.name for item in schema.arguments if item.alias_info is not None and item.alias_info.is_write]
    return [given[name] for name in marked] + [given.get(name) for name in _STATISTICS if given.get("training")]


def _place(tensor: torch.Tensor) -> int:
    """Return where a tensor's memory begins; 0: it has none of its own."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


def writes_weights(module: torch.nn.Module, run: Callable[[Any], Any]) -> bool | None:
    """Return whether a call writes into weights that copies share, without letting it; None: the call fails otherwise.

    Args:
        run: calls a copy.
    """
    tensors = [*module.parameters(), *module.buffers()]
    try:
        with torch.no_grad(), _WriteWatch(tensors):
            run(throwaway(module))
    except _WritesWeightsError:
        return True
    except Exception:  # noqa: BLE001 - eager refuses this call, by an error of any type
        return None
    return False


def unshare(module: torch.nn.Module) -> None:
    """Give a copy weights and buffers of its own; tied ones stay tied."""
    made: dict[int, Any] = {}
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    made.setdefault(id(tensor), copy.deepcopy(tensor))
                    table[name] = made[id(tensor)]
