"""Quantization of OpenVINO IR with NNCF: the choice of algorithm, and the checks of a configuration.

| scheme | weights | what is written |
|---|---|---|
| `static` | int8 | FakeQuantize with fixed ranges around products; embeddings too |
| `dynamic` | int8, int4 | compressed weights; a session rounds activations in every call |
| `weight-only` | int8, int4, nf4 | compressed weights; the arithmetic stays float |
| `weight-only` | fp16 | weights in half precision |
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optimum_core.backend import (
    check_calibration,
    check_fields,
    check_quantization,
    foreign_errors,
    move_into,
    present,
    quantized,
    sums_widely,
    versions,
)
from optimum_core.errors import ExportError, OptionError, SessionError, UnavailableError
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest
from optimum_openvino.compression import FOUR_BITS, GROUP_SIZE, compress, is_symmetric
from optimum_openvino.control import Verdicts, quantize_controlled, taken_back
from optimum_openvino.devices import BACKEND, DYNAMIC_GROUP, FORMAT, QUANTIZER
from optimum_openvino.integer import Feed, choose, quantize_static
from optimum_openvino.layers import kept_operations
from optimum_openvino.silencing import quiet_nncf
from optimum_openvino.stateful import ROWS
from optimum_openvino.storage import save, weights_problem

# Of 32 (OpenVINO's own), 128 and none, the fastest for MiniLM at 1x128: 3.7, 3.3 and 7.3 ms in int8; and no further
# from eager.
# A group of activations that is wider than one of weights leaves the fast path: 128 tokens of SmolLM2 in int4, whose
# weights have groups of 64, took 168 ms with 128, 105 with 64 and 114 with 32.
_DYNAMIC_GROUP_SIZE = 128

_EIGHT = ("int8", "uint8")
_TAKEN = {
    "static": ("int8",),
    "dynamic": (*_EIGHT, "int4", "uint4"),
    "weight-only": (*_EIGHT, *FOUR_BITS, "fp16"),
}
_FOUR = ("i4", "u4", "nf4")
_ROUNDED = ("i8", "u8", *_FOUR)


def quantize(request: QuantizeRequest) -> Artifact:
    """Write `request.artifact`, quantized by `request.config`, into `request.output`.

    Raises:
        OptionError: a field of the configuration cannot be honoured, calibration is missing, `exclude` names no
            layer, or the model has nothing to quantize.
        UnavailableError, SessionError, ExportError: nncf is missing, the model cannot be read, or nncf cannot
            quantize it.
    """
    config, who = request.config, f"backend '{BACKEND}', {request.artifact.main_file}"
    _check(request, who)
    model = _read(request.artifact, who)
    remedy = "use another scheme, or exclude the layer that it names"
    with foreign_errors(who, ExportError, remedy, doing=f"{config.name} failed"):
        model, chosen = _quantized(request, model, who)
        with tempfile.TemporaryDirectory(prefix=".quantize-", dir=request.output) as folder:
            files = save(model, Path(folder), half=config.weights == "fp16")
            move_into(Path(folder), request.output, files)
    tool = "openvino" if config.weights == "fp16" else QUANTIZER
    chosen["versions"] = versions(["openvino"])
    return quantized(request, files, tool=tool, version=versions([tool])[tool], chosen=chosen)


def _read(artifact: Artifact, who: str) -> Any:
    import openvino

    with foreign_errors(who, SessionError, "export the model again", doing="openvino cannot read it"):
        model = openvino.Core().read_model(artifact.main_file)
        problem = weights_problem(model, artifact.main_file)
    if problem:
        raise SessionError(who, problem, "export the model again: one of the files was altered or cut short")
    return model


def _quantized(request: QuantizeRequest, model: Any, who: str) -> tuple[Any, dict[str, Any]]:
    """Return the quantized `openvino.Model`, and the choices that were made."""
    config = request.config
    if config.weights == "fp16":
        return model, {}
    decoder = request.artifact.state is not None
    kept = kept_operations(model, config.exclude, who, is_decoder=decoder)
    feed = _feed(request, who) if config.calibrates else None
    verdicts = Verdicts(request.shortfall, request.artifact) if request.shortfall else None
    with quiet_nncf() as (nncf, remarks):
        if config.scheme == "static":
            assert feed is not None
            choices = choose(model, config, request.hardware, feed.count())
            chosen = dataclasses.asdict(choices)
            if config.accuracy_control:
                assert verdicts is not None
                model = quantize_controlled(nncf, model, config, choices, kept, feed, verdicts, who)
                chosen["in_float"] = taken_back(remarks)
            else:
                model = quantize_static(nncf, model, config, choices, kept, feed)
        else:
            model = compress(nncf, model, config, kept, feed, remarks, who)
            chosen = _chosen(config, model)
    _require_effect(model, config, who)
    return model, chosen


def _feed(request: QuantizeRequest, who: str) -> Feed:
    rows = ROWS if request.artifact.state is not None else None
    return Feed(request.calibration or (), request.artifact.inputs, who, seconds=request.seconds, rows=rows)


def _chosen(config: QuantizeConfig, model: Any) -> dict[str, Any]:
    chosen: dict[str, Any] = {"symmetric": is_symmetric(config)}
    if config.weights in FOUR_BITS:
        chosen["group_size"] = GROUP_SIZE if config.group_size is None else config.group_size
    if config.scheme == "dynamic":
        chosen[DYNAMIC_GROUP] = min((_DYNAMIC_GROUP_SIZE, *_groups(model)))
    return chosen


def _groups(model: Any) -> Iterator[int]:
    """Yield how many weights share a scale, for each constant in 4 bits."""
    for operation in model.get_ops():
        if operation.get_type_name() == "Constant" and operation.get_element_type().get_type_name() in _FOUR:
            yield operation.get_output_shape(0)[-1]


def _require_effect(model: Any, config: QuantizeConfig, who: str) -> None:
    """Refuse a model in which nothing has the requested bits."""
    operations = model.get_ops()
    wanted = _FOUR if config.weights in FOUR_BITS else _ROUNDED
    weights = any(
        operation.get_type_name() == "Constant"
        and operation.get_element_type().get_type_name() in wanted
        and len(operation.get_output_shape(0)) > 1
        for operation in operations
    )
    ranges = any(operation.get_type_name() == "FakeQuantize" for operation in operations)
    if not weights or (config.scheme == "static" and not ranges):
        why = f"there is no layer to bring to {config.name}"
        raise OptionError(who, why, "leave it in float, or exclude less")


def _check(request: QuantizeRequest, who: str) -> None:
    """Refuse a configuration that cannot be honoured, before any work."""
    config = request.config
    if not present(QUANTIZER) and config.weights != "fp16":
        raise UnavailableError(who, f"{QUANTIZER} is not installed", "pip install 'optimum-openvino[quantize]'")
    check_quantization(request, who, takes=FORMAT, weights=_TAKEN)
    if config.scheme == "dynamic" and not sums_widely(request.hardware.cpu):
        why = "scheme 'dynamic' has no instructions on this processor, and openvino would compute in float"
        raise OptionError(who, why, "use 'static' or 'weight-only'")
    check_fields(config, who, _refusals(config))
    if config.accuracy_control and request.shortfall is None:
        why = "field 'accuracy_control' goes by a metric, and there is none"
        raise OptionError(who, why, "accelerate with evaluate= and max_drop=, or leave it out")
    if config.calibrates:
        check_calibration(request, who, "a scheme that needs none")


def _refusals(config: QuantizeConfig) -> Mapping[str, tuple[bool, str]]:
    """Return the check of each field: whether it is wrong, and the values that would be right."""
    static, four = config.scheme == "static", config.weights in FOUR_BITS
    half, nf4, smart = config.weights == "fp16", config.weights == "nf4", config.algorithm not in (None, "rtn")
    return {
        "activations": (
            config.activations == "fp8" or (config.scheme == "dynamic" and config.activations == "uint8"),
            "use 'int8', or 'uint8' under 'static'",
        ),
        "symmetric": (
            config.symmetric is not None
            and (
                half or ((static or nf4) and not config.symmetric) or (config.weights == "uint4" and config.symmetric)
            ),
            "leave it out",
        ),
        "per_channel": (
            config.per_channel is not None and (half or (not static and not config.per_channel)),
            "leave it out: weights have a scale for each channel, or for each group within",
        ),
        "algorithm": (
            config.algorithm == "hqq" or (smart and not four),
            "use 'rtn', or, for 4 bits, 'awq', 'gptq' or 'scale-estimation'",
        ),
        "calibration": (
            config.calibration == "entropy",
            "use 'minmax', 'moving-average' or 'percentile'",
        ),
        "smooth": (
            bool(config.smooth) and (config.scheme == "dynamic" or bool(config.accuracy_control)),
            "use it under 'static', without accuracy control",
        ),
        "reduce_range": (config.scheme == "dynamic" and bool(config.reduce_range), "use it under 'static'"),
        "form": (config.form == "qoperator", "leave it out: IR has 'qdq' alone"),
        "exclude": (half and bool(config.exclude), "leave it out: under 'fp16', all weights are written in fp16"),
    }
