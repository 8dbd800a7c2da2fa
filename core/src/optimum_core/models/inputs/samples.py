"""Arrays for a layout: fresh values, any lengths, padded as a case says, the same for the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from optimum_core.artifact.embedding import POOLING_MASK
from optimum_core.models.inputs.layouts import InputLayout, Layout
from optimum_core.models.inputs.variations import Around
from optimum_core.types.arrays import ArrayMapping, Arrays, NDArray

#: Ids from here on are drawn in one case alone: among the last ones, many have a meaning that nothing states.
ORDINARY = 32768

#: "most" is right padding of all but a few positions of every row.
Padding = Literal["none", "right", "left", "most"]
#: Positions that are left of a row that is mostly padding.
_FEW = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One call to draw: a name for reports, lengths of named axes (others as traced), padding, seed."""

    name: str
    lengths: Mapping[str, int] = field(default_factory=dict)
    padding: Padding = "right"
    seed: int = 0


def draw(layout: Layout, case: Case, given: Mapping[str, Any] | None = None) -> Arrays:
    """Draw one call.

    Args:
        given: the user's samples. The call is then theirs; a case with a seed varies the values in it.
    """
    rng = np.random.default_rng(case.seed)
    if given:
        drawn = _around(layout, case, rng, given)
    else:
        fixed = [axis for item in layout.inputs for axis in item.before if isinstance(axis, str)]
        paddings = {axis: _kept(layout, case, axis, rng) for axis in dict.fromkeys((*layout.axes, *fixed))}
        drawn = {item.name: _draw_one(layout, item, case, paddings, rng) for item in layout.inputs}
    # numpy gives masks of three axes strides that a model's `view` refuses.
    return {name: np.asarray(array, order="C") for name, array in drawn.items()}


def _around(layout: Layout, case: Case, rng: np.random.Generator, given: Mapping[str, Any]) -> Arrays:
    masked = [item for item in layout.inputs if item.kind == "mask"]
    ends = dict.fromkeys(axis for item in masked for axis in item.padded)
    paddings = {axis: _kept(layout, case, axis, rng) for axis in ends}
    masks = {item.name: _valid(item, layout.shape(item, case.lengths), case, paddings) for item in masked}
    return Around(layout=layout, lengths=case.lengths, given=given, fresh=case.seed != 0, rng=rng).arrays(masks)


def _kept(layout: Layout, case: Case, axis: str, rng: np.random.Generator) -> NDArray:
    """Return the number of unpadded positions of each row: at least one, and all of the first row."""
    batch = "media_batch" if axis in ("samples", "frames", "patches") and "media_batch" in layout.axes else "batch"
    varied = {name: length for name, length in case.lengths.items() if name in layout.axes}  # a workload may state more
    lengths = {**layout.lengths, **varied}
    rows, length = lengths.get(batch, 1), lengths[axis]
    kept = rng.integers(max(1, length // 2), length, size=rows, endpoint=False) if length > 2 else np.full(rows, length)
    kept[0] = length
    if case.padding == "none":
        kept[:] = length
    elif case.padding == "most":
        kept[:] = min(_FEW, length)
    elif rows == 1 and length > 2:
        kept[0] = length - 1  # a mask of ones alone would let a wrong mask pass
    return kept


def _draw_one(
    layout: Layout,
    item: InputLayout,
    case: Case,
    paddings: ArrayMapping,
    rng: np.random.Generator,
) -> NDArray:
    shape = layout.shape(item, case.lengths)
    if item.kind in ("ids", "types", "mask"):
        valid = _valid(item, shape, case, paddings)
        if item.kind == "mask":
            return (_after_prompt(valid) if item.name == POOLING_MASK else valid).astype(item.dtype)
        return _ids(layout, item, shape, valid, rng) if item.kind == "ids" else _types(layout, item, shape, valid)
    if item.kind == "boxes":
        greatest = layout.vocabulary.get(item.name, 1000)
        corners = np.sort(rng.integers(0, greatest, size=(*shape[:-1], 2, 2)), axis=-2)
        return np.asarray(corners.reshape(shape), dtype=item.dtype)
    if item.kind == "indices":
        return rng.integers(0, layout.vocabulary.get(item.name, 2), size=shape).astype(item.dtype)
    if item.kind == "spans":
        length = case.lengths.get("sequence", layout.lengths["sequence"])
        return _spans(shape, length, rng).astype(item.dtype)
    if item.kind == "grids":
        return _grids(paddings["patches"], rng).astype(item.dtype)
    scale = 0.1 if item.kind == "waveform" else 1.0
    return (scale * rng.standard_normal(shape)).astype(item.dtype)


def _valid(item: InputLayout, shape: tuple[int, ...], case: Case, paddings: ArrayMapping) -> NDArray:
    valid = np.ones(shape, dtype=bool)
    if item.meaning[0] not in ("batch", "media_batch"):
        return valid
    for axis in item.padded:
        if place := item.meaning.index(axis):
            positions, kept = np.arange(shape[place]), paddings[axis][:, None]
            rows = positions < kept if case.padding != "left" else positions >= shape[place] - kept
            valid &= rows.reshape(shape[0], *[1] * (place - 1), -1, *[1] * (len(shape) - place - 1))
    return valid


def _spans(shape: tuple[int, ...], length: int, rng: np.random.Generator) -> NDArray:
    """Return places in a text of this length: one each along two axes; along three, those of a few tokens, then -1."""
    start = rng.integers(0, length, size=shape[:2])
    if len(shape) == 2:
        return start
    steps, last = np.arange(shape[2]), rng.integers(start, length)[..., None]
    places = start[..., None] + steps
    return np.where(places <= last, places, -1)


def _grids(kept: NDArray, rng: np.random.Generator) -> NDArray:
    """Return for each picture the patches along its height and width, together no more than it keeps."""
    height = rng.integers(1, kept, endpoint=True)
    return np.stack([height, kept // height], axis=-1)


def _after_prompt(valid: NDArray) -> NDArray:
    """Return the places of a text behind a prompt of one token; a text of one or two tokens has no prompt."""
    count = np.cumsum(valid, axis=-1)
    return valid & ((count > 1) | (count[..., -1:] < 3))


def _ids(
    layout: Layout, item: InputLayout, shape: tuple[int, ...], valid: NDArray, rng: np.random.Generator
) -> NDArray:
    """Return ordinary tokens, begun and ended by the model's special ones if it has them, padding where not valid."""
    vocabulary = layout.vocabulary.get(item.name, 64)
    ordinary = np.setdiff1d(np.arange(min(vocabulary, ORDINARY)), list(layout.special.values()))
    ids = rng.choice(ordinary if len(ordinary) else np.arange(vocabulary), size=shape)
    rows, masks = ids.reshape(-1, shape[-1]), valid.reshape(-1, shape[-1])
    for row, mask in zip(rows, masks, strict=True):
        places = np.flatnonzero(mask)
        if len(places) > 2:
            row[places[0]] = layout.special.get("bos_token_id", row[places[0]])
            row[places[-1]] = layout.special.get("eos_token_id", row[places[-1]])
        row[~mask] = layout.special.get("pad_token_id", 0)
    return ids.astype(item.dtype)


def _types(layout: Layout, item: InputLayout, shape: tuple[int, ...], valid: NDArray) -> NDArray:
    """Return token types of two segments, as for a pair of sentences."""
    second = np.broadcast_to(np.arange(shape[-1]) >= shape[-1] // 2, shape) & valid
    return np.asarray(np.minimum(second, layout.vocabulary.get(item.name, 2) - 1), dtype=item.dtype)
