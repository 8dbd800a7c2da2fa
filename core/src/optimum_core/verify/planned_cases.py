"""The cases at which candidates are compared with the eager model, as they are planned before eager is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from optimum_core.models.inputs.layouts import PICTURE, Layout
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.axes import LONG, off_the_grid
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types import AxisRange

#: Short lengths of a sound, as multiples of the least.
_ABOVE_LEAST = (1.3, 2, 3.7)


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """The time for cases beyond the ordinary ones.

    Attributes:
        allows: whether there is time for a case of which one call of eager is expected to take so many seconds.
        needed: by axis, the length up to which every case is needed, whatever time is left.
        left_out: the cases for which there was none.
    """

    allows: Callable[[float], bool]
    needed: Mapping[str, int] = field(default_factory=dict)
    left_out: list[Case] = field(default_factory=list)


def is_beyond(case: Case, signature: ModelSignature) -> bool:
    """Whether a case is at one of the further lengths, and longer than the traced one."""
    if len(case.lengths) != 1:
        return False
    ((axis, length),) = case.lengths.items()
    is_further = length in signature.further.get(axis, ()) and length not in signature.beside(axis)
    return is_further and length > signature.layout.lengths[axis]


def telling_first(signature: ModelSignature) -> list[Case]:
    """Return the planned cases, in the order in which they are worth the time: ordinary ones, sides of switches up to
    an ordinary length, other lengths up to that, and longer ones."""

    def rank(case: Case) -> tuple[bool, bool, bool]:
        if not is_beyond(case, signature):
            return False, False, False
        ((axis, length),) = case.lengths.items()
        return True, length > LONG, not {length, length - 1} & {*signature.switches.get(axis, ())}

    return sorted(planned_cases(signature), key=rank)


def planned_cases(signature: ModelSignature) -> Iterator[Case]:
    """Yield the cases: every axis alone, shorter and longer; all axes at once; padding on both sides; pictures that no
    patch divides; then ever longer, on both sides of lengths that the configuration names. None of them was traced."""
    layout = signature.layout
    yield Case(name="traced shape, fresh values", seed=101)
    seed = 102
    for axis in layout.axes:
        for length in signature.beside(axis):
            yield Case(name=f"{axis} {length}", lengths={axis: length}, seed=seed)
            seed += 1
    yield Case(name="no padding", padding="none", seed=seed)
    if len(layout.axes) > 1:
        everything = {axis: signature.beside(axis)[0] for axis in layout.axes}
        yield Case(name="every axis at once", lengths=everything, seed=seed + 1)
    yield from _padded_texts(layout, seed + 3)
    yield from _pictures(signature, seed + 4)
    for number, lengths in enumerate(signature.joint):
        name = " and ".join(f"{axis} {length}" for axis, length in lengths.items())
        yield Case(name=name, lengths=lengths, seed=seed + 401 + number)
    short = [*_short_sounds(signature)]
    for number, (axis, length) in enumerate(short):
        yield Case(name=f"{axis} {length}", lengths={axis: length}, seed=seed + 501 + number)
    for axis in layout.axes:
        done = {*signature.beside(axis), layout.lengths[axis], *(n for name, n in short if name == axis)}
        for number, length in enumerate(signature.further.get(axis, ())):
            if length not in done:
                yield Case(name=f"{axis} {length}", lengths={axis: length}, seed=seed + 9 + number)


def _padded_texts(layout: Layout, seed: int) -> Iterator[Case]:
    """Yield texts with padding otherwise than on the right of half a row at most."""
    ends = [item.axes[-1] for item in layout.inputs if item.kind == "mask" and item.meaning[-1] == "sequence"]
    if ends:
        yield Case(name="left padding", padding="left", seed=seed)
    if any(isinstance(end, int) for end in ends):  # texts come padded to a fixed length, also short ones
        yield Case(name="mostly padding", padding="most", seed=seed + 600)


def _short_sounds(signature: ModelSignature) -> Iterator[tuple[str, int]]:
    """Yield lengths of sounds a little above the least, by axis: what is wrong in the last frame is lost in the mean
    over many."""
    for axis in (axis for axis in ("samples", "frames") if axis in signature.layout.axes):
        least, here = signature.ranges.get(axis, AxisRange()).least, signature.layout.lengths[axis]
        lengths = {round(least * factor) for factor in _ABOVE_LEAST} - {least, *signature.beside(axis)}
        yield from ((axis, length) for length in sorted(lengths) if length < here)


def _pictures(signature: ModelSignature, seed: int) -> Iterator[Case]:
    """Yield pictures of sizes off the patch grid, and of the configured size if another was traced."""
    layout = signature.layout
    axes = [axis for axis in PICTURE if axis in layout.axes]
    if not axes:
        return
    for number, lengths in enumerate(off_the_grid(layout, signature.patch)):
        name = " and ".join(f"{axis} {length}" for axis, length in lengths.items())
        yield Case(name=f"{name}, off the grid", lengths=lengths, seed=seed + number)
    usual = {axis: signature.configured.get(axis, layout.lengths[axis]) for axis in axes}
    if any(length != layout.lengths[axis] for axis, length in usual.items()):
        yield Case(name="the configured size", lengths=usual, seed=seed + 4)
