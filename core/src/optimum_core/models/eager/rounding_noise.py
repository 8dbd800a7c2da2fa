"""Outputs of the eager model where its operators rounded otherwise, and took equal values in another order: what a
runtime may do as well. The inputs stay exact, so that a runtime has to round 0.5 as eager does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from optimum_core.models.eager.calls import apart, call, fresh
from optimum_core.models.eager.operator_watch import OperatorWatch
from optimum_core.models.eager.outputs import as_array, flatten

#: The whole number from which on a float of 32 bits does not hold each.
_WHOLE = 2**24
#: Relative change by which rounding is imitated: a few units in the last place of 32 bits.
_ROUNDING = 1e-6
#: Operators by which one float of 32 bits results from others in one way on every runtime: moved, compared, chosen,
#: rounded to whole numbers, or of one rounding that the standard of floats prescribes.
_NAMES = """
    abs add alias all amax amin any arange argmax argmin argsort as_strided bincount bitwise_and bitwise_not
    bitwise_or bitwise_xor broadcast_to bucketize cat ceil clamp clamp_max clamp_min clone constant_pad_nd copy
    copysign cummax cummin detach diag diag_embed diagonal embedding empty empty_like eq expand fill flip floor
    floor_divide fmax fmin fmod frac full full_like gather ge gt heaviside hardtanh index index_put index_select
    isfinite isinf isnan kthvalue le lift_fresh logical_and logical_not logical_or logical_xor lt masked_fill
    masked_scatter masked_select max maximum max_pool2d_with_indices median min minimum mode mul narrow ne neg
    nonzero ones ones_like permute relu remainder repeat reshape roll round rsub scatter searchsorted select sgn
    sign signbit slice sort split split_with_sizes squeeze stack sub t take threshold tile topk transpose tril
    triu trunc unbind unfold unsqueeze view where zeros zeros_like unique_consecutive unique_dim
    _local_scalar_dense _reshape_alias _unique2 _unsafe_view
"""
_EXACT = frozenset(_NAMES.split())
#: Operators that saturate: a mask's -1e9 is the same on every runtime, and a part of it, as noise, would be all.
_SATURATING = frozenset({"div", "exp", "logsumexp"})
#: The magnitude from which those do not tell values apart by their last places.
_SATURATED = 1e3
#: Elements from which a weight stays as it is: what it is multiplied by has noise, and copies of weights take long.
_LARGE_WEIGHT = 2**16
#: Signs of the changes, which repeat after 13, and how many stand in one row.
_PERIOD = 13 * 256
#: Operators whose choice among equal values is their own.
_CHOOSING = frozenset({"topk", "sort", "argsort", "kthvalue", "median", "mode", "max", "min", "argmax", "argmin"})


def outputs_with_noise(module: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the eager model's outputs by name, as a runtime might give them that rounds otherwise."""
    copy = fresh(module)
    with _Noise(copy):
        found = call(copy, apart(inputs))
    return {name: as_array(tensor).copy() for name, tensor in flatten(found).items()}


class _Noise(OperatorWatch):
    """Changes the floats that each inexact operator reads, and the order of equal values in those that choose."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        weights = (*module.parameters(), *module.buffers())
        self._kept = {item.untyped_storage().data_ptr() for item in weights if item.numel() > _LARGE_WEIGHT}

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        writes = func._schema.is_mutable
        name = func.overloadpacket.__name__
        if name in _CHOOSING and not writes and not kwargs.get("stable") and _has_places(args):
            return _from_the_back(func, args, kwargs)
        # (0.5).round() differs from that of 0.4999995: what is exact keeps its inputs.
        if name == "_to_copy" and not writes:
            return _converted(args[0], func(*args, **kwargs))
        base = name.removesuffix("_")
        if base in _EXACT or _is_view(func) or (base == "div" and kwargs.get("rounding_mode")):
            return func(*args, **kwargs)
        change = self._change_for(base)
        if not writes and not any(map(_is_float, tree_leaves((args, kwargs)))):
            return tree_map(change, func(*args, **kwargs))
        if writes and name.endswith("_") and _is_float(args[0]):
            args[0].copy_(change(args[0]))
        # What an operator writes to is the model's own tensor, and no changed copy of it.
        written = {item.name for item in func._schema.arguments if item.alias_info is not None}
        places = [item.name for item in func._schema.arguments[: len(args)]]
        args = [arg if key in written else tree_map(change, arg) for key, arg in zip(places, args, strict=True)]
        kwargs = {key: arg if key in written else tree_map(change, arg) for key, arg in kwargs.items()}
        return func(*args, **kwargs)

    def _change_for(self, operator: str) -> Callable[[Any], Any]:
        """Return what changes the values that an operator reads."""
        saturates = operator in _SATURATING or "softmax" in operator or "attention" in operator

        def change(value: Any) -> Any:
            if not _is_float(value) or value.untyped_storage().data_ptr() in self._kept:
                return value
            made = _changed(value)
            return torch.where(value.abs() >= _SATURATED, value, made) if saturates else made

        return change


def _is_view(func: Any) -> bool:
    return any(item.alias_info is not None and not item.alias_info.is_write for item in func._schema.arguments)


def _is_float(value: Any) -> bool:
    """Whether something is a tensor of floats that lie one after the other; nested and sparse ones stay as they are."""
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return is_float and not value.is_nested and value.layout is torch.strided


def _has_places(args: Any) -> bool:
    return isinstance(args[0], torch.Tensor) and args[0].dim() > 0 and args[0].numel() > 0


def _changed(value: torch.Tensor) -> torch.Tensor:
    """Return a copy of floats in which each is a little greater or a little less."""
    signs = torch.arange(_PERIOD, device=value.device) * 7919 % 13 % 2 * 2 - 1
    factors = (1 + _ROUNDING * signs.double()).to(value.dtype)
    made = value.clone(memory_format=torch.contiguous_format)
    flat = made.view(-1)
    whole = flat.numel() // _PERIOD * _PERIOD
    flat[:whole].view(-1, _PERIOD).mul_(factors)
    flat[whole:].mul_(factors[: flat.numel() - whole])
    return made


def _converted(value: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Return a conversion, changed where a whole number was rounded."""
    if _is_float(value) or not _is_float(made):
        return made
    return torch.where(made.abs() > _WHOLE, _changed(made), made)


def _from_the_back(func: Any, args: Any, kwargs: Any) -> Any:
    """Return what an operator chooses among the values in the opposite order, by the places that they have."""
    values, names = args[0], [item.name for item in func._schema.arguments]
    if "dim" not in names:
        return func(*args, **kwargs)  # the value alone
    place = names.index("dim")
    dim = args[place] if len(args) > place else kwargs.get("dim")
    if dim is None and "arg" not in func.overloadpacket.__name__:
        dim = -1
    dims = list(range(values.dim())) if dim is None else [dim]
    count = values.numel() if dim is None else values.shape[dim]
    found = func(values.flip(dims), *args[1:], **kwargs)
    return count - 1 - found if isinstance(found, torch.Tensor) else (found[0], count - 1 - found[1], *found[2:])
