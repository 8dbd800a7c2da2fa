"""The conformance kit of Optimum Core on backend `tract`."""

from optimum_core.testing import BackendSuite


class TestTract(BackendSuite):
    backend = "tract"
