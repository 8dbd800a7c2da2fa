"""The conformance kit on this backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from optimum_core.testing import BackendSuite


class TestInc(BackendSuite):
    backend = "inc"
    gaps: ClassVar[Mapping[str, str]] = {"test_sessions_do_not_leak": "torch never unloads a package's library"}
