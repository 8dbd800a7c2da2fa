"""Outputs of a call: the original's output class where transformers is imported, else a plain type of its structure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from optimum_core.artifact import Structure
from optimum_core.models.eager.outputs import Answer, Build, build_from, plain_class
from optimum_core.types.arrays import NDArray

__all__ = ["Answer", "Answerer"]

_ARRAY = np.ndarray


class Making(NamedTuple):
    """The functions that make an answer of a session's outputs.

    Attributes:
        names: of the outputs, in their order.
        convert: makes a tensor of an array; None: arrays are returned.
        build: makes the answer of values by name.
        cls: the output class, where an object with these names and values as items and attributes is the answer.
    """

    names: tuple[str, ...]
    convert: Callable[[Any], Any] | None
    build: Build
    cls: type | None


class Answerer:
    """Builder of a call's outputs from a session's arrays.

    Args:
        structure: structure of the original's outputs.
        names: the outputs in the session's order.
        in_memory: whether the original is in this process, so that its own output classes are used.

    For numpy inputs transformers is not imported only for its output class: that would cost seconds in a process that
    does not use it. Where it is imported already, or the inputs are torch tensors, its class is returned.
    """

    def __init__(self, structure: Structure, names: tuple[str, ...], *, in_memory: bool = False) -> None:
        self._structure = structure
        self._names = names
        self._in_memory = in_memory
        self._has_class = structure.kind == "output"
        self._own: Build | None = None
        self._plain_class: type | None = None  # where the build is no more than setting its items
        self._plain: Build | None = None
        self._from_numpy: Callable[[Any], Any] | None = None

    def answer(self, arrays: Mapping[str, Any], *, as_torch: bool, as_tuple: bool = False) -> Any:
        """Return arrays by output name in the form in which the original returns them."""
        values: dict[str, Any] = {}
        if as_torch:
            convert = self._from_numpy or self._find_torch()
            for name in self._names:
                array = arrays[name]
                values[name] = convert(array) if type(array) is _ARRAY else _tensor(array)
        else:
            for name in self._names:
                values[name] = arrays[name]
        build = self._own
        if build is None:
            with_own = as_torch or "transformers" in sys.modules
            build = self._find_own() if with_own else self._plain or self._find_plain()
        answer = build(values)
        return _as_tuple(answer) if as_tuple and self._has_class else answer

    def made_directly(self, *, as_torch: bool) -> Making | None:
        """Return what makes an answer of a session's outputs in their order; None: it is not settled, since
        transformers may be imported later."""
        if self._own is None:
            return None
        return Making(self._names, self._found_tensor if as_torch else None, self._own, self._plain_class)

    def _found_tensor(self, array: Any) -> Any:
        convert = self._from_numpy or self._find_torch()
        return convert(array) if type(array) is _ARRAY else _tensor(array)

    def _find_own(self) -> Build:
        self._own = build_from(self._structure, own_classes=True, in_memory=self._in_memory)
        self._plain_class = plain_class(self._structure, self._names, in_memory=self._in_memory)
        return self._own

    def _find_plain(self) -> Build:
        self._plain = build_from(self._structure, own_classes=False, in_memory=self._in_memory)
        return self._plain

    def _find_torch(self) -> Callable[[Any], Any]:
        import torch

        self._from_numpy = torch.from_numpy
        return self._from_numpy


def tensor_of(array: NDArray) -> Any:
    """Return a tensor of an array; torch must be installed."""
    return _tensor(array if array.flags.writeable else array.copy())


def _tensor(value: Any) -> Any:
    """Return a tensor of a value that is no plain array: a numpy scalar, or an object that supports DLPack."""
    import torch

    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.asarray(value))
    return torch.utils.dlpack.from_dlpack(value)


def _as_tuple(value: Any) -> Any:
    if isinstance(value, Answer):
        return tuple(map(_as_tuple, value.values()))
    return value.to_tuple() if hasattr(value, "to_tuple") else value
