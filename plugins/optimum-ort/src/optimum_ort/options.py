"""Options of an ONNX Runtime session, checked before the runtime sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from optimum_core.backend import said, whole

Threads = Annotated[int, whole(1, of="threads")]
GraphLevel = Literal["disable", "basic", "extended", "all"]
Mode = Literal["sequential", "parallel"]
Values = Annotated[Mapping[str, Any], said("a mapping of option names to values")]


@dataclass(frozen=True, kw_only=True, slots=True)
class OrtOptions:
    """Options of a session. Every default is ONNX Runtime's own, except for thread counts, which core decides.

    Attributes:
        intra_op_threads: CPU threads inside one operator, at least 1; None: from the request.
        inter_op_threads: threads across operators, at least 1; counts only in execution mode "parallel".
        execution_mode: "sequential" or "parallel" (independent branches side by side).
        graph_optimization_level: optimizations while the session loads: "disable", "basic", "extended", "all".
        provider_options: passed to the execution provider unchanged ({"cudnn_conv_algo_search": "HEURISTIC"}).
        enable_mem_pattern: plan memory by the shapes first seen.
        enable_cpu_mem_arena: keep freed memory for the next run; False gives it back to the system.
        allow_spinning: let idle threads spin for a moment, which is faster and costs CPU time.
        force_spinning_stop: stop the spinning as soon as the last run returns.
        prepacking: rewrite constant weights for faster kernels; False leaves weights of an external data file
            mapped, so that processes share them.
        deterministic: ask for kernels that give the same bits on every run.
        denormal_as_zero: treat denormal numbers as zero.
    """

    intra_op_threads: Threads | None = None
    inter_op_threads: Threads | None = None
    execution_mode: Mode = "sequential"
    graph_optimization_level: GraphLevel = "all"
    provider_options: Values = field(default_factory=dict)
    enable_mem_pattern: bool = True
    enable_cpu_mem_arena: bool = True
    allow_spinning: bool = True
    force_spinning_stop: bool = False
    prepacking: bool = True
    deterministic: bool = False
    denormal_as_zero: bool = False
