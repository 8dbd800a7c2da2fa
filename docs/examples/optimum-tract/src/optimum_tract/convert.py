"""Conversion of ONNX to what tract takes, and its refusal where tract cannot analyse the graph."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx
import tract

from optimum_core.backend import foreign_errors, no_options, silence
from optimum_core.errors import ExportError, OptionError
from optimum_core.types import Artifact, OptimizeRequest, Step
from optimum_tract.plugin import FORMAT, NAME, ROWS

_FILE = "model.onnx"
_WHO = f"backend {NAME!r}"


def convert(request: OptimizeRequest) -> Artifact:
    """Write the graph without the shapes noted inside of it, as one file that tract has analysed.

    Raises:
        OptionError: a level or an option was passed, or the artifact is not ONNX.
        ExportError: tract cannot run the graph.
    """
    read = request.artifact
    no_options(_WHO, request.options)
    if request.level is not None or read.format != "onnx" or request.precision != "fp32":
        why = f"it does not convert {read.format!r} in {request.precision!r} at level {request.level!r}"
        raise OptionError(_WHO, why, "give ONNX, in 'fp32', without a level")
    with silence(), foreign_errors(_WHO, ExportError, "use another backend", doing="tract does not take it"):
        graph = onnx.load(read.main_file)
        del graph.graph.value_info[:]
        onnx.save(graph, request.output / _FILE)
        tract.onnx().load(request.output / _FILE).into_model().into_runnable()
    told = {ROWS: _rows(graph.graph)}
    step = Step(hook="optimize", backend=NAME, tool="tract", version=tract.version(), options=told)
    steps = (*read.steps, step)
    return dataclasses.replace(read, format=FORMAT, path=request.output, files=(_FILE,), steps=steps)


def _rows(graph: Any) -> dict[str, int]:
    """Return the number of rows of the smallest table that each input looks up: beyond it, tract ends the process."""
    tables = {item.name: item.dims[0] for item in graph.initializer if item.dims}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in tables:
            name, rows = node.input[1], tables[node.input[0]]
            found[name] = min(rows, found.get(name, rows))
    return {item.name: found[item.name] for item in graph.input if item.name in found}
