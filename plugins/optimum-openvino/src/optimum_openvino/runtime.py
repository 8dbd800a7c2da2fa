"""Adapter to OpenVINO's API for reading and compiling models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import openvino

from optimum_core.backend import needs_wide_sums
from optimum_core.errors import PrecisionError, SessionError
from optimum_core.types import SessionRequest
from optimum_openvino.crashes import crash
from optimum_openvino.devices import BACKEND, CACHES, DYNAMIC_GROUP, FORMAT, Place, spoken
from optimum_openvino.division import exact_division
from optimum_openvino.held import multiplies_all_bits
from optimum_openvino.interface import fixed, problems
from optimum_openvino.options import OpenVinoOptions
from optimum_openvino.stateful import ROWS_SPEC
from optimum_openvino.storage import weights_problem

# Exceptions of the bindings: nearly always RuntimeError with OpenVINO's own message.
RUNTIME_ERRORS = (RuntimeError, TypeError, ValueError)

#: Entries of the cache of compiled operators that each compiled model has on the CPU. A text of a new length adds some
#: eight of them, and 2 MiB; by OpenVINO's own 5,000, a MiniLM that had seen 280 shapes took 770 MiB instead of 190, and
#: went on growing. 1,024 hold some 130 shapes: up to there the times are the same, and beyond 3 to 15 % longer at one
#: short text a call (256: up to 27 %; openvino 2026.4). A decoder meets a new length with every token, and keeps all.
_OPERATORS_KEPT = 1024

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Keep the converter from reporting its use over the network within the block: that is the user's decision."""
    from openvino.tools.ovc import convert_impl, telemetry_stub, telemetry_utils, utils

    modules = (telemetry_utils, convert_impl, utils)
    reporters = [module.tm for module in modules]
    for module in modules:
        module.tm = telemetry_stub
    try:
        yield
    finally:
        for module, reporter in zip(modules, reporters, strict=True):
            module.tm = reporter


@cache
def core() -> Any:
    """Return OpenVINO's registry of devices; one per process, because making it reads the plugins' libraries."""
    return openvino.Core()


def properties(request: SessionRequest, options: OpenVinoOptions, place: Place) -> dict[str, Any]:
    """Return the properties to compile a model with. Precisions are always set: by default, OpenVINO uses bf16 or fp16
    where it is fast, and 8 bits for the cache of a decoder.
    """
    streams = options.num_streams or request.streams
    hint = options.performance_hint or ("throughput" if streams and streams > 1 else "latency")
    chosen: dict[str, Any] = {
        "PERFORMANCE_HINT": hint.upper(),
        "INFERENCE_PRECISION_HINT": _HINTS[request.precision],
        "NUM_STREAMS": streams,
        "CACHE_DIR": None if options.cache_dir is None else str(options.cache_dir),
    }
    if place.device.name == "cpu":
        threads = options.inference_num_threads or _threads(request, streams)
        chosen |= {
            # 0: the calling thread computes. One stream of one thread hides errors (`optimum_openvino.session`).
            "NUM_STREAMS": 0 if threads == 1 else streams,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": options.enable_cpu_pinning,
            "ENABLE_HYPER_THREADING": options.enable_hyper_threading,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _dynamic_group(request),
            "KV_CACHE_PRECISION": _cache_precision(request),
            "CPU_RUNTIME_CACHE_CAPACITY": _OPERATORS_KEPT if request.artifact.state is None else None,
        }
    return {name: value for name, value in chosen.items() if value is not None} | dict(options.properties)


def _cache_precision(request: SessionRequest) -> str | None:
    """Return the number format of a decoder's cache: the one that its artifact states, or that of the arithmetic."""
    state = request.artifact.state
    if state is None:
        return None
    return _HINTS[request.precision] if state.cache is None else CACHES[state.cache]


def _dynamic_group(request: SessionRequest) -> int:
    """Return the number of activations that share a scale when they are rounded; 0: they stay float. By default,
    OpenVINO rounds them wherever weights have 8 or 4 bits.
    """
    return next(
        (int(step.options[DYNAMIC_GROUP]) for step in request.artifact.steps if DYNAMIC_GROUP in step.options), 0
    )


def exact_sums(request: SessionRequest, model: Any, place: Place) -> dict[str, Any]:
    """Return the properties that keep sums of 8-bit products from overflowing where they may: they stay in float.

    OpenVINO adds them in pairs of 16 bits on a processor with AVX2 alone: a sum of 77 came out as 41 (openvino 2026.4).
    """
    narrow = place.device.name == "cpu" and needs_wide_sums(request.artifact, request.hardware.cpu)
    return {"LP_TRANSFORMS_MODE": False} if narrow and multiplies_all_bits(model) else {}


def _threads(request: SessionRequest, streams: int | None) -> int:
    """Return the number of threads over all streams: OpenVINO distributes them."""
    return request.threads * (streams or 1) if request.threads else request.hardware.cpu.usable_cores


def read_artifact(request: SessionRequest, place: Place) -> Any:
    """Return the artifact as OpenVINO reads it, not compiled.

    Raises:
        SessionError: the device is not here or lacks the precision, a file is missing or damaged, or the inputs and
            outputs are not the artifact's.
    """
    path = request.artifact.main_file
    who = f"backend '{BACKEND}', {path}"
    _require(place, request.precision, who)
    return _read(request, path, who)


def compiled_model(
    request: SessionRequest,
    options: OpenVinoOptions,
    place: Place,
    lengths: Mapping[str, int] | None = None,
    read: Any = None,
) -> Any:
    """Return the artifact, compiled for `place`; for one shape only where the `lengths` of all axes are given.

    Args:
        read: what `read_artifact` returned, where it is compiled several times: these share its weights, which an ONNX
            file brings into memory each time that it is read. It stays as it is.

    Raises:
        SessionError: the device is not here or lacks the precision, a file is missing or damaged, or the inputs and
            outputs are not the artifact's.
        PrecisionError: the compiler would end the process in that precision.
    """
    who = f"backend '{BACKEND}', {request.artifact.main_file}"
    model = read_artifact(request, place) if read is None else read.clone()
    if lengths is not None:
        _reshape(model, request, lengths, who)
    chosen = exact_sums(request, model, place) | properties(request, options, place)
    if (why := crash(model, request, chosen)) is not None:
        raise PrecisionError(
            who, f"openvino {openvino.__version__}: {why}", "give each stream two threads, or use fp32 or fp16"
        )
    try:
        compiled = core().compile_model(model, place.runtime_name, chosen)
    except RUNTIME_ERRORS as error:
        why = f"openvino {openvino.__version__} cannot compile it for {place.runtime_name}: {error}"
        raise SessionError(who, why, "check the options, or use device 'cpu'") from error
    _check_effect(compiled, chosen, place, who)
    return compiled


#: Operations of a compiled graph that may give a view of what they take.
_VIEWS = frozenset({"Reshape", "Split", "Concatenation"})


def writes_beyond(compiled: Any) -> bool:
    """Whether a compiled model may write beyond a tensor: at indices, as many as the call has, into one of which an
    export fixed the length. OpenVINO (2026.4) checks none of them.
    """
    operations = compiled.get_runtime_model().get_ops()
    return any(_may_exceed(node) for node in operations if _kind(node).startswith("Scatter"))


def _may_exceed(scatter: Any) -> bool:
    written, indices = (list(scatter.input_value(place).get_partial_shape()) for place in (0, 1))
    if _kind(scatter) == "ScatterElementsUpdate":  # along the axis that is written, mostly the last one, lengths differ
        pairs = list(zip(written, indices, strict=True))[:-1]
        return any(held.is_static and named.is_dynamic for held, named in pairs)
    return all(held.is_static for held in written) and any(named.is_dynamic for named in indices)


def _kind(node: Any) -> str:
    return str(node.get_rt_info()["layerType"].astype(str))


def returns_inputs(compiled: Any) -> bool:
    """Whether an output of a compiled model is an input, or a view of one."""
    nodes = list(compiled.get_runtime_model().get_results())
    while nodes:
        found = [value.get_node() for value in nodes.pop().input_values()]
        if any(node.get_type_name() == "Parameter" for node in found):
            return True
        nodes += [node for node in found if _kind(node) in _VIEWS]
    return False


def _require(place: Place, precision: str, who: str) -> None:
    runtime = core()
    here, wanted = list(runtime.available_devices), place.runtime_name
    if wanted not in here and f"{wanted}.0" not in here:
        why = f"openvino sees no device {wanted}; it sees {', '.join(here) or 'none'}"
        raise SessionError(who, why, f"{place.device.driver}, or use one of: {', '.join(map(spoken, here))}")
    capabilities = runtime.get_property(wanted, "OPTIMIZATION_CAPABILITIES")
    if precision not in _HINTS or (precision != "fp32" and _CAPABILITIES[precision] not in capabilities):
        has = [name for name, capability in _CAPABILITIES.items() if capability in capabilities]
        raise SessionError(who, f"{wanted} does not compute in {precision!r} here", f"use one of: {', '.join(has)}")


def _read(request: SessionRequest, path: Path, who: str) -> Any:
    if not path.is_file():
        raise SessionError(who, "the file does not exist", "export the model again, or correct the path")
    try:
        model = core().read_model(path)
        is_ours = request.artifact.format == FORMAT
        problem = weights_problem(model, path) if is_ours else None
        if not is_ours:
            exact_division(model)
    except RUNTIME_ERRORS as error:
        why = f"openvino {openvino.__version__} cannot read it: {error}"
        raise SessionError(who, why, "check that the files are complete, or export the model again") from error
    if problem:
        raise SessionError(who, problem, "export the model again: one of the files was altered or cut short")
    inputs = request.artifact.inputs if request.artifact.state is None else (*request.artifact.inputs, ROWS_SPEC)
    found = problems(model, inputs, request.artifact.outputs)
    if found:
        raise SessionError(who, "; ".join(found), "export the model again: file and manifest do not belong together")
    return model


def _reshape(model: Any, request: SessionRequest, lengths: Mapping[str, int], who: str) -> None:
    try:
        model.reshape({spec.name: openvino.PartialShape(fixed(spec, lengths)) for spec in request.artifact.inputs})
    except RUNTIME_ERRORS as error:
        why = f"openvino {openvino.__version__} cannot take it at {dict(lengths)}: {error}"
        raise SessionError(who, why, "leave that shape out") from error


def _check_effect(compiled: Any, chosen: dict[str, Any], place: Place, who: str) -> None:
    """Refuse what OpenVINO changed without an error: the device, or the precision."""
    devices = list(compiled.get_property("EXECUTION_DEVICES"))
    if not all(name.split(".")[0] == place.device.runtime_name for name in devices):
        why = f"it was to run on {place.runtime_name}, and openvino runs it on {', '.join(devices)}"
        raise SessionError(who, why, "check the device's driver, or use device 'cpu'")
    asked = str(chosen["INFERENCE_PRECISION_HINT"])
    taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if taken not in (asked, "dynamic"):
        why = f"{asked} was asked for, and openvino computes in {taken}"
        raise SessionError(who, why, "ask for another precision")
