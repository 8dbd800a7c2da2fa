"""Positions of an output that mean something: those of tokens, pixels or samples, and not of padding."""

from __future__ import annotations

from collections.abc import Mapping

from optimum_core.types import TensorSpec
from optimum_core.types.arrays import NDArray

Mask = NDArray


def meaningful(
    valid: Mapping[str, Mask], lengths: Mapping[str, int], spec: TensorSpec, shape: tuple[int, ...]
) -> Mask | None:
    """Return the mask of an output's meaningful positions, also where its batch or its positions have a fixed length;
    None: all are meaningful, as of an output that has other axes than it has as a rule (`x.squeeze()` of one row)."""
    if not 2 <= len(spec.shape) == len(shape) or spec.shape[0] not in ("batch", shape[0]):
        return None
    if isinstance(spec.shape[1], str):
        return valid.get(spec.shape[1])
    fixed = (mask for axis, mask in valid.items() if axis not in lengths and mask.shape == shape[:2])
    return next(fixed, None)
