"""The conformance kit on this backend. Without a GPU nothing is served here, and the kit skips what needs that."""

from __future__ import annotations

from optimum_core.testing import BackendSuite


class TestTrt(BackendSuite):
    backend = "trt"
    option = "cuda_graphs"
