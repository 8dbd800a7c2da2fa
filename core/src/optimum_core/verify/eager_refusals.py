"""Eager models that raise for some values of their inputs, or for some lengths together, as no graph does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from traceback import extract_tb
from typing import Any

from optimum_core.models.eager.calls import apart, call, fresh
from optimum_core.models.exporting.value_branches import Place, named, raised_at, value_checks
from optimum_core.models.inputs.layouts import PICTURE
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.axes import LONG
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types import AxisRange, TensorSpec

log = logging.getLogger(__name__)


def refusing_places(module: Any, signature: ModelSignature) -> tuple[str, ...]:
    """Return the places in the code where the model raises for values or lengths which the inputs' bounds allow:
    "file.py:line", in order."""
    found = {*_checks_of_values(module, signature), *_checks_of_lengths(module, signature)}
    return tuple(map(named, sorted(found)))


def _checks_of_lengths(module: Any, signature: ModelSignature) -> Iterator[Place]:
    """Yield the places, maybe in torch, where the model raises at lengths within its ranges."""
    for lengths in _lengths_within(signature):
        inputs = signature.draw(Case(name="lengths", lengths=lengths, padding="none", seed=98))
        if (problem := _error_of(module, inputs)) is not None:
            frame = extract_tb(problem.__traceback__)[-1]
            yield frame.filename, frame.lineno or 0


def _lengths_within(signature: ModelSignature) -> Iterator[Mapping[str, int]]:
    """Yield lengths within the ranges that a model may refuse all the same: all axes at their least together, and those
    at which its comparisons of sizes turn out otherwise. The axes of pictures and sounds keep their lengths."""
    axes = [axis for axis in signature.axes if axis not in (*PICTURE, "samples", "frames")]
    ranges = {axis: signature.ranges.get(axis, AxisRange()) for axis in axes}
    if len(axes) > 1:
        yield {axis: ranges[axis].least for axis in axes}
    yield from signature.joint
    for axis, known in ranges.items():
        turns = {length for turn in signature.switches.get(axis, ()) for length in (turn, turn + 1)}
        most = min(known.greatest or LONG, LONG)
        yield from ({axis: length} for length in sorted(turns) if known.least <= length <= most)


def _checks_of_values(module: Any, signature: ModelSignature) -> set[Place]:
    """Return the places where the model raises for some values of its inputs which the inputs' bounds allow.

    The classifiers of BART refuse rows with unequal numbers of end tokens, and a module may `assert` what it needs.
    """
    inputs = apart(signature.sample or signature.draw(Case(name="checks", seed=98)))
    copy = fresh(module)

    def run(*tensors: Any) -> None:
        call(copy, dict(zip(inputs, tensors, strict=True)))

    try:
        found = set(value_checks(run, tuple(inputs.values())))
    except Exception as error:  # noqa: BLE001 - the model's code, under modes of torch that it may not know
        log.debug("checks of values are not looked for: %r", error)
        return set()
    for beyond in _beyond_bounds(signature) if found else ():
        problem = _error_of(module, beyond)
        found = {place for place in found if problem is None or not raised_at(place, problem)}
    return found


def _beyond_bounds(signature: ModelSignature) -> Iterator[dict[str, Any]]:
    """Yield calls with one value just beyond a bound of its input: a check that refuses it only repeats the bound."""
    inputs = apart(signature.draw(Case(name="beyond", padding="none", seed=98)))
    for spec in signature.inputs:
        usual = inputs[spec.name]
        for column, bounds in _bounds_by_column(spec.at(signature.layout.lengths)) if usual.numel() else ():
            for bound, step in zip(bounds, (-1, 1), strict=True):
                if bound is not None:
                    changed = usual.clone()
                    view = changed if column is None else changed[..., column]
                    view[tuple(length // 2 for length in view.shape)] = bound + step
                    yield {**inputs, spec.name: changed}


def _bounds_by_column(spec: TensorSpec) -> Iterator[tuple[int | None, tuple[float | None, float | None]]]:
    """Yield the least and the greatest value in each column of the last axis; None: in all of them."""
    columns = spec.columns or ((spec.least, spec.greatest),)
    for index, bounds in enumerate(columns):
        yield (index if len(columns) > 1 else None), bounds


def _error_of(module: Any, inputs: Mapping[str, Any]) -> Exception | None:
    try:
        call(fresh(module), apart(inputs))
    except Exception as error:  # noqa: BLE001 - the eager model refuses it, by an error of any type
        return error
    return None
