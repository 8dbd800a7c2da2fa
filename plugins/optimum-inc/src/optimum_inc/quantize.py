"""Quantization of an exported program: the choice of algorithm, and the checks of a configuration.

| scheme | weights | what is written |
|---|---|---|
| `static` | int8 | integer products with fixed ranges of activations: a compiled package, or QDQ ONNX |
| `dynamic` | int8 | integer products, ranges found in every call: a compiled package |
| `weight-only` | int8, int4 | products of float activations and integer weights: a compiled package |

Every scheme stores embedding tables as int8. A package is compiled once, here; before it is returned, its outputs are
compared with the quantized graph's, and its code must call kernels for integers.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from optimum_core.backend import (
    check_calibration,
    check_fields,
    check_quantization,
    foreign_errors,
    missing,
    move_into,
    present,
    quantized,
    versions,
)
from optimum_core.backend.tracing import exported_program
from optimum_core.errors import ExportError, OptionError, UnavailableError
from optimum_core.types import Array, Artifact, QuantizeConfig, QuantizeRequest
from optimum_inc import programs, to_onnx
from optimum_inc.arrays import tensor_of
from optimum_inc.devices import BACKEND, ONNX, PACKAGE, PROGRAM, compiler
from optimum_inc.integer import choose, quantize_products
from optimum_inc.layers import kept_nodes
from optimum_inc.package import compile_package, integer_calls, open_package
from optimum_inc.silencing import quiet
from optimum_inc.trained import has_ranges, with_stored_weights
from optimum_inc.weights import ALGORITHMS, GROUP_SIZES, quantize_embeddings, quantize_linears

_TOOL = "neural-compressor-pt"
_TAKEN = {"static": ("int8",), "dynamic": ("int8",), "weight-only": ("int8", "int4")}
#: Least cosine of compiled code against its graph: sums in another order occasionally round the other way.
_LEAST_COSINE = 0.98


def quantize(request: QuantizeRequest) -> Artifact:
    """Write `request.artifact`, quantized by `request.config`, into `request.output`.

    The result has the format that `request.format` names; None: ONNX for `form` "qdq", else a package for this
    processor. A model with ranges of its own (`optimum_inc.qat`) is quantized by those, and needs no calibration.

    Raises:
        OptionError: a field of the configuration cannot be honoured, calibration is missing, `exclude` names no
            layer, or the model has nothing to quantize.
        UnavailableError, SessionError, ExportError: a package or compiler is missing, the model cannot be read, or it
            cannot be quantized or compiled.
    """
    config, who = request.config, f"backend '{BACKEND}', {request.artifact.main_file}"
    wanted = _format(request, who)
    _check(request, wanted, who)
    artifact = request.artifact
    with quiet():
        program = programs.load(artifact.main_file, artifact.inputs, artifact.outputs, who)
    if config.calibrates and not (config.scheme == "static" and has_ranges(program)):
        check_calibration(request, who, "algorithm 'hqq'" if config.algorithm else "scheme 'dynamic'")
    remedy = "use another scheme, or exclude the layer that it names"
    failing = foreign_errors(who, ExportError, remedy, doing=f"{config.name} failed")
    with failing, quiet(), tempfile.TemporaryDirectory(prefix=".quantize-", dir=request.output) as folder:
        module, chosen = quantized_graph(request, program, who)
        files, facts = _written(request, program, module, wanted, Path(folder), who)
        move_into(Path(folder), request.output, files)
    known = versions((_TOOL, "torch", "torchao"))
    version = known.pop(_TOOL)
    chosen = {**chosen, **facts, "versions": known}
    return quantized(request, files, tool=_TOOL, version=version, chosen=chosen, format=wanted)


def _format(request: QuantizeRequest, who: str) -> str:
    if request.format not in (None, PACKAGE, ONNX):
        raise OptionError(who, f"it does not give {request.format!r}", f"ask for {PACKAGE!r} or {ONNX!r}")
    return request.format or (ONNX if request.config.form == "qdq" else PACKAGE)


def quantized_graph(request: QuantizeRequest, program: Any, who: str) -> tuple[Any, dict[str, Any]]:
    """Return the quantized `torch.fx.GraphModule`, and the choices that were made."""
    config, inputs = request.config, request.artifact.inputs
    batches: Iterable[Mapping[str, Array]] = (request.calibration or ()) if config.calibrates else ()
    graph = program.graph
    kept = kept_nodes(graph, config.exclude, who)
    if config.scheme == "weight-only":
        module = program.module(check_guards=False)
        tables = quantize_embeddings(module, kept)  # first, because calibration must see their loss
        tensors = ([tensor_of(spec.name, batch[spec.name], who) for spec in inputs] for batch in batches)
        facts = quantize_linears(module, config, kept, who, tensors)
        counts = facts["layers"]
        if not counts["int4"] and (config.weights == "int4" or not counts["int8"] + tables):
            raise OptionError(who, f"there is no layer to bring to {config.name}", "use another scheme")
        return module, {**facts, "embeddings": tables}
    if config.scheme == "static" and has_ranges(program):
        module, pairs = with_stored_weights(program, kept)
        chosen: dict[str, Any] = {"calibration": "training", "ranges": pairs}
    else:
        choices = choose(config, request.hardware)
        module = quantize_products(program, choices, kept, batches, inputs, who)
        chosen = dataclasses.asdict(choices)
    return module, {**chosen, "embeddings": quantize_embeddings(module, kept)}


def _written(
    request: QuantizeRequest, original: Any, module: Any, wanted: str, folder: Path, who: str
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the names of the files, and the facts about them."""
    inputs, outputs = request.artifact.inputs, request.artifact.outputs
    samples = list(original.example_inputs[0])
    program = exported_program(_Positional(module), samples, inputs)
    problems = programs.axis_problems(program, inputs)
    if problems:
        raise ExportError(who, "; ".join(problems), "export the model with these axes fixed")
    if wanted == ONNX:
        return to_onnx.write(program, folder, inputs, outputs), {}
    path = folder / programs.MODEL
    told = {
        "specs": programs.specs_text(inputs, outputs),
        "limits": programs.axis_limits(program, inputs),
        "tables": programs.table_sizes(original, inputs),
    }
    compile_package(program, path, told, request.hardware)
    calls = integer_calls(path)
    if not calls:
        why = "the compiler made no integer product of it, and it would compute in float"
        raise ExportError(who, why, "use another scheme, or leave it in float")
    _compare(path, module, samples, who)
    return (programs.MODEL,), {"calls": calls}


class _Positional(torch.nn.Module):
    """A graph that takes its tensors as one sequence, as the model was traced."""

    def __init__(self, graph: Any) -> None:
        super().__init__()
        self.graph_module = graph

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.graph_module(*tensors)


def _compare(path: Path, module: Any, samples: list[torch.Tensor], who: str) -> None:
    """Open the compiled package, and refuse it unless it computes the quantized graph's results."""
    runner = open_package(path, who)
    with torch.no_grad():
        expected = module(*samples)
    for want, got in zip(expected, runner.run(list(samples)), strict=True):
        if not want.is_floating_point():
            continue
        one, other = want.double().flatten(), got.double().flatten()
        cosine = float(torch.nn.functional.cosine_similarity(one, other, dim=0))
        if not cosine >= _LEAST_COSINE:  # also true for NaN
            why = f"what was compiled is not what was quantized: their outputs have a cosine of {cosine:.4f}"
            raise ExportError(who, why, "use another scheme, or exclude layers")


def _check(request: QuantizeRequest, wanted: str, who: str) -> None:
    """Refuse a configuration that cannot be honoured, before any work."""
    config = request.config
    check_quantization(request, who, takes=PROGRAM, weights=_TAKEN)
    _check_tools(wanted, who)
    if wanted == ONNX and config.scheme != "static":
        raise OptionError(who, f"it gives ONNX for 'static' alone, not for {config.scheme!r}", f"ask for {PACKAGE!r}")
    check_fields(config, who, _refusals(config, wanted))


def _check_tools(wanted: str, who: str) -> None:
    if lacking := missing(("neural_compressor", "torchao")):
        raise UnavailableError(who, f"{', '.join(lacking)} not installed", "pip install 'optimum-inc[quantize]'")
    if wanted == PACKAGE and compiler() is None:
        why = "TorchInductor needs a C++ compiler, and there is none"
        raise UnavailableError(who, why, "install g++, or name a compiler in CXX")
    if wanted == ONNX and not present("onnxscript"):
        raise UnavailableError(who, "onnxscript is not installed", "pip install 'optimum-core[export]'")


def _refusals(config: QuantizeConfig, wanted: str) -> Mapping[str, tuple[bool, str]]:
    """Return the check of each field: whether it is wrong, and the values that would be right."""
    dynamic = config.scheme == "dynamic"
    return {
        "activations": (
            config.activations == "fp8" or (dynamic and config.activations == "int8"),
            "use 'uint8', or 'int8' under 'static'",
        ),
        "symmetric": _wrong_symmetry(config),
        "per_channel": (config.per_channel is False, "leave it out: weights have a scale for each channel, or group"),
        "group_size": (
            config.group_size is not None and config.group_size not in GROUP_SIZES,
            f"use one of: {', '.join(map(str, GROUP_SIZES))}",
        ),
        "algorithm": _wrong_algorithm(config),
        "accuracy_control": (bool(config.accuracy_control), "leave it out: Neural Compressor's own search is not used"),
        "smooth": (bool(config.smooth), "leave it out: Neural Compressor has it for another package's layers alone"),
        "form": (
            config.form == "qoperator" or (config.form == "qdq" and wanted == PACKAGE),
            f"use 'qdq' for {ONNX!r}, and leave it out for {PACKAGE!r}",
        ),
    }


def _wrong_algorithm(config: QuantizeConfig) -> tuple[bool, str]:
    if config.algorithm not in (None, *ALGORITHMS):
        return True, f"use one of: {', '.join(ALGORITHMS)}"
    return config.algorithm not in (None, "rtn") and config.weights != "int4", "leave it out: it is for 4 bits"


def _wrong_symmetry(config: QuantizeConfig) -> tuple[bool, str]:
    if config.algorithm == "hqq":
        return config.symmetric is True, "leave it out: what 'hqq' moves are zero points"
    return config.symmetric is False and config.weights != "int4", "leave it out: 8-bit weights are symmetric"
