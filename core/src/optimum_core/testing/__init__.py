"""The conformance kit: what every backend promises, as tests that its authors run.

A whole test file of a backend::

    from optimum_core.testing import BackendSuite


    class TestAcme(BackendSuite):
        backend = "acme"

What is skipped is decided by what the backend's probe offers on this machine, never by its name. The package
`optimum-core[export,testing]` brings what the kit needs to make models and references.
"""

from __future__ import annotations

from optimum_core.errors import UnavailableError

try:
    import pytest
except ImportError as error:
    raise UnavailableError(
        "optimum_core.testing", "pytest is not installed", "pip install 'optimum-core[export,testing]'"
    ) from error

# Before they are imported, so that a failing assertion of the kit shows its values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("contract", "inference", "robustness", "subjects", "suite"))
)

from optimum_core.testing.suite import BackendSuite  # noqa: E402  (after the line above, on purpose)

__all__ = ["BackendSuite"]
