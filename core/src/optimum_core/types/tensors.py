"""Arrays, and specifications of arrays: names, types, shapes and ranges."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self

#: Names of axes that are known by position alone: position and length in the samples.
_MADE_UP = re.compile(r"(.+_)?axis\d+_\d+")
#: The outputs of a sentence encoder: a vector for each token, and one for a text.
TOKENS, SENTENCE = "token_embeddings", "sentence_embedding"
#: The file beside a sentence encoder that lists its modules.
MODULES = "modules.json"


class Array(Protocol):
    """A numpy array, or any other object that supports DLPack (a torch tensor, a device buffer)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __dlpack__(self, *, stream: Any = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


def made_of(mask: str) -> str:
    """Return the name of the ids to which a mask applies.

    >>> made_of("decoder_attention_mask")
    'decoder_input_ids'
    """
    return mask.removesuffix("attention_mask") + "input_ids"


#: Inputs of texts that transformers' models take as left out, and the value that they then have everywhere.
TEXT_DEFAULTS: Mapping[str, Literal["ones", "zeros"]] = {"attention_mask": "ones", "token_type_ids": "zeros"}


def text_default(name: str, rank: int) -> Literal["ones", "zeros"] | None:
    """Return the default of a given graph's input, which is that of transformers' models of texts.

    >>> text_default("token_type_ids", 2)
    'zeros'
    """
    return TEXT_DEFAULTS.get(name) if rank == len(("batch", "sequence")) else None


def is_batch(axis: object) -> bool:
    """Whether an axis counts the rows of a call: "batch", "decoder_batch", "media_batch"."""
    return isinstance(axis, str) and axis.endswith("batch")


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """The specification of one input or output of a model.

    Attributes:
        name: the name in the model's forward signature or output class; nested values are dotted.
        dtype: numpy's name of the element type ("int64", "float32"), or "bfloat16".
        shape: the length of each axis, or a name where the length may vary. Axes of one name have the same length.
        default: the value that the eager model assumes when this input is left out, where that was proved; None:
            required. A mask may be derived from the ids: "tokens" is 1 where they are not `pad`, "leading" is 1 at as
            many positions from the start. Position ids may be "places", 0, 1, 2, … from the start of each row, or
            "counts", the number of tokens before each one by the mask, and at padding `least`, or 0; both are derived
            by the driver of a decoder.
        pad: the padding id, where the default is derived from ids.
        least: the smallest value that the eager model accepts; None: no limit is known.
        greatest: the largest one, included; None: no limit is known.
        least_by, greatest_by: an axis whose length decides on the smallest or the largest value, as of places in
            another input, and what is added to the length, or to the negated one: with ("sequence", 0) and
            ("sequence", -1), values go from -sequence to sequence - 1. None: no length does.
        least_ratio, greatest_ratio: what the length is multiplied by first, and the sum divided by and rounded down:
            (2, 1) of places in two such axes that were joined, (1, 2) of places among every second position.
        sides: for boxes x0, y0, x1, y1 along the last axis, the least and the greatest x1 - x0 and y1 - y0 that the
            eager model accepts; None: no limit is known.
        columns: for each place along the last axis the smallest and the largest value, each None without a known limit,
            where these differ, as of categories that are looked up in a table each; None: all have `least` and
            `greatest`. Of floats, which models may make whole numbers of, those next to the first that is refused; one
            pair alone holds for all places. Places beyond those named have no bounds.
        nonfinite: whether NaN and infinity are accepted: the samples held some, so that they were compared with eager.
        exact: whether the eager model answers otherwise where this input is of another type that could be converted:
            `x * 2` of float64 is float64. Then a call has to pass this very type.
        contiguous: whether the eager model answers otherwise where the numbers of this input do not lie in order, as in
            a transposed view. Then a call has to pass a contiguous array.
        one_row: whether one row stands for all where other inputs with its first axis have more, as in eager, which
            broadcasts it.
        skipped: a value beside the range that the eager model takes as none: labels of -100, which no loss counts.
        all_skipped: whether it takes an input of this value alone.

    >>> TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence")).dynamic_axes
    {0: 'batch', 1: 'sequence'}
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    default: Literal["ones", "zeros", "tokens", "leading", "places", "counts"] | None = None
    pad: int | None = None
    least: int | None = None
    greatest: int | None = None
    least_by: tuple[str, int] | None = None
    greatest_by: tuple[str, int] | None = None
    least_ratio: tuple[int, int] = (1, 1)
    greatest_ratio: tuple[int, int] = (1, 1)
    sides: tuple[int, int] | None = None
    columns: tuple[tuple[float | None, float | None], ...] | None = None
    nonfinite: bool = False
    exact: bool = False
    contiguous: bool = False
    one_row: bool = False
    skipped: int | None = None
    all_skipped: bool = False

    @property
    def dynamic_axes(self) -> dict[int, str]:
        """The names of the axes whose length may vary, by index."""
        return {index: axis for index, axis in enumerate(self.shape) if isinstance(axis, str)}

    @property
    def made_of(self) -> str | None:
        """The input from which the default is derived; None: it depends on the shape only."""
        return made_of(self.name) if self.pad is not None else None

    def at(self, lengths: Mapping[str, int]) -> Self:
        """Return this specification where some named axes have one length each.

        >>> spec = TensorSpec(name="place", dtype="int64", shape=("batch",), least=0, greatest_by=("sequence", -1))
        >>> spec.at({"sequence": 9}).greatest
        8
        """
        made = replace(self, shape=tuple(lengths.get(str(axis), axis) for axis in self.shape))
        if self.least_by is not None and self.least_by[0] in lengths:
            (axis, plus), (times, over) = self.least_by, self.least_ratio
            least = -((lengths[axis] * times - plus) // over)
            made = replace(made, least=least, least_by=None, least_ratio=(1, 1))
        if self.greatest_by is not None and self.greatest_by[0] in lengths:
            (axis, plus), (times, over) = self.greatest_by, self.greatest_ratio
            greatest = (lengths[axis] * times + plus) // over
            made = replace(made, greatest=greatest, greatest_by=None, greatest_ratio=(1, 1))
        return made

    def unbounded(self, shape: tuple[int | str, ...]) -> Self:
        """Return this specification with another shape and any values."""
        return replace(
            self, shape=shape, least=None, greatest=None, least_by=None, greatest_by=None, least_ratio=(1, 1),
            greatest_ratio=(1, 1), sides=None, columns=None,
        )  # fmt: skip

    @property
    def follows_length(self) -> bool:
        """Whether the length of an axis decides on a bound of the values."""
        return self.least_by is not None or self.greatest_by is not None

    @property
    def is_bounded(self) -> bool:
        """Whether there is a largest value, or one for some place along the last axis."""
        columns = self.columns or ()
        return any(found is not None for found in (self.greatest, self.greatest_by, *(last for _, last in columns)))

    def left_out(self, like: Any, ids: Any = None) -> Any:
        """Return the default values of this input, used when it is left out.

        Args:
            like: a numpy array of its shape.
            ids: the array of the input `made_of`.
        """
        if self.pad is None or ids is None:
            made = like != like
            return (~made if self.default == "ones" else made).astype(self.dtype)
        tokens = ids != self.pad
        if self.default == "leading":
            places = (tokens | ~tokens).cumsum(-1)
            tokens = places <= tokens.sum(-1, keepdims=True)
        return tokens.astype(self.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisRange:
    """The accepted lengths of one named axis.

    Attributes:
        least: the shortest length accepted.
        greatest: the longest length accepted; None: no limit is known.
        proved: the shortest and the longest length at which the model was compared with eager; None: none was.
        why: the reason for `greatest`, for the error ("the model has 512 positions").
        why_least: the reason for `least`, where it is not the model that takes none shorter.
    """

    least: int = 1
    greatest: int | None = None
    proved: tuple[int, int] | None = None
    why: str = ""
    why_least: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedAxis:
    """An axis with one length, where the eager model takes others too.

    Attributes:
        place: its name, or "axis 1 of input 'x'" where it has none of its own.
        length: the one length.
        why: the reason, as a clause.

    >>> str(FixedAxis(place="batch", length=1, why="it was compared at no other"))
    'batch is fixed at 1'
    """

    place: str
    length: int
    why: str

    def __str__(self) -> str:
        return f"{self.place} is fixed at {self.length}"

    @property
    def note(self) -> str:
        """The sentence for a report."""
        return f"{self}: {self.why}"


def places_of(inputs: Iterable[tuple[str, tuple[int | str, ...]]]) -> dict[str, str]:
    """Return where the axes are whose names are made up of an input's name, or of position and length.

    Args:
        inputs: names and axes.

    >>> places_of([("x", ("batch", "axis1_5"))])
    {'axis1_5': "axis 1 of input 'x'"}
    """
    found: dict[str, str] = {}
    for name, axes in inputs:
        for index, axis in enumerate(axes):
            if isinstance(axis, str) and (_MADE_UP.fullmatch(axis) or axis.startswith(f"{name}_")):
                found.setdefault(axis, f"axis {index} of input {name!r}")
    return found
