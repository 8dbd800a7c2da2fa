"""Options of an ONNX Runtime session, checked before the runtime sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optimum_core.options import Check, flag, mapping_of, one_of, optional, read_options, whole

GRAPH_LEVELS = ("disable", "basic", "extended", "all")
EXECUTION_MODES = ("sequential", "parallel")


@dataclass(frozen=True, kw_only=True, slots=True)
class OrtOptions:
    """How a session runs. Every default is ONNX Runtime's own, but for thread counts, which core decides.

    Attributes:
        intra_op_threads: CPU threads inside one operator, at least 1; None: from the request.
        inter_op_threads: threads across operators, at least 1; counts only in execution mode "parallel".
        execution_mode: "sequential" or "parallel" (independent branches side by side).
        graph_optimization_level: what the session optimizes while it loads: "disable", "basic", "extended", "all".
        provider_options: passed to the execution provider as they are ({"cudnn_conv_algo_search": "HEURISTIC"}).
        enable_mem_pattern: plan memory by the shapes first seen.
        enable_cpu_mem_arena: keep freed memory for the next run; False gives it back to the system.
        allow_spinning: let idle threads spin for a moment, which is faster and costs CPU time.
        force_spinning_stop: stop the spinning as soon as the last run returns.
        prepacking: rewrite constant weights for faster kernels; False leaves weights of an external data file
            mapped, so that processes share them.
        deterministic: ask for kernels that give the same bits on every run.
        denormal_as_zero: treat denormal numbers as zero.
    """

    intra_op_threads: int | None = None
    inter_op_threads: int | None = None
    execution_mode: str = "sequential"
    graph_optimization_level: str = "all"
    provider_options: Mapping[str, str] = field(default_factory=dict)
    enable_mem_pattern: bool = True
    enable_cpu_mem_arena: bool = True
    allow_spinning: bool = True
    force_spinning_stop: bool = False
    prepacking: bool = True
    deterministic: bool = False
    denormal_as_zero: bool = False

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> OrtOptions:
        """Build from what a user gave.

        Raises:
            OptionError: a name is unknown (the message names the nearest one), or a value has the wrong type or is
                not among those allowed.
        """
        return read_options("ort", cls, _CHECKS, options)


_THREADS = optional(whole(1, of="threads"))
_AS_TEXT = Check(right=lambda value: True, allowed="a value", convert=str)
_CHECKS: Mapping[str, Check] = {
    "intra_op_threads": _THREADS,
    "inter_op_threads": _THREADS,
    "execution_mode": one_of(*EXECUTION_MODES),
    "graph_optimization_level": one_of(*GRAPH_LEVELS),
    "provider_options": mapping_of(_AS_TEXT, what="option names to values"),
    "enable_mem_pattern": flag(),
    "enable_cpu_mem_arena": flag(),
    "allow_spinning": flag(),
    "force_spinning_stop": flag(),
    "prepacking": flag(),
    "deterministic": flag(),
    "denormal_as_zero": flag(),
}
