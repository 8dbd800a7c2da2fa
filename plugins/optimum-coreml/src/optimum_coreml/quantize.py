"""Compression of an ML program's weights with coremltools' own passes: the choice of pass, and the checks of a
configuration.

| weights | what is written |
|---|---|
| int8, uint8 | linear steps, a scale for each channel |
| int4, uint4 | linear steps, a scale for each block of a channel (iOS18) |
| nf4 | indices into a table of the 16 levels of NormalFloat, scaled by channel (iOS18) |
| any, with option `palettize` | indices into tables that k-means finds |
| any, with option `prune` | in addition, the smallest become zero and take no space (iOS18) |

`static` rounds activations too, with ranges from calibration: coremltools runs the program for that, so it needs a Mac.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from optimum_core.backend import (
    check_calibration,
    check_fields,
    check_quantization,
    foreign_errors,
    quantized,
    read_options,
    versions,
)
from optimum_core.errors import ExportError, OptionError, UnavailableError
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest
from optimum_coreml.compression import FOUR_BITS, compress, rounded_activations
from optimum_coreml.coremltools_adapter import open_package, quiet
from optimum_coreml.devices import BACKEND, FORMAT, PRECISIONS
from optimum_coreml.interface import minimum_target
from optimum_coreml.layers import constants_of
from optimum_coreml.options import CoreMlOptions
from optimum_coreml.storage import notes_of, package_of, read_program, save

_EIGHT = ("int8", "uint8")
_TAKEN = {"static": ("int8",), "weight-only": (*_EIGHT, *FOUR_BITS)}


def quantize(request: QuantizeRequest) -> Artifact:
    """Write `request.artifact`, quantized by `request.config`, into `request.output`.

    Raises:
        OptionError: a field of the configuration or an option cannot be honoured, `exclude` names no layer, or the
            model has nothing to quantize.
        UnavailableError: activations are to be rounded, and this is no Mac.
        SessionError, ExportError: the model cannot be read, or coremltools cannot quantize it.
    """
    config, who = request.config, f"backend '{BACKEND}', {package_of(request.artifact)}"
    options = read_options(BACKEND, CoreMlOptions, request.options)
    _check(request, options, who)
    spec = read_program(package_of(request.artifact), who)
    _check_target(config, options, minimum_target(spec), who)
    kept = constants_of(spec, config.exclude, who)
    remedy = "use another scheme, or exclude the layer that it names"
    with foreign_errors(who, ExportError, remedy, doing=f"{config.name} failed"), quiet() as ct:
        model = open_package(ct, package_of(request.artifact))
        if config.scheme == "static":
            model = rounded_activations(ct, model, request.calibration or (), kept)
        model, chosen = compress(ct, model, config, options, kept, who)
        _require_effect(model, config, who)
        files = save(model, request.output, notes_of(spec))
    tool = "coremltools"
    return quantized(request, files, tool=tool, version=versions([tool])[tool], chosen=chosen)


def _require_effect(model: Any, config: QuantizeConfig, who: str) -> None:
    """Refuse a model in which no weight was compressed."""
    function = model.get_spec().mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    if not any(item.type.startswith("constexpr_") for item in operations):
        remedy = "lower the option 'weight_threshold', leave it in float, or exclude less"
        raise OptionError(who, f"there is no layer to bring to {config.name}", remedy)


def _check(request: QuantizeRequest, options: CoreMlOptions, who: str) -> None:
    """Refuse a configuration that cannot be honoured, before any work."""
    config = request.config
    check_quantization(request, who, takes=FORMAT, weights=_TAKEN, precisions=PRECISIONS, options=True)
    check_fields(config, who, _refusals(config, options))
    _check_options(config, options, who)
    if config.scheme == "static":
        _check_static(request, who)


def _refusals(config: QuantizeConfig, options: CoreMlOptions) -> Mapping[str, tuple[bool, str]]:
    """Return the check of each field: whether it is wrong, and the values that would be right."""
    linear = config.weights != "nf4" and options.palettize is None
    four = config.weights in FOUR_BITS
    return {
        "activations": (config.activations not in (None, "int8"), "use 'int8'"),
        "symmetric": (
            config.symmetric is not None and (not linear or (config.is_unsigned and config.symmetric)),
            "leave it out: tables have no zero of their own, and unsigned steps are asymmetric",
        ),
        "per_channel": (
            config.per_channel is not None and (not linear or (four and not config.per_channel)),
            "leave it out",
        ),
        "group_size": (config.group_size is not None and not (linear and four), "use it for int4 and uint4"),
        "ratio": (config.ratio not in (None, 1, 1.0), "leave it out: all layers get the same bits"),
        "algorithm": (config.algorithm not in (None, "rtn"), "use 'rtn'"),
        "calibration": (config.calibration not in (None, "minmax"), "use 'minmax'"),
        "accuracy_control": (bool(config.accuracy_control), "leave it out: coremltools has none"),
        "smooth": (bool(config.smooth), "leave it out"),
        "form": (config.form == "qoperator", "leave it out: ML programs have 'qdq' alone"),
        "reduce_range": (bool(config.reduce_range), "leave it out: no Apple processor needs it"),
    }


def _check_options(config: QuantizeConfig, options: CoreMlOptions, who: str) -> None:
    """Refuse options that contradict the configuration or each other."""
    if options.palettize is not None:
        eight = config.weights in _EIGHT
        fits = options.palettize > 4 if eight else options.palettize <= 4
        if not fits or config.weights == "nf4" or config.scheme != "weight-only":
            remedy = "use weights 'int4' for 1 to 4 bits and 'int8' for 6 and 8, 'weight-only'"
            raise OptionError(who, f"option 'palettize' cannot be {options.palettize} for {config.name}", remedy)
    elif options.quantize_tables:
        raise OptionError(who, "option 'quantize_tables' says nothing without 'palettize'", "leave it out")
    if options.prune is not None and config.weights == "nf4":
        raise OptionError(who, "option 'prune' cannot be joined with nf4", "use weights 'int8' or 'int4'")


def _check_target(config: QuantizeConfig, options: CoreMlOptions, target: str, who: str) -> None:
    """Refuse a target without the operators that decompress these weights: older systems lack them."""
    four = config.weights in FOUR_BITS and options.palettize is None
    newer = four or options.prune is not None or options.quantize_tables or config.per_channel is False
    needed = "iOS18" if newer else "iOS17" if config.scheme == "static" else "iOS16"
    if target < needed:
        why = f"{config.name} as asked for needs {needed}, and the program is for {target}"
        raise OptionError(who, why, f"export with minimum_deployment_target={needed!r}")


def _check_static(request: QuantizeRequest, who: str) -> None:
    if sys.platform != "darwin":
        why = "ranges of activations are found by running the program, and Core ML runs on macOS only"
        raise UnavailableError(who, why, "quantize on a Mac, or use 'weight-only' here")
    check_calibration(request, who, "a scheme that needs none")
