"""Elementwise operators, broadcast as numpy does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from coremltools.proto import MIL_pb2
from torch.nn import functional

from optimum_coreml_interpreter.registry import UndefinedError, operator, wide
from optimum_coreml_interpreter.values import STORAGE

Tensor = torch.Tensor

# Two tensors. Their types are equal in a well-formed program; torch would promote them, so equality is checked.

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}


def _same_type(*tensors: Tensor) -> None:
    if len({item.dtype for item in tensors}) > 1:
        raise UndefinedError(f"tensors of {', '.join(str(item.dtype) for item in tensors)} in one operation")


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def apply(x: Tensor, y: Tensor) -> Tensor:
        _same_type(x, y)
        return function(x, y)

    return apply


for _name, _function in _BINARY.items():
    operator(_name)(_binary(_function))


@operator("real_div")
def _real_div(x: Tensor, y: Tensor) -> Tensor:
    _same_type(x, y)
    if x.is_floating_point():
        return x / y
    result = torch.div(x, y, rounding_mode="floor")
    if not bool((result * y == x).all()):
        raise UndefinedError("a division of whole numbers that leaves a rest")
    return result


@operator("pow")
def _pow(x: Tensor, y: Tensor) -> Tensor:
    _same_type(x, y)
    if not y.is_floating_point() and bool((y < 0).any()):
        raise UndefinedError("a whole number to a negative power")
    return torch.pow(x, y)


@operator("select")
def _select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    _same_type(a, b)
    return torch.where(cond, a, b)


# One tensor: rounded to 16 bits at the end where it has 16 bits.

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "identity": lambda x: x,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    "relu6": lambda x: torch.clamp(x, 0, 6),
    "round": torch.round,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": functional.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": lambda x: torch.log1p(torch.exp(-x.abs())) + torch.relu(x),
    "softsign": functional.softsign,
    "sqrt": torch.sqrt,
    "square": lambda x: x * x,
    "tan": torch.tan,
    "tanh": torch.tanh,
}


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def apply(x: Tensor) -> Tensor:
        return function(wide(x)).to(x.dtype)

    return apply


for _name, _single in _UNARY.items():
    operator(_name)(_unary(_single))


@operator("inverse")
def _inverse(x: Tensor, epsilon: Tensor) -> Tensor:
    return (1 / (wide(x) + wide(epsilon))).to(x.dtype)


@operator("log")
def _log(x: Tensor, epsilon: Tensor) -> Tensor:
    return torch.log(wide(x) + wide(epsilon)).to(x.dtype)


@operator("rsqrt")
def _rsqrt(x: Tensor, epsilon: Tensor) -> Tensor:
    return torch.rsqrt(wide(x) + wide(epsilon)).to(x.dtype)


@operator("clip")
def _clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, alpha), beta)


@operator("threshold")
def _threshold(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.maximum(x, alpha)


@operator("elu")
def _elu(x: Tensor, alpha: Tensor) -> Tensor:
    value = wide(x)
    return torch.where(value < 0, wide(alpha) * torch.expm1(value), value).to(x.dtype)


@operator("gelu")
def _gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    value = wide(x)
    if mode == "EXACT":
        return functional.gelu(value).to(x.dtype)
    if mode == "TANH_APPROXIMATION":
        return functional.gelu(value, approximate="tanh").to(x.dtype)
    if mode == "SIGMOID_APPROXIMATION":
        return (value * torch.sigmoid(1.702 * value)).to(x.dtype)
    raise UndefinedError(f"mode {mode!r}")


@operator("leaky_relu")
def _leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x < 0, (wide(x) * wide(alpha)).to(x.dtype), x)


@operator("linear_activation")
def _linear_activation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return (wide(x) * wide(alpha) + wide(beta)).to(x.dtype)


@operator("prelu")
def _prelu(x: Tensor, alpha: Tensor) -> Tensor:
    slope = wide(alpha).reshape([1, -1] + [1] * (x.ndim - 2))
    return torch.where(x < 0, (wide(x) * slope).to(x.dtype), x)


@operator("scaled_tanh")
def _scaled_tanh(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return (wide(alpha) * torch.tanh(wide(x) * wide(beta))).to(x.dtype)


@operator("sigmoid_hard")
def _sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return (wide(x) * wide(alpha) + wide(beta)).clamp(0, 1).to(x.dtype)


# Other types.

_BY_WORD = {
    "bool": "BOOL",
    "fp16": "FLOAT16",
    "fp32": "FLOAT32",
    "int8": "INT8",
    "uint8": "UINT8",
    "int16": "INT16",
    "uint16": "UINT16",
    "int32": "INT32",
}
_RANGES = {
    "int8": (-(2**7), 2**7 - 1),
    "uint8": (0, 2**8 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
}


def storage_of(word: str) -> torch.dtype:
    """Return the torch dtype that stores a type by its name in a program ("fp16", "uint16")."""
    if word not in _BY_WORD:
        raise UndefinedError(f"type {word!r}")
    return STORAGE[MIL_pb2.DataType.Value(_BY_WORD[word])]


@operator("cast")
def cast(x: Tensor, dtype: str) -> Tensor:
    """Convert floats to integers towards zero, values out of range to the nearest limit and NaN to 0: a program may
    compute such values without using them. Integers that do not fit are an error.
    """
    target = storage_of(dtype)
    if dtype not in _RANGES:
        return x.to(target)
    least, greatest = _RANGES[dtype]
    if x.is_floating_point():
        return torch.nan_to_num(x.double(), nan=0.0).clamp(least, greatest).trunc().to(target)
    if x.dtype != torch.bool and x.numel() and not (least <= int(x.min()) and int(x.max()) <= greatest):
        raise UndefinedError(f"{int(x.min())} to {int(x.max())} as {dtype}")
    return x.to(target)


@operator("quantize")
def _quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: Tensor | None = None
) -> Tensor:
    least, greatest = _RANGES[output_dtype]
    steps = torch.round(wide(input) / _along(wide(scale), input.ndim, axis))
    if zero_point is not None:
        steps = steps + _along(zero_point, input.ndim, axis).float()
    return steps.clamp(least, greatest).to(storage_of(output_dtype))


@operator("dequantize")
def _dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    steps = input.float()
    if zero_point is not None:
        steps = steps - _along(zero_point, input.ndim, axis).float()
    return (steps * _along(wide(scale), input.ndim, axis)).to(scale.dtype)


def _along(values: Tensor, rank: int, axis: Tensor | None) -> Tensor:
    if values.ndim == 0:
        return values
    assert axis is not None
    shape = [1] * rank
    shape[int(axis) % rank] = -1
    return values.reshape(shape)
