"""All that acme's authors write to run the conformance kit."""

from optimum_core.testing import BackendSuite


class TestAcme(BackendSuite):
    backend = "acme"
