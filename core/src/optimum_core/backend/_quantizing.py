"""Quantization: what a request cannot have is refused before any work, and what was made is written down."""

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
    """Refuse an artifact, a scheme or weights that the backend does not quantize.

    Args:
        takes: the format of artifacts that it takes.
        weights: number formats of weights by scheme ({"static": ("int8",), "weight-only": ("int8", "int4")}).
        precisions: of artifacts that it takes.
        options: it has options, and reads them itself.

    Raises:
        OptionError: one of them is another, or there are options.
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
    """Refuse the first field that is wrong.

    Args:
        wrong: by field, whether its value cannot be honoured, and what to do then.

    Raises:
        OptionError: one is.

    >>> check_fields(QuantizeConfig(form="qoperator"), "backend 'acme'", {"form": (True, "use 'qdq'")})
    Traceback (most recent call last):
    optimum_core.errors.OptionError: backend 'acme': field 'form' cannot be 'qoperator' here
      What to do: use 'qdq'
    """
    for field, (is_wrong, remedy) in wrong.items():
        if is_wrong:
            raise refused(who, field, getattr(config, field), remedy)


def refused(who: str, field: str, value: Any, remedy: str) -> OptionError:
    """Return the error of a field of a configuration that cannot be honoured."""
    return OptionError(who, f"field '{field}' cannot be {value!r} here", remedy)


def check_calibration(request: QuantizeRequest, who: str, instead: str) -> None:
    """Refuse a request whose calibration data is absent, or lacks an input of the model.

    Args:
        instead: what needs none ("scheme 'dynamic'").

    Raises:
        OptionError: it does.
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
    """Whether the processor adds up products of 8 bits in 32, in one instruction."""
    return bool(cpu.features & _WIDE_SUMS)


def overflows(cpu: Cpu) -> bool:
    """Whether two products of 8 bits are added in 16, as x86 does without instructions made for it: then weights need a
    reduced range."""
    return cpu.architecture.lower() in ("x86_64", "amd64") and not sums_widely(cpu)


def matching_layers(
    patterns: Iterable[str], layers: Iterable[str], who: str, shown: Iterable[str] | None = None
) -> frozenset[str]:
    """Return those of `layers` that a configuration's `exclude` names: dotted names, each with all that lies under it;
    * is anything.

    Args:
        layers: dotted names of the model's layers, as far as the file knows them.
        shown: names to tell where a pattern matches none; None: `layers`.

    Raises:
        OptionError: a pattern matches no layer; the message tells some names.

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
    """Return the request's artifact as it was quantized into `request.output`.

    Args:
        files: what was written, the one to open first at the head.
        tool, version: what did it, for the manifest.
        chosen: what was decided beyond the configuration, for the manifest.
        further: fields of `Artifact` that changed too, such as `format`.
    """
    options = {"config": request.config.to_dict(), **chosen}
    step = Step(hook="quantize", backend=request.backend, tool=tool, version=version, options=options)
    return dataclasses.replace(
        request.artifact,
        path=request.output,
        files=tuple(files),
        precision=request.config.weights.removeprefix("u"),
        steps=(*request.artifact.steps, step),
        **further,
    )
