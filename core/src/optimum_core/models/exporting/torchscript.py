"""ONNX export by tracing: `torch.onnx.export(dynamo=False)`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from optimum_core.errors import ExportError, foreign_errors
from optimum_core.models.eager.calls import FlatModule
from optimum_core.models.exporting import OnnxRequest
from optimum_core.models.exporting.rewriting.tracer_faults import TranslatedRight
from optimum_core.models.exporting.value_branches import traced_reads, value_branches
from optimum_core.models.exporting.weight_files import add_weights
from optimum_core.models.weights import state_tensors

_PROTOBUF_LIMIT = 2 * 1024**3


def write(request: OnnxRequest) -> tuple[str, ...]:
    """Trace the model on the samples and write it; return the places of branches on values that the trace fixed.

    Raises:
        ExportError: it has no ONNX form for an operation.
    """
    beside = _is_large(request.module)
    flat = FlatModule(request.module, list(request.samples), [spec.name for spec in request.outputs]).eval()
    axes = {spec.name: spec.dynamic_axes for spec in (*request.inputs, *request.outputs) if spec.dynamic_axes}
    failing = foreign_errors("export to ONNX by tracing", ExportError, "the other route is tried next")
    with failing, _without_dumps(), torch.no_grad(), TranslatedRight(), traced_reads() as reads:
        torch.onnx.export(
            flat,
            tuple(request.samples.values()),
            str(request.path),
            dynamo=False,
            input_names=[spec.name for spec in request.inputs],
            output_names=[spec.name for spec in request.outputs],
            dynamic_axes=axes,
            opset_version=request.opset,
            export_params=not beside,
            do_constant_folding=not beside,  # it would make new weights of some
        )
        if beside:
            add_weights(request.path, state_tensors(flat))
    _check_inputs(request)
    return value_branches(reads, flat, tuple(request.samples.values()))


def _check_inputs(request: OnnxRequest) -> None:
    """Raise `ExportError` where the trace lost an input: the model read its values, and they are constants now, or it
    ignores the input though its forward requires it."""
    import onnx

    graph = onnx.load(request.path, load_external_data=False).graph
    found = {value.name for value in graph.input}
    lost = [spec.name for spec in request.inputs if spec.name not in found]
    if lost:
        name = lost[0]
        why = f"input {name!r} is not in the graph: the model ignores it, or reads its values in Python"
        remedy = f"the other route is tried next; an input that is ignored may be left out with a default ({name}=None)"
        raise ExportError("export to ONNX by tracing", why, remedy)


@contextmanager
def _without_dumps() -> Iterator[None]:
    """Keep the tracer from printing a whole graph when it cannot write a node; the exception says enough."""
    # The exporter enables this log whatever its setting: only replacing the function silences it.
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *parts: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


def _is_large(module: torch.nn.Module) -> bool:
    """Whether weights are left out of the message, which cannot hold them. It depends on the model alone: the same
    model makes the same graph, however busy the machine is."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in state_tensors(module).values())
    return bool(weights >= _PROTOBUF_LIMIT)
