"""The conformance kit on this backend."""

from __future__ import annotations

from optimum_core.testing import BackendSuite


class TestOrt(BackendSuite):
    backend = "ort"
    option = "execution_mode"
