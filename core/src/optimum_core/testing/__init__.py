"""The conformance kit: the contract of every backend, as tests that its authors run.

A complete test file of a backend::

    from optimum_core.testing import BackendSuite


    class TestAcme(BackendSuite):
        backend = "acme"

Tests are skipped according to the offers of the backend's probe on this machine, never by its name. The package
`optimum-core[export,testing]` installs the dependencies for creating models and references.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optimum_core.errors import UnavailableError

if TYPE_CHECKING:
    from optimum_core.testing.suite import BackendSuite

try:
    import pytest
except ImportError as error:
    raise UnavailableError(
        "optimum_core.testing", "pytest is not installed", "pip install 'optimum-core[export,testing]'"
    ) from error

# Before these modules are imported, so that a failing assertion of the kit shows its values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("contract", "inference", "linear", "offers", "robustness", "subjects", "suite"))
)

__all__ = ["BackendSuite"]


def __getattr__(name: str) -> Any:
    # The suite imports torch, which counts the cores once: `fixtures`, a module of this package, pins a worker before.
    if name != "BackendSuite":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from optimum_core.testing.suite import BackendSuite

    return BackendSuite
