"""Resizing of images to lengths that are known only when the program runs, as products with two matrices.

MIL's own operators take constant factors or sizes. Here the program computes a matrix for each axis from the two
lengths: a row for each new pixel, with the weights of the old ones. Coordinates are computed in 32 bits in a program of
16, too: fp16 loses half pixels from the 1024th on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.torch import ops
from coremltools.converters.mil.mil import Builder, types

from optimum_coreml.fp16 import EXACT

mb: Any = Builder
#: torch's coefficient of cubic interpolation.
_A = -0.75


def bilinear(context: Any, node: Any) -> None:
    """Add coremltools' bilinear operator where sizes or factors are constants that it can use; else the matrix
    products.
    """
    inputs = ops._get_inputs(context, node, min_expected=3)
    size = inputs[1]
    of_size = isinstance(size, list | tuple) or (getattr(size, "val", None) is not None and _is_open(inputs[0]))
    if of_size and all(factor is None for factor in _factors(context, node, inputs)):
        _resize(context, node, inputs, cubic=False)
    else:
        _WRITTEN_BILINEAR(context, node)


def bicubic(context: Any, node: Any) -> None:
    """Add the matrix products: MIL has no cubic interpolation."""
    _resize(context, node, ops._get_inputs(context, node, min_expected=3), cubic=True)


_WRITTEN_BILINEAR = ops.upsample_bilinear2d


def _is_open(x: Any) -> bool:
    return any(not isinstance(length, int | np.integer) for length in x.shape[2:])


def _are_sizes(size: Any) -> bool:
    """Whether an output's lengths were given, rather than factors."""
    return isinstance(size, list | tuple) or getattr(size, "val", None) is not None


def _resize(context: Any, node: Any, inputs: list[Any], *, cubic: bool) -> None:
    x, size, aligned = inputs[0], inputs[1], bool(inputs[2].val)
    if x.dtype not in (types.fp16, types.fp32):
        x = mb.cast(x=x, dtype="fp32")
    lengths = mb.shape(x=x)
    found = x
    for axis, factor in zip((2, 3), _factors(context, node, inputs), strict=True):
        name = f"{EXACT}{node.name}_{axis}"
        old = _number(mb.gather(x=lengths, indices=axis, axis=0), f"{name}_old")
        if _are_sizes(size):
            new = _number(size[axis - 2] if isinstance(size, list | tuple) else int(size.val[axis - 2]), f"{name}_new")
        else:
            new = mb.floor(x=mb.mul(x=old, y=np.float32(factor), name=f"{name}_scaled"), name=f"{name}_new")
        weights = _weights(old, new, factor, name, aligned=aligned, cubic=cubic)
        found = mb.matmul(x=weights, y=found) if axis == 2 else mb.matmul(x=found, y=weights, transpose_y=True)
    context.add(mb.identity(x=found, name=node.name), node.name)


def _factors(context: Any, node: Any, inputs: list[Any]) -> tuple[float | None, float | None]:
    """Return the scale factors of the two axes; None: the factor follows from the lengths."""
    given = [_value(item) for item in inputs[3:5]]
    if len(given) == 1 and given[0] is not None:
        given = [float(_value(item)) for item in given[0]]
    pair = [*given, None, None][:2]
    named = [ops._get_kwinputs(context, node, name, default=[None])[0] for name in ("scales_h", "scales_w")]
    return tuple(_value(name) if name is not None else item for name, item in zip(named, pair, strict=True))


def _value(item: Any) -> Any:
    return getattr(item, "val", item)


def _number(length: Any, name: str) -> Any:
    """Return a length as a float."""
    if isinstance(length, int | float | np.number):
        return mb.const(val=np.float32(length), name=name)
    return mb.cast(x=length, dtype="fp32", name=name)


def _weights(old: Any, new: Any, factor: float | None, name: str, *, aligned: bool, cubic: bool) -> Any:
    """Return the matrix (new pixels by old ones) of the weight of each old pixel in each new one."""

    def say(step: str) -> str:
        return f"{name}_{step}"

    one, half = np.float32(1), np.float32(0.5)
    rows = mb.range_1d(start=np.float32(0), end=new, step=one, name=say("rows"))
    columns = mb.range_1d(start=np.float32(0), end=old, step=one, name=say("columns"))
    last = mb.sub(x=old, y=one, name=say("last"))
    if aligned:
        gaps = mb.maximum(x=mb.sub(x=new, y=one, name=say("gaps")), y=one, name=say("some_gaps"))
        place = mb.mul(x=rows, y=mb.real_div(x=last, y=gaps, name=say("step")), name=say("place"))
    else:
        step = np.float32(1 / factor) if factor else mb.real_div(x=old, y=new, name=say("step"))
        middle = mb.mul(x=mb.add(x=rows, y=half, name=say("middle")), y=step, name=say("scaled_middle"))
        place = mb.sub(x=middle, y=half, name=say("place"))
    columns = mb.expand_dims(x=columns, axes=[0], name=say("across"))
    if not cubic:
        place = mb.minimum(x=mb.maximum(x=place, y=np.float32(0), name=say("from_0")), y=last, name=say("within"))
        place = mb.expand_dims(x=place, axes=[1], name=say("down"))
        away = mb.abs(x=mb.sub(x=place, y=columns, name=say("difference")), name=say("away"))
        return mb.relu(x=mb.sub(x=one, y=away, name=say("weight")), name=say("weights"))
    below = mb.floor(x=place, name=say("below"))
    rest = mb.sub(x=place, y=below, name=say("rest"))
    total = None
    for offset in (-1, 0, 1, 2):
        spot = mb.add(x=below, y=np.float32(offset), name=say(f"spot{offset}"))
        spot = mb.minimum(x=mb.maximum(x=spot, y=np.float32(0), name=say(f"at_0_{offset}")), y=last)
        hit = mb.equal(x=mb.expand_dims(x=spot, axes=[1]), y=columns)
        away = mb.abs(x=mb.sub(x=rest, y=np.float32(offset), name=say(f"rest{offset}")), name=say(f"away{offset}"))
        weight = mb.expand_dims(x=_cubic(away, abs(offset - 0.5) < 1, say, offset), axes=[1])
        part = mb.mul(x=mb.cast(x=hit, dtype="fp32", name=say(f"hit{offset}")), y=weight, name=say(f"part{offset}"))
        total = part if total is None else mb.add(x=total, y=part, name=say(f"sum{offset}"))
    return total


def _cubic(t: Any, near: bool, say: Any, offset: int) -> Any:
    """Return Keys' kernel at a distance t: for the two near pixels, up to 1; for the far ones, 1 to 2."""
    terms = (_A + 2, -(_A + 3), 0.0, 1.0) if near else (_A, -5 * _A, 8 * _A, -4 * _A)
    found: Any = np.float32(terms[0])
    for place, term in enumerate(terms[1:]):
        product = mb.mul(x=t, y=found, name=say(f"power{offset}_{place}"))
        found = mb.add(x=product, y=np.float32(term), name=say(f"poly{offset}_{place}"))
    return found
