"""Defaults of optional inputs, proved on the eager model with padding among the ids and without."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from optimum_core.models.eager.calls import alike
from optimum_core.models.eager.kept_answers import ask_once
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.inputs.layouts import InputLayout, Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.models.signatures.eager_trials import Trials
from optimum_core.types.arrays import Arrays
from optimum_core.types.tensors import TensorSpec, made_of

log = logging.getLogger(__name__)

Default = Literal["ones", "zeros", "tokens", "leading"]


def default_of(trials: Trials, layout: Layout, item: InputLayout) -> tuple[Default | None, int | None]:
    """Find the value that the eager model uses for an input that is left out.

    Returns:
        The default, and the padding id if it depends on that; None and None if the input is required.
    """
    elsewhere = {axis for other in layout.inputs if other.name != item.name for axis in other.axes}
    named = {axis for axis in item.axes if isinstance(axis, str)}
    if (
        item.kind not in ("mask", "types", "indices") or not named <= elsewhere
    ):  # its length does not follow from other inputs
        return None, None
    calls = list(_calls(trials.arrays, layout, item))
    pad = layout.special.get("pad_token_id")
    proposals: list[tuple[Default, int | None]] = [("ones", None)] if item.kind == "mask" else [("zeros", None)]
    if len(calls) > 1:  # the call has ids
        proposals += [("tokens", pad), ("leading", pad)]
    try:
        left_out = [_flat(trials.module, call, item.name) for call in calls]
        for default, padding in proposals:
            spec = TensorSpec(name=item.name, dtype=item.dtype, shape=item.axes, default=default, pad=padding)
            filled = (spec.left_out(call[item.name], call.get(made_of(item.name))) for call in calls)
            stated = [{**call, item.name: mask} for call, mask in zip(calls, filled, strict=True)]
            if all(_same(_flat(trials.module, call), want) for call, want in zip(stated, left_out, strict=True)):
                return default, padding
    except Exception as error:  # noqa: BLE001 - then the input is required
        log.debug("input %s cannot be left out: %r", item.name, error)
    return None, None


def _calls(arrays: Mapping[str, Any], layout: Layout, item: InputLayout) -> Iterator[Arrays]:
    """Yield calls without padding, and with padding among the ids: at the end, at the start, and between."""
    whole = draw(layout, Case(name="default", padding="none"), arrays)
    yield whole
    pad, name = layout.special.get("pad_token_id"), made_of(item.name)
    if item.kind != "mask" or pad is None or name not in whole or whole[name].shape != whole[item.name].shape:
        return
    length = whole[name].shape[-1]
    for places in (slice(length - length // 3, None), slice(0, length // 3), slice(1, 2)):
        padded = whole[name].copy()
        if places.stop is None:  # the end of the text comes before its padding: some models look for it in every row
            padded[-1, ..., places.start - 1] = padded[-1, ..., -1]
        padded[-1, ..., places] = pad
        yield {**whole, name: padded}


def _flat(module: Any, inputs: Mapping[str, Any], without: str = "") -> dict[str, Any]:
    return flatten(ask_once(module, {name: array for name, array in inputs.items() if name != without}))


def _same(stated: Mapping[str, Any], left_out: Mapping[str, Any]) -> bool:
    return all(alike(left_out[name], stated[name]) for name in stated if name in left_out)
