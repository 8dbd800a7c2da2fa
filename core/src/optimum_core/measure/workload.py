"""The workload: shapes to measure candidates at, the user's or the default."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Self

from optimum_core.errors import OptionError
from optimum_core.generation.generator_workload import DEFAULT as DEFAULT_GENERATION
from optimum_core.generation.generator_workload import NEW, NEW_TOKENS, workload_of
from optimum_core.hardware import detect
from optimum_core.types import AxisRange, TensorSpec
from optimum_core.types.tensors import is_batch
from optimum_core.types.traffic import CALLS

# Modules that import torch are imported where used.
if TYPE_CHECKING:
    from optimum_core.models.signatures.signature import ModelSignature

WorkloadShape = Sequence[int] | Mapping[str, int]

#: Default batch and sequence lengths: a short and a long request, and a small batch.
DEFAULT_TEXT: tuple[tuple[int, int], ...] = ((1, 16), (1, 128), (8, 128))
DEFAULT_BATCHES = (1, 4)
_SEQUENCES = ("sequence", "decoder_sequence")
_DEFAULT_LENGTHS = {"samples": 16000}


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkShape:
    """One shape of the workload: its name in reports, the lengths of named axes, and the tokens to generate.

    Attributes:
        new: new tokens of every row; None: the call is one forward pass.
        calls: how often such calls come, where that was stated; None: all shapes matter alike.
    """

    name: str
    lengths: Mapping[str, int]
    new: int | None = None
    calls: int | None = None

    @property
    def items(self) -> int:
        """The number of sequences, pictures or sounds in one call, as far as the shape tells."""
        return max((length for axis, length in self.lengths.items() if is_batch(axis)), default=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The least and the greatest length of axes by name, where there is one."""

    least: Mapping[str, int]
    greatest: Mapping[str, int]

    @classmethod
    def of(cls, ranges: Mapping[str, AxisRange], others: Mapping[str, int] | None = None) -> Self:
        """Return the limits of these ranges; `others` are greatest lengths of axes without one there."""
        greatest = {axis: found.greatest for axis, found in ranges.items() if found.greatest is not None}
        return cls(least={axis: found.least for axis, found in ranges.items()}, greatest={**(others or {}), **greatest})

    def clipped(self, axis: str, length: int) -> int:
        """Return the length nearest to this one that is allowed."""
        length = min(length, self.greatest.get(axis, length))
        return max(length, self.least.get(axis, length))


_UNLIMITED = Limits(least={}, greatest={})


def workload(
    shapes: Sequence[WorkloadShape] | None, inputs: Sequence[TensorSpec], limits: Limits = _UNLIMITED
) -> tuple[WorkShape, ...]:
    """Return the shapes to measure at.

    Args:
        shapes: (batch, sequence) pairs, or mappings of axis names to lengths, which may also state their number of
            "calls"; None: the default.
        inputs: the model's inputs; only axes that vary there can be stated.

    Raises:
        OptionError: a shape that the model cannot take.
    """
    axes = tuple(dict.fromkeys(axis for spec in inputs for axis in spec.shape if isinstance(axis, str)))
    if shapes is None:
        return _default(axes, limits)
    if not shapes:
        raise OptionError("shapes", "there are none", "pass (batch, sequence) pairs, or leave it out")
    return _with_calls(
        shapes, lambda bare: tuple(_within_memory(_stated(shape, axes, limits), inputs) for shape in bare)
    )


def _within_memory(shape: WorkShape, inputs: Sequence[TensorSpec]) -> WorkShape:
    """Return a stated shape; refuse one whose inputs alone are beyond the machine's memory.

    Raises:
        OptionError: they take more than a tenth of it: outputs and what lies between take many times as much.
    """
    known = {**_DEFAULT_LENGTHS, **shape.lengths}
    size = sum(prod(known.get(str(axis), axis if isinstance(axis, int) else 1) for axis in s.shape) for s in inputs)
    memory = detect().memory
    if 4 * size > memory / 10:
        why = f"the inputs at {shape.name} have {size:.1e} values, and the machine has {memory / 2**30:.0f} GiB"
        raise OptionError("shapes", why, "state shapes of your calls")
    return shape


def signature_workload(shapes: Sequence[WorkloadShape] | None, signature: ModelSignature) -> tuple[WorkShape, ...]:
    """Return the shapes to measure a model that generates at, by its parts.

    Raises:
        OptionError: a shape makes no sense, or is beyond the model.
    """
    assert signature.decoder is not None
    if signature.decoder.merge is not None:
        return merged_workload(shapes, signature.layout.lengths, signature.axes, signature.longest_text)
    if signature.decoder.encoder is None:
        return generation_workload(shapes, signature.longest_text)
    limits = Limits.of(signature.ranges, signature.layout.limits)
    inputs = signature.decoder.encoder.encoder.inputs
    return encoder_decoder_workload(shapes, inputs, limits, signature.longest_text)


def generation_workload(shapes: Sequence[WorkloadShape] | None, longest: int | None) -> tuple[WorkShape, ...]:
    """Return the shapes to measure a generative model at: (batch, prompt, new tokens).

    Args:
        shapes: as stated; None: the default.
        longest: the greatest number of positions; None: unknown.

    Raises:
        OptionError: a shape makes no sense, or is beyond the model.
    """
    return _with_calls(shapes, lambda bare: tuple(map(_text_to_write, workload_of(bare, longest))))


def _text_to_write(found: Mapping[str, int]) -> WorkShape:
    lengths = {"batch": found["batch"], "sequence": found["sequence"]}
    return WorkShape(name=f"{found['batch']}x{found['sequence']}+{found[NEW]}", lengths=lengths, new=found[NEW])


def merged_workload(
    shapes: Sequence[WorkloadShape] | None, traced: Mapping[str, int], axes: Collection[str], longest: int | None
) -> tuple[WorkShape, ...]:
    """Return the shapes to measure a model of pictures or sound with text at: (batch, prompt, new tokens).

    Where the pictures fix the number of rows, there is one shape by default: the prompt that stands with them.

    Args:
        shapes: as stated; None: the default.
        traced: the lengths of axes in the sample inputs.
        axes: those that vary.
        longest: the greatest number of positions; None: unknown.

    Raises:
        OptionError: a shape makes no sense, or is beyond the model.
    """
    if shapes is None:
        length = int(traced.get("sequence", 1))
        prompt = max(128, length) if "sequence" in axes else length
        room = NEW_TOKENS if longest is None else max(min(NEW_TOKENS, (longest - length) // 2), 1)
        prompt = prompt if longest is None else min(prompt, longest - room)
        shapes = [(1, prompt, room)]
    return generation_workload(shapes, longest)


def encoder_decoder_workload(
    shapes: Sequence[WorkloadShape] | None, inputs: Sequence[TensorSpec], limits: Limits, longest: int | None
) -> tuple[WorkShape, ...]:
    """Return the shapes to measure an encoder-decoder at: (batch, sequence, new tokens), without a text (batch, new).

    Args:
        shapes: as stated, or mappings of the encoder's axes and "new" to lengths; None: the default.
        inputs: the inputs of the encoder.
        longest: the greatest number of positions of the decoder; None: unknown.

    Raises:
        OptionError: a shape makes no sense, or is beyond the model.
    """
    has_text = any("sequence" in spec.shape for spec in inputs)
    if shapes is None:
        room = NEW_TOKENS if longest is None else max(min(NEW_TOKENS, longest - 1), 1)
        within = _with_room(limits)
        texts = [(batch, within.clipped("sequence", length), room) for batch, length, _ in DEFAULT_GENERATION]
        shapes = texts if has_text else [(batch, room) for batch in DEFAULT_BATCHES]
    if not shapes:
        raise OptionError("shapes", "there are none", "pass (batch, sequence, new tokens), or leave it out")
    return _with_calls(
        shapes, lambda bare: tuple(_with_new(shape, inputs, limits, longest, has_text=has_text) for shape in bare)
    )


def _with_new(
    shape: WorkloadShape, inputs: Sequence[TensorSpec], limits: Limits, longest: int | None, *, has_text: bool
) -> WorkShape:
    lengths, new = _apart(shape, has_text=has_text)
    if new < 1 or (longest is not None and new >= longest):
        remedy = f"the decoder has {longest} positions" if longest is not None else "ask for 1 or more"
        raise OptionError("shapes", f"{new} new tokens are out of range", remedy)
    made = workload([lengths], inputs, limits)[0]
    defaults = {axis: length for axis, length in _DEFAULT_LENGTHS.items() if any(axis in spec.shape for spec in inputs)}
    return WorkShape(name=f"{made.name}+{new}", lengths={**defaults, **made.lengths}, new=new)


def _apart(shape: WorkloadShape, *, has_text: bool) -> tuple[WorkloadShape, int]:
    """Return the lengths of a shape for the encoder, and its number of new tokens."""
    if isinstance(shape, Mapping):
        return {axis: length for axis, length in shape.items() if axis != NEW}, int(shape.get(NEW, NEW_TOKENS))
    usual = 3 if has_text else 2
    if len(shape) not in (usual - 1, usual):
        form = "(batch, sequence, new tokens)" if has_text else "(batch, new tokens)"
        raise OptionError("shapes", f"{tuple(shape)} is no workload of this model", f"pass {form}")
    own = tuple(shape[: usual - 1])
    return own if has_text else {"batch": own[0]}, int(shape[-1]) if len(shape) == usual else NEW_TOKENS


def tuned_for(shapes: Sequence[WorkShape]) -> str:
    """Return a description of a workload whose calls were counted, for reports; empty if they were not."""
    if not shapes or any(shape.calls is None for shape in shapes):
        return ""
    total = sum(shape.calls or 0 for shape in shapes)
    ordered = sorted(shapes, key=lambda shape: -(shape.calls or 0))
    parts = ", ".join(f"{(shape.calls or 0) / total:.0%} at {shape.name}" for shape in ordered)
    return f"tuned for the traffic of {total} calls: {parts}"


def _with_calls(
    shapes: Sequence[WorkloadShape] | None, made_of: Callable[[Any], tuple[WorkShape, ...]]
) -> tuple[WorkShape, ...]:
    """Return the workload of shapes without their number of calls, each with that number.

    Raises:
        OptionError: some shapes state a number and others do not, or it is below 1.
    """
    if shapes is None:
        return made_of(None)
    counts = [shape.get(CALLS) if isinstance(shape, Mapping) else None for shape in shapes]
    if any(count is not None for count in counts) and not all(count is not None and count > 0 for count in counts):
        why = f"{CALLS!r} is {counts!r}: it has to be above 0, and every shape has it or none"
        raise OptionError("shapes", why, "state how often each shape comes")
    bare = [
        {axis: length for axis, length in shape.items() if axis != CALLS} if isinstance(shape, Mapping) else shape
        for shape in shapes
    ]
    return tuple(replace(made, calls=count) for made, count in zip(made_of(bare), counts, strict=True))


def _default(axes: tuple[str, ...], limits: Limits) -> tuple[WorkShape, ...]:
    batches = [axis for axis in axes if is_batch(axis)]
    if "sequence" in axes:
        limits = _with_room(limits)
        pairs = dict.fromkeys((batch, limits.clipped("sequence", length)) for batch, length in DEFAULT_TEXT)
        return tuple(_text_shape(batch, length, axes, limits) for batch, length in pairs)
    rest = {axis: length for axis, length in _DEFAULT_LENGTHS.items() if axis in axes}
    if not batches:
        return (WorkShape(name="as traced", lengths=rest),)
    return tuple(
        WorkShape(name=f"batch {batch}", lengths={**rest, **dict.fromkeys(batches, batch)}) for batch in DEFAULT_BATCHES
    )


def _with_room(limits: Limits) -> Limits:
    """Return limits that are two lower: some models count positions from the padding."""
    return replace(limits, greatest={axis: max(limit - 2, 1) for axis, limit in limits.greatest.items()})


def _text_shape(batch: int, length: int, axes: tuple[str, ...], limits: Limits) -> WorkShape:
    lengths = {axis: batch for axis in axes if is_batch(axis)}
    lengths.update({axis: limits.clipped(axis, length) for axis in axes if axis in _SEQUENCES})
    return WorkShape(name=f"{batch}x{length}", lengths=lengths)


def _stated(shape: WorkloadShape, axes: tuple[str, ...], limits: Limits) -> WorkShape:
    if isinstance(shape, Mapping):
        unknown = [axis for axis in shape if axis not in axes]
        if unknown:
            raise OptionError(
                "shapes",
                f"the model has no varying axis {unknown[0]!r}",
                f"its varying axes are {', '.join(axes) or 'none: leave shapes out'}",
            )
        made = WorkShape(name=" ".join(f"{axis}={length}" for axis, length in shape.items()), lengths=dict(shape))
    elif len(shape) == 2 and "sequence" in axes:
        made = _text_shape(int(shape[0]), int(shape[1]), axes, _UNLIMITED)
    else:
        has = f"whose varying axes are {', '.join(axes)}" if axes else "which has no varying axis"
        raise OptionError(
            "shapes",
            f"{tuple(shape)} is no (batch, sequence) pair of this model, {has}",
            f"pass mappings such as {{{axes[0] if axes else 'batch'!r}: 1}}",
        )
    for axis, length in made.lengths.items():
        if length < 1 or limits.clipped(axis, length) != length:
            allowed = f"{limits.least.get(axis, 1)} to {limits.greatest.get(axis, 'anything')}"
            raise OptionError("shapes", f"{axis} {length} is out of range", f"it may be {allowed}")
    return made
