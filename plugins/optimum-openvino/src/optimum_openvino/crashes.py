"""Graphs that end the process when OpenVINO compiles them: they are refused before.

With AMX and bf16, OpenVINO fuses the gated layers of language models (two products of one input, one of them through an
activation, multiplied). For one thread, its compiler then divides by zero, and SIGFPE ends the process: seen with
openvino 2026.4.1 for Llama, Qwen2 and Gemma 2, and reported as openvinotoolkit/openvino#33300. In fp16 it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum_core.types import SessionRequest

_GATES = frozenset({"Swish", "Gelu", "Sigmoid"})


def crash(model: Any, request: SessionRequest, chosen: Mapping[str, Any]) -> str | None:
    """Return why the compiler would end this process, if it would.

    Args:
        chosen: the properties to compile the model with; the number of threads is among them for a CPU.
    """
    cpu, threads = request.hardware.cpu, chosen.get("INFERENCE_NUM_THREADS")
    if threads is None or chosen["INFERENCE_PRECISION_HINT"] != "bf16" or "amx_bf16" not in cpu.features:
        return None
    # Threads beyond the cores that this process may use are not started.
    if min(int(threads), cpu.usable_cores) > 1 or not any(map(_is_gate, model.get_ops())):
        return None
    return "its compiler ends the process where gated layers are computed in bf16 by one thread"


def _is_gate(operation: Any) -> bool:
    readers = (port.get_node() for output in operation.outputs() for port in output.get_target_inputs())
    return operation.get_type_name() in _GATES and any(node.get_type_name() == "Multiply" for node in readers)
