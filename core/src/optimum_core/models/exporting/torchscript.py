"""ONNX export by tracing: `torch.onnx.export(dynamo=False)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from optimum_core.errors import ExportError, foreign_errors
from optimum_core.models.eager.calls import FlatModule
from optimum_core.models.exporting import EngineRequest
from optimum_core.models.exporting.value_branches import traced_reads, value_branches
from optimum_core.models.exporting.weight_files import add_weights
from optimum_core.models.weights import state_tensors

_PROTOBUF_LIMIT = 2 * 1024**3


def write(request: EngineRequest) -> tuple[str, ...]:
    """Trace the model on the samples and write it; return the places of branches on values that the trace fixed.

    Raises:
        ExportError: it has no ONNX form for an operation.
    """
    beside = _is_large(request.module)
    flat = FlatModule(request.module, list(request.samples), [spec.name for spec in request.outputs]).eval()
    axes = {spec.name: spec.dynamic_axes for spec in (*request.inputs, *request.outputs) if spec.dynamic_axes}
    failing = foreign_errors("export to ONNX by tracing", ExportError, "the other engine is tried next")
    with failing, _without_dumps(), torch.no_grad(), _TranslatedRight(), traced_reads() as reads:
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


class _TranslatedRight(TorchFunctionMode):
    """While it is active, functions that torch (2.13) translates wrongly are written so that it does not.

    - `flatten` of axes in the middle or at the end: with sizes that vary, torch infers a wrong number of axes, as in
      the rotary positions of Helium and Moonshine, and what joins the result to others is refused. A reshape to stated
      sizes takes its place.
    - `repeat_interleave` along an axis counted from the end: torch counts it from the front in place, in a constant
      that other operations share, so that every other -1 of the graph becomes that axis too.
    - `index_add`: of several rows for one place, the last is kept instead of their sum, as where experts' answers are
      added up (JetMoE). A scattered addition is written right.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in (torch.flatten, torch.Tensor.flatten):
            return _flattened(*args, **given)
        if func in (torch.repeat_interleave, torch.Tensor.repeat_interleave) and args:
            return _repeated(func, *args, **given)
        if func in _INDEX_ADD and "out" not in given:
            return _added(_INDEX_ADD[func], *args, **given)
        return func(*args, **given)


_INDEX_ADD = {
    torch.index_add: torch.scatter_add,
    torch.Tensor.index_add: torch.scatter_add,
    torch.Tensor.index_add_: torch.Tensor.scatter_add_,
}


def _added(scatter: Any, *args: Any, **given: Any) -> torch.Tensor:
    """Return what `index_add` does, by a scattered addition."""
    arguments = {**dict(zip(("input", "dim", "index", "source"), args, strict=False)), **given}
    tensor, source, factor = arguments["input"], arguments["source"], arguments.get("alpha", 1)
    if isinstance(factor, torch.Tensor) or factor != 1:
        source = source * factor
    index = arguments["index"].reshape(-1)
    if tensor.ndim == 0:  # all is added to its one number
        added: torch.Tensor = scatter(tensor.reshape(1), 0, index, source.reshape(-1)).reshape(())
        return tensor.copy_(added) if scatter is torch.Tensor.scatter_add_ else added
    axis = arguments["dim"] % tensor.ndim
    shape = [-1 if at == axis else 1 for at in range(source.ndim)]
    made: torch.Tensor = scatter(tensor, axis, index.reshape(shape).expand_as(source), source)
    return made


def _repeated(func: Any, tensor: torch.Tensor, *rest: Any, **given: Any) -> torch.Tensor:
    """Call `repeat_interleave` with its axis counted from the front."""
    arguments = {**dict(zip(("repeats", "dim"), rest, strict=False)), **given}
    axis = arguments.get("dim")
    if isinstance(axis, int) and axis < 0:
        arguments["dim"] = axis + tensor.ndim
    repeated: torch.Tensor = func(tensor, **arguments)
    return repeated


def _flattened(tensor: torch.Tensor, start_dim: int = 0, end_dim: int = -1) -> torch.Tensor:
    axes = tensor.ndim
    first, last = start_dim % max(axes, 1), end_dim % max(axes, 1)
    if first == 0 or (first, last) == (1, axes - 1):  # ONNX has an operator for these
        return torch.flatten(tensor, start_dim, end_dim)
    return tensor.reshape(*tensor.shape[:first], -1, *tensor.shape[last + 1 :])


def _check_inputs(request: EngineRequest) -> None:
    """Raise `ExportError` where the trace lost an input: the model read its values, and they are constants now, or it
    ignores the input though its forward requires it."""
    import onnx

    graph = onnx.load(request.path, load_external_data=False).graph
    found = {value.name for value in graph.input}
    lost = [spec.name for spec in request.inputs if spec.name not in found]
    if lost:
        name = lost[0]
        why = f"input {name!r} is not in the graph: the model ignores it, or reads its values in Python"
        remedy = (
            f"the other engine is tried next; an input that is ignored may be left out with a default ({name}=None)"
        )
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
