"""Operators of torch that coremltools 9.0 lacks, or gets wrong with today's numpy and torch.

Nothing is registered on import: `shims()` registers them for one conversion and removes them again, so that a user's
own use of coremltools in the same process finds it unchanged. Each entry states the versions that it was written for:
with a later version, only operators that are still missing are added, and none is replaced.

Every function takes coremltools' `context` and a `node` of the graph, and adds the MIL operators for the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.torch import ops, torch_op_registry
from coremltools.converters.mil.mil import Builder, types

from optimum_coreml.resizing import bicubic, bilinear

mb: Any = Builder
registry: Any = torch_op_registry._TORCH_OPS_REGISTRY

Convert = Callable[[Any, Any], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shim:
    """One function and the operators that it stands for.

    Attributes:
        names: the operators' names as coremltools looks them up: lower case, without the namespace.
        mends: versions of coremltools that have the operator and get it wrong; elsewhere only gaps are filled.
        why: the behaviour of coremltools without it.
    """

    names: tuple[str, ...]
    convert: Convert
    why: str
    mends: tuple[str, ...] = ()


@contextmanager
def shims() -> Iterator[None]:
    """Register the shims with coremltools within the block, then restore it. One conversion at a time
    (`coremltools_adapter.CONVERSION`).
    """
    known = registry.name_to_func_mapping
    before, own = dict(known), ops._group_norm_impl
    installed = version("coremltools")
    try:
        if installed in _NINE:  # both of coremltools' group operators call it
            ops._group_norm_impl = _group_norm
        for shim in SHIMS:
            for name in shim.names:
                if name not in known or installed in shim.mends:
                    known[name] = shim.convert
        yield
    finally:
        ops._group_norm_impl = own
        known.clear()
        known.update(before)


def _inputs(context: Any, node: Any, least: int) -> list[Any]:
    found: list[Any] = ops._get_inputs(context, node, min_expected=least)
    return found


def _constant(value: Any) -> Any:
    """Return the value of a constant; None where it is known only when the program runs."""
    return getattr(value, "val", value)


def _int(context: Any, node: Any) -> None:
    (x,) = _inputs(context, node, 1)[:1]
    if any(length != 1 for length in x.shape):
        raise ValueError(f"{node.kind}() of a tensor with more than one element: {x.shape}")
    if x.can_be_folded_to_const():
        result = mb.const(val=int(np.asarray(x.val).reshape(-1)[0]), name=node.name)
    else:
        one = mb.squeeze(x=x, name=f"{node.name}_item") if x.rank else x
        result = mb.cast(x=one, dtype="int32", name=node.name)
    context.add(result, node.name)


def _dtype_name(context: Any, node: Any, like: Any, position: int) -> str:
    """Return MIL's name of the element type that `new_*` gives: the requested one, or that of the tensor."""
    inputs = ops._get_inputs(context, node)
    asked = inputs[position] if context.frontend == ops.TorchFrontend.TORCHSCRIPT and len(inputs) > position else None
    asked = _constant(ops._get_kwinputs(context, node, "dtype", default=[asked])[0])
    if asked is None:
        return str(types.builtin_to_string(like.dtype))
    number = asked if isinstance(asked, int | np.integer) else ops.TORCH_DTYPE_TO_NUM[asked]
    return str(ops.NUM_TO_DTYPE_STRING[int(number)])


def _filled(context: Any, node: Any, size: Any, value: Any, dtype: str) -> None:
    """Add a tensor filled with one value. MIL fills in numbers only: booleans are cast to."""
    if isinstance(size, list | tuple):
        size = mb.concat(values=list(size), axis=0) if size else mb.const(val=np.zeros(0, np.int32))
    kind = "int32" if dtype == "bool" or "int" in dtype else dtype
    number = types.nptype_from_builtin(types.string_to_builtin(kind))(bool(value) if dtype == "bool" else value)
    if _constant(size) is not None and np.size(_constant(size)) == 0:
        result = mb.const(val=number)
    else:
        result = mb.fill(shape=size, value=number)
    if dtype == "bool":
        result = mb.cast(x=result, dtype="bool")
    context.add(mb.identity(x=result, name=node.name), node.name)


def _new(value: Any, position: int) -> Convert:
    """Return the converter of `new_ones`, `new_zeros` (a value) or `new_full` (None: the third argument)."""

    def convert(context: Any, node: Any) -> None:
        inputs = _inputs(context, node, 2)
        dtype = _dtype_name(context, node, inputs[0], position)
        given = _constant(inputs[2]) if value is None else value
        if given is None:
            raise NotImplementedError(f"{node.kind} with a value that is known only when the program runs")
        _filled(context, node, inputs[1], given, dtype)

    return convert


def _identity(context: Any, node: Any) -> None:
    context.add(mb.identity(x=_inputs(context, node, 1)[0], name=node.name), node.name)


def _where(context: Any, node: Any) -> None:
    inputs = _inputs(context, node, 1)
    if len(inputs) == 1:  # the indices of the non-zero elements
        ops._nonzero_as_tuple(context, node, inputs[0])
        return
    _select(context, node, *inputs[:3])


def _masked_fill(context: Any, node: Any) -> None:
    x, mask, value = _inputs(context, node, 3)[:3]
    if value.dtype != x.dtype:
        value = mb.cast(x=value, dtype=types.builtin_to_string(x.dtype))
    _select(context, node, mask, value, x)


def _select(context: Any, node: Any, condition: Any, a: Any, b: Any) -> None:
    """Add a `select` with broadcast operands: MIL takes the shape of `a` and `b` for the result, whatever the
    condition's is.
    """
    a, b = ops.promote_input_dtypes([a, b])
    if not types.is_bool(condition.dtype):
        condition = mb.cast(x=condition, dtype="bool")
    if condition.rank and not any(_covers(x.shape, condition.shape) for x in (a, b)):
        if types.is_bool(a.dtype):
            a = mb.logical_or(x=a, y=mb.logical_and(x=condition, y=mb.logical_not(x=condition)))
        else:
            word = types.builtin_to_string(a.dtype)
            nothing = mb.mul(x=mb.cast(x=condition, dtype=word), y=types.nptype_from_builtin(a.dtype)(0))
            a = mb.add(x=a, y=nothing)
    context.add(mb.select(cond=condition, a=a, b=b, name=node.name), node.name)


def _covers(shape: Any, other: Any) -> bool:
    """Whether broadcasting a tensor of `other` to one of `shape` leaves that unchanged. Two unknown lengths are assumed
    equal: where they are broadcast, one of them is written as 1.
    """
    return len(shape) >= len(other) and all(
        not (_is_one(mine) and not _is_one(theirs))
        for mine, theirs in zip(reversed(shape), reversed(other), strict=False)
    )


def _is_one(length: Any) -> bool:
    return isinstance(length, int | np.integer) and int(length) == 1


def _modulo(context: Any, node: Any) -> None:
    """Add the remainder, which `torch.export` applies to lengths of axes."""
    x, y = ops.promote_input_dtypes(_inputs(context, node, 2)[:2])
    context.add(mb.mod(x=x, y=y, name=node.name), node.name)


def _floor_divide(context: Any, node: Any) -> None:
    """Add a floor division that keeps integers: `torch.export` divides lengths of axes by it."""
    x, y = ops.promote_input_dtypes(_inputs(context, node, 2)[:2])
    context.add(mb.floor_div(x=x, y=y, name=node.name), node.name)


def _bitwise(operation: Callable[..., Any]) -> Convert:
    """Return the converter of a bitwise operator on booleans. Core ML has no operation on the bits of integers."""

    def convert(context: Any, node: Any) -> None:
        a, b = _inputs(context, node, 2)[:2]
        if not (types.is_bool(a.dtype) and types.is_bool(b.dtype)):
            found = ", ".join(types.builtin_to_string(x.dtype) for x in (a, b))
            raise NotImplementedError(f"{node.kind} of {found}: Core ML has it for booleans only")
        context.add(operation(x=a, y=b, name=node.name), node.name)

    return convert


def _attention(context: Any, node: Any) -> None:
    """Add coremltools' attention, with zeros for a fully masked query, as torch gives, instead of an average of all
    values.
    """
    inputs = _inputs(context, node, 3)
    place = 5 if "flash" in node.kind else 3
    mask = ops._get_kwinputs(context, node, "attn_mask", default=[inputs[place] if len(inputs) > place else None])[0]
    _WRITTEN_ATTENTION(context, node)
    if mask is None or not types.is_bool(mask.dtype):
        return
    found = context[node.name]
    word = types.builtin_to_string(found.dtype)
    sees = mb.reduce_max(x=mb.cast(x=mask, dtype=word), axes=[-1], keep_dims=True)
    # Selected, not multiplied: the fused operator may give NaN there.
    nothing = types.nptype_from_builtin(found.dtype)(0)
    context.add(mb.select(cond=mb.cast(x=sees, dtype="bool"), a=found, b=nothing), node.name, override=True)


_WRITTEN_ATTENTION = ops.scaled_dot_product_attention


def _group_norm(x: Any, num_groups: int, weight: Any, bias: Any, eps: float) -> Any:
    """Add coremltools' group norm, with support for a dynamic batch."""
    groups, channels = min(int(num_groups), int(x.shape[1])), int(x.shape[1])
    whole = mb.shape(x=x)
    batch = mb.slice_by_size(x=whole, begin=[0], size=[1])
    # Instance norm sums in 32 bits, also in a program of 16.
    grouped = mb.reshape(x=x, shape=mb.concat(values=[batch, np.array([groups, -1], np.int32)], axis=0))
    found = mb.reshape(x=mb.instance_norm(x=grouped, epsilon=np.float32(eps)), shape=whole)
    along = [1, channels] + [1] * (x.rank - 2)
    if weight is not None:
        found = mb.mul(x=found, y=mb.reshape(x=weight, shape=along))
    return found if bias is None else mb.add(x=found, y=mb.reshape(x=bias, shape=along))


def _unfold(context: Any, node: Any) -> None:
    """Add im2col as a convolution with the identity matrix, each block's elements as channels; the batch may be
    dynamic.
    """
    x, *rest = _inputs(context, node, 5)[:5]
    kernel, dilation, padding, stride = ([int(item) for item in np.reshape(_constant(value), -1)] for value in rest)
    if x.rank != 4:
        raise NotImplementedError(f"{node.kind} of a tensor of {x.rank} axes")
    count = int(x.shape[1]) * kernel[0] * kernel[1]
    unit = np.eye(count, dtype=types.nptype_from_builtin(x.dtype)).reshape(count, int(x.shape[1]), *kernel)
    pad = [padding[0], padding[0], padding[1], padding[1]]
    blocks = mb.conv(x=x, weight=unit, strides=stride, pad_type="custom", pad=pad, dilations=dilation)
    batch = mb.slice_by_size(x=mb.shape(x=x), begin=[0], size=[1])
    shape = mb.concat(values=[batch, np.array([count, -1], np.int32)], axis=0)
    context.add(mb.reshape(x=blocks, shape=shape, name=node.name), node.name)


def _names(name: str) -> tuple[str, ...]:
    """Return the spellings that the two frontends use for an operator that also exists as a method."""
    return (name, f"__{name}__", f"{name}.tensor", f"__{name}__.tensor", f"bitwise_{name}", f"bitwise_{name}.tensor")


_NINE = ("9.0",)

SHIMS: tuple[Shim, ...] = (
    Shim(
        names=("int", "_int"),
        convert=_int,
        mends=_NINE,
        why="calls int() on an array of one element, which numpy 2 refuses",
    ),
    Shim(names=("new_ones",), convert=_new(1, 2), why="has no such operator"),
    Shim(names=("new_zeros",), convert=_new(0, 2), mends=_NINE, why="gives floats, whatever the type of the tensor"),
    Shim(names=("new_full",), convert=_new(None, 3), mends=_NINE, why="ignores the type that is asked for"),
    Shim(names=("alias",), convert=_identity, why="has no such operator"),
    Shim(
        names=("where", "where.self", "where.scalarother", "where.scalarself", "where.scalar"),
        convert=_where,
        mends=_NINE,
        why="lacks some of these, and declares a wrong shape where the condition is larger than both values",
    ),
    Shim(
        names=("masked_fill", "masked_fill.scalar", "masked_fill.tensor"),
        convert=_masked_fill,
        mends=_NINE,
        why="declares a wrong shape where the mask is larger than the tensor",
    ),
    Shim(
        names=("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu"),
        convert=_attention,
        mends=_NINE,
        why="averages the values where a mask hides all of them from a query; torch gives zeros",
    ),
    Shim(names=("multiply", "multiply.tensor"), convert=ops.mul, why="knows it as mul alone"),
    Shim(names=("im2col",), convert=_unfold, mends=_NINE, why="stops where the batch is open"),
    Shim(
        names=("upsample_bilinear2d", "upsample_bilinear2d.vec"),
        convert=bilinear,
        mends=_NINE,
        why="stops where the size of the result is known only when the program runs",
    ),
    Shim(names=("upsample_bicubic2d", "upsample_bicubic2d.vec"), convert=bicubic, why="has no such operator"),
    Shim(
        names=("floordiv", "floor_divide"),
        convert=_floor_divide,
        mends=_NINE,
        why="gives floats for whole numbers, which no shape takes",
    ),
    Shim(names=("mod",), convert=_modulo, why="has no such operator"),
    Shim(
        names=_names("and"),
        convert=_bitwise(mb.logical_and),
        mends=_NINE,
        why="does not know the spellings of torch.export",
    ),
    Shim(
        names=_names("or"),
        convert=_bitwise(mb.logical_or),
        mends=_NINE,
        why="does not know the spellings of torch.export",
    ),
    Shim(
        names=_names("xor"),
        convert=_bitwise(mb.logical_xor),
        mends=_NINE,
        why="does not know the spellings of torch.export",
    ),
)
