"""Complex numbers of a model as pairs of real tensors, for exporters that have no complex type.

Llama 4 and DeepSeek V2 turn queries and keys by products with complex numbers of length one. Tracing to ONNX cannot
write these (torch 2.13). The product in real numbers is the same, and so is its rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from optimum_core.models.exporting.rewriting.traced_lengths import is_traced


class ComplexPairs(TorchFunctionMode):
    """While it is active, functions that make complex tensors make pairs of real ones."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if not is_traced():
            return func(*args, **given)
        if func in _MAKERS and not given and not any(isinstance(item, Pair) for item in args):
            return Pair(*_MAKERS[func](*args))
        if func in (torch.angle, torch.Tensor.angle) and args and isinstance(args[0], Pair) and not given:
            return args[0].angle()
        if func is torch.view_as_real and args and isinstance(args[0], Pair):
            return torch.stack((args[0].real, args[0].imag), dim=-1)
        return _of_whole(func, args, given)


class Pair:
    """A complex tensor as its real and its imaginary part. What it does not have itself is asked of the tensor."""

    def __init__(self, real: torch.Tensor, imag: torch.Tensor) -> None:
        self.real, self.imag = real, imag

    def whole(self) -> torch.Tensor:
        """Return the complex tensor."""
        with torch._C.DisableTorchFunction():
            return torch.complex(self.real, self.imag)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _of_whole(func, args, dict(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_") and not name.startswith("_"):
            raise NotImplementedError(_IN_PLACE.format(name))
        if name in _MOVES:
            return partial(self._moved, name)
        return getattr(self.real if name in ("shape", "device", "ndim") else self.whole(), name)

    def _moved(self, name: str, *args: Any, **given: Any) -> Any:
        if any(isinstance(item, torch.dtype | torch.Tensor) for item in (*args, *given.values())):
            return getattr(self.whole(), name)(*args, **given)  # to another type
        return Pair(*(getattr(part, name)(*args, **given) for part in (self.real, self.imag)))

    def angle(self) -> torch.Tensor:
        """Return the angles in radians."""
        return torch.atan2(self.imag, self.real)

    def __getitem__(self, index: Any) -> Pair:
        return Pair(self.real[index], self.imag[index])

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Pair):
            real = self.real * other.real - self.imag * other.imag
            return Pair(real, self.real * other.imag + self.imag * other.real)
        if isinstance(other, complex) or (isinstance(other, torch.Tensor) and other.is_complex()):
            return self.whole() * other
        return Pair(self.real * other, self.imag * other)

    __rmul__ = __mul__

    def __setitem__(self, index: Any, value: Any) -> None:
        raise NotImplementedError(_IN_PLACE.format("c[...] = ..."))


#: Methods that move numbers and compute nothing.
_MOVES = frozenset({
    "contiguous", "expand", "flatten", "permute", "reshape", "squeeze", "to", "transpose", "unsqueeze", "view",
})  # fmt: skip
_MAKERS: Mapping[Any, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = {
    torch.polar: lambda size, angle: (size * angle.cos(), size * angle.sin()),
    torch.complex: lambda real, imag: (real, imag),
    torch.view_as_complex: lambda pairs: (pairs[..., 0], pairs[..., 1]),
}


#: Operators that are computed on the complex tensor.
_OPERATORS = (
    "add", "radd", "sub", "rsub", "truediv", "rtruediv", "pow", "rpow", "matmul", "rmatmul", "neg", "pos", "abs", "eq",
    "ne", "len", "iter", "bool",
)  # fmt: skip
_IN_PLACE_OPERATORS = ("iadd", "isub", "imul", "itruediv", "ipow", "imatmul")
_IN_PLACE = "{0} changes a complex tensor in place, which a trace to ONNX cannot write; the other route is tried next"


def _operator(name: str) -> Callable[..., Any]:
    def operate(pair: Pair, *others: Any) -> Any:
        return getattr(pair.whole(), name)(*map(_whole, others))

    return operate


def _refusal(name: str) -> Callable[..., Any]:
    def refuse(pair: Pair, *others: Any) -> Any:
        raise NotImplementedError(_IN_PLACE.format(name))

    return refuse


for _name in _OPERATORS:
    setattr(Pair, f"__{_name}__", _operator(f"__{_name}__"))
for _name in _IN_PLACE_OPERATORS:
    setattr(Pair, f"__{_name}__", _refusal(f"__{_name}__"))
Pair.__hash__ = object.__hash__  # type: ignore[method-assign]


def _of_whole(func: Any, args: tuple[Any, ...], given: Mapping[str, Any]) -> Any:
    """Call a function of torch with complex tensors for pairs, wherever they are among its arguments."""
    name = str(getattr(func, "__name__", ""))
    changed = given.get("out", args[0] if name.endswith("_") and not name.endswith("__") and args else None)
    if isinstance(changed, Pair):
        raise NotImplementedError(_IN_PLACE.format(name))
    whole_args, whole_given = tree_map(_whole, (args, dict(given)))
    return func(*whole_args, **whole_given)


def _whole(item: Any) -> Any:
    return item.whole() if isinstance(item, Pair) else item
