"""The workload: shapes to measure candidates at, the user's or the default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimum_core.errors import OptionError
from optimum_core.generation.workload import NEW, workload_of
from optimum_core.types import TensorSpec

Shape = Sequence[int] | Mapping[str, int]

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
    """

    name: str
    lengths: Mapping[str, int]
    new: int | None = None

    @property
    def items(self) -> int:
        """The number of sequences, pictures or sounds in one call, as far as the shape tells."""
        return max((length for axis, length in self.lengths.items() if axis.endswith("batch")), default=1)


def workload(
    shapes: Sequence[Shape] | None, inputs: Sequence[TensorSpec], limits: Mapping[str, int]
) -> tuple[WorkShape, ...]:
    """Return the shapes to measure at.

    Args:
        shapes: (batch, sequence) pairs, or mappings of axis names to lengths; None: the default.
        inputs: the model's inputs; only axes that vary there can be stated.
        limits: the greatest length of an axis.

    Raises:
        OptionError: a shape that the model cannot take.
    """
    axes = tuple(dict.fromkeys(axis for spec in inputs for axis in spec.shape if isinstance(axis, str)))
    if shapes is None:
        return _default(axes, limits)
    if not shapes:
        raise OptionError("shapes", "there are none", "pass (batch, sequence) pairs, or leave it out")
    return tuple(_stated(shape, axes, limits) for shape in shapes)


def generation_workload(shapes: Sequence[Shape] | None, longest: int | None) -> tuple[WorkShape, ...]:
    """Return the shapes to measure a generative model at: (batch, prompt, new tokens).

    Args:
        shapes: as stated; None: the default.
        longest: the greatest number of positions; None: unknown.

    Raises:
        OptionError: a shape makes no sense, or is beyond the model.
    """
    return tuple(
        WorkShape(
            name=f"{found['batch']}x{found['sequence']}+{found[NEW]}",
            lengths={"batch": found["batch"], "sequence": found["sequence"]},
            new=found[NEW],
        )
        for found in workload_of(shapes, longest)
    )


def _default(axes: tuple[str, ...], limits: Mapping[str, int]) -> tuple[WorkShape, ...]:
    batches = [axis for axis in axes if axis.endswith("batch")]
    if "sequence" in axes:
        # Two below the limit: some models count positions from the padding.
        limits = {axis: max(limit - 2, 1) for axis, limit in limits.items()}
        pairs = dict.fromkeys((batch, min(length, limits.get("sequence", length))) for batch, length in DEFAULT_TEXT)
        return tuple(_text_shape(batch, length, axes, limits) for batch, length in pairs)
    rest = {axis: length for axis, length in _DEFAULT_LENGTHS.items() if axis in axes}
    if not batches:
        return (WorkShape(name="as traced", lengths=rest),)
    return tuple(
        WorkShape(name=f"batch {batch}", lengths={**rest, **dict.fromkeys(batches, batch)}) for batch in DEFAULT_BATCHES
    )


def _text_shape(batch: int, length: int, axes: tuple[str, ...], limits: Mapping[str, int]) -> WorkShape:
    lengths = {axis: batch for axis in axes if axis.endswith("batch")}
    lengths.update({axis: min(length, limits.get(axis, length)) for axis in axes if axis in _SEQUENCES})
    return WorkShape(name=f"{batch}x{length}", lengths=lengths)


def _stated(shape: Shape, axes: tuple[str, ...], limits: Mapping[str, int]) -> WorkShape:
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
        made = _text_shape(int(shape[0]), int(shape[1]), axes, {})
    else:
        raise OptionError(
            "shapes",
            f"{tuple(shape)} is no (batch, sequence) pair of this model",
            f"pass mappings such as {{{axes[0] if axes else 'batch'!r}: 1}}",
        )
    for axis, length in made.lengths.items():
        if not 0 < length <= limits.get(axis, length):
            raise OptionError(
                "shapes", f"{axis} {length} is out of range", f"it may be 1 to {limits.get(axis, 'anything')}"
            )
    return made
