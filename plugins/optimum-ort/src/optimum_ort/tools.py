"""The one module that imports onnxruntime's quantization tools."""

from __future__ import annotations

import sys
from typing import Any


def quantization() -> Any:
    """The package `onnxruntime.quantization`.

    Importing it appends a folder to `sys.path` whose modules (`optimizer`, `metrics`, `float16`, …) would hide a
    program's own of these names; it is taken off again.
    """
    before = set(sys.path)
    import onnxruntime.quantization

    sys.path[:] = [entry for entry in sys.path if entry in before or "onnxruntime" not in entry]
    return onnxruntime.quantization
