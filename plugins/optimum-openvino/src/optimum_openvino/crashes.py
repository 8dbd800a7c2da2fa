"""Graphs that end the process when OpenVINO compiles them: they are refused before.

With AMX and bf16, OpenVINO fuses the gated layers of language models (two products of one input, one of them through an
activation, multiplied). For streams of one thread, its compiler then divides by zero, and SIGFPE ends the process: seen
with openvino 2026.4.1 for Llama, Qwen2 and Gemma 2, and reported as openvinotoolkit/openvino#33300. In fp16 it does
not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum_core.types import Cpu, SessionRequest

_GATES = frozenset({"Swish", "Gelu", "Sigmoid"})


def crash(model: Any, request: SessionRequest, chosen: Mapping[str, Any]) -> str | None:
    """Return why the compiler would end this process, if it would.

    Args:
        chosen: the properties to compile the model with; the number of threads is among them for a CPU.
    """
    cpu = request.hardware.cpu
    if chosen["INFERENCE_PRECISION_HINT"] != "bf16" or "amx_bf16" not in cpu.features:
        return None
    if _threads_of_a_stream(chosen, cpu) != 1 or not any(map(_is_gate, model.get_ops())):
        return None
    return "its compiler ends the process where gated layers are computed in bf16 by one thread"


def _threads_of_a_stream(chosen: Mapping[str, Any], cpu: Cpu) -> int | None:
    """Return the least number of threads that a stream may get; None: the device has no threads of this processor."""
    if "INFERENCE_NUM_THREADS" not in chosen:
        return None
    # Threads beyond the cores that this process may use are not started.
    threads = min(int(chosen["INFERENCE_NUM_THREADS"]), cpu.usable_cores)
    streams = chosen.get("NUM_STREAMS")
    if streams is None:  # for throughput, OpenVINO decides, and may take one for each thread
        streams = threads if chosen.get("PERFORMANCE_HINT") == "THROUGHPUT" else 1
    return max(threads // max(int(streams), 1), 1)


def _is_gate(operation: Any) -> bool:
    readers = (port.get_node() for output in operation.outputs() for port in output.get_target_inputs())
    return operation.get_type_name() in _GATES and any(node.get_type_name() == "Multiply" for node in readers)
