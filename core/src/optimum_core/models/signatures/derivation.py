"""Derivation of a model's layout: rules or samples propose layouts, runs of the eager model decide."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import combinations
from typing import Any

from optimum_core.errors import SourceError
from optimum_core.models.eager.calls import ask
from optimum_core.models.eager.copies import is_widened
from optimum_core.models.eager.kept_answers import ask_once
from optimum_core.models.eager.outputs import check_held, flatten, structure_of
from optimum_core.models.inputs.facts import facts_of
from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.inputs.samples import Case, Padding, draw
from optimum_core.models.inputs.user_samples import as_varied_as_eager_takes
from optimum_core.models.signatures.groups import with_groups
from optimum_core.models.signatures.one_row import stands_for_all

log = logging.getLogger(__name__)
_PADDINGS: tuple[Padding, ...] = ("right", "left")
#: Draws of other values at each padding, as long as all take no more than this many seconds.
_DRAWS, _QUICK = 8, 0.1


def first_that_runs(module: Any, name: str, layouts: Iterator[Layout], arrays: Mapping[str, Any]) -> tuple[Layout, Any]:
    """Return the first of these layouts on which the eager model runs, and its output.

    Args:
        arrays: samples of the user; they are varied as far as the eager model takes that.

    Raises:
        SourceError: it runs on none of them, or returns no tensor, or what cannot be given back.
    """
    problem, without = "", list[Any]()
    for layout in with_groups(layouts, module, arrays):
        if not layout.inputs:
            continue
        try:
            output = ask_once(module, draw(layout, Case(name="first"), arrays))
        except Exception as error:  # noqa: BLE001 - any failure rules this layout out
            found = f"with inputs {', '.join(item.name for item in layout.inputs)} it fails: {error!r}"
            log.debug("%s: %s", name, found)
            problem = problem or found
            continue
        if not _holds_tensors(output):
            without.append(output)
            continue
        check_held(output, f"model {name!r}")
        if not arrays:
            return layout, output
        return as_varied_as_eager_takes(layout, partial(_takes_fresh, module, arrays, output)), output
    for output in without:
        structure_of(output, f"model {name!r}")
    raise _underivable(name, module, problem, bool(arrays))


def _holds_tensors(output: Any) -> bool:
    try:
        return bool(flatten(output))
    except TypeError:  # it is no tensor, and no container of such
        return False


def _underivable(name: str, module: Any, problem: str, given_ones: bool) -> SourceError:
    who = f"model {name!r}"
    if given_ones and is_widened(module):
        why = f"its weights of 16 bits were widened to 32, in which all is compared, and there eager fails; {problem}"
        return SourceError(who, why, "convert to the type of the weights in its forward: x.to(self.weight.dtype)")
    if given_ones:
        return SourceError(who, f"eager does not run on sample_inputs; {problem}", "pass those of a call that it takes")
    required = facts_of(module).required
    needs = f"; it requires {', '.join(required)}" if required else ""
    example = f"sample_inputs={{{required[0]!r}: tensor, …}}" if required else "sample_inputs={name: tensor, …}"
    return SourceError(
        who,
        f"no inputs could be derived for it{needs}; {problem or 'its forward takes none that are known by name'}",
        f"pass {example} as for one ordinary call",
    )


def _takes_fresh(module: Any, arrays: Mapping[str, Any], first: Any, layout: Layout) -> bool:
    """Whether the eager model runs on other values, padded on either side, with outputs finite where they were before.

    One draw may be taken by luck: lengths of which only zero is refused, offsets whose order only is. A quick model is
    asked many times.
    """
    finite = {key: bool(value.isfinite().all()) for key, value in flatten(first).items()}
    start = time.perf_counter()
    for number, padding in enumerate(_PADDINGS * _DRAWS):
        if number >= len(_PADDINGS) and time.perf_counter() - start > _QUICK:
            break
        try:
            output = flatten(ask(module, draw(layout, Case(name="fresh", padding=padding, seed=11 + number), arrays)))
        except Exception as error:  # noqa: BLE001 - the eager model refuses these values, by an error of any type
            log.debug("fresh values, %s padding: %r", padding, error)
            return False
        if any(finite.get(key) and not value.isfinite().all() for key, value in output.items()):
            return False
    return True


Beside = Callable[[Layout, str], tuple[int, ...]]


def tied(module: Any, layout: Layout, arrays: Mapping[str, Any], beside: Beside) -> Layout:
    """Give one name to axes that the eager model varies only together: height and width of a square.

    Args:
        beside: other lengths to try an axis at.
    """
    for length in {layout.lengths[axis] for axis in layout.axes}:
        alike = [axis for axis in layout.axes if layout.lengths[axis] == length]
        if len(alike) < 2:
            continue
        taken = {axis: _lengths_taken(module, layout, (axis,), arrays, beside) for axis in alike}
        for axes in dict.fromkeys((tuple(alike), *combinations(alike, 2))):
            alone = min(taken[axis] for axis in axes)
            if alone == 2 or not set(axes) <= set(layout.axes):
                continue
            if _lengths_taken(module, layout, axes, arrays, beside) > alone:
                layout = _one_axis(module, layout, axes, arrays)
    return layout


def _one_axis(module: Any, layout: Layout, axes: tuple[str, ...], arrays: Mapping[str, Any]) -> Layout:
    """Return the layout with these axes as one. Those of length 1 in the user's call beside others of more stay so,
    unless one row stands for as many as there are."""
    made = layout.tied(axes)
    stated = {axis: layout.stated.get(axis, layout.lengths[axis]) for axis in axes}
    ones = [axis for axis, length in stated.items() if length == 1]
    if len(ones) in (0, len(axes)):
        return made
    several = next(axis for axis in axes if axis not in ones)
    made = made if several == axes[0] else layout.tied((several, *(axis for axis in axes if axis != several)))
    for item, tied_item in zip(layout.inputs, made.inputs, strict=True):
        if any(axis in item.axes[1:] for axis in ones) or (
            item.axes and item.axes[0] in ones and not stands_for_all(module, made, arrays, tied_item)
        ):
            for axis in ones:
                layout = layout.pinned(axis, 1)
            return layout
    return made


def of_one_structure(module: Any, layout: Layout, arrays: Mapping[str, Any], beside: Beside) -> Layout:
    """Fix the axes, at the user's lengths, on whose length depends more of the output than the shapes of its tensors:
    the number of items in a list, a number.

    Args:
        beside: other lengths to try an axis at.
    """
    for axis in layout.axes:
        here = _structure_at(module, layout, arrays, {})
        others = (_structure_at(module, layout, arrays, {axis: length}) for length in beside(layout, axis))
        if any(other not in ("", here) for other in others):
            layout = layout.pinned(axis, layout.stated.get(axis, layout.lengths[axis]))
    return layout


def _structure_at(module: Any, layout: Layout, arrays: Mapping[str, Any], lengths: Mapping[str, int]) -> str:
    """Return a text that is equal for outputs of equal structure; "" where there is none."""
    try:
        output = ask_once(module, draw(layout, Case(name="structure", lengths=lengths), arrays))
        return repr(structure_of(output, ""))
    except Exception as error:  # noqa: BLE001 - the eager model refuses these lengths, by an error of any type
        log.debug("lengths %s: %r", dict(lengths), error)
        return ""


def _lengths_taken(
    module: Any, layout: Layout, axes: tuple[str, ...], arrays: Mapping[str, Any], beside: Beside
) -> int:
    """Return at how many of the other lengths the eager model takes these axes, all at the same length."""
    taken = 0
    for length in beside(layout, axes[0]):
        try:
            ask(module, draw(layout, Case(name="together", lengths=dict.fromkeys(axes, length)), arrays))
            taken += 1
        except Exception as error:  # noqa: BLE001 - the eager model refuses this length, by an error of any type
            log.debug("axes %s at %d: %r", axes, length, error)
    return taken
