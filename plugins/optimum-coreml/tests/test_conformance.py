"""The conformance kit on this backend, at the level that its probe declares."""

from __future__ import annotations

from optimum_core.testing import BackendSuite


class TestCoreMl(BackendSuite):
    backend = "coreml"
    option = "minimum_deployment_target"
