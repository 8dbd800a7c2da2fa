"""Rewriting of calls of torch that exporters and converters write wrongly, or not at all, while a model is traced.

One module for each, as a mode of torch: promotions of integers (`promotion`), values at edges (`edges`), roundings to
bfloat16 (`narrow_floats`), complex numbers (`complex_pairs`), loops over experts (`expert_loops`), lengths and views
that follow the call (`traced_lengths`, `traced_views`), calls that fail (`failing_calls`), and what one exporter alone
gets wrong (`tracer_faults`). None of them is active while the eager model runs as the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from optimum_core.models.exporting.rewriting.complex_pairs import ComplexPairs
from optimum_core.models.exporting.rewriting.edges import EdgesWrittenOut
from optimum_core.models.exporting.rewriting.expert_loops import WholeExpertLoops
from optimum_core.models.exporting.rewriting.failing_calls import failing_calls_end_the_trace
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
    with _traceable_experts(module), failing_calls_end_the_trace(), ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        _leave_own_frames_out()
        yield


def _leave_own_frames_out() -> None:
    """Make errors of `torch.export` name the model's line, not the modes between. Torch keeps one set of the
    files that it passes over."""
    from torch import _tensor, overrides
    from torch._export import non_strict_utils  # torch's exporters import these as well
    from torch.fx.experimental import proxy_tensor
    from torch.fx.experimental.symbolic_shapes import uninteresting_files

    own = [str(file) for file in Path(__file__).parent.glob("*.py")]
    between = (_tensor, overrides, non_strict_utils, proxy_tensor)
    uninteresting_files().update((*own, *(str(module.__file__) for module in between)))


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
