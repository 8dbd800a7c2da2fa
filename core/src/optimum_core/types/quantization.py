"""The quantization configuration, in terms that mean the same to every backend."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite, nan
from typing import Any

from optimum_core.errors import OptionError

SCHEMES = ("static", "dynamic", "weight-only")
#: Number formats of weights; "fp16" and "bf16" under "weight-only" halve the files and leave the arithmetic unchanged.
WEIGHTS = ("int8", "uint8", "int4", "uint4", "nf4", "fp8", "fp16", "bf16")
ACTIVATIONS = ("int8", "uint8", "fp8")
CALIBRATIONS = ("minmax", "moving-average", "entropy", "percentile")
ALGORITHMS = ("rtn", "awq", "gptq", "hqq", "scale-estimation")
FORMS = ("qdq", "qoperator")
#: Number formats of a decoder's cache of keys and values.
CACHES = ("int8",)
OBJECTIVES = ("latency", "throughput", "size")
METRICS = ("accuracy", "f1", "matthews", "pearson", "spearman")
#: Metrics on texts without labels, for models that generate.
TEXT_METRICS = ("perplexity",)


@dataclass(frozen=True, slots=True)
class Scheme:
    """A quantization method and the number format of the weights; offers refer to it by its name.

    >>> Scheme.parse("weight-only-int4").weights
    'int4'
    """

    method: str
    weights: str

    def __str__(self) -> str:
        """Return the name, such as "static-int8"."""
        return f"{self.method}-{self.weights}"

    @property
    def is_weight_only(self) -> bool:
        """Whether the arithmetic stays in float."""
        return self.method == "weight-only"

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """Return the scheme with this name.

        Raises:
            OptionError: there is no such method or number format.
        """
        for method in SCHEMES:
            weights = name.removeprefix(f"{method}-")
            if weights != name and weights in WEIGHTS:
                return cls(method, weights)
        remedy = f"write a method ({', '.join(SCHEMES)}), a dash and a number format ({', '.join(WEIGHTS)})"
        raise OptionError("quantize", f"there is no scheme {name!r}", remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeConfig:
    """A quantization configuration. A field that is None is the backend's choice for the hardware.

    Attributes:
        scheme: "static" rounds weights and activations, with ranges from calibration; "dynamic" computes the ranges of
            activations in every call; "weight-only" rounds the weights and keeps the arithmetic.
        weights: number format of the weights.
        activations: number format of the activations; none under "weight-only".
        symmetric: whether zero of the weights is the integer 0.
        per_channel: a scale for each output channel of the weights, rather than one for all.
        group_size: weights of one channel that share a scale; -1: the whole channel. For 4 bits.
        ratio: share of the layers that get 4 bits, the others keeping 8; above 0, at most 1.
        algorithm: rounding of 4-bit weights: to the nearest, or with regard to the activations of calibration.
        calibration: method to find ranges: the extremes ("minmax"), their moving average, the range that loses the
            least information ("entropy"), or one that leaves out `percentile`'s tail.
        percentile: per cent of the values that "percentile" keeps, above 50, at most 100.
        smooth: strength of moving outliers of activations into the weights (SmoothQuant), from 0, not at all, to 1.
        form: in ONNX, pairs of QuantizeLinear and DequantizeLinear ("qdq") or integer operators ("qoperator"); of
            4-bit weights, DequantizeLinear over blocks ("qdq") or operators of a runtime's own ("qoperator").
        reduce_range: 7-bit weights, for processors whose 8-bit products overflow in pairs.
        cache: number format of the keys and values that a model that generates remembers; None: that of the arithmetic,
            or "int8" where that is faster. Backends find it in `StateSpec.cache`.
        exclude: layers that are not quantized: dotted names in the module ("classifier", "bert.encoder.layer.0"), each
            with all layers under it; * matches any characters.
        accuracy_control: the backend itself selects further layers to keep in float, by the metric, until its loss is
            at most `max_drop`. For "static", with data to evaluate on.
        objective: the quantity to optimize: "latency", "throughput" or "size". This and the next two are for
            `accelerate`; backends do not receive them.
        metric: name of the metric that `max_drop` limits.
        max_drop: allowed loss of the metric: in its own units (0.01), or as a share of the model's ("1%").

    Raises:
        OptionError: a value is not one of those allowed, or two contradict each other.
    """

    scheme: str = "static"
    weights: str = "int8"
    activations: str | None = None
    symmetric: bool | None = None
    per_channel: bool | None = None
    group_size: int | None = None
    ratio: float | None = None
    algorithm: str | None = None
    calibration: str | None = None
    percentile: float | None = None
    smooth: float | None = None
    form: str | None = None
    reduce_range: bool | None = None
    cache: str | None = None
    exclude: tuple[str, ...] = ()
    accuracy_control: bool | None = None
    objective: str | None = None
    metric: str | None = None
    max_drop: float | str | None = None

    @property
    def is_unsigned(self) -> bool:
        """Whether the number format of the weights has no sign."""
        return self.weights.startswith("u")

    def __post_init__(self) -> None:
        object.__setattr__(self, "exclude", _names(self.exclude))
        for name, words in _WORDS.items():
            value = getattr(self, name)
            if value not in words and not (value is None and name not in ("scheme", "weights")):
                raise _wrong(name, value, f"use one of {', '.join(words)}")
        for name, (fits, remedy) in _NUMBERS.items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and fits(value)):
                raise _wrong(name, value, remedy)
        if self.max_drop is not None:
            parse_drop(self.max_drop)
        for name in ("symmetric", "per_channel", "reduce_range", "accuracy_control"):
            if not isinstance(getattr(self, name), bool | None):
                raise _wrong(name, getattr(self, name), "use true or false")
        for name in self._contradictions():
            raise OptionError(
                f"quantize, {name}", f"it says nothing to scheme {self.scheme!r}, {self.weights}", "leave it out"
            )

    @property
    def name(self) -> str:
        """Scheme and number format, as offers name it: "static-int8", "weight-only-int4"."""
        return str(Scheme(self.scheme, self.precision))

    @property
    def precision(self) -> str:
        """The precision of the weights, whether they have a sign or not: "int8" for "uint8"."""
        return self.weights.removeprefix("u")

    @property
    def recipe(self) -> QuantizeConfig:
        """The configuration without objective, metric and allowed drop, as backends receive it."""
        return replace(self, objective=None, metric=None, max_drop=None)

    @classmethod
    def named(cls, name: str) -> QuantizeConfig:
        """Return the default configuration of an offer's scheme.

        >>> QuantizeConfig.named("weight-only-int4").weights
        'int4'

        Raises:
            OptionError: there is no such scheme.
        """
        scheme = Scheme.parse(name)
        return cls(scheme=scheme.method, weights=scheme.weights)

    @property
    def calibrates(self) -> bool:
        """Whether it needs data: ranges of activations, or weights rounded with regard to them."""
        return self.scheme == "static" or self.algorithm in ("awq", "gptq", "scale-estimation")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set, as plain values."""
        stated = {name: value for name, value in asdict(self).items() if value is not None}
        exclude = list(stated.pop("exclude"))
        return {**stated, **({"exclude": exclude} if exclude else {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantizeConfig:
        """Return the configuration of a mapping such as `to_dict` returns.

        Raises:
            OptionError: an unknown key, with the nearest known one, or a value that is not allowed.
        """
        known = [item.name for item in fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
                remedy = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                raise OptionError("quantize", f"unknown key {name!r}", remedy)
        return cls(**values)

    def _contradictions(self) -> list[str]:
        """Return the fields that have no meaning in combination with the others."""
        weight_only, four_bits = self.scheme == "weight-only", self.weights in ("int4", "uint4", "nf4")
        useless = {
            "activations": weight_only,
            "calibration": self.scheme != "static",
            "percentile": self.calibration != "percentile",
            "smooth": self.scheme != "static",
            "accuracy_control": self.scheme != "static",
            "group_size": not four_bits,
            "ratio": not four_bits,
            "algorithm": self.scheme == "static" or (self.scheme == "dynamic" and not four_bits),
            "reduce_range": weight_only,
            "form": weight_only and self.weights not in ("int4", "uint4"),
        }
        return [name for name, empty in useless.items() if empty and getattr(self, name) is not None]


_WORDS = {
    "scheme": SCHEMES,
    "weights": WEIGHTS,
    "activations": ACTIVATIONS,
    "calibration": CALIBRATIONS,
    "algorithm": ALGORITHMS,
    "form": FORMS,
    "cache": CACHES,
    "objective": OBJECTIVES,
    "metric": (*METRICS, *TEXT_METRICS),
}
_NUMBERS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "group_size": (lambda value: value == -1 or (isinstance(value, int) and value > 0), "use -1, or 1 or more"),
    "ratio": (lambda value: 0 < value <= 1, "use a number above 0, at most 1"),
    "percentile": (lambda value: 50 < value <= 100, "use a number above 50, at most 100"),
    "smooth": (lambda value: 0 <= value <= 1, "use a number from 0 to 1"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """The allowed loss of a metric: in its own units, or in per cent of the model's value."""

    amount: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.amount:.4g} %" if self.relative else f"{self.amount:.4g}"

    def limit(self, baseline: float) -> float:
        """Return the largest allowed drop from this value, in the metric's units."""
        return self.amount / 100 * abs(baseline) if self.relative else self.amount


def parse_drop(value: float | str) -> Drop:
    """Parse 0.01 (absolute) or "1%" (relative). A value below zero requires a gain.

    Raises:
        OptionError: it is neither.

    >>> parse_drop("1%").limit(0.5), parse_drop(0.01).limit(0.5)
    (0.005, 0.01)
    """
    relative = isinstance(value, str) and value.strip().endswith("%")
    try:
        amount = float(value.strip().removesuffix("%") if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        amount = nan
    if not isfinite(amount) or isinstance(value, bool):
        raise _wrong(
            "max_drop", value, 'use a number in the metric\'s own units, such as 0.01, or a share, such as "1%"'
        )
    return Drop(amount=amount, relative=relative)


def _names(value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) and name for name in names):
        raise _wrong("exclude", value, "use names of layers, such as ['classifier']")
    return tuple(names)


def _wrong(name: str, value: Any, remedy: str) -> OptionError:
    return OptionError(f"quantize, {name}", f"it cannot be {value!r}", remedy)
