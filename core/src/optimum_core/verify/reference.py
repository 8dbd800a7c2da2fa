"""The eager model's word on every case, taken once, before anything is exported or patched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from optimum_core.errors import VerificationError
from optimum_core.models.blueprint import Blueprint, lengths_beside
from optimum_core.models.flat import eager_outputs
from optimum_core.models.samples import Case
from optimum_core.types import Lengths
from optimum_core.verify.comparison import ReferenceCase, compare, tolerance_of

#: Beyond the windows and buckets of most attention patterns, where the configuration has room for it.
LONG = 200


def reference_cases(module: Any, blueprint: Blueprint) -> tuple[ReferenceCase, ...]:
    """Draw the cases and run eager on each.

    Raises:
        VerificationError: eager gives two answers to one question, so that nothing can be compared with it.
    """
    cases = [_run(module, blueprint, case) for case in planned_cases(blueprint)]
    _check_repeatable(module, cases[0])
    if blueprint.real is not None:
        varied = frozenset(
            axis
            for item in blueprint.layout.inputs
            for index, axis in enumerate(item.axes)
            if isinstance(axis, str) and blueprint.real[item.name].shape[index] != blueprint.layout.lengths[axis]
        )
        real = eager_outputs(module, blueprint.real)
        cases.append(
            ReferenceCase(name="the processor's own output", inputs=blueprint.real, outputs=real, varied=varied)
        )
    return tuple(cases)


def cases_at(module: Any, blueprint: Blueprint, named: Mapping[str, Mapping[str, int]]) -> tuple[ReferenceCase, ...]:
    """Cases of stated lengths, by name."""
    return tuple(
        _run(module, blueprint, Case(name=name, lengths=lengths, seed=301 + number))
        for number, (name, lengths) in enumerate(named.items())
    )


def cases_taken(
    session: Any, module: Any, blueprint: Blueprint, cases: tuple[ReferenceCase, ...]
) -> tuple[ReferenceCase, ...]:
    """The cases themselves, where the session takes them all; others of the lengths that it takes, where it does not.

    Args:
        cases: of the blueprint, the traced shape first.

    Raises:
        VerificationError: it takes none that could be drawn.
    """
    lengths: Lengths | None = getattr(session, "lengths", None)
    if lengths is None or all(lengths.takes(_lengths_of(case, blueprint)) for case in cases):
        return cases
    found = tuple(_run(module, blueprint, case) for case in _planned_within(blueprint, lengths))
    if not found:
        who = f"model {type(module).__name__}"
        raise VerificationError(who, "it takes no shape that it could be compared at", "let its axes get longer")
    return found


def _lengths_of(case: ReferenceCase, blueprint: Blueprint) -> dict[str, int]:
    return {
        axis: case.inputs[spec.name].shape[index]
        for spec in blueprint.inputs
        for index, axis in spec.dynamic_axes.items()
    }


def _planned_within(blueprint: Blueprint, lengths: Lengths) -> Iterator[Case]:
    """Every shape that is taken, padded on either side; where there is no list of them, the usual cases up to the
    greatest lengths."""
    if lengths.only:
        for number, shape in enumerate(lengths.only):
            name = ", ".join(f"{axis} {length}" for axis, length in shape.items())
            yield Case(name=name, lengths=shape, seed=201 + 2 * number)
            yield Case(name=f"{name}, left padding", lengths=shape, padding="left", seed=202 + 2 * number)
        return
    # Cases are drawn up to two below a limit.
    limits = {axis: longest + 2 for axis, longest in lengths.greatest.items()}
    layout = replace(blueprint.layout, limits={**blueprint.layout.limits, **limits})
    for case in planned_cases(replace(blueprint, layout=layout)):
        if lengths.takes({**layout.lengths, **case.lengths}):
            yield case


def planned_cases(blueprint: Blueprint) -> Iterator[Case]:
    """Every axis alone, shorter and longer; all of them at once; padding on both sides; long; none of them traced."""
    layout = blueprint.layout
    yield Case(name="traced shape, fresh values", seed=101)
    seed = 102
    for axis in layout.axes:
        for length in lengths_beside(layout, axis):
            yield Case(name=f"{axis} {length}", lengths={axis: length}, seed=seed)
            seed += 1
    yield Case(name="no padding", padding="none", seed=seed)
    if len(layout.axes) > 1:
        everything = {axis: lengths_beside(layout, axis)[0] for axis in layout.axes}
        yield Case(name="every axis at once", lengths=everything, seed=seed + 1)
    longest = min(layout.longest("sequence"), LONG)
    if "sequence" in layout.axes and longest > 2 * layout.lengths["sequence"] + 3:
        yield Case(name=f"sequence {longest}", lengths={"sequence": longest}, seed=seed + 2)
    if any(item.kind == "mask" and item.axes[-1] == "sequence" for item in layout.inputs):
        yield Case(name="left padding", padding="left", seed=seed + 3)


def _run(module: Any, blueprint: Blueprint, case: Case) -> ReferenceCase:
    inputs = blueprint.draw(case)
    mask = inputs.get("attention_mask")
    left = case.padding == "left" and mask is not None and mask.ndim == 2
    varied = {axis for axis, length in case.lengths.items() if length != blueprint.layout.lengths[axis]}
    return ReferenceCase(
        name=case.name,
        inputs=inputs,
        outputs=eager_outputs(module, inputs),
        varied=frozenset(varied & set(blueprint.axes)),
        # A query at padding on the left sees nothing but padding in a causal model: its values mean nothing.
        valid=mask.astype(bool) if left and mask is not None else None,
    )


def _check_repeatable(module: Any, case: ReferenceCase) -> None:
    again = eager_outputs(module, dict(case.inputs))
    for name, want in case.outputs.items():
        result = compare(case.name, {}, name, want, again[name], tolerance_of("fp32"))
        if not result.passed:
            raise VerificationError(
                f"model {type(module).__name__}",
                f"eager itself gives two values for output {name!r} on the same inputs ({result.problem}); "
                "nothing can be checked against a model that draws random numbers",
                "make it deterministic (a fixed seed or noise as an input), or keep it eager",
            )
