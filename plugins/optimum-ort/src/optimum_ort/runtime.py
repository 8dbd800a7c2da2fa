"""Adapter to onnxruntime's API for opening sessions and classifying its errors."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from optimum_core.errors import SessionError
from optimum_ort.devices import BACKEND, Provider, check_provider_options
from optimum_ort.options import OrtOptions

# For a process that imported onnxruntime before this package, which otherwise asks it to report nothing.
onnxruntime.disable_telemetry_events()

# The native errors share no base class but Exception; ValueError, TypeError and RuntimeError come from the bindings.
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    *(item for item in vars(native).values() if isinstance(item, type) and issubclass(item, Exception)),
    RuntimeError,
    TypeError,
    ValueError,
)

_LEVELS = {
    "disable": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
# Errors come as exceptions: the runtime need not print them too.
_FATAL_ONLY = 4


def session_options(options: OrtOptions, provider: Provider, threads: int) -> Any:
    """Return `onnxruntime.SessionOptions` for `options`, with `threads` inside one operator where they set none."""
    made = onnxruntime.SessionOptions()
    made.log_severity_level = _FATAL_ONLY
    made.graph_optimization_level = _LEVELS[options.graph_optimization_level]
    made.intra_op_num_threads = options.intra_op_threads or threads
    made.inter_op_num_threads = options.inter_op_threads or 1
    parallel = options.execution_mode == "parallel"
    modes = onnxruntime.ExecutionMode
    made.execution_mode = modes.ORT_PARALLEL if parallel else modes.ORT_SEQUENTIAL
    # DirectML refuses memory patterns.
    made.enable_mem_pattern = options.enable_mem_pattern and provider.device != "dml"
    made.enable_cpu_mem_arena = options.enable_cpu_mem_arena
    made.use_deterministic_compute = options.deterministic
    entries = {
        "session.intra_op.allow_spinning": options.allow_spinning,
        "session.inter_op.allow_spinning": options.allow_spinning,
        "session.force_spinning_stop": options.force_spinning_stop,
        "session.disable_prepacking": not options.prepacking,
        "session.set_denormal_as_zero": options.denormal_as_zero,
    }
    for key, flag in entries.items():
        made.add_session_config_entry(key, "1" if flag else "0")
    return made


def leave_pairs(made_options: Any) -> None:
    """Keep QuantizeLinear and DequantizeLinear nodes unchanged, as 8-bit floats need.

    Above level "basic", onnxruntime treats them as integers: it makes integer products of them, which it then refuses,
    and its other fusions got a ResNet wrong (the error of 2 against onnx's reference evaluator, 1e-7 at "basic").
    """
    made_options.graph_optimization_level = _LEVELS["basic"]
    made_options.add_session_config_entry("session.disable_quant_qdq", "1")


def open_session(path: Path, made_options: Any, provider: Provider, index: int, options: OrtOptions) -> Any:
    """Return `path` opened as an `onnxruntime.InferenceSession` that runs on `provider` first.

    It passes a path, never bytes: ONNX Runtime then maps an external data file instead of reading it.

    Raises:
        OptionError: options were stated for a provider that has none.
        SessionError: the file is missing or no ONNX model, or ONNX Runtime does not use the provider.
    """
    who = f"backend '{BACKEND}', {path}"
    if not path.is_file():
        raise SessionError(who, "the file does not exist", "export the model again, or correct the path")
    require(provider, who)
    chosen = (provider.name, _provider_options(provider, index, options))

    def opened() -> Any:
        # Without enable_fallback=0, a failing provider is replaced by the CPU with a printed remark.
        return onnxruntime.InferenceSession(
            path, made_options, providers=[chosen, *provider.fallbacks], enable_fallback=0
        )

    try:
        try:
            session = opened()
        except RUNTIME_ERRORS as error:
            if "float8" not in str(error):
                raise
            leave_pairs(made_options)
            session = opened()
    except RUNTIME_ERRORS as error:
        remedy = "check that the file is a complete ONNX model of an opset that this onnxruntime loads"
        raise SessionError(who, f"onnxruntime {onnxruntime.__version__} refused it: {error}", remedy) from error
    active = session.get_providers()
    if active[0] != provider.name:
        why = f"{provider.name} was asked for, and onnxruntime runs {active[0]} instead"
        raise SessionError(who, why, f"check the driver and libraries that {provider.name} needs, or use device 'cpu'")
    return session


def require(provider: Provider, who: str) -> None:
    """Raise `SessionError` where the installed onnxruntime does not have `provider`."""
    available = onnxruntime.get_available_providers()
    if provider.name not in available:
        why = f"device '{provider.device}' needs {provider.name}; this onnxruntime has {', '.join(available)}"
        raise SessionError(who, why, f"pip install {provider.distribution}, or use device 'cpu'")
    if provider.vendor == "nvidia":
        # CUDA's libraries may come as packages, which the system's loader does not search. It prints the missing ones;
        # relevant failures are raised when the session opens.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def _provider_options(provider: Provider, index: int, options: OrtOptions) -> dict[str, str]:
    check_provider_options(provider, options.provider_options)
    given = {name: str(value) for name, value in options.provider_options.items()}
    return {"device_id": str(index)} | given if provider.vendor or provider.device == "dml" else given
