"""Quantization of an ONNX artifact with onnxruntime's tools: the choice of algorithm, and the checks of a
configuration.

| scheme | weights | what is written |
|---|---|---|
| `static` | int8, uint8 | integer products with fixed ranges of activations, as QDQ pairs or integer operators |
| `static` | fp8 | products of 8-bit floats, as QDQ pairs, for other runtimes: no CPU multiplies them |
| `dynamic` | int8, uint8 | integer matrix products, ranges found in every call |
| `dynamic` | int4, uint4 | onnxruntime's operators for 4-bit weights, which round activations to 8 bits by group |
| `weight-only` | int8, uint8 | DequantizeLinear beside each weight |
| `weight-only` | int4, uint4, nf4 | onnxruntime's operators for 4-bit weights |
| `weight-only` | fp16 | Cast beside each weight |

Choices that the configuration leaves open are made for speed on this processor; see `integer.choose`.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimum_core.backend import (
    check_calibration,
    check_fields,
    check_quantization,
    foreign_errors,
    present,
    quantized,
)
from optimum_core.errors import ExportError, OptionError, UnavailableError
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest, StateSpec
from optimum_ort.attention import NotRecognizedError
from optimum_ort.calibration import PERCENTILE
from optimum_ort.devices import BACKEND, find_build
from optimum_ort.floats import quantize_floats
from optimum_ort.integer import choose, quantize_dynamic, quantize_static
from optimum_ort.merging import merge_products
from optimum_ort.preparation import Prepared, prepare
from optimum_ort.shared_cache import share_cache
from optimum_ort.storage import wants_external_data, write_model, written_files
from optimum_ort.weights import FOUR_BITS, GROUP_SIZES, group_size, quantize_embeddings, quantize_weights

_INTEGERS = ("int8", "uint8")
_TAKEN = {
    "static": (*_INTEGERS, "fp8"),
    "dynamic": (*_INTEGERS, "int4", "uint4"),
    "weight-only": (*_INTEGERS, *FOUR_BITS, "fp16"),
}


def quantize(request: QuantizeRequest) -> Artifact:
    """Write `request.artifact`, quantized by `request.config`, into `request.output`.

    Raises:
        OptionError: a field of the configuration cannot be honoured, calibration is missing, `exclude` names no
            layer, or the model has nothing to quantize.
        UnavailableError, SessionError, ExportError: a package is missing, the model cannot be read, or onnxruntime
            cannot quantize it.
    """
    config, who = request.config, f"backend '{BACKEND}', {request.artifact.main_file}"
    _check(request, who)
    external = wants_external_data(request.artifact)
    with tempfile.TemporaryDirectory(prefix=".quantize-", dir=request.output) as folder:
        scratch = Path(folder)
        remedy = "use another scheme, or exclude the layer that it names"
        with foreign_errors(who, ExportError, remedy, doing=f"{config.name} failed"):
            prepared = prepare(
                request.artifact, config.exclude, scratch, external=external, who=who, shapes=not _of_weights(request)
            )
            model, chosen = _quantized(request, prepared, scratch, external=external, who=who)
        write_model(model, request.output, external=external)
    build = find_build()
    tool, version = next(iter(build.distributions.items()), ("onnxruntime", "")) if build else ("onnxruntime", "")
    chosen["skipped"] = prepared.skipped
    return quantized(request, written_files(request.output), tool=tool, version=version, chosen=chosen)


def _quantized(
    request: QuantizeRequest, prepared: Prepared, scratch: Path, *, external: bool, who: str
) -> tuple[Any, dict[str, Any]]:
    """Return the quantized `onnx.ModelProto`, and the choices that were made."""
    import onnx

    config, path, kept = request.config, prepared.path, prepared.kept
    before = onnx.load(path, load_external_data=False)
    if _of_weights(request):
        model = onnx.load(path)
        chosen: dict[str, Any] = {"group_size": group_size(config)} if config.weights in FOUR_BITS else {}
        chosen |= {"activations": "int8"} if config.scheme == "dynamic" else {}
        if request.artifact.state is not None:
            chosen["cache"] = _share_cache(model, request.artifact.state)
            if config.per_channel is not False:  # one scale for a whole weight would cover all that were merged
                chosen["merged"] = merge_products(model, kept)
            before = _without_weights(model)
        model = quantize_weights(model, config, kept)
    elif config.weights == "fp8":
        assert request.calibration is not None
        model = quantize_floats(path, config, kept, request.calibration, scratch, external=external, who=who)
        chosen = {"activations": "fp8", "per_channel": config.per_channel is not False, "form": "qdq"}
    else:
        choices = choose(config, request.hardware)
        chosen = dataclasses.asdict(choices)
        if config.scheme == "static":
            assert request.calibration is not None
            batches = request.calibration
            model = quantize_static(path, config, choices, kept, batches, scratch, external=external)
        else:
            model = quantize_dynamic(path, choices, kept)
    if config.scheme == "static":
        chosen["calibration"] = config.calibration or "minmax"
        if config.calibration == "percentile":
            chosen["percentile"] = config.percentile or PERCENTILE
    tables = 0 if config.weights == "fp16" else quantize_embeddings(model, kept)
    if not tables and _operators(model) == _operators(before):
        what = "matrix product with constant weights" + (" or convolution" if config.scheme == "static" else "")
        raise OptionError(who, f"there is no {what} to quantize", "leave it in float, or use another scheme")
    _restore_interface(model.graph, before.graph)
    del model.graph.value_info[:]
    chosen["embeddings"] = tables
    return model, chosen


def _of_weights(request: QuantizeRequest) -> bool:
    """Whether weights alone are rounded in the file, and a session rounds activations by group, if at all. In a
    decoder they always are: a range over all rows would make a row's tokens depend on the others.
    """
    config, is_decoder = request.config, request.artifact.state is not None
    return config.scheme == "weight-only" or config.weights in FOUR_BITS or (config.scheme == "dynamic" and is_decoder)


def _share_cache(model: Any, state: StateSpec) -> str:
    """Let a decoder write into buffers where its attention is recognized; return how its cache is kept."""
    try:
        share_cache(model, state)
    except NotRecognizedError as error:
        return f"copied: {error}"
    return "shared"


def _without_weights(model: Any) -> Any:
    """Return a copy of the nodes, inputs and outputs of an `onnx.ModelProto`."""
    import onnx

    bare = onnx.ModelProto()
    for field in ("node", "input", "output"):
        getattr(bare.graph, field).extend(getattr(model.graph, field))
    return bare


def _operators(model: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def _restore_interface(graph: Any, original: Any) -> None:
    """Declare the original inputs and outputs again: some passes lose the names of axes."""
    for field in ("input", "output"):
        del getattr(graph, field)[:]
        getattr(graph, field).extend(getattr(original, field))


def _check(request: QuantizeRequest, who: str) -> None:
    """Refuse a configuration that cannot be honoured, before any work."""
    if not present("onnx"):
        raise UnavailableError(who, "onnx is not installed", "pip install 'optimum-ort[optimize]'")
    check_quantization(request, who, takes="onnx", weights=_TAKEN)
    check_fields(request.config, who, _refusals(request.config))
    if request.config.scheme == "static":
        check_calibration(request, who, "scheme 'dynamic'")


def _refusals(config: QuantizeConfig) -> Mapping[str, tuple[bool, str]]:
    """Return the check of each field: whether it is wrong, and the values that would be right."""
    dynamic, four = config.scheme == "dynamic", config.weights in FOUR_BITS
    nf4, hqq, half = config.weights == "nf4", config.algorithm == "hqq", config.weights == "fp16"
    mixed = config.activations == "int8" and config.weights == "uint8"
    rounded = dynamic and four
    floats = config.weights == "fp8"
    return {
        "activations": (
            config.activations not in (None, "fp8")
            if floats
            else config.activations not in (None, "int8")
            if rounded
            else config.activations == "fp8" or mixed or (dynamic and config.activations == "int8"),
            "use 'fp8'" if floats else "use 'int8'" if rounded else "use 'uint8'",
        ),
        "algorithm": (
            config.algorithm not in (None, "rtn") and not (hqq and config.weights in ("int4", "uint4")),
            "use 'rtn', or 'hqq' with weights 'int4'",
        ),
        "symmetric": (
            config.symmetric is not None
            and (half or ((nf4 or floats) and not config.symmetric) or (hqq and config.symmetric)),
            "leave it out",
        ),
        "per_channel": (
            config.per_channel is not None and (half or (four and not config.per_channel)),
            "leave it out: the scales of 4 bits belong to groups within a channel" if four else "leave it out",
        ),
        "group_size": (
            four and group_size(config) not in GROUP_SIZES,
            f"use one of: {', '.join(map(str, GROUP_SIZES))}",
        ),
        "accuracy_control": (bool(config.accuracy_control), "leave it out: onnxruntime has none"),
        "smooth": (bool(config.smooth), "leave it out: onnxruntime has it from a package that no longer installs"),
        "calibration": (
            floats and config.calibration == "entropy",
            "use 'minmax', 'moving-average' or 'percentile': entropy counts even steps, which floats do not have",
        ),
        "reduce_range": (
            (floats or rounded) and bool(config.reduce_range),
            f"leave it out: {'4 bits' if rounded else 'floats'} do not overflow in pairs",
        ),
        "form": (
            ((dynamic or hqq) and config.form == "qdq") or (floats and config.form == "qoperator"),
            "use 'qdq'" if floats else "use 'qoperator'",
        ),
    }
