"""Adapter to onnxruntime's quantization tools: the one module that imports them."""

from __future__ import annotations

import sys
from typing import Any


def quantization() -> Any:
    """Return the package `onnxruntime.quantization`.

    Importing it appends a folder to `sys.path` whose modules (`optimizer`, `metrics`, `float16`, …) would hide a
    program's own of these names; it is removed again.
    """
    before = set(sys.path)
    import onnxruntime.quantization

    sys.path[:] = [entry for entry in sys.path if entry in before or "onnxruntime" not in entry]
    return onnxruntime.quantization
