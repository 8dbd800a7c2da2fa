"""Recipes of a quantized search: for each way the default configuration, then safer ones, with their expected cost.

Stated settings stay as they are; only settings that were left open are varied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optimum_core.search.spec import CandidateSpec
from optimum_core.types import QuantizeConfig

#: Shares of the layers left in float, the most sensitive layers first.
SHARES = (0.05, 0.15, 0.3, 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One configuration on one way.

    Attributes:
        spec: the way; its `config` is the whole configuration.
        left_out: share of the layers that stay in float, the most sensitive ones.
        presumed: share of the layers that the backend may leave in float by itself.
        words: the difference from the default recipe.
    """

    spec: CandidateSpec
    left_out: float = 0.0
    presumed: float = 0.0
    words: str = ""

    @property
    def name(self) -> str:
        """The way in words, and the difference from its defaults."""
        return f"{self.spec.name}{f' ({self.words})' if self.words else ''}"

    def without(self, ranked: Sequence[str]) -> CandidateSpec:
        """Return the spec with its share of the layers left out.

        Args:
            ranked: the model's layers, the most sensitive first.
        """
        config = self.spec.config
        assert config is not None
        number = min(max(1, round(self.left_out * len(ranked))), len(ranked) - 1)
        return replace(self.spec, config=replace(config, exclude=tuple(ranked[:number])))

    def expected(self, quantized: float, floating: float) -> float:
        """Return the expected time: `quantized` for the quantized layers, `floating` for the others."""
        share = max(self.left_out, self.presumed)
        return quantized * (1 - share) + max(floating, quantized) * share


#: Symmetric activations need no zero points, and outliers that are not smoothed need no multiplication.
_LEAN: dict[str, Any] = {"activations": "int8", "smooth": 0.0}
LEAN = "symmetric, not smoothed"


def lean(config: QuantizeConfig) -> QuantizeConfig | None:
    """Return the static recipe with the least to compute; None if the configuration does not leave that open."""
    stated = config.activations is not None or config.smooth is not None or config.accuracy_control
    if config.scheme != "static" or stated:
        return None
    return replace(config, **_LEAN)


#: Keys and values in fewer bits are less to read at every token.
SMALL_CACHE = "cache in 8 bits"


def with_small_cache(config: QuantizeConfig, caches: Sequence[str]) -> QuantizeConfig | None:
    """Return the recipe with a decoder's cache in the first of these number formats; None if there is none, or the
    configuration does not leave it open."""
    return replace(config, cache=caches[0]) if caches and config.cache is None else None


#: Scales are read with the weights: fewer of them are less to read at every token.
LARGE_GROUPS = "groups of 128"


def with_large_groups(config: QuantizeConfig) -> QuantizeConfig | None:
    """Return the recipe with a scale for each 128 weights; None if the configuration does not leave that open."""
    is_open = config.weights in ("int4", "uint4") and config.group_size is None and config.algorithm is None
    return replace(config, group_size=128) if is_open else None


def variants(spec: CandidateSpec, *, calibrated: bool, promised: bool) -> Iterator[Recipe]:
    """Yield the spec as it is, then safer ones.

    Args:
        spec: has a configuration.
        calibrated: there is data for methods that look at activations.
        promised: a metric decides, so that a backend can be left to search by it.
    """
    config = spec.config
    assert config is not None
    yield Recipe(spec=spec)
    for words, changes in _rounding(config, calibrated):
        yield Recipe(spec=replace(spec, config=replace(config, **changes)), words=words)
    if not config.exclude:
        for share in SHARES:
            yield Recipe(spec=spec, left_out=share, words=f"the worst {share:.0%} of the layers in float")
    if promised and config.scheme == "static" and config.accuracy_control is None:
        controlled = replace(spec, config=replace(config, accuracy_control=True))
        yield Recipe(spec=controlled, presumed=SHARES[-1], words="accuracy control")


def _rounding(config: QuantizeConfig, calibrated: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield other methods to find ranges or to round, as far as the configuration leaves them open."""
    if config.scheme == "static":
        if config.calibration is None:
            yield "moving-average", {"calibration": "moving-average"}
            if config.percentile is None:
                yield "percentile", {"calibration": "percentile"}
            yield "entropy", {"calibration": "entropy"}
        if config.smooth is None:
            yield "smooth 0.5", {"smooth": 0.5}
    if config.scheme != "static" and config.weights in ("int4", "uint4", "nf4"):
        yield from _four_bits(config, calibrated)


def _four_bits(config: QuantizeConfig, calibrated: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield other ways to round to 4 bits, as far as the configuration leaves them open."""
    if calibrated and config.algorithm is None:
        yield "awq", {"algorithm": "awq"}
        yield "scale-estimation", {"algorithm": "scale-estimation"}
        yield "gptq", {"algorithm": "gptq"}
    if config.algorithm is None and config.weights != "nf4":
        yield "hqq", {"algorithm": "hqq"}
    if config.group_size is None and config.weights != "nf4":
        yield "groups of 32", {"group_size": 32}
    if config.ratio is None:
        yield "4 bits in 80 % of the layers", {"ratio": 0.8}
        yield "4 bits in half of the layers", {"ratio": 0.5}
