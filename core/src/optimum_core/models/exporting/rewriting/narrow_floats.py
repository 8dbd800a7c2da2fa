"""Arithmetic in bfloat16 within a model in float32, as float32 with the same rounding.

Falcon computes its ALiBi biases in bfloat16, whatever the model's type: positions above 256 lose their last bits.
Converters and runtimes differ there: OpenVINO computes such operations in float32 when that is asked for, which gives
other biases, and ONNX Runtime has no kernels for them on a CPU. Rounding that is written out is the same on both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: T. J. Dekker (1971), A floating-point technique for extending the available precision: x * (2**16 + 1), less itself
#: without x, has the first 24 - 16 = 8 bits of x, which are those of a bfloat16, rounded to nearest.
_SPLIT = 2.0**16 + 1
_NARROW = torch.bfloat16
_LARGE, _GREATEST = 2.0**64, torch.finfo(torch.float32).max


class WideNarrowFloats(TorchFunctionMode):
    """While it is active, tensors that would be bfloat16 are float32 and hold the values of bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self._narrow: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.Tensor.bfloat16 or _asks_for(_NARROW, func, args, given):
            return self._rounded(args[0])
        if not any(self._holds(value) for value in args) or any(self._is_wide(value) for value in args):
            return func(*args, **given)
        if func.__name__ in _ARITHMETIC:
            return self._rounded(func(*map(self._promoted, args), **given))
        answer = func(*args, **given)
        if func.__name__ in _COMPUTED and isinstance(answer, torch.Tensor):
            return self._rounded(answer)
        if func in _LEAVING:
            return answer.clone()  # it may be the very tensor that was passed
        if isinstance(answer, torch.Tensor) and answer.dtype == torch.float32:
            self._narrow[id(answer)] = answer
        return answer

    def _holds(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and self._narrow.get(id(value)) is value

    def _is_wide(self, value: Any) -> bool:
        """Whether an operand makes the result wide, as every tensor of another float type with an axis does."""
        is_float = isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 0
        return is_float and not self._holds(value)

    def _promoted(self, value: Any) -> Any:
        """Return the operand of an operation with a narrow tensor, integers as that type holds them."""
        is_integer = isinstance(value, torch.Tensor) and value.dtype in (torch.int32, torch.int64)
        return self._rounded(value) if is_integer else value

    def _rounded(self, tensor: torch.Tensor) -> torch.Tensor:
        wide = tensor.to(torch.float32)
        size = wide.abs()
        near = torch.where(size < _LARGE, wide, wide / _LARGE)  # a large value times `_SPLIT` is infinite
        far = near * _SPLIT
        near = far - (far - near)
        found = torch.where(size < _LARGE, near, near * _LARGE)
        found = torch.where(size <= _GREATEST, found, wide)  # infinity less infinity is none
        self._narrow[id(found)] = found
        return found


#: Operations that promote integers.
_ARITHMETIC = {f"{before}{name}{after}" for name in ("add", "sub", "mul", "div", "truediv", "pow")
               for before, after in (("", ""), ("__", "__"), ("__r", "__"))}  # fmt: skip
#: Operations whose results have more bits than their operands; others move values, or choose among them.
_COMPUTED = frozenset({
    "sum", "mean", "prod", "cumsum", "matmul", "__matmul__", "bmm", "baddbmm", "exp", "log", "sqrt", "rsqrt",
    "reciprocal", "sin", "cos", "tanh", "sigmoid", "softmax",
})  # fmt: skip
#: Functions that give a tensor of a stated type.
_LEAVING = {torch.Tensor.to, torch.Tensor.float, torch.Tensor.double, torch.Tensor.type}


def _asks_for(dtype: torch.dtype, func: Any, args: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
    return func is torch.Tensor.to and (dtype in args[1:] or given.get("dtype") is dtype)
