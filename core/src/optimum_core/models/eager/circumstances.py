"""Circumstances of a call that no graph knows: its thread, inference mode, where its tensors lie in memory, and whether
two inputs are one tensor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import torch

from optimum_core.models.eager.calls import apart, as_tensor, call, fresh
from optimum_core.models.eager.outputs import Outputs
from optimum_core.types.arrays import ArrayMapping, NDArray

log = logging.getLogger(__name__)

Inputs = Mapping[str, Any]
IsSame = Callable[[NDArray, NDArray], bool]


def circumstance_that_counts(
    module: torch.nn.Module, inputs: ArrayMapping, outputs: ArrayMapping, is_same: IsSame
) -> tuple[str, str] | None:
    """Return the name of an output that follows the circumstances of a call, and those in words; None: none does.

    Calls that the module refuses show nothing.

    Args:
        outputs: those of an ordinary call with these inputs.
        is_same: whether two outputs differ by rounding alone.
    """
    have = _attempt(_all_changed, module, inputs)
    if not have or _other_output(have, outputs, is_same) is not None:  # else, as a rule, one call has shown it
        for words, answer in _CHANGES.items():
            if (name := _other_output(_attempt(answer, module, inputs), outputs, is_same)) is not None:
                return name, words
    for words, equal, same in _of_one_tensor(inputs):
        want = _attempt(_answer, module, equal)
        if want and (name := _other_output(_attempt(_answer, module, same), want, is_same)) is not None:
            return name, words
    return None


def _other_output(have: ArrayMapping, want: ArrayMapping, is_same: IsSame) -> str | None:
    """Return the name of an output that two answers differ in; None: there is none, or one of them is empty."""
    differing = (name for name, array in want.items() if name not in have or not is_same(array, have[name]))
    return next(differing, None) if have else None


def _attempt(answer: Callable[[torch.nn.Module, Inputs], Outputs], module: torch.nn.Module, inputs: Inputs) -> Outputs:
    """Return the outputs; none where the module refuses the call."""
    try:
        return answer(module, inputs)
    except Exception as error:  # noqa: BLE001 - code of the model's
        log.debug("%s refuses a call in other circumstances: %r", type(module).__name__, error)
        return Outputs()


def _answer(module: torch.nn.Module, tensors: Inputs) -> Outputs:
    return Outputs.of(call(fresh(module), tensors))


def _in_inference_mode(module: torch.nn.Module, inputs: Inputs) -> Outputs:
    with torch.inference_mode():
        return _answer(module, apart(inputs))


def _in_another_thread(module: torch.nn.Module, inputs: Inputs) -> Outputs:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_answer, module, apart(inputs)).result()


def _inside_others(module: torch.nn.Module, inputs: Inputs) -> Outputs:
    return _answer(module, {name: _inside_another(as_tensor(value)) for name, value in inputs.items()})


def _inside_another(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor as a view that begins at the second element of another, so that its address is no round one."""
    room = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype)
    return room[1:].view(tensor.shape).copy_(tensor)


def _all_changed(module: torch.nn.Module, inputs: Inputs) -> Outputs:
    def changed() -> Outputs:
        with torch.inference_mode():
            return _inside_others(module, inputs)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(changed).result()


_CHANGES = {
    "in another thread": _in_another_thread,
    "in torch's inference mode": _in_inference_mode,
    "where its inputs are views that begin inside other tensors": _inside_others,
}


def _of_one_tensor(inputs: ArrayMapping) -> Iterator[tuple[str, Inputs, Inputs]]:
    """Yield pairs of inputs of one shape and type in words, with the inputs of a call in which they are equal tensors,
    and of one in which they are the same tensor."""
    for first, second in combinations(inputs, 2):
        one, other = inputs[first], inputs[second]
        if (one.shape, one.dtype) == (other.shape, other.dtype):
            equal = apart({**inputs, second: one})
            same = apart(inputs) | dict.fromkeys((first, second), as_tensor(one).clone())
            yield f"where {first!r} and {second!r} are one tensor", equal, same
