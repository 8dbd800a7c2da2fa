"""Rewriting of calls of torch that exporters and converters write wrongly, or not at all, while a model is traced.

One module for each, as a mode of torch: promotions of integers (`promotion`), values at edges (`edges`), roundings to
bfloat16 (`narrow_floats`), complex numbers (`complex_pairs`), loops over experts (`expert_loops`), lengths and views
that follow the call (`traced_lengths`, `traced_views`), and what one exporter alone gets wrong (`tracer_faults`). None
of them is active while the eager model runs as the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch

from optimum_core.models.exporting.rewriting.complex_pairs import ComplexPairs
from optimum_core.models.exporting.rewriting.edges import EdgesWrittenOut
from optimum_core.models.exporting.rewriting.expert_loops import WholeExpertLoops
from optimum_core.models.exporting.rewriting.narrow_floats import WideNarrowFloats
from optimum_core.models.exporting.rewriting.promotion import ExplicitPromotion
from optimum_core.models.exporting.rewriting.traced_views import TracedViews
from optimum_core.models.weights import state_tensors


@contextmanager
def export_ready(module: Any) -> Iterator[None]:
    """Make a model traceable while the block runs: calls of torch are rewritten, and mixtures of experts become matrix
    products, because the routing of the fast implementation cannot be traced."""
    narrow = any(tensor.dtype == torch.bfloat16 for tensor in state_tensors(module).values())
    # The last is called first, and what it calls goes through those before it: an angle of pairs, to the edges.
    modes = (
        EdgesWrittenOut(), ExplicitPromotion(), nullcontext() if narrow else WideNarrowFloats(), ComplexPairs(),
        WholeExpertLoops(), TracedViews(),
    )  # fmt: skip
    with _traceable_experts(module), ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        yield


@contextmanager
def _traceable_experts(module: Any) -> Iterator[None]:
    settable = getattr(module, "_can_set_experts_implementation", None)
    if settable is None or not settable():
        yield
        return
    before = module.get_experts_implementation()
    module.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        module.set_experts_implementation(before)
