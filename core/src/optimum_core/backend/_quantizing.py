"""Quantization requests: checking them before any work, and describing the resulting artifact."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optimum_core.errors import OptionError
from optimum_core.types import Artifact, Cpu, QuantizeConfig, QuantizeRequest, Step

_WIDE_SUMS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def check_quantization(
    request: QuantizeRequest,
    who: str,
    *,
    takes: str,
    weights: Mapping[str, Sequence[str]],
    precisions: Sequence[str] = ("fp32",),
    options: bool = False,
) -> None:
    """Reject an artifact, a scheme or weights that the backend does not quantize.

    Args:
        takes: the format of artifacts that it quantizes.
        weights: number formats of weights by scheme ({"static": ("int8",), "weight-only": ("int8", "int4")}).
        precisions: precisions of artifacts that it quantizes.
        options: it has options, and checks them itself.

    Raises:
        OptionError: one of them is not supported, or options were passed to a backend that has none.
    """
    artifact, config = request.artifact, request.config
    if artifact.format != takes:
        raise OptionError(who, f"it does not quantize {artifact.format!r}", f"export to {takes!r}")
    if request.options and not options:
        raise OptionError(who, f"unknown option {next(iter(request.options))!r}", "quantization takes its config alone")
    if artifact.precision not in precisions:
        exact = " or ".join(map(repr, precisions))
        raise OptionError(who, f"cannot quantize {artifact.precision!r}", f"quantize a model exported in {exact}")
    if config.scheme not in weights:
        raise refused(who, "scheme", config.scheme, f"use one of: {', '.join(weights)}")
    if config.weights not in weights[config.scheme]:
        allowed = ", ".join(weights[config.scheme])
        raise refused(who, "weights", config.weights, f"for {config.scheme!r}, use one of: {allowed}")


def check_fields(config: QuantizeConfig, who: str, wrong: Mapping[str, tuple[bool, str]]) -> None:
    """Reject the first field whose value is not supported.

    Args:
        wrong: by field, whether its value is not supported, and the remedy.

    Raises:
        OptionError: a field's value is not supported.

    >>> check_fields(QuantizeConfig(form="qoperator"), "backend 'acme'", {"form": (True, "use 'qdq'")})
    Traceback (most recent call last):
    optimum_core.errors.OptionError: backend 'acme': field 'form' cannot be 'qoperator' here
      What to do: use 'qdq'
    """
    for field, (is_wrong, remedy) in wrong.items():
        if is_wrong:
            raise refused(who, field, getattr(config, field), remedy)


def refused(who: str, field: str, value: Any, remedy: str) -> OptionError:
    """Return the error for a field of a configuration whose value is not supported."""
    return OptionError(who, f"field '{field}' cannot be {value!r} here", remedy)


def check_calibration(request: QuantizeRequest, who: str, instead: str) -> None:
    """Reject a request whose calibration data is absent, or lacks an input of the model.

    Args:
        instead: an alternative that needs none ("scheme 'dynamic'").

    Raises:
        OptionError: the data or an input is missing.
    """
    config = request.config
    first = next(iter(request.calibration), None) if request.calibration is not None else None
    if first is None:
        needs = "static quantization" if config.scheme == "static" else repr(config.algorithm)
        why = f"{needs} needs calibration data, and there is none"
        raise OptionError(who, why, f"give some batches of typical inputs, or use {instead}")
    lacking = [spec.name for spec in request.artifact.inputs if spec.name not in first]
    if lacking:
        why = f"calibration lacks input {lacking[0]!r}; it has {', '.join(first) or 'none'}"
        raise OptionError(who, why, "give every input of the model")


def sums_widely(cpu: Cpu) -> bool:
    """Whether the processor accumulates 8-bit products in 32 bits, in one instruction."""
    return bool(cpu.features & _WIDE_SUMS)


def overflows(cpu: Cpu) -> bool:
    """Whether two 8-bit products are added in 16 bits, as on x86 without VNNI or AMX: then weights need a reduced
    range."""
    return cpu.architecture.lower() in ("x86_64", "amd64") and not sums_widely(cpu)


def needs_wide_sums(artifact: Artifact, cpu: Cpu) -> bool:
    """Whether 8-bit products of an artifact may overflow on a processor: it adds pairs of them in 16 bits, and no step
    says that the weights keep to 7. The results of such products are off by up to half.

    Of a file that another package quantized, no step tells anything.
    """
    if not overflows(cpu):
        return False
    step = next((step for step in reversed(artifact.steps) if step.hook == "quantize"), None)
    if step is None:
        return True
    return step.options["config"].get("scheme") != "weight-only" and not step.options.get("reduce_range")


def unwrapped(paths: Iterable[str], *, is_decoder: bool = False) -> dict[str, str]:
    """Return by its path in an exported graph each module's dotted name in the model: exporters hold the model as a
    child "module" of another, and a decoder as a child of such a child.

    >>> unwrapped(["module.encoder.0", "module", ""])
    {'module.encoder.0': 'encoder.0', 'module': '', '': ''}
    """
    names = {path: path for path in paths}
    for _ in range(2 if is_decoder else 1):
        if all(f"{name}.".startswith("module.") for name in names.values() if name):
            names = {path: name.removeprefix("module").removeprefix(".") for path, name in names.items()}
    return names


def matching_layers(
    patterns: Iterable[str], layers: Iterable[str], who: str, shown: Iterable[str] | None = None
) -> frozenset[str]:
    """Return those of `layers` that a configuration's `exclude` names: dotted names, each with all layers under it;
    * matches any characters.

    Args:
        layers: dotted names of the model's layers, as far as the file contains them.
        shown: names to list in the error; None: `layers`.

    Raises:
        OptionError: a pattern matches no layer; the message lists some names.

    >>> sorted(matching_layers(["encoder.*.query"], ["encoder.0.query", "encoder.0.key"], "backend 'acme'"))
    ['encoder.0.query']
    """
    known = [name for name in dict.fromkeys(layers) if name]
    chosen: set[str] = set()
    for pattern in patterns:
        expression = re.compile(re.escape(pattern).replace(r"\*", ".*") + r"(\..*)?")
        found = [name for name in known if expression.fullmatch(name)]
        if not found:
            raise _no_layer(pattern, sorted({*(known if shown is None else shown)} - {""}), who)
        chosen.update(found)
    return frozenset(chosen)


def _no_layer(pattern: str, names: Sequence[str], who: str) -> OptionError:
    if not names:
        return OptionError(who, f"'exclude' names {pattern!r}, and the file names no layers", "export the model again")
    some = ", ".join(names[:: max(1, len(names) // 8)][:8])
    return OptionError(who, f"'exclude' names {pattern!r}, which is no layer of this model", f"there are, e.g., {some}")


def quantized(
    request: QuantizeRequest,
    files: Sequence[str],
    *,
    tool: str,
    version: str,
    chosen: Mapping[str, Any],
    **further: Any,
) -> Artifact:
    """Return the artifact that was quantized into `request.output`.

    Args:
        files: the files written, the one to open first in front.
        tool: the quantizer, for the manifest.
        version: its version.
        chosen: options used beyond the configuration, for the manifest.
        further: fields of `Artifact` that changed too, such as `format`.
    """
    options = {"config": request.config.to_dict(), **chosen}
    step = Step(hook="quantize", backend=request.backend, tool=tool, version=version, options=options)
    return dataclasses.replace(
        request.artifact,
        path=request.output,
        files=tuple(files),
        precision=request.config.precision,
        steps=(*request.artifact.steps, step),
        **further,
    )
