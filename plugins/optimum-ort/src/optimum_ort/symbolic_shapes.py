"""Symbolic shape inference of onnxruntime, without its side effect.

A graph that it gives up on is saved, with all its weights, into the working directory. A private copy of the module is
loaded whose `onnx` does not save: the module that others import is not touched.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType
from typing import Any

_NAME = "onnxruntime.tools.symbolic_shape_infer"


def infer_shapes(model: Any) -> Any:
    """Return a copy of an `onnx.ModelProto` with the shapes of its values.

    Related axes are assumed to be equal: a guess, so a caller must not keep these shapes in a file that it hands on.

    Raises:
        Exception: it gave up on the graph; of any class.
    """
    return _module().SymbolicShapeInference.infer_shapes(model, auto_merge=True)


@cache
def _module() -> Any:
    spec = importlib.util.find_spec(_NAME)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.onnx = _WithoutSaving("onnx")  # type: ignore[attr-defined]
    return module


class _WithoutSaving(ModuleType):
    """The package `onnx`, except that `save_model` does nothing."""

    def __getattr__(self, name: str) -> Any:
        import onnx

        return getattr(onnx, name)

    def save_model(self, *arguments: Any, **options: Any) -> None:
        """Ignore the call."""
