"""Aliases of numpy's arrays for annotations. Numpy itself is not imported, so that this room stays fast to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

#: An array of any type and shape. What crosses a boundary is an `optimum_core.types.Array`, which need not be numpy's.
NDArray: TypeAlias = "np.ndarray[Any, Any]"
#: Arrays by name.
Arrays: TypeAlias = "dict[str, np.ndarray[Any, Any]]"
#: Arrays by name that are only read.
ArrayMapping: TypeAlias = "Mapping[str, np.ndarray[Any, Any]]"
