"""Inputs that change nothing: those of a layout that are never read, and further names that are taken and ignored."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from optimum_core.models.eager.calls import alike, ask
from optimum_core.models.eager.kept_answers import ask_once
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.eager.reading import reads
from optimum_core.models.inputs.layouts import InputLayout, Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.types.arrays import Arrays, NDArray

log = logging.getLogger(__name__)
#: Beyond what a model compares with; its square is a float too.
_FAR = 1e18
_MAYBE_IDLE = frozenset({"pixel_mask", "decoder_attention_mask", "rewards"})


def without_idle(module: Any, layout: Layout, arrays: Mapping[str, Any]) -> Layout:
    """Return the layout without inputs that the eager model ignores (token types of some models, rewards of others): a
    tracer drops them too. A graph has them already, so that its runtimes want them."""
    if getattr(module, "is_graph", False):
        return layout
    for item in layout.inputs:
        maybe = item.kind in ("types", "given") or item.name in _MAYBE_IDLE
        if maybe and item.name not in layout.steady and _is_idle(module, layout, arrays, item):
            layout = layout.without(item.name)
    return layout


def _is_idle(module: Any, layout: Layout, arrays: Mapping[str, Any], item: InputLayout) -> bool:
    """Whether the eager model computes the same without this input as with it, at the user's values and at others. What
    is no input of a text must not be read at all: it may count at one value alone, as the id of a single token does."""
    if len(layout.inputs) == 1:
        return False
    drawn = [draw(layout, Case(name="idle", seed=seed), arrays) for seed in (0, 21, 22)]
    usual = drawn[0][item.name]
    if item.kind == "given" and any(np.array_equal(inputs[item.name], usual) for inputs in drawn[1:]):
        return False  # values that cannot be changed prove nothing
    others = (*_patterns(usual.shape), *(_far(usual) if item.kind == "given" else ()))
    drawn += [{**drawn[0], item.name: other.astype(usual.dtype)} for other in others]
    for inputs in drawn:
        rest = {name: array for name, array in inputs.items() if name != item.name}
        try:
            with_it, without = flatten(ask_once(module, inputs)), flatten(ask_once(module, rest))
        except Exception as error:  # noqa: BLE001 - the input is required, or these values are refused
            log.debug("input %s is not idle: %r", item.name, error)
            return False
        if with_it.keys() != without.keys() or not all(alike(without[key], with_it[key]) for key in without):
            return False
    return item.kind != "given" or not reads(module, drawn[0], item.name)


def _patterns(shape: tuple[int, ...]) -> Iterator[NDArray]:
    """Yield zeros and ones, alternating and in blocks: some models compare neighbours, others look at each alone."""
    by_turns = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2
    yield by_turns
    if shape:
        columns = np.arange(shape[-1])
        yield np.broadcast_to((columns >= shape[-1] // 2).astype(np.int64), shape)
        yield np.broadcast_to((columns < (shape[-1] + 1) // 2).astype(np.int64), shape)


def _far(usual: NDArray) -> Iterator[NDArray]:
    """Yield values on either side of what a model may compare with: zeros and ones, and on to the ends of the type."""
    ends: tuple[float, ...] = ()
    if usual.dtype.kind == "f":
        ends = (-_FAR, -1e4, -1.0, 1e4, _FAR)
    elif usual.dtype.kind in "iu":
        known = np.iinfo(usual.dtype)
        ends = tuple(value for value in (known.min, -1, 100, 10**4, known.max) if known.min <= value <= known.max)
    for value in (0, 1, *ends):
        yield np.full(usual.shape, value, usual.dtype)


def ignored_inputs(module: Any, inputs: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield those of these further inputs that the eager model takes without a change in its outputs, at several
    values. A graph ignores none: it has no place for them, and what it lacks may say something (a mask of padding)."""
    if getattr(module, "is_graph", False):
        return
    try:
        without = flatten(ask_once(module, inputs))
    except Exception as error:  # noqa: BLE001 - the model needs one of them
        log.debug("without %s it does not run: %r", ", ".join(shapes), error)
        return
    for name, shape in sorted(shapes.items()):
        if name in inputs:
            continue
        try:
            answers = [flatten(ask(module, {**inputs, name: extra})) for extra in _patterns(shape)]
        except Exception as error:  # noqa: BLE001 - the eager model refuses the input, so it is not ignored
            log.debug("input %s is refused: %r", name, error)
            continue
        if all(alike(without[key], given_too[key]) for given_too in answers for key in without):
            yield name


def shapes_beside(inputs: Arrays, names: Iterable[str], made: Arrays) -> dict[str, tuple[int, ...]]:
    """Return shapes of inputs that the processor may add: as it made them, or as those of the inputs they belong to."""
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        text = inputs.get("decoder_input_ids" if name.startswith("decoder_") else "input_ids")
        pixels = inputs.get("pixel_values")
        if name.startswith("pixel_") and pixels is not None and pixels.ndim > 2:
            found[name] = (pixels.shape[0], *pixels.shape[-2:])
        elif text is not None and not name.startswith("pixel_"):
            found[name] = text.shape
        elif name in made and made[name].dtype.kind in "iub":
            first = next(iter(inputs.values()))
            found[name] = (first.shape[0], *made[name].shape[1:]) if first.ndim else made[name].shape
        elif name == "attention_mask" and "input_values" in inputs:
            found[name] = inputs["input_values"].shape
    return found
