"""Quantization of products one after another, each fitted to the inputs that calibration sends into it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from optimum_core.errors import ExportError
from optimum_core.types import QuantizeConfig
from optimum_inc.halting import HaltingRun
from optimum_inc.layers import scope
from optimum_inc.products import Product
from optimum_inc.rounding import Rounded, Statistics, by_awq, by_gptq, channel_factors, statistics_of


class Calibration:
    """GPTQ or AWQ on the products of a graph, in its order.

    The inputs of a product are outputs of the products before it, rounded already; 8 bits lose next to nothing, and
    count as floats. Weights have zero points unless the configuration states that they are symmetric: the kernel takes
    no longer with them.
    """

    def __init__(
        self, module: Any, batches: Iterable[Sequence[torch.Tensor]], config: QuantizeConfig, who: str
    ) -> None:
        self._run = HaltingRun(module, batches)
        self._awq, self._symmetric = config.algorithm == "awq", config.symmetric is True
        self._who = who
        self._x: Any = None
        self._seen: Statistics | None = None
        self._factors: torch.Tensor | None = None

    @property
    def batches(self) -> int:
        """The number of batches that were read."""
        return self._run.batches

    def rounded(
        self, product: Product, group: int, together: Sequence[torch.Tensor]
    ) -> tuple[Rounded, torch.Tensor | None]:
        """Return the product's rounded weights, and the factors by which to divide its inputs first.

        Args:
            together: weights of this product and of the later ones with the same input; they share their factors.

        Raises:
            ExportError: an input is not finite.
        """
        seen = self._statistics(product, group, together)
        if self._awq:
            rounded = by_awq(product.weight, self._factors, seen, group, symmetric=self._symmetric)
        else:
            rounded = by_gptq(product.weight, seen, group, symmetric=self._symmetric)
        weight = rounded.floats() if self._factors is None else rounded.floats() / self._factors
        self._run.replace(product.node, product.x, lambda x: torch.nn.functional.linear(x, weight, product.bias))
        return rounded, self._factors

    def _statistics(self, product: Product, group: int, together: Sequence[torch.Tensor]) -> Statistics:
        if self._seen is not None and self._x is product.x:
            return self._seen
        seen = statistics_of(self._run.inputs(product.node, product.x))
        if not bool(torch.isfinite(seen.gram).all()):
            why = f"in calibration, what goes into {scope(product.node)!r} is no finite number"
            raise ExportError(self._who, why, "correct the calibration data, or exclude the layer")
        self._x, self._seen = product.x, seen
        self._factors = (
            channel_factors(torch.cat(list(together)), seen, group, symmetric=self._symmetric) if self._awq else None
        )
        return seen
