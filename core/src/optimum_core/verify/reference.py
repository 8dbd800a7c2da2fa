"""Reference outputs of the eager model for every case, computed once, before anything is exported or patched."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from optimum_core.errors import VerificationError
from optimum_core.models.eager.calls import apart, call, eager_outputs, fresh
from optimum_core.models.eager.outputs import as_array, flatten, require_alike
from optimum_core.models.eager.randomness import watched_draws
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.axes import LONG, MANY
from optimum_core.models.signatures.signature import ModelSignature, limited
from optimum_core.models.signatures.switches import chunk_of, window_of
from optimum_core.models.tasks import CAUSAL
from optimum_core.types import AxisRange, Lengths
from optimum_core.types.arrays import ArrayMapping, Arrays, NDArray
from optimum_core.types.tensors import is_batch
from optimum_core.verify.bound_cases import bound_cases
from optimum_core.verify.comparison import ReferenceCase
from optimum_core.verify.determinism import (
    check_chance,
    check_circumstances,
    check_order,
    check_outside,
    check_repeatable,
    is_same,
)
from optimum_core.verify.edge_value_cases import edge_cases
from optimum_core.verify.empty_rows import empty_row_cases
from optimum_core.verify.large_value_cases import large_cases
from optimum_core.verify.planned_cases import Room, is_beyond, planned_cases, telling_first
from optimum_core.verify.skipped_label_cases import skipped_label_cases
from optimum_core.verify.tiny_outputs import with_tiny_outputs

log = logging.getLogger(__name__)

#: Most expected seconds for one call of the eager model at a length beyond those beside the traced one.
CASE_SECONDS = 1.0
#: Exponent of the length in the expected time of a call.
GROWTH = 1.25
#: Values that no rule draws: text as its tokenizer gives it, padding of the user's own form.
REAL, GIVEN = "the processor's own output", "sample_inputs as given"


def reference_cases(module: Any, signature: ModelSignature, room: Room | None = None) -> tuple[ReferenceCase, ...]:
    """Draw the cases and run the eager model on each, every time on a copy that has seen no other call.

    Cases that the eager model refuses are left out, and so are long ones for which it takes too long.

    Args:
        room: the time for cases beyond the ordinary ones, where it is limited.

    Raises:
        VerificationError: the eager model refuses every call, or gives different outputs for the same inputs, so that
            nothing can be compared with it.
        SourceError: what it returns beside tensors depends on the call.
    """
    clock, cases, drawing = _Clock(signature, room), list[ReferenceCase](), list[ReferenceCase]()
    for case in planned_cases(signature) if room is None else telling_first(signature):
        with watched_draws() as watched:
            found = clock.run(module, case)
        if found is not None:
            cases.append(found)
            drawing += [found] if watched.drew else []
    if not cases:
        raise VerificationError(
            f"model {type(module).__name__}",
            f"eager refuses every call that was drawn for it; the first: {clock.problem}",
            "pass sample_inputs={name: tensor, …} as for one ordinary call",
        )
    check_repeatable(module, cases[0], drew=any(case is cases[0] for case in drawing))
    check_order(module, cases[0])
    check_outside(module, cases[0])
    check_circumstances(module, cases[0])
    if drawing:
        check_chance(module, drawing[0])
    cases += empty_row_cases(signature, partial(_answered, module, signature))
    cases += bound_cases(module, signature, partial(_answered, module, signature))
    cases += skipped_label_cases(signature, partial(_answered, module, signature))
    cases += large_cases(module, signature, partial(_case_of, signature))
    cases += edge_cases(module, signature, partial(_case_of, signature))
    if signature.real is not None:
        cases.append(_undrawn(_answered(module, signature, REAL, signature.real), signature))
    all_cases = [*cases, *_given(module, signature)]
    structures = [case.structure for case in all_cases if case.structure is not None]
    for other in structures[1:]:
        require_alike(f"model {type(module).__name__}", structures[0], other)
    return tuple(with_tiny_outputs(module, case) for case in all_cases)


def _given(module: Any, signature: ModelSignature) -> Iterator[ReferenceCase]:
    """Yield the case of the user's own call, unless eager refuses it in the types of the inputs."""
    if (inputs := signature.sample) is not None:
        try:
            found = _answered(module, signature, GIVEN, inputs)
        except Exception as error:  # noqa: BLE001 - eager raises what it likes
            log.info("sample_inputs as given are not compared: eager refuses them: %r", error)
        else:
            yield _undrawn(found, signature)


def few_of(cases: tuple[ReferenceCase, ...]) -> tuple[ReferenceCase, ...]:
    """Return the first case, and for each axis those of the least and the greatest length: enough to show most of what
    a model may remember, in the time of a few calls."""
    answered = [case for case in cases if not case.refused]

    def size(place: int, axis: str) -> tuple[int, int]:
        case = answered[place]
        return case.lengths[axis], sum(array.size for array in case.inputs.values())

    ends = [
        end(range(len(answered)), key=partial(size, axis=axis)) for axis in answered[0].lengths for end in (min, max)
    ]
    return tuple(answered[place] for place in dict.fromkeys((0, *ends)))


def remembers(module: Any, cases: tuple[ReferenceCase, ...]) -> str | None:
    """Return the name of a case whose outputs change when the model has seen the others before; None: there is none.

    The export equals a model that has seen no other call. A model with state, such as Swin after a small picture, may
    give its user other outputs than that.
    """
    cases, veteran = tuple(case for case in cases if not case.refused), fresh(module)
    for case in (*cases, cases[0]):
        try:
            again = flatten(call(veteran, apart(case.inputs)))
        except Exception:  # noqa: BLE001 - it took this call before: the earlier calls have broken it
            return case.name
        if not all(name in again and is_same(want, as_array(again[name])) for name, want in case.outputs.items()):
            return case.name
    return None


class _Clock:
    """Runner of cases that estimates from shorter ones the time of a longer one.

    Attributes:
        problem: the error of the first case that the eager model refused; "": it took all.
    """

    def __init__(self, signature: ModelSignature, room: Room | None = None) -> None:
        self.problem = ""
        self._signature = signature
        self._room = room
        self._seconds: dict[str, list[tuple[int, float]]] = {}

    def run(self, module: Any, case: Case) -> ReferenceCase | None:
        """Return the case with the eager model's outputs; None if it refuses, or would take too long."""
        lengths = {**self._signature.layout.lengths, **case.lengths}
        axis = next(iter(case.lengths), "") if len(case.lengths) == 1 else ""
        may_wait = axis and lengths[axis] in self._signature.further.get(axis, ())
        is_long = may_wait and not MANY < lengths[axis] <= LONG and self._foreseen(axis, lengths) > CASE_SECONDS
        if is_long or (case.lengths in self._signature.joint and self._foreseen_jointly(case.lengths) > CASE_SECONDS):
            log.info("%s is left out: eager would take too long", case.name)
            return None
        if self._has_no_room(case, axis, lengths):
            return None
        start, busy = time.perf_counter(), time.process_time()
        try:
            found = run_case(module, self._signature, case)
        except Exception as error:  # noqa: BLE001 - the eager model refuses this call, by an error of any type
            log.info("%s is left out: eager refuses it: %r", case.name, error)
            self.problem = self.problem or f"{type(error).__name__}: {error}"
            return None
        # On a busy machine, wall-clock time says little; with several threads, CPU time says little. So the lesser.
        seconds = min(time.perf_counter() - start, time.process_time() - busy)
        for name in self._signature.axes:
            self._seconds.setdefault(name, []).append((lengths[name], seconds))
        return found

    def _has_no_room(self, case: Case, axis: str, lengths: Mapping[str, int]) -> bool:
        """Whether a case beyond the ordinary ones is left out, since there is no time for it; it is noted then."""
        room = self._room
        if room is None or not is_beyond(case, self._signature) or lengths[axis] <= room.needed.get(axis, 0):
            return False
        if room.allows(self._foreseen(axis, lengths)):
            return False
        log.info("%s is left out: the budget does not allow for it", case.name)
        room.left_out.append(case)
        return True

    def _foreseen(self, axis: str, lengths: Mapping[str, int]) -> float:
        """Return the expected seconds of a call: because of attention, more than in proportion to its length."""
        growth = 1.0 if is_batch(axis) else GROWTH
        known = self._seconds.get(axis, ())
        return min((seconds * (lengths[axis] / length) ** growth for length, seconds in known), default=0.0)

    def _foreseen_jointly(self, lengths: Mapping[str, int]) -> float:
        """Return the expected seconds of a call at other lengths of several axes."""
        foreseen = [self._foreseen(axis, lengths) for axis in lengths]
        usual = [self._foreseen(axis, self._signature.layout.lengths) for axis in lengths]
        return math.prod(foreseen) / max(math.prod(usual[1:]), 1e-9)


def cases_at(
    module: Any, signature: ModelSignature, named: Mapping[str, Mapping[str, int]]
) -> tuple[ReferenceCase, ...]:
    """Return cases of stated lengths, by name.

    Raises:
        VerificationError: the eager model refuses one.
    """
    return tuple(
        _run_stated(module, signature, Case(name=name, lengths=lengths, seed=301 + number))
        for number, (name, lengths) in enumerate(named.items())
    )


def _run_stated(module: Any, signature: ModelSignature, case: Case) -> ReferenceCase:
    """Return a case of stated lengths; with the values of samples that were given, if eager refuses other values."""
    try:
        return run_case(module, signature, case)
    except Exception as error:
        if signature.given and case.seed:
            return _run_stated(module, signature, replace(case, seed=0))
        shape = ", ".join(f"{axis} {length}" for axis, length in case.lengths.items())
        raise VerificationError(
            f"model {type(module).__name__}",
            f"eager itself does not run at {shape} ({case.name}): {type(error).__name__}: {error}",
            "state shapes= that the model takes",
        ) from error


def cases_taken(
    session: Any, module: Any, signature: ModelSignature, cases: tuple[ReferenceCase, ...]
) -> tuple[ReferenceCase, ...]:
    """Return the cases themselves if the session takes them all; otherwise others of the lengths that it takes.

    Args:
        cases: those of the signature, the traced shape first.

    Raises:
        VerificationError: the session takes none that could be drawn.
    """
    lengths: Lengths | None = getattr(session, "lengths", None)
    if lengths is None or all(lengths.takes(_lengths_of(case, signature)) for case in cases):
        return cases
    clock = _Clock(signature)
    planned = (clock.run(module, case) for case in _planned_within(signature, lengths))
    found = tuple(case for case in planned if case is not None)
    if not found:
        who = f"model {type(module).__name__}"
        raise VerificationError(who, "it takes no shape that it could be compared at", "let its axes get longer")
    return found


def _lengths_of(case: ReferenceCase, signature: ModelSignature) -> dict[str, int]:
    return {
        axis: case.inputs[spec.name].shape[index]
        for spec in signature.inputs
        for index, axis in spec.dynamic_axes.items()
    }


def _planned_within(signature: ModelSignature, lengths: Lengths) -> Iterator[Case]:
    """Yield every shape that the session lists, padded on either side; without a list, the usual cases up to the
    greatest lengths."""
    if lengths.only:
        for number, shape in enumerate(lengths.only):
            name = ", ".join(f"{axis} {length}" for axis, length in shape.items())
            yield Case(name=name, lengths=shape, seed=201 + 2 * number)
            yield Case(name=f"{name}, left padding", lengths=shape, padding="left", seed=202 + 2 * number)
        return
    layout = signature.layout
    for axis, longest in lengths.greatest.items():
        if axis in signature.axes:
            signature = limited(signature, axis, longest, "the session takes no more")
    for case in planned_cases(signature):
        if lengths.takes({**layout.lengths, **case.lengths}):
            yield case


def run_case(module: Any, signature: ModelSignature, case: Case) -> ReferenceCase:
    """Return a case with the eager model's outputs; it raises what eager raises."""
    inputs = signature.draw(case)
    found = _answered(module, signature, case.name, inputs)
    # In a causal model, a query at left padding attends to nothing but padding: its values mean nothing. So it may be
    # far away from the tokens, in a model with windows.
    if case.padding in ("left", "most"):
        return replace(found, valid=_valid(inputs))
    mask, config = inputs.get("attention_mask"), getattr(module, "config", None)
    window, chunk = window_of(config), chunk_of(config)
    if mask is None or mask.ndim != 2 or (window, chunk) == (None, None) or signature.task not in CAUSAL:
        return found
    return replace(found, valid={"sequence": _see_tokens(mask, window, chunk)})


def _see_tokens(mask: NDArray, window: int | None, chunk: int | None) -> NDArray:
    """Return which queries have a token in their window and in their chunk: at right padding, the last token may be too
    far away, or in an earlier chunk."""
    counts, places = np.pad(mask.astype(bool).cumsum(1), ((0, 0), (1, 0))), np.arange(mask.shape[1])
    first = np.zeros_like(places) if window is None else np.clip(places + 1 - window, 0, None)
    if chunk is not None:
        first = np.maximum(first, places // chunk * chunk)
    seen: NDArray = counts[:, 1:] > counts[:, first]
    return seen


def _valid(inputs: ArrayMapping) -> Arrays:
    """Return by axis which positions are tokens."""
    masks = {"sequence": inputs.get("attention_mask"), "decoder_sequence": inputs.get("decoder_attention_mask")}
    return {axis: mask.astype(bool) for axis, mask in masks.items() if mask is not None and mask.ndim == 2}


def _undrawn(found: ReferenceCase, signature: ModelSignature) -> ReferenceCase:
    """Return a case of values that no rule draws, without queries at left padding where the model is causal."""
    found = replace(found, undrawn=True)
    mask = found.inputs.get("attention_mask")
    if signature.task not in CAUSAL or mask is None or mask.ndim != 2 or mask[:, 0].all():
        return found
    return replace(found, valid=_valid(found.inputs))


def _answered(module: Any, signature: ModelSignature, name: str, inputs: ArrayMapping) -> ReferenceCase:
    """Return a case of these inputs with the eager model's outputs."""
    return _case_of(signature, name, inputs, eager_outputs(module, inputs))


def _case_of(signature: ModelSignature, name: str, inputs: ArrayMapping, outputs: ArrayMapping) -> ReferenceCase:
    layout = signature.layout
    lengths = {
        axis: inputs[item.name].shape[index]
        for item in layout.inputs
        for index, axis in enumerate(item.axes)
        if isinstance(axis, str)
    }
    return ReferenceCase(
        name=name,
        inputs=inputs,
        outputs=outputs,
        varied=frozenset(axis for axis, length in lengths.items() if length != layout.lengths[axis]),
        lengths=lengths,
        structure=getattr(outputs, "structure", None),
        written=getattr(outputs, "written", frozenset()),
        short=any(_is_short(signature, *pair) for pair in lengths.items()),
    )


def _is_short(signature: ModelSignature, axis: str, length: int) -> bool:
    if is_batch(axis) or axis == "choices" or "sequence" in axis:
        return False
    least = signature.ranges.get(axis, AxisRange()).least
    return length <= least + 1 and length != signature.layout.lengths[axis]
