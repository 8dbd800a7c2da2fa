"""Whether a plain module's answers follow the type of an input, so that converting the input would change them.

Eager doubles a float64 to a float64, where a graph of float32 gives a float32, and whole numbers of 8 bits wrap around.
A module with weights of float32 mostly refuses float64; then a converted input is answered where eager answers none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from optimum_core.error_scales import finite_pair, relative_error
from optimum_core.errors import ExportError
from optimum_core.models.eager.bounded_calls import ReadsNumberError, outputs_in_time
from optimum_core.models.eager.calls import is_plain
from optimum_core.models.inputs.layouts import InputLayout, Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.types.arrays import Arrays, NDArray

log = logging.getLogger(__name__)

#: By the kind of an input, types that a call's checks would convert to its own.
_CONVERTED = {
    "f": ("float64", "float32", "float16"),
    "i": ("int64", "int32", "uint8", "bool"),
    "u": ("uint64", "uint32", "uint16", "uint8"),
}
#: The greatest number of 8 bits: of types to there, sums and products wrap around soon.
_NARROW = 255
#: Relative difference up to which answers count as equal: their inputs are, apart from rounding on the way.
_ROUNDING = 1e-3


def follows_type(module: Any, layout: Layout, item: InputLayout, arrays: Mapping[str, Any]) -> bool:
    """Whether the eager model answers a call with an input of another type otherwise than with the values converted.

    Args:
        item: the input.
        arrays: samples of the user.
    """
    if not is_plain(module) or item.kind != "given":
        return False
    inputs = draw(layout, Case(name="types", padding="none"), arrays)
    try:
        others = _others(inputs[item.name])
        return any(_differs(module, inputs, item.name, other) for other in others) or _overflows(
            module, inputs, item.name
        )
    except (ReadsNumberError, ExportError) as error:  # it counts, or takes long
        log.debug("whether answers follow the type of %s is not known: %r", item.name, error)
        return False


def _others(array: NDArray) -> Iterator[NDArray]:
    """Yield the values of an input in other types; of narrow whole numbers also the greatest, which wrap around."""
    for name in _CONVERTED.get(array.dtype.kind, ()):
        if name == array.dtype.name:
            continue
        made = array.astype(name)
        if array.dtype.kind == "f" or (made == array).all():
            yield made
        whole = array.dtype.kind in "iu" and name != "bool"
        if whole and (most := min(np.iinfo(made.dtype).max, np.iinfo(array.dtype).max)) <= _NARROW:
            yield np.full_like(made, most)


def _differs(module: Any, inputs: Arrays, name: str, other: NDArray) -> bool:
    have, want = _both(module, inputs, name, other)
    return have.keys() != want.keys() or any(not equal(have[key], want[key]) for key in want)


def _overflows(module: Any, inputs: Arrays, name: str) -> bool:
    """Whether numbers become infinite on the way, from the greatest that 16 bits hold, which do not in more bits."""
    array, greatest = inputs[name], np.finfo(np.float16).max
    if array.dtype.kind != "f":
        return False
    finite = np.where(np.isfinite(array), array, 0).astype(np.float64)
    most = np.abs(finite).max(initial=0)
    if not most:
        return False
    largest = (finite * (greatest / most)).clip(-greatest, greatest).astype(np.float16)
    have, want = _both(module, inputs, name, largest)
    return have.keys() == want.keys() and any(
        have[key].dtype.kind == want[key].dtype.kind == "f"
        and bool((np.isfinite(want[key]) & ~np.isfinite(have[key])).any())
        for key in want
        if have[key].shape == want[key].shape
    )


def _both(module: Any, inputs: Arrays, name: str, other: NDArray) -> tuple[Arrays, Arrays]:
    """Return the answers to a call with an input of another type, and with its values converted; none where the eager
    model refuses one of them."""
    as_given = other.astype(inputs[name].dtype)
    try:
        return (
            outputs_in_time(module, {**inputs, name: other}),
            outputs_in_time(module, {**inputs, name: as_given}),
        )
    except (ReadsNumberError, ExportError):
        raise
    except Exception as error:  # noqa: BLE001 - the eager model refuses it, by an error of any type
        log.debug("%s of %s: %r", name, other.dtype, error)
        return {}, {}


def equal(have: NDArray, want: NDArray) -> bool:
    """Whether two answers are of one type and shape, and equal apart from rounding."""
    if (have.dtype, have.shape) != (want.dtype, want.shape):
        return False
    if want.dtype.kind != "f":
        return bool((have == want).all())
    pair = finite_pair(want.astype(np.float64), have.astype(np.float64))
    return pair is not None and relative_error(*pair) <= _ROUNDING
