"""Two routes to ONNX, `torchscript` and `dynamo`, with one function: `write(request)`, which returns the places where a
value of the inputs decided what was written.

Neither is a superset of the other, so each is tried until verification passes. TorchScript is quicker and its graphs
run faster; torch calls it legacy, and it fixes every branch on a value to the side that the samples took. The other
uses `torch.export` and raises an error where it cannot trace. `tracing` prepares
the input of all exporters, `rewriting` what the model calls, and `value_branches` finds what a trace fixes;
`weight_files` keeps large weights out of the message that tracing writes; `requests` are those of a known signature,
and `export_speed` spares libraries what they did before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_core.types import TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxRequest:
    """A graph to write.

    Attributes:
        module: the eager model, in evaluation mode.
        samples: torch tensors by input name, in order.
        inputs, outputs: specs with names and varying axes.
        opset: ONNX opset of the file.
        path: the file to write; large weights go into one file beside it.
    """

    module: Any
    samples: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    path: Path


Writer = Callable[[OnnxRequest], tuple[str, ...]]

ROUTES = ("torchscript", "dynamo")


def writer(route: str) -> Writer:
    """Return the function that writes by this route; only its own dependencies are imported."""
    from importlib import import_module

    found: Writer = import_module(f"{__name__}.{route}").write
    return found
