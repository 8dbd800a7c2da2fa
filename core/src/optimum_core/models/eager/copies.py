"""Throwaway copies of a model, so that calls never change the model itself.

Some models keep state from earlier calls: Swin shrinks its window at a small picture, BigBird turns its sparse
attention off at a short text. So every call runs on a copy that has seen no other call. `copy.deepcopy` takes 10 ms for
50 modules, which is more than a call of a small model takes; this copies the tree of modules itself, in about 1 ms.
"""

from __future__ import annotations

import copy
import enum
import types
from collections import OrderedDict, defaultdict
from functools import cache
from typing import Any

import torch

_ATOMS = frozenset(
    {bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type, range, property}
    | {torch.nn.Parameter, torch.dtype, torch.device, torch.Size}
    | {types.FunctionType, types.BuiltinFunctionType, types.ModuleType, enum.EnumType}
)
_HEAP_TYPE = 1 << 9  # set for classes written in Python
_NOT_KNOWN = object()
_NARROW = (torch.float16, torch.bfloat16)
#: Attribute of a model whose floats of 16 bits were widened; its copies have it too.
_WIDENED = "_optimum_core_widened"

Memo = dict[int, Any]


def throwaway(module: Any) -> Any:
    """Return a copy that shares the parameters, and has buffers and Python state of its own.

    The buffers of torch's own layers are shared too: in evaluation mode none of them writes to its statistics. Objects
    that cannot be copied, such as a lock, are shared; a module of a kind that cannot be copied is returned itself.
    """
    memo: Memo = {}
    for part in module.modules():
        memo.update((id(parameter), parameter) for parameter in part._parameters.values() if parameter is not None)
        if part._buffers and _of_torch(type(part)):
            memo.update((id(buffer), buffer) for buffer in part._buffers.values() if buffer is not None)
    return _copied(module, memo)


def holds_16_bits(module: Any) -> bool:
    """Whether some parameter is a float of 16 bits. Buffers do not count: what is computed with them is the model's."""
    return any(parameter.dtype in _NARROW for parameter in module.parameters())


def widened(module: Any) -> Any:
    """Return a copy with floats of 16 bits widened to 32; all others, such as a table of float64, keep their type."""
    made = copy.deepcopy(module)
    made._apply(lambda tensor: tensor.float() if tensor.dtype in _NARROW else tensor)
    vars(made)[_WIDENED] = True
    return made


def is_widened(module: Any) -> bool:
    """Whether it was made by `widened`, or is a copy of such a model."""
    return hasattr(module, _WIDENED)


def _of_torch(item: Any) -> bool:
    return str(getattr(item, "__module__", "")).partition(".")[0] == "torch"


def _copied(value: Any, memo: Memo) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    known = memo.get(id(value), _NOT_KNOWN)
    if known is not _NOT_KNOWN:
        return known
    if kind is tuple:
        return tuple(_copied(item, memo) for item in value)
    if kind is set:
        return set(value)
    if kind is list:
        filled: list[Any] = []
        memo[id(value)] = filled
        filled.extend(_copied(item, memo) for item in value)
        return filled
    if kind is dict or kind is OrderedDict:
        made: dict[Any, Any] = kind()
        memo[id(value)] = made
        return _fill(made, value, memo)
    if _is_plain(kind):  # type: ignore[arg-type]
        memo[id(value)] = whole = object.__new__(kind)
        _fill(whole.__dict__, vars(value), memo)
        whole.__dict__.pop("_compiled_call_impl", None)  # made for the original by `Module.compile`
        return whole
    return _copied_by_python(value, memo)


def _fill(made: dict[Any, Any], items: dict[Any, Any], memo: Memo) -> dict[Any, Any]:
    for key, item in items.items():
        made[key] = item if type(item) in _ATOMS else _copied(item, memo)
    return made


def _copied_by_python(value: Any, memo: Memo) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # noqa: BLE001 - a lock, a generator, a handle: they raise errors of any type
        memo[id(value)] = value
        return value


@cache
def _is_plain(kind: type) -> bool:
    """Whether an object of this class is its `__dict__` and nothing else."""
    own = kind.__mro__[:-1]
    return (
        all(base.__flags__ & _HEAP_TYPE and not base.__dict__.get("__slots__") for base in own)
        and not issubclass(kind, (enum.Enum, type, defaultdict))
        and not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and getattr(kind, "__getstate__", None) in (torch.nn.Module.__getstate__, object.__getstate__)
        and _of_torch(getattr(kind, "__setstate__", torch.nn.Module.__setstate__))  # adds what old files lack
        and kind.__dictoffset__ != 0
    )
