"""Mapping from operations of a graph to the layers of the module that it was exported from.

OpenVINO's TorchScript frontend writes the module's path into the names of operations:
"__module.encoder.layer.0.query/aten::linear/MatMul". The frontend for `torch.export` drops it; here it is recorded and
written into the names in the same way. Both lose it where a convolution and a batch norm become one operation, which
gets the convolution's.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from optimum_core.backend import matching_layers, unwrapped

_PREFIX = "__module."
# A TorchScript value by its number; OpenVINO counts on where another value took the name.
_VALUE = re.compile(r"(\d+)_\d+")
# The module name that torch's own passes write where they made a node.
_NOWHERE = "_empty_nn_module_stack"


@contextmanager
def recorded_scopes() -> Iterator[Mapping[str, str]]:
    """Record the module of each node of a converted graph within the block, by the node's name: all nodes of
    `torch.fx`, and those of TorchScript whose name is lost.
    """
    import torch
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    scopes: dict[str, str] = {}
    exported, traced = TorchFXPythonDecoder.__init__, TorchScriptPythonDecoder.__init__

    def recording(self: Any, pt_module: Any, *arguments: Any, **options: Any) -> None:
        if isinstance(pt_module, torch.fx.GraphModule):
            scopes.update(_module_paths(pt_module))
        exported(self, pt_module, *arguments, **options)

    def recording_traced(self: Any, pt_module: Any, graph_element: Any = None, *arguments: Any, **options: Any) -> None:
        traced(self, pt_module, graph_element, *arguments, **options)
        if graph_element is None:
            scopes.update(_normalized(self.graph_element))

    TorchFXPythonDecoder.__init__, TorchScriptPythonDecoder.__init__ = recording, recording_traced
    try:
        yield scopes
    finally:
        TorchFXPythonDecoder.__init__, TorchScriptPythonDecoder.__init__ = exported, traced


def _module_paths(graph_module: Any) -> Iterator[tuple[str, str]]:
    for node in graph_module.graph.nodes:
        stack = _meant(node).meta.get("nn_module_stack")
        path = str(list(stack.values())[-1][0]) if stack else ""
        if node.op == "call_function" and path and not path.startswith(_NOWHERE):
            yield node.name, path


def _meant(node: Any) -> Any:
    """Return the node itself; for a batch norm, the convolution before it, which OpenVINO fuses with it."""
    norm = node.args[0] if node.op == "call_function" and node.target is operator.getitem else node
    if norm.op == "call_function" and "batch_norm" in str(norm.target):
        source = norm.args[0]
        if source.op == "call_function" and "conv" in str(source.target):
            return source
    return node


def _normalized(graph: Any) -> Iterator[tuple[str, str]]:
    """Yield the numbers of batch norms' values in a TorchScript graph, with the modules of the convolutions before
    them: OpenVINO fuses both into one operation, which keeps that number only.
    """
    for node in graph.nodes():
        if node.kind() != "aten::batch_norm":
            continue
        source = next(iter(node.inputs())).node()
        path = source.scopeName().rpartition("/")[2]
        if "conv" in source.kind() and path.startswith(_PREFIX):
            yield str(node.output().unique()), path.removeprefix(_PREFIX)


def name_layers(model: Any, scopes: Mapping[str, str]) -> None:
    """Write into the names of operations the modules that they came from."""
    for operation in model.get_ops():
        name = operation.get_friendly_name()
        scope = next((scopes[node] for node in _node_names(operation, name) if node in scopes), None)
        if scope and not name.startswith(_PREFIX) and operation.get_type_name() not in ("Parameter", "Result"):
            operation.set_friendly_name(f"{_PREFIX}{scope}/{name}")


def _node_names(operation: Any, name: str) -> Iterator[str]:
    """Yield the possible names of the node that became this operation."""
    yield name.partition("/")[0]
    for output in operation.outputs():
        for tensor in sorted(output.get_names()):
            node = tensor.partition(":")[0]
            yield node
            if value := _VALUE.fullmatch(node):
                yield value[1]


def kept_operations(model: Any, patterns: Iterable[str], who: str, *, is_decoder: bool = False) -> list[str]:
    """Return the names of the operations of the layers that `patterns` name: dotted names, each with its sublayers; *
    is a wildcard.

    Raises:
        OptionError: a pattern matches no layer of the graph.
    """
    names = [operation.get_friendly_name() for operation in model.get_ops()]
    scopes = {name: name.removeprefix(_PREFIX).partition("/")[0] for name in names if name.startswith(_PREFIX)}
    layers = unwrapped(scopes.values(), is_decoder=is_decoder)
    matching = matching_layers(patterns, layers.values(), who)
    return sorted(name for name, scope in scopes.items() if layers[scope] in matching)
