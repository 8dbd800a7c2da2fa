"""Reference cases with a row whose mask leaves nothing of it, or less than the model takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from optimum_core.models.inputs.layouts import InputLayout
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types import AxisRange
from optimum_core.types.arrays import ArrayMapping
from optimum_core.types.tensors import made_of
from optimum_core.verify.comparison import ReferenceCase

log = logging.getLogger(__name__)

EMPTY = "a row without any token"
SILENT = "a row without any sample or pixel"
SHORT = "a row of fewer samples than the model takes"


@dataclass(frozen=True, slots=True)
class _EmptyRow:
    """The last row of a batch.

    Attributes:
        name: of its case.
        masks: those that are zero there.
        kept: leading positions of it that are ones all the same.
    """

    name: str
    masks: list[InputLayout]
    kept: int = 0


def empty_row_cases(
    signature: ModelSignature, answered: Callable[[str, ArrayMapping], ReferenceCase]
) -> Iterator[ReferenceCase]:
    """Yield batches whose last row is masked as a whole, if the eager model gives finite outputs for it: texts first,
    those of encoder and decoder together and alone, then sounds and pictures, which it may refuse where it takes such
    texts; and sounds of which the mask leaves less than one frame.

    Args:
        answered: returns a case of this name and these inputs with the eager model's outputs, or raises its error.
    """
    masks = [item for item in signature.layout.inputs if item.kind == "mask"]
    if any(item.axes[0] != "batch" for item in masks):
        return
    for row in _rows(signature, masks):
        if row.masks and (found := _case(signature, row, answered)) is not None:
            yield found


def _rows(signature: ModelSignature, masks: list[InputLayout]) -> Iterator[_EmptyRow]:
    of_texts = [item for item in masks if "sequence" in str(item.meaning[-1])]
    yield _EmptyRow(EMPTY, of_texts)
    yield _EmptyRow(SILENT, [item for item in masks if item not in of_texts])
    if len(of_texts) > 1:
        yield from (_EmptyRow(f"{EMPTY} in {item.name}", [item]) for item in of_texts)
    least = signature.ranges.get("samples", AxisRange()).least
    if least > 1:
        yield _EmptyRow(SHORT, [item for item in masks if item.axes[-1] == "samples"], least - 1)


def _case(
    signature: ModelSignature, row: _EmptyRow, answered: Callable[[str, ArrayMapping], ReferenceCase]
) -> ReferenceCase | None:
    layout = signature.layout
    inputs = {key: array.copy() for key, array in signature.draw(Case(name=row.name, seed=99)).items()}
    for item in row.masks:
        inputs[item.name][-1] = 0
        inputs[item.name][-1, : row.kept] = 1
        if (ids := made_of(item.name)) in inputs:
            inputs[ids][-1] = layout.special.get("pad_token_id", 0)
    try:
        found = answered(row.name, inputs)
    except Exception as error:  # noqa: BLE001 - the eager model refuses it, so there is nothing to compare
        log.info("%s is left out: eager refuses it: %r", row.name, error)
        return None
    if not all(np.isfinite(array).all() for array in found.outputs.values() if array.dtype.kind == "f"):
        return None
    return replace(found, empty=np.arange(layout.lengths["batch"]) == layout.lengths["batch"] - 1)
