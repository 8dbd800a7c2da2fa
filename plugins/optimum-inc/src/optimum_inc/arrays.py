"""Conversion of arrays to tensors and back: shared memory wherever that is safe."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from optimum_core.backend import read_input
from optimum_core.errors import InputError
from optimum_core.types import Array


def tensor_of(name: str, value: Array, who: str) -> torch.Tensor:
    """Return a contiguous tensor in host memory. Arrays are copied only where torch cannot read them as they are.

    Raises:
        InputError: the value is no array, or lies on another device.
    """
    if isinstance(value, np.ndarray):
        if not (value.flags.writeable and value.dtype.isnative and value.flags.c_contiguous):
            # torch warns about read-only memory, and has no negative strides.
            value = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        reader: Any = torch.from_numpy
    else:
        reader = torch.utils.dlpack.from_dlpack
    tensor: torch.Tensor = read_input(who, name, value, reader)
    if tensor.device.type != "cpu":
        why = f"input {name!r} lies on {tensor.device}"
        raise InputError(who, why, "pass a numpy array, or a tensor in host memory")
    return tensor.contiguous()
