"""The conformance kit: the contract of every backend, as tests that its authors run.

A complete test file of a backend::

    from optimum_core.testing import BackendSuite


    class TestAcme(BackendSuite):
        backend = "acme"

Tests are skipped according to the offers of the backend's probe on this machine, never by its name. The package
`optimum-core[export,testing]` installs the dependencies for creating models and references.
"""

from __future__ import annotations

from optimum_core.errors import UnavailableError

try:
    import pytest
except ImportError as error:
    raise UnavailableError(
        "optimum_core.testing", "pytest is not installed", "pip install 'optimum-core[export,testing]'"
    ) from error

# Before these modules are imported, so that a failing assertion of the kit shows its values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("contract", "inference", "robustness", "subjects", "suite"))
)

from optimum_core.testing.suite import BackendSuite  # noqa: E402  (after the line above, on purpose)

__all__ = ["BackendSuite"]
