"""Aliases of numpy's arrays for annotations. This module imports numpy, and the rest of `types` does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

#: An array of any type and shape; unlike `numpy.typing.NDArray`, it takes no parameter. What crosses a boundary is an
#: `optimum_core.types.Array`, which need not be numpy's.
NDArray = np.ndarray[Any, Any]
#: Arrays of numpy by name.
Arrays = dict[str, NDArray]
#: The same, only read.
ArrayMapping = Mapping[str, NDArray]
