"""The conformance kit on this backend."""

from __future__ import annotations

from optimum_core.testing import BackendSuite


class TestInc(BackendSuite):
    backend = "inc"
