"""Tracing of torch models for exporters. Imports torch, so import it from the hooks' modules, not from a probe.

>>> with foreign_errors(who, ExportError, "use another route"), ready_to_trace(module):  # doctest: +SKIP
...     program = exported_program(flat_module(module, request), [*sample_tensors(request).values()], request.inputs)
"""

from __future__ import annotations

from optimum_core.models.eager.calls import FlatModule
from optimum_core.models.eager.time_limit import export_limit
from optimum_core.models.exporting.export_speed import patches_of_imported_models
from optimum_core.models.exporting.tracing import (
    NamedModule,
    dynamic_shapes,
    exported_program,
    flat_module,
    graph_inputs,
    graph_outputs,
    named_module,
    ready_to_trace,
    sample_tensors,
)
from optimum_core.models.exporting.value_branches import traced_reads, value_branches
from optimum_core.models.pretrained import quiet

__all__ = [
    "FlatModule",
    "NamedModule",
    "dynamic_shapes",
    "export_limit",
    "exported_program",
    "flat_module",
    "graph_inputs",
    "graph_outputs",
    "named_module",
    "patches_of_imported_models",
    "quiet",
    "ready_to_trace",
    "sample_tensors",
    "traced_reads",
    "value_branches",
]
