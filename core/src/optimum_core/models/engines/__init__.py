"""Two ways to write ONNX, one file each, behind one function: `write(request)`, which gives the places
where a value of the inputs decided what was written.

Neither is a superset of the other, so each is tried until verification passes. TorchScript's is quicker and its
graphs run faster; torch calls it legacy, and it keeps of every branch on a value the side that the samples took. The
other goes through `torch.export`, needs little memory beyond the model, and stops at what it cannot trace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_core.types import TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRequest:
    """What an engine writes.

    Attributes:
        module: the eager model, in evaluation mode.
        samples: torch tensors by input name, in order.
        inputs, outputs: names, and which axes vary.
        opset: ONNX opset of the file.
        path: the file to write; weights beyond 2 GB go into one file beside it.
    """

    module: Any
    samples: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    path: Path


Engine = Callable[[EngineRequest], tuple[str, ...]]

ROUTES = ("torchscript", "dynamo")


def engine(route: str) -> Engine:
    """The engine of that name; only its own imports are made."""
    from importlib import import_module

    found: Engine = import_module(f"{__name__}.{route}").write
    return found
